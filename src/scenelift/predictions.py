"""Predictions as files, in any of the formats of `scenelift.formats`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scenelift.classes import ClassTable
from scenelift.export import write_legend
from scenelift.files import is_temp, read_note, write_sealed
from scenelift.formats import DEFAULT_FORMATS, SCENE_FORMATS, Format, Target
from scenelift.predict import Predictor
from scenelift.progress import Progress, silent
from scenelift.scenes import SceneSource
from scenelift.types import Scene

_REMADE = "predictions are made again"


def write_predictions(
    source: SceneSource,
    names: Sequence[str],
    classes: ClassTable,
    predictor: Predictor,
    digest: str,
    out: Path,
    progress: Progress = silent,
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> dict[str, dict[str, float]]:
    """Write predictions of scenes, each scene computed once for all formats, and a legend.

    What an earlier start with this digest has finished, and is still whole, is not done again.

    Args:
        source: of the scenes.
        names: of the scenes.
        classes: names and colours.
        predictor: answers for scenes.
        digest: of all that the answers depend on.
        out: where to; replaced where an earlier start had another digest.
        progress: told of every scene.
        formats: keys of `SCENE_FORMATS`.

    Returns:
        For ``2D`` and ``3D`` the share of each class among the labels that were given; without a kind that
        nothing was labelled of.
    """
    target = Target(out, source, tuple(names), classes, predictor)
    writers = {name: SCENE_FORMATS[name](target) for name in formats}
    done_file = out / "done.json"
    done = _begin(done_file, digest, formats)
    write_legend(out / "legend.svg", classes)
    left = {name: _left(name, writers, done["formats"], out) for name in names}
    todo = [name for name in names if left[name]]
    with progress("predict", len(names), len(names) - len(todo)) as advance:
        for name in todo:
            chosen = [writers[key] for key in left[name]]
            counts = _write_scene(source.scene(name), predictor, chosen, classes)
            done["scenes"][name] = {**done["scenes"].get(name, {}), **counts}
            for key in left[name]:
                done["formats"][key][name] = _digest_of(writers[key].places(name), out)
            write_sealed(done_file, done)
            advance(name)
    for writer in writers.values():
        writer.finish()
    return _shares([done["scenes"][name] for name in names], classes)


def _begin(done_file: Path, digest: str, formats: Sequence[str]) -> dict[str, Any]:
    """What is done: counts by scene, and by format and scene the digest of what was written."""
    done = read_note(done_file, _REMADE)
    if done.get("digest") != digest or "formats" not in done:
        done = {"digest": digest, "scenes": {}, "formats": {}}
    for key in formats:
        done["formats"].setdefault(key, {})
    return done


def saved_shares(out: Path, classes: ClassTable) -> dict[str, dict[str, float]] | None:
    """What `write_predictions` returned when it last wrote here; ``None`` if it never did."""
    done = read_note(out / "done.json", _REMADE)
    return _shares(list(done["scenes"].values()), classes) if done.get("scenes") else None


def _left(
    name: str, writers: Mapping[str, Format], done: Mapping[str, Mapping[str, str | None]], out: Path
) -> list[str]:
    """Formats that a scene is not written in, or whose files are not what they were, to the last bit."""
    return [
        key
        for key, writer in writers.items()
        if name not in done[key] or done[key][name] != _digest_of(writer.places(name), out)
    ]


def _digest_of(places: Sequence[Path], out: Path) -> str | None:
    """Hex digest of names and contents of files, those in folders too; ``None`` if one cannot be read.

    Hashing is fast beside predicting.
    """
    state = hashlib.blake2b(digest_size=16)
    try:
        for place in places:
            for path in sorted(place.iterdir()) if place.is_dir() else [place]:
                if path.is_file() and not is_temp(path):
                    data = path.read_bytes()
                    state.update(f"{path.relative_to(out).as_posix()} {len(data)}\n".encode())
                    state.update(data)
    except OSError:
        return None
    return state.hexdigest()


def _write_scene(
    scene: Scene, predictor: Predictor, writers: Sequence[Format], classes: ClassTable
) -> dict[str, list[int]]:
    """Write one scene; count how often each class was given, of what was asked for."""
    counts: dict[str, list[int]] = {}
    if of_frames := [writer for writer in writers if writer.wants_frames]:
        total = np.zeros(256, np.int64)
        for frame, (_, prediction) in zip(scene.frames, predictor.frames(scene), strict=True):
            for writer in of_frames:
                writer.frame(scene, frame, prediction)
            total += np.bincount(prediction.labels.reshape(-1), minlength=256)
        counts["2D"] = total[: len(classes)].tolist()
    if of_points := [writer for writer in writers if writer.wants_points]:
        total = np.zeros(256, np.int64)
        if predictor.can_label(scene):
            points = predictor.points(scene)
            for writer in of_points:
                writer.points(scene, points)
            total = np.bincount(points.labels, minlength=256)
        counts["3D"] = total[: len(classes)].tolist()
    for writer in writers:
        writer.end(scene)
    return counts


def _shares(counts: Sequence[Mapping[str, list[int]]], classes: ClassTable) -> dict[str, dict[str, float]]:
    shares: dict[str, dict[str, float]] = {}
    for kind in ("2D", "3D"):
        told = [item[kind] for item in counts if kind in item]
        total = [sum(item[index] for item in told) for index in range(len(classes))]
        if not (labelled := sum(total)):
            continue  # images alone, or clouds alone
        shares[kind] = {name: n / labelled for name, n in zip(classes.names, total, strict=True)}
    return shares
