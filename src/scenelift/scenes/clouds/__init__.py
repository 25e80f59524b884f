"""Point clouds of any common format as arrays: PLY, PCD, LAS/LAZ, .bin of float32 rows, .npy.

Formats and their sources:

- ``.ply``: see `scenelift.ply`; a NaN or infinite coordinate is an error there;
- ``.pcd``: see `scenelift.scenes.clouds.pcd`;
- ``.las``, ``.laz``: ASPRS LAS 1.0-1.4 (https://www.asprs.org/divisions-committees/lidar-division/
  laser-las-file-format-exchange-activities), read by laspy with lazrs (``pip install "scenelift[formats]"``);
- ``.bin``: little-endian float32 rows that begin with x, y, z: KITTI's x y z reflectance
  (https://www.cvlibs.net/datasets/kitti/), nuScenes' x y z intensity ring (``.pcd.bin``);
- ``.npy``: (N, >= 3) floats that begin with x, y, z, or a structured array with fields x, y, z
  (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).

Rows with a NaN or infinite coordinate are "no return" in organised clouds of .pcd, .npy and .bin. They are
dropped, and `Cloud.kept` says which rows of the file are left, so that labels per row stay aligned.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scenelift.errors import DataError, one_line
from scenelift.files import read_bytes
from scenelift.ply import decode_vertices
from scenelift.scenes.clouds.las import decode_las
from scenelift.scenes.clouds.pcd import decode_pcd
from scenelift.types import F32, F64, U8, Bool

SUFFIXES = (".ply", ".pcd", ".las", ".laz", ".bin", ".npy")
"""Endings of the files that `read_cloud` reads, in lower case."""

FLOAT32_REACH_M = 10_000.0
"""From this distance on float32 resolves about a millimetre only, and an origin is taken off."""

MAX_COORDINATE_M = 1e8
"""No place on Earth has larger coordinates in any map projection; such a number is not a coordinate."""

_MAX_NPY_HEADER = 1 << 16
_XYZ = ("x", "y", "z")
_RGB_NAMES = (("red", "green", "blue"), ("r", "g", "b"))


@dataclass(frozen=True, eq=False)
class Cloud:
    """A point cloud as a file holds it.

    Attributes:
        points: (N, 3) float32, in the file's own frame and unit (metres, where the format says), less
            ``origin_world``.
        rgb: (N, 3) uint8, or ``None`` if the file has no colours.
        intensity: (N,) float32 as stored (its scale differs from sensor to sensor), or ``None``.
        origin_world: (3,) float64, whole metres, zero unless float64 coordinates lie further than
            `FLOAT32_REACH_M` from 0, as those of maps do. The file's coordinates are ``points +
            origin_world``; whoever places cameras in the file's frame has to take it off their positions too.
        kept: (rows,) bool, which rows of the file became points; ``None`` = all.
    """

    points: F32
    rgb: U8 | None = None
    intensity: F32 | None = None
    origin_world: F64 = field(default_factory=lambda: np.zeros(3))
    kept: Bool | None = None

    @property
    def rows(self) -> int:
        """How many points the file holds, dropped ones too: the number of labels that go with it."""
        return len(self.points) if self.kept is None else len(self.kept)


def read_cloud(path: Path, columns: int | None = None) -> Cloud:
    """Read a point cloud file; its ending says the format.

    Args:
        path: a file with one of `SUFFIXES`.
        columns: numbers per point of a ``.bin`` file; ``None`` = found from its size and content, which
            tells the 4 of KITTI and the 5 of nuScenes apart. Other formats know it themselves.

    Raises:
        DataError: missing, truncated, damaged, of another format, not x, y, z, coordinates beyond
            `MAX_COORDINATE_M`, or laspy is not installed (LAS, LAZ).
    """
    with np.errstate(all="ignore"):  # damaged floats; what they lead to is checked
        return _read(path, columns)


def _read(path: Path, columns: int | None) -> Cloud:
    suffix = path.suffix.lower()
    if suffix == ".ply":
        table = decode_vertices(read_bytes(path, "a PLY point cloud"), str(path))
        cloud = _from_table(table, path, keep_all=True)
    elif suffix == ".pcd":
        table, rgb = decode_pcd(read_bytes(path, "a PCD point cloud"), str(path))
        cloud = _from_table(table, path, rgb)
    elif suffix in (".las", ".laz"):
        xyz, rgb, intensity = decode_las(read_bytes(path, "a LAS or LAZ point cloud"), str(path))
        cloud = _finish(xyz, rgb, intensity, path)
    elif suffix == ".bin":
        rows = _decode_bin(read_bytes(path, "a point cloud of float32 rows"), path, columns)
        cloud = _finish(rows[:, :3], None, rows[:, 3] if rows.shape[1] > 3 else None, path)
    elif suffix == ".npy":
        cloud = _from_npy(read_bytes(path, "a NumPy array of points"), path)
    else:
        raise DataError(
            f"expected a point cloud ({' '.join(SUFFIXES)}) at {path}, found the ending {path.suffix!r}; "
            "convert it to one of these formats"
        )
    return cloud


def _from_table(
    table: npt.NDArray[Any], path: Path, rgb: U8 | None = None, *, keep_all: bool = False
) -> Cloud:
    """A structured array with fields x, y, z and perhaps colours and intensity; other fields are left out."""
    names = set(table.dtype.names or ())
    wide = any(table.dtype[axis].itemsize > 4 for axis in _XYZ)
    xyz = np.stack([table[axis] for axis in _XYZ], axis=1).astype(np.float64 if wide else np.float32)
    if rgb is None:
        for rgb_names in _RGB_NAMES:
            if set(rgb_names) <= names and all(table.dtype[name] == np.uint8 for name in rgb_names):
                rgb = np.stack([table[name] for name in rgb_names], axis=1)
                break
    found = next((name for name in ("intensity", "reflectance", "scalar_intensity") if name in names), None)
    intensity = table[found] if found and table.dtype[found].kind in "fiu" else None
    return _finish(xyz, rgb, intensity, path, keep_all=keep_all)


def _finish(
    xyz: npt.NDArray[Any],
    rgb: U8 | None,
    intensity: npt.NDArray[Any] | None,
    path: Path,
    *,
    keep_all: bool = False,
) -> Cloud:
    """Drop rows without a return, take off an origin where float32 needs it."""
    finite = np.isfinite(xyz).all(axis=1)  # NaN and infinity alike
    lost = len(xyz) - int(np.count_nonzero(finite))
    kept = None
    if lost:
        if keep_all:
            raise DataError(
                f"expected a point cloud at {path}, found {lost:,} of {len(xyz):,} points with NaN or "
                "infinite coordinates; remove those points"
            )
        kept, xyz = finite, xyz[finite]
        rgb = None if rgb is None else rgb[finite]
        intensity = None if intensity is None else intensity[finite]
    reach = float(np.abs(xyz).max()) if len(xyz) else 0.0
    if reach > MAX_COORDINATE_M:
        raise DataError(
            f"expected coordinates in metres at {path}, found up to {reach:.3g}; check the number of "
            "columns, the unit, and that the file is whole"
        )
    origin = np.zeros(3)
    if reach > FLOAT32_REACH_M and xyz.dtype == np.float64:
        origin = np.round((xyz.min(axis=0) + xyz.max(axis=0)) / 2)
    points = np.array(xyz - origin if origin.any() else xyz, dtype=np.float32, order="C")
    if intensity is not None:
        intensity = np.array(intensity, dtype=np.float32, order="C")
    return Cloud(points, rgb, intensity, origin, kept)


# --- .bin ----------------------------------------------------------------------------------------------


def _decode_bin(data: bytes, path: Path, columns: int | None) -> F32:
    """(N, columns) float32."""
    if columns is None:
        columns = _count_columns(data, path)
    if len(data) % (4 * columns):
        raise DataError(
            f"expected rows of {columns} float32 numbers ({4 * columns} bytes) at {path}, found "
            f"{len(data):,} bytes, which is no multiple; copy it again or check its columns"
        )
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False).reshape(-1, columns)


def _count_columns(data: bytes, path: Path) -> int:
    """5 where the fifth number of each row is a small whole number (the ring), else 4, else 5."""
    fits = [columns for columns in (4, 5) if len(data) % (4 * columns) == 0]
    if not fits:
        raise DataError(
            f"expected float32 rows of 4 (x y z intensity) or 5 numbers at {path}, found "
            f"{len(data):,} bytes, which is neither; the file is cut off, or say how many it has "
            "(point_columns in calib.json)"
        )
    if fits == [4, 5]:
        ring = np.frombuffer(data, "<f4").reshape(-1, 5)[:, 4]
        whole = bool(((ring >= 0) & (ring < 256) & (ring == np.floor(ring))).all())
        return 5 if whole else 4
    return fits[0]


# --- .npy ----------------------------------------------------------------------------------------------


def _from_npy(data: bytes, path: Path) -> Cloud:
    array = decode_npy(data, path)
    if array.dtype.names:
        missing = [axis for axis in _XYZ if axis not in array.dtype.names]
        plain = all(array.dtype[axis].kind in "fiu" for axis in _XYZ) if not missing else False
        if array.ndim != 1 or not plain:
            raise DataError(
                f"expected a structured array (N,) with numbers x, y, z at {path}, found {array.dtype} of "
                f"shape {array.shape}; save x, y and z under these names"
            )
        return _from_table(array, path)
    if array.ndim != 2 or array.shape[1] < 3 or array.dtype.kind != "f":
        raise DataError(
            f"expected floats of shape (N, 3) or more columns at {path}, found {array.dtype} of shape "
            f"{array.shape}; save an array of rows x y z ..."
        )
    xyz = array[:, :3].astype(np.float64 if array.dtype.itemsize > 4 else np.float32)
    return _finish(xyz, None, array[:, 3] if array.shape[1] == 4 else None, path)


def decode_npy(data: bytes, path: Path) -> npt.NDArray[Any]:
    """An array from the bytes of a .npy file; nothing is unpickled, nor allocated beyond the file's size.

    Raises:
        DataError: no .npy file, objects in it, or another size than its header claims.
    """
    try:
        shape, fortran, dtype, start = _npy_header(data)
    # a Python literal and a description of types: their parsers raise many kinds on damaged bytes
    except Exception as error:
        raise DataError(
            f"expected a NumPy array (.npy) at {path}, found something else ({one_line(error)}); "
            "save it again"
        ) from None
    count = 1
    for length in shape:
        count *= length
    left = len(data) - start
    if dtype.hasobject or count * dtype.itemsize != left or not dtype.itemsize:
        raise DataError(
            f"expected an array {dtype} of shape {shape} at {path} as its header claims, found {left:,} "
            "bytes of numbers; the file is cut off or holds objects: save it again as plain numbers"
        )
    flat = np.frombuffer(data, dtype, count=count, offset=start)
    array = flat.reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("=")) if not dtype.isnative else array


def _npy_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether the order is Fortran's, type, and where the numbers begin."""
    if data[:6] != b"\x93NUMPY" or data[6] not in (1, 2, 3):
        raise ValueError(f"it begins with {data[:8]!r}")
    start = 10 if data[6] == 1 else 12
    end = start + int.from_bytes(data[8:start], "little")
    if end > min(len(data), _MAX_NPY_HEADER):
        raise ValueError(f"its header claims {end - start:,} bytes")
    header = ast.literal_eval(data[start:end].decode("utf-8" if data[6] == 3 else "latin-1").strip())
    dtype, shape = np.lib.format.descr_to_dtype(header["descr"]), header["shape"]
    if not (isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)):
        raise ValueError(f"its shape is {shape!r}")
    return shape, bool(header["fortran_order"]), dtype, end
