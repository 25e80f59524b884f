from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenelift.classes import SCANNET20
from scenelift.config import SyntheticData
from scenelift.errors import DataError
from scenelift.scenes import SceneSource, TruthSource, synthetic
from scenelift.scenes.synthetic import SyntheticRooms, render_room
from scenelift.scenes.synthetic.layout import KINDS, make_layout
from scenelift.scenes.synthetic.room import CLOUD_VOXEL_M
from scenelift.scenes.synthetic.textures import Paint
from scenelift.types import IGNORE

WALL, FLOOR = (SCANNET20.names.index(name) for name in ("wall", "floor"))
CONFIG = SyntheticData(train_rooms=3, val_rooms=12)


@lru_cache(maxsize=1)
def rooms() -> SyntheticRooms:
    return SyntheticRooms(CONFIG)


def every_val_frame():
    """(frame, its truth, scene, the scene's truth) of the validation rooms."""
    for name in rooms().names("val"):
        scene, truth = rooms().scene(name), rooms().truth.scene(name)
        for frame in scene.frames:
            yield frame, rooms().truth.frame(name, frame.name), scene, truth


def project(points, frame):
    """Plain pinhole projection in float64: pixel (u, v) and depth."""
    cam = points.astype(np.float64) @ frame.cam_from_world[:3, :3].T + frame.cam_from_world[:3, 3]
    uv = cam @ frame.intrinsics.T
    return uv[:, :2] / uv[:, 2:], cam[:, 2]


def pairs_within(scene, frame, tolerance_m):
    """Points a frame sees by the depth test: point indices, rows, columns, error of the depth."""
    uv, z = project(scene.points_world, frame)
    with np.errstate(invalid="ignore"):
        column, row = np.floor(uv + 0.5).astype(np.int64).T
    inside = (z > 0) & (column >= 0) & (column < frame.width) & (row >= 0) & (row < frame.height)
    index = np.flatnonzero(inside)
    row, column = row[index], column[index]
    error = frame.depth_m[row, column] - z[index]
    close = np.abs(error) <= tolerance_m
    return index[close], row[close], column[close], error[close]


def away_from_borders(image):
    """Pixels whose eight neighbours hold the same value: there, a pixel's centre speaks for all of it."""
    same = np.ones(image.shape, bool)
    for axis in (0, 1):
        for step in (-1, 1):
            same &= np.roll(image, step, axis) == image
            for other in (-1, 1):
                same &= np.roll(np.roll(image, step, axis), other, 1 - axis) == image
    same[[0, -1]] = same[:, [0, -1]] = False
    return same


# --- the source -----------------------------------------------------------------------------------


def test_it_is_a_scene_source_with_a_second_door():
    source: SceneSource = rooms()
    truth: TruthSource | None = source.truth
    assert truth is not None
    assert source.classes is SCANNET20
    assert truth.classes is SCANNET20
    assert source.names("train") == ("room_0000", "room_0001", "room_0002")
    assert source.names("val")[-1] == "room_v0011"
    assert not {"labels", "instances", "frame_truth", "scene_truth"} & set(dir(source.scene("room_v0000")))


def test_shapes_types_and_names():
    scene = rooms().scene("room_v0000")
    truth = rooms().truth.scene("room_v0000")
    assert scene.name == "room_v0000"
    assert len(scene.frames) == CONFIG.frames_per_room
    assert scene.points_world.dtype == np.float32
    assert scene.rgb.shape == scene.points_world.shape
    assert len(truth.labels) == len(scene.points_world)
    for frame in scene.frames:
        of_frame = rooms().truth.frame(scene.name, frame.name)
        assert frame.scene == scene.name
        assert frame.image.shape == (120, 160, 3)
        assert frame.depth_m.dtype == np.float32
        assert of_frame.labels.shape == of_frame.instances.shape == (120, 160)


@pytest.mark.parametrize(
    "name", ["room_0003", "room_v0012", "room_", "room_00001", "room_v00", "kitchen", "", "room_٠٠٠١"]
)
def test_unknown_rooms_are_told(name):
    with pytest.raises(DataError, match="room_0000 to room_0002, room_v0000 to room_v0011"):
        rooms().scene(name)
    with pytest.raises(DataError, match="there is no room"):
        rooms().truth.scene(name)


def test_unknown_frames_and_splits_are_told():
    with pytest.raises(DataError, match="frame_000 to frame_007, found 'frame_8'"):
        rooms().truth.frame("room_v0000", "frame_8")
    with pytest.raises(DataError, match="found 'test'"):
        rooms().names("test")


def test_a_source_without_validation_rooms():
    source = SyntheticRooms(SyntheticData(train_rooms=1, val_rooms=0))
    assert source.names("val") == ()
    with pytest.raises(DataError, match="there are room_0000 to room_0000"):
        source.scene("room_v0000")


def test_threads_render_a_room_once(monkeypatch):
    asked = []

    def slow(config, split, index, name):
        asked.append(name)
        time.sleep(0.05)
        return render_room(config, split, index, name)

    monkeypatch.setattr(synthetic, "render_room", slow)
    small = SyntheticRooms(SyntheticData(width=40, height=32, frames_per_room=2))
    assert small.frame_count("room_0000") == 2
    assert asked == []  # counting renders nothing
    with ThreadPoolExecutor(4) as pool:
        scenes = list(pool.map(small.scene, ["room_0000"] * 8))
    assert asked == ["room_0000"]
    assert all(scene.points_world is scenes[0].points_world for scene in scenes)


def test_rooms_are_rendered_once_and_forgotten_when_memory_is_full(monkeypatch):
    small = SyntheticData(train_rooms=3, frames_per_room=1, width=32, height=32)
    rendered = []

    def counted(config, split, index, name):
        rendered.append(name)
        return render_room(config, split, index, name)

    monkeypatch.setattr(synthetic, "render_room", counted)
    source = SyntheticRooms(small)
    scene = source.scene("room_0000")
    assert scene.frames[0] is scene.frames[0]
    source.truth.frame("room_0000", "frame_000")
    source.truth.scene("room_0000")
    source.scene("room_0001")
    source.scene("room_0000")
    assert rendered == ["room_0000", "room_0001"]
    room_bytes = render_room(small, "train", 0, "room_0000").nbytes
    monkeypatch.setattr(synthetic, "_KEEP_BYTES", int(2.3 * room_bytes))
    source.scene("room_0002")  # room_0001 was used longest ago
    source.scene("room_0000")
    assert rendered == ["room_0000", "room_0001", "room_0002"]
    source.scene("room_0001")
    assert rendered[3:] == ["room_0001"]


def test_nbytes_counts_every_array():
    room = render_room(SyntheticData(width=40, height=32, frames_per_room=2), "val", 1, "r")
    arrays = [room.points_world, room.rgb, room.scene_truth.labels, room.scene_truth.instances]
    for frame, truth in zip(room.frames.values(), room.frame_truth.values(), strict=True):
        arrays += [frame.image, frame.depth_m, truth.labels, truth.instances]
    assert room.nbytes == sum(array.nbytes for array in arrays)


# --- determinism ----------------------------------------------------------------------------------


def same_room(a, b):
    same = np.array_equal(a.points_world, b.points_world) and np.array_equal(a.rgb, b.rgb)
    frames = zip(a.frames.values(), b.frames.values(), strict=True)
    same &= all(np.array_equal(x.image, y.image) and np.array_equal(x.depth_m, y.depth_m) for x, y in frames)
    return same & np.array_equal(a.scene_truth.instances, b.scene_truth.instances)


def test_a_room_depends_on_seed_split_and_number_alone():
    def at(seed=5, split="train", index=1, **more):
        config = SyntheticData(seed=seed, width=48, height=36, frames_per_room=2, **more)
        return render_room(config, split, index, "r")

    room = at()
    assert same_room(room, at())
    assert same_room(room, at(train_rooms=1000, val_rooms=3))
    for other in (at(seed=6), at(split="val"), at(index=5)):
        assert not np.array_equal(room.points_world, other.points_world)
        assert room.kind == other.kind


def test_image_size_and_frame_count_leave_room_and_cloud_alone():
    small = render_room(SyntheticData(width=32, height=32, frames_per_room=1), "train", 2, "r")
    large = render_room(SyntheticData(width=96, height=64, frames_per_room=3), "train", 2, "r")
    assert np.array_equal(small.points_world, large.points_world)
    assert np.array_equal(small.rgb, large.rgb)
    assert np.array_equal(small.scene_truth.labels, large.scene_truth.labels)
    assert next(iter(large.frames.values())).image.shape == (64, 96, 3)


# --- what is in the rooms -------------------------------------------------------------------------


def test_all_classes_occur_in_frames_and_clouds_of_ten_rooms():
    for split, first in (("val", 0), ("val", 2)):
        in_2d, in_3d = set(), set()
        for name in rooms().names(split)[first : first + 10]:
            in_3d |= set(np.unique(rooms().truth.scene(name).labels))
            for frame in rooms().scene(name).frames:
                in_2d |= set(np.unique(rooms().truth.frame(name, frame.name).labels))
        assert in_3d == set(range(20))
        assert in_2d - {IGNORE} == set(range(20))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_every_kind_holds_what_makes_it(kind, seed):
    must = {
        "bathroom": {"toilet", "sink", "bathtub", "shower curtain", "door"},
        "bedroom": {"bed", "cabinet", "window", "curtain", "door", "picture"},
        "living": {"sofa", "table", "bookshelf", "desk", "chair", "window", "curtain", "door", "picture"},
        "kitchen": {"counter", "cabinet", "sink", "refrigerator", "window", "door"},
    }[kind]
    layout = make_layout(np.random.default_rng(seed), kind)
    assert must <= {item.name for item in layout.furniture}
    low, high = np.array([item.bounds() for item in layout.furniture]).transpose(1, 0, 2)
    half = np.array(layout.size[:2]) / 2
    assert (low[:, :2] >= -half - 0.011).all()
    assert (high[:, :2] <= half + 0.011).all()
    assert (low[:, 2] >= -0.011).all()
    assert (high[:, 2] <= layout.size[2] + 0.011).all()


def test_instances_of_one_class_look_different():
    rng = np.random.default_rng(0)
    colors = np.array([Paint(rng, "sofa").main().color for _ in range(40)])
    assert (colors.std(0) > 0.08).all()


def test_each_instance_has_one_class_and_the_same_id_in_frames_and_cloud():
    for name in rooms().names("val"):
        truth = rooms().truth.scene(name)
        classes: dict[int, set[int]] = {}
        parts = [rooms().truth.frame(name, frame.name) for frame in rooms().scene(name).frames]
        for part in [truth, *parts]:
            assert (part.instances > 0).all()
            for both in np.unique(part.instances.astype(np.int64) * 256 + part.labels):
                classes.setdefault(int(both >> 8), set()).add(int(both & 255))
        assert all(len(labels) == 1 for labels in classes.values())
        of_class = [labels.pop() for labels in classes.values()]
        assert of_class.count(FLOOR) == 1
        assert 2 <= of_class.count(WALL) <= 4


def test_frames_show_furniture_in_daylight():
    shares, means = [], []
    for frame, truth, _, _ in every_val_frame():
        shares.append(np.mean((truth.labels != WALL) & (truth.labels != FLOOR) & (truth.labels != IGNORE)))
        means.append(frame.image.mean())
    assert np.mean(shares) > 0.3
    assert np.quantile(shares, 0.1) > 0.1
    assert 70 < np.mean(means) < 190


def test_frames_together_see_most_of_a_room():
    for name in rooms().names("val"):
        scene = rooms().scene(name)
        seen = np.zeros(len(scene.points_world), bool)
        for frame in scene.frames:
            seen[pairs_within(scene, frame, 0.05)[0]] = True
        assert seen.mean() > 0.55


# --- geometry: frames and cloud are of one room ------------------------------------------------------


def test_poses_are_rigid_upright_and_inside_at_eye_height():
    for frame, _, scene, _ in every_val_frame():
        rotation = frame.cam_from_world[:3, :3]
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
        assert np.array_equal(frame.cam_from_world[3], (0, 0, 0, 1))
        eye = -rotation.T @ frame.cam_from_world[:3, 3]
        assert 1.2 < eye[2] < 1.7
        assert (scene.points_world.min(0) < eye).all()
        assert (scene.points_world.max(0) > eye).all()
        assert rotation[1, 2] < -0.7  # the image's y axis points down
        assert abs(rotation[0, 2]) < 1e-12  # and its x axis is level


def test_every_pixel_has_depth_on_a_surface_of_its_own_instance():
    for frame, truth, scene, of_points in every_val_frame():
        assert (frame.depth_m > 0.1).all()
        assert frame.depth_m.max() < 7
        v, u = np.mgrid[: frame.height, : frame.width]
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(frame.intrinsics).T
        cam = rays * frame.depth_m[..., None]
        world = (cam - frame.cam_from_world[:3, 3]) @ frame.cam_from_world[:3, :3]
        floor = truth.labels == FLOOR
        assert np.abs(world[floor][:, 2]).max(initial=0) < 1e-4
        low, high = scene.points_world.min(0) - 0.01, scene.points_world.max(0) + 0.2
        assert ((world > low) & (world < high)).all()
        for instance in np.unique(truth.instances[truth.labels != IGNORE]):
            mine = scene.points_world[of_points.instances == instance]
            pixels = world[truth.instances == instance]
            if len(mine) > 200:
                assert (pixels > mine.min(0) - 0.12).all(), frame.key
                assert (pixels < mine.max(0) + 0.12).all(), frame.key


def test_points_project_onto_pixels_of_their_depth_label_and_instance():
    pairs = agree = inner = inner_agree = inner_instance = 0
    errors = []
    for frame, truth, scene, of_points in every_val_frame():
        index, row, column, error = pairs_within(scene, frame, 0.05)
        same = of_points.labels[index] == truth.labels[row, column]
        inside = away_from_borders(truth.instances)[row, column]
        pairs += len(index)
        agree += same.sum()
        inner += inside.sum()
        inner_agree += (same & inside).sum()
        inner_instance += (inside & (of_points.instances[index] == truth.instances[row, column])).sum()
        errors.append(error[inside])
    assert pairs > 5000 * len(errors)
    assert inner > 0.75 * pairs
    assert agree / pairs > 0.97
    assert inner_agree / inner > 0.999
    assert inner_instance / inner > 0.999
    error = np.concatenate(errors)
    assert abs(np.median(error)) < 1e-3
    assert np.quantile(np.abs(error), 0.5) < 0.01


def test_cloud_colour_is_the_colour_of_the_pixel():
    difference, shuffled = [], []
    for frame, truth, scene, _ in every_val_frame():
        index, row, column, _ = pairs_within(scene, frame, 0.02)
        inside = away_from_borders(truth.instances)[row, column]
        pixels = frame.image[row, column][inside].astype(float)
        points = scene.rgb[index][inside].astype(float)
        difference.append(np.abs(pixels - points).mean())
        shuffled.append(np.abs(pixels - np.roll(points, len(points) // 2, 0)).mean())
    assert np.mean(difference) < 12
    assert np.mean(difference) < 0.5 * np.mean(shuffled)


def test_cloud_is_thinned_and_without_ceiling():
    for name in rooms().names("val"):
        points, truth = rooms().scene(name).points_world, rooms().truth.scene(name)
        cells = np.floor(points / np.float32(CLOUD_VOXEL_M)).astype(np.int64)
        assert len(np.unique(cells, axis=0)) == len(points)
        assert 20_000 < len(points) < 60_000
        assert IGNORE not in truth.labels
