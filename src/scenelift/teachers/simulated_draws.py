"""What the two simulated teachers share: hashed randomness, the door to the ground truth, feature grids.

Every draw is a function of the seed and of the names of what it is drawn for (scene, frame, instance, ...),
never of the order of calls: frames can be asked for one by one, in any order, by any number of processes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from scenelift.errors import DataError
from scenelift.scenes import TruthSource
from scenelift.types import F64, I64, U16, Frame, FrameTruth

# The finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators").
_GOLDEN, _MIX_1, _MIX_2 = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)


def hash_key(*parts: str | int) -> int:
    """A 64-bit key of what a draw is for."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(*parts: str | int) -> np.random.Generator:
    """A generator of its own for this purpose."""
    return np.random.default_rng(hash_key(*parts))


def hashed_uniform(key: int, *ids: npt.NDArray[np.integer[Any]]) -> F64:
    """Numbers in (0, 1), one for each row of ids, whatever other rows stand beside it.

    Args:
        key: from `hash_key`.
        ids: integer arrays that broadcast to one shape.

    Returns:
        float64 of that shape.
    """
    state = np.full(np.broadcast_shapes(*(column.shape for column in ids)), key, dtype=np.uint64)
    for column in ids:
        state = (state ^ column.astype(np.int64).view(np.uint64)) * _MIX_1 + _GOLDEN
        state = (state ^ (state >> _SHIFT_1)) * _MIX_1
        state = (state ^ (state >> _SHIFT_2)) * _MIX_2
        state = state ^ (state >> _SHIFT_3)
    return ((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def hashed_normal(key: int, *ids: npt.NDArray[np.integer[Any]]) -> F64:
    """Standard normal numbers by the inverse of their distribution; otherwise as `hashed_uniform`."""
    normal: F64 = ndtri(hashed_uniform(key, *ids))
    return normal


def frame_truth(source: TruthSource, frame: Frame) -> tuple[FrameTruth, U16]:
    """Ground truth of a frame and its instance ids; where ids are unknown, a class is one instance.

    Raises:
        DataError: the frame has no ground truth, or one of another size.
    """
    truth = source.frame(frame.scene, frame.name)
    if truth is None:
        raise DataError(
            f"frame {frame.key}: a simulated teacher needs its ground truth, found none; "
            "annotate it, or choose another teacher (teachers.labels.kind, teachers.masks.kind)"
        )
    if truth.labels.shape != (frame.height, frame.width):
        raise DataError(
            f"frame {frame.key}: expected ground truth of the image's size {(frame.height, frame.width)}, "
            f"found {truth.labels.shape}; resize it to the image (nearest neighbour)"
        )
    return truth, truth.labels.astype(np.uint16) + 1 if truth.instances is None else truth.instances


def grid_size(height: int, width: int, tokens: int) -> tuple[int, int]:
    """(h, w) of a feature grid with this many cells along the longer image side, none below a pixel."""
    longer = max(height, width)
    scale = min(tokens / longer, 1.0)
    return max(1, round(height * scale)), max(1, round(width * scale))


def grid_cells(height: int, width: int, grid: tuple[int, int]) -> I64:
    """(H, W) int64: the cell of a (h, w) grid, counted row by row, that each pixel lies in."""
    row = np.arange(height) * grid[0] // height
    column = np.arange(width) * grid[1] // width
    return row[:, None] * grid[1] + column


def cell_shares(index: I64, count: int, cells: I64, grid: tuple[int, int]) -> F64:
    """(count, h, w): the share of each cell's pixels that hold each index.

    Args:
        index: (H, W) int64 in [0, count).
        count: number of indices.
        cells: (H, W), from `grid_cells`.
        grid: (h, w), neither above the image's size.
    """
    size = grid[0] * grid[1]
    votes = np.bincount((index * size + cells).ravel(), minlength=count * size).reshape(count, size)
    shares: F64 = (votes / votes.sum(axis=0)).reshape(count, *grid)
    return shares
