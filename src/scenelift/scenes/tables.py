"""JSON tables of millions of rows, such as nuScenes', read in pieces: an array of objects.

Only the wanted fields of each row are made into Python objects, and only a little text is decoded at a
time, so memory holds what the caller keeps and not the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from scenelift.errors import DataError, one_line

Row = TypeVar("Row", bound=msgspec.Struct)

PIECE_BYTES = 256 << 10
"""Text decoded at a time; what stays in the processor's cache is decoded twice as fast as megabytes."""

_LARGEST_ROW_BYTES = 256 << 20
"""A fault that swallows the ends of rows is one when no row ends within so much text."""

_SPACE = b" \t\r\n"
_DAMAGED = (msgspec.ValidationError, UnicodeDecodeError, RecursionError)
"""What is wrong with a piece wherever it was cut."""
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
    try:
        with path.open("rb") as stream:
            yield from _rows(stream, path, msgspec.json.Decoder(list[row]), piece_bytes)  # type: ignore[valid-type]
    except FileNotFoundError:
        raise DataError(f"expected a table at {path}, found no such file; check the path") from None
    except OSError as error:
        raise DataError(
            f"expected a table at {path}, which cannot be read: {error.strerror or error}; "
            "check that it is a file and that you may read it"
        ) from error


def _rows(
    stream: BinaryIO, path: Path, decoder: msgspec.json.Decoder[list[Row]], piece_bytes: int
) -> Iterator[list[Row]]:
    """Cut the text where one object ends and the next begins.

    A cut inside a string or a nested array leaves a piece that is no JSON, so a piece that cannot be decoded
    is tried again with more text; what cannot be decoded with all the rest of the file is damaged.
    """
    rest = b""
    while not rest and (more := stream.read(piece_bytes)):
        rest = more.lstrip(_SPACE + b"\xef\xbb\xbf")
    if not rest.startswith(b"["):
        raise _malformed(path, 0, "it does not begin with [")
    rest, place, wanted = rest[1:], 1, piece_bytes
    while True:
        more = stream.read(max(0, wanted - len(rest)))
        rest += more
        if len(rest) < wanted:  # the end of the file
            end = rest.rstrip(_SPACE)
            if not end.endswith(b"]"):
                raise _malformed(path, place, "it is cut off: it does not end with ]")
            yield _decode(decoder, b"[" + end, path, place)
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
            except _DAMAGED as error:
                raise _malformed(path, place, one_line(error)) from error
            except msgspec.DecodeError as error:
                # Too early a cut shows at the very end; a fault before it stays one whatever follows.
                fault = _FAULT_BYTE.search(str(error))
                if fault and int(fault[1]) < cut:
                    raise _malformed(path, place + int(fault[1]) - 1, one_line(error)) from error
        if rows is None:
            if wanted > max(_LARGEST_ROW_BYTES, piece_bytes):
                raise _malformed(path, place, f"no row ends within {wanted >> 20:,} MiB of it")
            wanted *= 2
            continue
        yield rows
        rest = rest[cut + 1 :].lstrip(_SPACE)[1:]
        place, wanted = place + cut + 1, piece_bytes


def _decode(decoder: msgspec.json.Decoder[list[Row]], text: bytes, path: Path, place: int) -> list[Row]:
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, *_DAMAGED) as error:
        raise _malformed(path, place, one_line(error)) from error


def _malformed(path: Path, place: int, reason: str) -> DataError:
    return DataError(
        f"expected a table (a JSON array of objects) in {path}, found a fault after byte {place:,}: "
        f"{reason}; copy or download the file again"
    )
