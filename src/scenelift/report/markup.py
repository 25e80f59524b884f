"""HTML and SVG by construction: balanced tags, and every plain string escaped."""

from __future__ import annotations

import json
import re
from html import escape
from typing import Any

_VOID = {"meta", "img", "br", "col", "rect", "line", "path", "circle", "polyline", "input"}
# What HTML forbids even as a character reference; a title may come from a file name and hold anything.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Markup(str):
    """Text that is HTML already. Only `tag` and `join` make it, and the page's own style sheet."""

    __slots__ = ()


def text(value: str) -> Markup:
    """A plain string as HTML; `Markup` stays as it is."""
    return value if isinstance(value, Markup) else Markup(escape(_FORBIDDEN.sub("\ufffd", value)))


def join(*parts: str) -> Markup:
    """Parts side by side, plain strings escaped."""
    return Markup("".join(text(part) for part in parts))


def tag(name: str, /, *children: str, **attributes: str | float | bool | None) -> Markup:
    """An element: ``tag("td", "a < b", class_="wide", colspan=2)``.

    Plain strings among the children are escaped, `Markup` is not. In attribute names a trailing underscore
    is dropped and others become hyphens; ``None`` and ``False`` leave an attribute out, ``True`` gives it no
    value, floats are written with at most two decimals.
    """
    pairs = "".join(
        _attribute(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{pairs}/>")
    return Markup(f"<{name}{pairs}>{join(*children)}</{name}>")


def _attribute(key: str, value: str | float | bool) -> str:
    if value is True:
        return f" {key}"
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return f' {key}="{text(str(value))}"'


def data_block(name: str, tree: Any) -> Markup:
    """JSON for the page's own scripts, found by its id; no string in it can end the element."""
    plain = json.dumps(tree, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        plain = plain.replace(sign, f"\\u{ord(sign):04x}")
    return tag("script", Markup(plain), type="application/json", id=name)
