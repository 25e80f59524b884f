"""Progress of long work: the library reports steps, whoever calls decides what is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TypeAlias

from scenelift.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

SECONDS_BETWEEN_LINES = 15.0

_NAME, _BAR, _NOTE = 28, 30, 10
"""Characters of a terminal's line that what is done, the bar and the note get; the note at least."""

Advance: TypeAlias = Callable[[str], None]
"""Call after each unit of work, with a short note such as the current loss (or an empty string)."""

Progress: TypeAlias = Callable[[str, int, int], AbstractContextManager[Advance]]
"""``progress(what, total, done)`` opens a task of ``total`` units of which ``done`` are behind us."""


@contextmanager
def silent(what: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda note: None


@contextmanager
def bars(what: str, total: int, done: int = 0) -> Iterator[Advance]:
    """A bar with elapsed time and ETA on standard error; where that is no terminal, a line now and then."""
    from rich.console import Console

    console = Console(stderr=True)
    with (_bar if console.is_terminal else _lines)(console, what, total, done) as advance:
        yield advance


@contextmanager
def _bar(console: Console, what: str, total: int, done: int) -> Iterator[Advance]:
    """What is done, of how much, and for how long yet: a narrow terminal loses everything else first."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    count = 2 * len(str(total)) + 1
    left = console.width - count - len("ETA 0:00:00") - 3
    name = min(_NAME, max(left, 1))
    left -= name + 1
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, width=name)),
        MofNCompleteColumn(table_column=Column(no_wrap=True, width=count)),
    ]
    if left >= _BAR + _NOTE:
        columns.insert(1, BarColumn(_BAR))
        left -= _BAR + 1
    if left >= len("0:00:00") + _NOTE:
        columns.append(TimeElapsedColumn(table_column=Column(no_wrap=True)))
        left -= len("0:00:00") + 1
    columns += [
        TextColumn("ETA", table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
    ]
    if left >= _NOTE:
        note = Column(no_wrap=True, max_width=left)
        columns.append(TextColumn("{task.fields[note]}", markup=False, table_column=note))
    with RichProgress(*columns, console=console) as shown:
        task = shown.add_task(printable(what), total=total, completed=done, note="")
        yield lambda note: shown.update(task, advance=1, note=printable(note))


@contextmanager
def _lines(console: Console, what: str, total: int, done: int) -> Iterator[Advance]:
    """For log files: at the start, every `SECONDS_BETWEEN_LINES`, and at the end."""
    start = shown = time.monotonic()
    now_done, told, last = done, done, ""

    def say(text: str) -> None:
        console.print(printable(f"{what}: {text}"), highlight=False, markup=False, soft_wrap=True)

    def advance(note: str) -> None:
        nonlocal now_done, told, shown, last
        now_done, last = now_done + 1, f", {note}" if note else ""
        now = time.monotonic()
        if now - shown >= SECONDS_BETWEEN_LINES and now_done < total:
            # by the pace since the last line: what a cache knew went faster than what is left
            left = (now - shown) / (now_done - told) * (total - now_done)
            shown, told = now, now_done
            say(f"{now_done} of {total}, about {left:.0f} s left{last}")

    say(f"{done} of {total} done")
    yield advance
    say(f"{now_done} of {total} in {time.monotonic() - start:.1f} s{last}")
