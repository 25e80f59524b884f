"""Progress of long work: the library reports steps, whoever calls decides what is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

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
    """A bar with elapsed time and ETA on standard error; where that is no terminal, a line at either end."""
    import time

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    if not console.is_terminal:
        start = time.monotonic()
        console.print(f"{what}: {done} of {total} done", highlight=False, markup=False)
        yield lambda note: None
        console.print(f"{what}: finished in {time.monotonic() - start:.1f} s", highlight=False, markup=False)
        return
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with RichProgress(*columns, console=console) as shown:
        task = shown.add_task(what, total=total, completed=done, note="")
        yield lambda note: shown.update(task, advance=1, note=note)
