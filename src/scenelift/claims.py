"""Who is working on what: several processes on one cache never do the same work twice.

A claim is a lock of the operating system on one of 4,096 files, ``root/claims/<3 hex digits>.lock``, chosen
by the digest of the work. The files are empty, are never removed, and mean nothing by themselves: a lock
vanishes with its process, however that ends. Works that share a file only wait for each other. Beside them
lie the signs of processes that read the cache (`InUse`), so that nothing is pruned under their hands.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from filelock import BaseFileLock, FileLock, Timeout

_log = logging.getLogger(__name__)

_OWN: set[str] = set()
"""Names of the signs of this process."""


class Claims:
    """The claims of this process; use as a context, which gives them all back.

    Taking never waits, so processes that hold several claims cannot wait for each other in a circle.
    Not for several threads at once.

    Args:
        root: folder of the cache; its file system should know locks. Where it does not, a warning is logged
            and every claim is granted: processes may then do the same work twice, and do no harm by it.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / "claims"
        self._held: dict[str, BaseFileLock | None] = {}
        self._warned = False

    def __enter__(self) -> Claims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for slot in list(self._held):
            self._release(slot)

    def take(self, digest: str, force: bool = False) -> bool:
        """Claim the work of this hex digest; whether it is ours.

        False also while we hold it already, or another work in its slot: come back later.

        Args:
            digest: of the work.
            force: whoever else holds it is taken for dead, and what it holds is not waited for.
        """
        slot = digest[:3]
        if slot in self._held:
            return False
        # released in this thread, but locks that other processes see belong to no thread
        lock = FileLock(self._folder / f"{slot}.lock", timeout=0, thread_local=False)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            if force:
                self._held[slot] = None
            return force
        except (OSError, NotImplementedError) as error:
            self._warn(error)
            self._held[slot] = None
            return True
        self._held[slot] = lock
        return True

    def release(self, digest: str) -> None:
        """Give back a claim that was taken."""
        self._release(digest[:3])

    def _release(self, slot: str) -> None:
        lock = self._held.pop(slot)
        if lock is not None:
            lock.release()

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            _log.warning(
                "files below %s cannot be locked (%s): processes that share this cache may do the same "
                "work twice",
                self._folder,
                error,
            )
        self._warned = True


def lock(path: Path) -> BaseFileLock | None:
    """A lock on a file, held until it is released or its process ends; ``None`` if another process has it.

    Where the file system knows no locks, a warning is logged and the lock counts as taken.
    """
    held = FileLock(path, timeout=0, thread_local=False)
    try:
        held.acquire()
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        _log.warning("%s cannot be locked (%s): see to it that one process alone works there", path, error)
    return held


class InUse:
    """A sign that this process reads a cache, for as long as the object lives.

    The sign is a locked file ``root/claims/use-<random>.lock``, whose lock tells that the process
    lives, and beside it an empty file ``.began``, whose time tells since when, by the clock of that file
    system. In a cache that cannot be written to there is no sign, and no need of one.

    Args:
        root: folder of the cache.
    """

    def __init__(self, root: Path) -> None:
        path = root / "claims" / f"use-{secrets.token_hex(8)}.lock"
        with suppress(OSError, NotImplementedError, Timeout):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, timeout=0, thread_local=False)
            _OWN.add(path.name)
            lock.acquire()
            path.with_suffix(".began").touch()  # to lock a file changes its own time
            weakref.finalize(self, _give_back, lock, path, os.getpid())


def _give_back(lock: BaseFileLock, sign: Path, pid: int) -> None:
    if os.getpid() == pid:  # a child that was forked holds nothing
        _OWN.discard(sign.name)
        lock.release()
        _forget(sign)


def _forget(sign: Path) -> None:
    for path in (sign, sign.with_suffix(".began")):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def used_since(root: Path) -> float | None:
    """Since when other processes have been reading a cache without a pause: what was used later is in use.

    Signs of processes that are gone are removed.

    Returns:
        Seconds since the epoch; ``None`` if nobody reads it. A sign from the future says that a clock was put
        back meanwhile, so that times tell nothing: then it is minus infinity, and everything is in use.
    """
    began: list[float] = []
    for path in (root / "claims").glob("use-*.lock"):
        if path.name in _OWN:
            continue
        sign = FileLock(path, timeout=0, thread_local=False)
        try:
            sign.acquire()
        except (OSError, NotImplementedError):  # Timeout is one: its process lives
            with suppress(OSError):
                began.append(path.with_suffix(".began").stat().st_mtime)
        else:
            _forget(path)
            sign.release()
    if any(when > time.time() + 60 for when in began):
        return float("-inf")
    return min(began, default=None)
