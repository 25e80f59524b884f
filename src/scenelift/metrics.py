"""The one evaluation convention: a confusion matrix over the whole data set (method section 4).

``IoU = TP / (TP + FP + FN)`` of each class, mIoU = mean over the classes that occur in the ground truth.
Ignored ground truth never counts. A pixel or point without a prediction counts as wrong: it is a false
negative of its class and a false positive of none, and it lowers the coverage, which always stands beside
the mIoU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scenelift.errors import DataError
from scenelift.types import F64, I64, IGNORE, U8

_CHUNK = 1 << 22
"""Labels counted at a time: `numpy.bincount` widens each to 8 bytes."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What a confusion matrix says; NaN where there was nothing to measure.

    Attributes:
        iou: (C,) float64 in [0, 1]; NaN for classes that do not occur in the ground truth.
        miou: mean of ``iou`` over the classes that occur; NaN if none does.
        coverage: share of the labelled ground truth that has a prediction; NaN without ground truth.
        accuracy: share of the labelled ground truth that is predicted right; NaN without ground truth.
    """

    iou: F64
    miou: float
    coverage: float
    accuracy: float


class Confusion:
    """Counts of (true class, predicted class); additive, so parts of a data set may be merged in any order.

    Args:
        num_classes: C, 1 to 255.

    Attributes:
        counts: (C, C + 1) int64; row = true class, column = predicted class, the last one = no prediction.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= IGNORE:
            raise DataError(f"confusion: expected 1 to {IGNORE} classes, found {num_classes}")
        self.num_classes = num_classes
        self.counts: I64 = np.zeros((num_classes, num_classes + 1), dtype=np.int64)

    @classmethod
    def from_counts(cls, counts: I64) -> Confusion:
        """Restore from `counts`, (C, C + 1) non-negative int64; the array is copied."""
        if counts.ndim != 2 or counts.shape[1] != counts.shape[0] + 1 or counts.dtype != np.int64:
            raise DataError(
                "confusion: expected int64 counts of shape (C, C + 1), "
                f"found {counts.dtype.name} of shape {counts.shape}"
            )
        if (counts < 0).any():
            raise DataError(f"confusion: expected counts >= 0, found {counts.min()}")
        confusion = cls(len(counts))
        confusion.counts += counts
        return confusion

    def update(self, predicted: U8, target: U8) -> None:
        """Count one scene or frame.

        Args:
            predicted: uint8 class ids of any shape, `IGNORE` where there is no prediction.
            target: the same shape, uint8 class ids, `IGNORE` where the truth is unknown.

        Raises:
            DataError: other dtypes, different shapes, or an id that is neither a class nor `IGNORE`;
                nothing is counted then.
        """
        for what, array in (("predicted", predicted), ("target", target)):
            if array.dtype != np.uint8:
                raise DataError(f"confusion: expected {what} labels as uint8, found {array.dtype.name}")
        if predicted.shape != target.shape:
            raise DataError(
                "confusion: expected predicted and target labels of one shape, "
                f"found {predicted.shape} and {target.shape}"
            )
        table = _joint_histogram(predicted.reshape(-1), target.reshape(-1))
        for what, by_id in (("predicted", table.sum(0)), ("target", table.sum(1))):
            foreign = np.flatnonzero(by_id[self.num_classes : IGNORE])
            if foreign.size:
                raise DataError(
                    f"confusion: expected {what} ids 0 to {self.num_classes - 1} or {IGNORE} (ignore), "
                    f"found {self.num_classes + int(foreign[0])}; do labels and class list belong together?"
                )
        self.counts[:, :-1] += table[: self.num_classes, : self.num_classes]
        self.counts[:, -1] += table[: self.num_classes, IGNORE]

    def merge(self, other: Confusion) -> Confusion:
        """The confusion matrix of both parts together, as a new object."""
        if other.num_classes != self.num_classes:
            raise DataError(
                f"confusion: expected to merge {self.num_classes} classes, found {other.num_classes}"
            )
        return Confusion.from_counts(self.counts + other.counts)

    def compute(self) -> Scores:
        """Scores of everything counted so far."""
        true_positive = np.diagonal(self.counts)
        in_truth = self.counts.sum(1)
        union = in_truth + self.counts[:, :-1].sum(0) - true_positive
        occurs = in_truth > 0
        iou = np.full(self.num_classes, np.nan)
        iou[occurs] = true_positive[occurs] / union[occurs]
        total = int(in_truth.sum())
        if not total:
            return Scores(iou=iou, miou=math.nan, coverage=math.nan, accuracy=math.nan)
        return Scores(
            iou=iou,
            miou=float(iou[occurs].mean()),
            coverage=1 - int(self.counts[:, -1].sum()) / total,
            accuracy=int(true_positive.sum()) / total,
        )


def _joint_histogram(predicted: U8, target: U8) -> I64:
    """(256, 256) int64: how often each (target, predicted) pair of ids occurs in two (N,) arrays."""
    table = np.zeros(256 * 256, dtype=np.int64)
    for start in range(0, len(target), _CHUNK):
        part = slice(start, start + _CHUNK)
        table += np.bincount(target[part].astype(np.uint16) * 256 + predicted[part], minlength=len(table))
    return table.reshape(256, 256)
