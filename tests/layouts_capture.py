"""Writers of the layouts a capture may have: the same frames, each as its own tools would leave them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from fixtures_capture import write_capture
from scenelift.types import F32, F64, Frame

FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])
START_S = 1305031100.0
"""Time stamps as in the data set: seconds since 1970, where a float64 resolves 0.2 µs."""


def write_depth(path: Path, depth_m: F32, units_per_metre: float = 1000.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = np.floor(depth_m.astype(np.float64) * units_per_metre + 0.5)
    Image.fromarray(stored.astype(np.uint16)).save(path)


def write_color(path: Path, frame: Frame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame.image).save(path)


def tum_line(time_s: float, world_from_cam: F64) -> str:
    quaternion = Rotation.from_matrix(world_from_cam[:3, :3]).as_quat()
    return " ".join([f"{time_s:.6f}", *(f"{v:.12f}" for v in (*world_from_cam[:3, 3], *quaternion))])


def write_tum(
    folder: Path,
    frames: Sequence[Frame],
    *,
    depth_lag_s: float = 0.004,
    times_s: Sequence[float] | None = None,
    trajectory: Sequence[tuple[float, F64]] | None = None,
    intrinsics: bool = True,
) -> Path:
    """rgb.txt, depth.txt, groundtruth.txt; poses stand at the time of the colour images if none are given.

    ``trajectory``: (seconds, world_from_cam).
    """
    times_s = times_s or [START_S + i / 30 for i in range(len(frames))]
    lines: dict[str, list[str]] = {"rgb": [], "depth": []}
    for frame, time_s in zip(frames, times_s, strict=True):
        color, depth = f"rgb/{time_s:.6f}.png", f"depth/{time_s + depth_lag_s:.6f}.png"
        write_color(folder / color, frame)
        assert frame.depth_m is not None
        write_depth(folder / depth, frame.depth_m, 5000.0)
        lines["rgb"].append(f"{time_s:.6f} {color}")
        lines["depth"].append(f"{time_s + depth_lag_s:.6f} {depth}")
    for name, rows in lines.items():
        head = f"# {name} images\n# file: 'room.bag'\n# timestamp filename\n"
        (folder / f"{name}.txt").write_text(head + "\n".join(rows) + "\n")
    poses = [np.linalg.inv(frame.cam_from_world) for frame in frames]
    rows = [tum_line(t, pose) for t, pose in trajectory or list(zip(times_s, poses, strict=True))]
    head = "# ground truth trajectory\n# file: 'room.bag'\n# timestamp tx ty tz qx qy qz qw\n"
    (folder / "groundtruth.txt").write_text(head + "\n".join(rows) + "\n")
    if intrinsics:
        np.savetxt(folder / "intrinsics.txt", frames[0].intrinsics)
    return folder


def transforms_tree(frames: Sequence[Frame], *, per_frame: bool = False) -> dict[str, Any]:
    """The JSON tree of nerfstudio: OpenGL axes, principal point counted from the edge of the image."""
    tree: dict[str, Any] = {"camera_model": "OPENCV", "frames": []}
    for frame in frames:
        camera = {
            "fl_x": frame.intrinsics[0, 0],
            "fl_y": frame.intrinsics[1, 1],
            "cx": frame.intrinsics[0, 2] + 0.5,
            "cy": frame.intrinsics[1, 2] + 0.5,
            "w": frame.width,
            "h": frame.height,
        }
        entry: dict[str, Any] = {"file_path": f"images/frame_{int(frame.name):05d}.png"}
        if frame.depth_m is not None:
            entry["depth_file_path"] = f"depth/frame_{int(frame.name):05d}.png"
        entry["transform_matrix"] = (np.linalg.inv(frame.cam_from_world) @ FLIP_YZ).tolist()
        if per_frame:
            entry |= camera
        else:
            tree |= camera
        tree["frames"].append(entry)
    return tree


def write_transforms(folder: Path, frames: Sequence[Frame], *, per_frame: bool = False) -> Path:
    for frame in frames:
        write_color(folder / f"images/frame_{int(frame.name):05d}.png", frame)
        if frame.depth_m is not None:
            write_depth(folder / f"depth/frame_{int(frame.name):05d}.png", frame.depth_m)
    (folder / "transforms.json").write_text(json.dumps(transforms_tree(frames, per_frame=per_frame)))
    return folder


def open3d_intrinsics(frame: Frame) -> dict[str, Any]:
    columns = frame.intrinsics.T.ravel().tolist()
    return {"width": frame.width, "height": frame.height, "intrinsic_matrix": columns}


def log_text(poses: Sequence[F64]) -> str:
    lines = []
    for index, pose in enumerate(poses):
        lines += [f"{index} {index} {index + 1}", *(" ".join(f"{v:.12f}" for v in row) for row in pose)]
    return "\n".join(lines) + "\n"


def write_redwood(folder: Path, frames: Sequence[Frame], *, log: str = "scene/trajectory.log") -> Path:
    for index, frame in enumerate(frames):
        write_color(folder / f"color/{index:06d}.png", frame)
        assert frame.depth_m is not None
        write_depth(folder / f"depth/{index:06d}.png", frame.depth_m)
    (folder / log).parent.mkdir(parents=True, exist_ok=True)
    (folder / log).write_text(log_text([np.linalg.inv(frame.cam_from_world) for frame in frames]))
    (folder / "camera_intrinsic.json").write_text(json.dumps(open3d_intrinsics(frames[0])))
    return folder


def write_seven_scenes(folder: Path, frames: Sequence[Frame]) -> Path:
    return write_capture(folder, frames, naming="7scenes")


WRITERS: dict[str, Callable[[Path, Sequence[Frame]], Path]] = {
    "scannet": write_capture,
    "7scenes": write_seven_scenes,
    "tum": write_tum,
    "transforms": write_transforms,
    "redwood": write_redwood,
}
