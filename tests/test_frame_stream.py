"""Reading ahead and writing behind: order, bounds, and errors that surface as themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import pytest

from scenelift.errors import CacheError, DataError
from scenelift.frame_stream import Writers, frames_per_batch, prefetch

WAIT_S = 20.0


def give(value: int) -> int:
    return value


def fail(message: str) -> int:
    raise DataError(message)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("ahead", [1, 5, 100])
def test_results_come_in_order(threads: int, ahead: int) -> None:
    assert list(prefetch((partial(give, i) for i in range(30)), threads, ahead)) == list(range(30))
    assert list(prefetch(iter([]), threads, ahead)) == []


def test_tasks_are_taken_only_a_little_ahead() -> None:
    """Memory follows ``ahead``, not the number of tasks."""
    taken: list[int] = []

    def tasks() -> Iterator[Callable[[], int]]:
        for i in range(100):
            taken.append(i)
            yield partial(give, i)

    with closing(prefetch(tasks(), threads=2, ahead=3)) as results:
        for i, _ in zip(range(50), results, strict=False):
            assert len(taken) <= i + 1 + 3
    assert len(taken) < 60


def test_it_works_while_the_caller_does() -> None:
    """The second task runs before the first result is asked for again."""
    second = threading.Event()

    def announce() -> int:
        second.set()
        return 1

    results = prefetch(iter([partial(give, 0), announce]), threads=1, ahead=1)
    assert next(results) == 0
    assert second.wait(WAIT_S)
    assert list(results) == [1]


def test_an_error_comes_after_the_results_before_it() -> None:
    tasks = [partial(give, 0), partial(give, 1), partial(fail, "frame 2 is damaged"), partial(give, 3)]
    results = prefetch(iter(tasks), 3, 10)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(DataError, match="frame 2 is damaged"):
        next(results)


def test_so_does_an_error_of_the_tasks_themselves() -> None:
    def tasks() -> Iterator[Callable[[], int]]:
        yield partial(give, 0)
        yield partial(give, 1)
        raise DataError("scene b is missing")

    results = prefetch(tasks(), 1, 10)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(DataError, match="scene b is missing"):
        next(results)


def test_leaving_drops_what_waits() -> None:
    gate, ran = threading.Event(), []

    def slow(i: int) -> int:
        gate.wait(WAIT_S)
        ran.append(i)
        return i

    results = prefetch((partial(give, 0) if i == 0 else partial(slow, i) for i in range(50)), 1, 40)
    assert next(results) == 0
    threading.Timer(0.05, gate.set).start()
    results.close()
    assert len(ran) <= 1


class TestWriters:
    def test_everything_is_run_and_told_in_order_in_this_thread(self) -> None:
        ran: list[int] = []
        told: list[tuple[int, int]] = []
        with Writers(threads=2, room=3) as writers:
            for i in range(20):
                writers.submit(partial(ran.append, i), lambda i=i: told.append((i, threading.get_ident())))
            writers.finish()
        assert sorted(ran) == list(range(20))
        assert told == [(i, threading.get_ident()) for i in range(20)]

    def test_no_more_wait_than_there_is_room(self) -> None:
        gate, told = threading.Event(), []

        def wait() -> None:
            gate.wait(WAIT_S)

        with Writers(threads=1, room=3) as writers:
            for _ in range(3):
                writers.submit(wait, lambda: told.append(1))
            assert told == []
            threading.Timer(0.05, gate.set).start()
            writers.submit(lambda: None, lambda: told.append(2))  # waits for the first
            assert told[:1] == [1]

    def test_an_error_surfaces_as_itself_and_the_rest_is_still_done(self) -> None:
        def full() -> None:
            raise CacheError("disk full")

        ran: list[int] = []

        def work() -> None:
            with Writers(threads=1, room=2) as writers:
                writers.submit(partial(ran.append, 0), lambda: None)
                writers.submit(full, lambda: ran.append(-1))
                for i in range(1, 9):
                    writers.submit(partial(ran.append, i), lambda: None)

        with pytest.raises(CacheError, match="disk full"):
            work()
        assert -1 not in ran
        assert ran == list(range(len(ran)))

    def test_what_was_submitted_is_finished_when_the_caller_is_stopped(self) -> None:
        gate, ran = threading.Event(), []

        def slow(i: int) -> None:
            gate.wait(WAIT_S)
            ran.append(i)

        def work() -> None:
            with Writers(threads=1) as writers:
                for i in range(3):
                    writers.submit(partial(slow, i), lambda: None)
                threading.Timer(0.05, gate.set).start()
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            work()
        assert ran == [0, 1, 2]


def test_a_gpu_gets_larger_batches() -> None:
    assert 1 <= frames_per_batch("cpu") < frames_per_batch("cuda")
