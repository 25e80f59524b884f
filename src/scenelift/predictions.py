"""Predictions as files: labelled clouds, label images, overlays, a legend."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scenelift.classes import ClassTable
from scenelift.errors import DataError
from scenelift.export import overlay, write_label_png, write_labelled_ply, write_legend
from scenelift.files import is_temp, read_sealed, safe_name, write_sealed
from scenelift.image_files import write_jpeg
from scenelift.predict import Predictor
from scenelift.progress import Progress, silent
from scenelift.scenes import SceneSource
from scenelift.types import Scene

_VERSION = 2
"""Of ``done.json``; 1 had no checksums."""

_log = logging.getLogger(__name__)


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
    done = _read_done(done_file)
    if (done.get("version"), done.get("digest")) != (_VERSION, digest):
        done = {"version": _VERSION, "digest": digest, "scenes": {}}
    write_legend(out / "legend.svg", classes)
    left = [name for name in names if not _is_written(out / safe_name(name), done["scenes"].get(name))]
    with progress("predict", len(names), len(names) - len(left)) as advance:
        for name in left:
            scene = source.scene(name)
            done["scenes"][name] = _predict_scene(scene, predictor, classes, out / safe_name(name))
            write_sealed(done_file, done)
            advance(name)
    return _shares([done["scenes"][name] for name in names], classes)


def _read_done(path: Path) -> dict[str, Any]:
    """What an earlier start has finished; a damaged note is as good as none."""
    if not path.is_file():
        return {}
    try:
        return read_sealed(path)
    except DataError as error:
        _log.warning("%s; predictions are made again", error)
        return {}


def _is_written(folder: Path, done: dict[str, Any] | None) -> bool:
    """Whether a scene's predictions still lie there, to the last bit; to hash is fast beside predicting."""
    return done is not None and done["files"] == _digest_of(folder)


def _digest_of(folder: Path) -> str | None:
    """Hex digest of the names and contents of a scene's files; ``None`` if one cannot be read."""
    state = hashlib.blake2b(digest_size=16)
    try:
        for path in sorted((*folder.glob("*.ply"), *folder.glob("labels/*"), *folder.glob("overlays/*"))):
            if not is_temp(path):
                data = path.read_bytes()
                state.update(f"{path.relative_to(folder).as_posix()} {len(data)}\n".encode())
                state.update(data)
    except OSError:
        return None
    return state.hexdigest()


def _predict_scene(scene: Scene, predictor: Predictor, classes: ClassTable, out: Path) -> dict[str, Any]:
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
    counts = {"2D": count_2d[: len(classes)].tolist(), "3D": count_3d[: len(classes)].tolist()}
    return {**counts, "files": _digest_of(out)}


def _shares(counts: Sequence[dict[str, Any]], classes: ClassTable) -> dict[str, dict[str, float]]:
    shares: dict[str, dict[str, float]] = {}
    for kind in ("2D", "3D"):
        total = [sum(item[kind][index] for item in counts) for index in range(len(classes))]
        if not (labelled := sum(total)):
            continue  # images alone, or clouds alone
        shares[kind] = {name: n / labelled for name, n in zip(classes.names, total, strict=True)}
    return shares
