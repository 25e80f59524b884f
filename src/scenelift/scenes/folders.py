"""Names of files, what lies in a folder, and lines of text: for every source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath

from scenelift.errors import DataError
from scenelift.files import open_bytes, read_bytes


def natural_key(name: str) -> tuple[object, ...]:
    """Sort key: whole-number and decimal names by value, digits inside other names by value too."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", name):
        return (0, Decimal(name), name)
    pieces = re.split(r"([0-9]+)", name)
    return (1, *((int(piece), piece) if i % 2 else (piece,) for i, piece in enumerate(pieces)))


def some(names: Sequence[str], limit: int = 3) -> str:
    """The first few of many names: ``a, b, c and 7 more``."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, in order, without what begins with a dot."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files of a folder by name without suffix. Raises `DataError` where two have one name."""
    files: dict[str, Path] = {}
    for path in visible(folder):
        if path.suffix.lower() not in suffixes:
            continue
        other = files.setdefault(path.stem, path)
        if other is not path:
            raise DataError(
                f"expected one file per frame in {folder}, found {other.name} and {path.name}; "
                "remove the one that does not belong there"
            )
    return files


def inside(folder: Path, text: str, where: str) -> Path:
    """The file that a table names, below ``folder``.

    Raises:
        DataError: the name is absolute or leads out of the folder: a table may come from anybody.
    """
    parts: list[str] = []
    for part in PurePosixPath(text.replace("\\", "/")).parts:
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            parts = []
            break
    windows = PureWindowsPath(text)
    if not parts or "\0" in text or windows.drive or windows.root or text.startswith("/"):
        raise DataError(
            f"expected names of files below {folder} in {where}, found {text[:80]!r}; "
            "move the files into the folder and name them relative to it"
        )
    return folder.joinpath(*parts)


def existing(paths: Iterable[Path]) -> set[Path]:
    """Those of many paths that are files or folders; each parent folder is listed once."""
    wanted = set(paths)
    found: set[Path] = set()
    for parent in {path.parent for path in wanted}:
        with suppress(OSError):
            found.update(parent.iterdir())
    return wanted & found


def read_lines(path: Path, what: str) -> list[tuple[int, list[str]]]:
    """A text file's lines that hold something: (line number, words); ``#`` begins a comment line.

    Raises:
        DataError: missing, unreadable or empty.
    """
    text = read_bytes(path, what).decode("utf-8-sig", errors="replace")
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, words) for number, words in lines if words and not words[0].startswith("#")]


def looks_whole(path: Path) -> bool:
    """Whether an image file begins and ends as a whole PNG or JPEG does: a cheap look, not a proof.

    A file that fails may still be readable (bytes appended after the image); read it to know. Of .npy and
    .exr only the beginning can be told.
    """
    try:
        with open_bytes(path) as stream:
            head = stream.read(4)
            stream.seek(max(0, path.stat().st_size - 64))
            tail = stream.read()
    except OSError:
        return False
    if head in (b"\x93NUM", b"\x76\x2f\x31\x01"):
        return True
    return (head[:3] == b"\x89PN" and b"IEND" in tail) or (
        head[:3] == b"\xff\xd8\xff" and b"\xff\xd9" in tail
    )
