"""Reading ScanNet's ``.sens`` files: a recording of colour, depth and poses in one file of up to gigabytes.

Format (version 4, little-endian), after ScanNet's own reader
(https://github.com/ScanNet/ScanNet/tree/master/SensReader)::

    uint32 version, uint64 length of the sensor's name, the name
    float32[16] × 4: intrinsic_color, extrinsic_color, intrinsic_depth, extrinsic_depth
    int32 colour compression (0 raw, 1 PNG, 2 JPEG), int32 depth compression (0 raw, 1 zlib, 2 occi)
    uint32 colour width, height, depth width, height; float32 depth units per metre; uint64 frames
    for each frame:
        float32[16] camera_to_world, uint64 × 2 time stamps, uint64 colour bytes, uint64 depth bytes
        the colour bytes, the depth bytes
    uint64 number of IMU records, the records (not read)

Frames differ in size, so the place of a frame is known only from those before it. The file is walked once,
reading 96 bytes a frame; where frames lie is then kept in the user's cache (`scenelift.scenes.index`) in one
small file for each recording, about 9 bytes a frame.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from scenelift.errors import DataError, OutputError, one_line
from scenelift.files import atomic_write, open_bytes
from scenelift.image_files import MAX_PIXELS, decode_rgb
from scenelift.scenes.index import index_path, stamp
from scenelift.scenes.matrices import pinhole
from scenelift.types import F64, I64, U8, U16, Bool

VERSION = 4

_START = struct.Struct("<IQ")
_REST = struct.Struct("<64f2i4IfQ")
_FRAME = struct.Struct("<16f4Q")
_MAX_NAME = 4096
_MAX_OVERHEAD = 1 << 16
_COLOR_RAW, _DEPTH_RAW, _DEPTH_ZLIB, _DEPTH_OCCI = 0, 0, 1, 2
_TABLE_SCHEMA = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SensHeader:
    """What stands before the frames.

    Attributes:
        path: of the file.
        color_shape: (H, W) of colour images.
        depth_shape: (H, W) of depth images.
        color_intrinsics: (3, 3) float64, for ``color_shape``.
        depth_intrinsics: (3, 3) float64, for ``depth_shape``.
        color_compression: 0 raw RGB, 1 PNG, 2 JPEG.
        depth_compression: 0 raw uint16, 1 zlib.
        units_per_metre: of depth.
        frames: how many the file claims to have.
        frames_start: byte at which the first one begins.
    """

    path: Path
    color_shape: tuple[int, int]
    depth_shape: tuple[int, int]
    color_intrinsics: F64
    depth_intrinsics: F64
    color_compression: int
    depth_compression: int
    units_per_metre: float
    frames: int
    frames_start: int


@dataclass(frozen=True, eq=False)
class SensFrame:
    """One frame as it is stored.

    Attributes:
        color: (H, W, 3) uint8, RGB.
        depth_units: (H, W) uint16, `SensHeader.units_per_metre` of them a metre.
        world_from_cam: (4, 4) float64; may be infinite or NaN (tracking was lost).
    """

    color: U8
    depth_units: U16
    world_from_cam: F64


@dataclass(frozen=True, eq=False)
class SensTable:
    """Where the frames of a file lie.

    Attributes:
        offsets: (N,) int64, first byte of each frame.
        lost: (N,) bool, whether its pose is NaN or infinite.
    """

    offsets: I64
    lost: Bool


def read_header(path: Path) -> SensHeader:
    """Read what stands before the frames.

    Raises:
        DataError: missing, unreadable, no ``.sens`` file of version 4, compressed in a way that is not
            read, or with claims that the size of the file contradicts.
    """
    with _open(path) as stream:
        return _header(stream, path)


def find_frames(path: Path) -> SensTable:
    """Where the frames lie: from the index if the file has not changed since, else by walking it.

    Raises:
        DataError: as `read_header`, and when the file ends before its last frame does.
    """
    now = stamp([path])[0]
    kept = index_path(path, "sens", ".bin")
    table = _load_table(kept, now)
    if table is None:
        header = read_header(path)
        with _open(path, buffering=0) as stream:  # a buffer would read kilobytes for the 96 bytes wanted
            table = _walk(stream, header)
        _keep_table(kept, now, table)
    return table


def read_frame(header: SensHeader, offset: int) -> SensFrame:
    """Read the frame that begins at this byte; nothing else of the file is read.

    Raises:
        DataError: it is cut off or damaged, or its images have not the sizes that the header says.
    """
    path = header.path
    where = f"{path} (frame at byte {offset:,})"
    with _open(path) as stream:
        pose, color_bytes, depth_bytes = _frame_start(stream, header, offset, _size(stream), where)
        stream.seek(offset + _FRAME.size)
        color_data, depth_data = stream.read(color_bytes), stream.read(depth_bytes)
    if header.color_compression == _COLOR_RAW:
        color: U8 = _exactly(color_data, (*header.color_shape, 3), "u1", "colour", where).astype(np.uint8)
    else:
        color = decode_rgb(color_data, where, header.color_shape)
    if header.depth_compression == _DEPTH_ZLIB:
        depth_data = _inflate(depth_data, 2 * header.depth_shape[0] * header.depth_shape[1], where)
    depth = _exactly(depth_data, header.depth_shape, "<u2", "depth", where).astype(np.uint16)
    return SensFrame(color, depth, pose)


def _open(path: Path, buffering: int = -1) -> BinaryIO:
    try:
        return open_bytes(path, buffering)
    except FileNotFoundError:
        raise DataError(f"expected a .sens file at {path}, found no such file; check the path") from None
    except OSError as error:
        raise DataError(
            f"expected a .sens file at {path}, which cannot be read: {error.strerror or error}; "
            "check that it is a file and that you may read it"
        ) from error


def _size(stream: BinaryIO) -> int:
    return os.fstat(stream.fileno()).st_size


def _header(stream: BinaryIO, path: Path) -> SensHeader:
    size = _size(stream)
    start = stream.read(_START.size)
    if len(start) < _START.size:
        raise DataError(f"expected a .sens file at {path}, found {size} bytes; download it again")
    version, name_bytes = _START.unpack(start)
    if version != VERSION or name_bytes > _MAX_NAME:
        raise DataError(
            f"expected a .sens file of version {VERSION} at {path}, found it to begin with {start[:8]!r}; "
            "take the file of the ScanNet v2 release"
        )
    stream.seek(name_bytes, os.SEEK_CUR)
    data = stream.read(_REST.size)
    if len(data) < _REST.size:
        raise DataError(f"expected a .sens file at {path}, found its header cut off; download it again")
    *numbers, color_kind, depth_kind, color_w, color_h, depth_w, depth_h, units, frames = _REST.unpack(data)
    if color_kind not in (0, 1, 2) or depth_kind not in (_DEPTH_RAW, _DEPTH_ZLIB):
        occi = " (occi)" if depth_kind == _DEPTH_OCCI else ""
        raise DataError(
            f"expected colour as raw, PNG or JPEG and depth as raw or zlib (0-2, 0-1) in {path}, "
            f"found {color_kind} and {depth_kind}{occi}; export frames with ScanNet's SensReader"
        )
    frames_start = _START.size + name_bytes + _REST.size
    shapes = (color_h, color_w), (depth_h, depth_w)
    if any(not 0 < h * w <= MAX_PIXELS for h, w in shapes) or not (np.isfinite(units) and units > 0):
        raise DataError(
            f"expected sizes of images and depth units per metre in {path}, found {color_w} × {color_h}, "
            f"{depth_w} × {depth_h} and {units:g}; download it again"
        )
    if frames > (size - frames_start) // _FRAME.size:
        raise DataError(
            f"expected {frames:,} frames in {path}, found {size:,} bytes, too few for them; download it again"
        )
    matrices = np.array(numbers, np.float64).reshape(4, 4, 4)
    return SensHeader(
        path=path,
        color_shape=shapes[0],
        depth_shape=shapes[1],
        color_intrinsics=pinhole(matrices[0], f"{path} (intrinsic_color)"),
        depth_intrinsics=pinhole(matrices[2], f"{path} (intrinsic_depth)"),
        color_compression=color_kind,
        depth_compression=depth_kind,
        units_per_metre=units,
        frames=frames,
        frames_start=frames_start,
    )


def _frame_start(
    stream: BinaryIO, header: SensHeader, offset: int, size: int, where: str
) -> tuple[F64, int, int]:
    """Pose, colour bytes and depth bytes of the frame at ``offset``, which lies wholly within the file."""
    stream.seek(offset)
    data = stream.read(_FRAME.size)
    if len(data) < _FRAME.size:
        raise _cut_off(size, where)
    *pose, _, _, color_bytes, depth_bytes = _FRAME.unpack(data)
    for claimed, (height, width), pixel_bytes in (
        (color_bytes, header.color_shape, 3),
        (depth_bytes, header.depth_shape, 2),
    ):
        if claimed > 2 * pixel_bytes * height * width + _MAX_OVERHEAD:  # nothing that packs makes it so large
            raise DataError(
                f"expected an image of {width} × {height} in {where}, found {claimed:,} bytes claimed; "
                "the file is damaged: download it again"
            )
    if offset + _FRAME.size + color_bytes + depth_bytes > size:
        raise _cut_off(size, where)
    return np.array(pose, np.float64).reshape(4, 4), color_bytes, depth_bytes


def _cut_off(size: int, where: str) -> DataError:
    return DataError(
        f"expected a whole frame in {where}, found that the file of {size:,} bytes ends before it does; "
        "download it again"
    )


def _walk(stream: BinaryIO, header: SensHeader) -> SensTable:
    size, offset = _size(stream), header.frames_start
    offsets, lost = np.empty(header.frames, np.int64), np.empty(header.frames, np.bool_)
    for number in range(header.frames):
        where = f"{header.path} (frame {number:,} of {header.frames:,})"
        pose, color_bytes, depth_bytes = _frame_start(stream, header, offset, size, where)
        offsets[number], lost[number] = offset, not np.isfinite(pose).all()
        offset += _FRAME.size + color_bytes + depth_bytes
    return SensTable(offsets, lost)


def _inflate(data: bytes, size: int, where: str) -> bytes:
    """Decompress at most ``size`` bytes, whatever the data would unpack to."""
    engine = zlib.decompressobj()
    try:
        inflated = engine.decompress(data, size + 1)
    except zlib.error as error:
        raise DataError(
            f"expected zlib depth in {where}, found it damaged ({one_line(error)}); download the file again"
        ) from error
    return inflated


def _exactly(
    data: bytes, shape: tuple[int, ...], kind: str, what: str, where: str
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    dtype = np.dtype(kind)
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(data) != expected:
        more = "more" if len(data) > expected else f"{len(data):,}"
        raise DataError(
            f"expected {expected:,} bytes of {what} in {where}, found {more}; download the file again"
        )
    array: npt.NDArray[np.uint8] | npt.NDArray[np.uint16] = np.frombuffer(data, dtype).reshape(shape)
    return array


# --- the table in the index ----------------------------------------------------------------------------


def _keep_table(path: Path, file_stamp: list[int], table: SensTable) -> None:
    head = np.array([_TABLE_SCHEMA, *file_stamp, len(table.offsets)], "<i8").tobytes()
    body = head + table.offsets.astype("<i8").tobytes() + table.lost.astype("u1").tobytes()
    try:
        atomic_write(path, hashlib.blake2b(body, digest_size=16).digest() + body)
    except OutputError as error:
        _log.warning("the index of a recording cannot be kept, so opening it will be slow again: %s", error)


def _load_table(path: Path, file_stamp: list[int]) -> SensTable | None:
    """The table that was kept, or ``None`` when there is none, it is damaged, or of another file."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    body = data[16:]
    if len(body) < 32 or hashlib.blake2b(body, digest_size=16).digest() != data[:16]:
        return None
    schema, *kept_stamp, frames = (int(number) for number in np.frombuffer(body[:32], "<i8"))
    if schema != _TABLE_SCHEMA or kept_stamp != file_stamp or len(body) != 32 + 9 * frames:
        return None
    offsets = np.frombuffer(body[32 : 32 + 8 * frames], "<i8").astype(np.int64)
    return SensTable(offsets, np.frombuffer(body[32 + 8 * frames :], "u1").astype(np.bool_))
