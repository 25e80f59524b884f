"""What is known of a data set's files, kept in a file that notices changes.

Listing the frames of 1,500 scans takes minutes on a network file system; asking whether their folders have
changed takes a second. So what a look at each part of a data set found is kept under the user's cache, with
the modification times and sizes of the files and folders it came from, and only parts that changed are looked
at again.

The data set's own folder is never written to.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scenelift.errors import DataError, OutputError
from scenelift.files import read_sealed, write_sealed

SCHEMA = 2
"""1 had no checksum."""

_log = logging.getLogger(__name__)


def index_folder() -> Path:
    """Where indices lie: ``$SCENELIFT_INDEX``, or ``scenelift/index`` in the user's cache folder."""
    if own := os.environ.get("SCENELIFT_INDEX"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scenelift" / "index"


def index_path(folder: Path, kind: str, suffix: str = ".json") -> Path:
    """The file that keeps what is known of ``folder``; another ``kind`` of knowledge is another file."""
    text = f"{SCHEMA} {kind} {folder.resolve()}"
    return index_folder() / f"{kind}-{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}{suffix}"


def stamp(paths: Sequence[Path]) -> list[list[int]]:
    """Modification time (ns) and size of files and folders; ``[0, -1]`` for one that is not there.

    A folder's time changes when an entry is added, removed or renamed; not when a file in it is written over.
    """
    return [_stamp(path) for path in paths]


def _stamp(path: Path) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        return [0, -1]
    return [status.st_mtime_ns, status.st_size]


def remembered(
    folder: Path, kind: str, parts: Mapping[str, Sequence[Path]], scan: Callable[[str], Any]
) -> dict[str, Any]:
    """For each part of a data set what ``scan`` finds there, from the index where nothing has changed.

    Args:
        folder: of the data set.
        kind: what is kept; goes with the code of ``scan`` (``"scannet-frames-1"``).
        parts: by name the files and folders that tell of a change.
        scan: looks at a part; returns what JSON can hold. May raise `DataError`, which is not remembered.

    Returns:
        By name what was found, in the order of ``parts``.
    """
    path = index_path(folder, kind)
    known = _read(path)
    result, kept, changed = {}, {}, False
    for name, paths in parts.items():
        now = stamp(paths)
        entry = known.get(name)
        if not (isinstance(entry, dict) and entry.get("stamp") == now and "value" in entry):
            entry, changed = {"stamp": now, "value": scan(name)}, True
        kept[name] = entry
        result[name] = entry["value"]
    if changed or known.keys() - kept.keys():
        _write(path, kept)
    return result


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        known = read_sealed(path).get("parts")
    except DataError:  # damaged, or no permission: as good as none
        return {}
    return known if isinstance(known, dict) else {}


def _write(path: Path, tree: Mapping[str, Any]) -> None:
    try:
        write_sealed(path, {"parts": tree})
    except OutputError as error:
        _log.warning("the index of this data set cannot be kept, so opening it will be slow again: %s", error)
