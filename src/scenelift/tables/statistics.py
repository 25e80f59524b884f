"""How sure a difference between two rows is, from confusion matrices per seed and scene.

mIoU is no mean over scenes, so scenes are resampled and their confusion matrices summed before it is taken
(a bootstrap). It is paired: the same draw of scenes and of seeds serves every row. Scenes and seeds are
crossed, every seed judges the same scenes, so one draw of scenes holds for all seeds of a resample and a
second draw chooses the seeds (Owen, "The pigeonhole bootstrap", 2007). Of n units n - 1 are drawn: with n,
the spread over three seeds would come out a fifth too small (Rao and Wu, 1988).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from scenelift.types import F64, I64

RESAMPLES = 2000

_LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """How far apart two rows are; shares, not points.

    Attributes:
        mean: mean over the seeds that both have.
        low: lower end of the 95 % interval; ``None``, as `high` and `p`, where there is nothing to resample.
        high: its upper end.
        p: two-sided probability of a difference this far from 0 if there were none.
        seeds: how many seeds both have.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int

    @property
    def significant(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


class Bootstrap:
    """Resampled mIoU of several rows, from which any difference between two of them is read.

    Args:
        counts: (R, S, N, C, C + 1) int64 confusion matrices of R rows, S seeds and N scenes, as
            `scenelift.metrics.Confusion` counts; all zero for a run that does not exist.
        resamples: B, how many times scenes and seeds are drawn.

    Attributes:
        by_seed: (R, S) float64 mIoU of all scenes together, NaN for a run that does not exist.
        samples: (R, B, S) float64 mIoU of the scenes drawn.
    """

    def __init__(self, counts: I64, resamples: int = RESAMPLES) -> None:
        counts = counts[:, :, counts.any((0, 1, 3, 4))]  # a scene without ground truth is none to draw from
        self.scenes = counts.shape[2]
        self.by_seed = miou(counts.sum(2))
        scene_draws = draws(self.scenes, resamples, 0)
        self.samples = np.stack([resampled_miou(row, scene_draws) for row in counts])

    def difference(self, left: int, right: int, factor: float = 1.0) -> Difference:
        """``left - factor * right``, both indices of rows, over the seeds that both have."""
        by_seed = self.by_seed[left] - factor * self.by_seed[right]
        common = np.isfinite(by_seed)
        seeds = int(common.sum())
        if not seeds:
            return Difference(math.nan, None, None, None, 0)
        mean = float(by_seed[common].mean())
        if seeds == 1 and self.scenes == 1:
            return Difference(mean, None, None, None, 1)
        gaps = (self.samples[left] - factor * self.samples[right])[:, common]
        seed_draws = draws(seeds, len(gaps), 1)
        drawn = (seed_draws * gaps).sum(1) / seed_draws.sum(1)
        drawn = drawn[np.isfinite(drawn)]
        low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        fewer = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
        p = min(1.0, 2 * (fewer + 1) / (len(drawn) + 1))
        return Difference(mean, float(low), float(high), p, seeds)


def draws(units: int, resamples: int, seed: int) -> I64:
    """(resamples, units) int64: how often each unit is drawn; a single unit always once."""
    if units < 2:
        return np.ones((resamples, units), dtype=np.int64)
    rng = np.random.default_rng((seed, units))
    return rng.multinomial(units - 1, np.full(units, 1 / units), size=resamples)


def miou(counts: I64) -> F64:
    """(...) float64 mIoU of (..., C, C + 1) counts over the classes that occur; NaN where none does."""
    return _miou(*_sums(counts))


def resampled_miou(counts: I64, scene_draws: I64) -> F64:
    """mIoU of every resample.

    Args:
        counts: (S, N, C, C + 1) int64, of S seeds and N scenes.
        scene_draws: (B, N) int64, see `draws`.

    Returns:
        (B, S) float64; NaN where no class occurs in what was drawn.
    """
    seeds, scenes, classes = counts.shape[:3]
    weights = scene_draws.astype(np.float64)  # exact up to 2**53, and much faster to multiply than integers
    summed = []
    for part in _sums(counts):
        by_scene = part.transpose(1, 0, 2).reshape(scenes, seeds * classes)
        summed.append((weights @ by_scene).reshape(-1, seeds, classes))
    return _miou(*summed)


def spearman(ours: Sequence[float | None], paper: Sequence[float | None]) -> tuple[float | None, int]:
    """Rank correlation over the rows that have both values, and how many these are; ties share a rank.

    ``None`` with fewer than three rows, or where one side is constant.
    """
    both = [(a, b) for a, b in zip(ours, paper, strict=True) if a is not None and b is not None]
    if len(both) < 3:
        return None, len(both)
    ranks = [rankdata(side) for side in zip(*both, strict=True)]
    if any(np.ptp(side) == 0 for side in ranks):
        return None, len(both)
    return float(np.corrcoef(*ranks)[0, 1]), len(both)


_Sums = npt.NDArray[np.int64] | npt.NDArray[np.float64]


def _sums(counts: I64) -> tuple[I64, I64, I64]:
    """(..., C) true positives, pixels or points of the class, and those predicted as it: all additive."""
    return (
        np.diagonal(counts[..., :-1], axis1=-2, axis2=-1),
        counts.sum(-1),
        counts[..., :-1].sum(-2),
    )


def _miou(true_positive: _Sums, in_truth: _Sums, predicted: _Sums) -> F64:
    occurs = in_truth > 0
    iou = np.where(occurs, true_positive / np.maximum(in_truth + predicted - true_positive, 1), 0.0)
    number = occurs.sum(-1)
    mean: F64 = np.where(number > 0, iou.sum(-1) / np.maximum(number, 1), np.nan)
    return mean
