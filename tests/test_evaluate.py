"""Counting predictions against ground truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from fixtures_scenes import CLASSES, TinySource, TinyTruth, tiny_source
from scenelift.classes import ClassTable
from scenelift.errors import ConfigError, DataError
from scenelift.evaluate import Evaluation, evaluate, run_ids
from scenelift.predict import Predictor
from scenelift.progress import Advance
from scenelift.types import IGNORE, U8, Prediction, Scene


class Guesser(Predictor):
    """Random labels, some of them missing."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes_here = num_classes
        self.asked: list[str] = []

    def _guess(self, shape: tuple[int, ...], seed: int) -> Prediction:
        labels = np.random.default_rng(seed).integers(0, self._num_classes_here + 1, shape)
        labels = np.where(labels == self._num_classes_here, IGNORE, labels).astype(np.uint8)
        return Prediction(labels, np.ones(shape, np.float32))

    def frames(self, scene: Scene) -> Iterator[tuple[str, Prediction]]:
        self.asked += scene.frames.names
        for frame in scene.frames:
            yield frame.name, self._guess(frame.image.shape[:2], int(frame.name[1:]))

    def can_label(self, scene: Scene) -> bool:
        return True

    def points(self, scene: Scene) -> Prediction:
        return self._guess((len(scene.points_world),), 99)


def slow_counts(pairs: list[tuple[U8, U8]], names: tuple[str, ...]) -> list[list[int]]:
    """Rows true, columns predicted, last column none; truth in the ids of the tiny scenes."""
    counts = [[0] * (len(names) + 1) for _ in names]
    for predicted, truth in pairs:
        for said, true in zip(predicted.reshape(-1).tolist(), truth.reshape(-1).tolist(), strict=True):
            if true == IGNORE or CLASSES.names[true] not in names:
                continue
            counts[names.index(CLASSES.names[true])][len(names) if said == IGNORE else said] += 1
    return counts


@pytest.fixture(scope="module")
def source() -> TinySource:
    source = tiny_source(num_scenes=2, frames=3, points=200)
    assert source.truth is not None
    del source.truth.frames["scene1", "f1"]  # not annotated
    del source.truth.scenes["scene1"]
    source.truth.frames["scene0", "f0"].labels[:4] = IGNORE
    return source


@pytest.mark.parametrize("names", [CLASSES.names, ("box", "wall", "sofa"), ("floor", "ceiling")])
def test_evaluation_counts_as_by_hand(source: TinySource, names: tuple[str, ...]) -> None:
    """Whatever the order of the run's classes; classes it does not know are ignored."""
    assert source.truth is not None
    guesser = Guesser(len(names))
    told: list[tuple[str, int, int]] = []
    notes: list[str] = []

    @contextmanager
    def progress(what: str, total: int, done: int) -> Iterator[Advance]:
        told.append((what, total, done))
        yield notes.append

    have = evaluate(source, ("scene0", "scene1"), ClassTable.from_names(names), guesser, progress=progress)
    in_2d, in_3d = [], []
    for name in ("scene0", "scene1"):
        scene, truth = source.scenes[name], source.truth.scenes.get(name)
        if truth is not None:
            in_3d.append((guesser.points(scene).labels, truth.labels))
        for frame, prediction in guesser.frames(scene):
            pixels = source.truth.frames.get((name, frame))
            if pixels is not None:
                in_2d.append((prediction.labels, pixels.labels))
    assert (len(in_2d), len(in_3d)) == (5, 1)
    assert have.confusion_2d.counts.tolist() == slow_counts(in_2d, names)
    assert have.confusion_3d.counts.tolist() == slow_counts(in_3d, names)
    assert have.seconds > 0
    assert told == [("evaluate", 2, 0)]
    assert notes == ["scene0", "scene1"]


def test_only_the_named_scenes_count(source: TinySource) -> None:
    guesser = Guesser(4)
    one = evaluate(source, ("scene0",), CLASSES, guesser)
    other = evaluate(source, ("scene1",), CLASSES, guesser)
    both = evaluate(source, ("scene0", "scene1"), CLASSES, guesser)
    merged = one.confusion_2d.merge(other.confusion_2d)
    np.testing.assert_array_equal(both.confusion_2d.counts, merged.counts)
    assert other.confusion_3d.counts.sum() == 0


def test_names_are_matched_whatever_their_case(source: TinySource) -> None:
    assert source.truth is not None
    table = run_ids(source.truth, ClassTable.from_names(["Box", "FLOOR", "lamp"]))
    assert table.dtype == np.uint8
    assert table[:4].tolist() == [IGNORE, 1, IGNORE, 0]
    assert (table[4:] == IGNORE).all()
    capitals = TinyTruth()
    capitals.classes = ClassTable.from_names(["Box", "FLOOR", "lamp"])
    assert run_ids(capitals, CLASSES)[:3].tolist() == [3, 1, IGNORE]


def test_no_common_class_is_told(source: TinySource) -> None:
    with pytest.raises(ConfigError, match=r"lamp, rug occurs .*\(wall, floor, ceiling, box\)"):
        evaluate(source, ("scene0",), ClassTable.from_names(["lamp", "rug"]), Guesser(2))


def test_no_ground_truth_is_told() -> None:
    source = tiny_source(1, frames=1)
    source.truth = None
    with pytest.raises(DataError, match="no ground truth"):
        evaluate(source, ("scene0",), CLASSES, Guesser(4))


def test_an_evaluation_survives_json(source: TinySource) -> None:
    have = evaluate(source, ("scene0", "scene1"), CLASSES, Guesser(4))
    back = Evaluation.from_json(json.loads(json.dumps(have.to_json())))
    np.testing.assert_array_equal(back.confusion_2d.counts, have.confusion_2d.counts)
    np.testing.assert_array_equal(back.confusion_3d.counts, have.confusion_3d.counts)
    assert back.seconds == have.seconds


def test_frames_without_labels_are_not_predicted(source: TinySource) -> None:
    guesser = Guesser(len(CLASSES))
    evaluate(source, ("scene1",), CLASSES, guesser)
    assert guesser.asked == ["f0", "f2"]
