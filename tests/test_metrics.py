"""The evaluation convention against a loop over pixels and against torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassJaccardIndex

from scenelift import metrics
from scenelift.errors import DataError
from scenelift.metrics import Confusion
from scenelift.types import IGNORE, U8

seeds = st.integers(0, 2**32 - 1)


def random_labels(rng: np.random.Generator, classes: int, shape: tuple[int, ...], ignored: float = 0.2) -> U8:
    labels = rng.integers(classes, size=shape).astype(np.uint8)
    labels[rng.random(shape) < ignored] = IGNORE
    return labels


def confusion_of(predicted: U8, target: U8, classes: int) -> Confusion:
    confusion = Confusion(classes)
    confusion.update(predicted, target)
    return confusion


def scores_by_hand(predicted: U8, target: U8, classes: int) -> tuple[list[float], float, float, float]:
    """The convention, spelled out pixel by pixel."""
    iou, pairs = (
        [],
        [(int(p), int(t)) for p, t in zip(predicted.ravel(), target.ravel(), strict=True) if t != IGNORE],
    )
    for c in range(classes):
        true_positive = sum(p == c and t == c for p, t in pairs)
        false_positive = sum(p == c and t != c for p, t in pairs)
        false_negative = sum(p != c and t == c for p, t in pairs)
        occurs = any(t == c for _, t in pairs)
        iou.append(true_positive / (true_positive + false_positive + false_negative) if occurs else math.nan)
    there = [value for value in iou if not math.isnan(value)]
    if not pairs:
        return iou, math.nan, math.nan, math.nan
    return (
        iou,
        sum(there) / len(there),
        sum(p != IGNORE for p, _ in pairs) / len(pairs),
        sum(p == t for p, t in pairs) / len(pairs),
    )


@given(seeds, st.integers(1, 6), st.integers(0, 60))
@settings(deadline=None, max_examples=50)
def test_matches_loop(seed: int, classes: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, target = (random_labels(rng, classes, (size,)) for _ in range(2))
    scores = confusion_of(predicted, target, classes).compute()
    iou, miou, coverage, accuracy = scores_by_hand(predicted, target, classes)
    np.testing.assert_allclose(scores.iou, iou)
    np.testing.assert_allclose([scores.miou, scores.coverage, scores.accuracy], [miou, coverage, accuracy])


@given(seeds)
@settings(deadline=None, max_examples=25)
def test_equals_torchmetrics_where_every_class_occurs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = 7
    target = random_labels(rng, classes, (20, 30))
    target[0, :classes] = np.arange(classes)
    predicted = random_labels(rng, classes, (20, 30), ignored=0)
    theirs = MulticlassJaccardIndex(classes, average="macro", ignore_index=IGNORE)
    theirs.update(torch.from_numpy(predicted).long(), torch.from_numpy(target).long())
    scores = confusion_of(predicted, target, classes).compute()
    assert scores.miou == pytest.approx(float(theirs.compute()), abs=1e-6)
    assert scores.coverage == 1.0


@given(seeds)
@settings(deadline=None, max_examples=25)
def test_merge_in_any_order_equals_one_update(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, target = (random_labels(rng, 4, (3, 20)) for _ in range(2))
    a, b, c = (confusion_of(p, t, 4) for p, t in zip(predicted, target, strict=True))
    whole = confusion_of(predicted, target, 4).counts
    np.testing.assert_array_equal(a.merge(b).merge(c).counts, whole)
    np.testing.assert_array_equal(a.merge(b.merge(c)).counts, whole)
    np.testing.assert_array_equal(c.merge(a).merge(b).counts, whole)
    np.testing.assert_array_equal(a.merge(Confusion(4)).counts, a.counts)


def test_merge_leaves_its_parts_alone() -> None:
    a, b = (confusion_of(np.zeros(3, np.uint8), np.zeros(3, np.uint8), 2) for _ in range(2))
    a.merge(b)
    assert a.counts.sum() == b.counts.sum() == 3


def test_a_missing_prediction_is_wrong_but_blames_no_class() -> None:
    target = np.array([0, 0, 1, 1], np.uint8)
    predicted = np.array([0, IGNORE, 1, 1], np.uint8)
    scores = confusion_of(predicted, target, 2).compute()
    np.testing.assert_array_equal(scores.iou, [0.5, 1.0])
    assert (scores.miou, scores.coverage, scores.accuracy) == (0.75, 0.75, 0.75)


def test_class_0_is_a_class_like_any_other() -> None:
    """No row stands for "nothing": swapping two class names swaps their scores and changes no other."""
    rng = np.random.default_rng(0)
    predicted, target = (random_labels(rng, 3, (500,)) for _ in range(2))
    swap = np.arange(256, dtype=np.uint8)
    swap[[0, 2]] = [2, 0]
    scores = confusion_of(predicted, target, 3).compute()
    swapped = confusion_of(swap[predicted], swap[target], 3).compute()
    np.testing.assert_array_equal(swapped.iou, scores.iou[[2, 1, 0]])
    assert (swapped.coverage, swapped.accuracy) == (scores.coverage, scores.accuracy)


def test_mean_is_over_classes_in_the_truth() -> None:
    """A class that is only predicted lowers the others' IoU, but has none itself."""
    scores = confusion_of(np.array([0, 1], np.uint8), np.array([0, 0], np.uint8), 3).compute()
    assert scores.iou[0] == 0.5
    assert np.isnan(scores.iou[1:]).all()
    assert scores.miou == 0.5


@pytest.mark.parametrize("target", [np.zeros(0, np.uint8), np.full(4, IGNORE, np.uint8)])
def test_nothing_to_measure(target: U8) -> None:
    scores = confusion_of(np.zeros(len(target), np.uint8), target, 3).compute()
    assert np.isnan(scores.iou).all()
    assert math.isnan(scores.miou)
    assert math.isnan(scores.coverage)
    assert math.isnan(scores.accuracy)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    predicted, target = (random_labels(rng, 5, (11, 13)) for _ in range(2))
    whole = confusion_of(predicted, target, 5).counts
    monkeypatch.setattr(metrics, "_CHUNK", 10)
    np.testing.assert_array_equal(confusion_of(predicted, target, 5).counts, whole)


def test_counts_round_trip_and_are_copied() -> None:
    counts = np.arange(6, dtype=np.int64).reshape(2, 3)
    confusion = Confusion.from_counts(counts)
    confusion.update(np.zeros(1, np.uint8), np.zeros(1, np.uint8))
    assert confusion.counts.tolist() == [[1, 1, 2], [3, 4, 5]]
    assert counts[0, 0] == 0


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.zeros((2, 2), np.int64), r"shape \(C, C \+ 1\), found int64 of shape \(2, 2\)"),
        (np.zeros((2, 3), np.int32), "found int32"),
        (np.zeros(3, np.int64), "found int64 of shape"),
        (np.array([[0, -1]], np.int64), "found -1"),
    ],
)
def test_bad_counts(counts: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Confusion.from_counts(counts)


@pytest.mark.parametrize("classes", [0, 256])
def test_bad_number_of_classes(classes: int) -> None:
    with pytest.raises(DataError, match=f"found {classes}"):
        Confusion(classes)


@pytest.mark.parametrize(
    ("predicted", "target", "message"),
    [
        (np.zeros(3, np.uint8), np.zeros(4, np.uint8), r"one shape, found \(3,\) and \(4,\)"),
        (np.zeros(3, np.int64), np.zeros(3, np.uint8), "predicted labels as uint8, found int64"),
        (np.zeros(3, np.uint8), np.zeros(3, np.uint16), "target labels as uint8, found uint16"),
        (np.array([5], np.uint8), np.array([0], np.uint8), "predicted ids 0 to 2 or 255 .* found 5"),
        (np.array([3], np.uint8), np.array([IGNORE], np.uint8), "predicted ids .* found 3"),
        (np.array([IGNORE], np.uint8), np.array([254], np.uint8), "target ids .* found 254"),
    ],
)
def test_bad_labels_count_nothing(predicted: U8, target: U8, message: str) -> None:
    confusion = Confusion(3)
    with pytest.raises(DataError, match=message):
        confusion.update(predicted, target)
    assert not confusion.counts.any()


def test_merging_different_classes() -> None:
    with pytest.raises(DataError, match="merge 2 classes, found 3"):
        Confusion(2).merge(Confusion(3))
