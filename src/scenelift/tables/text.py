"""A table as Markdown and for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from scenelift.report.data import duration, finite, plus_minus
from scenelift.tables import wording
from scenelift.tables.results import Cell, RowResult, TableResult
from scenelift.tables.rows import Kind

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as RichTable


def markdown(result: TableResult) -> str:
    """The whole table as Markdown: figures, expectations, classes, how it was made."""
    parts = [f"# {_cell(result.table.title)}", f"Data: {_cell(result.setting.dataset)}."]
    parts += [wording.progress(result)]
    parts += [_cell(f"{figure}{rest}") for _, figure, rest in wording.gains(result)]
    parts += [wording.ranks(result), wording.tally(result), _main(result)]
    parts.append("\n".join(f"- {_cell(note)}" for note in wording.method(result)))
    parts += ["## Differences", _differences(result), "## What is run", _rows(result)]
    if result.checks:
        head = ["Expectation", "", "Verdict", "Ours [95 %]", "Paper"]
        lines = [
            [check.text, check.kind, check.verdict, wording.check_value(check), wording.check_paper(check)]
            for check in result.checks
        ]
        parts += ["## Expectations", _grid(head, lines, left=3)]
    for kind in result.kinds:
        lines = _classes(result, kind)
        if lines:
            titles = [row.title for row in result.rows]
            parts += [f"## IoU per class in {kind}, %", _grid(["class", *titles], lines)]
    parts += ["## Make it again", f"```\n{result.setting.command}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def terminal(result: TableResult) -> list[RenderableType]:
    """What a terminal shows: the table, and below it what it says."""
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(title=Text(f"{result.table.title}: mIoU in %, {wording.seeds(result)}"))
    table.add_column("row", overflow="fold")
    for kind in result.kinds:
        _terminal_columns(table, result, kind)
    table.add_column("time", justify="right")
    for row in result.rows:
        cells = [part for kind in result.kinds for part in _terminal_cells(row.cells[kind], result, kind)]
        style = "bold" if row.recipe == result.table.reference else ""
        table.add_row(*[Text(cell, style=style) for cell in (row.title, *cells, _time(row))])
    told = [*(f"{figure}{rest}" for _, figure, rest in wording.gains(result))]
    told += [wording.ranks(result), wording.tally(result)]
    told += [
        f"  does not hold: {check.text}, {check.kind}: {wording.check_value(check)}"
        for check in result.checks
        if check.verdict == "does not hold"
    ]
    told.append(wording.progress(result))
    return [table, *[Text(line) for line in told if line]]


def _terminal_columns(table: RichTable, result: TableResult, kind: Kind) -> None:
    headings: list[str] = [kind]
    headings += ["paper"] if wording.has_paper(result, kind) else []
    headings += [f"Δ {wording.reference_name(result)}"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)


def _terminal_cells(cell: Cell, result: TableResult, kind: Kind) -> list[str]:
    paper = [wording.share(cell.paper)] if wording.has_paper(result, kind) else []
    return [_miou(cell), *paper, wording.to_reference(cell.to_reference)]


def _main(result: TableResult) -> str:
    """mIoU alone, so that both kinds fit on a page side by side."""
    head = ["Row"]
    for kind in result.kinds:
        head.append(kind)
        if wording.has_paper(result, kind):
            head.append(wording.paper_heading(result, kind))
    lines = [
        [row.title, *[text for kind in result.kinds for text in _main_cells(row.cells[kind], result, kind)]]
        for row in result.rows
    ]
    return _grid(head, lines)


def _main_cells(cell: Cell, result: TableResult, kind: Kind) -> Iterator[str]:
    partial = wording.partial(cell, result)
    yield _miou(cell) + (f" ({partial})" if partial else "")
    if wording.has_paper(result, kind):
        yield wording.share(cell.paper)


def _differences(result: TableResult) -> str:
    head = ["Row"]
    for kind in result.kinds:
        if wording.has_baseline(result):
            base = result.title_of(result.table.baseline)
            head.append(f"{kind}: Δ {base}" + (" (paper)" if wording.has_paper(result, kind) else ""))
        head.append(f"{kind}: Δ {wording.reference_name(result)} [95 %]")
    lines = [
        [row.title, *[text for kind in result.kinds for text in _difference_cells(row.cells[kind], result)]]
        for row in result.rows
    ]
    return _grid(head, lines)


def _difference_cells(cell: Cell, result: TableResult) -> Iterator[str]:
    if wording.has_baseline(result):
        yield wording.to_baseline(cell, with_paper=True)
    yield f"{wording.to_reference(cell.to_reference)} {wording.interval(cell.to_reference)}".strip()


def _rows(result: TableResult) -> str:
    head = [
        "Row",
        "Recipe",
        "What it is",
        *[f"Coverage {kind}, %" for kind in result.kinds],
        "Time",
        "Memory",
    ]
    lines = [
        [
            row.title,
            f"`{row.recipe}`",
            row.about,
            *[wording.share(row.cells[kind].coverage) for kind in result.kinds],
            _time(row),
            wording.memory(row.peak_bytes),
        ]
        for row in result.rows
    ]
    return _grid(head, lines, left=3)


def _miou(cell: Cell) -> str:
    return wording.MISSING if cell.mean is None else plus_minus(cell.mean, cell.deviation)


def _time(row: RowResult) -> str:
    return wording.MISSING if finite(row.seconds) is None else duration(row.seconds or 0.0)


def _classes(result: TableResult, kind: Kind) -> list[list[str]]:
    return [
        [name, *[wording.share(row.cells[kind].per_class.get(name)) for row in result.rows]]
        for name in result.setting.classes.names
        if any(name in row.cells[kind].per_class for row in result.rows)
    ]


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table, its first ``left`` columns, those of words, aligned left."""
    rule = ["---" if place < left else "---:" for place in range(len(head))]
    rows = [[_cell(text) for text in row] for row in (head, *lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def _cell(text: str) -> str:
    """One line in which nothing ends a table's cell, is a tag, code or a link."""
    if text.startswith("`"):
        return text
    return re.sub(r"[\\|<`]|(?<=])\(", r"\\\g<0>", " ".join(text.split()))
