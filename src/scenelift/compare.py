"""Several recipes on one data set, side by side: what `scenelift demo` runs.

Annotations are shared through the cache, and so is stage 1 of recipes that differ only in stage 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scenelift import pipeline
from scenelift.config import load
from scenelift.files import write_json
from scenelift.pipeline import Session
from scenelift.predict import NetworkPair
from scenelift.progress import Progress, silent
from scenelift.report import ReportData, ReportRow, results_json, write_report
from scenelift.runfolder import RunFolder
from scenelift.summary import pictures, report_row

DEMO_RECIPES = ("maskclip", "wo_cns", "base_clip", "wo_sct", "cns")
DEMO_DATA = {"small": "synthetic_small", "full": "synthetic"}


@dataclass(frozen=True)
class Comparison:
    """What was asked.

    Attributes:
        recipes: names; differences are to the first.
        data: data recipe.
        overrides: ``key=value`` for every run.
        out: folder of all runs.
        command: as the user typed it, for the report.
        cache: annotation cache; ``None`` = below ``out``.
        device: where networks compute.
    """

    recipes: tuple[str, ...]
    data: str
    overrides: tuple[str, ...]
    out: Path
    command: str
    cache: Path | None = None
    device: str = "cpu"


def compare(asked: Comparison, seed: int, progress: Progress = silent) -> list[ReportRow]:
    """Run every recipe with one seed; write ``results.json`` and ``report.html``.

    Runs that are complete are not done again, others go on.
    """
    folder = RunFolder(asked.out / f"seed{seed}")
    rows: list[ReportRow] = []
    session, annotations, pair = None, None, None
    for recipe in asked.recipes:
        config = load(recipe, (*asked.overrides, f"seed={seed}"), asked.data)
        own = RunFolder(folder.path / recipe)
        own.claim(config)
        session = Session(config, own, asked.cache or asked.out / "cache", asked.device, _named(progress, recipe))
        annotations = pipeline.annotate(session)
        pair = pipeline.train(session, annotations)
        evaluation = pipeline.evaluate(session, annotations, pair)
        cost = pipeline.seconds(session, evaluation)
        rows.append(report_row(recipe, evaluation, session.classes, cost, own.read_log()))
    if session is not None and annotations is not None:
        write_json(folder.results, results_json(asked.recipes[-1], asked.data, seed, rows))
        _write_report(folder.report, asked, session, rows, pair, annotations)
    return rows
