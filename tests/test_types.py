"""The nouns refuse arrays that do not fit them, and say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from scenelift.errors import DataError
from scenelift.types import (
    IGNORE,
    Frame,
    Frames,
    FrameTruth,
    Masks,
    Pairs,
    Prediction,
    Scene,
    SceneTruth,
)


def zeros(kind: str, *shape: int) -> Any:
    return np.zeros(shape, dtype=kind)


def frame(name: str = "f0", **changes: Any) -> Frame:
    arrays = {
        "image": zeros("uint8", 4, 6, 3),
        "intrinsics": np.eye(3),
        "cam_from_world": np.eye(4),
        "depth_m": zeros("float32", 4, 6),
    }
    return Frame("room", name, **{**arrays, **changes})


class TestValidation:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda: frame(image=zeros("uint8", 4, 6)),
                r"frame room/f0: image: expected uint8 of shape \(n, n, 3\), found uint8 of shape \(4, 6\)",
            ),
            (lambda: frame(image=zeros("float32", 4, 6, 3)), "image: expected uint8 .*found float32"),
            (lambda: frame(intrinsics=np.eye(4)), r"intrinsics: expected float64 of shape \(3, 3\)"),
            (lambda: frame(cam_from_world=np.eye(4, dtype="float32")), "cam_from_world: .*found float32"),
            (lambda: frame(depth_m=zeros("float32", 6, 4)), r"depth_m: expected float32 of shape \(4, 6\)"),
            (
                lambda: Scene("room", zeros("float64", 5, 3), None, Frames.of([])),
                r"scene room: points_world: expected float32 of shape \(n, 3\), found float64",
            ),
            (
                lambda: Scene("room", zeros("float32", 5, 3), zeros("uint8", 4, 3), Frames.of([])),
                r"scene room: rgb: expected uint8 of shape \(5, 3\), found uint8 of shape \(4, 3\)",
            ),
            (lambda: FrameTruth(zeros("int64", 2, 3)), "frame truth: labels: expected uint8"),
            (
                lambda: FrameTruth(zeros("uint8", 2, 3), zeros("uint16", 3, 2)),
                r"frame truth: instances: expected uint16 of shape \(2, 3\)",
            ),
            (lambda: SceneTruth(zeros("uint8", 2, 3)), r"scene truth: labels: expected uint8 of shape \(n\)"),
            (lambda: SceneTruth(zeros("uint8", 2), zeros("uint16", 3)), "scene truth: instances: expected"),
            (lambda: Masks(zeros("int32", 2, 3), zeros("float16", 1, 2, 2)), "masks: ids: expected uint16"),
            (lambda: Masks(zeros("uint16", 2, 3), zeros("float32", 1, 2, 2)), "features: expected float16"),
            (
                lambda: Pairs(zeros("int64", 2), zeros("int32", 2), zeros("float32", 2, 2)),
                "pairs: frame_index: expected int32",
            ),
            (
                lambda: Pairs(zeros("int32", 2), zeros("int32", 3), zeros("float32", 2, 2)),
                r"pairs: point_index: expected int32 of shape \(2\), found int32 of shape \(3,\)",
            ),
            (
                lambda: Pairs(zeros("int32", 2), zeros("int32", 2), zeros("float32", 2)),
                r"pairs: pixel_uv: expected float32 of shape \(2, 2\)",
            ),
            (
                lambda: Prediction(zeros("uint8", 3), zeros("float32", 4)),
                r"must have one shape, found \(3,\) and \(4,\)",
            ),
        ],
    )
    def test_says_what_was_expected_and_found(self, make: Callable[[], object], message: str) -> None:
        with pytest.raises(DataError, match=message):
            make()

    def test_optional_parts(self) -> None:
        assert frame(depth_m=None).depth_m is None
        assert FrameTruth(zeros("uint8", 2, 3)).instances is None
        assert Scene("room", zeros("float32", 0, 3), None, Frames.of([])).rgb is None
        assert Masks(zeros("uint16", 2, 3), zeros("float16", 1, 2, 2)).ids.shape == (2, 3)


def test_frame_size_and_key() -> None:
    assert (frame().height, frame().width, frame().key) == (4, 6, "room/f0")


class TestFrames:
    def test_are_read_when_used_and_not_kept(self) -> None:
        read: list[str] = []

        def make(name: str) -> Frame:
            read.append(name)
            return frame(name)

        frames = Frames(["a", "b", "c"], make)
        assert (len(frames), frames.names, read) == (3, ("a", "b", "c"), [])
        assert frames[1].name == "b"
        assert frames[-1].name == "c"
        assert read == ["b", "c"]
        part = frames[1:]
        assert isinstance(part, Frames)
        assert part.names == ("b", "c")
        assert read == ["b", "c"]
        assert [one.name for one in frames] == ["a", "b", "c"]
        assert len(read) == 5
        assert [one.name for one in frames.only(["c", "a"])] == ["c", "a"]

    def test_in_memory(self) -> None:
        a, b = frame("a"), frame("b")
        frames = Frames.of([b, a])
        assert frames[0] is b
        assert list(frames) == [b, a]

    def test_beyond_the_end(self) -> None:
        with pytest.raises(IndexError):
            Frames.of([frame()])[1]


class TestPairs:
    def test_rows_of_a_frame(self) -> None:
        index = np.array([0, 0, 2, 2, 2, 5], dtype=np.int32)
        pairs = Pairs(index, np.arange(6, dtype=np.int32), zeros("float32", 6, 2))
        assert len(pairs) == 6
        rows = [list(range(6))[pairs.of_frame(i)] for i in range(7)]
        assert rows == [[0, 1], [], [2, 3, 4], [], [], [5], []]

    def test_pixels_have_their_centres_at_integers(self) -> None:
        uv = np.array([[-0.5, 0.49], [0.5, 2.0], [3.49, 1.5]], dtype=np.float32)
        pairs = Pairs(zeros("int32", 3), zeros("int32", 3), uv)
        row, column = pairs.rowcol()
        assert (row.dtype, column.dtype) == (np.int32, np.int32)
        assert (row.tolist(), column.tolist()) == ([0, 2, 2], [0, 1, 3])


class TestPrediction:
    def test_coverage(self) -> None:
        labels = np.array([[0, IGNORE], [3, 1]], dtype=np.uint8)
        assert Prediction(labels, zeros("float32", 2, 2)).coverage == 0.75
        assert Prediction(zeros("uint8", 0), zeros("float32", 0)).coverage == 0.0


@pytest.mark.parametrize(
    ("count", "most", "expected"), [(0, 3, []), (3, 0, []), (3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (5, 1, [0])]
)
def test_frames_are_spread_evenly(count: int, most: int, expected: list[int]) -> None:
    frames = Frames([str(number) for number in range(count)], lambda name: pytest.fail(f"read {name}"))
    assert frames.evenly(most) == expected
