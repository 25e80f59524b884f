"""One run's report: its row beside the teacher's, pictures, clouds, and what was done in a few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scenelift.annotations import Annotations
from scenelift.baselines import agreement, teacher_rows
from scenelift.classes import ClassTable
from scenelift.config import Config
from scenelift.predict import NetworkPair
from scenelift.progress import Progress, silent
from scenelift.qualitative import gallery, predictors_of
from scenelift.report import ReportData, ReportRow
from scenelift.report.data import Role, duration
from scenelift.runfolder import RunFolder
from scenelift.scenes import SceneSource
from scenelift.summary import report_notes

_ORDER: tuple[Role, ...] = ("teacher", "refined", "run")
"""From the top of the table down: differences are to the first row."""


def run_page(
    source: SceneSource,
    classes: ClassTable,
    config: Config,
    annotations: Annotations,
    pair: NetworkPair | None,
    learned: Sequence[str],
    judged: Sequence[str],
    rows: Sequence[ReportRow],
    command: str,
    folder: RunFolder,
    digest: str,
    progress: Progress = silent,
    label_shares: Mapping[str, Mapping[str, float]] | None = None,
) -> ReportData:
    """Everything on the page of one run.

    Args:
        source: the data.
        classes: of the run.
        config: of the run.
        annotations: of the scenes that are shown.
        pair: trained networks, if it has any.
        learned: scenes it was trained on.
        judged: scenes it is judged by; the first of them are shown.
        rows: of the table; pictures are of the last. The teacher's own are added where they are missing.
        command: that makes the report again.
        folder: of the run: its predictions are there, and what was measured of the teacher's labels.
        digest: of what those depend on.
        progress: told of what has to be measured.
        label_shares: how often each class was given, where there is no ground truth.
    """
    has_truth, alike, shown_rows = source.truth is not None, None, list(rows)
    if has_truth:
        known = {row.role for row in rows}
        teacher = teacher_rows(
            source, judged, classes, config, annotations, known, folder.teacher, digest, progress
        )
        shown_rows = sorted([*teacher, *rows], key=lambda row: _ORDER.index(row.role))
    elif label_shares is not None and pair is not None:
        alike, shares = agreement(judged, classes, config, annotations, folder.predictions)
        label_shares = {**label_shares, **shares}
    predictors = predictors_of(config, annotations, pair)
    shown = gallery(source, judged, classes, predictors, annotations, progress=progress)
    data = config.data.source
    return ReportData(
        title=f"scenelift: {config.recipe} on {data}",
        dataset=f"{data}; scenes: {len(learned)} to learn from, {len(judged)} to judge by",
        command=command,
        classes=classes,
        rows=shown_rows,
        pictures_2d=shown.images,
        pictures_3d=shown.overviews,
        notes=report_notes(config, has_truth, set(judged) <= set(learned)),
        config_yaml=config.to_yaml(),
        has_truth=has_truth,
        label_shares=label_shares,
        facts=facts(classes, config, annotations, learned, judged, rows),
        clouds=shown.clouds,
        agreement=alike,
    )


def facts(
    classes: ClassTable,
    config: Config,
    annotations: Annotations,
    learned: Sequence[str],
    judged: Sequence[str],
    rows: Sequence[ReportRow],
) -> list[tuple[str, str]]:
    """Names and values: what was run, on how much, for how long."""

    def amount(names: Sequence[str]) -> str:
        frames = sum(len(annotations.scenes[name].frames) for name in names if name in annotations.scenes)
        return f"{len(names):,} scenes, {frames:,} frames"

    teachers = f"{config.teachers.labels.kind}, {config.teachers.masks.kind}"
    found = [
        ("Recipe", config.recipe),
        ("Seed", str(config.seed)),
        ("Classes", f"{len(classes)}"),
        ("Learned from", amount(learned)),
        ("Judged by", amount(judged)),
        ("Teachers (labels, masks)", teachers),
    ]
    if rows and (log := rows[-1].log):
        found.append(("Training", f"{len(log):,} steps, {duration(rows[-1].seconds)}"))
    return found
