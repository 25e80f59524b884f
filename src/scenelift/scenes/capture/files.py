"""What a capture folder comes down to, whichever way it is laid out, and the small files in it.

Every layout (`scenelift.scenes.capture.layouts`) gives a `Layout`: frames with their files, poses and lenses,
maybe a point cloud, and what was odd. `scenelift.scenes.capture` makes frames of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from scenelift.config import PoseConvention
from scenelift.errors import DataError
from scenelift.files import safe_name
from scenelift.scenes import Problem
from scenelift.scenes.folders import some, visible
from scenelift.types import F64

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
CLOUD_SUFFIXES = (".ply", ".pcd", ".las", ".laz")

LensModel = Literal["pinhole", "opencv", "fisheye"]


@dataclass(frozen=True)
class Lens:
    """Intrinsics of one camera as a file states them; equal ones are one camera.

    Attributes:
        fx_fy_cx_cy: pixels, pixel centres at integers. ``None``: from ``angle_x``.
        size: (H, W) of the images they are for, if that is stated.
        angle_x: field of view across the width, radians, for files that give nothing else.
        model: ``opencv`` with k1 k2 p1 p2 k3, ``fisheye`` with k1 k2 k3 k4.
        coefficients: of the model; empty for a pinhole.
        guessed: nobody wrote these down; they hold for images of ``size`` alone.
    """

    fx_fy_cx_cy: tuple[float, float, float, float] | None
    size: tuple[int, int] | None = None
    angle_x: float | None = None
    model: LensModel = "pinhole"
    coefficients: tuple[float, ...] = ()
    guessed: bool = False

    def matrix(self, shape: tuple[int, int]) -> F64:
        """(3, 3) float64 for images of (H, W) pixels."""
        if self.fx_fy_cx_cy is not None:
            fx, fy, cx, cy = self.fx_fy_cx_cy
        else:
            assert self.angle_x is not None
            height, width = shape
            fx = fy = 0.5 * width / math.tan(0.5 * self.angle_x)
            cx, cy = (width - 1) / 2, (height - 1) / 2
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Lenses:
    """What is known of the cameras of a frame: of colour, of depth, or of both.

    A path is a file of 3×3 or 4×4 numbers (`read_intrinsics`), read when it is needed. Where one of them is
    ``None``, both cameras show the same picture.
    """

    color: Lens | Path | None = None
    depth: Lens | Path | None = None


@dataclass(frozen=True, eq=False)
class FrameFiles:
    """What one frame is made of.

    Attributes:
        name: unique in the capture, safe as a file name.
        color: PNG or JPEG.
        depth: 16-bit PNG, .npy or .exr; ``None`` in captures without depth.
        pose: (4, 4) as the layout has it, or the file that holds such a matrix.
        pose_place: where the pose stands, for messages.
        lenses: the frame's cameras.
    """

    name: str
    color: Path
    depth: Path | None
    pose: F64 | Path
    pose_place: str
    lenses: Lenses


@dataclass(frozen=True, eq=False)
class Layout:
    """A capture folder.

    Attributes:
        frames: complete frames in order.
        cloud: a point cloud in the folder, if there is one.
        convention: what the poses are.
        units_per_metre: of depth stored as whole numbers.
        counts: what was left out, by name.
        problems: what is odd, or was guessed, but does not stop the work.
    """

    folder: Path
    frames: tuple[FrameFiles, ...]
    cloud: Path | None
    convention: PoseConvention = "cam_to_world"
    units_per_metre: float = 1000.0
    counts: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


# --- names --------------------------------------------------------------------------------------------


def unique_names(stems: Sequence[str], longer: Sequence[str], where: str) -> list[str]:
    """Frame names: ``stems``, or ``longer`` with ``/`` as ``-`` where stems repeat.

    Raises:
        DataError: the longer ones repeat too.
    """
    names = list(stems) if len(set(stems)) == len(stems) else [name.replace("/", "-") for name in longer]
    twice = sorted({name for name, count in _counts(names).items() if count > 1})
    if twice:
        raise DataError(
            f"expected every image once in {where}, found {some(twice)} several times; "
            "delete the repeated entries"
        )
    return [safe_name(name) for name in names]


def _counts(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def find_cloud(folder: Path) -> Path | None:
    """The point cloud of a folder: ``cloud.ply`` (.pcd, .las, .laz), else the only one there.

    Raises:
        DataError: there are several.
    """
    clouds = [path for path in visible(folder) if path.suffix.lower() in CLOUD_SUFFIXES]
    named = [path for path in clouds if path.stem == "cloud"]
    chosen = named or clouds
    if len(chosen) > 1:
        raise DataError(
            f"expected one point cloud in {folder}, found {some([path.name for path in chosen])}; "
            f"rename the one to use to cloud{chosen[0].suffix}"
        )
    return chosen[0] if chosen else None
