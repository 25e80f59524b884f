"""Predictions as files: labelled clouds, label images, overlays, a legend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scenelift.classes import ClassTable
from scenelift.export import overlay, write_label_png, write_labelled_ply, write_legend
from scenelift.files import read_json, safe_name, write_json
from scenelift.image_files import write_jpeg
from scenelift.predict import Predictor
from scenelift.progress import Progress, silent
from scenelift.scenes import SceneSource
from scenelift.types import Scene


def write_predictions(
    source: SceneSource,
    names: Sequence[str],
    classes: ClassTable,
    predictor: Predictor,
    digest: str,
    out: Path,
    progress: Progress = silent,
) -> dict[str, dict[str, float]]:
    """Write predictions of scenes: ``<scene>/points.ply``, ``labels/*.png`` and ``overlays/*.jpg``.

    Scenes that an earlier start with this digest has finished are not done again.

    Args:
        source: of the scenes.
        names: of the scenes.
        classes: names and colours.
        predictor: answers for scenes.
        digest: of all that the answers depend on.
        out: where to; replaced where an earlier start had another digest.
        progress: told of every scene.

    Returns:
        For ``2D`` and ``3D`` the share of each class among the labels that were given; without a kind that
        nothing was labelled of.
    """
    done_file = out / "done.json"
    done: dict[str, Any] = read_json(done_file) if done_file.is_file() else {}
    if done.get("digest") != digest:
        done = {"digest": digest, "scenes": {}}
    write_legend(out / "legend.svg", classes)
    left = [name for name in names if not _is_written(out / safe_name(name), done["scenes"].get(name))]
    with progress("predict", len(names), len(names) - len(left)) as advance:
        for name in left:
            scene = source.scene(name)
            done["scenes"][name] = _predict_scene(scene, predictor, classes, out / safe_name(name))
            write_json(done_file, done)
            advance(name)
    return _shares([done["scenes"][name] for name in names], classes)


def saved_shares(out: Path, classes: ClassTable) -> dict[str, dict[str, float]] | None:
    """What `write_predictions` returned when it last wrote here; ``None`` if it never did."""
    done_file = out / "done.json"
    if not done_file.is_file():
        return None
    return _shares(list(read_json(done_file)["scenes"].values()), classes)


def _is_written(folder: Path, counts: dict[str, list[int]] | None) -> bool:
    """Whether a scene's predictions still lie there; images alone have no cloud among them."""
    if counts is None:
        return False
    return (folder / "points.ply").is_file() if any(counts["3D"]) else folder.is_dir()


def _predict_scene(
    scene: Scene, predictor: Predictor, classes: ClassTable, out: Path
) -> dict[str, list[int]]:
    """Write one scene's predictions; count how often each class was given."""
    count_2d = np.zeros(256, np.int64)
    for frame, (name, prediction) in zip(scene.frames, predictor.frames(scene), strict=True):
        file = safe_name(name)
        write_label_png(out / "labels" / f"{file}.png", prediction.labels, classes)
        write_jpeg(out / "overlays" / f"{file}.jpg", overlay(frame.image, prediction.labels, classes))
        count_2d += np.bincount(prediction.labels.reshape(-1), minlength=256)
    count_3d = np.zeros(256, np.int64)
    if predictor.can_label(scene):
        points = predictor.points(scene)
        write_labelled_ply(out / "points.ply", scene.points_world, points.labels, points.confidence, classes)
        count_3d = np.bincount(points.labels, minlength=256)
    return {"2D": count_2d[: len(classes)].tolist(), "3D": count_3d[: len(classes)].tolist()}


def _shares(counts: Sequence[dict[str, list[int]]], classes: ClassTable) -> dict[str, dict[str, float]]:
    shares: dict[str, dict[str, float]] = {}
    for kind in ("2D", "3D"):
        total = [sum(item[kind][index] for item in counts) for index in range(len(classes))]
        if not (labelled := sum(total)):
            continue  # images alone, or clouds alone
        shares[kind] = {name: n / labelled for name, n in zip(classes.names, total, strict=True)}
    return shares
