"""Random views of images and clouds, as explicit transforms that labels, masks and pairs can follow [P].

An image transform maps continuous image coordinates (pixel (0, 0) covers [0, 1)²) by mirror, scale and
shift. The same numbers resample the image, pick labels and mask ids, and move the pixels of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from scenelift.config import AugmentConfig
from scenelift.types import F32, F64, U8

Ids = TypeVar("Ids", bound=np.generic)


@dataclass(frozen=True)
class ImageTransform:
    """``out = scale · mirror(in) − offset`` in continuous coordinates, cut to ``height`` × ``width``.

    Attributes:
        mirror: flip columns first.
        in_width: width of the input image, which mirroring needs.
        scale: enlargement; above 1 the output shows less of the input.
        offset_xy: top left corner of the output in the scaled input, pixels.
        height: of the output, pixels.
        width: of the output, pixels.
    """

    mirror: bool
    in_width: int
    scale: float
    offset_xy: tuple[float, float]
    height: int
    width: int

    def image(self, image: U8) -> U8:
        """Resample an (h, w, 3) image bilinearly to (height, width, 3)."""
        inverse = 1.0 / self.scale
        sign, shift = (-1.0, float(self.in_width)) if self.mirror else (1.0, 0.0)
        (x, y) = self.offset_xy
        matrix = (sign * inverse, 0.0, shift + sign * inverse * x, 0.0, inverse, inverse * y)
        plain = self.scale == 1.0 and (x, y) == (0.0, 0.0)
        resample = Image.Resampling.NEAREST if plain else Image.Resampling.BILINEAR
        size = (self.width, self.height)
        out = Image.fromarray(image).transform(size, Image.Transform.AFFINE, matrix, resample)
        return np.asarray(out)

    def nearest(self, ids: npt.NDArray[Ids]) -> npt.NDArray[Ids]:
        """Pick an (h, w) map of labels or ids at the output's pixel centres: never a mixture."""
        (x, y) = self.offset_xy
        columns = np.floor((np.arange(self.width) + 0.5 + x) / self.scale).astype(np.int64)
        rows = np.floor((np.arange(self.height) + 0.5 + y) / self.scale).astype(np.int64)
        columns = np.clip(columns, 0, ids.shape[1] - 1)
        if self.mirror:
            columns = ids.shape[1] - 1 - columns
        picked: npt.NDArray[Ids] = ids.take(np.clip(rows, 0, ids.shape[0] - 1), 0).take(columns, 1)
        return picked

    def pixels(self, pixel_uv: F32) -> F32:
        """Move (P, 2) exact pixel positions (pixel centres at integers) along."""
        continuous = pixel_uv + np.float32(0.5)
        if self.mirror:
            continuous[:, 0] = self.in_width - continuous[:, 0]
        moved = continuous * np.float32(self.scale) - np.array(self.offset_xy, dtype=np.float32)
        return (moved - np.float32(0.5)).astype(np.float32)

    def places(self, in_height: int) -> F32:
        """Where places of the output, (x, y) as shares of width and height, lie in an input of this height.

        Returns:
            (2, 2) float32 ``[axis, (factor, shift)]``: the place is factor · share + shift.
        """
        (x, y) = self.offset_xy
        across = np.array([self.width, x]) / (self.scale * self.in_width)
        down = np.array([self.height, y]) / (self.scale * in_height)
        if self.mirror:
            across = np.array([-across[0], 1.0 - across[1]])
        return np.stack([across, down]).astype(np.float32)


def draw_image_transform(
    size: tuple[int, int], config: AugmentConfig, rng: np.random.Generator
) -> ImageTransform:
    """Draw a transform for an image of this (height, width)."""
    height, width = size
    mirror = bool(rng.random() < config.hflip)
    scale = float(rng.uniform(*config.scale))
    out_height, out_width = config.crop or (height, width)
    scale = max(scale, out_height / height, out_width / width)  # the crop has to fit into the image
    x = rng.random() * (width * scale - out_width)
    y = rng.random() * (height * scale - out_height)
    return ImageTransform(mirror, width, scale, (float(x), float(y)), out_height, out_width)


@dataclass(frozen=True, eq=False)
class PointTransform:
    """``out = linear · in``, and ``color_gain · rgb + color_shift`` for colours in [0, 1].

    Attributes:
        linear: (3, 3) float64: rotation about the vertical axis, mirror, scale.
        color_gain: brightness factor.
        color_shift: (3,) float64.
    """

    linear: F64
    color_gain: float
    color_shift: F64

    def points(self, points_world: F32) -> F32:
        """Move (N, 3) points, about the middle of their bounding box."""
        if not len(points_world):
            return points_world
        axes = np.ascontiguousarray(points_world.T)  # numpy is slow along the longer side of (N, 3)
        middle = (axes.min(1) + axes.max(1)) / 2
        moved: F32 = (points_world - middle) @ self.linear.T.astype(np.float32)
        return moved

    def colors(self, rgb: U8) -> F32:
        """(N, 3) uint8 colours to float32, about 0 … 1."""
        unit = rgb.astype(np.float32) / np.float32(255)
        jittered: F32 = unit * np.float32(self.color_gain) + self.color_shift.astype(np.float32)
        return jittered


def draw_point_transform(config: AugmentConfig, rng: np.random.Generator) -> PointTransform:
    """Draw a transform of a cloud."""
    angle = rng.uniform(0, 2 * np.pi) if config.rotate_z else 0.0
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    signs = np.where(rng.random(2) < config.point_flip, -1.0, 1.0)
    scale = rng.uniform(*config.point_scale)
    linear = scale * rotation @ np.diag([signs[0], signs[1], 1.0])
    jitter = config.point_color_jitter
    return PointTransform(
        linear, float(1 + rng.uniform(-jitter, jitter)), rng.uniform(-jitter, jitter, 3) / 2
    )
