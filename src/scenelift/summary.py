"""From a finished run to what the report shows: a row of figures and rows of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scenelift.annotations import Annotations
from scenelift.classes import ClassTable
from scenelift.collapse import collapses
from scenelift.colors import distinct_colors
from scenelift.config import Config, PredictConfig
from scenelift.evaluate import Evaluation, run_ids
from scenelift.export import label_colors
from scenelift.metrics import Confusion
from scenelift.orientation import upright
from scenelift.predict import NetworkPair, Predictor
from scenelift.render import AZIMUTH_DEG, render_overview, viewing_azimuth_deg
from scenelift.report import Picture, ReportRow
from scenelift.scenes import SceneSource
from scenelift.types import U8, U16, Scene

CLOUD_PICTURE = (300, 400)
"""Height and width of rendered clouds, pixels."""


def report_row(
    recipe: str,
    evaluation: Evaluation | None,
    classes: ClassTable,
    seconds: float,
    log: Sequence[dict[str, Any]],
) -> ReportRow:
    """One line of the table; without an evaluation, one of blanks."""
    warnings = [collapse.words(classes.names) for collapse in collapses(log)]
    if evaluation is None:
        return ReportRow(recipe, None, None, None, None, {}, {}, seconds, None, None, log, warnings)
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
    )


def _per_class(confusion: Confusion, classes: ClassTable) -> dict[str, float | None]:
    iou = confusion.compute().iou
    return {
        name: None if np.isnan(value) else float(value)
        for name, value in zip(classes.names, iou, strict=True)
    }


def pictures(
    source: SceneSource,
    names: Sequence[str],
    classes: ClassTable,
    config: Config,
    annotations: Annotations,
    pair: NetworkPair | None,
    *,
    frames: int = 4,
    scenes: int = 3,
) -> tuple[list[Picture], list[Picture]]:
    """Qualitative rows as in the paper's Figures 3 and 4, of some frames and some clouds.

    Columns: input, masks (2D), the teacher's labels, those refined and nothing trained ("without CNS"),
    the run's own prediction, and ground truth where there is any.

    Args:
        source: the data set.
        names: its scenes to show; the first ones are taken.
        classes: names and colours.
        config: of the run.
        annotations: of these scenes.
        pair: its trained networks, ``None`` for a recipe without.
        frames: number of 2D rows.
        scenes: number of 3D rows.
    """
    predictors = {
        "teacher labels": Predictor(_teacher_only(config, refined=False), None, annotations),
        "without CNS": Predictor(_teacher_only(config, refined=True), None, annotations),
    }
    if pair is not None or config.predict.source == "fusion":
        predictors["ours"] = Predictor(config, pair, annotations)
    in_2d: list[Picture] = []
    in_3d: list[Picture] = []
    for number, name in enumerate(names[: max(frames, scenes)]):
        scene = source.scene(name)
        if (
            number < scenes
            and len(scene.points_world)
            and all(p.can_label(scene) for p in predictors.values())
        ):
            in_3d.append(_cloud_row(scene, source, classes, predictors))
        share = -(-frames // min(frames, len(names)))  # one scene alone shows several of its frames
        if len(in_2d) < frames and len(scene.frames):
            places = np.linspace(0, len(scene.frames) - 1, share + 2)[1:-1].round().astype(int)
            chosen = sorted({int(place) for place in places})
            in_2d += _frame_rows(scene, chosen, source, classes, predictors, annotations)
    return in_2d[:frames], in_3d


def _teacher_only(config: Config, refined: bool) -> Config:
    return config.model_copy(
        update={
            "predict": PredictConfig(source="teacher"),
            "refine": config.refine.model_copy(update={"clip": refined}),
        }
    )


def _frame_rows(
    scene: Scene,
    chosen: Sequence[int],
    source: SceneSource,
    classes: ClassTable,
    predictors: dict[str, Predictor],
    annotations: Annotations,
) -> list[Picture]:
    wanted = [scene.frames.names[index] for index in chosen]
    few = replace(scene, frames=scene.frames.only(wanted))
    labels = {
        caption: {name: prediction.labels for name, prediction in predictor.frames(few)}
        for caption, predictor in predictors.items()
    }
    rows = []
    for index, name in zip(chosen, wanted, strict=True):
        panels = [("input", scene.frames[index].image)]
        panels.append(("masks", _mask_colors(annotations.mask_ids(scene.name, name))))
        panels += [(caption, label_colors(of[name], classes)) for caption, of in labels.items()]
        truth = None if source.truth is None else source.truth.frame(scene.name, name)
        if truth is not None and source.truth is not None:
            ids = run_ids(source.truth, classes)
            panels.append(("ground truth", label_colors(ids[truth.labels], classes)))
        rows.append(Picture(f"{scene.name} / {name}", panels))
    return rows


def _cloud_row(
    scene: Scene, source: SceneSource, classes: ClassTable, predictors: dict[str, Predictor]
) -> Picture:
    rgb = scene.rgb if scene.rgb is not None else np.full(scene.points_world.shape, 160, np.uint8)
    colored = [("input", rgb)]
    colored += [
        (caption, label_colors(predictor.points(scene).labels, classes))
        for caption, predictor in predictors.items()
    ]
    truth = None if source.truth is None else source.truth.scene(scene.name)
    if truth is not None and source.truth is not None:
        colored.append(("ground truth", label_colors(run_ids(source.truth, classes)[truth.labels], classes)))
    points = upright(scene.points_world, scene.up_world)
    some = np.linspace(0, len(scene.frames) - 1, min(16, len(scene.frames))).round().astype(int)
    poses = [scene.frames[int(index)].cam_from_world for index in some]
    azimuth = viewing_azimuth_deg(np.stack(poses), scene.up_world) if poses else AZIMUTH_DEG
    return Picture(
        scene.name,
        [(caption, render_overview(points, colors, CLOUD_PICTURE, azimuth)) for caption, colors in colored],
    )


def _mask_colors(ids: U16) -> U8:
    """A colour for each mask, black where none covers the pixel; neighbouring ids look different."""
    palette = np.concatenate([np.zeros((1, 3), np.uint8), distinct_colors(97)])
    return palette[np.where(ids == 0, 0, 1 + ids.astype(np.int64) * 31 % 97)]


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
