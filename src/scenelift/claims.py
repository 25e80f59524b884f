"""Who is working on what: several processes on one cache never do the same work twice.

A claim is a lock of the operating system on one of 4,096 files, ``root/claims/<3 hex digits>.lock``, chosen
by the digest of the work. The files are empty, are never removed, and mean nothing by themselves: a lock
vanishes with its process, however that ends. Works that share a file only wait for each other.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType

from filelock import BaseFileLock, FileLock, Timeout

_log = logging.getLogger(__name__)


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
