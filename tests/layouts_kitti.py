"""Writers of KITTI's three layouts: a street seen by two cameras and a Velodyne."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

import fixtures_street as street
from scenelift.image_files import write_png
from scenelift.types import F64

SHAPE = (94, 310)
FOCAL, CENTRE = 180.0, (154.6, 46.2)
K = np.array([[FOCAL, 0, CENTRE[0]], [0, FOCAL, CENTRE[1]], [0, 0, 1.0]])
BASELINE = {"image_2": 0.06, "image_3": -0.48}
"""Camera's x in camera 0's frame has the other sign: P = K [I | t]."""

VELO_HEIGHT = 1.73
SEMANTIC_KITTI_IDS = np.array([40, 48, 50, 10, 71, 30, 0], np.uint32)
"""Raw id by label of the street; the tree counts as a trunk."""
KITTI_360_IDS = np.array([7, 8, 11, 26, 21, 24, 23], np.uint8)


def rotation(axis: Sequence[float], angle: float) -> F64:
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(angle * np.asarray(axis)).as_matrix()
    return matrix


def cam_0_from_velo() -> F64:
    """Camera 0 stands 27 cm before and 8 cm below the Velodyne and is turned by a fraction of a degree."""
    moved = np.eye(4)
    moved[:3, 3] = [-0.27, 0.0, 0.08]
    axes = np.linalg.inv(street.VEHICLE_FROM_CAMERA_AXES)
    return rotation((0.3, 0.5, 0.2), 0.01) @ axes @ moved


RECTIFY = rotation((0.2, -0.3, 0.6), 0.012)


def projection(camera: str) -> F64:
    """P of a camera: K [I | t], with the few millimetres along y and z that the real ones have."""
    return K @ np.column_stack([np.eye(3), [BASELINE[camera], -0.0019, 0.00498]])


def cam_from_velo(camera: str, rectify: bool) -> F64:
    moved = np.eye(4)
    moved[:3, 3] = [BASELINE[camera], -0.0019, 0.00498]
    return moved @ (RECTIFY if rectify else np.eye(4)) @ cam_0_from_velo()


def line(name: str, matrix: F64) -> str:
    return f"{name}: " + " ".join(f"{x:.12e}" for x in np.ravel(matrix)) + "\n"


def vehicle(number: int) -> F64:
    return street.pose((-9.0 + 1.3 * number, 0.3, VELO_HEIGHT), 0.05 * number)


def scan(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) float32 rows of a .bin, and labels of the street."""
    points, labels = street.lidar_scan(vehicle(number), beams=32, columns=720)
    return np.column_stack([points, 0.1 + 0.05 * labels]).astype("<f4"), labels


def picture(number: int, cam: F64) -> tuple[np.ndarray, np.ndarray]:
    image, _, labels = street.camera_image(cam @ np.linalg.inv(vehicle(number)), K, SHAPE)
    return image, labels


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_object(folder: Path, count: int = 2, part: str = "training") -> Path:
    """KITTI object detection."""
    for number in range(count):
        root, stem = folder / part, f"{number:06d}"
        _put(root / "velodyne" / f"{stem}.bin", scan(number)[0].tobytes())
        text = "".join(line(f"P{i}", projection("image_3" if i == 3 else "image_2")) for i in range(4))
        text += line("R0_rect", RECTIFY[:3, :3]) + line("Tr_velo_to_cam", cam_0_from_velo()[:3])
        _put(root / "calib" / f"{stem}.txt", (text + line("Tr_imu_to_velo", np.eye(4)[:3]) + "\n").encode())
        for camera in BASELINE:
            write_png(root / camera / f"{stem}.png", picture(number, cam_from_velo(camera, True))[0])
    return folder


def write_odometry(folder: Path, sequences: Iterable[str] = ("00", "08", "11"), count: int = 2) -> Path:
    """KITTI odometry with SemanticKITTI's labels (11 has none)."""
    for sequence in sequences:
        root = folder / "dataset" / "sequences" / sequence
        text = "".join(line(f"P{i}", projection("image_3" if i == 3 else "image_2")) for i in range(4))
        _put(root / "calib.txt", (text + line("Tr", cam_0_from_velo()[:3])).encode())
        _put(root / "times.txt", "".join(f"{0.1 * n:e}\n" for n in range(count)).encode())
        for number in range(count):
            rows, labels = scan(number)
            _put(root / "velodyne" / f"{number:06d}.bin", rows.tobytes())
            if int(sequence) <= 10:
                raw = SEMANTIC_KITTI_IDS[labels] | (labels == street.CAR).astype(np.uint32) * (5 << 16)
                _put(root / "labels" / f"{number:06d}.label", raw.astype("<u4").tobytes())
            for camera in BASELINE:
                image = picture(number, cam_from_velo(camera, False))[0]
                write_png(root / camera / f"{number:06d}.png", image)
    return folder


def write_kitti360(folder: Path, frames: Sequence[int] = (0, 1, 2), val: Sequence[int] = (2,)) -> Path:
    """KITTI-360: both rectified cameras with semantics."""
    drive = "2013_05_28_drive_0003_sync"
    left, right = cam_0_from_velo(), np.eye(4)
    right[:3, 3] = [-0.5942, 0.003, -0.002]
    right = rotation((1, 2, 0.5), 0.004) @ right @ left
    rectify = {"image_00": RECTIFY, "image_01": rotation((0.5, 0.1, -0.2), 0.01)}
    cams = {"image_00": left, "image_01": right}
    pose_from_cam_0 = street.pose((1.57, 0.4, 1.2)) @ street.VEHICLE_FROM_CAMERA_AXES
    pose_text, text = "", "calib_time: 28-May-2013 15:52:39\ncorner_dist: 1.0e-01\n"
    for camera, cam in cams.items():
        number = camera[-2:]
        pose_text += line(camera, (pose_from_cam_0 @ left @ np.linalg.inv(cam))[:3])
        fourth = np.array([0.0, 0, 0]) if number == "00" else K @ [-0.5942, 0, 0]
        text += line(f"S_rect_{number}", np.array(SHAPE[::-1], float))
        text += line(f"R_rect_{number}", rectify[camera][:3, :3])
        text += line(f"P_rect_{number}", np.column_stack([K, fourth]))
    _put(folder / "calibration" / "perspective.txt", text.encode())
    _put(folder / "calibration" / "calib_cam_to_pose.txt", pose_text.encode())
    velo_from_cam = " ".join(f"{x:.12e}" for x in np.linalg.inv(left)[:3].ravel())
    _put(folder / "calibration" / "calib_cam_to_velo.txt", velo_from_cam.encode())
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for number in frames:
        stem = f"{number:010d}"
        points = folder / "data_3d_raw" / drive / "velodyne_points" / "data" / f"{stem}.bin"
        _put(points, scan(number)[0].tobytes())
        for camera, cam in cams.items():
            image, labels = picture(number, rectify[camera] @ cam)
            raw = f"data_2d_raw/{drive}/{camera}/data_rect/{stem}.png"
            semantic = f"data_2d_semantics/train/{drive}/{camera}/semantic/{stem}.png"
            write_png(folder / raw, image)
            write_png(folder / semantic, KITTI_360_IDS[labels])
            lists["val" if number in val else "train"].append(f"{raw} {semantic}")
    for split, rows in lists.items():
        path = folder / "data_2d_semantics" / "train" / f"2013_05_28_drive_{split}_frames.txt"
        _put(path, ("\n".join(rows) + "\n").encode())
    return folder
