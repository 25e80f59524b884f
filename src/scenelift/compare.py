"""Several recipes on one data set, side by side: what `scenelift demo` runs.

Annotations are shared through the cache, and so is stage 1 of recipes that differ only in stage 2.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from scenelift import pipeline
from scenelift.errors import ConfigError, RunError
from scenelift.files import cannot_write, is_temp
from scenelift.progress import Advance, Progress, silent
from scenelift.recipes import load
from scenelift.report import ReportRow
from scenelift.report.data import mean_and_deviation, plus_minus
from scenelift.runfolder import RunFolder
from scenelift.runs import Run, carry_out
from scenelift.scenes import SceneSource

DEMO_RECIPES = ("maskclip", "wo_cns", "base_clip", "wo_sct", "cns")
"""The bottom of the paper's tables, and its method: differences are to the first, pictures of the last."""

DEMO_DATA = {"small": "synthetic_small", "full": "synthetic"}
"""Data recipes of the demo's sizes."""


@dataclass(frozen=True)
class Comparison:
    """What was asked.

    Attributes:
        recipes: names, at least one.
        data: data recipe.
        out: folder of all runs.
        cache: annotation cache.
        command: as the user typed it, for the report.
        overrides: ``key=value`` for every run.
        device: where networks compute.
    """

    recipes: tuple[str, ...]
    data: str
    out: Path
    cache: Path
    command: str
    overrides: tuple[str, ...] = ()
    device: str = "cpu"


def expect_own(out: Path) -> None:
    """Make sure that a folder may hold a comparison, before any work and before anything is written to it.

    Raises:
        RunError: it holds other things.
        OutputError: it is a file, or nothing can be written there.
    """
    try:
        names = [item.name for item in out.iterdir() if not is_temp(item)] if out.is_dir() else []
        if names and not any(name == "cache" or re.fullmatch(r"seed\d+", name) for name in names):
            raise RunError(
                f"--out {out}: expected a new folder or one of an earlier demo, found other files in it "
                f"({names[0]}); choose another folder"
            )
        nearest = next(place for place in (out, *out.absolute().parents) if place.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "")
        with TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise cannot_write(out, error) from None


def compare(asked: Comparison, seed: int, progress: Progress = silent) -> list[ReportRow]:
    """Run every recipe with one seed; write ``results.json`` and ``report.html`` into ``out/seed<N>``.

    Runs that are complete are not done again, others go on.
    """
    if not asked.recipes:
        raise ConfigError("compare: expected at least one recipe, found none")
    folder = RunFolder(asked.out / f"seed{seed}")
    rows: list[ReportRow] = []
    opened: dict[str, SceneSource] = {}  # each data set is read, or rendered, once for all recipes
    for recipe in asked.recipes:
        own = RunFolder(folder.path / recipe)
        config = load(recipe, (*asked.overrides, f"seed={seed}"), asked.data)
        data, shown = config.digest("data"), _named(progress, recipe)
        run = Run(recipe, seed, config, own)
        done = carry_out(run, asked.cache, asked.device, shown, opened.get(data))
        opened[data] = done.session.source
        rows.append(pipeline.row(done.session, done.evaluation))
    pipeline.report(done.session, done.annotations, done.pair, rows, folder, asked.command)
    return rows


def spread(rows_by_seed: Mapping[int, Sequence[ReportRow]]) -> str:
    """Mean ± standard deviation over seeds of each recipe, as a Markdown table."""
    lines = [f"| mIoU in %, {len(rows_by_seed)} seeds | 2D | 3D |", "|---|---|---|"]
    for runs in zip(*rows_by_seed.values(), strict=True):
        cells = [
            plus_minus(*mean_and_deviation(values))
            for values in ([row.miou_2d for row in runs], [row.miou_3d for row in runs])
        ]
        lines.append(f"| {runs[0].recipe} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _named(progress: Progress, recipe: str) -> Progress:
    """Put the recipe's name before what is going on."""

    def named(what: str, total: int, done: int) -> AbstractContextManager[Advance]:
        return progress(f"{recipe}: {what}", total, done)

    return named
