"""Reading and writing single files: all or nothing, and no silent damage.

Everything written goes through `atomic_path`: a file under its final name is always whole, whatever kills
the process or fills the disk. Everything read is checked: a missing, truncated or mislabelled file is a
`DataError` that names it, never a grey image or a cloud with holes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy.typing as npt

from scenelift.errors import DataError, OutputError
from scenelift.ply import decode_points, encode_points
from scenelift.types import F32, U8

_log = logging.getLogger(__name__)

_TEMP_PREFIX = ".scenelift-tmp."
_HOST = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
_ABANDONED_S = 24 * 3600.0

_NO_ROOM = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "file larger than the system allows",
}
_NO_WAY = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EISDIR: "a folder stands in its place",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOENT: "there is no such folder, or it takes no files",
}


# --- writing -------------------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: Path, needed_bytes: int | None = None) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that becomes ``path`` when the block ends well.

    The block creates the file; on success it is flushed to disk and renamed over ``path`` in one step, so
    a reader sees the old file or the new one. On any exception the temporary file is removed and ``path``
    stays as it was. Missing parent folders are made.

    Args:
        path: the final place.
        needed_bytes: size of the whole file if known, for the message when the disk is full.

    Raises:
        OutputError: for any `OSError` in the block or in the renaming.
    """
    name = f"{_TEMP_PREFIX}{_HOST}.{os.getpid()}.{secrets.token_hex(4)}{path.suffix}"
    temp = path.with_name(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temp
        _sync(temp)
        os.replace(temp, path)
        with suppress(OSError):  # some network file systems cannot sync a folder; the file is whole anyway
            _sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error, needed_bytes) from error
    finally:
        with suppress(OSError):
            temp.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, all or nothing. Raises `OutputError` if that cannot be done."""
    with atomic_path(path, needed_bytes=len(data)) as temp, temp.open("xb") as stream:
        stream.write(data)


def is_temp(path: Path) -> bool:
    """Whether this is a temporary file of `atomic_path`: unfinished, never to be read as a result."""
    return path.name.startswith(_TEMP_PREFIX)


def sweep_temp_files(folder: Path) -> list[Path]:
    """Remove what killed processes left behind in ``folder``, files and folders; return what was removed.

    A temporary file is left alone while its process lives, whatever the clock says. Processes of other
    machines cannot be asked: what nobody has written to for a day, by the clock of the file system, was left
    behind.
    """
    removed = []
    for temp in sorted(folder.glob(_TEMP_PREFIX + "*")):
        host, pid = [*temp.name.removeprefix(_TEMP_PREFIX).split("."), "", ""][:2]
        with suppress(OSError):
            own = host == _HOST and pid.isdigit()
            if not _is_alive(int(pid)) if own else _age_s(temp) > _ABANDONED_S:
                shutil.rmtree(temp) if temp.is_dir() else temp.unlink()
                removed.append(temp)
    return removed


def _age_s(path: Path) -> float:
    """Seconds since a file was written to, by the clock that stamps files there: ours may have jumped."""
    with TemporaryFile(dir=path.parent) as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime


def write_json(path: Path, obj: Any) -> None:
    """Write ``obj`` as JSON, keys in their own order. NaN and infinity are a `ValueError`, as in JSON."""
    atomic_write(path, (json.dumps(obj, indent=1, allow_nan=False) + "\n").encode())


def write_sealed(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a tree as JSON with a checksum of it, for `read_sealed`. Keys in their own order; no NaN."""
    write_json(path, {**tree, "checksum": _seal(tree)})


def _seal(tree: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(tree).encode(), digest_size=16).hexdigest()


def _sync(path: Path) -> None:
    """Flush a file or a folder to disk (folders cannot be opened on Windows; there this is an OSError)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # there, signal 0 is not a question
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def cannot_write(path: Path, error: OSError, needed_bytes: int | None = None) -> OutputError:
    """The error that says why a file cannot be written, and what to do.

    Args:
        path: of the file.
        error: of the system.
        needed_bytes: size of the whole file if known.
    """
    if error.errno in _NO_ROOM:
        folder = next((p for p in path.absolute().parents if p.is_dir()), Path("/"))
        needed = "an unknown number of" if needed_bytes is None else f"{needed_bytes:,}"
        reason = (
            f"{_NO_ROOM[error.errno]}: needs {needed} bytes, free {shutil.disk_usage(folder).free:,} bytes; "
            "make room or choose another folder"
        )
    else:
        reason = _NO_WAY.get(error.errno or 0, str(error)) + "; choose another place or mend this one"
    return OutputError(f"cannot write {path}: {reason}. Nothing was written")


# --- reading -------------------------------------------------------------------------------------------


def read_bytes(path: Path, what: str) -> bytes:
    """The content of a file; `DataError` that says ``what`` was expected if it is missing or empty.

    So it is for pipes and devices, which have no end, and for files that half the memory could not hold.
    """
    try:
        status = path.stat()
        if not _ends(status):
            raise DataError(f"expected {what} at {path}, found a pipe or a device; put a file in its place")
        if status.st_size > _most_bytes():
            raise DataError(
                f"expected {what} at {path} that fits in memory, found {status.st_size:,} bytes; thin it out "
                "or cut it into parts"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"expected {what} at {path}, found no such file; check the path") from None
    except OSError as error:
        raise DataError(
            f"expected {what} at {path}, which cannot be read: {error.strerror or error}; "
            "check that it is a file and that you may read it"
        ) from error
    if not data:
        raise DataError(f"expected {what} at {path}, found an empty file; copy or export it again")
    return data


def open_bytes(path: Path, buffering: int = -1) -> BinaryIO:
    """A file opened for reading; a pipe or a device is an `OSError`, for to open one could wait for ever."""
    if not _ends(path.stat()):
        raise OSError(errno.EINVAL, "a pipe or a device", str(path))
    return path.open("rb", buffering=buffering)


def _ends(status: os.stat_result) -> bool:
    """Whether reading comes to an end; of a folder at once, with an error of its own."""
    return stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)


def _most_bytes() -> int:
    """Half the memory of this machine, or 16 GiB where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 16 << 30


def read_json(path: Path) -> Any:
    """Parse a JSON file (a UTF-8 byte order mark is accepted, NaN too: callers check their own numbers).

    Raises:
        DataError: missing, unreadable, or not JSON; with line and column of the first fault.
    """
    try:
        return json.loads(read_bytes(path, "a JSON file").decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"expected JSON in {path}, found something else: {error}; "
            "the file may be cut off: write, copy or export it again"
        ) from error


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote.

    Raises:
        DataError: missing, no JSON, or not the values that were written.
    """
    tree = read_json(path)
    if not isinstance(tree, dict) or tree.pop("checksum", None) != _seal(tree):
        raise DataError(
            f"expected {path} as it was written, found that its checksum differs; it is damaged or was "
            "edited: restore or delete it"
        )
    return tree


def read_note(path: Path, remade: str) -> dict[str, Any]:
    """What `write_sealed` wrote; empty if nothing is there, or if it is damaged, which the log tells.

    Args:
        path: of a file that can be made again.
        remade: what happens then, as a clause for the log.
    """
    if not path.is_file():
        return {}
    try:
        return read_sealed(path)
    except DataError as error:
        _log.warning("%s; %s", error, remade)
        return {}


# --- point clouds --------------------------------------------------------------------------------------


def read_ply_points(path: Path) -> tuple[F32, U8 | None]:
    """Read the vertices of a PLY file, see `ply.decode_points`.

    Returns:
        points: (N, 3) float32, in the file's own frame and unit.
        rgb: (N, 3) uint8, or ``None`` if the file has no colours.

    Raises:
        DataError: missing, truncated, damaged, without x, y, z, or with NaN or infinite coordinates.
    """
    return decode_points(read_bytes(path, "a PLY point cloud"), str(path))


def write_ply_points(
    path: Path, points: F32, rgb: U8 | None, extra: Mapping[str, npt.NDArray[Any]] | None = None
) -> None:
    """Write a point cloud as binary PLY, see `ply.encode_points`.

    Args:
        path: where to; replaced if it exists.
        points: (N, 3) float32.
        rgb: (N, 3) uint8 or ``None``.
        extra: more scalars per point by name, each (N,), such as a uint8 ``label``.

    Raises:
        OutputError: it cannot be written.
        ValueError: lengths differ, or PLY has no such type.
    """
    atomic_write(path, encode_points(points, rgb, extra or {}))


# --- names ---------------------------------------------------------------------------------------------


def safe_name(text: str) -> str:
    """A name for a file or folder made from ``text``; texts that differ give names that differ.

    Letters and digits of any script, ``_``, ``-`` and inner dots stay; anything else becomes ``_``. If that
    changes the text, a short hash of the original is appended. At most 120 bytes; a safe name stays as it is.
    """
    clean = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", text))
    clean = clean.encode(errors="ignore")[:120].decode(errors="ignore").lstrip(".-").rstrip(".")
    if clean == text and clean:
        return clean
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    stem = clean.encode()[:111].decode(errors="ignore").rstrip(".") or "unnamed"
    return f"{stem}-{digest}"
