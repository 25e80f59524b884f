"""Point clouds in PCD, the format of the Point Cloud Library: from bytes to arrays.

Format: https://pointclouds.org/documentation/tutorials/pcd_file_format.html, versions 0.5 to 0.7, data as
``ascii``, ``binary`` and ``binary_compressed`` (LZF, http://oldhome.schmorp.de/marc/liblzf.html: the table
is turned to one column after the other before it is packed). ``VIEWPOINT`` is passed over, as PCL does:
points stay as they are written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scenelift.errors import DataError, one_line
from scenelift.types import U8

_KINDS = {"I": "i", "U": "u", "F": "f"}
_SIZES = {"I": (1, 2, 4, 8), "U": (1, 2, 4, 8), "F": (4, 8)}
_MAX_HEADER_BYTES = 1 << 16
_MAX_GROWTH = 132
"""The longest LZF reference makes 264 bytes out of 3, or out of 2 for short ones: at most this per byte."""


@dataclass(frozen=True)
class _Field:
    name: str
    dtype: str
    count: int

    @property
    def row_bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize) * self.count


@dataclass(frozen=True)
class _Header:
    fields: tuple[_Field, ...]
    points: int
    data: str
    start: int

    @property
    def row_bytes(self) -> int:
        return sum(f.row_bytes for f in self.fields)


class _Malformed(Exception):
    """What is wrong with the file; `decode_pcd` adds where."""


def decode_pcd(data: bytes, where: str) -> tuple[npt.NDArray[Any], U8 | None]:
    """The points of a PCD file.

    Args:
        data: the whole file.
        where: its path, for messages.

    Returns:
        table: (N,) structured array of the fields with one number per point, x, y and z among them.
        rgb: (N, 3) uint8 from a packed ``rgb`` or ``rgba`` field (float or integer); ``None`` without.

    Raises:
        DataError: no PCD, truncated, damaged, more points claimed than there are bytes, or no x, y, z.
    """
    try:
        header = _read_header(data)
        if header.data == "ascii":
            columns = _ascii(data[header.start :], header)
        elif header.data == "binary":
            columns = _binary(data, header)
        else:
            columns = _compressed(data, header)
        return _table(columns, header), _packed_rgb(columns)
    except _Malformed as error:
        raise DataError(f"expected a PCD point cloud at {where}, {error}") from None


def _read_header(data: bytes) -> _Header:
    end = re.search(rb"^DATA[ \t]+(\S+)[ \t]*\r?\n", data[:_MAX_HEADER_BYTES], re.MULTILINE)
    if end is None:
        raise _Malformed(f"found no PCD header (it begins with {data[:12]!r}); export it as PCD")
    lines: dict[str, list[str]] = {}
    for line in data[: end.start()].decode("latin-1").splitlines():
        words = line.partition("#")[0].split()
        if words:
            lines[words[0].upper()] = words[1:]
    try:
        names = lines.get("FIELDS") or lines["COLUMNS"]
        sizes = [int(word) for word in lines["SIZE"]]
        counts = [int(word) for word in lines.get("COUNT", ["1"] * len(names))]
        types = lines["TYPE"]
        width, height = int(lines["WIDTH"][0]), int(lines.get("HEIGHT", ["1"])[0])
        points = int(lines["POINTS"][0]) if "POINTS" in lines else width * height
    except (KeyError, IndexError, ValueError) as error:
        raise _Malformed(f"found a header that lacks or garbles {one_line(error)}; export it again") from None
    known = all(kind in _KINDS and size in _SIZES[kind] for kind, size in zip(types, sizes, strict=False))
    if not (len(names) == len(sizes) == len(types) == len(counts) and known and min(counts, default=0) > 0):
        raise _Malformed(
            "found FIELDS, SIZE, TYPE and COUNT that do not go together "
            f"({len(names)}, {len(sizes)}, {len(types)} and {len(counts)} entries); export it again"
        )
    if points < 0 or points != width * height:
        raise _Malformed(f"found POINTS {points} and WIDTH × HEIGHT {width} × {height}; export it again")
    fields = tuple(
        _Field(name, f"<{_KINDS[kind]}{size}", count)
        for name, kind, size, count in zip(names, types, sizes, counts, strict=True)
    )
    wanted = [f.name for f in fields if f.name in ("x", "y", "z") and f.count == 1]
    if sorted(wanted) != ["x", "y", "z"]:
        raise _Malformed(f"found fields {' '.join(names)[:200]}; x, y and z are needed, each once")
    kind = end[1].decode("latin-1").lower()
    if kind not in ("ascii", "binary", "binary_compressed"):
        raise _Malformed(f"found DATA {kind[:40]}; export it as ascii, binary or binary_compressed")
    return _Header(fields, points, kind, end.end())


_Columns = dict[str, npt.NDArray[Any]]


def _scalars(header: _Header) -> list[tuple[int, _Field]]:
    """Place and field of those with one number per point; ``_`` is padding, a repeated name is left out."""
    names = [f.name for f in header.fields]
    return [
        (i, f)
        for i, f in enumerate(header.fields)
        if f.count == 1 and f.name != "_" and names.count(f.name) == 1
    ]


def _binary(data: bytes, header: _Header) -> _Columns:
    _expect_bytes(len(data) - header.start, header.points * header.row_bytes, header)
    layout = np.dtype([(str(i), f.dtype, (f.count,)) for i, f in enumerate(header.fields)])
    rows = np.frombuffer(data, layout, count=header.points, offset=header.start)
    return {f.name: rows[str(i)][:, 0] for i, f in _scalars(header)}


def _compressed(data: bytes, header: _Header) -> _Columns:
    start = header.start + 8
    if len(data) < start:
        raise _Malformed("found that it ends before its packed data; copy or export it again")
    packed = int.from_bytes(data[header.start : header.start + 4], "little")
    unpacked = int.from_bytes(data[header.start + 4 : start], "little")
    wanted = header.points * header.row_bytes
    if unpacked != wanted:
        raise _Malformed(
            f"found packed data of {unpacked:,} bytes where the header claims {header.points:,} points of "
            f"{header.row_bytes} bytes; export it again"
        )
    if packed > len(data) - start or unpacked > packed * _MAX_GROWTH:
        raise _Malformed(
            f"found {len(data) - start:,} bytes of packed data where {packed:,} are claimed to unpack to "
            f"{unpacked:,}; the file is truncated or damaged: copy or export it again"
        )
    raw = lzf_decompress(data[start : start + packed], unpacked)
    columns, offset = {}, 0
    scalars = dict(_scalars(header))
    for i, f in enumerate(header.fields):
        if i in scalars:
            columns[f.name] = np.frombuffer(raw, f.dtype, count=header.points, offset=offset)
        offset += header.points * f.row_bytes
    return columns


def _ascii(data: bytes, header: _Header) -> _Columns:
    width = sum(f.count for f in header.fields)
    # each number takes two bytes with the space or line end after it; the last may lack it
    _expect_bytes(len(data) + 1, 2 * width * header.points, header)
    lines = [line for line in data.decode("latin-1").splitlines() if line.strip()]
    if len(lines) < header.points:
        raise _Malformed(
            f"found {len(lines):,} lines of data where the header claims {header.points:,}; "
            "the file is truncated: copy or export it again"
        )
    if not header.points:
        return {f.name: np.empty(0, f.dtype) for _, f in _scalars(header)}
    first = np.cumsum([0, *(f.count for f in header.fields)])
    columns = {}
    try:
        words = [line.split() for line in lines[: header.points]]
        if any(len(row) != width for row in words):
            raise ValueError(f"a line of other than {width} numbers")
        for i, f in _scalars(header):
            columns[f.name] = np.array([row[first[i]] for row in words]).astype(f.dtype)
    except (ValueError, OverflowError) as error:
        raise _Malformed(f"found a line that cannot be read ({one_line(error)}); export it again") from None
    return columns


def _expect_bytes(found: int, claimed: int, header: _Header) -> None:
    if claimed > found:
        raise _Malformed(
            f"found {found:,} bytes of data where the header claims {header.points:,} points of at least "
            f"{claimed:,} bytes; the file is truncated: copy or export it again"
        )


def _table(columns: _Columns, header: _Header) -> npt.NDArray[Any]:
    table = np.empty(header.points, [(name, column.dtype.str) for name, column in columns.items()])
    for name, column in columns.items():
        table[name] = column
    return table


def _packed_rgb(columns: _Columns) -> U8 | None:
    """Colours packed as 0x00RRGGBB into 32 bits that a float or an integer field carries."""
    packed = columns.get("rgb", columns.get("rgba"))
    if packed is None or packed.dtype.itemsize != 4:
        return None
    bits = np.ascontiguousarray(packed).view("<u4")
    return np.stack([(bits >> shift & 255).astype(np.uint8) for shift in (16, 8, 0)], axis=1)


def lzf_decompress(data: bytes, size: int) -> bytearray:
    """Unpack LZF data to exactly ``size`` bytes; it never grows beyond that.

    A control byte below 32 precedes that many literal bytes and one; any other refers back: its upper three
    bits are a length less 2 (7 = one more byte of length follows), the rest and the next byte a distance
    less 1.

    Raises:
        _Malformed: the data end early, refer to before their beginning, or unpack to another size.
    """
    out = bytearray()
    at, end = 0, len(data)
    while at < end:
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
            if at > end:
                break
        else:
            length = control >> 5
            if length == 7 and at < end:
                length += data[at]
                at += 1
            if at >= end:
                at = end + 1
                break
            start = len(out) - ((control & 31) << 8) - data[at] - 1
            at += 1
            length += 2
            if start < 0:
                raise _Malformed("found packed data that refer to before their beginning; export it again")
            distance = len(out) - start
            piece = out[start : start + length]
            if distance < length:  # the reference runs into what it makes: a repeated pattern
                piece = (piece * (length // distance + 1))[:length]
            out += piece
        if len(out) > size:
            break
    if at > end or len(out) != size:
        raise _Malformed(
            f"found packed data that do not unpack to the {size:,} bytes claimed; copy or export it again"
        )
    return out
