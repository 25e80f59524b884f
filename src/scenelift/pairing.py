"""Which pixel sees which point (method step 4): projection, image bounds, depth test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scenelift.config import PairingConfig
from scenelift.errors import DataError
from scenelift.occlusion import hidden
from scenelift.types import F32, I64, Frame, Pairs

BLOCK = 128
"""Points that are passed over together when none of them can be in view."""


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
    nearest pixel lies inside the image, and its depth agrees with the depth image there, or with the cloud
    itself, as ``config.depth_test`` says. Pixels without a measurement see nothing when depth is tested.

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
    cloud = _Blocks(points_world, torch.device(device))
    point_rows: list[Tensor] = []
    uv_rows: list[Tensor] = []
    counts: list[int] = []
    for frame in frames:
        index, pixel_uv = _Camera(frame, config, cloud.device).sees(cloud, max(1, chunk // BLOCK))
        point_rows.append(index.to(torch.int32).cpu())
        uv_rows.append(pixel_uv.cpu())
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


class _Blocks:
    """A cloud cut into blocks of `BLOCK` neighbours, so that a camera may pass over most of it at a glance.

    Attributes:
        device: where it lies.
        size: number of points.
        axes: x, y and z, each (B, BLOCK) float64; NaN where the last block is not full.
        index: (B, BLOCK) int64, which point of the cloud; N where the last block is not full.
        middle: (B, 3) float64 of each block's box.
        reach: (B, 3) float64, from the middle to the box's sides.
    """

    def __init__(self, points_world: F32, device: torch.device) -> None:
        self.device, self.size = device, len(points_world)
        points = torch.tensor(points_world, device=device)
        finite = torch.isfinite(points).all(1)
        order = torch.nonzero(finite).squeeze(1)
        order = order[torch.argsort(_cell_keys(points[order]), stable=True)]
        blocks = -(-len(order) // BLOCK)
        padded = torch.full((blocks * BLOCK, 3), math.nan, dtype=torch.float64, device=device)
        padded[: len(order)] = points[order].double()
        self.axes = tuple(axis.contiguous() for axis in padded.view(blocks, BLOCK, 3).unbind(2))
        filled = (0, blocks * BLOCK - len(order))
        self.index = torch.nn.functional.pad(order, filled, value=self.size).view(blocks, BLOCK)
        boxes = padded.view(blocks, BLOCK, 3)
        low, high = boxes.nan_to_num(math.inf).amin(1), boxes.nan_to_num(-math.inf).amax(1)
        self.middle, self.reach = (low + high) / 2, (high - low) / 2


def _cell_keys(points: Tensor) -> Tensor:
    """(N,) int64 keys that are near for points that are near: bits of x, y and z in turn (Morton order)."""
    if not len(points):
        return torch.zeros(0, dtype=torch.int64, device=points.device)
    low, high = points.amin(0), points.amax(0)
    cell = ((points - low) / (high - low).max().clamp(min=1e-9) * 1023).long().clamp(0, 1023)
    for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
        cell = (cell | (cell << shift)) & mask  # spreads ten bits so that two others fit between them
    return cell[:, 0] << 2 | cell[:, 1] << 1 | cell[:, 2]


def _nonzero(mask: Tensor) -> Tensor:
    """(k,) int64: where a (n,) bool mask holds. On a CPU NumPy finds it eight times as fast as PyTorch."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return torch.nonzero(mask).squeeze(1)


class _Camera:
    """One frame's camera and depth test on the device."""

    def __init__(self, frame: Frame, config: PairingConfig, device: torch.device) -> None:
        self.height, self.width = frame.height, frame.width
        self.intrinsics, self.cam_from_world = frame.intrinsics, frame.cam_from_world
        self.min_depth_m = config.min_depth_m
        self.absolute_m, self.ratio = 0.0, 0.0
        self.far_m = math.inf
        """Beyond this nothing agrees with any measured depth."""
        self.depth_m: Tensor | None = None
        self.hiding_ratio = config.depth_tolerance_ratio if config.depth_test == "cloud" else None
        if config.depth_test in ("none", "cloud"):
            return
        if frame.depth_m is None:
            raise DataError(
                f"frame {frame.key}: expected a depth image because pairing.depth_test={config.depth_test}, "
                "found none; set pairing.depth_test=none (or cloud) for data without depth"
            )
        # PyTorch shares memory with arrays that may be written to only
        own = frame.depth_m if frame.depth_m.flags.writeable else frame.depth_m.copy()
        self.depth_m = torch.from_numpy(np.ascontiguousarray(own)).to(device)
        if config.depth_test == "absolute":
            self.absolute_m = config.depth_tolerance_m
        else:
            self.ratio = config.depth_tolerance_ratio
        if self.ratio < 1:
            self.far_m = (float(self.depth_m.max()) + self.absolute_m) / (1 - self.ratio)

    def sees(self, cloud: _Blocks, blocks_at_a_time: int) -> tuple[Tensor, Tensor]:
        """Which points are seen: their indices (k,) int64, ascending, and pixels (k, 2) float32."""
        # One slot more than there are points: what fills up the last block is noted there.
        seen = torch.zeros(cloud.size + 1, dtype=torch.bool, device=cloud.device)
        u, v, z = torch.empty(3, cloud.size + 1, device=cloud.device)
        for blocks in torch.split(self._blocks_in_view(cloud), blocks_at_a_time):
            self._test(cloud, blocks, seen, u, v, z)
        index = _nonzero(seen[:-1])
        pixel_uv = torch.stack((u.index_select(0, index), v.index_select(0, index)), 1)
        if self.hiding_ratio is None:
            return index, pixel_uv
        size = (self.height, self.width)
        shown = _nonzero(~hidden(pixel_uv, z.index_select(0, index), size, self.hiding_ratio))
        return index.index_select(0, shown), pixel_uv.index_select(0, shown)

    def _blocks_in_view(self, cloud: _Blocks) -> Tensor:
        """(b,) int64: the blocks that may hold a point in view; those wholly beyond a side of it do not."""
        # Inside the image is u + ½ >= 0, that is fx x + skew y + (cx + ½) z >= 0, and so on; a margin of one
        # pixel makes up for rounding.
        (fx, skew, cx), (_, fy, cy), _ = self.intrinsics
        sides_cam = np.array(
            [
                [0.0, 0.0, 1.0],
                [fx, skew, cx + 1.5],
                [-fx, -skew, self.width + 0.5 - cx],
                [0.0, fy, cy + 1.5],
                [0.0, -fy, self.height + 0.5 - cy],
            ]
        )
        sides_world = torch.from_numpy(sides_cam @ self.cam_from_world[:3]).to(cloud.device)
        normal, offset = sides_world[:, :3], sides_world[:, 3]
        best = cloud.middle @ normal.T + cloud.reach @ normal.abs().T + offset
        nearest_m = cloud.middle @ normal[0] - cloud.reach @ normal[0].abs() + offset[0]
        return _nonzero((best >= 0).all(1) & (nearest_m <= self.far_m + 1e-6))

    def _test(
        self, cloud: _Blocks, blocks: Tensor, seen: Tensor, u_of: Tensor, v_of: Tensor, z_of: Tensor
    ) -> None:
        """Test the points of some blocks; note in (N + 1,) tensors if they are seen, where, and how far."""
        x, y, z = (axis.index_select(0, blocks).view(-1) for axis in cloud.axes)
        # As `geometry.transform`, but with an axis in a row, which is several times as fast.
        x, y, z = (x * a + y * b + z * c + d for a, b, c, d in self.cam_from_world[:3].tolist())
        (fx, skew, cx), (_, fy, cy), _ = self.intrinsics.tolist()
        x, y = x / z, y / z
        # Bounds are tested on what is stored, rounded as `Pairs.rowcol` rounds it: a pixel just inside the
        # image in float64 could be the next one in float32.
        u, v = (x * fx + y * skew + cx).float(), (y * fy + cy).float()
        column, row = torch.floor(u + 0.5), torch.floor(v + 0.5)
        sees = (column >= 0) & (column < self.width) & (row >= 0) & (row < self.height)
        sees &= z > self.min_depth_m
        if self.depth_m is not None:
            pixel = (row.long() * self.width + column.long()).clamp_(0, self.depth_m.numel() - 1)
            there_m = self.depth_m.view(-1).index_select(0, pixel).double()
            sees &= (there_m > 0) & ((there_m - z).abs_() <= self.absolute_m + self.ratio * z)
        index = cloud.index.index_select(0, blocks).view(-1)
        seen.scatter_(0, index, sees)
        u_of.scatter_(0, index, u)
        v_of.scatter_(0, index, v)
        if self.hiding_ratio is not None:
            z_of.scatter_(0, index, z.float())
