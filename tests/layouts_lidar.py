"""Writers of point cloud files and of the layout of `scenelift.scenes.lidar`, for tests."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import fixtures_street as street
from scenelift.image_files import write_png
from scenelift.types import F32, F64, U8

PCD_KINDS = ("ascii", "binary", "binary_compressed")


def lzf_compress(data: bytes) -> bytes:
    """A plain LZF packer: greedy, last place of each three bytes, up to 264 bytes a reference."""
    out, literals, seen, at = bytearray(), bytearray(), {}, 0

    def flush() -> None:
        for start in range(0, len(literals), 32):
            part = literals[start : start + 32]
            out.append(len(part) - 1)
            out.extend(part)
        literals.clear()

    while at < len(data):
        key = data[at : at + 3]
        earlier = seen.get(key, -1)
        seen[key] = at
        if len(key) < 3 or earlier < 0 or at - earlier > 8192:
            literals.append(data[at])
            at += 1
            continue
        length = 3
        while length < 264 and at + length < len(data) and data[earlier + length] == data[at + length]:
            length += 1
        flush()
        distance, code = at - earlier - 1, length - 2
        if code < 7:
            out += bytes([code << 5 | distance >> 8, distance & 255])
        else:
            out += bytes([7 << 5 | distance >> 8, code - 7, distance & 255])
        at += length
    flush()
    return bytes(out)


def pcd_bytes(columns: Mapping[str, np.ndarray], kind: str, *, height: int = 1) -> bytes:
    """A PCD file of columns (N,) or (N, count); version 0.7."""
    letters = {"i": "I", "u": "U", "f": "F"}
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    rows = len(next(iter(arrays.values())))
    counts = [1 if a.ndim == 1 else a.shape[1] for a in arrays.values()]
    header = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        "FIELDS " + " ".join(arrays),
        "SIZE " + " ".join(str(a.dtype.itemsize) for a in arrays.values()),
        "TYPE " + " ".join(letters[a.dtype.kind] for a in arrays.values()),
        "COUNT " + " ".join(map(str, counts)),
        f"WIDTH {rows // height}",
        f"HEIGHT {height}",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {rows}",
        f"DATA {kind}\n",
    ]
    out = io.BytesIO()
    out.write("\n".join(header).encode())
    if kind == "ascii":
        for row in range(rows):
            numbers = [x for a in arrays.values() for x in np.atleast_1d(a[row]).tolist()]
            out.write((" ".join(repr(x) for x in numbers) + "\n").encode())
    elif kind == "binary":
        for row in range(rows):
            for a in arrays.values():
                out.write(a[row].tobytes())
    else:
        raw = b"".join(a.tobytes() for a in arrays.values())
        packed = lzf_compress(raw)
        out.write(struct.pack("<II", len(packed), len(raw)) + packed)
    return out.getvalue()


def las_bytes(xyz: np.ndarray, rgb: U8 | None, *, packed: bool, offset: Any = (0, 0, 0)) -> bytes:
    """A LAS 1.4 or LAZ file in millimetres, colours as 16 bits."""
    import laspy

    header = laspy.LasHeader(point_format=7 if rgb is not None else 6, version="1.4")
    header.scales, header.offsets = np.full(3, 0.001), np.asarray(offset, float)
    cloud = laspy.LasData(header)
    cloud.x, cloud.y, cloud.z = np.asarray(xyz, float).T
    cloud.intensity = np.arange(len(xyz)) % 65536
    if rgb is not None:
        cloud.red, cloud.green, cloud.blue = rgb.astype(np.uint16).T * 257
    out = io.BytesIO()
    cloud.write(out, do_compress=packed, laz_backend=laspy.LazBackend.Lazrs if packed else None)
    return out.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def some_points(count: int = 200, seed: int = 0) -> tuple[F32, U8]:
    """Points within 50 m and their colours."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-50, 50, (count, 3)).astype(np.float32), rng.integers(0, 256, (count, 3), np.uint8)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --- a folder of clouds and cameras ---------------------------------------------------------------------

SHAPE = (90, 160)
INTRINSICS = np.array([[80.0, 0.0, 79.5], [0.0, 80.0, 44.5], [0.0, 0.0, 1.0]])
CAMERA_YAW = {"front": 0.0, "left": np.pi / 2, "back": np.pi}
CLASS_NAMES = {str(i): name for i, name in enumerate((*street.NAMES, "void sky"))}


def cam_from_lidar(yaw: float) -> F64:
    """A camera 30 cm before and 20 cm below the LiDAR that looks along ``yaw``."""
    lidar_from_cam = street.pose((0.3 * np.cos(yaw), 0.3 * np.sin(yaw), -0.2), yaw)
    return np.linalg.inv(lidar_from_cam @ street.VEHICLE_FROM_CAMERA_AXES)


def calibration(**camera_keys: Any) -> dict[str, Any]:
    """calib.json of the cameras above; ``camera_keys`` go into each camera."""
    return {
        "version": 1,
        "cameras": {
            name: {
                "intrinsics": INTRINSICS.tolist(),
                "width": SHAPE[1],
                "height": SHAPE[0],
                "cam_from_lidar": cam_from_lidar(yaw).tolist(),
                **camera_keys,
            }
            for name, yaw in CAMERA_YAW.items()
        },
    }


def vehicle(time_s: float) -> F64:
    """world_from_lidar of a vehicle at 12 m/s that turns by 0.2 rad/s."""
    return street.pose((-8 + 12 * time_s, 0.4, 1.9), 0.2 * time_s, 0.03)


def write_lidar(
    folder: Path,
    *,
    count: int = 2,
    kind: str = "bin",
    stems: Callable[[float], str] | None = None,
    image_delay_s: float = 0.0,
    distort: Callable[[np.ndarray], np.ndarray] | None = None,
    period_s: float = 0.1,
    **camera_keys: Any,
) -> Path:
    """A street as clouds and images with all labels, 10 clouds a second.

    ``stems`` makes file names from seconds (default: a counter); ``distort`` is applied to images and labels.
    """
    bend = distort or (lambda image: image)
    poses = []
    for number in range(count):
        time_s = number * period_s
        points, labels = street.lidar_scan(vehicle(time_s), beams=24, columns=480)
        stem = stems(time_s) if stems else f"{number:06d}"
        columns = dict(zip("xyz", points.T, strict=True))
        data = {
            "bin": lambda p=points, n=labels: np.column_stack([p, 0.3 + 0.01 * n]).astype("<f4").tobytes(),
            "npy": lambda p=points: npy_bytes(p),
            "pcd": lambda c=columns: pcd_bytes(c, "binary"),
            "las": lambda p=points: las_bytes(p, None, packed=False),
        }[kind]()
        write(folder / "lidar" / f"{stem}.{kind}", data)
        write(folder / "labels" / f"{stem}.label", labels.astype("<u4").tobytes())
        poses.append(vehicle(time_s))
        seen_s = time_s + image_delay_s
        image_stem = stems(seen_s) if stems else stem
        for name, yaw in CAMERA_YAW.items():
            cam_from_world = cam_from_lidar(yaw) @ np.linalg.inv(vehicle(seen_s))
            image, _, pixel_labels = street.camera_image(cam_from_world, INTRINSICS, SHAPE)
            path = folder / "cameras" / name / f"{image_stem}.png"
            write_png(path, bend(image))
            write_png(folder / "image_labels" / name / path.name, bend(pixel_labels))
    (folder / "calib.json").write_text(json.dumps(calibration(**camera_keys)))
    (folder / "classes.json").write_text(json.dumps(CLASS_NAMES))
    np.savetxt(folder / "poses.txt", np.stack(poses)[:, :3].reshape(count, 12))
    return folder
