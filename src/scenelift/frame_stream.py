"""Work around the networks: reading ahead and writing behind in threads, a bounded number at a time.

Decoding, hashing, compression and writing release the interpreter's lock, so threads are enough. Results and
errors come back in order, in the caller's thread: nothing that is decided from them depends on the threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from scenelift.errors import SceneLiftError

T = TypeVar("T")

READERS = min(4, os.cpu_count() or 1)
WRITERS = 2
WRITES_WAITING = 16
"""Tasks that may wait for a writer; each holds the answers for one frame, about 3 MiB."""


def frames_per_batch(device: str) -> int:
    """How many frames teachers are asked for at once.

    One already fills the cores of a CPU, and a kill loses only that one; on a GPU several are needed to keep
    it busy.
    """
    return 1 if device == "cpu" else 8


def prefetch(tasks: Iterable[Callable[[], T]], threads: int, ahead: int) -> Generator[T, None, None]:
    """Results of tasks in order, computed in threads while the caller works on earlier ones.

    Args:
        tasks: taken one by one, in the caller's thread; only ``ahead`` more than were yielded.
        threads: how many work at a time.
        ahead: results that may wait, at least 1.

    Raises:
        Whatever a task raises, in its place: after the results of those before it. So does a
        `SceneLiftError` of ``tasks`` itself. Tasks that wait are then dropped.
    """
    source, waiting = iter(tasks), deque[Future[T]]()
    failure: SceneLiftError | None = None
    with ThreadPoolExecutor(threads, thread_name_prefix="scenelift-read") as pool:
        try:
            while failure is None:
                try:
                    waiting.append(pool.submit(next(source)))
                except StopIteration:
                    break
                except SceneLiftError as error:
                    failure = error
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            if failure is not None:
                raise failure
        finally:
            for future in waiting:
                future.cancel()


class Writers:
    """Threads that finish what was submitted, come what may; use as a context.

    Leaving the context waits for all of it, after an error or a signal too, so that what was computed is not
    lost. An error of a task is raised in the caller's thread by a later `submit` or by `finish`.

    Args:
        threads: how many work at a time.
        room: tasks that may wait or run before `submit` waits for the oldest.
    """

    def __init__(self, threads: int = WRITERS, room: int = WRITES_WAITING) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="scenelift-write")
        self._room = room
        self._waiting: deque[tuple[Future[None], Callable[[], None]]] = deque()

    def __enter__(self) -> Writers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)

    def submit(self, task: Callable[[], None], then: Callable[[], None]) -> None:
        """Run ``task`` in a thread and, after it and all before it, ``then`` in the caller's."""
        self._waiting.append((self._pool.submit(task), then))  # first: collecting may raise
        self._collect(self._room)

    def finish(self) -> None:
        """Wait for all that was submitted."""
        self._collect(0)

    def _collect(self, keep: int) -> None:
        while self._waiting and (len(self._waiting) > keep or self._waiting[0][0].done()):
            future, then = self._waiting.popleft()
            future.result()
            then()
