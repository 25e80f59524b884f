"""Images of cameras with lens distortion as an ideal pinhole camera of the same intrinsics sees them.

Models and order of coefficients are OpenCV's:

- ``opencv``: k1 k2 p1 p2 [k3 [k4 k5 k6]], radial (rational) and tangential,
  https://docs.opencv.org/4.x/d9/d0c/group__calib3d.html;
- ``fisheye``: k1 k2 k3 k4, polynomial in the angle to the optical axis (Kannala and Brandt),
  https://docs.opencv.org/4.x/db/d58/group__calib3d__fisheye.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from scenelift.errors import DataError
from scenelift.types import F32, F64, I64, U8, Bool

DistortionModel = Literal["none", "opencv", "fisheye"]

COEFFICIENTS: dict[str, tuple[int, ...]] = {"none": (0,), "opencv": (4, 5, 8), "fisheye": (4,)}
"""How many coefficients each model may have."""

_FOLD_STEPS = 2048

Label = TypeVar("Label", bound=np.generic)


class Undistorter:
    """Takes images of one camera to the pinhole camera of the same intrinsics and size.

    The map from pixels to pixels is computed when the first image comes, and kept: 8 bytes a pixel. May be
    used by several threads at once, and pickled.

    Args:
        intrinsics: (3, 3), pixels; of the distorted camera and of the ideal one.
        shape: (H, W) of the images.
        model: of `COEFFICIENTS`.
        coefficients: as many as the model has.

    Raises:
        DataError: no such model, another number of coefficients, or NaN or infinity among them.
    """

    def __init__(
        self, intrinsics: F64, shape: tuple[int, int], model: str, coefficients: Sequence[float]
    ) -> None:
        counts = COEFFICIENTS.get(model, ())
        if len(coefficients) not in counts or not np.isfinite(coefficients).all():
            known = ", ".join(f"{name} with {' or '.join(map(str, n))}" for name, n in COEFFICIENTS.items())
            raise DataError(
                f"expected a distortion model of finite coefficients ({known}), found {model!r} with "
                f"{list(coefficients)}; leave out what is not of the model, or undistort the images before"
            )
        self.intrinsics = np.asarray(intrinsics, np.float64)
        self.shape = shape
        self.model = model
        self.coefficients = tuple(float(value) for value in coefficients)

    def __getstate__(self) -> dict[str, Any]:
        """What it was made of, without the map: workers compute their own."""
        kept = ("intrinsics", "shape", "model", "coefficients")
        return {name: value for name, value in vars(self).items() if name in kept}

    def image(self, image: U8) -> U8:
        """An (H, W, 3) uint8 image without distortion: bilinear; black where the lens shows nothing."""
        self._check(image)
        if self._is_pinhole:
            return image
        height, width = self.shape
        scale = np.array([max(width - 1, 1), max(height - 1, 1)], np.float32)
        grid = torch.from_numpy(self._source_uv * (2 / scale) - 1)
        planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32))
        sampled = F.grid_sample(
            planes[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True
        )[0]
        result = sampled.add_(0.5).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        result[~self.valid] = 0
        return result

    def nearest(self, array: npt.NDArray[Label], outside: int = 255) -> npt.NDArray[Label]:
        """Labels, ids or depth, (H, W), without distortion: of each pixel the value it was seen at.

        Args:
            array: (H, W) of any type.
            outside: for pixels at which the lens shows nothing; 0 for depth and instance ids.
        """
        self._check(array)
        if self._is_pinhole:
            return array
        height, width = self.shape
        column, row = np.floor(self._source_uv + np.float32(0.5)).astype(np.int64).transpose(2, 0, 1)
        rows: I64 = np.clip(row, 0, height - 1)
        result: npt.NDArray[Label] = array[rows, np.clip(column, 0, width - 1)]
        result[~self.valid] = outside
        return result

    @cached_property
    def valid(self) -> Bool:
        """(H, W), which pixels of the ideal camera the lens shows."""
        height, width = self.shape
        u, v = self._source_uv[..., 0], self._source_uv[..., 1]
        inside: Bool = (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)
        return inside

    @property
    def _is_pinhole(self) -> bool:
        """A fisheye whose coefficients are all 0 is none: it is equidistant."""
        return self.model != "fisheye" and not any(self.coefficients)

    def _check(self, array: npt.NDArray[Any]) -> None:
        if array.shape[:2] != self.shape:
            height, width = self.shape
            raise DataError(
                f"expected an image of {width} × {height} pixels as its calibration says, found "
                f"{array.shape[1]} × {array.shape[0]}; calibrate for this size"
            )

    @cached_property
    def _source_uv(self) -> F32:
        """(H, W, 2): where in the distorted image each pixel of the ideal one is; far outside for none."""
        height, width = self.shape
        row, column = np.mgrid[:height, :width].astype(np.float64)
        rays = np.stack([column, row, np.ones(self.shape)], axis=-1) @ np.linalg.inv(self.intrinsics).T
        x, y = rays[..., 0], rays[..., 1]
        radius = np.hypot(x, y)
        with np.errstate(all="ignore"):
            if self.model == "fisheye":
                factor = self._fisheye(radius)
                seen_x, seen_y = x * factor, y * factor
            else:
                factor = self._rational(radius)
                p1, p2 = self.coefficients[2:4]
                seen_x = x * factor + 2 * p1 * x * y + p2 * (radius**2 + 2 * x**2)
                seen_y = y * factor + p1 * (radius**2 + 2 * y**2) + 2 * p2 * x * y
            uv = np.stack([seen_x, seen_y, np.ones(self.shape)], axis=-1) @ self.intrinsics[:2].T
        uv[radius > self._fold(float(radius.max()))] = -1e6
        uv = np.nan_to_num(uv, nan=-1e6, posinf=-1e6, neginf=-1e6)
        return np.clip(uv, -1e6, 1e6).astype(np.float32)

    def _fisheye(self, radius: F64) -> F64:
        angle = np.arctan(radius)
        k1, k2, k3, k4 = self.coefficients
        square = angle**2
        bent = angle * (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))
        factor: F64 = np.where(radius > 1e-8, bent / np.maximum(radius, 1e-8), 1.0)
        return factor

    def _rational(self, radius: F64) -> F64:
        k1, k2, _, _, k3, k4, k5, k6 = (*self.coefficients, 0.0, 0.0, 0.0, 0.0)[:8]
        square = radius**2
        above = 1 + square * (k1 + square * (k2 + square * k3))
        factor: F64 = above / (1 + square * (k4 + square * (k5 + square * k6)))
        return factor

    def _fold(self, reach: float) -> float:
        """The radius from which on the polynomial turns back; further out it would show places twice."""
        radius = np.linspace(0, reach, _FOLD_STEPS)
        with np.errstate(all="ignore"):
            bent = radius * (self._fisheye(radius) if self.model == "fisheye" else self._rational(radius))
            turns = np.flatnonzero(~(np.diff(bent) > 0))
        return float(radius[turns[0]]) if len(turns) else np.inf
