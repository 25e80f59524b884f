"""Random views of images and clouds, as explicit transforms that labels, masks and pairs can follow [P].

An image transform maps continuous image coordinates (pixel (0, 0) covers [0, 1)²) by mirror, scale and
shift. The same numbers resample the image, pick labels and mask ids, and move the pixels of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from scenelift.config import AugmentConfig
from scenelift.types import F32, F64, U8, Bool

Ids = TypeVar("Ids", bound=np.generic)


@dataclass(frozen=True)
class ImageTransform:
    """``out = scale · mirror(in) − offset`` in continuous coordinates, cut to ``height`` × ``width``.

    Attributes:
        mirror: flip columns first.
        in_width: width of the input image, which mirroring needs.
        scale: enlargement; above 1 the output shows less of the input.
        offset_xy: top left corner of the output in the scaled input, whole pixels.
        height: of the output, pixels.
        width: of the output, pixels.
    """

    mirror: bool
    in_width: int
    scale: float
    offset_xy: tuple[int, int]
    height: int
    width: int

    def image(self, image: U8) -> U8:
        """Resample an (h, w, 3) image bilinearly to (height, width, 3), its border repeated outside."""
        (x, y) = self.offset_xy
        pixels = torch.from_numpy((image[:, ::-1] if self.mirror else image).copy()).permute(2, 0, 1)[None]
        # Scaled from the corner as far as is wanted, and cut: PyTorch scales bytes ten times as fast as an
        # affine transform of Pillow. `interpolate` is this call without a size of the output's own. Where
        # the output is as long as the input PyTorch would copy, whatever the scale: one pixel more is asked.
        size = [
            end + (end == side and self.scale != 1.0)
            for end, side in zip((y + self.height, x + self.width), image.shape[:2], strict=True)
        ]
        scaled = torch.ops.aten.upsample_bilinear2d(pixels, size, False, self.scale, self.scale)
        out: U8 = scaled[0, :, y : y + self.height, x : x + self.width].permute(1, 2, 0).numpy()
        return out

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

    def pixels(self, pixel_uv: F32) -> tuple[F32, F32]:
        """Move (P, 2) exact pixel positions (pixel centres at integers) along: (P,) float32 u and v.

        Each axis by itself, for numpy is slow along the longer side of (P, 2).
        """
        scale, half = np.float32(self.scale), np.float32(0.5)
        u, v = pixel_uv[:, 0] + half, pixel_uv[:, 1] + half
        if self.mirror:
            np.subtract(np.float32(self.in_width), u, out=u)
        for of_axis, offset in zip((u, v), self.offset_xy, strict=True):
            of_axis *= scale
            of_axis -= np.float32(offset)
            of_axis -= half
        return u, v

    def cells(self, pixel_uv: F32) -> tuple[F32, F32, Bool]:
        """The pixels that (P, 2) exact positions move into.

        Returns:
            (P,) float32 column and row, whole numbers, and (P,) bool whether that lies in the output.
        """
        u, v = (np.floor(of_axis + np.float32(0.5)) for of_axis in self.pixels(pixel_uv))
        return u, v, (u >= 0) & (u < self.width) & (v >= 0) & (v < self.height)

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
    x, y = (  # whole pixels of the scaled image, in which the output lies
        int(rng.random() * (int(side * scale + 1e-6) - out_side + 1))
        for side, out_side in ((width, out_width), (height, out_height))
    )
    return ImageTransform(mirror, width, scale, (x, y), out_height, out_width)


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
