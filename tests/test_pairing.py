"""Pairing against a loop over frames and points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenelift.config import PairingConfig
from scenelift.errors import DataError
from scenelift.geometry import look_at
from scenelift.pairing import coverage, pair_points
from scenelift.types import F32, F64, Frame, Frames, Pairs

HEIGHT, WIDTH = 24, 32
INTRINSICS = np.array([[30.0, 0.0, 15.5], [0.0, 28.0, 11.5], [0.0, 0.0, 1.0]])
AHEAD = np.eye(4)
"""A camera at the origin that looks along +z."""


def make_frame(name: str = "0", depth_m: F32 | float | None = 2.0, cam_from_world: F64 = AHEAD) -> Frame:
    if isinstance(depth_m, float):
        depth_m = np.full((HEIGHT, WIDTH), depth_m, np.float32)
    return Frame("room", name, np.zeros((HEIGHT, WIDTH, 3), np.uint8), INTRINSICS, cam_from_world, depth_m)


def cloud(*points: tuple[float, float, float]) -> F32:
    return np.array(points, np.float32).reshape(-1, 3)


def pair_loop(points: F32, frames: Sequence[Frame], config: PairingConfig) -> list[tuple[int, int, int, int]]:
    """Method step 4 in words: every (frame, point, row, column)."""
    pairs = []
    for f, frame in enumerate(frames):
        for p, point in enumerate(points.astype(np.float64)):
            x, y, z = (frame.cam_from_world @ np.append(point, 1))[:3]
            if not z > config.min_depth_m:
                continue
            u = np.float32(INTRINSICS[0, 0] * x / z + INTRINSICS[0, 2])
            v = np.float32(INTRINSICS[1, 1] * y / z + INTRINSICS[1, 2])
            column, row = int(np.floor(u + np.float32(0.5))), int(np.floor(v + np.float32(0.5)))
            if not (0 <= column < frame.width and 0 <= row < frame.height):
                continue
            if config.depth_test != "none":
                assert frame.depth_m is not None
                depth = float(frame.depth_m[row, column])
                absolute = config.depth_test == "absolute"
                tolerance = config.depth_tolerance_m if absolute else config.depth_tolerance_ratio * z
                if depth == 0 or abs(depth - z) > tolerance:
                    continue
            pairs.append((f, p, row, column))
    return pairs


def rows_of(pairs: Pairs) -> list[tuple[int, ...]]:
    row, column = pairs.rowcol()
    return [tuple(map(int, r)) for r in zip(pairs.frame_index, pairs.point_index, row, column, strict=True)]


def random_view(rng: np.random.Generator, name: str) -> Frame:
    eye, target = (torch.from_numpy(rng.uniform(-2, 2, 3)) for _ in range(2))
    pose = look_at(eye, target, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)).numpy()
    depth = rng.uniform(0.5, 4, (HEIGHT, WIDTH)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.2] = 0
    return make_frame(name, depth, pose)


configs = st.builds(
    PairingConfig,
    depth_test=st.sampled_from(["absolute", "relative", "none"]),
    min_depth_m=st.sampled_from([0.0, 1.0]),
    depth_tolerance_m=st.just(0.4),
)


@given(st.integers(0, 2**32 - 1), configs, st.sampled_from([1, 7, 100]))
@settings(deadline=None, max_examples=40)
def test_matches_loop_for_any_chunk(seed: int, config: PairingConfig, chunk: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(-3, 3, (60, 3)).astype(np.float32)
    frames = [random_view(rng, str(i)) for i in range(3)]
    pairs = pair_points(points, frames, config, chunk=chunk)
    assert rows_of(pairs) == pair_loop(points, frames, config)


def test_chunked_is_bitwise_unchunked() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-3, 3, (5000, 3)).astype(np.float32)
    frames = [random_view(rng, str(i)) for i in range(2)]
    config = PairingConfig(depth_test="relative")
    whole, parts = (pair_points(points, frames, config, chunk=chunk) for chunk in (10_000, 13))
    assert len(whole) > 100
    for name in ("frame_index", "point_index", "pixel_uv"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_points_behind_at_and_too_near() -> None:
    points = cloud((0, 0, -2), (0, 0, 0), (0, 0, 0.5), (0, 0, 1), (0, 0, 1.5))
    seen = pair_points(points, [make_frame()], PairingConfig(depth_test="none"))
    assert seen.point_index.tolist() == [2, 3, 4]
    seen = pair_points(points, [make_frame()], PairingConfig(depth_test="none", min_depth_m=1.0))
    assert seen.point_index.tolist() == [4]


def test_points_that_are_not_finite() -> None:
    points = cloud((np.nan, 0, 2), (0, 0, np.nan), (np.inf, 0, 2), (0, 0, 2))
    assert pair_points(points, [make_frame()], PairingConfig()).point_index.tolist() == [3]


@pytest.mark.parametrize(("u", "inside"), [(-0.51, False), (-0.49, True), (31.49, True), (31.51, False)])
def test_the_image_ends_half_a_pixel_beyond_the_last_centre(u: float, inside: bool) -> None:
    points = cloud(((u - 15.5) / 30 * 2, 0, 2))
    assert len(pair_points(points, [make_frame()], PairingConfig())) == int(inside)


def test_just_inside_in_float64_but_not_as_stored() -> None:
    """At u = 31.5 - 2e-7 float64 would still say column 31; the stored float32 says 32, out of the image."""
    shifted = AHEAD.copy()
    shifted[0, 3] = (31.5 - 2e-7 - 15.5) / 30 * 2
    frame = make_frame(cam_from_world=shifted)
    pairs = pair_points(cloud((0, 0, 2)), [frame], PairingConfig())
    assert np.all(pairs.rowcol()[1] < WIDTH)
    assert len(pairs) == 0


@pytest.mark.parametrize(
    ("config", "seen"),
    [
        (PairingConfig(depth_test="absolute"), [1, 2, 3]),
        (PairingConfig(depth_test="relative"), [1, 2, 3, 4]),
        (PairingConfig(depth_test="none"), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_depth_tests(config: PairingConfig, seen: list[int]) -> None:
    points = cloud(*((0, 0, z) for z in (1.5, 1.96, 2.0, 2.04, 2.6, 2.7)))
    assert pair_points(points, [make_frame(depth_m=2.0)], config).point_index.tolist() == seen


@pytest.mark.parametrize("test", ["absolute", "relative"])
def test_a_hole_in_the_depth_pairs_with_nothing(test: str) -> None:
    """Also not with a point nearer than the tolerance, whose depth is almost the hole's zero."""
    config = PairingConfig.model_validate({"depth_test": test, "depth_tolerance_ratio": 1.5})
    points = cloud((0, 0, 0.04), (0, 0, 2))
    assert len(pair_points(points, [make_frame(depth_m=0.0)], config)) == 0


def test_depth_is_read_at_the_nearest_pixel() -> None:
    depth = np.full((HEIGHT, WIDTH), 5.0, np.float32)
    depth[14, 20] = 2.0
    centre = np.array([(20 - 15.5) / 30 * 2, (14 - 11.5) / 28 * 2, 2.0])
    step = np.array([2 / 30, 2 / 28, 0])
    offsets = np.array([[0, 0], [0.45, -0.45], [-0.45, 0.45], [0.55, 0], [0, -0.55]])
    points = np.stack([centre + step * np.append(o, 0) for o in offsets]).astype(np.float32)
    pairs = pair_points(points, [make_frame(depth_m=depth)], PairingConfig())
    assert pairs.point_index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(pairs.pixel_uv, offsets[:3] + np.array([20, 14]), atol=1e-4)


def test_frames_that_see_nothing_and_empty_clouds() -> None:
    turned = AHEAD.copy()
    turned[[0, 2], [0, 2]] = -1
    frames = [make_frame("0", cam_from_world=turned), make_frame("1"), make_frame("2", cam_from_world=turned)]
    pairs = pair_points(cloud((0, 0, 2), (0, 0, 9)), frames, PairingConfig())
    assert rows_of(pairs) == [(1, 0, 12, 16)]
    assert pairs.of_frame(0) == slice(0, 0)
    stats = coverage(pairs, num_frames=3, num_points=2)
    assert stats.points_per_frame.tolist() == [0, 1, 0]
    assert stats.share_seen == 0.5
    empty = pair_points(cloud(), frames, PairingConfig())
    assert len(empty) == 0
    assert coverage(empty, 3, 0).share_seen == 0.0
    assert len(pair_points(cloud((0, 0, 2)), [], PairingConfig())) == 0


def test_no_depth_image_is_an_error_only_if_depth_is_tested() -> None:
    frames = [make_frame("a"), make_frame("b", depth_m=None)]
    with pytest.raises(DataError, match=r"frame room/b: expected a depth image.*set pairing.depth_test=none"):
        pair_points(cloud((0, 0, 2)), frames, PairingConfig())
    assert len(pair_points(cloud((0, 0, 2)), frames, PairingConfig(depth_test="none"))) == 2


def test_each_frame_is_read_once_in_order_and_arrays_may_be_read_only() -> None:
    read = []

    def reader(name: str) -> Frame:
        read.append(name)
        frame = make_frame(name)
        assert frame.depth_m is not None
        frame.depth_m.setflags(write=False)
        return frame

    points = cloud((0, 0, 2))
    points.setflags(write=False)
    pairs = pair_points(points, Frames(["x", "y", "z"], reader), PairingConfig())
    assert read == ["x", "y", "z"]
    assert pairs.frame_index.tolist() == [0, 1, 2]
