"""The texts of the panel, as small pieces of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from scenelift.classes import ClassTable
from scenelift.colors import heat
from scenelift.export import NO_LABEL_COLOR
from scenelift.query import Instance
from scenelift.types import IGNORE, U8
from scenelift.viewer.state import RIGHT, WRONG, Row

INDENT = "\u2003\u2002"
"""Room for a swatch at the start of a checkbox's label."""

_RAMP = np.linspace(0, 1, 9, dtype=np.float32)
_TEXT = "font-size:0.8125rem;line-height:1.4;padding:0 0.75rem;"


def class_label(row: Row, classes: ClassTable) -> str:
    """Text beside a class's checkbox: its name, after room for the `swatch`."""
    name = "(no label)" if row.label == IGNORE else classes.names[row.label]
    return INDENT + name


def class_hint(row: Row) -> str:
    """What the pointer is told over a class."""
    share = f"{100 * row.share:.1f} % of the points have this label"
    return share if row.iou is None else f"{share}; IoU in this scene {100 * row.iou:.1f} %"


def swatch(row: Row, palette: U8) -> str:
    """A square in the class's colour and a figure at the right, laid over the line below."""
    red, green, blue = palette[row.label].tolist()
    figure = f"{100 * row.share:.1f} %" if row.iou is None else f"IoU {100 * row.iou:.0f} %"
    return (
        '<div style="height:0;position:relative;z-index:1;pointer-events:none">'
        '<span style="position:absolute;left:0.75rem;top:0.42rem;width:0.8rem;height:0.8rem;'
        f'border-radius:3px;box-shadow:0 0 0 1px #8888;background:rgb({red},{green},{blue})"></span>'
        f'<span style="position:absolute;right:2.6rem;top:0.3rem;font-size:0.75rem">{figure}</span></div>'
    )


def scores_line(miou: float | None, coverage: float | None, of_run: float | None) -> str:
    """mIoU of the scene and of the run, whichever are known; empty if neither is."""
    parts = []
    if miou is not None:
        parts.append(f"mIoU in this scene <b>{100 * miou:.1f} %</b>, coverage {100 * (coverage or 0):.0f} %")
    if of_run is not None:
        parts.append(f"of the whole run <b>{100 * of_run:.1f} %</b>")
    return f'<div style="{_TEXT}">{"; ".join(parts)}</div>' if parts else ""


def scale(low: str, high: str) -> str:
    """The colour bar of quantities."""
    ramp = heat(_RAMP, 0.0, 1.0).tolist()
    stops = ",".join(f"rgb({r},{g},{b})" for r, g, b in ramp)
    bar = f'<div style="height:0.7rem;border-radius:3px;background:linear-gradient(to right,{stops})"></div>'
    ends = f"<span>{escape(low)}</span><span>{escape(high)}</span>"
    row = f'<div style="display:flex;justify-content:space-between">{ends}</div>'
    return f'<div style="{_TEXT}">{bar}{row}</div>'


def error_legend(shares: Sequence[float]) -> str:
    """Colours of right, wrong and unknown, with their shares of the points."""
    names = ("right", "wrong", "no ground truth")
    rows = [
        f'<div><span style="display:inline-block;width:0.8rem;height:0.8rem;border-radius:3px;'
        f'box-shadow:0 0 0 1px #8888;background:rgb{color}"></span> {name}: {100 * share:.1f} %</div>'
        for name, color, share in zip(names, (RIGHT, WRONG, NO_LABEL_COLOR), shares, strict=True)
    ]
    return f'<div style="{_TEXT}">{"".join(rows)}</div>'


def found_things(phrase: str, selected: int, total: int, things: Sequence[Instance], most: int = 5) -> str:
    """What a query found: how many points, and the top things with size and place."""
    plural = "" if len(things) == 1 else "s"
    head = f"<b>{escape(phrase)}</b>: {selected:,} of {total:,} points, {len(things)} thing{plural}"
    rows = []
    for thing in things[:most]:
        size = " × ".join(f"{value:.2f}" for value in thing.extent_m)
        place = ", ".join(f"{value:.2f}" for value in thing.centroid_m)
        rows.append(
            f"<li>{size} m at ({place}), {thing.points:,} points, similarity {thing.similarity:.3f}</li>"
        )
    listed = f'<ol style="margin:0.3rem 0 0;padding-left:1.2rem">{"".join(rows)}</ol>'
    return f'<div style="{_TEXT}">{head}{listed}</div>'


def note(text: str) -> str:
    """A line of plain text."""
    return f'<div style="{_TEXT}">{escape(text)}</div>' if text else ""
