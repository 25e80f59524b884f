"""Point clouds in LAS and LAZ: laspy reads them, after their headers have been held against the file's size.

Format: ASPRS LAS 1.4 specification, https://www.asprs.org/wp-content/uploads/2019/07/LAS_1_4_r15.pdf; LAZ:
https://github.com/LASzip/LASzip.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from scenelift.errors import DataError, one_line
from scenelift.types import F32, F64, U8

_CHUNK_POINTS = 100_000
_MAX_POINTS_PER_BYTE = 64
"""Real LAZ files need one to six bytes a point; a header that claims more points than this is damaged."""
_VLR_BYTES = 54


def decode_las(data: bytes, where: str) -> tuple[F64, U8 | None, F32]:
    """The points of a LAS or LAZ file.

    Args:
        data: the whole file.
        where: its path, for messages.

    Returns:
        xyz: (N, 3) float64, the file's coordinates with its scale and offset applied.
        rgb: (N, 3) uint8, or ``None``. The format has 16 bits per colour; where no value is above 255 they
            are taken as 8-bit, which many programs write.
        intensity: (N,) float32, as stored (0-65535).

    Raises:
        DataError: no LAS or LAZ, truncated, damaged, or laspy with lazrs is not installed.
    """
    try:
        import laspy

        backend = laspy.LazBackend.Lazrs
        if _check_header(data, where) and not backend.is_available():
            raise ImportError("lazrs")
    except ImportError:
        raise DataError(
            f"expected laspy with lazrs to read {where}, found it not installed; "
            'pip install "scenelift[formats]"'
        ) from None
    xyz: list[F64] = []
    rgb: list[npt.NDArray[Any]] = []
    intensity: list[F32] = []
    try:
        with laspy.open(io.BytesIO(data), laz_backend=backend, read_evlrs=False) as reader:
            colours = {"red", "green", "blue"} <= set(reader.header.point_format.dimension_names)
            claimed = reader.header.point_count
            for part in reader.chunk_iterator(_CHUNK_POINTS):
                xyz.append(np.stack([part.x, part.y, part.z], axis=1).astype(np.float64))
                intensity.append(np.asarray(part.intensity, np.float32))
                if colours:
                    rgb.append(np.stack([part.red, part.green, part.blue], axis=1).astype(np.uint16))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    # laspy and numpy raise many kinds on damaged bytes, and lazrs panics, which is no Exception
    except BaseException as error:
        raise DataError(
            f"expected a LAS or LAZ point cloud at {where}, found it damaged ({one_line(error)}); "
            "copy or export it again"
        ) from None
    found = sum(len(part) for part in xyz)
    if found != claimed:
        raise DataError(
            f"expected {claimed:,} points at {where} as its header claims, found {found:,}; "
            "the file is truncated: copy or export it again"
        )
    return (
        np.concatenate([np.empty((0, 3)), *xyz]),
        _eight_bit(np.concatenate(rgb)) if rgb else None,
        np.concatenate([np.empty(0, np.float32), *intensity]),
    )


def _eight_bit(rgb: npt.NDArray[Any]) -> U8:
    return (rgb >> 8 if rgb.max(initial=0) > 255 else rgb).astype(np.uint8)


def _check_header(data: bytes, where: str) -> bool:
    """Hold what the header claims against the bytes that are there, before any library trusts it.

    Returns:
        Whether the points are packed (LAZ).
    """
    try:
        if data[:4] != b"LASF":
            raise ValueError(f"it begins with {data[:4]!r}")
        minor = data[25]
        header_bytes, points_at, vlrs, kind, row_bytes, count = struct.unpack_from("<HIIBHI", data, 94)
        if minor >= 4:
            (count,) = struct.unpack_from("<Q", data, 247)
        if header_bytes > len(data) or points_at > len(data) or vlrs * _VLR_BYTES > points_at:
            raise ValueError("header and records reach beyond its end")
        left = len(data) - points_at
        if kind & 0xC0:  # packed
            if count > left * _MAX_POINTS_PER_BYTE:
                raise ValueError(f"{left:,} bytes of points where {count:,} points are claimed")
            _check_chunks(data, points_at, row_bytes)
            return True
        if count * row_bytes > left:
            raise ValueError(f"{left:,} bytes of points where {count:,} of {row_bytes} bytes are claimed")
        return False
    except (ValueError, IndexError, struct.error) as error:
        raise DataError(
            f"expected a LAS or LAZ point cloud at {where}, found it truncated or damaged "
            f"({one_line(error)}); copy or export it again"
        ) from None


def _check_chunks(data: bytes, points_at: int, row_bytes: int) -> None:
    """The table of chunks is allocated by its claimed length; every chunk holds at least one whole point."""
    (table_at,) = struct.unpack_from("<q", data, points_at)
    if table_at == -1:  # written to a stream: its place stands at the end of the file
        (table_at,) = struct.unpack_from("<q", data, len(data) - 8)
    if not points_at + 8 <= table_at <= len(data) - 8:
        raise ValueError("its table of chunks lies outside the file")
    _, chunks = struct.unpack_from("<II", data, table_at)
    if chunks * max(row_bytes, 1) > len(data):
        raise ValueError(f"a table of {chunks:,} chunks in a file of {len(data):,} bytes")
