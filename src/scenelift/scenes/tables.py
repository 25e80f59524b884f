"""JSON tables of millions of rows, such as nuScenes', read in pieces: an array of objects.

Only the wanted fields of each row are made into Python objects, and only a little text is decoded at a time,
so memory holds what the caller keeps and not the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from scenelift.errors import DataError, one_line
from scenelift.files import open_bytes

Row = TypeVar("Row", bound=msgspec.Struct)
Item = TypeVar("Item")

PIECE_BYTES = 256 << 10
"""Text decoded at a time; what stays in the processor's cache is decoded twice as fast as megabytes."""

_MOST_BYTES = 256 << 20
"""No row is larger: what cannot be decoded by then is damaged, and the rest of the file is left alone."""

_SPACE = b" \t\r\n"
_FAULTS = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What msgspec raises; bytes that are no UTF-8 are none of its own errors."""
_FAULT_BYTE = re.compile(r"\(byte (\d+)\)")


def read_rows(path: Path, row: type[Row], piece_bytes: int = PIECE_BYTES) -> Iterator[list[Row]]:
    """The rows of a table, some at a time, in the order of the file.

    Args:
        path: a JSON file: one array of objects.
        row: the wanted fields by name and type; others are passed over.
        piece_bytes: about how much to decode at a time.

    Yields:
        Lists of rows; together all of them.

    Raises:
        DataError: missing, unreadable, no such array, a field missing or of another type; with the place.
    """
    for _, _, rows in _pieces(path, msgspec.json.Decoder(list[row]), piece_bytes):  # type: ignore[valid-type]
        yield rows


@dataclass(frozen=True, eq=False)
class PlacedRows:
    """Rows and where they stand in the file.

    Attributes:
        rows: in the order of the file.
        offsets: byte at which each row's object begins.
        lengths: bytes of each object, from ``{`` to ``}``.
    """

    rows: list[Any]
    offsets: list[int]
    lengths: list[int]


def read_placed_rows(path: Path, row: type[Row], piece_bytes: int = PIECE_BYTES) -> Iterator[PlacedRows]:
    """As `read_rows`, and where each row stands: so that a table need not be kept to find a row again.

    Raises:
        DataError: as `read_rows`.
    """
    decoder = msgspec.json.Decoder(row)
    for place, text, raws in _pieces(path, msgspec.json.Decoder(list[msgspec.Raw]), piece_bytes):
        rows, offsets, lengths, end = [], [], [], 0
        for raw in raws:
            try:
                rows.append(decoder.decode(raw))
            except _FAULTS as error:
                raise _malformed(path, place + end, one_line(error)) from error
            start = text.index(b"{", end)  # between two objects are only a comma and spaces
            end = start + memoryview(raw).nbytes
            offsets.append(place + start)
            lengths.append(end - start)
        yield PlacedRows(rows, offsets, lengths)


def read_row(path: Path, row: type[Row], offset: int, length: int) -> Row:
    """One row of a table, read from where `read_placed_rows` found it.

    Raises:
        DataError: the table cannot be read, or there is no such row any more.
    """
    try:
        with open_bytes(path) as stream:
            stream.seek(offset)
            return msgspec.json.decode(stream.read(length), type=row)
    except (OSError, OverflowError, ValueError, RecursionError) as error:
        raise DataError(
            f"expected a row of a table at byte {offset:,} of {path}, found another content than when it was "
            f"first read: {one_line(error)}; open the data set again, or download the table again"
        ) from error


def _pieces(
    path: Path, decoder: msgspec.json.Decoder[list[Item]], piece_bytes: int
) -> Iterator[tuple[int, bytes, list[Item]]]:
    try:
        with open_bytes(path) as stream:
            yield from _cut(stream, path, decoder, piece_bytes)
    except FileNotFoundError:
        raise DataError(f"expected a table at {path}, found no such file; check the path") from None
    except OSError as error:
        raise DataError(
            f"expected a table at {path}, which cannot be read: {error.strerror or error}; "
            "check that it is a file and that you may read it"
        ) from error


def _cut(
    stream: BinaryIO, path: Path, decoder: msgspec.json.Decoder[list[Item]], piece_bytes: int
) -> Iterator[tuple[int, bytes, list[Item]]]:
    """Cut the text where one object ends and the next begins: byte in the file, text, and its items.

    A cut inside a string or a nested array leaves a piece that is no JSON, so a piece that cannot be decoded
    is tried again with more text; what cannot be decoded with `_MOST_BYTES` or all the rest is damaged.
    """
    rest, place, wanted = b"", 1, piece_bytes
    while not rest and (head := stream.read(piece_bytes)):
        rest = head.lstrip(_SPACE + b"\xef\xbb\xbf")
        place += len(head) - len(rest)
    if not rest.startswith(b"["):
        raise _malformed(path, 0, "it does not begin with [")
    rest = rest[1:]
    while True:
        more = stream.read(max(0, wanted - len(rest)))
        rest += more
        if len(rest) < wanted:  # the end of the file
            end = rest.rstrip(_SPACE)
            if not end.endswith(b"]"):
                raise _malformed(path, place, "it is cut off: it does not end with ]")
            yield place, rest, _decode(decoder, b"[" + end, path, place)
            return
        cut = rest.rfind(b"}", 0, len(rest))
        tail = rest[cut + 1 :].lstrip(_SPACE) if cut >= 0 else b""
        while cut >= 0 and not (tail.startswith(b",") and tail[1:].lstrip(_SPACE).startswith(b"{")):
            cut = rest.rfind(b"}", 0, cut)
            tail = rest[cut + 1 : cut + 64].lstrip(_SPACE) if cut >= 0 else b""
        rows = None
        if cut >= 0:
            try:
                rows = decoder.decode(b"[" + rest[: cut + 1] + b"]")
            except (msgspec.ValidationError, UnicodeError, RecursionError) as error:
                raise _malformed(path, place, one_line(error)) from error
            except msgspec.DecodeError as error:
                # Too early a cut shows at the very end; a fault before it stays one whatever follows.
                fault = _FAULT_BYTE.search(str(error))
                if fault and int(fault[1]) < cut:
                    raise _malformed(path, place + int(fault[1]) - 1, one_line(error)) from error
        if rows is None:
            if wanted >= _MOST_BYTES:
                raise _malformed(path, place, f"no object ends in {wanted:,} bytes")
            wanted *= 2
            continue
        yield place, rest, rows
        tail = rest[cut + 1 :].lstrip(_SPACE)[1:]
        place, wanted = place + len(rest) - len(tail), piece_bytes
        rest = tail


def _decode(decoder: msgspec.json.Decoder[list[Item]], text: bytes, path: Path, place: int) -> list[Item]:
    try:
        return decoder.decode(text)
    except _FAULTS as error:
        raise _malformed(path, place, one_line(error)) from error


def _malformed(path: Path, place: int, reason: str) -> DataError:
    return DataError(
        f"expected a table (a JSON array of objects) in {path}, found a fault after byte {place:,}: "
        f"{reason}; copy or download the file again"
    )
