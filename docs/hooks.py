"""Equations of the site: ``$$ ... $$`` becomes MathML when pages are built: no script is needed."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

_EQUATION = re.compile(r"^\$\$\n(.+?)(?:\\tag\{([\d, ]+)\}\s*)?\n\$\$$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What mkdocs calls for each page."""
    return _EQUATION.sub(_mathml, markdown)


def _mathml(match: re.Match[str]) -> str:
    body, number = convert(" ".join(match[1].split()), display="block"), match[2]
    label = f'<span class="number">({number})</span>' if number else ""
    return f'<div class="equation" tabindex="0">{body}{label}</div>'
