"""Point clouds in PLY: from bytes to arrays and back.

Format: G. Turk, "The PLY polygon file format", 1994 (http://gamma.cs.unc.edu/POWERPLANT/papers/ply.pdf).
plyfile writes. Reading is done here, because plyfile allocates whatever count a header claims and walks
the faces of a mesh in Python objects, while only the vertices are wanted.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from plyfile import PlyData, PlyElement

from scenelift.errors import DataError
from scenelift.types import F32, U8

_NUMPY_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")
_NAMES = "char uchar short ushort int uint float double int8 uint8 int16 uint16 int32 uint32 float32 float64"
_TYPES = dict(zip(_NAMES.split(), _NUMPY_TYPES * 2, strict=True))
_Order = Literal["=", "<", ">"]
_ORDERS: dict[str, _Order] = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
_XYZ = ("x", "y", "z")
_RGB = ("red", "green", "blue")


@dataclass
class _Property:
    name: str
    dtype: np.dtype[Any]
    count_bytes: int = 0
    """Size of the length that precedes a list; 0 for a scalar."""


@dataclass
class _Element:
    name: str
    rows: int
    properties: list[_Property] = field(default_factory=list)

    @property
    def has_lists(self) -> bool:
        return any(p.count_bytes for p in self.properties)

    @property
    def least_row_bytes(self) -> int:
        """Size of a binary row; with lists, if all of them are empty."""
        return sum(p.count_bytes or p.dtype.itemsize for p in self.properties)

    def numpy_dtype(self, order: _Order) -> np.dtype[Any]:
        return np.dtype([(p.name, p.dtype.newbyteorder(order)) for p in self.properties])


class _Malformed(Exception):
    """What is wrong with the file; `decode_points` adds where."""


def decode_points(data: bytes, where: str) -> tuple[F32, U8 | None]:
    """The vertices of a PLY file (ASCII or binary; faces and other properties are passed over).

    Args:
        data: the whole file.
        where: its path, for messages.

    Returns:
        points: (N, 3) float32, in the file's own frame and unit.
        rgb: (N, 3) uint8 from ``red green blue``, or ``None`` if there are none.

    Raises:
        DataError: no PLY, truncated, more rows claimed than there are bytes, no x, y, z, NaN or infinite
            coordinates (counted), or colours that are not 8-bit.
    """
    try:
        vertex = _read_vertices(data)
        return _points(vertex), _colours(vertex)
    except _Malformed as error:
        raise DataError(f"expected a PLY point cloud at {where}, {error}") from error


def decode_vertices(data: bytes, where: str) -> npt.NDArray[Any]:
    """All scalars of the vertices of a PLY file, as they stand there: for clouds that need float64.

    Args:
        data: the whole file.
        where: its path, for messages.

    Returns:
        (N,) structured array in the file's byte order; x, y and z are among its fields.

    Raises:
        DataError: as `decode_points`, but for the values of coordinates, which are not looked at.
    """
    try:
        vertex = _read_vertices(data)
        _colours(vertex)
    except _Malformed as error:
        raise DataError(f"expected a PLY point cloud at {where}, {error}") from error
    return vertex


def encode_points(points: F32, rgb: U8 | None, extra: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """A point cloud as binary little-endian PLY.

    Args:
        points: (N, 3) float32.
        rgb: (N, 3) uint8 or ``None``.
        extra: more scalars per point by property name, each (N,) of an integer type up to 32 bits,
            float32 or float64.

    Raises:
        ValueError: lengths differ, a name is taken, or PLY has no such type.
    """
    columns: dict[str, npt.NDArray[Any]] = dict(zip(_XYZ, points.astype(np.float32).T, strict=True))
    if rgb is not None:
        columns |= zip(_RGB, rgb.astype(np.uint8).T, strict=True)
    taken = columns.keys() & extra.keys()
    columns |= extra
    wrong = [
        f"{name}: {column.dtype} of shape {column.shape}"
        for name, column in columns.items()
        if column.shape != (len(points),) or column.dtype.str[1:] not in _NUMPY_TYPES
    ]
    if taken or wrong:
        raise ValueError(
            f"expected new names with ({len(points)},) scalars of a PLY type, found {sorted(taken) or wrong}"
        )
    vertex = np.empty(len(points), [(name, "<" + column.dtype.str[1:]) for name, column in columns.items()])
    for name, column in columns.items():
        vertex[name] = column
    stream = io.BytesIO()
    PlyData([PlyElement.describe(vertex, "vertex")], byte_order="<").write(stream)
    return stream.getvalue()


def _points(vertex: npt.NDArray[Any]) -> F32:
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is counted as such
        points = np.stack([vertex[axis] for axis in _XYZ], axis=1).astype(np.float32)
    bad = int(np.count_nonzero(~np.isfinite(points).all(axis=1)))
    if bad:
        raise _Malformed(
            f"found {bad:,} of {len(points):,} points with NaN or infinite coordinates; remove those points"
        )
    return points


def _colours(vertex: npt.NDArray[Any]) -> U8 | None:
    if not set(_RGB) <= set(vertex.dtype.names or ()):
        return None
    found = [vertex[name].dtype for name in _RGB]
    if any(dtype != np.uint8 for dtype in found):
        raise _Malformed(f"found colours of type {', '.join(map(str, found))}; convert them to uchar (0-255)")
    return np.stack([vertex[name] for name in _RGB], axis=1)


def _read_vertices(data: bytes) -> npt.NDArray[Any]:
    """The vertex table as a structured array; every claim of the header is checked before it is used."""
    order, elements, start = _read_header(data)
    vertex = next((e for e in elements if e.name == "vertex"), None)
    names = [p.name for p in vertex.properties] if vertex else []
    if vertex is None or vertex.has_lists or not set(_XYZ) <= set(names) or len(set(names)) < len(names):
        raise _Malformed(
            f"found vertex properties {' '.join(names) or '(none)'}; "
            "x, y and z are needed, each property once and none of them a list"
        )
    for e in elements:
        # An ASCII number takes two bytes with the space or line end that follows it (the last may lack it).
        least = e.rows * (2 * len(e.properties) if order == "=" else e.least_row_bytes) - (order == "=")
        if least > len(data) - start:
            raise _Malformed(
                f"found {len(data) - start:,} bytes of data where the header claims {e.rows:,} × {e.name} "
                f"of at least {least:,} bytes; the file is truncated: copy or export it again"
            )
    if order == "=":
        return _text(data[start:], elements, vertex)
    return _binary(data, start, elements, vertex, order)


def _read_header(data: bytes) -> tuple[_Order, list[_Element], int]:
    """Byte order ("=" for ASCII), elements in file order, and where the data begin."""
    end = re.search(rb"^end_header[ \t]*\r?\n", data, re.MULTILINE)
    if not re.match(rb"ply\s", data) or end is None:
        raise _Malformed(f"found no PLY header (it begins with {data[:8]!r}); export it as PLY")
    order, elements, line = None, list[_Element](), ""
    try:
        for line in data[: end.start()].decode("latin-1").split("\n")[1:]:
            match line.split():
                case [] | ["comment" | "obj_info", *_]:
                    pass
                case ["format", name, _]:
                    order = _ORDERS[name]
                case ["element", name, rows] if rows.isdecimal():
                    elements.append(_Element(name, int(rows)))
                case ["property", kind, name]:
                    elements[-1].properties.append(_Property(name, np.dtype(_TYPES[kind])))
                case ["property", "list", count, kind, name]:
                    count_bytes = np.dtype(_TYPES[count]).itemsize
                    elements[-1].properties.append(_Property(name, np.dtype(_TYPES[kind]), count_bytes))
                case _:
                    raise ValueError(line)
    except (KeyError, IndexError, ValueError):
        raise _Malformed(f"found the header line {line!r}, which PLY does not know; mend it") from None
    if order is None:
        raise _Malformed("found no format line in its header; export it again")
    return order, elements, end.end()


def _binary(
    data: bytes, start: int, elements: list[_Element], vertex: _Element, order: _Order
) -> npt.NDArray[Any]:
    vertex_start = start
    for e in elements:
        if e is vertex:
            vertex_start = start
        start = _end_of_rows(data, start, e, "little" if order == "<" else "big")
        if start > len(data):
            raise _Malformed(f"found that the file ends amid its {e.name} data; copy or export it again")
    rows = data[vertex_start : vertex_start + vertex.rows * vertex.least_row_bytes]
    return np.frombuffer(rows, vertex.numpy_dtype(order))


def _end_of_rows(data: bytes, start: int, element: _Element, order: Literal["little", "big"]) -> int:
    """Where the rows of an element end; the lengths of lists have to be read one by one."""
    if not element.has_lists:
        return start + element.rows * element.least_row_bytes
    sizes = [(p.dtype.itemsize, p.count_bytes) for p in element.properties]
    for _ in range(element.rows):
        for size, count_size in sizes:
            if count_size:
                size *= int.from_bytes(data[start : start + count_size], order)
            start += count_size + size
        if start > len(data):
            break
    return start


def _text(data: bytes, elements: list[_Element], vertex: _Element) -> npt.NDArray[Any]:
    lines = [line for line in data.decode("latin-1").split("\n") if line.strip()]
    if len(lines) < sum(e.rows for e in elements):
        raise _Malformed(
            f"found {len(lines):,} lines of data where the header claims "
            f"{sum(e.rows for e in elements):,}; the file is truncated: copy or export it again"
        )
    first = sum(e.rows for e in elements[: elements.index(vertex)])
    dtype = vertex.numpy_dtype("=")
    if not vertex.rows:
        return np.empty(0, dtype)
    try:
        return np.loadtxt(lines[first : first + vertex.rows], dtype, comments=None, ndmin=1)
    except ValueError as error:
        raise _Malformed(f"found a vertex line that cannot be read ({error}); export it again") from error
