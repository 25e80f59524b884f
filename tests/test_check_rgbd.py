"""Faults planted into generated rooms and real frames: intrinsics, order of images, clocks."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel

from fixtures_capture import INTRINSICS, SEVEN_SCENES, camera_path, cast, write_capture
from fixtures_check import check, edited, only_error, room, walk_pose
from fixtures_scenes import TinySource
from scenelift.check import check_source, summary_lines
from scenelift.config import CaptureData, Config, ScanNetData
from scenelift.scenes import Findings
from scenelift.scenes.capture import Capture
from scenelift.scenes.rgbd import scale_intrinsics
from scenelift.types import Frame, Frames, Scene


def in_memory(frames: list[Frame], name: str = "a") -> TinySource:
    return TinySource([Scene(name, np.zeros((0, 3), np.float32), None, Frames.of(frames))], None)


@pytest.mark.parametrize("number", [0, 1])
def test_generated_rooms_are_right(number):
    report = check(edited(room(number), list))
    assert report.problems == (), summary_lines(report)
    assert report.facts["color_agreement"] > 0.9
    assert report.facts["color_detail_agreement"] > 0.6
    assert report.facts["color_at_depth_edges"] > 1.3
    assert len(report.coverage) == 10
    assert all(0.02 < row.share < 1 for row in report.coverage)


# --- order ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1])
def test_shuffled_colour_images(number):
    def shuffle(frames):
        order = np.random.default_rng(1).permutation(len(frames))
        return [replace(f, image=frames[i].image) for f, i in zip(frames, order, strict=True)]

    error = only_error(check(edited(room(number), shuffle)))
    assert "colours do not fit depth and poses" in error.what
    assert "number colour images as the other files" in error.mend


def test_colour_images_one_frame_late():
    def shift(frames):
        return [replace(f, image=frames[max(0, i - 1)].image) for i, f in enumerate(frames)]

    error = only_error(check(edited(room(1), shift)))
    assert "those 1 frame later fit" in error.what


@pytest.mark.parametrize("number", [0, 1])
def test_images_and_depth_shuffled_against_poses(number):
    def shuffle(frames):
        order = np.random.default_rng(1).permutation(len(frames))
        return [
            replace(f, cam_from_world=frames[i].cam_from_world) for f, i in zip(frames, order, strict=True)
        ]

    error = only_error(check(edited(room(number), shuffle)))
    assert "do not belong together" in error.what
    assert "the poses are other frames'" in error.what
    assert "numbered alike" in error.mend


def test_one_image_of_another_frame_is_a_warning():
    def swap(frames):
        return [replace(f, image=frames[-1].image) if i == 3 else f for i, f in enumerate(frames)]

    report = check(edited(room(0), swap))
    assert report.ok
    assert any("colours of 1 of 10 frames" in problem.what for problem in report.problems), report.problems


# --- intrinsics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.75, 0.8, 1.25])
def test_images_resized_after_calibration(factor):
    def recalibrate(frames):
        shape = frames[0].image.shape[:2]
        other = (round(shape[0] / factor), round(shape[1] / factor))
        return [replace(f, intrinsics=scale_intrinsics(f.intrinsics, shape, other)) for f in frames]

    error = only_error(check(edited(room(0), recalibrate)))
    assert "images of another size" in error.what
    named = float(error.what.split("size: ")[1].split(" ")[0])
    assert named == pytest.approx(factor, rel=0.04)
    assert "give intrinsics in pixels of this image size" in error.mend


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_another_focal_length(factor):
    def change(frames):
        return [replace(f, intrinsics=f.intrinsics @ np.diag([factor, factor, 1.0])) for f in frames]

    error = only_error(check(edited(room(1), change)))
    assert "another focal length" in error.what
    assert float(error.what.split("length: ")[1].split(" ")[0]) == pytest.approx(1 / factor, rel=0.04)


@pytest.mark.parametrize("factor", [0.7, 0.8, 1.25])
def test_colour_alone_resized_after_calibration(factor):
    # Colour as a camera with another focal length sees it; depth stays as it was.
    def change(frames):
        changed = []
        for f in frames:
            height, width = f.image.shape[:2]
            row, column = np.mgrid[:height, :width]
            cx, cy = f.intrinsics[:2, 2]
            source = (np.rint((row - cy) / factor + cy), np.rint((column - cx) / factor + cx))
            rows, columns = (
                np.clip(v, 0, n - 1).astype(int) for v, n in zip(source, (height, width), strict=True)
            )
            changed.append(replace(f, image=f.image[rows, columns]))
        return changed

    error = only_error(check(edited(room(0), change)))
    assert "colour looks taken with another focal length" in error.what
    assert float(error.what.split("length: ")[1].split(" ")[0]) == pytest.approx(factor, rel=0.08)


def two_cameras(folder, color, depth, depth_shape):
    """A capture whose cameras differ: colour of 64 × 48, depth of ``depth_shape``."""
    frames = []
    for index, pose in enumerate(camera_path(8)):
        image, _, _ = cast(pose, color, (48, 64))
        _, depth_m, _ = cast(pose, depth, depth_shape)
        frames.append((Frame("room", str(index), image, color, pose, None), depth_m))
    padded = [replace(frame, depth_m=np.ones((48, 64), np.float32)) for frame, _ in frames]
    write_capture(folder, padded)
    for frame, depth_m in frames:
        Image.fromarray(np.rint(depth_m * 1000).astype(np.uint16)).save(
            folder / "depth" / f"{frame.name}.png"
        )
    (folder / "intrinsics.txt").unlink()
    (folder / "intrinsic").mkdir()
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", color)
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", depth)
    return folder


COLOR = np.array([[50.0, 0.0, 31.5], [0.0, 50.0, 23.5], [0.0, 0.0, 1.0]])
NARROW = np.array([[72.0, 0.0, 31.5], [0.0, 72.0, 23.5], [0.0, 0.0, 1.0]])
LARGER = np.array([[110.0, 0.0, 63.5], [0.0, 110.0, 47.5], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize(("depth", "shape"), [(NARROW, (48, 64)), (LARGER, (96, 128))])
def test_intrinsics_of_colour_and_depth_exchanged(tmp_path, depth, shape):
    folder = two_cameras(tmp_path / "room", COLOR, depth, shape)
    data = CaptureData(path=str(folder), cloud_voxel_m=0.05)
    assert check_source(Capture(data), Config(data=data)).ok
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", depth)
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", COLOR)
    report = check_source(Capture(data), Config(data=data))
    assert report.errors, summary_lines(report)
    assert report.errors[0].mend == "exchange intrinsic_color.txt and intrinsic_depth.txt", report.errors


# --- clocks --------------------------------------------------------------------------------------------


class Clock(BaseModel):
    time_offset_s: float = 0.0


@lru_cache(maxsize=32)
def rendered(time_s):
    return cast(walk_pose(time_s))[:2]


class Tracked:
    """Frames at 5 Hz of a tracked camera whose clock may be ahead: poses are looked up at stamp + offset."""

    classes = None
    truth = None

    def __init__(self, config: Clock, ahead_s: float = 0.2):
        self.config, self.ahead_s = config, ahead_s

    def names(self, split):
        return ("walk",)

    def frame_count(self, name):
        return 12

    def findings(self):
        return Findings()

    def scene(self, name):
        frames = []
        for index in range(12):
            true_s = 0.8 + 0.2 * index
            image, depth_m = rendered(true_s)
            looked_up = walk_pose(true_s + self.ahead_s + self.config.time_offset_s)
            frames.append(Frame(name, f"{index}", image, INTRINSICS, looked_up, depth_m))
        return Scene(name, np.zeros((0, 3), np.float32), None, Frames.of(frames))


@pytest.mark.parametrize("ahead_s", [0.2, -0.2])
def test_time_stamps_off(ahead_s):
    class Source(Tracked):
        def __init__(self, config):
            super().__init__(config, ahead_s)

    report = check_source(Source(Clock()), Config())
    said = [problem for problem in report.problems if "time stamps" in problem.what]
    assert said, summary_lines(report)
    assert f"data.time_offset_s={-ahead_s:g}" in said[0].mend
    assert check_source(Source(Clock(time_offset_s=-ahead_s)), Config()).problems == ()


# --- poses ---------------------------------------------------------------------------------------------


def test_poses_with_nan_and_mirrored_ones():
    def damage(frames):
        lost = np.full((4, 4), np.nan)
        mirrored = np.diag([-1.0, 1.0, 1.0, 1.0]) @ frames[5].cam_from_world
        poses = {2: lost, 5: mirrored}
        return [replace(f, cam_from_world=poses.get(i, f.cam_from_world)) for i, f in enumerate(frames)]

    report = check(edited(room(0), damage))
    assert len(report.errors) == 2
    assert "NaN or infinity" in report.errors[0].what
    assert report.errors[0].where.endswith("2")
    assert "mirrored" in report.errors[1].what


def test_inverse_poses_of_a_source_without_knobs_name_the_files():
    def invert(frames):
        return [replace(f, cam_from_world=np.linalg.inv(f.cam_from_world)) for f in frames]

    report = check(edited(room(0), invert), Config(data=ScanNetData(path="/data/scannet")))
    error = only_error(report)
    assert "poses look like world_to_cam" in error.what
    assert "convert pose files to camera-to-world" in error.mend
    assert "download these files again" in error.mend


# --- real frames ---------------------------------------------------------------------------------------

needs_real_frames = pytest.mark.skipif(
    not SEVEN_SCENES.is_dir(), reason="real frames are absent: ../shared/data/sevenscenes"
)


def real(change) -> TinySource:
    frames = list(Capture(CaptureData(path=str(SEVEN_SCENES), max_width=160)).frames())
    return in_memory(change(frames), "sevenscenes")


@needs_real_frames
def test_real_colour_that_is_not_registered_is_a_warning():
    report = check(real(list))
    assert report.ok
    assert [problem.severity for problem in report.problems] == ["warning"], report.problems
    assert "colour looks taken with another focal length" in report.problems[0].what
    assert float(report.problems[0].what.split("length: ")[1].split(" ")[0]) == pytest.approx(0.9, rel=0.06)


@needs_real_frames
def test_real_colour_images_shuffled():
    def shuffle(frames):
        order = np.random.default_rng(2).permutation(len(frames))
        return [replace(f, image=frames[i].image) for f, i in zip(frames, order, strict=True)]

    assert "colours do not fit depth and poses" in only_error(check(real(shuffle))).what


@needs_real_frames
def test_real_images_resized_after_calibration():
    def recalibrate(frames):
        return [replace(f, intrinsics=scale_intrinsics(f.intrinsics, (120, 160), (150, 200))) for f in frames]

    error = only_error(check(real(recalibrate)))
    assert float(error.what.split("another size: ")[1].split(" ")[0]) == pytest.approx(0.8, rel=0.04)
