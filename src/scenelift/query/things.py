"""From a similarity per point to things: where the phrase begins to be meant, and what hangs together there.

Pure functions of arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from scenelift.similarity import NOTHING
from scenelift.types import F32, I32, I64, Bool

NEVER = 1.0
"""A threshold that selects nothing: a similarity of exactly 1 does not happen."""

_LEAST_EDGE_M = 0.04
_SPACINGS = 2.5
"""Edge of the cells by which points hang together, in spacings of the cloud."""
_SAMPLE = 2000


class Instance(NamedTuple):
    """Selected points that hang together.

    Attributes:
        points: how many.
        centroid_m: their mean, world coordinates in metres.
        low_m: least coordinates.
        high_m: largest coordinates.
        similarity: their mean.
        evidence: sum over the points of how far each is above the threshold; instances are ranked by it.
    """

    points: int
    centroid_m: tuple[float, float, float]
    low_m: tuple[float, float, float]
    high_m: tuple[float, float, float]
    similarity: float
    evidence: float

    @property
    def extent_m(self) -> tuple[float, float, float]:
        """Size along the world's axes, metres."""
        x, y, z = (high - low for low, high in zip(self.low_m, self.high_m, strict=True))
        return x, y, z

    def to_json(self) -> dict[str, Any]:
        """Everything, rounded to what means something."""
        rounded: dict[str, Any] = {
            key: [round(value, 4) for value in getattr(self, key)]
            for key in ("centroid_m", "extent_m", "low_m", "high_m")
        }
        return {"points": self.points, **rounded, "similarity": round(self.similarity, 5)}


def own_threshold(similarity: F32, wins: Bool) -> float:
    """The similarity that parts best what the phrase wins from what it does not: the highest F1.

    Args:
        similarity: (n,).
        wins: (n,), whether the phrase is nearer than all its rivals (`scenelift.similarity.rivals`).

    Returns:
        What to select: ``similarity >= threshold``; `NEVER` where the phrase wins nothing.
    """
    won = int(wins.sum())
    if not won:
        return NEVER
    order = np.argsort(-similarity, kind="stable")
    falling = similarity[order]
    hits = np.cumsum(wins[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + won)
    last = np.append(falling[1:] < falling[:-1], True)  # equal values are selected together
    return float(falling[np.argmax(np.where(last, f1, -1.0))])


def edge_m(points: F32) -> float:
    """Edge of cells through which the surfaces of this cloud hang together, in metres.

    2.5 times the median distance of a point to its nearest neighbour, at least 4 cm.
    """
    if len(points) < 2:
        return _LEAST_EDGE_M
    sample = points[:: max(1, len(points) // _SAMPLE)]
    nearest = cKDTree(points).query(sample, k=2)[0][:, 1]
    return max(_LEAST_EDGE_M, _SPACINGS * float(np.median(nearest)))


def components(points: F32, edge: float) -> I64:
    """Number the groups of points whose cells touch, corners included.

    Args:
        points: (n, 3), metres.
        edge: of a cell, metres.

    Returns:
        (n,) from 0, in no particular order.
    """
    if not len(points):
        return np.zeros(0, np.int64)
    cells = np.floor((points.astype(np.float64) - points.min(0)) / edge).astype(np.int64) + 1
    spread = cells.max(0) + 2
    keys, cell = np.unique(
        (cells[:, 0] * spread[1] + cells[:, 1]) * spread[2] + cells[:, 2], return_inverse=True
    )
    ends = []
    for dx in (0, 1):
        for dy in (-1, 0, 1):
            for dz in (-1, 0, 1):
                if (dx, dy, dz) <= (0, 0, 0):
                    continue  # the other half of the neighbours finds the same pairs
                wanted = keys + (dx * spread[1] + dy) * spread[2] + dz
                place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
                ends.append(np.stack([np.flatnonzero(keys[place] == wanted), place[keys[place] == wanted]]))
    rows, columns = np.concatenate(ends, axis=1)
    graph = coo_array((np.ones(len(rows), np.bool_), (rows, columns)), shape=(len(keys), len(keys)))
    group = connected_components(graph, directed=False)[1]
    return np.asarray(group[cell], dtype=np.int64)


def instances(
    points_world: F32, similarity: F32, threshold: float, least_points: int = 10, edge: float | None = None
) -> tuple[I32, list[Instance]]:
    """Selected points as things, the one with most evidence first.

    Args:
        points_world: (N, 3), metres.
        similarity: (N,).
        threshold: points from it on are selected; `NOTHING` never is.
        least_points: smaller groups are no things.
        edge: see `components`; ``None`` = `edge_m` of the whole cloud.

    Returns:
        ids: (N,) int32, 1 = the first thing, 0 = none.
        things: in order.
    """
    ids = np.zeros(len(points_world), np.int32)
    chosen = np.flatnonzero((similarity >= threshold) & (similarity > NOTHING))
    if not len(chosen):
        return ids, []
    group = components(points_world[chosen], edge_m(points_world) if edge is None else edge)
    excess = similarity[chosen].astype(np.float64) - threshold
    count = np.bincount(group)
    # a phrase just at the threshold everywhere leaves no evidence: size settles it
    rank = np.lexsort((np.arange(len(count)), -count, -np.bincount(group, excess)))
    things = []
    for number in rank:
        if count[number] < least_points:
            continue
        rows = chosen[group == number]
        things.append(_instance(points_world[rows], similarity[rows], threshold))
        ids[rows] = len(things)
    return ids, things


def _instance(points: F32, similarity: F32, threshold: float) -> Instance:
    wide = points.astype(np.float64)
    centroid, low, high = (tuple(map(float, row)) for row in (wide.mean(0), wide.min(0), wide.max(0)))
    mean = float(similarity.mean(dtype=np.float64))
    return Instance(len(points), centroid, low, high, mean, (mean - threshold) * len(points))  # type: ignore[arg-type]
