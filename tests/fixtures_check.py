"""Scenes in memory for checks: generated rooms with texture, a street with a rig of cameras and a LiDAR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from fixtures_capture import camera_path
from fixtures_scenes import TinySource, TinyTruth
from fixtures_street import NAMES, SKY, VEHICLE_FROM_CAMERA_AXES, camera_image, lidar_scan, pose
from scenelift.check import CheckReport, check_source, summary_lines
from scenelift.classes import ClassTable
from scenelift.config import Config, PairingConfig, SyntheticData
from scenelift.scenes import Problem
from scenelift.scenes.synthetic import SyntheticRooms
from scenelift.types import F64, IGNORE, Frame, Frames, FrameTruth, Scene, SceneTruth

STREET = ClassTable.from_names(NAMES)
WITHOUT_DEPTH = Config(pairing=PairingConfig(depth_test="none", min_depth_m=1.0))
YAWS = {"front": 0, "front_left": 55, "front_right": -55, "back": 180, "back_left": 110, "back_right": -110}
_INTRINSICS = np.array([[130.0, 0.0, 119.5], [0.0, 130.0, 67.5], [0.0, 0.0, 1.0]])
_SHAPE = (136, 240)


def only_error(report: CheckReport) -> Problem:
    assert len(report.errors) == 1, summary_lines(report)
    return report.errors[0]


@lru_cache(maxsize=4)
def room(number: int = 0, frames: int = 10) -> Scene:
    """One generated room, its frames in memory."""
    scene = SyntheticRooms(SyntheticData(frames_per_room=frames, train_rooms=4)).scene(f"room_{number:04d}")
    return replace(scene, frames=Frames.of(list(scene.frames)))


def edited(scene: Scene, change: Callable[[Sequence[Frame]], list[Frame]]) -> TinySource:
    """A source of one scene whose frames went through ``change``."""
    return TinySource([replace(scene, frames=Frames.of(change(list(scene.frames))))], None)


def check(source: TinySource, config: Config | None = None, max_frames: int = 32) -> CheckReport:
    source.classes = None
    return check_source(source, config or Config(), max_frames)


@lru_cache(maxsize=4)
def street(scenes: int = 3, cameras: tuple[str, ...] = tuple(YAWS), labelled: bool = True) -> TinySource:
    """A vehicle that drives through the street: scenes are turns of its LiDAR, their world the LiDAR's frame.

    Do not edit what this returns; it is shared.
    """
    truth = TinyTruth()
    truth.classes = STREET
    built = []
    for number in range(scenes):
        name = f"turn_{number}"
        world_from_vehicle = pose((4.0 * number - 4.0, 0.3, 0.0), yaw=0.05 * number)
        world_from_lidar = world_from_vehicle @ pose((0.2, 0.0, 1.8))
        points, labels = lidar_scan(world_from_lidar, beams=32, columns=720)
        frames = []
        for camera in cameras:
            yaw = np.deg2rad(YAWS[camera])
            world_from_camera = (
                world_from_vehicle
                @ pose((float(np.cos(yaw)), float(np.sin(yaw)), 1.6), yaw, 0.03)
                @ VEHICLE_FROM_CAMERA_AXES
            )
            cam_from_street = np.linalg.inv(world_from_camera)
            image, _, seen = camera_image(cam_from_street, _INTRINSICS, _SHAPE)
            frames.append(Frame(name, camera, image, _INTRINSICS, cam_from_street @ world_from_lidar))
            if labelled:
                truth.frames[name, camera] = FrameTruth(np.where(seen == SKY, IGNORE, seen).astype(np.uint8))
        if labelled:
            truth.scenes[name] = SceneTruth(labels)
        built.append(Scene(name, points, None, Frames.of(frames)))
    return TinySource(built, truth if labelled else None)


WALK = camera_path(80, 0.05)
"""The camera of a walk through the room of `fixtures_capture`, every 0.05 s."""


def walk_pose(time_s: float) -> F64:
    """(4, 4) cam_from_world at a time of the walk."""
    world_from_cam = np.linalg.inv(np.stack(WALK))
    times = np.arange(len(WALK)) * 0.05
    pose = np.eye(4)
    pose[:3, :3] = Slerp(times, Rotation.from_matrix(world_from_cam[:, :3, :3]))([time_s]).as_matrix()[0]
    pose[:3, 3] = [np.interp(time_s, times, world_from_cam[:, axis, 3]) for axis in range(3)]
    inverse: F64 = np.linalg.inv(pose)
    return inverse


def with_matrices(source: TinySource, change: Callable[[F64], F64]) -> TinySource:
    """The same with every cam_from_world replaced."""
    scenes = [
        replace(
            scene,
            frames=Frames.of([replace(f, cam_from_world=change(f.cam_from_world)) for f in scene.frames]),
        )
        for scene in source.scenes.values()
    ]
    return TinySource(scenes, source.truth)
