from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fixtures_capture import INTRINSICS, SHAPE, cast, open_capture, room_frames, write_capture
from scenelift.errors import DataError
from scenelift.scenes.capture.fuse import inner_pixels
from scenelift.scenes.depth_files import metres
from scenelift.scenes.rgbd import RgbdCamera, camera_fault, complete_intrinsics, scale_intrinsics


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "room", room_frames(5))


def test_no_depth_is_0_and_65535():
    stored = np.array([[0, 65535, 1500, 65534]], np.uint16)
    assert metres(stored, 1000.0).tolist() == [[0.0, 0.0, 1.5, pytest.approx(65.534)]]
    assert metres(stored, 5000.0).dtype == np.float32


def test_depth_scale(tmp_path):
    folder = write_capture(tmp_path / "room", room_frames(2), units_per_metre=5000.0)
    assert np.allclose(
        open_capture(folder, depth_scale=5000.0).frames()[0].depth_m, room_frames(2)[0].depth_m, atol=2e-4
    )


def test_depth_of_another_camera_lands_on_the_pixel_of_the_same_ray(tmp_path):
    """Reference: cast colour and depth with their own intrinsics; registered depth is the colour camera's."""
    frames = room_frames(2)
    folder = write_capture(tmp_path / "room", frames)
    (folder / "intrinsics.txt").unlink()
    depth_k = np.array([[45.0, 0.0, 38.0], [0.0, 46.0, 30.0], [0.0, 0.0, 1.0]])
    np.savetxt(folder / "intrinsics_color.txt", INTRINSICS)
    (folder / "intrinsic").mkdir()
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", np.pad(depth_k, (0, 1)) + np.diag([0, 0, 0, 1]))
    for frame in frames:
        depth_m = cast(frame.cam_from_world, depth_k, (60, 80))[1]
        Image.fromarray((depth_m * 1000).astype(np.uint16)).save(folder / "depth" / f"{frame.name}.png")
    for have, want in zip(open_capture(folder).frames(), frames, strict=True):
        assert have.depth_m.shape == SHAPE
        inner = inner_pixels(want.depth_m) & (have.depth_m > 0)
        assert inner.mean() > 0.8
        assert np.percentile(np.abs(have.depth_m - want.depth_m)[inner] / want.depth_m[inner], 99) < 0.04


@settings(deadline=None, max_examples=30)
@given(
    size=st.tuples(st.integers(4, 20), st.integers(4, 20)),
    depth_size=st.tuples(st.integers(4, 20), st.integers(4, 20)),
    focal=st.floats(3, 30),
    depth_focal=st.floats(3, 30),
    max_width=st.none() | st.integers(2, 12),
)
def test_register_against_a_loop_over_pixels(size, depth_size, focal, depth_focal, max_width):
    k = np.array([[focal, 0, size[1] / 2], [0, focal * 1.1, size[0] / 2], [0, 0, 1.0]])
    depth_k = np.array(
        [[depth_focal, 0, depth_size[1] / 2.1], [0, depth_focal, depth_size[0] / 1.9], [0, 0, 1.0]]
    )
    camera = RgbdCamera(size, depth_size, k, depth_k, max_width)
    depth = np.arange(1, depth_size[0] * depth_size[1] + 1, dtype=np.float32).reshape(depth_size)
    got = camera.register(depth)
    assert got.shape == camera.shape
    for (row, column), value in np.ndenumerate(got):
        ray = np.linalg.inv(camera.intrinsics) @ [column, row, 1.0]
        u, v, _ = depth_k @ ray
        if min(abs(u % 1 - 0.5), abs(v % 1 - 0.5)) < 1e-9:
            continue  # a tie between two pixels: either is nearest
        i, j = round(v), round(u)
        inside = 0 <= i < depth_size[0] and 0 <= j < depth_size[1]
        assert value == (depth[i, j] if inside else 0.0)


def test_max_width_keeps_rays_and_averages_colour(tmp_path):
    folder = write_capture(tmp_path / "room", room_frames(2))
    full, half = open_capture(folder).frames()[0], open_capture(folder, max_width=32).frames()[0]
    assert half.image.shape == (24, 32, 3)
    mean = full.image.reshape(24, 2, 32, 2, 3).astype(float).mean((1, 3))
    assert np.abs(half.image - mean).max() <= 1.0  # Pillow rounds rows, then columns
    # The corner of the image, (-0.5, -0.5) in any size, is one ray.
    corner = [-0.5, -0.5, 1.0]
    assert np.allclose(np.linalg.inv(half.intrinsics) @ corner, np.linalg.inv(full.intrinsics) @ corner)
    true_depth = cast(full.cam_from_world, half.intrinsics, (24, 32))[1]
    inner = inner_pixels(true_depth)
    assert np.percentile(np.abs(half.depth_m - true_depth)[inner] / true_depth[inner], 99) < 0.04
    assert open_capture(folder, max_width=64).frames()[0].image.shape == full.image.shape


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(st.integers(2, 50), st.integers(2, 50)),
    other=st.tuples(st.integers(2, 50), st.integers(2, 50)),
)
def test_scaling_intrinsics_there_and_back(shape, other):
    assert np.allclose(scale_intrinsics(scale_intrinsics(INTRINSICS, shape, other), other, shape), INTRINSICS)


def test_one_file_of_intrinsics_serves_both_cameras_if_they_show_the_same():
    shapes = {"color": (96, 128), "depth": (48, 64)}
    both = complete_intrinsics({"depth": INTRINSICS}, shapes, Path("x"))
    assert np.allclose(both["color"], [[100, 0, 63.5], [0, 100, 47.5], [0, 0, 1]])
    assert both["depth"] is INTRINSICS
    shapes["depth"] = (48, 48)
    with pytest.raises(DataError, match=r"only the color camera's.* write intrinsic_depth\.txt"):
        complete_intrinsics({"color": INTRINSICS}, shapes, Path("x"))


def test_frames_of_another_size_are_refused(folder):
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(folder / "color" / "2.png")
    Image.fromarray(np.ones((24, 32), np.uint16)).save(folder / "depth" / "3.png")
    frames = open_capture(folder).frames()
    for index in (2, 3):
        with pytest.raises(
            DataError, match=rf"64 × 48 pixels as in the first frame at .*{index}\.png, found 32 × 24"
        ):
            frames[index]


@pytest.mark.parametrize(
    ("change", "complains"),
    [
        ({}, False),
        ({(0, 2): 63.5, (1, 2): 47.5}, True),
        ({(0, 2): 18.0}, True),
        ({(0, 0): 1.0, (1, 1): 1.0}, True),
        ({(1, 1): 80.0}, True),
    ],
)
def test_camera_fault(change, complains):
    intrinsics = INTRINSICS.copy()
    for place, value in change.items():
        intrinsics[place] = value
    assert bool(camera_fault(intrinsics, SHAPE)) == complains
