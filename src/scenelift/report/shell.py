"""What every page has: its shell, and tables of numbers by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TypeAlias

from scenelift.report.data import finite, percent
from scenelift.report.markup import Markup, tag

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

Shares: TypeAlias = Mapping[str, float | None]
"""Numbers in [0, 1] by class name."""


def html_page(title: str, parts: Sequence[Markup]) -> str:
    """A whole page that needs nothing from elsewhere, and may load nothing."""
    style = (resources.files("scenelift.report") / "style.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    body = tag("body", tag("main", *parts))
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def occurring(names: Sequence[str], series: Mapping[str, Shares]) -> list[int]:
    """Places of the classes for which any series has a number."""
    return [
        i
        for i, name in enumerate(names)
        if any(finite(shares.get(name)) is not None for shares in series.values())
    ]


def class_numbers(names: Sequence[str], series: Mapping[str, Shares], title: str) -> Markup:
    """A table with a row for each class that occurs, and a column in % for each series."""
    head = tag("tr", *[tag("th", name, scope="col") for name in ("class", *series)])
    rows = []
    for i in occurring(names, series):
        cells = [tag("td", percent(shares.get(names[i]))) for shares in series.values()]
        rows.append(tag("tr", tag("th", names[i], scope="row"), *cells))
    table = tag("table", tag("caption", title), tag("thead", head), tag("tbody", *rows), class_="numbers")
    return tag("div", table, class_="scroll")
