"""Several recipes on one data set, side by side: what `scenelift demo` runs.

Annotations are shared through the cache, and so is stage 1 of recipes that differ only in stage 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from scenelift import pipeline
from scenelift.errors import ConfigError
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
