"""Level of detail: the order in which a cloud's points are sent, so that a coarse whole comes first."""

from __future__ import annotations

import math

import numpy as np

from scenelift.types import F32, I64

FIRST = 50_000
"""Points of the coarse cloud, about."""
PART = 250_000
"""Points of every later part."""


def parts(points: F32, budget: int, first: int = FIRST, part: int = PART) -> list[I64]:
    """Indices of the points to send, in parts; each point at most once.

    The first part has one point of each voxel, of an edge that makes about ``first`` of them; those that
    follow are drawn at random from the rest, so that every part makes the whole cloud finer.

    Args:
        points: (N, 3), metres.
        budget: most points in all.
        first: of the coarse cloud, about.
        part: of each later part.
    """
    count = len(points)
    if count <= min(first, budget):
        return [np.arange(count)] if count else []
    coarse = voxel_first(points, _edge(points, min(first, budget)))[:budget]
    left = np.ones(count, np.bool_)
    left[coarse] = False
    rest = np.random.default_rng(0).permutation(np.flatnonzero(left))[: budget - len(coarse)]
    return [coarse, *(rest[start : start + part] for start in range(0, len(rest), part))]


def voxel_first(points: F32, edge_m: float) -> I64:
    """The first point of every voxel that holds any, in random order."""
    cells = np.floor((points - points.min(0)) / edge_m).astype(np.int64)
    spread = cells.max(0) + 1
    _, index = np.unique((cells[:, 0] * spread[1] + cells[:, 1]) * spread[2] + cells[:, 2], return_index=True)
    return np.random.default_rng(0).permutation(index)


def _edge(points: F32, wanted: int) -> float:
    """Edge of voxels of which about ``wanted`` hold points; surfaces fill 1 / edge² of them."""
    edge = max(float(np.ptp(points, axis=0).max()) / 100, 1e-3)
    for _ in range(2):
        sample = points[:: max(1, len(points) // 200_000)]
        edge = max(edge * math.sqrt(len(voxel_first(sample, edge)) / wanted), 1e-3)
    return edge
