"""Points, crops, boxes, small regions and overlaps of automatic mask generation: pure functions.

They follow Meta's ``segment_anything.utils.amg`` (https://github.com/facebookresearch/segment-anything) in
what they compute; boxes are (x0, y0, x1, y1) in pixels, and those of masks hold their last row and column.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from scenelift.errors import DataError
from scenelift.types import F64, I64, Bool

_MASK_CHUNK = 32
"""Masks flattened at a time."""

NEAR_PX = 20.0
"""A box this close to an edge of its crop, which is no edge of the image, was cut by it."""


def point_grid(points_per_side: int) -> F64:
    """(n², 2) points (x, y) in (0, 1), row by row, half a step from the edges."""
    middles = (np.arange(points_per_side) + 0.5) / points_per_side
    x, y = np.meshgrid(middles, middles)
    return np.stack([x.reshape(-1), y.reshape(-1)], axis=-1)


def waves(points_per_side: int) -> list[I64]:
    """The indices of `point_grid`, from a coarse grid to the points between: every 4th, 2nd, then all.

    Returns:
        for each wave (k,) int64; together every index once.
    """
    row, column = np.divmod(np.arange(points_per_side**2), points_per_side)
    level = np.full(points_per_side**2, 2)
    level[(row % 2 == 0) & (column % 2 == 0)] = 1
    level[(row % 4 == 2) & (column % 4 == 2)] = 0  # not from the corner on: nearer to the image's middle
    return [found for wave in range(3) if len(found := np.nonzero(level == wave)[0])]


def crop_boxes(
    size: tuple[int, int], layers: int, overlap_ratio: float
) -> list[tuple[tuple[int, int, int, int], int]]:
    """The crops that are looked at: the whole image, then 4ⁱ overlapping ones for each layer i.

    Args:
        size: (H, W) of the image.
        layers: 0 = the image alone.
        overlap_ratio: overlap of the first layer's crops in parts of the shorter side; later layers, with
            more crops, overlap less.

    Returns:
        (box, layer) of each.
    """
    height, width = size
    found = [((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        a_side = 2**layer
        overlap = int(overlap_ratio * min(size) * (2 / a_side))
        crop_width, crop_height = (math.ceil((overlap * (a_side - 1) + n) / a_side) for n in (width, height))
        for left in (int((crop_width - overlap) * i) for i in range(a_side)):
            for top in (int((crop_height - overlap) * i) for i in range(a_side)):
                box = (left, top, min(left + crop_width, width), min(top + crop_height, height))
                if box[0] < box[2] and box[1] < box[3]:  # images of a few pixels have empty crops
                    found.append((box, layer))
    return found


def mask_boxes(masks: Tensor) -> Tensor:
    """(n, H, W) bool -> (n, 4) int64 boxes; all 0 for an empty mask."""
    edges = []
    for axis in (1, 2):  # columns, then rows
        present = masks.any(axis)
        index = torch.arange(present.shape[1], device=masks.device)
        first = torch.where(present, index, present.shape[1]).amin(1)
        last = torch.where(present, index, -1).amax(1)
        edges.append((first, last))
    (left, right), (top, bottom) = edges
    boxes = torch.stack([left, top, right, bottom], dim=1)
    return boxes * (right >= 0).unsqueeze(1)


def cut_by_crop(boxes: Tensor, crop: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    """(n,) bool: boxes (n, 4), in the image's pixels, that end at an edge of the crop inside the image."""
    height, width = size
    found = boxes.float()
    at_crop = (found - found.new_tensor(crop)).abs() <= NEAR_PX
    at_image = (found - found.new_tensor([0, 0, width, height])).abs() <= NEAR_PX
    return (at_crop & ~at_image).any(1)


def without_small_regions(mask: Bool, area: int) -> tuple[Bool, bool]:
    """Fill a mask's holes and drop its islands below ``area`` pixels; the largest island stays in any case.

    Args:
        mask: (H, W) bool.
        area: in pixels; regions are joined across corners.

    Returns:
        The mask, and whether it changed.
    """
    filled, holes = _fill(mask, ~mask, area)
    regions, count = ndimage.label(filled, structure=np.ones((3, 3)))
    sizes = np.bincount(regions.reshape(-1), minlength=count + 1)[1:]
    kept = np.nonzero(sizes >= area)[0] + 1
    if len(kept) == count:
        return filled, holes
    if not len(kept):
        kept = np.array([int(sizes.argmax()) + 1])
    return np.isin(regions, kept), True


def _fill(mask: Bool, holes: Bool, area: int) -> tuple[Bool, bool]:
    regions, count = ndimage.label(holes, structure=np.ones((3, 3)))
    sizes = np.bincount(regions.reshape(-1), minlength=count + 1)[1:]
    small = np.nonzero(sizes < area)[0] + 1
    return (mask | np.isin(regions, small), True) if len(small) else (mask, False)


def flatten_masks(
    masks: Tensor, overlap: Literal["smallest_on_top", "largest_on_top"] = "smallest_on_top"
) -> Tensor:
    """Flatten overlapping masks to one id per pixel.

    Args:
        masks: (M, H, W) bool, M < 65,536.
        overlap: which mask is visible where several cover a pixel, by area; among equal areas the one that
            comes first in ``masks``.

    Returns:
        (H, W) uint16: 1 + the index of the visible mask in ``masks``, 0 where none covers the pixel.

    Raises:
        DataError: more masks than ids.
    """
    count = len(masks)
    if count >= 1 << 16:
        raise DataError(f"masks: expected fewer than 65536 in one image, found {count}")
    order = torch.argsort(masks.sum((1, 2)), stable=True, descending=overlap == "largest_on_top")
    rank = torch.full(masks.shape[1:], count, dtype=torch.int32, device=masks.device)
    for start in range(0, count, _MASK_CHUNK):
        part = order[start : start + _MASK_CHUNK]
        ranks = torch.arange(start, start + len(part), dtype=torch.int32, device=masks.device)
        rank = torch.minimum(rank, torch.where(masks[part], ranks[:, None, None], count).amin(0))
    id_of_rank = torch.cat((order + 1, order.new_zeros(1)))
    return id_of_rank[rank.long()].to(torch.uint16)
