"""A table as one self-contained HTML page: first the answer, then what supports it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scenelift.report.data import best, duration, is_best, plus_minus
from scenelift.report.dots import Dots, dot_chart
from scenelift.report.markup import Markup, join, tag
from scenelift.report.shell import class_numbers, code_block, html_page, scroller
from scenelift.tables import wording
from scenelift.tables.results import Cell, Check, RowResult, TableResult, Verdict
from scenelift.tables.rows import Kind

_VERDICT_CLASS: dict[Verdict, str] = {"holds": "holds", "does not hold": "fails"}


def render_table_page(result: TableResult) -> str:
    """The page as HTML. Titles and names may hold any text, it is escaped."""
    parts = [_answer(result), _charts(result), _expectations(result), _classes(result), _again(result)]
    return html_page(f"{result.table.title} – {result.setting.dataset}", [part for part in parts if part])


def _answer(result: TableResult) -> Markup:
    lead = [tag("span", tag("strong", figure), rest) for _, figure, rest in wording.gains(result)]
    told = [text for text in (wording.ranks(result), wording.tally(result)) if text]
    data = tag("p", "Data: ", tag("strong", result.setting.dataset), class_="muted")
    progress = wording.progress(result)
    notes = [tag("li", note) for note in wording.method(result)]
    return join(
        tag("header", tag("h1", result.table.title), data),
        tag("p", progress, class_="warning") if progress else "",
        tag("p", *lead, class_="lead") if lead else "",
        *[tag("p", text) for text in told],
        _main(result),
        _about(result),
        tag("ul", *notes, class_="notes"),
    )


# --- the main table --------------------------------------------------------------------------------------


def _main(result: TableResult) -> Markup:
    top = [tag("th", "Row", scope="col", rowspan=2)]
    below: list[Markup] = []
    for kind in result.kinds:
        headings = _headings(result, kind)
        top.append(tag("th", kind, scope="colgroup", colspan=len(headings), class_="group block"))
        below += [
            tag("th", text, scope="col", class_="narrow" if place else "narrow block")
            for place, text in enumerate(headings)
        ]
    top += [tag("th", text, scope="col", rowspan=2) for text in ("Time", "Memory")]
    bests = {kind: best([row.cells[kind].mean for row in result.rows]) for kind in result.kinds}
    rows = [_row(row, result, bests) for row in result.rows]
    table = tag(
        "table",
        tag("thead", tag("tr", *top), tag("tr", *below)),
        tag("tbody", *rows),
        class_="numbers wide",
    )
    return scroller("Rows of the table", table)


def _about(result: TableResult) -> Markup:
    items = [
        tag("li", tag("strong", row.title), f" ({row.recipe}): {row.about or 'a recipe of your own.'}")
        for row in result.rows
    ]
    return tag("details", tag("summary", "What the rows are"), tag("ul", *items))


def _headings(result: TableResult, kind: Kind) -> list[str]:
    paper = [wording.paper_heading(result, kind)] if wording.has_paper(result, kind) else []
    base = [f"Δ {result.title_of(result.table.baseline)}"] if wording.has_baseline(result) else []
    return ["mIoU", *paper, *base, f"Δ {wording.reference_name(result)}"]


def _row(row: RowResult, result: TableResult, bests: dict[Kind, float | None]) -> Markup:
    head = tag("th", row.title, tag("span", row.recipe, class_="muted small"), scope="row")
    cells = [cell for kind in result.kinds for cell in _cells(row.cells[kind], result, kind, bests[kind])]
    time = wording.MISSING if row.seconds is None else duration(row.seconds)
    cells += [tag("td", time), tag("td", wording.memory(row.peak_bytes))]
    is_reference = row.recipe == result.table.reference
    return tag("tr", head, *cells, class_="reference" if is_reference else None)


def _cells(cell: Cell, result: TableResult, kind: Kind, best_mean: float | None) -> Iterator[Markup]:
    value = wording.MISSING if cell.mean is None else plus_minus(cell.mean, cell.deviation)
    number = tag("strong" if is_best(cell.mean, best_mean) else "span", value)
    covered = "" if cell.coverage is None else f"coverage {wording.share(cell.coverage)}"
    yield tag("td", number, _small(covered), _small(wording.partial(cell, result)), class_="block")
    has_paper = wording.has_paper(result, kind)
    if has_paper:
        yield tag("td", wording.share(cell.paper))
    if wording.has_baseline(result):
        theirs = f"paper {wording.points(cell.paper_to_baseline)}"
        known = has_paper and cell.paper_to_baseline is not None
        yield tag("td", wording.points(cell.to_baseline), _small(theirs if known else ""))
    gap = wording.to_reference(cell.to_reference)
    significant = cell.to_reference is not None and cell.to_reference.significant
    yield tag(
        "td", tag("strong" if significant else "span", gap), _small(wording.interval(cell.to_reference))
    )


def _small(text: str) -> Markup:
    return tag("span", text, class_="muted small") if text else join()


# --- what supports it ------------------------------------------------------------------------------------


def _charts(result: TableResult) -> Markup | None:
    figures = []
    for kind in result.kinds:
        cells = [(row.title, row.cells[kind]) for row in result.rows]
        if all(cell.mean is None for _, cell in cells):
            continue
        dots = [Dots(title, cell.mean, list(cell.by_seed.values()), cell.paper) for title, cell in cells]
        other = wording.paper_heading(result, kind)
        chart = dot_chart(dots, f"mIoU of every row in {kind}, %", "ours", other)
        title = f"{kind} mIoU, %"
        if wording.has_paper(result, kind):
            title += f": dots ours, diamonds {other}"
        figures.append(tag("figure", tag("figcaption", title), chart))
    if not figures:
        return None
    words = "The large dot is the mean, small ones are single seeds."
    return tag("section", tag("h2", "Rows"), tag("p", words), tag("div", *figures, class_="charts"))


def _expectations(result: TableResult) -> Markup | None:
    if not result.checks:
        return None
    by_text: dict[str, dict[Kind, Check]] = {}
    for check in result.checks:
        by_text.setdefault(check.text, {})[check.kind] = check
    rows = [
        tag("tr", tag("th", text, scope="row"), *[_verdict(of.get(kind)) for kind in result.kinds])
        for text, of in by_text.items()
    ]
    head = tag("tr", *[tag("th", text, scope="col") for text in ("Expectation", *result.kinds)])
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="numbers wide")
    return tag("section", tag("h2", "Expectations"), scroller("Expectations", table))


def _verdict(check: Check | None) -> Markup:
    if check is None:
        return tag("td", wording.MISSING)
    word = tag("span", check.verdict, class_=_VERDICT_CLASS.get(check.verdict, "muted"))
    paper = f"paper {wording.check_paper(check)}" if check.paper is not None else ""
    return tag("td", word, _small(wording.check_value(check)), _small(paper))


def _classes(result: TableResult) -> Markup | None:
    tables = []
    names: Sequence[str] = result.setting.classes.names
    for kind in result.kinds:
        shares = {row.title: row.cells[kind].per_class for row in result.rows}
        if any(shares.values()):
            tables.append(class_numbers(names, shares, f"IoU in {kind}, %, mean over seeds"))
    if not tables:
        return None
    words = "Classes that do not occur are left out."
    return tag("section", tag("h2", "IoU per class"), tag("p", words), *tables)


def _again(result: TableResult) -> Markup:
    command = code_block(result.setting.command)
    folders = "The resolved configuration of each run is OUT/seed<N>/<recipe>/config.yaml."
    return tag("section", tag("h2", "Make it again"), command, tag("p", folders, class_="muted"))
