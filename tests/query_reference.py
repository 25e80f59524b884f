"""Slow and plain: groups of points by walking from cell to cell, thresholds by trying each."""

from __future__ import annotations

import numpy as np


def groups(points: np.ndarray, edge: float) -> list[frozenset[int]]:
    """Sets of indices whose cells of this edge touch, corners included."""
    cells = [tuple(row) for row in np.floor((points - points.min(0)) / edge).astype(int)]
    left, found = set(range(len(points))), []
    while left:
        queue, seen = [left.pop()], set()
        while queue:
            one = queue.pop()
            seen.add(one)
            near = {
                i for i in left if max(abs(a - b) for a, b in zip(cells[i], cells[one], strict=True)) <= 1
            }
            left -= near
            queue += near
        found.append(frozenset(seen))
    return found


def best_f1(similarity: np.ndarray, wins: np.ndarray) -> float:
    """The highest F1 of any threshold."""
    best = 0.0
    for threshold in np.unique(similarity):
        selected = similarity >= threshold
        best = max(best, 2 * (selected & wins).sum() / (selected.sum() + wins.sum()))
    return best
