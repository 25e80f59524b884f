"""Points to voxels and back, and the packed keys that name a voxel.

A voxel is a row ``[batch, x, y, z]`` of int32 grid coordinates, negative ones included. Packed into one
int64 it becomes a key whose order is the lexicographic order of the row, and moving a voxel by
``(dx, dy, dz)`` is one integer addition: everything in `kernel_maps` rests on these two properties.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scenelift.errors import DataError

AXIS_BITS = 18
BATCH_BITS = 9
BATCH_LIMIT = 1 << BATCH_BITS
MARGIN = 2
"""Reach of the largest kernel (5³), in voxels: a neighbour's key must not run into the next axis."""
AXIS_LIMIT = (1 << (AXIS_BITS - 1)) - MARGIN
"""Coordinates lie in [-AXIS_LIMIT, AXIS_LIMIT): 6.5 km on either side of the origin at 5 cm."""

_BIAS = 1 << (AXIS_BITS - 1)
_AXIS_MASK = (1 << AXIS_BITS) - 1


def pack(coords: Tensor) -> Tensor:
    """Keys of voxels, (V,) int64.

    Args:
        coords: (V, 4) int32 ``[batch, x, y, z]``.

    Raises:
        ValueError: another shape or dtype.
        DataError: a coordinate or batch index that does not fit into a key.
    """
    if coords.ndim != 2 or coords.shape[1] != 4 or coords.dtype != torch.int32:
        raise ValueError(
            f"coords: expected int32 of shape (V, 4), found {coords.dtype} of shape {tuple(coords.shape)}"
        )
    if len(coords):
        _check_range(coords)
    batch, x, y, z = coords.long().unbind(1)
    keys = batch
    for axis in (x, y, z):
        keys = (keys << AXIS_BITS) + (axis + _BIAS)
    return keys


def unpack(keys: Tensor) -> Tensor:
    """The (V, 4) int32 coordinates of (V,) int64 keys: the inverse of `pack`."""
    z = (keys & _AXIS_MASK) - _BIAS
    y = (keys >> AXIS_BITS & _AXIS_MASK) - _BIAS
    x = (keys >> 2 * AXIS_BITS & _AXIS_MASK) - _BIAS
    return torch.stack([keys >> 3 * AXIS_BITS, x, y, z], dim=1).int()


def key_step(dx: int, dy: int, dz: int) -> int:
    """What to add to a key to move its voxel by (dx, dy, dz), each at most `MARGIN` in size."""
    return (((dx << AXIS_BITS) + dy) << AXIS_BITS) + dz


def voxelize(points_xyz: Tensor, batch_index: Tensor, voxel_size_m: float) -> tuple[Tensor, Tensor]:
    """The voxels that points fall into, each once.

    Args:
        points_xyz: (N, 3) floating point, metres; any frame.
        batch_index: (N,) integer, the cloud of each point, in [0, `BATCH_LIMIT`).
        voxel_size_m: edge of a voxel, metres. Voxel (i, j, k) covers [i, i+1) x [j, j+1) x [k, k+1) edges.

    Returns:
        ``coords`` (V, 4) int32 ``[batch, x, y, z]`` in lexicographic order, and ``inverse`` (N,) int64, the
        row of ``coords`` each point belongs to.

    Raises:
        ValueError: a voxel size that is not positive.
        DataError: points that are not finite, or too far from the origin for their voxel size.
    """
    if not voxel_size_m > 0:
        raise ValueError(f"voxel_size_m: expected a positive length in metres, found {voxel_size_m}")
    grid = torch.floor(points_xyz / voxel_size_m)
    # Before the cast to int32, which would turn NaN and far points into arbitrary voxels.
    outside = ~((grid >= -AXIS_LIMIT) & (grid < AXIS_LIMIT)).all(dim=1)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise DataError(
            f"points: expected finite coordinates within {AXIS_LIMIT * voxel_size_m:g} m of the origin "
            f"(voxels of {voxel_size_m:g} m), found {points_xyz[row].tolist()} at point {row} and "
            f"{int(outside.sum())} such points in all; check for NaN, for millimetres in place of metres, "
            "or move the origin into the cloud"
        )
    coords = torch.cat([batch_index.int()[:, None], grid.int()], dim=1)
    keys, inverse = torch.unique(pack(coords), return_inverse=True)
    return unpack(keys), inverse


def scatter_mean(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Mean of the rows of ``values`` that share an index; zero for an index that no row has. Differentiable.

    Args:
        values: (N, C) floating point.
        index: (N,) int64 in [0, size).
        size: number of rows of the result.

    Returns:
        (size, C), dtype of ``values``.
    """
    total = values.new_zeros(size, values.shape[1]).index_add(0, index, values)
    count = torch.bincount(index, minlength=size).clamp(min=1)
    return total / count[:, None].to(values.dtype)


def _check_range(coords: Tensor) -> None:
    low, high = coords.amin(0).tolist(), coords.amax(0).tolist()
    if low[0] < 0 or high[0] >= BATCH_LIMIT:
        raise DataError(
            f"coords: expected batch indices in [0, {BATCH_LIMIT}), found {low[0]} to {high[0]}; "
            "use fewer clouds in a batch, numbered from 0"
        )
    if min(low[1:]) < -AXIS_LIMIT or max(high[1:]) >= AXIS_LIMIT:
        raise DataError(
            f"coords: expected voxel coordinates in [-{AXIS_LIMIT}, {AXIS_LIMIT}), found "
            f"{low[1:]} to {high[1:]}; use larger voxels or move the origin into the cloud"
        )
