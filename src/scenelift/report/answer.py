"""The first screen: how good, compared to what, and what was done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scenelift.report.data import (
    KINDS,
    Measured,
    ReportData,
    ReportRow,
    best,
    difference,
    duration,
    is_best,
    percent,
)
from scenelift.report.markup import Markup, join, tag
from scenelift.report.shell import scroller
from scenelift.report.training import log_warnings


def answer(data: ReportData) -> Markup:
    """Heading, one sentence a kind, warnings, the table, and facts."""
    notes = [tag("li", note) for note in data.notes]
    alarms = [row.recipe for row in data.rows if troubled(row)]
    return join(
        tag("header", tag("h1", data.title), tag("p", "Data: ", tag("strong", data.dataset), class_="muted")),
        tag("p", *_summary(data), class_="lead"),
        *[warning(f"{name} had trouble in training, see below.") for name in alarms],
        _methods(data) if data.rows else "",
        agreement(data) or "",
        facts(data.facts),
        tag("ul", *notes, class_="notes") if notes else "",
    )


def troubled(row: ReportRow) -> bool:
    """Whether anything went wrong in its training."""
    return bool(row.warnings or log_warnings(row.log))


def warning(words: str) -> Markup:
    """A sentence that nobody overlooks."""
    return tag("p", tag("strong", "Warning: "), words, class_="warning")


def facts(given: Sequence[tuple[str, str]]) -> Markup:
    """Names and values side by side."""
    if not given:
        return join()
    items = [tag("div", tag("dt", name), tag("dd", value)) for name, value in given]
    return tag("dl", *items, class_="facts")


def _summary(data: ReportData) -> Iterator[str]:
    if not data.has_truth:
        yield "These data have no ground truth, so quality was not measured: judge by the pictures."
        return
    runs = [row for row in data.rows if row.role == "run"] or data.rows
    first = data.rows[0] if data.rows else None
    for kind in KINDS:
        known = [(miou, row) for row in runs if (miou := row.on(kind).miou) is not None]
        if first is None or not known:
            continue
        miou, row = max(known, key=lambda pair: pair[0])
        others = [first, *[other for other in data.rows if other.role == "refined"]]
        gaps = [
            f"{gap} points against {other.recipe}"
            for other in dict.fromkeys(others)
            if other is not row and (gap := difference(miou, other.on(kind).miou))
        ]
        figure = tag("strong", f"{kind}: {percent(miou)}\u00a0% mIoU")
        yield tag("span", figure, f" with {', '.join([row.recipe, *gaps])}.")


def agreement(data: ReportData) -> Markup | None:
    """Who labelled how much alike, where nothing tells who is right."""
    if not data.agreement:
        return None
    rows = [
        tag("tr", tag("th", who, scope="row"), tag("td", f"{percent(share)}\u00a0%"))
        for who, share in data.agreement.items()
    ]
    caption = tag("caption", "Labelled alike. This is no accuracy: all may be wrong together.")
    head = tag("tr", tag("th", "Compared", scope="col"), tag("th", "Alike", scope="col"))
    table = tag("table", caption, tag("thead", head), tag("tbody", *rows), class_="numbers")
    return scroller("Agreement", table)


def _methods(data: ReportData) -> Markup:
    columns = [_scores([row.on(kind) for row in data.rows]) for kind in KINDS] if data.has_truth else []
    headings = ["Method", *[f"{kind} mIoU, %" for kind in KINDS[: len(columns)]], "Time"]
    rows = []
    for place, row in enumerate(data.rows):
        said = {"teacher": "teacher, nothing trained", "refined": "teacher and masks, nothing trained"}
        role = tag("span", said[row.role], class_="role") if row.role in said else ""
        name, time = tag("th", row.recipe, role, scope="row"), tag("td", duration(row.seconds), class_="time")
        cells = [column[place] for column in columns]
        rows.append(tag("tr", name, *cells, time, class_=None if row.role == "run" else "reference-row"))
    words = "Mean IoU over the classes that occur; the small figure is the difference to the first row."
    table = tag(
        "table",
        tag("caption", words if data.has_truth else "What was run."),
        tag("thead", tag("tr", *[tag("th", heading, scope="col") for heading in headings])),
        tag("tbody", *rows),
        class_="methods",
    )
    return scroller("Methods", table)


def _scores(column: Sequence[Measured]) -> list[Markup]:
    """The cells of one column: mIoU, difference to the first, bar relative to the best, coverage."""
    mious = [measured.miou for measured in column]
    best_miou, longest = best(mious), max([miou or 0.0 for miou in mious])
    cells = []
    for place, measured in enumerate(column):
        miou = measured.miou
        gap = difference(miou, mious[0]) if place else ""
        number = tag("strong" if is_best(miou, best_miou) else "span", percent(miou), class_="value")
        share = (miou or 0.0) / longest if longest else 0.0
        bar = tag("div", tag("span", style=f"width:{100 * share:.1f}%"), class_="bar", aria_hidden="true")
        covered = tag("div", f"coverage {percent(measured.coverage)}\u00a0%", class_="muted small")
        known = measured.coverage is not None
        cells.append(tag("td", number, " ", tag("span", gap, class_="gap"), bar, covered if known else ""))
    return cells
