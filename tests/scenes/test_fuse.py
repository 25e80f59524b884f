import shutil
from pathlib import Path

import numpy as np
import pytest

from fixtures_capture import (
    BOX,
    INTRINSICS,
    ROOM,
    open_capture,
    room_frames,
    write_capture,
)
from scenelift.errors import DataError
from scenelift.files import write_ply_points
from scenelift.scenes.capture.fuse import EDGE_RATIO, fuse_depth, inner_pixels
from scenelift.types import Frame


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "room", room_frames(5))


def slow_fusion(frames, voxel_m, max_depth_m):
    """Pixel by pixel, with a dictionary."""
    cells: dict[tuple[int, ...], list[np.ndarray]] = {}
    for frame in frames:
        inner, height, width = inner_pixels(frame.depth_m), *frame.depth_m.shape
        world_from_cam = np.linalg.inv(frame.cam_from_world)
        for row in range(height):
            for column in range(width):
                z = float(frame.depth_m[row, column])
                if not inner[row, column] or z > max_depth_m:
                    continue
                ray = np.linalg.inv(frame.intrinsics) @ [column, row, 1.0]
                point = (world_from_cam @ [*(ray * z), 1.0])[:3]
                cell = tuple(int(np.floor(x / voxel_m)) for x in point)
                cells.setdefault(cell, []).append(np.concatenate([point, frame.image[row, column]]))
    means = np.array([np.mean(cells[cell], axis=0) for cell in sorted(cells)])
    return means[:, :3], means[:, 3:]


def test_fusion_against_the_slow_reference():
    frames = room_frames(3)
    points_world, rgb = fuse_depth(frames, 0.0503, 2.5)
    slow_points, slow_rgb = slow_fusion(frames, 0.0503, 2.5)
    assert points_world.dtype == np.float32
    assert rgb.dtype == np.uint8
    assert points_world.shape == slow_points.shape
    assert np.allclose(points_world, slow_points, atol=1e-6)
    assert np.abs(rgb - slow_rgb).max() <= 0.5 + 1e-9


def test_fusing_in_many_merges_changes_nothing(monkeypatch):
    frames = room_frames(6)
    once = fuse_depth(frames, 0.05, 8.0)
    monkeypatch.setattr("scenelift.scenes.capture.fuse._MERGE_ROWS", 1)
    often = fuse_depth(iter(frames), 0.05, 8.0)
    assert np.allclose(once[0], often[0], atol=1e-6)
    assert np.array_equal(once[1], often[1])


def test_fused_points_lie_on_the_surfaces_of_the_room(folder):
    source = open_capture(folder, cloud_voxel_m=0.05)
    scene = source.scene("room")
    distance = np.abs(surface_distance(scene.points_world.astype(float)))
    # A voxel's mean may lie off the surface only where it holds several surfaces (corners), by its size.
    assert np.percentile(distance, 90) < 0.002
    assert distance.max() < 0.05
    assert source.scene("room").points_world is scene.points_world  # fused once


def surface_distance(points):
    to_room = np.minimum(points - ROOM[0], ROOM[1] - points).min(-1)
    outside_box = np.linalg.norm(np.maximum(0, np.maximum(BOX[0] - points, points - BOX[1])), axis=-1)
    inside_box = np.minimum(points - BOX[0], BOX[1] - points).min(-1)
    return np.minimum(to_room, np.where(outside_box > 0, outside_box, inside_box))


def test_pixels_on_depth_edges_are_not_fused():
    depth = np.full((5, 6), 2.0, np.float32)
    depth[:, 3] = 2.5  # one flying column between 2 m and 3 m
    depth[:, 4:] = 3.0
    depth[0, 0] = 0.0
    inner = inner_pixels(depth)
    assert not inner[:, 2:5].any()
    assert inner[1:, :2].all()
    assert inner[:, 5].all()
    assert not inner[0, 0]
    assert inner[0, 1]  # a hole is not an edge
    slope = np.cumprod(np.full((4, 8), 1 + 0.9 * EDGE_RATIO, np.float32), axis=1)
    assert inner_pixels(slope).all()


def test_max_depth_and_empty_depth():
    frames = room_frames(2)
    near = fuse_depth(frames, 0.05, 1.2)[0]
    assert 0 < len(near) < len(fuse_depth(frames, 0.05, 8.0)[0])
    with pytest.raises(DataError, match="found none in any frame"):
        fuse_depth(frames, 0.05, 0.01)
    with pytest.raises(DataError, match="found none in any frame"):
        fuse_depth([], 0.05, 8.0)
    without_depth = Frame("s", "f", frames[0].image, INTRINSICS, frames[0].cam_from_world)
    assert np.array_equal(
        fuse_depth([*frames, without_depth], 0.05, 8.0)[0], fuse_depth(frames, 0.05, 8.0)[0]
    )


def test_world_too_wide_for_the_voxels():
    frame = room_frames(1)[0]
    pose = frame.cam_from_world.copy()
    pose[:3, 3] += 5e6
    far = Frame("s", "f", frame.image, frame.intrinsics, pose, frame.depth_m)
    with pytest.raises(DataError, match="move the origin into the scene"):
        fuse_depth([far], 0.02, 8.0)


def test_a_given_cloud_is_used(folder):
    points = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    rgb = np.full((7, 3), 9, np.uint8)
    write_ply_points(folder / "scan.ply", points, rgb)
    scene = open_capture(folder).scene("room")
    assert np.array_equal(scene.points_world, points)
    assert np.array_equal(scene.rgb, rgb)
    shutil.copy(folder / "scan.ply", folder / "other.ply")
    with pytest.raises(DataError, match=r"found other\.ply, scan\.ply; rename the one to use to cloud\.ply"):
        open_capture(folder).scene("room")
    write_ply_points(folder / "cloud.ply", points[:3], rgb[:3])
    assert len(open_capture(folder).scene("room").points_world) == 3
    write_ply_points(folder / "cloud.ply", points[:0], None)
    with pytest.raises(DataError, match=r"found none; delete the file to have the cloud fused"):
        open_capture(folder).scene("room")
