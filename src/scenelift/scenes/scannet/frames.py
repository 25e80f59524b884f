"""Frames of a ScanNet scan, exported ones or those of its recording, in the conventions of `scenelift.types`.

Colour is resized to ``data.image_size`` by area; depth is carried to its pixels by nearest neighbour through
both intrinsics, with both cameras at one place. Frames without a finite pose are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

from scenelift import geometry
from scenelift.config import ScanNetData
from scenelift.errors import DataError
from scenelift.files import read_bytes
from scenelift.image_files import read_depth_png, read_rgb
from scenelift.scenes.depth_files import metres
from scenelift.scenes.matrices import read_intrinsics, read_pose
from scenelift.scenes.rgbd import RIGID_TOLERANCE, RgbdCamera, cam_from_world, camera_fault, scale_intrinsics
from scenelift.scenes.scannet.layout import COLOR, DEPTH, POSE, SENS, Scan
from scenelift.scenes.scannet.sens import SensHeader, find_frames, read_frame, read_header
from scenelift.types import F32, F64, U8, U16, Frame, Frames

_UNITS_PER_METRE = 1000.0
_CAMERA_SHAPES = ((968, 1296), (480, 640))
"""(H, W) of ScanNet's cameras. Intrinsics may be those of the camera where images were scaled down."""
_SAME_ASPECT = 0.02


def frame_names(scan: Scan, config: ScanNetData) -> tuple[str, ...]:
    """Names of the frames with a finite pose, numbers of six digits as in the exported frames.

    Raises:
        DataError: they come from the recording, and it is damaged.
    """
    if not scan.uses_sens(config.frames):
        return scan.frames
    lost = find_frames(scan.file(SENS)).lost
    return tuple(f"{number:06d}" for number in range(0, len(lost), config.sens_stride) if not lost[number])


def frames_of(scan: Scan, config: ScanNetData, aligned_from_world: F64) -> Frames:
    """The frames of a scan.

    Args:
        scan: its files.
        config: which frames, and their size.
        aligned_from_world: (4, 4) rigid, a change of the world that poses follow.

    Raises:
        DataError: intrinsics or the recording are missing or damaged, or a pose is not a rigid motion.
    """
    names = frame_names(scan, config)
    if scan.uses_sens(config.frames):
        header, table = read_header(scan.file(SENS)), find_frames(scan.file(SENS))
        offsets = {name: int(table.offsets[int(name)]) for name in names}
        return Frames(names, partial(_recorded, scan, config, header, offsets, aligned_from_world))
    for name in scan.bent:  # what the index says may have been mended since
        rigid(read_pose(scan.frame_file(POSE, name)), scan.frame_file(POSE, name))
    read = partial(_exported, scan, config, _intrinsics(scan), aligned_from_world)
    return Frames(names, read, partial(_exported_image, scan, config))


def frame_shape(scan: Scan, config: ScanNetData, name: str) -> tuple[int, int]:
    """(H, W) of a frame. Raises `DataError`."""
    if config.image_size is not None:
        return config.image_size
    if scan.uses_sens(config.frames):
        return read_header(scan.file(SENS)).color_shape
    return _shape(read_rgb(scan.frame_file(COLOR, name)))


def intrinsics_files(scan: Scan) -> dict[str, Path]:
    """The intrinsics that exported frames need, by camera, whether they are there or not."""
    folder = scan.frames_folder or Path(scan.id)
    return {camera: folder / f"intrinsics_{camera}.txt" for camera in (COLOR, DEPTH)}


def read_axis_alignment(path: Path) -> F64:
    """The ``axisAlignment`` of a scan's ``<id>.txt``: (4, 4) float64 aligned_from_world, rigid.

    The identity where the file has none (test scans), as in ScanNet's own preprocessing.

    Raises:
        DataError: the file is missing or damaged, or the matrix is not a rigid motion.
    """
    text = read_bytes(path, "ScanNet's description of a scan").decode("utf-8", errors="replace")
    lines = [line.partition("=") for line in text.splitlines()]
    value = next((value for key, _, value in lines if key.strip() == "axisAlignment"), None)
    if value is None:
        return np.eye(4)
    try:
        numbers = np.array([float(word) for word in value.split()])
    except ValueError:
        numbers = np.empty(0)
    if len(numbers) != 16:
        raise DataError(
            f"expected 16 numbers as axisAlignment in {path}, found {value.strip()[:80]!r}; "
            "download it again or set data.axis_align=false"
        )
    aligned: F64 = geometry.orthonormalize(torch.from_numpy(rigid(numbers.reshape(4, 4), path))).numpy()
    return aligned


def rigid(pose: F64, where: Path | str) -> F64:
    """The (4, 4) pose as it is; `DataError` that says ``where`` unless it is a rigid motion."""
    error = geometry.rigid_error(torch.from_numpy(pose))
    if error > RIGID_TOLERANCE:
        raise DataError(
            f"expected a rigid 4×4 transform (RᵀR within {RIGID_TOLERANCE} of I, last row 0 0 0 1) "
            f"in {where}, found one that is off by {error:.3g}; download it again or remove it"
        )
    return pose


def _intrinsics(scan: Scan) -> dict[str, F64]:
    return {camera: read_intrinsics(path) for camera, path in intrinsics_files(scan).items()}


def _exported_image(scan: Scan, config: ScanNetData, name: str) -> U8:
    return read_rgb(scan.frame_file(COLOR, name), config.image_size)


def _exported(
    scan: Scan, config: ScanNetData, intrinsics: Mapping[str, F64], aligned_from_world: F64, name: str
) -> Frame:
    world_from_cam = rigid(read_pose(scan.frame_file(POSE, name)), scan.frame_file(POSE, name))
    color = read_rgb(scan.frame_file(COLOR, name))
    depth = read_depth_png(scan.frame_file(DEPTH, name))
    files = intrinsics_files(scan)
    camera = RgbdCamera(
        _shape(color),
        _shape(depth),
        _fitting(intrinsics[COLOR], _shape(color), str(files[COLOR])),
        _fitting(intrinsics[DEPTH], _shape(depth), str(files[DEPTH])),
        size=config.image_size,
    )
    pose = aligned_from_world @ world_from_cam
    return _frame(scan, name, camera, color, metres(depth, _UNITS_PER_METRE), pose)


def _recorded(
    scan: Scan,
    config: ScanNetData,
    header: SensHeader,
    offsets: Mapping[str, int],
    aligned_from_world: F64,
    name: str,
) -> Frame:
    frame = read_frame(header, offsets[name])
    world_from_cam = rigid(frame.world_from_cam, f"frame {name} of {header.path}")
    camera = RgbdCamera(
        header.color_shape,
        header.depth_shape,
        _fitting(header.color_intrinsics, header.color_shape, f"{header.path} (colour)"),
        _fitting(header.depth_intrinsics, header.depth_shape, f"{header.path} (depth)"),
        size=config.image_size,
    )
    depth_m = metres(frame.depth_units, header.units_per_metre)
    return _frame(scan, name, camera, frame.color, depth_m, aligned_from_world @ world_from_cam)


def _frame(scan: Scan, name: str, camera: RgbdCamera, color: U8, depth_m: F32, world_from_cam: F64) -> Frame:
    return Frame(
        scene=scan.id,
        name=name,
        image=camera.resize(color),
        intrinsics=camera.intrinsics,
        cam_from_world=cam_from_world(world_from_cam, "cam_to_world"),
        depth_m=camera.register(depth_m),
    )


def _fitting(intrinsics: F64, shape: tuple[int, int], where: str) -> F64:
    """Intrinsics for images of this (H, W): as they are, or scaled if they are those of ScanNet's camera."""
    fault = camera_fault(intrinsics, shape)
    if fault is None:
        return intrinsics
    for own in _CAMERA_SHAPES:
        same_aspect = abs(own[1] * shape[0] / (own[0] * shape[1]) - 1) < _SAME_ASPECT
        if same_aspect and camera_fault(intrinsics, own) is None:
            return scale_intrinsics(intrinsics, own, shape)
    raise DataError(
        f"expected intrinsics of images of {shape[1]} × {shape[0]} in {where}, found that the {fault}; "
        "take images and intrinsics of one export"
    )


def _shape(image: U8 | U16 | F32) -> tuple[int, int]:
    """(H, W)."""
    return image.shape[0], image.shape[1]
