"""When nothing fits: how near the nearest class of a run is to its own training scenes, as quantiles.

No label is needed for it, and no list of what the classes are not: a point that is further from every listed
class than nearly all of the training scenes are from their nearest class is none of them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scenelift.config import DataConfig
from scenelift.errors import OutputError
from scenelift.files import read_note, write_sealed
from scenelift.orientation import upright
from scenelift.predict import NetworkPair
from scenelift.progress import Progress, silent
from scenelift.scenes.registry import open_source
from scenelift.types import F32

_log = logging.getLogger(__name__)

SHARES = np.linspace(0.0, 0.5, 51)
"""Shares whose quantiles are kept."""
_VERSION = 1
_MOST_SCENES = 16
_MOST_FRAMES = 8
"""Of a scene; both are chosen evenly."""
_PIXEL_STRIDE = 4
"""Of four rows one, of four columns one: neighbours say the same."""


@dataclass(frozen=True)
class Calibration:
    """Quantiles at `SHARES` of the similarity to the nearest class; ``None`` where nothing can be asked."""

    in_2d: tuple[float, ...] | None
    in_3d: tuple[float, ...] | None


def load_calibration(
    pair: NetworkPair, data: DataConfig, path: Path, progress: Progress = silent
) -> Calibration:
    """The calibration of a run, from its file or made now, and each time where the folder is read-only.

    Args:
        pair: its networks, with the classes they were trained for.
        data: what they were trained on; at most 16 scenes of it are read, and 8 frames of each.
        path: the file.
        progress: told of each scene.

    Raises:
        DataError: the data are not there.
    """
    tree = read_note(path, "the run is calibrated again")
    if (tree.get("version"), tree.get("digest")) == (_VERSION, pair.digest):
        kept = [None if tree[key] is None else tuple(tree[key]) for key in ("2d", "3d")]
        return Calibration(*kept)
    found = calibrate(pair, data, progress)
    tree = {"version": _VERSION, "digest": pair.digest, "2d": found.in_2d, "3d": found.in_3d}
    try:
        write_sealed(path, tree)
    except OutputError as error:
        _log.warning("%s", error)
    return found


def calibrate(pair: NetworkPair, data: DataConfig, progress: Progress = silent) -> Calibration:
    """Ask the networks about some of the scenes they were trained on; arguments as for `load_calibration`."""
    source = open_source(data)
    names = source.names("train")
    names = tuple(names[i] for i in _evenly(len(names), _MOST_SCENES))
    of_pixels: list[F32] = []
    of_points: list[F32] = []
    with progress("calibrate", len(names), 0) as advance:
        for name in names:
            scene = source.scene(name)
            if pair.knows_points and len(scene.points_world):
                points = upright(scene.points_world, scene.up_world)
                found = pair.point_similarities(points, scene.rgb, pair.text)
                of_points.append(found.amax(1).cpu().numpy())
            for index in _evenly(len(scene.frames), _MOST_FRAMES):
                image = scene.frames[index].image[None]
                best = pair.image_similarities(image, pair.text)[0].amax(0)
                of_pixels.append(best[::_PIXEL_STRIDE, ::_PIXEL_STRIDE].reshape(-1).cpu().numpy())
            advance(name)
    return Calibration(_quantiles(of_pixels), _quantiles(of_points))


def least_similarities(calibration: Calibration, share: float) -> tuple[float, float]:
    """What all but this share (0 to 0.5) of the training pixels and points reach: (2D, 3D)."""
    in_2d, in_3d = (
        -1.0 if kept is None else float(np.interp(share, SHARES, kept))
        for kept in (calibration.in_2d, calibration.in_3d)
    )
    return in_2d, in_3d


def _quantiles(parts: list[F32]) -> tuple[float, ...] | None:
    if not parts:
        return None
    return tuple(np.quantile(np.concatenate(parts), SHARES).astype(float).tolist())


def _evenly(count: int, most: int) -> list[int]:
    """Indices of at most ``most`` of ``count`` things, spread evenly."""
    if count <= most:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * most) for i in range(most)]
