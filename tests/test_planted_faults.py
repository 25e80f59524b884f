"""What people get wrong, planted in each layout's own files: the check finds it and says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fixtures_capture import INTRINSICS, cast, edit_poses, write_capture
from fixtures_check import room, walk_pose
from fixtures_cli import Command
from layouts_capture import START_S, write_transforms, write_tum
from layouts_lidar import write_lidar
from layouts_nuscenes import write_nuscenes
from layouts_scannet import TRAIN, write_scannet
from scenelift.types import Frame

FRAMES = [replace(frame, name=str(number)) for number, frame in enumerate(room(0).frames)]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_capture(tmp_path_factory.mktemp("faults") / "room", FRAMES)
    shape = FRAMES[0].image.shape[:2]
    (folder / "intrinsics.txt").unlink()
    (folder / "intrinsic").mkdir()
    # a depth camera of half the size, as phones have it
    half = np.diag([0.5, 0.5, 1.0]) @ FRAMES[0].intrinsics
    half[:2, 2] -= 0.25
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", FRAMES[0].intrinsics)
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", half)
    for path in (folder / "depth").iterdir():
        depth = np.array(Image.open(path))
        assert depth.shape == shape
        Image.fromarray(depth[::2, ::2]).save(path)
    return folder


@pytest.fixture
def capture(untouched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untouched, tmp_path / "room"))


def mends(ended: object) -> str:
    """The problems that a check found, with their mends; at least one is an error."""
    code, out, err = ended  # type: ignore[misc]
    assert code == 2, (out, err)
    report = json.loads(out)
    assert any(problem["severity"] == "error" for problem in report["problems"])
    return "\n".join(f"{problem['what']} -> {problem['mend']}" for problem in report["problems"])


def shuffled(folder: Path, part: str) -> None:
    paths = sorted((folder / part).iterdir())
    content = [path.read_bytes() for path in paths]
    for path, number in zip(paths, np.random.default_rng(1).permutation(len(paths)), strict=True):
        path.write_bytes(content[number])


def depth_times(folder: Path, factor: float) -> None:
    for path in (folder / "depth").iterdir():
        depth = np.array(Image.open(path)) * factor
        Image.fromarray(depth.astype(np.uint16)).save(path)


def resized(folder: Path) -> None:
    for path in (folder / "color").iterdir():
        image = Image.open(path)
        image.resize((image.width * 3 // 5, image.height * 3 // 5)).save(path)


def exchanged(folder: Path) -> None:
    one, two = (folder / "intrinsic" / f"intrinsic_{camera}.txt" for camera in ("color", "depth"))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def with_nan(folder: Path) -> None:
    path = folder / "pose" / "3.txt"
    np.savetxt(path, np.full((4, 4), np.nan))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "inverse poses": (
        lambda folder: edit_poses(folder, np.linalg.inv),
        "data.pose_convention=world_to_cam",
    ),
    "OpenGL axes": (
        lambda folder: edit_poses(folder, lambda pose: pose @ np.diag([1.0, -1.0, -1.0, 1.0])),
        "data.pose_convention=cam_to_world_opengl",
    ),
    "depth in a fifth of a millimetre": (lambda folder: depth_times(folder, 5.0), "data.depth_scale=5000"),
    "depth in centimetres": (lambda folder: depth_times(folder, 0.1), "data.depth_scale=100"),
    "intrinsics exchanged": (exchanged, "exchange intrinsic_color.txt and intrinsic_depth.txt"),
    "images resized": (resized, "intrinsics"),
    "colour images shuffled": (lambda folder: shuffled(folder, "color"), "number"),
    "poses shuffled": (lambda folder: shuffled(folder, "pose"), "number"),
    "NaN poses": (with_nan, "data.skip_lost_frames=true"),
}


def test_the_capture_is_right_before(untouched: Path, scenelift: Command) -> None:
    ended = scenelift("check", untouched)
    assert ended.code == 0, ended


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_captures(name: str, capture: Path, scenelift: Command) -> None:
    plant, mend = FAULTS[name]
    plant(capture)
    assert mend in mends(scenelift("check", capture, "--json"))


def test_transforms_json_with_opencv_axes(tmp_path: Path, scenelift: Command) -> None:
    folder = write_transforms(tmp_path / "room", FRAMES)
    assert scenelift("check", folder).code == 0
    tree = json.loads((folder / "transforms.json").read_text())
    for frame in tree["frames"]:
        frame["transform_matrix"] = (
            np.array(frame["transform_matrix"]) @ np.diag([1.0, -1.0, -1.0, 1.0])
        ).tolist()
    (folder / "transforms.json").write_text(json.dumps(tree))
    assert "data.pose_convention=cam_to_world" in mends(scenelift("check", folder, "--json"))


@pytest.mark.parametrize("late_s", [0.2, -0.2])
def test_tum_with_time_stamps_off(late_s: float, tmp_path: Path, scenelift: Command) -> None:
    seen = [0.8 + 0.15 * number for number in range(14)]
    frames = []
    for number, time_s in enumerate(seen):
        image, depth_m, _ = cast(walk_pose(time_s))
        frames.append(Frame("walk", str(number), image, INTRINSICS, walk_pose(time_s), depth_m))
    tracked = [0.01 * step for step in range(10, 380)]
    trajectory = [(START_S + t + late_s, np.linalg.inv(walk_pose(t))) for t in tracked]
    times_s = [START_S + t for t in seen]
    folder = write_tum(tmp_path / "walk", frames, times_s=times_s, trajectory=trajectory)
    told = scenelift("check", folder, "--json")
    problems = json.loads(told.out)["problems"]
    said = [problem["mend"] for problem in problems if "time stamps" in problem["what"]]
    assert said, told
    assert f"data.time_offset_s={-late_s:g}" in said[0]
    mended = scenelift("check", folder, "--json", "--set", f"data.time_offset_s={-late_s:g}")
    assert mended.code == 0, mended
    assert "time stamps" not in mended.out


def test_nuscenes_without_a_camera(tmp_path: Path, scenelift: Command) -> None:
    write_nuscenes(tmp_path, samples=1)
    small = ["--set", "data.image_size=[45,80]"]
    assert scenelift("check", tmp_path, *small).code == 0
    shutil.rmtree(tmp_path / "samples" / "CAM_BACK")
    told = scenelift("check", tmp_path, "--json", *small)
    said = " ".join(problem["what"] + problem["mend"] for problem in json.loads(told.out)["problems"])
    assert "CAM_BACK" in said
    assert "data.cameras" in said


def test_lidar_folder_without_a_camera(tmp_path: Path, scenelift: Command) -> None:
    folder = write_lidar(tmp_path / "street")
    assert scenelift("check", folder).code == 0
    gone = sorted((folder / "cameras").iterdir())[0]
    shutil.rmtree(gone)
    told = scenelift("check", folder, "--json")
    problems = json.loads(told.out)["problems"]
    assert any(gone.name in problem["what"] + problem["where"] and problem["mend"] for problem in problems)


def test_lidar_matrices_inverted(tmp_path: Path, scenelift: Command) -> None:
    folder = write_lidar(tmp_path / "street")
    tree = json.loads((folder / "calib.json").read_text())
    for camera in tree["cameras"].values():
        camera["cam_from_lidar"] = np.linalg.inv(np.array(camera["cam_from_lidar"])).tolist()
    (folder / "calib.json").write_text(json.dumps(tree))
    assert "lidar_from_cam: invert it" in mends(scenelift("check", folder, "--json"))


def test_lidarseg_of_another_sample(tmp_path: Path, scenelift: Command) -> None:
    write_nuscenes(tmp_path, samples=1)
    one, two = sorted((tmp_path / "lidarseg" / "v1.0-mini").iterdir())[:2]
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    said = mends(scenelift("check", tmp_path, "--json", "--set", "data.image_size=[45,80]"))
    assert "label" in said


def test_nyu40_ids_outside_the_table(tmp_path: Path, scenelift: Command) -> None:
    write_scannet(tmp_path)
    assert scenelift("check", tmp_path).code == 0
    for path in (tmp_path / "scannet_frames_25k" / TRAIN / "label").iterdir():
        ids = np.array(Image.open(path))
        ids[:5] = 77
        Image.fromarray(ids).save(path)
    said = mends(scenelift("check", tmp_path, "--json"))
    assert "77" in said
    assert "nyu40" in said
