"""A SAM-like teacher made from ground truth: it knows things apart, but nothing of their classes.

From instances to masks: some neighbours are *merged*, some masks *split* into parts, boundaries are
*jittered*, each connected piece becomes a mask, and some pixels stay *uncovered*. All of it is drawn anew
in every view, as SAM treats each image alone.

A feature is what SAM's embedding offers a network: a vector of the instance (the same in all views), the
look of the place (colour and contrast), its position in the image, and a random part of the view.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import label

from scenelift.config import SimulatedMasks
from scenelift.scenes import TruthSource
from scenelift.teachers.simulated_draws import (
    cell_shares,
    frame_truth,
    generator,
    grid_cells,
    grid_size,
    hash_key,
    hashed_normal,
)
from scenelift.types import F16, F64, I64, Bool, Frame, Masks

_MAX_PARTS = 4
_LOOK, _POSITION = 0.5, 0.5
"""Lengths of these parts of a feature, in units of its instance part."""
_SMOOTH_CELLS = 0.5
"""Low pass of the features: sd of a Gaussian, in cells."""
_SMOOTH_SIDE = 0.025
"""Grain of displacements and blobs: sd of a Gaussian, in parts of the longer image side."""
_CRUMB = 0.001
"""Pieces below this share of the image are the first to lose their mask."""


class SimulatedMaskTeacher:
    """Implements `scenelift.teachers.MaskTeacher` from ground truth.

    Args:
        config: the knobs.
        truth: instance ids of the frames that will be asked for; where unknown, a class is one instance.
    """

    def __init__(self, config: SimulatedMasks, truth: TruthSource) -> None:
        self._config = config
        self._source = truth

    @property
    def identity(self) -> str:
        """Every knob."""
        return f"simulated-masks/1 {self._config.model_dump_json()}"

    @property
    def weights(self) -> str:
        """There are none."""
        return "none: simulated from ground truth"

    summary = ""

    def masks(self, frames: Sequence[Frame]) -> list[Masks]:
        """For each frame one mask id per pixel and a (dim, h, w) feature grid.

        Raises:
            DataError: a frame has no ground truth.
        """
        return [self._frame_masks(frame) for frame in frames]

    def _frame_masks(self, frame: Frame) -> Masks:
        truth, instances = frame_truth(self._source, frame)
        packed, segment = np.unique(instances.astype(np.int64) << 8 | truth.labels, return_inverse=True)
        segment = segment.reshape(instances.shape)
        parts = self._split(self._merge(segment, frame), frame)
        pieces = _connected_pieces(self._jitter(parts, frame))
        covered = ~self._uncovered(pieces, frame)
        _, ids = np.unique(np.where(covered, pieces, 0), return_inverse=True)
        ids = ids.reshape(pieces.shape) + int(covered.all())
        return Masks(ids.astype(np.uint16), self._features(packed, segment, frame))

    def _random(self, what: str, frame: Frame) -> np.random.Generator:
        return generator(self._config.seed, what, frame.scene, frame.name)

    def _merge(self, segment: I64, frame: Frame) -> I64:
        """Join some segments to a neighbour, drawn in proportion to their common boundary."""
        count = int(segment.max()) + 1
        random = self._random("merge", frame)
        joined = random.random(count) < self._config.merge
        draw = random.random(count)
        mine, other = _contacts(segment)
        start = np.searchsorted(mine, np.arange(count + 1))
        touches = np.diff(start)
        joined &= touches > 0
        partner = other[(start[:-1] + draw * touches).astype(np.int64)[joined]]
        edges = (np.ones(len(partner)), (np.flatnonzero(joined), partner))
        _, group = connected_components(coo_array(edges, shape=(count, count)), directed=False)
        merged: I64 = group.astype(np.int64)[segment]
        return merged

    def _split(self, segment: I64, frame: Frame) -> I64:
        """Cut some segments into parts: each pixel goes to the nearest of a few seeds within its segment."""
        count = int(segment.max()) + 1
        random = self._random("split", frame)
        split = random.random(count) < self._config.split
        parts = np.where(split, random.integers(2, _MAX_PARTS + 1, count), 1)
        flat = segment.ravel()
        by_segment = np.argsort(flat, kind="stable")
        start = np.searchsorted(flat[by_segment], np.arange(count + 1))
        nth = (random.random((_MAX_PARTS, count)) * np.diff(start)).astype(np.int64)
        seed_row, seed_column = np.divmod(by_segment[start[:-1] + nth], frame.width)
        row, column = np.divmod(np.arange(flat.size), frame.width)
        distance = np.hypot(seed_row[:, flat] - row, seed_column[:, flat] - column)
        distance[np.arange(_MAX_PARTS)[:, None] >= parts[flat]] = np.inf
        part: I64 = segment * _MAX_PARTS + distance.argmin(axis=0).reshape(segment.shape)
        return part

    def _jitter(self, parts: I64, frame: Frame) -> I64:
        """Read each pixel's part a little beside it, at a smooth random displacement."""
        random = self._random("jitter", frame)
        reach_px = self._config.jitter * max(parts.shape)
        moved = []
        for position, size in zip(np.indices(parts.shape), parts.shape, strict=True):
            beside = np.rint(position + reach_px * _smooth_noise(random, parts.shape))
            moved.append(np.clip(beside, 0, size - 1).astype(np.int64))
        jittered: I64 = parts[moved[0], moved[1]]
        return jittered

    def _uncovered(self, pieces: I64, frame: Frame) -> Bool:
        """(H, W) bool: the share of pixels that no mask covers: crumbs, then blobs that favour boundaries."""
        count = int(self._config.uncovered * pieces.size)
        if count == 0:
            return np.zeros(pieces.shape, dtype=bool)
        edge = np.zeros(pieces.shape, dtype=bool)
        edge[:, 1:] |= pieces[:, 1:] != pieces[:, :-1]
        edge[1:] |= pieces[1:] != pieces[:-1]
        crumb = (np.bincount(pieces.ravel()) < _CRUMB * pieces.size)[pieces]
        rank = _smooth_noise(self._random("uncovered", frame), pieces.shape) + edge + 100.0 * crumb
        gone = np.zeros(pieces.size, dtype=bool)
        gone[np.argpartition(-rank.ravel(), count)[:count]] = True
        return gone.reshape(pieces.shape)

    def _features(self, packed: I64, segment: I64, frame: Frame) -> F16:
        config = self._config
        grid = grid_size(frame.height, frame.width, config.tokens)
        cells = grid_cells(frame.height, frame.width, grid)
        axes = np.arange(config.dim)
        vectors = hashed_normal(hash_key(config.seed, "feature", frame.scene), packed[:, None], axes)
        shares = cell_shares(segment, len(packed), cells, grid)
        feature = np.einsum("sd,shw->dhw", vectors, shares)
        feature += _LOOK * self._projected("look", _look(frame, cells, grid))
        feature += _POSITION * self._projected("position", _position(grid))
        feature += config.feature_noise * self._random("feature", frame).standard_normal(feature.shape)
        feature = gaussian_filter(feature, sigma=(0, _SMOOTH_CELLS, _SMOOTH_CELLS), mode="nearest")
        # As the layer norm that ends SAM's image encoder leaves them.
        feature -= feature.mean(axis=0)
        normed: F16 = (feature / (feature.std(axis=0) + 1e-6)).astype(np.float16)
        return normed

    def _projected(self, what: str, maps: F64) -> F64:
        """(n, h, w) maps to (dim, h, w) features of unit variance, by one random matrix for all scenes."""
        matrix = generator(self._config.seed, what).standard_normal((self._config.dim, len(maps)))
        features: F64 = np.einsum("dn,nhw->dhw", matrix / np.sqrt(len(maps)), maps)
        return features


def _connected_pieces(index: I64) -> I64:
    """(H, W) int64 from 1: the piece of equal index, connected by sides or corners, at each pixel."""
    pieces: I64 = label(index, background=-1, connectivity=2)  # type: ignore[no-untyped-call]
    return pieces


def _contacts(segment: I64) -> tuple[I64, I64]:
    """Each place where two segments touch, seen from both sides: two (n,) int64, the first sorted."""
    a = np.concatenate((segment[:, 1:].ravel(), segment[1:].ravel()))
    b = np.concatenate((segment[:, :-1].ravel(), segment[:-1].ravel()))
    a, b = a[a != b], b[a != b]
    mine, other = np.concatenate((a, b)), np.concatenate((b, a))
    order = np.argsort(mine, kind="stable")
    return mine[order], other[order]


def _smooth_noise(random: np.random.Generator, shape: tuple[int, ...]) -> F64:
    """(H, W) float64: smooth noise of zero mean and unit variance."""
    noise: F64 = gaussian_filter(random.standard_normal(shape), _SMOOTH_SIDE * max(shape), truncate=3.0)
    noise = (noise - noise.mean()) / noise.std()
    return noise


def _look(frame: Frame, cells: I64, grid: tuple[int, int]) -> F64:
    """(4, h, w): mean red, green and blue, and the contrast of each cell, each about unit variance."""
    area = np.bincount(cells.ravel())
    rgb = frame.image.reshape(-1, 3).astype(np.float64) / 64.0 - 2.0
    mean = np.stack([np.bincount(cells.ravel(), rgb[:, i]) / area for i in range(3)])
    square = np.bincount(cells.ravel(), (rgb**2).sum(1)) / area
    contrast = np.sqrt(np.maximum(square - (mean**2).sum(0), 0.0))
    return np.concatenate((mean, contrast[None])).reshape(4, *grid)


def _position(grid: tuple[int, int]) -> F64:
    """(4, h, w): half a wave and a whole wave down and across the image, unit variance."""
    down, across = ((np.arange(size) + 0.5) / size for size in grid)
    waves = [np.cos(np.pi * k * down)[:, None] + np.zeros(grid) for k in (1, 2)]
    waves += [np.cos(np.pi * k * across) + np.zeros(grid) for k in (1, 2)]
    position: F64 = np.sqrt(2.0) * np.stack(waves)
    return position
