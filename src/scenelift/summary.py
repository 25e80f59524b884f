"""From a finished run to the figures and sentences of its report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scenelift.classes import ClassTable
from scenelift.collapse import collapses
from scenelift.config import Config
from scenelift.evaluate import Evaluation
from scenelift.metrics import Confusion
from scenelift.report import ReportRow
from scenelift.report.data import Role


def report_row(
    recipe: str,
    evaluation: Evaluation | None,
    classes: ClassTable,
    seconds: float,
    log: Sequence[dict[str, Any]],
    role: Role = "run",
) -> ReportRow:
    """One line of the table; without an evaluation, one of blanks."""
    warnings = [collapse.words(classes.names) for collapse in collapses(log)]
    if evaluation is None:
        return ReportRow(recipe, None, None, None, None, {}, {}, seconds, None, None, log, warnings, role)
    in_2d, in_3d = evaluation.confusion_2d, evaluation.confusion_3d
    scores_2d, scores_3d = in_2d.compute(), in_3d.compute()
    return ReportRow(
        recipe,
        scores_2d.miou,
        scores_3d.miou,
        scores_2d.coverage,
        scores_3d.coverage,
        _per_class(in_2d, classes),
        _per_class(in_3d, classes),
        seconds,
        in_2d.counts,
        in_3d.counts,
        log,
        warnings,
        role,
    )


def role_of(config: Config) -> Role:
    """What a run stands for beside others: itself, or the teacher's labels, raw or refined."""
    if config.predict.source != "teacher" or config.predict.post_refine:
        return "run"
    return "refined" if config.refine.clip else "teacher"


def run_row(
    config: Config, evaluation: Evaluation | None, classes: ClassTable, log: Sequence[dict[str, Any]]
) -> ReportRow:
    """The line of a run. Its time is what was recorded: all training steps, those of a shared stage 1
    included, and the evaluation; a run that was stopped or found finished costs the same.
    """
    seconds = sum(record["seconds"] for record in log) + (0.0 if evaluation is None else evaluation.seconds)
    return report_row(config.recipe, evaluation, classes, seconds, log, role_of(config))


def _per_class(confusion: Confusion, classes: ClassTable) -> dict[str, float | None]:
    iou = confusion.compute().iou
    return {
        name: None if np.isnan(value) else float(value)
        for name, value in zip(classes.names, iou, strict=True)
    }


def report_notes(config: Config, has_truth: bool, nothing_apart: bool) -> list[str]:
    """What a reader of the figures has to know."""
    notes = ["No label was used in training; the networks shown are those of the last step."]
    if config.teachers.labels.kind == "simulated":
        notes.append(
            "The teachers are simulated from ground truth with the error rates of CLIP and SAM: "
            "figures compare recipes with each other, not with published ones."
        )
    if config.teachers.labels.kind == "embedded":
        notes.append("The embedded teacher is a very weak one: it shows that the path works, not how well.")
    if has_truth and nothing_apart:
        notes.append("No scene was set apart: figures are of the scenes that were learned from.")
    if not has_truth:
        notes.append("There is no ground truth here: nothing on this page is measured against one.")
    return notes
