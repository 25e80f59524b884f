"""Writers of point cloud files and of the layout of `scenelift.scenes.lidar`, for tests."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scenelift.types import F32, U8

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
