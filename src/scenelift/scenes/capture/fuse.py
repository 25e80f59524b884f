"""A coloured point cloud from posed depth images: the mean of what falls into each voxel."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from scenelift import geometry
from scenelift.errors import DataError
from scenelift.types import F32, F64, I64, U8, Bool, Frame

EDGE_RATIO = 0.05
"""Neighbouring pixels whose depths differ by more than this share lie on different surfaces."""

_BITS = 21
_OFFSET = 1 << (_BITS - 1)
_MERGE_ROWS = 1 << 20


def fuse_depth(frames: Iterable[Frame], voxel_m: float, max_depth_m: float) -> tuple[F32, U8]:
    """Fuse the depth images of frames into one cloud.

    Every pixel with depth up to ``max_depth_m`` is lifted into the world, unless it lies on a depth edge
    (see `inner_pixels`); a voxel's point is the mean position and mean colour of its pixels. Frames are
    taken one at a time; memory grows with the number of occupied voxels, not of frames.

    Args:
        frames: frames with depth; those without are passed over.
        voxel_m: edge of a voxel.
        max_depth_m: depth beyond this is not used.

    Returns:
        points_world: (N, 3) float32, metres, ordered by voxel (x, then y, then z).
        rgb: (N, 3) uint8.

    Raises:
        DataError: no depth at all, or a world that has more voxels along an axis than keys can tell apart.
    """
    keys, sums = np.empty(0, np.int64), np.empty((0, 7))
    pending: list[tuple[I64, F64]] = []
    for frame in frames:
        pending.append(_frame_sums(frame, voxel_m, max_depth_m))
        # Merging into the large table for every frame would cost more than all the rest.
        if sum(len(k) for k, _ in pending) > max(_MERGE_ROWS, len(keys)):
            keys, sums = _merge([(keys, sums), *pending])
            pending = []
    keys, sums = _merge([(keys, sums), *pending])
    if len(keys) == 0:
        raise DataError(
            f"expected depth up to {max_depth_m} m to build a cloud from, found none in any frame; "
            "check data.depth_scale and data.max_depth_m"
        )
    means = sums[:, :6] / sums[:, 6:]
    return means[:, :3].astype(np.float32), np.floor(means[:, 3:] + 0.5).astype(np.uint8)


def inner_pixels(depth_m: F32) -> Bool:
    """Pixels that measure a surface, not a depth edge.

    At the rim of an object sensors report depths between object and background ("flying pixels"). A pixel
    is dropped when a measured neighbour above, below, left or right differs by more than `EDGE_RATIO` of
    its depth.

    Args:
        depth_m: (H, W) float32, 0 = no measurement.

    Returns:
        (H, W) bool.
    """
    inner = depth_m > 0
    for axis in (0, 1):
        near, far = np.moveaxis(depth_m, axis, 0)[:-1], np.moveaxis(depth_m, axis, 0)[1:]
        jump = np.abs(near - far)
        both = (near > 0) & (far > 0)
        rows = np.moveaxis(inner, axis, 0)
        rows[:-1] &= ~(both & (jump > EDGE_RATIO * near))
        rows[1:] &= ~(both & (jump > EDGE_RATIO * far))
    return inner


def _frame_sums(frame: Frame, voxel_m: float, max_depth_m: float) -> tuple[I64, F64]:
    """Voxel keys of one frame, sorted, and for each the sums of x, y, z, r, g, b and 1."""
    if frame.depth_m is None:
        return np.empty(0, np.int64), np.empty((0, 7))
    keep = inner_pixels(frame.depth_m) & (frame.depth_m <= max_depth_m)
    lifted = geometry.unproject(
        torch.from_numpy(frame.depth_m),
        torch.from_numpy(frame.intrinsics),
        torch.from_numpy(frame.cam_from_world),
    )
    points_world = lifted.numpy()[keep]
    cell = np.floor(points_world / voxel_m)
    if len(cell) and np.abs(cell).max() >= _OFFSET - 1:
        far = np.abs(points_world).max()
        raise DataError(
            f"frame {frame.key}: a point lies {far:.3g} m from the origin, too far for voxels of "
            f"{voxel_m} m; move the origin into the scene or enlarge data.cloud_voxel_m"
        )
    x, y, z = cell.astype(np.int64).T + _OFFSET
    keys = (x << (2 * _BITS)) | (y << _BITS) | z
    return _sum_by_key(keys, np.column_stack((points_world, frame.image[keep], np.ones(len(keys)))))


def _merge(tables: list[tuple[I64, F64]]) -> tuple[I64, F64]:
    keys, rows = zip(*tables, strict=True)
    return _sum_by_key(np.concatenate(keys), np.concatenate(rows))


def _sum_by_key(keys: I64, rows: F64) -> tuple[I64, F64]:
    """Sum rows of equal key, in their order, so that the result is the same on every machine."""
    unique, inverse = np.unique(keys, return_inverse=True)
    sums = [np.bincount(inverse, weights=column, minlength=len(unique)) for column in rows.T]
    return unique, np.column_stack(sums)
