"""LiDAR and cameras: wrong matrices between them, missing cameras, labels of another scan."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fixtures_capture import SEVEN_SCENES
from fixtures_check import STREET, WITHOUT_DEPTH, YAWS, check, only_error, street, with_matrices
from fixtures_scenes import TinySource, TinyTruth
from fixtures_street import CAR, ROAD
from scenelift.check import summary_lines
from scenelift.check.lidar import READINGS
from scenelift.config import Config, KittiData, LidarData, NuScenesData
from scenelift.errors import DataError
from scenelift.types import IGNORE, Frame, Frames, Scene, SceneTruth

FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])
AXES = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""Camera axes (x right, y down, z forward) from a vehicle's (x forward, y left, z up)."""

KEYFRAME = SEVEN_SCENES.parent / "nuscenes_keyframe"

WRONG = {
    "inverse": np.linalg.inv,
    "opengl": lambda pose: FLIP_YZ @ pose,
    "vehicle_axes": lambda pose: AXES.T @ pose,
    "inverse_opengl": lambda pose: np.linalg.inv(FLIP_YZ @ pose),
    "inverse_vehicle_axes": lambda pose: np.linalg.inv(AXES.T @ pose),
}


def config(data) -> Config:
    return Config(data=data, pairing=WITHOUT_DEPTH.pairing)


def test_a_right_street_is_ok():
    report = check(street(), WITHOUT_DEPTH)
    assert report.problems == (), summary_lines(report)
    assert report.facts["cameras_upright"] > 0.9
    assert report.facts["gradient_at_lidar_edges"] > 1.2
    assert report.facts["label_agreement_2d_3d"] > 0.9
    assert report.facts["points_seen"] > 0.5
    assert report.counts["points"] == sum(len(s.points_world) for s in street().scenes.values())
    assert len(report.coverage) == 18
    assert "front" in str(report.facts["points_per_camera"])


@pytest.mark.parametrize("reading", WRONG)
def test_readings_undo_what_they_name(reading):
    pose = next(iter(street().scenes.values())).frames[1].cam_from_world
    np.testing.assert_allclose(READINGS[reading](WRONG[reading](pose)), pose, atol=1e-9)


@pytest.mark.parametrize("reading", WRONG)
def test_wrong_matrices_are_named_with_their_mend(reading):
    source = with_matrices(street(labelled=False), WRONG[reading])
    error = only_error(check(source, config(LidarData(path="/data/street"))))
    assert f"looks like {reading.replace('_', ' ')}:" in error.what
    assert error.mend.startswith("calib.json: cameras.<name>.cam_from_lidar holds ")
    assert ("invert it" in error.mend) == ("inverse" in reading)
    assert ("OpenGL" in error.mend) == ("opengl" in reading)


def test_the_mend_is_worded_for_the_source():
    source = with_matrices(street(labelled=False), np.linalg.inv)
    assert "Tr_velo_to_cam" in only_error(check(source, config(KittiData(path="/data/kitti")))).mend
    assert "download" in only_error(check(source, config(NuScenesData(path="/data/nuscenes")))).mend


def test_one_camera_alone_is_told_by_its_up():
    source = with_matrices(street(3, ("front",), False), np.linalg.inv)
    error = only_error(check(source, config(LidarData(path="/data/street"))))
    assert "looks like inverse" in error.what


def test_tilted_cameras_are_no_error():
    def tilt(pose):  # looks down by 50 degrees
        turn = np.eye(4)
        turn[1:3, 1:3] = [[np.cos(0.87), -np.sin(0.87)], [np.sin(0.87), np.cos(0.87)]]
        return turn @ pose

    assert check(with_matrices(street(labelled=False), tilt), WITHOUT_DEPTH).ok


def test_depth_test_without_depth_is_told():
    report = check(street(labelled=False), Config())
    assert only_error(report).mend.startswith("set pairing.depth_test=none")
    assert report.facts["points_seen"] > 0.5


def test_a_camera_without_images_in_one_scene():
    whole = street(3, labelled=False)
    scenes = list(whole.scenes.values())
    left = [name for name in YAWS if name != "back"]
    scenes[1] = replace(scenes[1], frames=scenes[1].frames.only(left))
    report = check(TinySource(scenes, None), WITHOUT_DEPTH)
    assert report.ok
    (warning,) = report.problems
    assert "1 of 3 scenes looked at have no image of back: turn_1" in warning.what
    fewer = check(street(3, tuple(left), False), WITHOUT_DEPTH)
    assert fewer.facts["points_seen"] < check(whole, WITHOUT_DEPTH).facts["points_seen"] - 0.05


def test_cloud_far_away():
    whole = next(iter(street(1, labelled=False).scenes.values()))
    source = TinySource([replace(whole, points_world=whole.points_world + np.float32([0, 0, 900]))], None)
    report = check(source, WITHOUT_DEPTH)
    assert any("seen by the 6 frames read" in problem.what for problem in report.errors), report.problems


# --- labels --------------------------------------------------------------------------------------------


def with_labels(change) -> TinySource:
    """The street with ``change(name, labels)`` as the labels of its points."""
    source = street()
    truth = TinyTruth()
    truth.classes = STREET
    truth.frames = dict(source.truth.frames)
    for name, found in source.truth.scenes.items():
        truth.scenes[name] = SceneTruth(change(name, found.labels))
    return TinySource(list(source.scenes.values()), truth)


def test_labels_of_another_scan_with_another_count():
    report = check(with_labels(lambda name, labels: labels[:-5]), WITHOUT_DEPTH)
    assert len(report.errors) == 3
    assert "expected a label for each of" in report.errors[0].what
    nuscenes = config(NuScenesData(path="/data/nuscenes"))
    assert "nuScenes-lidarseg" in check(with_labels(lambda n, v: v[:-5]), nuscenes).errors[0].mend


def test_labels_of_a_scan_that_looked_elsewhere():
    # Of a vehicle that stood across the street, as another sample's are.
    report = check(with_labels(lambda name, labels: np.roll(labels, len(labels) // 3)), WITHOUT_DEPTH)
    said = " ".join(problem.what for problem in report.problems)
    assert "labels of points and of the pixels they fall on are the same for" in said
    assert "points labelled as ground" in said, summary_lines(report)
    assert not report.ok


def test_labels_that_truth_refuses():
    source = with_labels(lambda name, labels: labels)

    def refuse(scene):
        raise DataError(f"{scene}: expected nyu40 ids 0 to 40, found 77; download the labels again")

    source.truth.scene = refuse
    report = check(source, WITHOUT_DEPTH)
    assert len(report.errors) == 3
    assert report.errors[0].what.endswith("expected nyu40 ids 0 to 40, found 77")
    assert report.errors[0].mend == "download the labels again"


def test_unknown_labels():
    report = check(with_labels(lambda name, labels: np.where(labels == CAR, 77, labels)), WITHOUT_DEPTH)
    assert "expected labels 0 to 5 or 255, found 77" in report.errors[0].what


def test_all_unlabelled_is_a_warning():
    source = with_labels(lambda name, labels: np.full_like(labels, IGNORE))
    source.truth.frames.clear()
    report = check(source, WITHOUT_DEPTH)
    assert report.ok
    assert "all of it is unlabelled" in report.problems[0].what
    assert report.facts["labelled"] == 0
    partly = check(with_labels(lambda n, v: np.where(v == ROAD, v, IGNORE)), WITHOUT_DEPTH)
    assert partly.ok
    assert 0 < partly.facts["labelled"] < 1


def test_labels_of_another_image_size():
    source = with_labels(lambda name, labels: labels)
    key, found = next(iter(source.truth.frames.items()))
    source.truth.frames[key] = replace(found, labels=found.labels[::2, ::2])
    error = only_error(check(source, WITHOUT_DEPTH))
    assert "found 120 × 68" in error.what


# --- images alone --------------------------------------------------------------------------------------


def test_images_alone_have_no_cameras_to_complain_of():
    nothing = np.zeros((0, 3), np.float32)
    scenes = []
    for index in range(40):
        image = np.full((40 + index, 60, 3), index, np.uint8)
        frame = Frame(f"i{index}", "image", image, np.eye(3), np.eye(4))
        scenes.append(Scene(f"i{index}", nothing, None, Frames.of([frame])))
    report = check(TinySource(scenes, None), WITHOUT_DEPTH)
    assert report.problems == ()
    assert report.counts["frames_read"] == report.counts["scenes_checked"] == 32
    assert report.coverage == ()
    assert "points_seen" not in report.facts


# --- a real key frame ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyframe() -> TinySource:
    if not KEYFRAME.is_dir():
        pytest.skip("a real key frame is absent: ../shared/data/nuscenes_keyframe")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the devkit imports
        from nuscenes.nuscenes import NuScenes
        from pyquaternion import Quaternion

    opened = NuScenes("v1.0-mini", str(KEYFRAME), verbose=False)

    def matrix(record):
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = Quaternion(record["rotation"]).rotation_matrix, record["translation"]
        return pose

    def world_from(sensor):
        data = opened.get("sample_data", opened.sample[0]["data"][sensor])
        camera = opened.get("calibrated_sensor", data["calibrated_sensor_token"])
        return data, camera, matrix(opened.get("ego_pose", data["ego_pose_token"])) @ matrix(camera)

    data, _, world_from_lidar = world_from("LIDAR_TOP")
    points = np.fromfile(KEYFRAME / data["filename"], np.float32).reshape(-1, 5)[:, :3].copy()
    frames = []
    for sensor in [name for name in opened.sample[0]["data"] if name.startswith("CAM")]:
        data, camera, world_from_camera = world_from(sensor)
        image = np.asarray(Image.open(KEYFRAME / data["filename"]).convert("RGB"))
        intrinsics = np.array(camera["camera_intrinsic"])
        pose = np.linalg.inv(world_from_camera) @ world_from_lidar
        frames.append(Frame("key", sensor, image, intrinsics, pose))
    return TinySource([Scene("key", points, None, Frames.of(frames))], None)


def test_a_real_key_frame_is_ok(keyframe):
    report = check(keyframe, config(NuScenesData(path=str(KEYFRAME))))
    assert report.problems == (), summary_lines(report)
    assert report.facts["gradient_at_lidar_edges"] > 1.08
    assert report.facts["cameras_upright"] > 0.99


@pytest.mark.parametrize("reading", ["inverse", "opengl", "vehicle_axes"])
def test_a_real_key_frame_with_wrong_matrices(keyframe, reading):
    report = check(with_matrices(keyframe, WRONG[reading]), config(LidarData(path="x")))
    assert f"looks like {reading.replace('_', ' ')}:" in report.errors[0].what
