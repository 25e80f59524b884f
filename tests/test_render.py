"""Pictures of point clouds: projection, occlusion, framing, the cut through the room."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures_capture import level_cameras
from scenelift.orientation import upright
from scenelift.render import (
    AZIMUTH_DEG,
    BACKGROUND,
    _splat,
    core,
    cutaway,
    overview_camera,
    render_overview,
    render_points,
    splat_radius,
    viewing_azimuth_deg,
)

INTRINSICS = np.array([[50.0, 0.0, 19.5], [0.0, 50.0, 14.5], [0.0, 0.0, 1.0]])
AT_ORIGIN = np.eye(4)
SIZE = (30, 40)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def _picture(points: list[tuple[float, float, float]], colors: list[tuple[int, int, int]], radius_m: float):
    cloud = np.array(points, np.float32).reshape(-1, 3)
    return render_points(
        cloud, np.array(colors, np.uint8).reshape(-1, 3), INTRINSICS, AT_ORIGIN, SIZE, radius_m
    )


def _room(count: int = 20_000, turn_deg: float = 0.0) -> np.ndarray:
    """Points on the six faces of a 4 × 3 × 2.5 m room and on a box in its middle."""
    rng = np.random.default_rng(0)
    size = np.array([4.0, 3.0, 2.5])
    points = rng.random((count, 3)) * size
    face = rng.integers(0, 6, count)
    points[np.arange(count), face % 3] = np.where(face < 3, 0.0, size[face % 3])
    box = rng.random((count // 10, 3)) * (0.5, 0.5, 0.6) + (1.7, 1.2, 0.0)
    turn = np.radians(turn_deg)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    return (np.concatenate([points, box]) @ rotation.T).astype(np.float32)


def test_a_known_point_lands_on_its_pixel() -> None:
    # u = 50 · 0.21 / 1 + 19.5 = 30, v = 50 · (−0.09) / 1 + 14.5 = 10
    picture = _picture([(0.21, -0.09, 1.0)], [RED], 1e-4)
    assert np.argwhere((picture != BACKGROUND).any(-1)).tolist() == [[10, 30]]
    assert picture[10, 30].tolist() == [255, 0, 0]


@pytest.mark.parametrize("order", [1, -1])
def test_the_nearer_point_hides_the_farther(order: int) -> None:
    picture = _picture([(0.01, 0.01, 1.0), (0.02, 0.02, 2.0)][::order], [RED, BLUE][::order], 1e-4)
    assert picture[15, 20].tolist() == [255, 0, 0]


def test_a_disc_has_the_size_its_depth_asks_for() -> None:
    near, far = (
        (_picture([(0.01 * z, 0.01 * z, z)], [RED], 0.1)[:, :, 1] != BACKGROUND[1]) for z in (1.0, 2.0)
    )
    assert (near.any(0).sum(), near.any(1).sum()) == (11, 11)  # radius 50 · 0.1 / 1 = 5 pixels
    assert (far.any(0).sum(), far.any(1).sum()) == (5, 5)
    assert not near[10, 15]
    assert near[15, 15]


def test_nothing_behind_the_camera_or_beside_the_picture_is_drawn() -> None:
    picture = _picture([(0, 0, -1), (0, 0, 0), (9, 0, 1), (0, -9, 1)], [RED] * 4, 0.05)
    assert (picture == BACKGROUND).all()


def test_a_disc_is_cut_at_the_border() -> None:
    picture = _picture([(-0.39, 0.0, 1.0)], [RED], 0.04)  # u = 0
    covered = np.argwhere((picture != BACKGROUND).any(-1))
    assert covered[:, 1].min() == 0
    assert covered[:, 1].max() == 2


def test_an_empty_cloud_is_an_empty_picture() -> None:
    nothing, no_colors = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    assert (_picture([], [], 0.1) == BACKGROUND).all()
    assert (render_overview(nothing, no_colors, (12, 16)) == BACKGROUND).all()
    assert splat_radius(nothing) > 0


def test_the_far_side_of_a_depth_edge_is_darker_and_flat_ground_is_not() -> None:
    grid = np.stack(np.meshgrid(np.arange(-0.5, 0.5, 0.01), np.arange(-0.5, 0.5, 0.01)), -1).reshape(-1, 2)
    depth = np.where(grid[:, 0] < 0, 1.0, 1.5)
    points = np.column_stack([grid * depth[:, None], depth]).astype(np.float32)
    white = np.full((len(points), 3), 200, np.uint8)
    row = render_points(points, white, INTRINSICS, AT_ORIGIN, SIZE, 0.02)[15, :, 0].astype(int)
    assert row[:18].min() == 200
    assert row[24:].min() == 200
    assert row[18:24].min() < 170


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0.001, 0.2))
def test_splatting_agrees_with_a_loop_over_points(seed: int, count: int, radius_m: float) -> None:
    rng = np.random.default_rng(seed)
    points = (rng.random((count, 3)) * (1.2, 1.0, 2.0) + (-0.6, -0.5, -0.2)).astype(np.float32)
    winner, depth_m = _splat(points, INTRINSICS, AT_ORIGIN, SIZE, radius_m)
    expected = np.full(SIZE, np.inf, np.float32)
    owner = np.zeros(SIZE, int)
    for index, (x, y, z) in enumerate(points.astype(np.float64)):
        if z <= 0:
            continue
        column, row = np.floor(50 * x / z + 20), np.floor(50 * y / z + 15)
        radius = min(50 * radius_m / z, 12)
        for v in range(SIZE[0]):
            for u in range(SIZE[1]):
                close = np.hypot(u - column, v - row) <= radius or (u, v) == (column, row)
                if close and np.float32(z) < expected[v, u]:
                    expected[v, u], owner[v, u] = z, index
    np.testing.assert_array_equal(depth_m, expected)
    np.testing.assert_array_equal(winner[np.isfinite(expected)], owner[np.isfinite(expected)])


@pytest.mark.parametrize("azimuth", [0.0, 70.0, 225.0])
@pytest.mark.parametrize("size", [(90, 160), (160, 90)])
def test_the_camera_frames_the_cloud(azimuth: float, size: tuple[int, int]) -> None:
    cloud = _room() + np.float32([10, -20, 3])
    intrinsics, cam_from_world = overview_camera(cloud, size, azimuth, 45)
    cam = cloud @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    uv = cam @ intrinsics.T
    uv = uv[:, :2] / uv[:, 2:]
    assert (cam[:, 2] > 0).all()
    inside = ((uv > -0.5) & (uv < np.array(size[::-1]) - 0.5)).all(1)
    assert inside.mean() > 0.99
    filled = np.ptp(uv[inside], axis=0) / size[::-1]
    assert filled.max() > 0.9
    np.testing.assert_allclose((uv.max(0) + uv.min(0)) / 2, (np.array(size[::-1]) - 1) / 2, atol=2)
    # z up: a higher point is higher in the picture
    middle = cloud.mean(0)
    two = (
        np.stack([middle, middle + np.float32([0, 0, 0.5])]) @ cam_from_world[:3, :3].T
        + cam_from_world[:3, 3]
    )
    v = (two @ intrinsics.T)[:, 1] / two[:, 2]
    assert v[1] < v[0]


def test_the_camera_stands_where_the_azimuth_says() -> None:
    _, cam_from_world = overview_camera(_room(), (90, 120), 90, 40)
    eye = -cam_from_world[:3, :3].T @ cam_from_world[:3, 3]
    assert eye[1] > 5
    assert abs(eye[0] - 2) < 0.1


@pytest.mark.parametrize("turn", [0.0, 30.0])
def test_cutting_away_opens_the_near_walls_and_the_ceiling_only(turn: float) -> None:
    level = _room()
    drawn = cutaway(_room(turn_deg=turn), 225 + turn)  # the camera stands towards −x, −y of the room
    x, y, z = level.T
    assert not drawn[z > 2.4].any()
    assert not drawn[(x < 0.01) & (z > 0.3)].any()
    assert not drawn[(y < 0.01) & (z > 0.3)].any()
    assert drawn[(x > 3.99) & (z < 2.2) & (y > 0.3)].all()
    assert drawn[(y > 2.99) & (z < 2.2) & (x > 0.3)].all()
    assert drawn[z < 0.2].all()
    assert drawn[-2000:].all()  # the box in the middle


def test_the_overview_shows_what_stands_inside() -> None:
    cloud = _room()
    colors = np.full((len(cloud), 3), 180, np.uint8)
    colors[-2000:] = RED
    picture = render_overview(cloud, colors, (120, 160)).astype(int)
    red = (picture[..., 0] > 120) & (picture[..., 1] < 60)
    assert picture.shape == (120, 160, 3)
    assert red.sum() > 100
    assert (np.abs(picture - BACKGROUND).sum(-1) < 3).mean() < 0.8


def test_the_view_does_not_depend_on_colours() -> None:
    cloud = _room(3000)
    dark, bright = (
        render_overview(cloud, np.full((len(cloud), 3), value, np.uint8), (60, 80)) for value in (30, 90)
    )
    background = (dark == BACKGROUND).all(-1)
    np.testing.assert_array_equal(background, (bright == BACKGROUND).all(-1))
    assert 0.1 < background.mean() < 0.9


@pytest.mark.parametrize("spacing", [0.02, 0.05])
def test_the_splat_radius_follows_the_spacing(spacing: float) -> None:
    grid = np.stack(np.meshgrid(np.arange(0, 3, spacing), np.arange(0, 3, spacing), [0.0]), -1)
    radius = splat_radius(grid.reshape(-1, 3).astype(np.float32))
    assert spacing < radius < 1.3 * spacing


def test_the_view_of_a_capture_is_from_the_cameras_side() -> None:
    up_world = np.array([0.0, -1.0, 0.0])
    azimuth = viewing_azimuth_deg(level_cameras([(0.3, 0.2, 1), (-0.3, 0.2, 1)]), up_world)
    ahead = upright(np.array([[0, 0, 1]], np.float32), up_world)[0]
    stands = np.array([np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth)), 0])
    np.testing.assert_allclose(stands, -ahead, atol=0.03)


def test_cameras_that_look_all_around_are_shown_from_the_usual_side() -> None:
    around = level_cameras([(1, 0.4, 0), (0, 0.4, 1), (-1, 0.4, 0.1), (0, 0.4, -1)])
    assert viewing_azimuth_deg(around, np.array([0.0, -1.0, 0.0])) == AZIMUTH_DEG


def test_a_lidars_far_points_are_left_out_of_the_overview() -> None:
    rng = np.random.default_rng(0)
    near = rng.uniform(-10, 10, (9300, 3)).astype(np.float32)
    far = rng.uniform(-80, 80, (700, 3)).astype(np.float32)
    kept = core(np.concatenate([near, far]))
    assert kept[:9300].all()
    assert kept[9300:].mean() < 0.2


def test_a_room_is_drawn_whole() -> None:
    rng = np.random.default_rng(0)
    assert core(rng.uniform(0, 5, (5000, 3)).astype(np.float32)).all()
    assert core(np.zeros((0, 3), np.float32)).shape == (0,)
    assert core(np.zeros((3, 3), np.float32)).all()
