"""True little captures: a room with a box in it, ray-cast in closed form, and writers of capture folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scenelift import geometry
from scenelift.config import CaptureData
from scenelift.scenes.capture import Capture
from scenelift.types import F32, F64, U8, Frame

ROOM = np.array([[-2.0, -1.5, 0.0], [2.0, 1.5, 2.4]])
BOX = np.array([[0.3, -0.4, 0.0], [1.1, 0.5, 0.8]])
SHAPE = (48, 64)
INTRINSICS = np.array([[50.0, 0.0, 31.5], [0.0, 50.0, 23.5], [0.0, 0.0, 1.0]])
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SEVEN_SCENES = SHARED_DATA / "sevenscenes"


def camera_path(count: int, step: float = 0.25) -> list[F64]:
    """cam_from_world of a camera that walks an off-centre arc and looks across the room."""
    poses = []
    for index in range(count):
        angle = step * index
        eye = (-0.9 + 0.5 * np.cos(angle), -0.2 + 0.6 * np.sin(angle), 1.5 + 0.1 * np.sin(2 * angle))
        target = (0.6 + 0.7 * np.cos(angle + 1), 0.9 * np.sin(angle), 0.7)
        eye_t, target_t, up = (torch.tensor(v, dtype=torch.float64) for v in (eye, target, (0.0, 0.0, 1.0)))
        poses.append(geometry.look_at(eye_t, target_t, up).numpy())
    return poses


def cast(
    cam_from_world: F64, intrinsics: F64 = INTRINSICS, shape: tuple[int, int] = SHAPE
) -> tuple[U8, F32, F64]:
    """Render the room: image (H, W, 3) uint8, depth_m (H, W) float32, hit points (H, W, 3) float64."""
    row, column = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    rays_cam = np.stack([column, row, np.ones(shape)], -1) @ np.linalg.inv(intrinsics).T
    world_from_cam = np.linalg.inv(cam_from_world)
    rays, eye = rays_cam @ world_from_cam[:3, :3].T, world_from_cam[:3, 3]
    rays = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
    # From inside, a ray leaves the room through the nearest of the three planes ahead of it.
    depth = (np.where(rays > 0, ROOM[1] - eye, ROOM[0] - eye) / rays).min(-1)
    enter, leave = np.sort((BOX[:, None, None] - eye) / rays, axis=0)
    hit = (enter.max(-1) < leave.min(-1)) & (enter.max(-1) > 0)
    depth = np.where(hit, enter.max(-1), depth)
    points_world = eye + depth[..., None] * rays
    image = 120 + 100 * np.sin(points_world * np.array([3.0, 4.0, 5.0]))
    image[hit, 0] = 255
    return image.astype(np.uint8), depth.astype(np.float32), points_world


def room_frames(count: int = 8, step: float = 0.25) -> list[Frame]:
    """Frames of the room, named 0, 1, 2, ..."""
    frames = []
    for index, pose in enumerate(camera_path(count, step)):
        image, depth_m, _ = cast(pose)
        frames.append(Frame("room", str(index), image, INTRINSICS, pose, depth_m))
    return frames


def open_capture(folder: Path, **keys: Any) -> Capture:
    """The source of a capture folder, with keys of `CaptureData`."""
    return Capture(CaptureData(path=str(folder), **keys))


def write_capture(
    folder: Path, frames: Sequence[Frame], *, naming: str = "scannet", units_per_metre: float = 1000.0
) -> Path:
    """Write frames as a capture folder with camera-to-world poses and one file of intrinsics.

    ``naming``: ``"scannet"`` (color/0.png ...) or ``"7scenes"`` (frame-000000.color.png ...).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for frame in frames:
        if naming == "scannet":
            paths = [folder / part / f"{frame.name}" for part in ("color", "depth", "pose")]
        else:
            paths = [folder / f"frame-{int(frame.name):06d}.{part}" for part in ("color", "depth", "pose")]
        color, depth, pose = (
            path.with_name(path.name + ending)
            for path, ending in zip(paths, (".png", ".png", ".txt"), strict=True)
        )
        color.parent.mkdir(exist_ok=True)
        depth.parent.mkdir(exist_ok=True)
        pose.parent.mkdir(exist_ok=True)
        assert frame.depth_m is not None
        Image.fromarray(frame.image).save(color)
        stored = np.floor(frame.depth_m.astype(np.float64) * units_per_metre + 0.5)
        Image.fromarray(stored.astype(np.uint16)).save(depth)
        np.savetxt(pose, np.linalg.inv(frame.cam_from_world))
    np.savetxt(folder / "intrinsics.txt", frames[0].intrinsics)
    return folder


def edit_poses(folder: Path, change: Callable[[F64], F64]) -> None:
    """Replace every pose matrix of a ScanNet-style capture by ``change(matrix)``."""
    for path in (folder / "pose").glob("*.txt"):
        np.savetxt(path, change(np.loadtxt(path)))


def level_cameras(forwards: list[tuple[float, float, float]]) -> np.ndarray:
    """Level cameras in a world whose up is −y, as the first frame of a capture often defines it."""
    poses = []
    for forward in np.array(forwards, np.float64):
        z = forward / np.linalg.norm(forward)
        x = np.cross([0.0, 1.0, 0.0], z)
        x /= np.linalg.norm(x)
        pose = np.eye(4)
        pose[:3, :3] = [x, np.cross(z, x), z]
        poses.append(pose)
    return np.stack(poses)
