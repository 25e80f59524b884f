"""KITTI's calibration files: from projections of four columns to intrinsics and rigid motions.

Sources: the readme of the development kits (https://www.cvlibs.net/datasets/kitti/), Geiger et al., "Vision
meets robotics: the KITTI dataset", IJRR 2013, section IV; KITTI-360: https://www.cvlibs.net/datasets/kitti-360/
documentation.php and Liao et al., PAMI 2022.

A rectified camera i of KITTI has P_i = K [I | t]: it stands beside camera 0, in whose rectified frame points
are given, so its own frame is that one moved by t = K⁻¹ p, p the fourth column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scenelift.errors import DataError
from scenelift.files import read_bytes
from scenelift.geometry import orthonormalize, rigid_error
from scenelift.types import F64

RIGID_TOLERANCE = 1e-2
_EXACT = 1e-6
"""Rotations written with all their digits; they are left as they are."""


@dataclass(frozen=True, eq=False)
class KittiCamera:
    """A rectified camera: (3, 3) intrinsics in pixels, and (4, 4) cam_from_velo."""

    intrinsics: F64
    cam_from_velo: F64


def object_camera(path: Path, camera: str) -> KittiCamera:
    """A camera of the object detection benchmark: P_i · R0_rect · Tr_velo_to_cam of calib/NNNNNN.txt.

    Args:
        path: the file.
        camera: ``image_0`` to ``image_3``.

    Raises:
        DataError: missing, an entry is missing or not of its size, or no rigid motion.
    """
    entries = read_entries(path, "KITTI calibration")
    rectify = _rigid(_numbers(entries, path, ("R0_rect", "R_rect"), 9), path, "R0_rect")
    cam0_from_velo = _rigid(_numbers(entries, path, ("Tr_velo_to_cam", "Tr_velo_cam"), 12), path, "Tr")
    return _beside_camera_0(entries, path, camera, rectify @ cam0_from_velo)


def sequence_camera(path: Path, camera: str) -> KittiCamera:
    """A camera of the odometry benchmark and SemanticKITTI: P_i · Tr of a sequence's calib.txt.

    Raises:
        DataError: as `object_camera`.
    """
    entries = read_entries(path, "KITTI calibration")
    return _beside_camera_0(entries, path, camera, _rigid(_numbers(entries, path, ("Tr",), 12), path, "Tr"))


def kitti360_camera(folder: Path, camera: str) -> KittiCamera:
    """A perspective camera of KITTI-360, of perspective.txt, calib_cam_to_velo.txt and calib_cam_to_pose.txt.

    As in its development kit the camera stands where calib_cam_to_pose.txt says; the fourth column of its
    P_rect, which says the same once more, is not used.

    Args:
        folder: ``calibration``.
        camera: ``image_00`` or ``image_01``.

    Raises:
        DataError: as `object_camera`, or a camera that is not rectified.
    """
    if camera not in ("image_00", "image_01"):
        raise DataError(
            f"expected cameras image_00 and image_01 of KITTI-360 in {folder}, found a request for {camera}; "
            "set data.cameras to these (fisheye cameras are not read)"
        )
    number = camera.removeprefix("image_")
    path = folder / "perspective.txt"
    entries = read_entries(path, "KITTI-360 calibration")
    projection = _numbers(entries, path, (f"P_rect_{number}",), 12).reshape(3, 4)
    rectify = _rigid(_numbers(entries, path, (f"R_rect_{number}",), 9), path, f"R_rect_{number}")
    path_pose, path_velo = folder / "calib_cam_to_pose.txt", folder / "calib_cam_to_velo.txt"
    poses = read_entries(path_pose, "KITTI-360 calibration")
    pose_from_cam, pose_from_cam_0 = (
        _rigid(_numbers(poses, path_pose, (name,), 12), path_pose, name) for name in (camera, "image_00")
    )
    velo_from_cam_0 = _rigid(_words(path_velo, 12), path_velo, "its matrix")
    velo_from_cam = velo_from_cam_0 @ np.linalg.inv(pose_from_cam_0) @ pose_from_cam
    cam_from_velo = rectify @ np.linalg.inv(velo_from_cam)
    return KittiCamera(_pinhole(projection, path, f"P_rect_{number}"), cam_from_velo)


def read_entries(path: Path, what: str) -> dict[str, F64]:
    """Lines ``name: numbers`` (the colon may lack); lines that hold anything else are passed over.

    Raises:
        DataError: missing or empty.
    """
    entries = {}
    for line in read_bytes(path, what).decode("utf-8-sig", errors="replace").splitlines():
        name, _, rest = re.sub(r"^(\w+):?\s", r"\1\t", line.strip()).partition("\t")
        try:
            numbers = [float(word) for word in rest.split()]
        except ValueError:  # a date, such as that of calib_time
            continue
        if numbers:
            entries[name] = np.array(numbers)
    return entries


def _words(path: Path, count: int) -> F64:
    words = read_bytes(path, "KITTI-360 calibration").decode("utf-8-sig", errors="replace").split()
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        numbers = np.empty(0)
    return _numbers({"matrix": numbers}, path, ("matrix",), count)


def _numbers(entries: dict[str, F64], path: Path, names: tuple[str, ...], count: int) -> F64:
    found = next((entries[name] for name in names if name in entries), None)
    if found is None or len(found) != count or not np.isfinite(found).all():
        what = "none" if found is None else f"{len(found)} or NaN"
        raise DataError(
            f"expected {count} numbers {names[0]} in {path}, found {what}; "
            "download the calibration files of the benchmark again"
        )
    return found


def _rigid(numbers: F64, path: Path, name: str) -> F64:
    """(4, 4) of 9 or 12 numbers."""
    pose = np.eye(4)
    pose[:3, : len(numbers) // 3] = numbers.reshape(3, -1)
    error = rigid_error(torch.from_numpy(pose))
    if error > RIGID_TOLERANCE:
        raise DataError(
            f"expected a rigid motion {name} in {path}, found one that is off by {error:.3g}; "
            "download the calibration files of the benchmark again"
        )
    exact: F64 = pose if error < _EXACT else orthonormalize(torch.from_numpy(pose)).numpy()
    return exact


def _beside_camera_0(entries: dict[str, F64], path: Path, camera: str, rect_from_velo: F64) -> KittiCamera:
    match = re.fullmatch(r"image_([0-3])", camera)
    if match is None:
        raise DataError(
            f"expected cameras image_0 to image_3 for {path}, found a request for {camera}; "
            "set data.cameras to these"
        )
    name = f"P{match[1]}"
    projection = _numbers(entries, path, (name,), 12).reshape(3, 4)
    intrinsics = _pinhole(projection, path, name)
    moved = np.eye(4)
    moved[:3, 3] = np.linalg.solve(intrinsics, projection[:, 3])
    return KittiCamera(intrinsics, moved @ rect_from_velo)


def _pinhole(projection: F64, path: Path, name: str) -> F64:
    intrinsics = projection[:, :3].copy()
    if not (
        intrinsics[0, 0] > 0
        and intrinsics[1, 1] > 0
        and intrinsics[1, 0] == 0
        and (intrinsics[2] == (0, 0, 1)).all()
    ):
        raise DataError(
            f"expected {name} = [fx s cx ·; 0 fy cy ·; 0 0 1 ·] in {path}, found "
            f"{projection.ravel().tolist()}; download the calibration files of the benchmark again"
        )
    return intrinsics
