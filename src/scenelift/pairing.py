"""Which pixel sees which point (method step 4): projection, image bounds, depth test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scenelift.config import PairingConfig
from scenelift.errors import DataError
from scenelift.geometry import project
from scenelift.types import F32, I64, Frame, Pairs


@dataclass(frozen=True, eq=False)
class Coverage:
    """How well frames and points see each other.

    Attributes:
        points_per_frame: (F,) int64, how many points each frame sees.
        share_seen: share of the points that at least one frame sees, in [0, 1]; 0 for an empty cloud.
    """

    points_per_frame: I64
    share_seen: float


def pair_points(
    points_world: F32,
    frames: Sequence[Frame],
    config: PairingConfig,
    device: torch.device | str = "cpu",
    chunk: int = 65_536,
) -> Pairs:
    """Find every (frame, point) in which the frame sees the point.

    A frame sees a point when the point is further than ``config.min_depth_m`` along the optical axis, its
    nearest pixel lies inside the image, and its depth agrees with the depth image there, as
    ``config.depth_test`` says. Pixels without a measurement see nothing when depth is tested.

    Frames are read one at a time and points are projected in chunks, in float64: beyond the pairs
    themselves, memory holds one frame and one chunk. The result does not depend on ``chunk``.

    Args:
        points_world: (N, 3) float32, metres. A point with NaN is never seen.
        frames: each is read once, in order.
        config: depth limits and test.
        device: where to compute.
        chunk: points projected at a time.

    Returns:
        One row per (frame, point), sorted by frame, then by point.

    Raises:
        DataError: depth is tested and a frame has no depth image.
    """
    points = torch.tensor(points_world, device=device)
    point_rows: list[Tensor] = []
    uv_rows: list[Tensor] = []
    counts: list[int] = []
    for frame in frames:
        camera = _Camera(frame, config, points.device)
        seen = [camera.sees(part) for part in torch.split(points, chunk)]
        index = torch.cat([seen_index + i * chunk for i, (seen_index, _) in enumerate(seen)])
        point_rows.append(index.to(torch.int32).cpu())
        uv_rows.append(torch.cat([uv for _, uv in seen]).cpu())
        counts.append(len(index))
    return Pairs(
        frame_index=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        point_index=torch.cat([torch.empty(0, dtype=torch.int32), *point_rows]).numpy(),
        pixel_uv=torch.cat([torch.empty(0, 2), *uv_rows]).numpy(),
    )


def coverage(pairs: Pairs, num_frames: int, num_points: int) -> Coverage:
    """Count what each frame sees, and the share of points that are seen at all."""
    seen = np.zeros(num_points, dtype=np.bool_)
    seen[pairs.point_index] = True
    return Coverage(
        points_per_frame=np.bincount(pairs.frame_index, minlength=num_frames),
        share_seen=float(seen.mean()) if num_points else 0.0,
    )


class _Camera:
    """One frame's camera and depth test on the device."""

    def __init__(self, frame: Frame, config: PairingConfig, device: torch.device) -> None:
        self.height, self.width = frame.height, frame.width
        self.intrinsics = torch.tensor(frame.intrinsics, device=device)
        self.cam_from_world = torch.tensor(frame.cam_from_world, device=device)
        self.min_depth_m = config.min_depth_m
        self.absolute_m, self.ratio = 0.0, 0.0
        self.depth_m: Tensor | None = None
        if config.depth_test == "none":
            return
        if frame.depth_m is None:
            raise DataError(
                f"frame {frame.key}: expected a depth image because pairing.depth_test={config.depth_test}, "
                "found none; set pairing.depth_test=none for data without depth"
            )
        self.depth_m = torch.tensor(frame.depth_m, device=device).double()
        if config.depth_test == "absolute":
            self.absolute_m = config.depth_tolerance_m
        else:
            self.ratio = config.depth_tolerance_ratio

    def sees(self, points_world: Tensor) -> tuple[Tensor, Tensor]:
        """Which of (n, 3) float32 points are seen: their indices (k,) int64 and pixels (k, 2) float32."""
        pixel_uv, z_m = project(points_world.double(), self.intrinsics, self.cam_from_world)
        # Bounds are tested on what is stored, rounded as `Pairs.rowcol` rounds it: a pixel just inside the
        # image in float64 could be the next one in float32.
        stored_uv = pixel_uv.float()
        column, row = torch.floor(stored_uv + 0.5).unbind(-1)
        inside = (column >= 0) & (column < self.width) & (row >= 0) & (row < self.height)
        index = torch.nonzero(inside & (z_m > self.min_depth_m)).squeeze(1)
        if self.depth_m is not None:
            measured_m = self.depth_m[row[index].long(), column[index].long()]
            tolerance_m = self.absolute_m + self.ratio * z_m[index]
            agrees = (measured_m > 0) & ((measured_m - z_m[index]).abs() <= tolerance_m)
            index = index[agrees]
        return index, stored_uv[index]
