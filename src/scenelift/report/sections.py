"""What supports the answer: pictures, clouds, classes, confusion, training. Parts of several pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scenelift.classes import ClassTable
from scenelift.report.answer import troubled
from scenelift.report.charts import class_bars, legend
from scenelift.report.clouds import cloud_viewer
from scenelift.report.confusion import confusion_tables
from scenelift.report.data import KINDS, Cloud, Picture, ReportRow, finite
from scenelift.report.markup import Markup, join, tag
from scenelift.report.pictures import picture_rows
from scenelift.report.shell import Shares, class_legend, class_numbers, code_block, hex_color, occurring
from scenelift.report.training import training_charts

_PICTURE_BYTES = 2_000_000
"""Most bytes for the pictures of one kind, 2D or 3D."""

_MOST_DRAWN = 6
"""Most recipes in one chart."""
_FEWER = "Drawn are the first, the last and the best rows. "


def qualitative(pictures: Sequence[Picture], classes: ClassTable, title: str, kind: str) -> Markup | None:
    """Rows of pictures with the legend beside them; ``None`` without pictures."""
    if not pictures:
        return None
    words = "Click a picture to enlarge it; arrow keys then go to its neighbours."
    hint = tag("p", words, class_="muted needs-script")
    rows = picture_rows(pictures, kind, _PICTURE_BYTES)
    beside = tag("div", legend_of(classes), class_="beside")
    body = tag("div", rows, beside, class_="with-legend")
    return tag("section", tag("h2", title), hint, body, class_="pictured")


def clouds_section(clouds: Sequence[Cloud], classes: ClassTable) -> Markup | None:
    """Clouds to turn about; ``None`` without any."""
    if not clouds:
        return None
    words = (
        "Drag to turn, Shift and drag or two fingers to move, pinch or, after a click, the wheel to zoom. "
        "Classes are hidden by the labels that are shown; in other layers by the run's own."
    )
    return tag(
        "section",
        tag("h2", "Point clouds to turn about"),
        tag("p", words, class_="muted needs-script"),
        cloud_viewer(clouds, classes),
    )


def legend_of(classes: ClassTable) -> Markup:
    """Every class with its colour."""
    return class_legend(classes.names, [hex_color(color) for color in classes.colors])


def predicted_shares(shares: Mapping[str, Shares] | None, classes: ClassTable) -> Markup | None:
    """How often each class was given, where there is no ground truth."""
    if not shares:
        return None
    words = "How much of what each network labelled went to each class. This is no measure of quality."
    chart = _bars(classes, dict(shares), "share of each class in the predictions")
    return tag("section", tag("h2", "What was predicted"), tag("p", words), chart)


def per_class(rows: Sequence[ReportRow], classes: ClassTable) -> Markup | None:
    """IoU of every class and row, as bars and as numbers."""
    drawn = compared(rows)
    charts, numbers = [], []
    for kind in KINDS:
        everything = {row.recipe: row.on(kind).per_class for row in rows}
        if occurring(classes.names, everything):
            some = {row.recipe: row.on(kind).per_class for row in drawn}
            charts.append(_bars(classes, some, f"IoU per class in {kind}", kind))
            numbers.append(class_numbers(classes.names, everything, f"IoU in {kind}, %"))
    if not charts:
        return None
    fewer = "" if drawn is rows else _FEWER
    words = f"{fewer}The figure at the end of a group is its best. Classes that do not occur are left out."
    details = tag("details", tag("summary", "Numbers"), *numbers)
    return tag(
        "section",
        tag("h2", "IoU per class, %"),
        tag("p", words),
        tag("div", *charts, class_="charts"),
        details,
    )


def compared(rows: Sequence[ReportRow]) -> Sequence[ReportRow]:
    """The rows to draw: all if they are few, else the first, the last and the best others, in order."""
    if len(rows) <= _MOST_DRAWN:
        return rows
    sums = [sum(row.on(kind).miou or 0.0 for kind in KINDS) for row in rows]
    others = sorted(range(1, len(rows) - 1), key=lambda k: -sums[k])[: _MOST_DRAWN - 2]
    return [rows[k] for k in (0, *sorted(others), len(rows) - 1)]


def _bars(classes: ClassTable, series: Mapping[str, Shares], label: str, title: str = "") -> Markup:
    kept = occurring(classes.names, series)
    names = [classes.names[i] for i in kept]
    values = {key: [finite(shares.get(name)) for name in names] for key, shares in series.items()}
    chart = class_bars(names, [hex_color(classes.colors[i]) for i in kept], values, label)
    return tag("figure", tag("figcaption", title) if title else "", legend(list(series)), chart)


def confusion(rows: Sequence[ReportRow], classes: ClassTable) -> Markup | None:
    """What was taken for what."""
    tables = confusion_tables(classes.names, rows)
    return None if tables is None else tag("section", tag("h2", "Confusion"), tables)


def training(rows: Sequence[ReportRow]) -> Markup | None:
    """Curves of every row that was trained."""
    trained = [row for row in rows if row.log]
    if not trained:
        return None
    blocks = [
        tag("details", tag("summary", row.recipe), training_charts(row.log, row.warnings), open=is_open)
        for row in trained
        for is_open in [row is trained[-1] or troubled(row)]
    ]
    return tag("section", tag("h2", "Training"), *blocks)


def again(command: str, config_yaml: str, *more: str) -> Markup:
    """The command, and the configuration where there is one."""
    config = tag("details", tag("summary", "Resolved configuration"), code_block(config_yaml))
    return tag(
        "section", tag("h2", "Make it again"), code_block(command), config if config_yaml else "", join(*more)
    )
