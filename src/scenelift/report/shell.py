"""What every page has: its shell, and tables of numbers by class."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TypeAlias

from scenelift.report.data import finite, percent
from scenelift.report.markup import Markup, join, tag

Shares: TypeAlias = Mapping[str, float | None]
"""Numbers in [0, 1] by class name."""


def html_page(title: str, parts: Sequence[Markup], scripts: Sequence[str] = ()) -> str:
    """A whole page that needs nothing from elsewhere, and may load nothing.

    Args:
        title: of the window.
        parts: of the body, from the top down.
        scripts: files of this package to run at the end of the page. The page's policy names their hash, so
            that nothing else runs in it, whatever a class or a scene is called.
    """
    script = _script(scripts) if scripts else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"; script-src 'sha256-{digest}'" if scripts else ""
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'{allowed}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(_read("style.css") + (_read("widgets.css") if scripts else ""))),
    )
    run = tag("script", Markup(script)) if scripts else ""
    body = tag("body", tag("main", *parts), run)
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def _read(name: str) -> str:
    return (resources.files("scenelift.report") / name).read_text(encoding="utf-8")


def _script(names: Sequence[str]) -> str:
    """Files one after another in a scope of their own; ``</`` would end the element, even in a string."""
    text = "\n".join(_read(name) for name in names)
    assert "</" not in text
    return f'(() => {{\n"use strict";\n{text}}})();'


def scroller(label: str, *children: str) -> Markup:
    """A region that scrolls sideways by itself, and can be reached by keyboard to do so."""
    return tag("div", *children, class_="scroll", role="region", aria_label=label, tabindex=0)


def code_block(text: str) -> Markup:
    """A command or a file as it is, in a box that scrolls."""
    return tag("pre", tag("code", text), tabindex=0)


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
    return scroller(title, table)


def hex_color(color: Sequence[int]) -> str:
    """``#rrggbb``."""
    return "#" + bytes(int(part) for part in color).hex()


def class_legend(names: Sequence[str], colors: Sequence[str]) -> Markup:
    """Every class with its colour, in a box of its own that scrolls where they are very many."""
    items = [
        tag("li", tag("span", class_="swatch", style=f"background:{color}", aria_hidden="true"), name)
        for name, color in zip(names, colors, strict=True)
    ]
    box = tag("ul", *items, class_="legend classes")
    return scroller("Colours of classes", box) if len(items) > 40 else join(box)
