"""Damaged files by the thousand: readers must say `DataError`, at once and in little memory."""

from __future__ import annotations

import random
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from types import FrameType

from scenelift.errors import DataError

QUICK = 150
"""Inputs of one format in the everyday suite; the slow suite takes `MANY`."""
MANY = 10_000
HANG_S = 30
"""Longer than this on one small input is a hang."""


def mutations(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Damaged copies of a file: flipped bits, changed bytes, cuts, repeats, holes, and numbers made extreme.

    Half of the damage falls into the first 512 bytes, where headers stand.
    """
    rng = random.Random(seed)
    numbers = [b"\x00" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"]
    extremes = [*numbers, b"\xff" * 4, b"\xff" * 8, b"9" * 9, b"-1"]
    for _ in range(count):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
            end = min(len(damaged), 512) if rng.random() < 0.5 else len(damaged)
            at = rng.randrange(max(1, end))
            match rng.randrange(7):
                case 0:
                    damaged[at : at + 1] = bytes([damaged[at] ^ 1 << rng.randrange(8)]) if damaged else b""
                case 1:
                    damaged[at : at + 1] = bytes([rng.randrange(256)])
                case 2:
                    del damaged[at:]
                case 3:
                    del damaged[at : at + rng.randrange(1, 64)]
                case 4:
                    damaged[at:at] = damaged[at : at + rng.randrange(1, 64)]
                case 5:
                    some = rng.choice(extremes)
                    damaged[at : at + len(some)] = some
                case _:
                    damaged[at : at + 8] = rng.randbytes(8)
        yield bytes(damaged)


def only_data_errors(
    read: Callable[[bytes], object], sample: bytes, count: int, *, factor: float = 64.0, slack: int = 8 << 20
) -> int:
    """Give a reader damaged copies of a good file; return how many of them it refused.

    Fails when anything but `DataError` is raised, when one input takes longer than `HANG_S`, or when more
    memory is allocated at a time than ``factor`` times the file's size and ``slack`` bytes.
    """
    read(sample)
    refused = 0
    before = signal.signal(signal.SIGALRM, _hang)
    tracemalloc.start()
    try:
        for number, damaged in enumerate(mutations(sample, count)):
            tracemalloc.reset_peak()
            start = tracemalloc.get_traced_memory()[0]
            message = ""
            signal.alarm(HANG_S)
            try:
                read(damaged)
            except DataError as error:
                refused += 1
                message = str(error)
            finally:
                signal.alarm(0)
            assert "\n" not in message
            used = tracemalloc.get_traced_memory()[1] - start
            assert used <= factor * len(damaged) + slack, (number, used, len(damaged))
    finally:
        tracemalloc.stop()
        signal.signal(signal.SIGALRM, before)
    return refused


def _hang(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"one input took longer than {HANG_S} s")
