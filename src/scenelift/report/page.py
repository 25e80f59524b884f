"""The page itself: what stands where. First the answer, then what supports it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from scenelift.files import atomic_write
from scenelift.report.charts import class_bars, heat_map, legend
from scenelift.report.data import (
    KINDS,
    Measured,
    Picture,
    ReportData,
    ReportRow,
    best,
    difference,
    duration,
    finite,
    is_best,
    percent,
)
from scenelift.report.markup import Markup, join, tag
from scenelift.report.pictures import picture_rows
from scenelift.report.shell import Shares, class_numbers, html_page, occurring
from scenelift.report.training import log_warnings, training_charts
from scenelift.types import I64

MAX_BYTES = 8_000_000
"""No report is larger: it has to open on a telephone and pass as an attachment."""

_PICTURE_BYTES = 2_750_000
"""Most bytes for the pictures of one kind, 2D or 3D."""

_MOST_DRAWN = 6
"""Most recipes in one chart, and most confusion matrices of a kind."""
_FEWER = "Drawn are the first, the last and the best rows. "

_MOST_CONFUSED = 40


def write_report(path: Path, data: ReportData) -> None:
    """Write the report as one HTML file of at most `MAX_BYTES`.

    Args:
        path: where to; replaced if it exists.
        data: what to show. Names and titles may hold any text, it is escaped.

    Raises:
        OutputError: the file cannot be written.
    """
    atomic_write(path, render_page(data).encode())


def render_page(data: ReportData) -> str:
    """The report as HTML, see `write_report`; the largest sections give way if it is too large."""
    sections = [
        _answer(data),
        _pictures(data, data.pictures_2d, "Images", "image"),
        _pictures(data, data.pictures_3d, "Point clouds", "point cloud"),
        _predicted_shares(data),
        _per_class(data),
        _confusion(data),
        _training(data),
        _again(data),
    ]
    parts = [section for section in sections if section]
    page = _page(data, parts)
    for largest in sorted(range(1, len(parts)), key=lambda k: -len(parts[k])):
        if len(page.encode()) <= MAX_BYTES:
            break
        parts[largest] = tag("p", "A section is left out here: this file would be too large.", class_="muted")
        page = _page(data, parts)
    return page


def _page(data: ReportData, parts: Sequence[Markup]) -> str:
    return html_page(f"{data.title} – {data.dataset}", parts)


# --- the answer ---------------------------------------------------------------------------------------


def _answer(data: ReportData) -> Markup:
    notes = [tag("li", note) for note in data.notes]
    alarms = [row.recipe for row in data.rows if _troubled(row)]
    return join(
        tag("header", tag("h1", data.title), tag("p", "Data: ", tag("strong", data.dataset), class_="muted")),
        tag("p", *_summary(data), class_="lead"),
        *[
            tag(
                "p",
                tag("strong", "Warning: "),
                f"{name} had trouble in training, see below.",
                class_="warning",
            )
            for name in alarms
        ],
        _methods(data) if data.rows else "",
        tag("ul", *notes, class_="notes") if notes else "",
    )


def _summary(data: ReportData) -> Iterator[str]:
    if not data.has_truth:
        yield "These data have no ground truth, so quality was not measured: judge by the pictures."
        return
    for kind in KINDS:
        known = [(miou, row) for row in data.rows if (miou := row.on(kind).miou) is not None]
        if known:
            miou, row = max(known, key=lambda pair: pair[0])
            gap = difference(miou, data.rows[0].on(kind).miou) if row is not data.rows[0] else ""
            figure = tag("strong", f"{kind}: {percent(miou)}\u00a0% mIoU")
            against = f", {gap} points against {data.rows[0].recipe}" if gap else ""
            yield tag("span", figure, f" with {row.recipe}{against}.")


def _methods(data: ReportData) -> Markup:
    columns = [_scores([row.on(kind) for row in data.rows]) for kind in KINDS] if data.has_truth else []
    headings = ["Method", *[f"{kind} mIoU, %" for kind in KINDS[: len(columns)]], "Time"]
    rows = []
    for place, row in enumerate(data.rows):
        name, time = tag("th", row.recipe, scope="row"), tag("td", duration(row.seconds), class_="time")
        rows.append(tag("tr", name, *[column[place] for column in columns], time))
    words = "Mean IoU over the classes that occur; the small figure is the difference to the first row."
    table = tag(
        "table",
        tag("caption", words if data.has_truth else "What was run."),
        tag("thead", tag("tr", *[tag("th", heading, scope="col") for heading in headings])),
        tag("tbody", *rows),
        class_="methods",
    )
    return tag("div", table, class_="scroll")


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


# --- pictures -----------------------------------------------------------------------------------------


def _pictures(data: ReportData, pictures: Sequence[Picture], title: str, kind: str) -> Markup | None:
    if not pictures:
        return None
    rows = picture_rows(pictures, kind, _PICTURE_BYTES)
    return tag("section", tag("h2", title), _class_legend(data), rows)


def _class_legend(data: ReportData) -> Markup:
    items = [
        tag("li", tag("span", class_="swatch", style=f"background:{color}", aria_hidden="true"), name)
        for name, color in zip(data.classes.names, _hex_colors(data), strict=True)
    ]
    return tag("ul", *items, class_="legend classes")


def _hex_colors(data: ReportData) -> list[str]:
    return ["#" + color.tobytes().hex() for color in data.classes.colors]


# --- classes ------------------------------------------------------------------------------------------


def _predicted_shares(data: ReportData) -> Markup | None:
    if not data.label_shares:
        return None
    words = "How much of what each network labelled went to each class. This is no measure of quality."
    chart = _bars(data, dict(data.label_shares), "share of each class in the predictions")
    return tag("section", tag("h2", "What was predicted"), tag("p", words), chart)


def _per_class(data: ReportData) -> Markup | None:
    drawn = _compared(data.rows)
    charts, numbers = [], []
    for kind in KINDS:
        everything = {row.recipe: row.on(kind).per_class for row in data.rows}
        if occurring(data.classes.names, everything):
            some = {row.recipe: row.on(kind).per_class for row in drawn}
            charts.append(_bars(data, some, f"IoU per class in {kind}", kind))
            numbers.append(class_numbers(data.classes.names, everything, f"IoU in {kind}, %"))
    if not charts:
        return None
    fewer = "" if drawn is data.rows else _FEWER
    words = f"{fewer}The figure at the end of a group is its best. Classes that do not occur are left out."
    details = tag("details", tag("summary", "Numbers"), *numbers)
    return tag(
        "section",
        tag("h2", "IoU per class, %"),
        tag("p", words),
        tag("div", *charts, class_="charts"),
        details,
    )


def _compared(rows: Sequence[ReportRow]) -> Sequence[ReportRow]:
    """The rows to draw: all if they are few, else the first, the last and the best others, in order."""
    if len(rows) <= _MOST_DRAWN:
        return rows
    sums = [sum(row.on(kind).miou or 0.0 for kind in KINDS) for row in rows]
    others = sorted(range(1, len(rows) - 1), key=lambda k: -sums[k])[: _MOST_DRAWN - 2]
    return [rows[k] for k in (0, *sorted(others), len(rows) - 1)]


def _bars(data: ReportData, series: Mapping[str, Shares], label: str, title: str = "") -> Markup:
    kept = occurring(data.classes.names, series)
    colors = _hex_colors(data)
    names = [data.classes.names[i] for i in kept]
    values = {key: [finite(shares.get(name)) for name in names] for key, shares in series.items()}
    chart = class_bars(names, [colors[i] for i in kept], values, label)
    return tag("figure", tag("figcaption", title) if title else "", legend(list(series)), chart)


def _confusion(data: ReportData) -> Markup | None:
    with_counts = [row for row in data.rows if any(row.on(kind).confusion is not None for kind in KINDS)]
    drawn = _compared(with_counts)
    blocks = []
    for row in drawn:
        charts = [
            _heat_map(data, counts, f"{row.recipe}, {kind}")
            for kind in KINDS
            if (counts := row.on(kind).confusion) is not None
        ]
        chosen = tag("summary", row.recipe)
        is_open = row is drawn[-1]
        blocks.append(
            tag("details", chosen, tag("div", *charts, class_="charts"), name="confusion", open=is_open)
        )
    if not blocks:
        return None
    fewer = "" if drawn is with_counts else _FEWER
    words = f"{fewer}Each row is a true class and where its pixels or points went, in %."
    return tag("section", tag("h2", "Confusion"), tag("p", words), *blocks)


def _heat_map(data: ReportData, counts: I64, title: str) -> Markup:
    """Classes that are neither true nor predicted anywhere are left out, and the rarest of very many."""
    weight = counts.sum(1) + counts[:, :-1].sum(0)
    kept = np.sort(np.argsort(-weight, kind="stable")[:_MOST_CONFUSED])
    kept = kept[weight[kept] > 0]
    if not len(kept):
        return tag("figure", tag("figcaption", f"{title}: nothing was counted"))
    totals = counts.sum(1)
    shares = counts / np.maximum(totals, 1)[:, None]
    part = shares[np.ix_(kept, [*kept, len(counts)])]
    fewer = f" (the {len(kept)} most frequent classes)" if len(kept) < np.count_nonzero(weight) else ""
    chart = heat_map(
        [data.classes.names[i] for i in kept], part, totals[kept], f"confusion matrix of {title}"
    )
    return tag("figure", tag("figcaption", title + fewer), chart)


# --- training and the rest ----------------------------------------------------------------------------


def _training(data: ReportData) -> Markup | None:
    trained = [row for row in data.rows if row.log]
    if not trained:
        return None
    blocks = [
        tag("details", tag("summary", row.recipe), training_charts(row.log, row.warnings), open=is_open)
        for row in trained
        for is_open in [row is trained[-1] or _troubled(row)]
    ]
    return tag("section", tag("h2", "Training"), *blocks)


def _troubled(row: ReportRow) -> bool:
    return bool(row.warnings or log_warnings(row.log))


def _again(data: ReportData) -> Markup:
    config = tag("details", tag("summary", "Resolved configuration"), tag("pre", data.config_yaml))
    return tag(
        "section",
        tag("h2", "Make it again"),
        tag("pre", tag("code", data.command)),
        config if data.config_yaml else "",
        "" if data.pictures_2d or data.pictures_3d else join(tag("h3", "Classes"), _class_legend(data)),
    )
