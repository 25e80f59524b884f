"""Every layout of a capture opens to the same frames; and what each of them says when it is damaged."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures_capture import INTRINSICS, SHAPE, camera_path, cast, open_capture, room_frames, write_capture
from fuzzing import MANY, QUICK, only_data_errors
from layouts_capture import (
    FLIP_YZ,
    START_S,
    WRITERS,
    log_text,
    open3d_intrinsics,
    transforms_tree,
    write_color,
    write_depth,
    write_redwood,
    write_transforms,
    write_tum,
)
from scenelift.config import PairingConfig
from scenelift.errors import DataError
from scenelift.files import write_ply_points
from scenelift.pairing import coverage, pair_points
from scenelift.scenes.capture.layouts import LAYOUTS, find_layout
from scenelift.scenes.capture.redwood import read_log, read_open3d_intrinsics
from scenelift.scenes.capture.transforms import transforms_layout
from scenelift.scenes.capture.tum import tum_layout
from scenelift.scenes.folders import inside
from scenelift.types import Frame

HALF_UNIT_M = {
    "tum": 0.00011,
    "scannet": 0.00051,
    "7scenes": 0.00051,
    "transforms": 0.00051,
    "redwood": 0.00051,
}


def edit_json(path: Path, **changes: Any) -> None:
    tree = json.loads(path.read_text())
    tree.update(changes)
    path.write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))


# --- all layouts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_opens_to_the_same_frames(tmp_path, layout):
    written = room_frames(12)
    source = open_capture(WRITERS[layout](tmp_path / "room", written))
    found = list(source.frames())
    assert len(found) == source.frame_count("room") == 12
    for have, want in zip(found, written, strict=True):
        assert np.array_equal(have.image, want.image)
        assert np.allclose(have.intrinsics, want.intrinsics, atol=1e-9)
        assert np.allclose(have.cam_from_world, want.cam_from_world, atol=1e-6)
        assert np.abs(have.depth_m - want.depth_m).max() <= HALF_UNIT_M[layout]
    assert source.doubtful_frames() == ()
    assert source.lost_frames == ()
    assert source.findings().problems == ()
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert np.array_equal(copy.scene("room").frames[3].image, found[3].image)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "scannet"])
def test_the_cloud_is_seen_as_in_the_scannet_twin(tmp_path, layout):
    frames = room_frames(8)
    points = cast(frames[0].cam_from_world)[2].reshape(-1, 3).astype(np.float32)
    shares = []
    for name in ("scannet", layout):
        folder = WRITERS[name](tmp_path / name, frames)
        write_ply_points(folder / "cloud.ply", points, None)
        scene = open_capture(folder).scene(name)
        assert np.array_equal(scene.points_world, points)
        pairs = pair_points(scene.points_world, scene.frames, PairingConfig())
        shares.append(coverage(pairs, len(scene.frames), len(points)))
    assert shares[1].share_seen == shares[0].share_seen == 1.0
    per_frame = shares[0].points_per_frame
    assert np.abs(shares[1].points_per_frame - per_frame).max() <= 0.001 * per_frame.max()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_of_points_are_those_of_their_pixels(tmp_path, layout):
    """The box is painted red = 255; points of the cloud that lie on it must fall on its pixels."""
    folder = WRITERS[layout](tmp_path / "room", room_frames(8))
    scene = open_capture(folder, cloud_voxel_m=0.04).scene("room")
    on_box = (
        np.abs(np.clip(scene.points_world, [0.3, -0.4, 0], [1.1, 0.5, 0.8]) - scene.points_world).max(1)
        < 0.01
    )
    pairs = pair_points(scene.points_world, scene.frames, PairingConfig())
    row, column = pairs.rowcol()
    images = np.stack([frame.image for frame in scene.frames])
    pixel_on_box = images[pairs.frame_index, row, column, 0] == 255
    assert len(pairs) > 4000
    assert on_box.mean() > 0.1
    assert (pixel_on_box == on_box[pairs.point_index]).mean() > 0.985  # 64 x 48 pixels: many lie on edges
    inner = np.abs(pairs.pixel_uv - np.stack([column, row], 1)).max(1) < 0.1
    assert (pixel_on_box == on_box[pairs.point_index])[inner].mean() > 0.99


@pytest.mark.parametrize("layout", LAYOUTS)
def test_depth_may_be_absent_where_there_is_a_cloud(tmp_path, layout):
    frames = room_frames(4)
    folder = WRITERS[layout](tmp_path / "room", frames)
    if layout == "transforms":
        bare = transforms_tree([replace(frame, depth_m=None) for frame in frames])
        (folder / "transforms.json").write_text(json.dumps(bare))
    if layout == "7scenes":
        return  # frame-*.depth.png belong to the naming
    for path in (*folder.glob("depth/*"), *folder.glob("depth.txt")):
        path.unlink()
    if (folder / "depth").is_dir():
        (folder / "depth").rmdir()
    with pytest.raises(DataError):
        open_capture(folder).scene("room")
    write_ply_points(folder / "cloud.ply", np.full((9, 3), 0.6, np.float32), None)
    scene = open_capture(folder).scene("room")
    assert scene.frames[0].depth_m is None
    assert len(scene.points_world) == 9
    with pytest.raises(DataError, match=r"set pairing\.depth_test=none"):
        pair_points(scene.points_world, scene.frames, PairingConfig())
    assert len(pair_points(scene.points_world, scene.frames, PairingConfig(depth_test="none"))) > 0


def test_a_layout_can_be_named_where_two_fit(tmp_path):
    folder = write_capture(tmp_path / "room", room_frames(3))
    tree = transforms_tree(room_frames(2))
    for entry in tree["frames"]:
        entry["file_path"] = entry["file_path"].replace("images/frame_0000", "color/")
        entry["depth_file_path"] = entry["depth_file_path"].replace("frame_0000", "")
    (folder / "transforms.json").write_text(json.dumps(tree))
    assert len(open_capture(folder).frames()) == 3
    assert len(open_capture(folder, layout="transforms").frames()) == 2
    with pytest.raises(DataError, match="expected the layout tum in"):
        open_capture(folder, layout="tum").names("train")


def test_findings_of_a_folder_that_cannot_be_opened(tmp_path):
    (problem,) = open_capture(tmp_path / "nowhere").findings().problems
    assert problem.severity == "error"
    assert problem.mend == "check the path"
    assert open_capture(tmp_path / "nowhere").convention == "cam_to_world"


def test_a_camera_of_its_own_for_one_frame(tmp_path):
    frames = room_frames(3)
    folder = write_capture(tmp_path / "room", frames)
    wide = np.array([[40.0, 0, 30.0], [0, 41.0, 20.0], [0, 0, 1]])
    (folder / "intrinsic" / "frames").mkdir(parents=True)
    np.savetxt(folder / "intrinsic" / "frames" / "1.txt", wide)
    found = [frame.intrinsics for frame in open_capture(folder).frames()]
    assert np.array_equal(found[1], wide)
    assert np.array_equal(found[0], INTRINSICS)


@pytest.mark.parametrize(
    "name", ["../x.png", "/etc/passwd", "a/../../x", "C:\\x.png", "\\\\host\\x", "", ".", "a\0b"]
)
def test_names_that_lead_out_of_the_folder(tmp_path, name):
    with pytest.raises(DataError, match="expected names of files below"):
        inside(tmp_path, name, "table")


def test_names_inside_the_folder(tmp_path):
    assert inside(tmp_path, "./images\\a/../b.png", "table") == tmp_path / "images" / "b.png"


# --- TUM ----------------------------------------------------------------------------------------------


def test_poses_between_two_stamps_are_interpolated(tmp_path):
    """A camera that turns and moves evenly, poses at 100 Hz, images at 30 Hz beside them."""
    from scipy.spatial.transform import Rotation, Slerp

    ends = [np.linalg.inv(pose) for pose in camera_path(2, 0.3)]
    slerp = Slerp([0.0, 1.0], Rotation.from_matrix([end[:3, :3] for end in ends]))

    def world_from_cam(share: float) -> np.ndarray:
        pose = np.eye(4)
        pose[:3, :3] = slerp(share).as_matrix()
        pose[:3, 3] = (1 - share) * ends[0][:3, 3] + share * ends[1][:3, 3]
        return pose

    times = [0.0037 + i / 30 for i in range(10)]
    frames = [replace(room_frames(1)[0], name=str(i)) for i in range(10)]
    trajectory = [(START_S + i / 100, world_from_cam(i / 100)) for i in range(40)]
    folder = write_tum(tmp_path / "room", frames, times_s=[START_S + t for t in times], trajectory=trajectory)
    for frame, time_s in zip(open_capture(folder).frames(), times, strict=True):
        assert np.allclose(frame.cam_from_world, np.linalg.inv(world_from_cam(time_s)), atol=2e-7)
    shifted = [(time_s - 0.2, pose) for time_s, pose in trajectory]
    folder = write_tum(tmp_path / "late", frames, times_s=[START_S + t for t in times], trajectory=shifted)
    for frame, time_s in zip(open_capture(folder, time_offset_s=0.2).frames(), times, strict=True):
        assert np.allclose(frame.cam_from_world, np.linalg.inv(world_from_cam(time_s)), atol=2e-7)


def test_images_without_depth_or_pose_are_left_out_and_counted(tmp_path):
    frames = room_frames(6)
    folder = write_tum(tmp_path / "room", frames)
    lines = (folder / "depth.txt").read_text().splitlines()
    (folder / "depth.txt").write_text("\n".join(lines[:4] + lines[5:]))  # the second image's depth
    poses = (folder / "groundtruth.txt").read_text().splitlines()
    (folder / "groundtruth.txt").write_text("\n".join(poses[:-2]))
    source = open_capture(folder)
    assert source.frame_count("room") == 3
    findings = source.findings()
    assert findings.counts["colour_without_depth"] == 1
    assert findings.counts["colour_without_pose"] == 2
    (problem,) = findings.problems
    assert "3 of 6 colour images are left out: 1 have no depth and 2 no pose within 0.02 s" in problem.what
    assert "0.0667 s at most" in problem.what
    assert "data.max_time_gap_s" in problem.mend
    wide = open_capture(folder, max_time_gap_s=0.07)
    assert wide.findings().counts["colour_without_pose"] == 0


def test_clocks_apart(tmp_path):
    folder = write_tum(tmp_path / "room", room_frames(4))
    poses = (folder / "groundtruth.txt").read_text().replace(f"{START_S:.0f}."[:6], "140000")
    (folder / "groundtruth.txt").write_text(poses)
    with pytest.raises(
        DataError, match=r"found none of 4 images so \(their nearest.*; set data\.time_offset_s"
    ):
        open_capture(folder).names("train")


def test_intrinsics_by_the_name_of_the_folder(tmp_path):
    frames = [
        Frame(
            "x",
            "0",
            np.zeros((480, 640, 3), np.uint8),
            INTRINSICS,
            np.eye(4),
            np.ones((480, 640), np.float32),
        )
    ]
    folder = write_tum(tmp_path / "rgbd_dataset_freiburg2_desk", frames, intrinsics=False)
    source = open_capture(folder)
    assert source.frames()[0].intrinsics[0, 0] == 520.9
    assert "camera freiburg2 are used" in source.findings().problems[0].what
    with pytest.raises(DataError, match=r"nor freiburg1, 2 or 3 in its name; write .*'525 0 319\.5'"):
        open_capture(folder.rename(tmp_path / "desk")).names("train")
    small = write_tum(tmp_path / "fr1_room", room_frames(1), intrinsics=False)
    with pytest.raises(DataError, match=r"images of 640 × 480.*found 64 × 48; write intrinsics\.txt"):
        open_capture(small).frames()[0]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("groundtruth.txt", "1 2 3", "'time tx ty tz qx qy qz qw' in line 1"),
        ("groundtruth.txt", "# x\n1 0 0 0 0 0 0 2", "unit quaternion in line 2 .*length 2"),
        ("groundtruth.txt", "1 0 0 0 0 0 a 1", "number in line 1 .*'a'"),
        ("groundtruth.txt", "# only comments", "expected poses in .*found none"),
        ("rgb.txt", "nan rgb/1.png", "number in line 1 .*'nan'"),
        ("rgb.txt", "1.0", "'time file' in line 1"),
        ("rgb.txt", "1.0 ../../x.png", "files below"),
        ("depth.txt", "# nothing", "expected images in"),
    ],
)
def test_damaged_tables(tmp_path, file, text, message):
    folder = write_tum(tmp_path / "room", room_frames(2))
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=message):
        open_capture(folder).names("train")


def test_tum_images_that_are_not_there(tmp_path):
    folder = write_tum(tmp_path / "room", room_frames(3))
    next((folder / "depth").iterdir()).unlink()
    with pytest.raises(DataError, match=r"found 1 of 3 frames without: depth/.*png; extract"):
        open_capture(folder).names("train")


def test_lost_poses_of_a_trajectory(tmp_path):
    frames = room_frames(3)
    folder = write_tum(tmp_path / "room", frames)
    lines = (folder / "groundtruth.txt").read_text().splitlines()
    lines[4] = " ".join([lines[4].split()[0], *["nan"] * 7])
    (folder / "groundtruth.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"NaN or infinity in 1 of 3: groundtruth\.txt"):
        open_capture(folder).frames()
    assert open_capture(folder, skip_lost_frames=True).frame_count("room") == 2


# --- transforms.json ----------------------------------------------------------------------------------


def test_cameras_and_sizes_per_frame(tmp_path):
    small = INTRINSICS * np.array([[0.5], [0.5], [1.0]])
    frames = []
    for index, pose in enumerate(camera_path(4)):
        shape, k = ((24, 32), small) if index % 2 else (SHAPE, INTRINSICS)
        image, depth_m, _ = cast(pose, k, shape)
        frames.append(Frame("room", str(index), image, k, pose, depth_m))
    folder = write_transforms(tmp_path / "room", frames, per_frame=True)
    for have, want in zip(open_capture(folder).frames(), frames, strict=True):
        assert np.array_equal(have.image, want.image)
        assert np.allclose(have.intrinsics, want.intrinsics)
        assert np.abs(have.depth_m - want.depth_m).max() <= 0.00051


def test_field_of_view_and_names_without_suffix(tmp_path):
    frames = room_frames(2)
    folder = write_transforms(tmp_path / "room", frames)
    tree = transforms_tree(frames)
    bare: dict[str, Any] = {"camera_angle_x": 2 * np.arctan(32 / 50), "frames": tree["frames"]}
    for entry in bare["frames"]:
        entry["file_path"] = entry["file_path"].removesuffix(".png")
    (folder / "transforms.json").write_text(json.dumps(bare))
    assert np.allclose(open_capture(folder).frames()[1].intrinsics, INTRINSICS)


def test_the_named_cloud_and_integer_depth_scale(tmp_path):
    frames = room_frames(2)
    folder = write_transforms(tmp_path / "room", frames)
    for frame in frames:
        write_depth(folder / f"depth/frame_{int(frame.name):05d}.png", frame.depth_m, 4000.0)
    write_ply_points(folder / "sparse_pc.ply", np.ones((5, 3), np.float32), None)
    edit_json(folder / "transforms.json", ply_file_path="sparse_pc.ply", integer_depth_scale=1 / 4000)
    scene = open_capture(folder).scene("room")
    assert len(scene.points_world) == 5
    assert np.abs(scene.frames[0].depth_m - frames[0].depth_m).max() < 0.0002
    edit_json(folder / "transforms.json", ply_file_path="gone.ply")
    with pytest.raises(DataError, match=r"found no such file; .*remove ply_file_path"):
        open_capture(folder).names("train")


def test_a_changed_world_with_a_cloud_nobody_named_is_told(tmp_path):
    folder = write_transforms(tmp_path / "room", room_frames(2))
    write_ply_points(folder / "scan.ply", np.ones((5, 3), np.float32), None)
    edit_json(folder / "transforms.json", applied_transform=np.eye(4)[:3].tolist())
    (problem,) = open_capture(folder).findings().problems
    assert "applied_transform" in problem.what


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": []}, "a list of frames"),
        ({"frames": [{"file_path": 3}]}, "a file_path in frame 0"),
        ({"frames": [{"file_path": "../a.png"}]}, "files below"),
        ({"frames": [{"file_path": "images/gone.png"}]}, r"1 of them missing: images/gone\.png; copy"),
        ({"camera_model": "EQUIRECTANGULAR"}, "camera models .*found 'EQUIRECTANGULAR'; undistort"),
        ({"fl_x": None}, "fl_x, or camera_angle_x"),
        ({"fl_x": "wide"}, "a number as fl_x"),
        ({"fl_x": -5}, "above 0"),
        ({"w": 64.5}, "w and h in pixels"),
        ({"h": None}, "w and h in pixels"),
        ({"k4": 0.1}, "k4 too; name the camera_model"),
        ({"integer_depth_scale": 0}, "metres per unit"),
        ({"ply_file_path": 3}, "a name as ply_file_path"),
    ],
)
def test_damaged_transforms(tmp_path, changes, message):
    folder = write_transforms(tmp_path / "room", room_frames(2))
    edit_json(folder / "transforms.json", **changes)
    with pytest.raises(DataError, match=message):
        open_capture(folder).names("train")


@pytest.mark.parametrize("matrix", [None, [[1, 0], [0, 1]], [[1, 0, 0, 0]] * 3 + [[1, 0, 0, "a"]], "x"])
def test_damaged_matrices(tmp_path, matrix):
    frames = room_frames(2)
    folder = write_transforms(tmp_path / "room", frames)
    entries = transforms_tree(frames)["frames"]
    entries[1]["transform_matrix"] = matrix
    edit_json(folder / "transforms.json", frames=entries)
    with pytest.raises(DataError, match=r"a transform_matrix of 4 × 4 numbers at .*frame 1"):
        open_capture(folder).names("train")


def test_transforms_without_anything_to_lift_with(tmp_path):
    frames = [replace(frame, depth_m=None) for frame in room_frames(2)]
    folder = write_transforms(tmp_path / "room", frames)
    with pytest.raises(DataError, match="found neither; export depth"):
        open_capture(folder).names("train")
    entries = transforms_tree(room_frames(2))["frames"]
    del entries[1]["depth_file_path"]
    write_depth(folder / "depth/frame_00000.png", room_frames(1)[0].depth_m)
    edit_json(folder / "transforms.json", frames=entries)
    with pytest.raises(DataError, match="1 of 2 frames without: images/frame_00001"):
        open_capture(folder).names("train")


def test_images_of_another_size_than_stated(tmp_path):
    folder = write_transforms(tmp_path / "room", room_frames(2))
    edit_json(folder / "transforms.json", w=128, h=96)
    with pytest.raises(DataError, match=r"images of 128 × 96, which the intrinsics are for, .*found 64 × 48"):
        open_capture(folder).frames()[0]


def test_images_of_one_name_in_two_folders(tmp_path):
    frames = room_frames(2)
    folder = write_transforms(tmp_path / "room", frames)
    entries = transforms_tree(frames)["frames"]
    for part, entry, frame in zip(("a", "b"), entries, frames, strict=True):
        entry["file_path"] = f"{part}/0.png"
        write_color(folder / entry["file_path"], frame)
    edit_json(folder / "transforms.json", frames=entries)
    assert open_capture(folder).frames().names == ("a-0", "b-0")
    edit_json(folder / "transforms.json", frames=[entries[0]] * 2)
    with pytest.raises(DataError, match="found a-0 several times"):
        open_capture(folder).names("train")


# --- Redwood ------------------------------------------------------------------------------------------


def test_default_intrinsics_are_told(tmp_path):
    frames = [
        Frame(
            "x",
            "0",
            np.zeros((480, 640, 3), np.uint8),
            INTRINSICS,
            np.eye(4),
            np.ones((480, 640), np.float32),
        )
    ]
    folder = write_redwood(tmp_path / "room", frames, log="livingroom.log")
    (folder / "camera_intrinsic.json").unlink()
    source = open_capture(folder)
    assert source.frames()[0].intrinsics[0, 2] == 319.5
    assert "PrimeSense default" in source.findings().problems[0].what
    np.savetxt(folder / "intrinsics.txt", INTRINSICS)
    assert open_capture(folder).findings().problems == ()


def test_poses_for_some_images_by_their_number(tmp_path):
    frames = room_frames(5)
    folder = write_redwood(tmp_path / "room", frames)
    log = folder / "scene" / "trajectory.log"
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:5] + lines[15:]))  # poses 1 and 2 are gone
    source = open_capture(folder)
    assert source.frames().names == ("000000", "000003", "000004")
    assert np.allclose(source.frames()[1].cam_from_world, frames[3].cam_from_world, atol=1e-6)
    assert source.findings().counts["images_without_pose"] == 2
    log.write_text("\n".join([*lines[:5], "0 0 0", *lines[6:10]]))
    with pytest.raises(DataError, match="found 2 whose numbers do not say which"):
        open_capture(folder).names("train")
    log.write_text("\n".join("0 0 0" if i % 5 == 0 else line for i, line in enumerate(lines)))
    assert len(open_capture(folder).frames()) == 5  # as many as images: by their order


def test_damaged_redwood(tmp_path):
    folder = write_redwood(tmp_path / "room", room_frames(3))
    log, text = folder / "scene" / "trajectory.log", (folder / "scene" / "trajectory.log").read_text()
    for bad, message in (
        (text[:-30], "poses of 3 \\+ 16 numbers"),
        (text.replace("0 0 1", "0.5 0 1", 1), "three whole numbers"),
        (text.replace("0 0 1", "a 0 1", 1), "plain numbers"),
    ):
        log.write_text(bad)
        with pytest.raises(DataError, match=message):
            open_capture(folder).names("train")
    log.write_text(text)
    (folder / "camera_intrinsic.json").write_text('{"width": 64, "height": 48, "intrinsic_matrix": [1, 2]}')
    with pytest.raises(DataError, match="intrinsic_matrix of 9 numbers"):
        open_capture(folder).names("train")
    (folder / "depth" / "000001.png").unlink()
    with pytest.raises(DataError, match="found 2 and 3; extract"):
        open_capture(folder).names("train")
    log.rename(folder / "a.log")
    (folder / "b.log").write_text(text)
    with pytest.raises(DataError, match=r"rename the one to use to trajectory\.log"):
        open_capture(folder).names("train")


# --- damage by the thousand ---------------------------------------------------------------------------


def _fuzz_trees(tmp_path: Path, count: int) -> dict[str, int]:
    frames = room_frames(3)
    refused = {}
    tum = write_tum(tmp_path / "tum", frames)
    for name in ("rgb.txt", "groundtruth.txt"):
        good = (tum / name).read_bytes()

        def read_tum(data: bytes, path: Path = tum / name) -> object:
            path.write_bytes(data)
            return find_layout(tum)

        refused[name] = only_data_errors(read_tum, good, count)
        (tum / name).write_bytes(good)
    transforms = write_transforms(tmp_path / "transforms", frames, per_frame=True)

    def read_transforms(data: bytes) -> object:
        (transforms / "transforms.json").write_bytes(data)
        return find_layout(transforms)

    good = (transforms / "transforms.json").read_bytes()
    refused["transforms.json"] = only_data_errors(read_transforms, good, count)
    path = tmp_path / "file"

    def read_text(data: bytes, read: Any) -> object:
        path.write_bytes(data)
        return read(path)

    log = log_text([np.linalg.inv(frame.cam_from_world) for frame in frames]).encode()
    refused["log"] = only_data_errors(lambda data: read_text(data, read_log), log, count)
    camera = json.dumps(open3d_intrinsics(frames[0])).encode()
    refused["open3d"] = only_data_errors(lambda data: read_text(data, read_open3d_intrinsics), camera, count)
    return refused


def test_damaged_text_is_a_data_error(tmp_path):
    refused = _fuzz_trees(tmp_path, QUICK)
    assert min(refused.values()) > QUICK // 20, refused


@pytest.mark.slow
def test_much_damaged_text_is_a_data_error(tmp_path):
    refused = _fuzz_trees(tmp_path, MANY)
    assert min(refused.values()) > MANY // 20, refused


def test_functions_of_other_layouts_pass(tmp_path):
    folder = write_capture(tmp_path / "room", room_frames(1))
    config = open_capture(folder).config
    assert tum_layout(folder, config) is None
    assert transforms_layout(folder, config) is None
    assert FLIP_YZ.shape == (4, 4)
