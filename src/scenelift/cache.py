"""The stage cache: results on disk under the digest of everything they depend on.

An entry is one safetensors file, ``root/<stage>/<first two hex digits>/<digest>.safetensors``, that explains
itself (`entries`), may be copied to another machine, and cannot be taken for something else. There is no
index: the folder is the cache. Files appear whole or not at all, so processes may share a cache freely and
may be killed at any moment. Time of last use is the file's modification time. Beside the stages there may be
a folder ``claims`` (`claims`); it holds no results and is left alone.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scenelift.claims import InUse, used_since
from scenelift.codecs import Codec
from scenelift.entries import (
    JSON,
    DamageError,
    Entry,
    Key,
    canonical_json,
    decode,
    encode,
    feed,
    parse_manifest,
    read_header,
)
from scenelift.errors import CacheError, ConfigError, OutputError
from scenelift.files import atomic_write, is_temp, sweep_temp_files

__all__ = [
    "CODE_VERSIONS",
    "JSON",
    "Cache",
    "Damage",
    "Entry",
    "EntryInfo",
    "Key",
    "StageStats",
    "array_digest",
    "cache_key",
]

CODE_VERSIONS: dict[str, int] = {
    "label_features": 1,
    "labels": 1,
    "masks": 2,  # 1 held the features too
    "mask_features": 1,
    "pairs": 1,
    "fused": 1,
    "text": 1,
    "cloud": 1,
    "stage1": 1,
}
"""Every stage that may be cached, with the version of its code.

Bump the number when the same inputs come to mean another result (a mended bug, another convention); older
entries are then never found again. A change that only makes the stage faster keeps it.
"""

_FORMAT = 1
"""Part of every digest: other ways to make keys are never looked up."""

_log = logging.getLogger(__name__)


def cache_key(stage: str, **parts: object) -> Key:
    """The key of a result of ``stage`` that depends on ``parts`` and on nothing else.

    Parts are str, int, float, bool, None, bytes, numpy arrays, and lists, tuples and dicts (with str keys)
    of these. The order of parts and of dict keys does not matter, nor does tuple or list, nor how an array
    lies in memory. Everything else does: ``1``, ``1.0`` and ``True`` are three parts, as are ``0.0`` and
    ``-0.0``, and arrays of one content but two dtypes or shapes.

    Raises:
        ConfigError: no such stage in `CODE_VERSIONS`.
        TypeError: a part of any other type.
    """
    _check_stage(stage)
    content = ["key", _FORMAT, stage, CODE_VERSIONS[stage], _canonical(parts)]
    return Key(stage, hashlib.blake2b(canonical_json(content), digest_size=20).hexdigest())


def array_digest(*arrays: npt.NDArray[Any]) -> str:
    """40 hex digits that stand for the dtypes, shapes and contents of some arrays, in order."""
    state = hashlib.blake2b(digest_size=20)
    for array in arrays:
        feed(state, array)
    return state.hexdigest()


def _canonical(value: object) -> JSON:
    """JSON in which values of different kinds never look alike: every container names its kind."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return ["list", *map(_canonical, value)]
    if isinstance(value, bytes):
        return ["bytes", hashlib.blake2b(value, digest_size=20).hexdigest()]
    if isinstance(value, np.ndarray):
        return ["array", array_digest(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return ["dict", {key: _canonical(item) for key, item in value.items()}]
    raise TypeError(f"a cache key is made of JSON values, bytes and arrays; found {type(value).__name__}")


def _check_stage(stage: str) -> None:
    if stage not in CODE_VERSIONS:
        raise ConfigError(f"expected a cache stage of {', '.join(CODE_VERSIONS)}; found {stage!r}")


@dataclass(frozen=True)
class EntryInfo:
    """What is known of an entry without reading its arrays: ``bytes`` of the file, times in UTC."""

    stage: str
    digest: str
    bytes: int
    created: datetime
    last_used: datetime
    meta: dict[str, JSON]
    path: Path


@dataclass(frozen=True)
class Damage:
    """A file of the cache that is not what its name says, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class StageStats:
    """How much a stage keeps: number of files, and their size."""

    entries: int
    bytes: int


class Cache:
    """A folder of entries. Making one touches nothing; the folder appears with the first `put`.

    Args:
        root: the folder; may be shared by processes, and read-only if only `get` is used.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._in_use: InUse | None = None
        self._read_before: set[Key] = set()

    def __reduce__(self) -> tuple[type[Cache], tuple[Path]]:  # a sign of use stays with its process
        return Cache, (self.root,)

    def path(self, key: Key) -> Path:
        """Where the entry of this key is kept."""
        return self.root / key.stage / key.digest[:2] / f"{key.digest}.safetensors"

    def has(self, key: Key) -> bool:
        """Whether there is an entry, without reading it: a damaged one counts too. Asking is using it."""
        path = self.path(key)
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        except OSError:  # not ours, or read-only
            return path.is_file()
        return True

    def hold(self) -> None:
        """From now on, as long as this object lives, `prune` in other processes leaves what is used alone."""
        self._in_use = self._in_use or InUse(self.root)

    def get(self, key: Key, again: bool = False) -> Entry | None:
        """The entry of this key, or ``None`` if there is none.

        A damaged entry is removed with a warning in the log and counts as none, so that its stage runs again.

        Args:
            key: from `cache_key`.
            again: for what is read again and again, as in training: the checksum of the arrays is compared
                the first time alone, and packed arrays need not be C-contiguous.

        Raises:
            CacheError: the file is there and cannot be read (permissions, a failing disk).
        """
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CacheError(
                f"expected a cache entry at {path}, which cannot be read: {error.strerror or error}; "
                "check the permissions and the disk, or use another cache folder"
            ) from error
        try:
            entry = decode(data, key, verify=not again or key not in self._read_before, as_packed=again)
        except DamageError as error:
            _log.warning("cache entry %s is damaged (%s): it is removed and made again", path, error)
            with suppress(OSError):  # in a read-only cache it stays, and stays a miss
                path.unlink()
            return None
        self._read_before.add(key)
        with suppress(OSError):  # not ours, or read-only: it only looks older than it is
            os.utime(path)
        return entry

    def put(
        self,
        key: Key,
        arrays: Mapping[str, npt.NDArray[Any]],
        meta: Mapping[str, JSON],
        codecs: Mapping[str, Codec] | None = None,
    ) -> None:
        """Keep arrays and meta under this key, replacing what is there.

        Args:
            key: from `cache_key`.
            arrays: at least one; bool, integers, float16/32/64 of any shape.
            meta: JSON values; tuples come back as lists. NaN is a `ValueError`.
            codecs: how to pack some of the arrays, by name; the others are stored as they are.

        Raises:
            CacheError: it cannot be written (disk full: with the bytes needed and free); nothing is left.
            TypeError: an array or a meta value of a type that cannot be kept.
        """
        if not arrays:
            raise ValueError(f"cache entry {key}: expected at least one array")
        data = encode(key, arrays, meta, codecs or {})
        try:
            atomic_write(self.path(key), data)
        except OutputError as error:
            raise CacheError(f"cache entry {key}: {error}") from error

    def entries(self) -> Iterator[EntryInfo]:
        """All entries by stage and digest, from their headers; those without a readable one are left out."""
        for path in self._files():
            with suppress(DamageError, FileNotFoundError):
                stat = path.stat()
                manifest = parse_manifest(read_header(path, stat.st_size))
                yield EntryInfo(
                    stage=path.parent.parent.name,
                    digest=path.stem,
                    bytes=stat.st_size,
                    created=datetime.fromisoformat(manifest["created"]),
                    last_used=datetime.fromtimestamp(stat.st_mtime, timezone.utc),
                    meta=manifest["meta"],
                    path=path,
                )

    def verify(self, remove: bool = False) -> list[Damage]:
        """Read every entry and compare its checksum; list the damaged ones, and remove them if asked to."""
        found = [Damage(path, reason) for path in self._files() if (reason := _what_is_wrong(path))]
        for damage in found if remove else []:
            _unlink(damage.path)
        return found

    def prune(
        self,
        stage: str | None = None,
        older_than_days: float | None = None,
        max_bytes: int | None = None,
        dry_run: bool = False,
    ) -> list[EntryInfo]:
        """Remove entries, and what killed processes left behind.

        What was used since another process began that is still at work stays (`hold`). Of the rest first go
        the entries that were last used more than ``older_than_days`` ago; then, as long as more
        than ``max_bytes`` remain, the least recently used. With neither, all go.

        Args:
            stage: look only at this stage (``max_bytes`` then counts this stage alone); ``None`` for all.
            older_than_days: age limit in days since last use; ``None`` for no limit.
            max_bytes: size limit; ``None`` for no limit.
            dry_run: remove nothing.

        Returns:
            The entries removed (or to be removed), least recently used first.

        Raises:
            ConfigError: no such stage, a negative limit, or nothing given at all.
            CacheError: an entry cannot be removed.
        """
        if stage is None and older_than_days is None and max_bytes is None:
            raise ConfigError("prune: expected a stage, an age or a size; a size of 0 empties the cache")
        if min(older_than_days or 0, max_bytes or 0) < 0:
            raise ConfigError(f"prune: expected limits >= 0, found {older_than_days} days, {max_bytes} bytes")
        if stage is not None:
            _check_stage(stage)
        limit = float("inf" if older_than_days is not None else 0) if max_bytes is None else max_bytes
        oldest = float("-inf") if older_than_days is None else time.time() - older_than_days * 86400
        selected = [info for info in self.entries() if stage in (None, info.stage)]
        size = sum(info.bytes for info in selected)
        in_use = used_since(self.root)
        gone = []
        for info in sorted(selected, key=lambda info: (info.last_used, info.digest)):
            used = info.last_used.timestamp()
            if (used >= oldest and size <= limit) or (in_use is not None and used >= in_use):
                break  # the rest was used later still
            size -= info.bytes
            gone.append(info)
        if not dry_run:
            for info in gone:
                _unlink(info.path)
            self.sweep()
        return gone

    def sweep(self) -> list[Path]:
        """Remove the temporary files of processes that were killed; return them."""
        return [temp for folder in sorted(self.root.glob("*/??")) for temp in sweep_temp_files(folder)]

    def stats(self) -> dict[str, StageStats]:
        """Number and size of the files of every stage that has any."""
        sizes: dict[str, list[int]] = {}
        for path in self._files():
            with suppress(FileNotFoundError):
                sizes.setdefault(path.parent.parent.name, []).append(path.stat().st_size)
        return {stage: StageStats(len(of_stage), sum(of_stage)) for stage, of_stage in sizes.items()}

    def _files(self) -> list[Path]:
        return sorted(path for path in self.root.glob("*/??/*.safetensors") if not is_temp(path))


def _what_is_wrong(path: Path) -> str | None:
    try:
        decode(path.read_bytes(), Key(path.parent.parent.name, path.stem), verify=True)
    except (DamageError, OSError) as error:
        return None if isinstance(error, FileNotFoundError) else str(error)  # None: pruned meanwhile
    return None


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(f"cannot remove {path}: {error.strerror or error}; check permissions") from error
