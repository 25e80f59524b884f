"""A chart of differences: one row a name, a dot a scene, and how sure their mean is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scenelift.report.charts import SERIES_COLORS, WIDTH, nice_ticks, shorten, svg
from scenelift.report.data import difference
from scenelift.report.markup import Markup, tag


@dataclass(frozen=True, eq=False)
class Strip:
    """One row; shares, not points.

    Attributes:
        name: of the row.
        color: index of the series colour.
        values: (name, difference) of every dot.
        mean: the diamond.
        low: lower end of the bar through it; ``None`` = no bar.
        high: its upper end.
    """

    name: str
    color: int
    values: Sequence[tuple[str, float]]
    mean: float | None
    low: float | None = None
    high: float | None = None


def strip_chart(strips: Sequence[Strip], label: str) -> Markup:
    """Dots left and right of zero.

    Args:
        strips: from the top down.
        label: what the chart shows, for screen readers.
    """
    step, left, right = 34.0, 120.0, 12.0
    known = [
        abs(v)
        for strip in strips
        for v in (strip.mean, strip.low, strip.high, *[value for _, value in strip.values])
        if v is not None
    ]
    reach = nice_ticks(max([*known, 0.001]))
    height = step * len(strips) + 22
    middle = (left + WIDTH - right) / 2
    scale = (WIDTH - right - middle) / reach[-1]
    parts = []
    for tick in sorted({*reach[::2], *[-tick for tick in reach[::2]]}):
        x = middle + scale * tick
        kind = "grid" if tick else "axis"
        parts.append(tag("line", x1=x, x2=x, y1=0.0, y2=height - 18, class_=kind))
        words = difference(tick, 0.0) if tick else "0"
        parts.append(tag("text", words, x=x, y=height - 5, text_anchor="middle", class_="small"))
    for place, strip in enumerate(strips):
        y = step * (place + 0.5)
        color = strip.color % SERIES_COLORS
        name = tag("text", shorten(strip.name, 20), tag("title", strip.name), x=0, y=y + 3.5)
        parts.append(name)
        for number, (scene, value) in enumerate(strip.values):
            off = 7.0 * ((number % 3) - 1)  # dots of nearly equal scenes stand above each other
            dot = tag("circle", cx=middle + scale * value, cy=y + off, r=2.4, class_=f"f{color} faint")
            parts.append(tag("g", tag("title", f"{scene}: {difference(value, 0.0)}"), dot))
        if strip.low is not None and strip.high is not None:
            ends = {"x1": middle + scale * strip.low, "x2": middle + scale * strip.high}
            parts.append(tag("line", y1=y, y2=y, class_="curve interval", **ends))
        if strip.mean is not None:
            x = middle + scale * strip.mean
            diamond = f"M{x:.2f} {y - 5:.2f}l5 5l-5 5l-5 -5Z"
            hint = tag("title", f"{strip.name}, all scenes together: {difference(strip.mean, 0.0)}")
            parts.append(tag("g", hint, tag("path", d=diamond, class_=f"f{color} ringed")))
    return svg(height, label, *parts)
