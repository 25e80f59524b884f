"""From what RGB-D files hold to the conventions of `scenelift.types`: poses, depth units, image sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from scenelift import geometry
from scenelift.config import PoseConvention
from scenelift.errors import DataError
from scenelift.scenes.resize import resize_image
from scenelift.types import F32, F64, I64, U8

RIGID_TOLERANCE = 1e-2
"""Poses further than this from rigid (`geometry.rigid_error`) are refused; 7-Scenes' reach 4e-4."""

_ASPECT_TOLERANCE = 0.02
_CENTRE_TOLERANCE = 0.2
_FIELD_OF_VIEW = (0.2, 8.0)  # width / fx: from a strong telephoto lens to 150 degrees
_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])


def cam_from_world(file_pose: F64, convention: PoseConvention) -> F64:
    """The pose in this library's convention.

    Args:
        file_pose: (4, 4) as a file holds it, rigid up to the digits it was written with.
        convention: what the file holds; ``opengl`` means a camera frame of x right, y up, z backward.

    Returns:
        (4, 4) float64, world to camera (x right, y down, z forward), with an orthonormal rotation.
    """
    pose = geometry.orthonormalize(torch.from_numpy(file_pose))
    if convention.startswith("cam_to_world"):
        pose = geometry.invert_rigid(pose)
    opencv: F64 = pose.numpy()
    return _FLIP_YZ @ opencv if convention.endswith("opengl") else opencv


def inverse_rigid(pose: F64) -> F64:
    """The inverse of a rigid transform, (4, 4) float64: `geometry.invert_rigid` for arrays."""
    inverse: F64 = geometry.invert_rigid(torch.from_numpy(pose)).numpy()
    return inverse


def file_pose(pose: F64, convention: PoseConvention) -> F64:
    """What a file of this convention would hold: the inverse of `cam_from_world`."""
    own_axes = _FLIP_YZ @ pose if convention.endswith("opengl") else pose
    if convention.startswith("world_to_cam"):
        return own_axes
    return inverse_rigid(own_axes)


def scale_intrinsics(intrinsics: F64, shape: tuple[int, int], new_shape: tuple[int, int]) -> F64:
    """Intrinsics of the same picture in another size, exact for pixel centres at integers.

    A scaled image covers the same area; pixel centre u of the old size lies at (u + ½)·s − ½ of the new.

    Args:
        intrinsics: (3, 3), pixels.
        shape: (H, W) the intrinsics are for.
        new_shape: (H, W) they shall be for.

    Returns:
        (3, 3) float64.
    """
    sy, sx = new_shape[0] / shape[0], new_shape[1] / shape[1]
    resize = np.array([[sx, 0.0, (sx - 1) / 2], [0.0, sy, (sy - 1) / 2], [0.0, 0.0, 1.0]])
    scaled: F64 = resize @ intrinsics
    return scaled


def camera_fault(intrinsics: F64, shape: tuple[int, int]) -> str | None:
    """Why intrinsics, (3, 3), cannot be those of images of (H, W) pixels; ``None`` if they can."""
    height, width = shape
    (fx, _, cx), (_, fy, cy), _ = intrinsics
    if max(abs((cx + 0.5) / width - 0.5), abs((cy + 0.5) / height - 0.5)) > _CENTRE_TOLERANCE:
        return (
            f"intrinsics put the optical axis at ({cx:.0f}, {cy:.0f}), far from the centre of images of "
            f"{width} × {height}; they would fit {2 * cx:.0f} × {2 * cy:.0f}"
        )
    if not (_FIELD_OF_VIEW[0] < width / fx < _FIELD_OF_VIEW[1] and 0.8 < fx / fy < 1.25):
        return f"intrinsics of fx = {fx:.4g}, fy = {fy:.4g} fit no usual camera of {width} × {height} pixels"
    return None


@dataclass(frozen=True, eq=False)
class RgbdCamera:
    """A colour and a depth camera at one place, and the image size that frames shall have.

    Attributes:
        color_shape: (H, W) of colour files.
        depth_shape: (H, W) of depth files.
        color_intrinsics: (3, 3) for ``color_shape``, without skew.
        depth_intrinsics: (3, 3) for ``depth_shape``, without skew.
        max_width: frames are scaled down to this width; ``None`` = never.
        size: (H, W) that frames are brought to, whatever the aspect; goes before ``max_width``.
    """

    color_shape: tuple[int, int]
    depth_shape: tuple[int, int]
    color_intrinsics: F64
    depth_intrinsics: F64
    max_width: int | None = None
    size: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of frames."""
        if self.size is not None:
            return self.size
        height, width = self.color_shape
        if self.max_width is None or width <= self.max_width:
            return self.color_shape
        return max(1, round(height * self.max_width / width)), self.max_width

    @property
    def intrinsics(self) -> F64:
        """(3, 3) float64, for frames."""
        return scale_intrinsics(self.color_intrinsics, self.color_shape, self.shape)

    def resize(self, color: U8) -> U8:
        """A colour file's image, (H, W, 3) uint8, in the size of frames; each pixel the mean of its area."""
        return resize_image(color, self.shape)

    def register(self, depth_m: F32) -> F32:
        """A depth file's image at the pixels of frames: nearest neighbour, 0 beyond the depth image."""
        rows, columns = self._depth_rows_columns
        height, width = self.depth_shape
        registered = depth_m[np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)]
        registered[(rows < 0) | (rows >= height)] = 0.0
        registered[:, (columns < 0) | (columns >= width)] = 0.0
        return registered

    @cached_property
    def _depth_rows_columns(self) -> tuple[I64, I64]:
        """For each row and each column of a frame the depth file's row and column on the same ray."""
        nearest = []
        for axis, size in ((1, self.shape[0]), (0, self.shape[1])):
            slope = (np.arange(size) - self.intrinsics[axis, 2]) / self.intrinsics[axis, axis]
            exact = slope * self.depth_intrinsics[axis, axis] + self.depth_intrinsics[axis, 2]
            nearest.append(np.floor(exact + 0.5).astype(np.int64))
        return nearest[0], nearest[1]


def complete_intrinsics(
    known: Mapping[str, F64], shapes: Mapping[str, tuple[int, int]], folder: Path
) -> dict[str, F64]:
    """Intrinsics of both cameras where perhaps only one is known: then both see the same picture.

    Args:
        known: (3, 3) by ``"color"``, ``"depth"`` or both.
        shapes: (H, W) of both cameras' files.
        folder: for messages.

    Returns:
        (3, 3) for ``"color"`` and ``"depth"``.

    Raises:
        DataError: one is unknown and the images differ in aspect, so they cannot show the same.
    """
    both = dict(known)
    for camera, other in (("color", "depth"), ("depth", "color")):
        if camera in known:
            continue
        (height, width), (other_height, other_width) = shapes[camera], shapes[other]
        if abs(width * other_height / (height * other_width) - 1) > _ASPECT_TOLERANCE:
            raise DataError(
                f"expected intrinsics of both cameras in {folder}, found only the {other} camera's, and "
                f"{camera} images of {width} × {height} cannot show the same as {other} images of "
                f"{other_width} × {other_height}; write intrinsic_{camera}.txt"
            )
        both[camera] = scale_intrinsics(known[other], shapes[other], shapes[camera])
    return both
