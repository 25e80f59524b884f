"""Which points of a sparse cloud are hidden from a camera by other points of it, without any depth image.

A LiDAR sees over what stands in a camera's way: it sits higher, so points behind a car project onto the car
and would take its label. The surface before them is known at some pixels only, so the test is: a point is
hidden when the cloud has nearer points on both sides of it, above and below or left and right, in the next
few cells of a coarse grid. Ground and walls that are in plain view have nearer points on one side at most.

On a generated street with six cameras 62 % of the pairs with a wrong label go, and 1 % of the right ones
(``pytest tests/test_occlusion.py -s``).
"""

from __future__ import annotations

import torch
from torch import Tensor

CELLS_ACROSS = 60
"""Cells over the width of an image: about the gap between the rings of a LiDAR of 32 beams."""

REACH = 2
"""How many cells away nearer points are looked for."""


def hidden(pixel_uv: Tensor, z_m: Tensor, size: tuple[int, int], ratio: float) -> Tensor:
    """Which points others hide.

    Args:
        pixel_uv: (N, 2), pixels inside the image, (column, row).
        z_m: (N,), metres along the optical axis, above 0.
        size: (H, W) of the image, pixels.
        ratio: a point is behind another when it is farther by more than this share of the other's depth.

    Returns:
        (N,) bool.
    """
    height, width = size
    cell = max(1, round(width / CELLS_ACROSS))
    rows, columns = -(-height // cell), -(-width // cell)
    at = ((pixel_uv + 0.5) / cell).floor().long()
    index = at[:, 1].clamp(0, rows - 1) * columns + at[:, 0].clamp(0, columns - 1)
    nearest = torch.full((rows * columns,), torch.inf, dtype=z_m.dtype, device=z_m.device)
    grid = nearest.scatter_reduce(0, index, z_m, "amin").view(rows, columns)
    between = torch.minimum(
        torch.maximum(_before(grid, 0), _before(grid.flip(0), 0).flip(0)),
        torch.maximum(_before(grid, 1), _before(grid.flip(1), 1).flip(1)),
    )
    return between.view(-1)[index] * (1 + ratio) < z_m


def _before(grid: Tensor, axis: int) -> Tensor:
    """Of each cell the least value of the `REACH` cells before it along an axis; infinite where none is."""
    least = torch.full_like(grid, torch.inf)
    for step in range(1, min(REACH, grid.shape[axis] - 1) + 1):
        ahead = least.narrow(axis, step, grid.shape[axis] - step)
        ahead.copy_(torch.minimum(ahead, grid.narrow(axis, 0, grid.shape[axis] - step)))
    return least
