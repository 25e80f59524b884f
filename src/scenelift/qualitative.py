"""Pictures and clouds of some scenes, labelled by several predictors side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from scenelift.annotations import Annotations
from scenelift.classes import ClassTable
from scenelift.colors import distinct_colors
from scenelift.config import Config
from scenelift.evaluate import run_ids
from scenelift.export import label_colors
from scenelift.orientation import upright
from scenelift.predict import NetworkPair, Predictor, teacher_config
from scenelift.progress import Progress, silent
from scenelift.render import AZIMUTH_DEG, render_overview, viewing_azimuth_deg
from scenelift.report import Cloud, Picture
from scenelift.scenes import SceneSource
from scenelift.types import F32, U8, U16, Scene

CLOUD_PICTURE = (300, 400)
"""Height and width of rendered clouds, pixels."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """What is shown of some scenes.

    Attributes:
        images: qualitative rows of frames.
        overviews: qualitative rows of rendered clouds.
        clouds: the same clouds, to turn about.
    """

    images: list[Picture] = field(default_factory=list)
    overviews: list[Picture] = field(default_factory=list)
    clouds: list[Cloud] = field(default_factory=list)


def predictors_of(config: Config, annotations: Annotations, pair: NetworkPair | None) -> dict[str, Predictor]:
    """By caption the teacher's labels, those refined by masks, and the run's own where it is another."""
    found = {
        "teacher labels": Predictor(teacher_config(config, refined=False), None, annotations),
        "refined labels": Predictor(teacher_config(config, refined=True), None, annotations),
    }
    if pair is not None or config.predict.source == "fusion":
        found["ours"] = Predictor(config, pair, annotations)
    return found


def gallery(
    source: SceneSource,
    names: Sequence[str],
    classes: ClassTable,
    predictors: Mapping[str, Predictor],
    annotations: Annotations,
    *,
    frames: int = 4,
    scenes: int = 3,
    runs: int = 1,
    progress: Progress = silent,
) -> Gallery:
    """Qualitative rows as in the paper's Figures 3 and 4, of some frames and some clouds.

    Columns: input, masks (2D), what each predictor says, and ground truth where there is any.

    Args:
        source: the data set.
        names: its scenes to show; the first ones are taken.
        classes: names and colours.
        predictors: by caption, from left to right.
        annotations: of these scenes, for their masks.
        frames: number of 2D rows.
        scenes: number of 3D rows.
        runs: how many of the last predictors are runs, each with errors of its own to be shown.
        progress: told after each scene.
    """
    found = Gallery()
    chosen = names[: max(frames, scenes)]
    with progress("pictures", len(chosen), 0) as advance:
        for number, name in enumerate(chosen):
            with_cloud = number < scenes
            share = -(-frames // min(frames, len(names)))  # one scene alone shows several of its frames
            share = min(share, frames - len(found.images))
            _add(found, source.scene(name), source, classes, predictors, annotations, with_cloud, share, runs)
            advance(name)
    return found


def _add(
    found: Gallery,
    scene: Scene,
    source: SceneSource,
    classes: ClassTable,
    predictors: Mapping[str, Predictor],
    annotations: Annotations,
    with_cloud: bool,
    share: int,
    runs: int,
) -> None:
    """Add a scene's cloud, if wanted, and this many of its frames."""
    if with_cloud and all(p.can_label(scene) for p in predictors.values()):
        cloud, overview = _cloud(scene, source, classes, predictors, runs)
        found.clouds.append(cloud)
        found.overviews.append(overview)
    if share > 0 and len(scene.frames):
        places = np.linspace(0, len(scene.frames) - 1, share + 2)[1:-1].round().astype(int)
        chosen = sorted({int(place) for place in places})
        found.images.extend(_frame_rows(scene, chosen, source, classes, predictors, annotations))


def _frame_rows(
    scene: Scene,
    chosen: Sequence[int],
    source: SceneSource,
    classes: ClassTable,
    predictors: Mapping[str, Predictor],
    annotations: Annotations,
) -> Iterator[Picture]:
    wanted = [scene.frames.names[index] for index in chosen]
    few = replace(scene, frames=scene.frames.only(wanted))
    labels = {
        caption: {name: prediction.labels for name, prediction in predictor.frames(few)}
        for caption, predictor in predictors.items()
    }
    for index, name in zip(chosen, wanted, strict=True):
        panels = [("input", scene.frames[index].image)]
        panels.append(("masks", _mask_colors(annotations.mask_ids(scene.name, name))))
        panels += [(caption, label_colors(of[name], classes)) for caption, of in labels.items()]
        truth = None if source.truth is None else source.truth.frame(scene.name, name)
        if truth is not None and source.truth is not None:
            ids = run_ids(source.truth, classes)
            panels.append(("ground truth", label_colors(ids[truth.labels], classes)))
        yield Picture(f"{scene.name} / {name}", panels)


def _cloud(
    scene: Scene, source: SceneSource, classes: ClassTable, predictors: Mapping[str, Predictor], runs: int
) -> tuple[Cloud, Picture]:
    said = {caption: predictor.points(scene) for caption, predictor in predictors.items()}
    labels = {caption: prediction.labels for caption, prediction in said.items()}
    truth = None if source.truth is None else source.truth.scene(scene.name)
    known: U8 | None = None
    if truth is not None and source.truth is not None:
        known = run_ids(source.truth, classes)[truth.labels]
    grey = np.full(scene.points_world.shape, 160, np.uint8)
    colored = {"input": grey if scene.rgb is None else scene.rgb}
    colored |= {caption: label_colors(of, classes) for caption, of in labels.items()}
    if known is not None:
        colored["ground truth"] = label_colors(known, classes)
    points = upright(scene.points_world, scene.up_world)
    azimuth = _azimuth_deg(scene)
    panels = {
        caption: render_overview(points, colors, CLOUD_PICTURE, azimuth)
        for caption, colors in colored.items()
    }
    last = list(labels)[-1]
    sure: F32 = said[last].confidence
    varies = bool(((sure > 0) & (sure < 1)).any())  # a vote says only that there is a label
    cloud = Cloud(
        scene.name,
        points,
        scene.rgb,
        labels,
        known,
        sure if varies else None,
        azimuth,
        panels[last],
        runs,
    )
    return cloud, Picture(scene.name, list(panels.items()))


def _azimuth_deg(scene: Scene) -> float:
    poses = [scene.frames[index].cam_from_world for index in scene.frames.evenly(16)]
    return viewing_azimuth_deg(np.stack(poses), scene.up_world) if poses else AZIMUTH_DEG


def _mask_colors(ids: U16) -> U8:
    """A colour for each mask, black where none covers the pixel; neighbouring ids look different."""
    palette = np.concatenate([np.zeros((1, 3), np.uint8), distinct_colors(97)])
    return palette[np.where(ids == 0, 0, 1 + ids.astype(np.int64) * 31 % 97)]
