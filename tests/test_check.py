import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fixtures_capture import INTRINSICS, SEVEN_SCENES, SHAPE, edit_poses, room_frames, write_capture
from scenelift.check import CheckReport, check_source, raise_if_bad, summary_lines, to_json
from scenelift.config import CaptureData, Config
from scenelift.errors import DataError
from scenelift.files import write_ply_points
from scenelift.scenes import Findings, Problem
from scenelift.scenes.capture import Capture
from scenelift.types import Frames, Scene

FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])


def check(folder, max_frames=32, **keys) -> CheckReport:
    data = CaptureData(path=str(folder), cloud_voxel_m=0.05, **keys)
    return check_source(Capture(data), Config(data=data), max_frames)


def only_error(report: CheckReport) -> Problem:
    assert len(report.errors) == 1, summary_lines(report)
    return report.errors[0]


@pytest.fixture
def folder(tmp_path):
    return write_capture(tmp_path / "room", room_frames(8))


# --- data that are right ------------------------------------------------------------------------------


def test_a_right_capture_is_ok(folder):
    report = check(folder)
    assert report.ok
    assert report.problems == ()
    assert report.counts["frames"] == report.counts["frames_read"] == 8
    assert report.counts["points"] > 1000
    assert report.facts["image_size"] == "64 × 48"
    assert report.facts["depth_accuracy"] > 0.9
    assert report.facts["depth_seen_again"] > 0.5
    assert report.facts["points_seen"] > 0.95
    assert 0.5 < report.facts["median_depth_m"] < 4
    raise_if_bad(report)


@pytest.mark.parametrize("step", [0.0, 0.01, 0.6])
def test_no_false_alarm_from_standing_slow_or_fast_cameras(tmp_path, step):
    report = check(write_capture(tmp_path / "room", room_frames(8, step)))
    assert report.ok, summary_lines(report)


def test_the_right_settings_silence_the_errors(tmp_path):
    folder = write_capture(tmp_path / "room", room_frames(8), units_per_metre=5000.0)
    edit_poses(folder, np.linalg.inv)
    assert not check(folder).ok
    report = check(folder, pose_convention="world_to_cam", depth_scale=5000.0)
    assert report.ok, summary_lines(report)


def test_a_source_of_many_scenes_is_sampled():
    class Rooms:
        classes = None
        truth = None

        def __init__(self):
            self.asked = []

        def names(self, split):
            return tuple(f"{split}-{i}" for i in range(10))

        def frame_count(self, name):
            return 4

        def findings(self):
            return Findings()

        def scene(self, name):
            self.asked.append(name)
            frames = [replace(frame, scene=name) for frame in room_frames(4)]
            return Scene(name, np.float32([[0.7, 0.0, 0.8]]), None, Frames.of(frames))

    rooms = Rooms()
    report = check_source(rooms, Config(), max_frames=16)
    assert report.counts["scenes"] == 20
    assert report.counts["scenes_checked"] == 2
    assert report.counts["frames_read"] == 8
    assert set(rooms.asked) == {"train-0", "val-0"}
    assert report.ok, summary_lines(report)


def test_a_source_without_scenes_or_frames():
    class Nothing:
        classes = None
        truth = None

        def __init__(self, *names):
            self._names = names

        def names(self, split):
            return self._names

        def frame_count(self, name):
            return 0

        def findings(self):
            return Findings()

        def scene(self, name):
            return Scene(name, np.zeros((0, 3), np.float32), None, Frames.of([]))

    assert "at least one scene" in only_error(check_source(Nothing(), Config())).what
    assert "expected frames, found none" in only_error(check_source(Nothing("a"), Config())).what


# --- planted faults: each is one error that names its mend ----------------------------------------------


def test_no_such_folder(tmp_path):
    error = only_error(check(tmp_path / "nowhere"))
    assert "found nothing there" in error.what
    assert error.mend == "check the path"


def test_no_frames(tmp_path):
    (tmp_path / "color").mkdir()
    (tmp_path / "depth").mkdir()
    (tmp_path / "pose").mkdir()
    assert "expected frames" in only_error(check(tmp_path)).what


def test_colour_without_its_pose(folder):
    (folder / "pose" / "5.txt").unlink()
    error = only_error(check(folder))
    assert "1 of 8 without pose (5)" in error.what
    assert "add the missing files" in error.mend


def test_lost_frames(folder):
    (folder / "pose" / "5.txt").write_text("-inf -inf -inf -inf\n" * 4)
    error = only_error(check(folder))
    assert "pose/5.txt" in error.what
    assert "data.skip_lost_frames=true" in error.mend
    report = check(folder, skip_lost_frames=True)
    assert report.ok
    assert report.counts["lost_frames"] == 1
    (warning,) = report.problems
    assert warning.severity == "warning"
    assert "1 frames without a finite pose are left out: 5" in warning.what


def test_poses_with_scale(folder):
    edit_poses(folder, lambda pose: pose @ np.diag([2.0, 2.0, 2.0, 1.0]))
    assert "rigid" in only_error(check(folder)).what


@pytest.mark.parametrize("step", [0.03, 0.25])
@pytest.mark.parametrize(
    ("convention", "change"),
    [
        ("world_to_cam", np.linalg.inv),
        ("cam_to_world_opengl", lambda pose: pose @ FLIP_YZ),
        ("world_to_cam_opengl", lambda pose: np.linalg.inv(pose @ FLIP_YZ)),
    ],
)
def test_pose_convention(tmp_path, convention, change, step):
    # 40 frames: those of a slow camera tell little from one to the next, more over 16.
    folder = write_capture(tmp_path / "room", room_frames(40 if step < 0.1 else 8, step))
    edit_poses(folder, change)
    error = only_error(check(folder))
    assert f"poses look like {convention}, expected cam_to_world" in error.what
    assert f"data.pose_convention={convention}" in error.mend
    assert "depth" not in error.mend


@pytest.mark.parametrize("units", [100.0, 5000.0, 10000.0])
def test_depth_scale(tmp_path, units):
    error = only_error(check(write_capture(tmp_path / "room", room_frames(8), units_per_metre=units)))
    assert f"depth looks like {units:g} units per metre, expected 1000" in error.what
    assert error.mend.startswith(f"set data.depth_scale={units:g},")


def test_convention_and_scale_together(tmp_path):
    folder = write_capture(tmp_path / "room", room_frames(8), units_per_metre=5000.0)
    edit_poses(folder, np.linalg.inv)
    error = only_error(check(folder))
    assert "data.pose_convention=world_to_cam and data.depth_scale=5000" in error.mend


def test_depth_in_whole_metres(tmp_path):
    error = only_error(check(write_capture(tmp_path / "room", room_frames(8), units_per_metre=1.0)))
    assert "perhaps whole metres" in error.what
    assert "16-bit millimetres" in error.mend


def test_depth_as_floats(folder):
    for path in (folder / "depth").glob("*.png"):
        Image.fromarray(np.ones(SHAPE, np.float32)).save(path.with_suffix(".tiff"))
        path.unlink()
    error = only_error(check(folder))
    assert "which hold floats" in error.what
    assert "multiply metres by 1000" in error.mend


def test_intrinsics_of_another_size(folder):
    np.savetxt(folder / "intrinsics.txt", np.diag([2.0, 2.0, 1.0]) @ INTRINSICS)
    error = check(folder).errors[0]
    assert "far from the centre of images of 64 × 48; they would fit 126 × 94" in error.what
    assert "image size" in error.mend


def test_poses_of_other_frames(folder):
    names = ["0", "1", "2", "3", "4", "5", "6", "7"]
    texts = [(folder / "pose" / f"{name}.txt").read_text() for name in names]
    for name, text in zip(names, np.random.default_rng(0).permutation(texts), strict=True):
        (folder / "pose" / f"{name}.txt").write_text(text)
    # In one small room many surfaces coincide; the turned floor and box do not.
    edit_poses(folder, lambda pose: pose @ random_turn(pose))
    error = only_error(check(folder))
    assert "do not belong together" in error.what


def random_turn(pose):
    rng = np.random.default_rng(int(1e6 * abs(pose[0, 3])))
    turn = np.eye(4)
    turn[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn[:3, 2] *= np.sign(np.linalg.det(turn[:3, :3]))
    return turn


def test_one_frame_with_a_wrong_pose_is_a_warning(folder):
    pose = np.loadtxt(folder / "pose" / "3.txt")
    np.savetxt(folder / "pose" / "3.txt", pose @ random_turn(pose))
    report = check(folder)
    assert report.ok
    assert any("1 of 8 frames disagree with their neighbours: room/3" in p.what for p in report.problems)
    assert str(report.facts["worst_frames"]).startswith("room/3 ")


@pytest.mark.parametrize(("part", "suffix"), [("depth", ".png"), ("color", ".png"), ("color", ".jpg")])
def test_truncated_images_are_found_wherever_they_are(tmp_path, part, suffix):
    folder = write_capture(tmp_path / "room", room_frames(30, 0.1))
    path = folder / part / "22.png"
    if suffix == ".jpg":
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
        path = path.with_suffix(".jpg")
    path.write_bytes(path.read_bytes()[:-30])
    report = check(folder, max_frames=8)
    error = only_error(report)
    assert error.where == "room/22"
    assert "truncated or damaged" in error.what
    assert report.counts["frames_read"] == 8


def test_truncated_cloud(folder):
    write_ply_points(folder / "cloud.ply", np.zeros((50, 3), np.float32), None)
    data = (folder / "cloud.ply").read_bytes()
    (folder / "cloud.ply").write_bytes(data[: len(data) - 100])
    assert str(folder / "cloud.ply") in only_error(check(folder)).what


def test_cloud_of_another_world(folder):
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32) + 50
    write_ply_points(folder / "cloud.ply", points, None)
    error = only_error(check(folder))
    assert "0.0% of the cloud's points are seen by the 8 frames" in error.what
    assert "one world" in error.mend


def test_frames_that_see_no_point(folder):
    frame = room_frames(8)[0]
    seen = np.linalg.inv(frame.cam_from_world) @ [*(0.5 * np.linalg.inv(INTRINSICS) @ [32, 24, 1]), 1.0]
    write_ply_points(folder / "cloud.ply", seen[None, :3].astype(np.float32), None)
    near = np.full(SHAPE, 500, np.uint16)
    Image.fromarray(near).save(folder / "depth" / "0.png")
    report = check(folder, min_coverage=0.0)
    assert any("7 of 8 frames see no point" in problem.what for problem in report.problems)


def test_depth_that_is_not_there(folder):
    for name in "01234":
        Image.fromarray(np.zeros(SHAPE, np.uint16)).save(folder / "depth" / f"{name}.png")
    error = only_error(check(folder))
    assert "in 5 of 8 frames" in error.what
    for name in "567":
        Image.fromarray(np.full(SHAPE, 65535, np.uint16)).save(folder / "depth" / f"{name}.png")
    assert "in 8 of 8 frames" in check(folder).errors[0].what


def test_frames_that_hardly_overlap(folder):
    error = only_error(check(folder, min_coverage=0.999))
    assert "is seen again by its neighbours, expected 100%" in error.what
    assert "data.stride" in error.mend


# --- the report ---------------------------------------------------------------------------------------


def test_raise_if_bad_names_the_first_error_and_counts_the_others():
    problems = (
        Problem("error", "poses are inverted", "room", "invert them"),
        Problem("error", "no depth", "room/3", "record it"),
        Problem("warning", "dark", "room/4", "light"),
    )
    report = CheckReport({}, {}, problems)
    with pytest.raises(DataError, match=r"^room: poses are inverted; invert them \(and 1 more; "):
        raise_if_bad(report)
    raise_if_bad(CheckReport({}, {}, problems[2:]))


def test_report_as_text_and_json(folder):
    edit_poses(folder, np.linalg.inv)
    report = check(folder)
    lines = summary_lines(report)
    assert "frames 8" in lines[0]
    assert any(line.startswith("    -> set data.pose_convention=world_to_cam") for line in lines)
    assert lines[-1] == "1 error(s)"
    tree = json.loads(json.dumps(to_json(report)))
    assert tree["ok"] is False
    assert tree["problems"][0]["mend"].startswith("set data.pose_convention")
    many = CheckReport({}, {}, tuple(Problem("warning", str(i), "here", "mend") for i in range(20)))
    assert summary_lines(many)[-2:] == ["... and 8 more", "ok, 20 warning(s)"]


def test_errors_come_before_warnings(folder):
    (folder / "pose" / "0.txt").write_text("nan " * 16)
    edit_poses(folder, lambda pose: np.linalg.inv(pose) if np.isfinite(pose).all() else pose)
    report = check(folder, skip_lost_frames=True)
    assert [problem.severity for problem in report.problems] == ["error", "warning"]


def test_one_bad_file_of_intrinsics_is_told_once(folder):
    (folder / "intrinsics.txt").write_text("1 2 3")
    assert only_error(check(folder)).what.endswith("found 3 numbers")


# --- real frames --------------------------------------------------------------------------------------


needs_real_frames = pytest.mark.skipif(
    not SEVEN_SCENES.is_dir(), reason="real frames are absent: ../shared/data/sevenscenes"
)


@needs_real_frames
def test_seven_scenes_is_ok():
    report = check(SEVEN_SCENES, max_width=160)
    assert report.ok, summary_lines(report)
    assert report.counts["frames"] == 31
    assert report.facts["depth_accuracy"] > 0.85


@needs_real_frames
def test_seven_scenes_with_inverted_poses(tmp_path):
    for part in ("color", "depth", "intrinsic"):
        (tmp_path / part).symlink_to(SEVEN_SCENES / part)
    (tmp_path / "pose").mkdir()
    for path in (SEVEN_SCENES / "pose").iterdir():
        np.savetxt(tmp_path / "pose" / path.name, np.linalg.inv(np.loadtxt(path)))
    error = only_error(check(tmp_path, max_width=160))
    assert "data.pose_convention=world_to_cam" in error.mend
