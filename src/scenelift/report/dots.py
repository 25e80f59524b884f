"""A chart of dots: a mean, what it is the mean of, and a mark to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scenelift.report.charts import WIDTH, axis_below, shorten, svg
from scenelift.report.data import percent
from scenelift.report.markup import Markup, tag


@dataclass(frozen=True, eq=False)
class Dots:
    """One row of a `dot_chart`; values in [0, 1].

    Attributes:
        name: of the row.
        mean: the large dot.
        values: the small ones, and a line from the least to the largest.
        other: the hollow mark, something to compare with.
    """

    name: str
    mean: float | None
    values: Sequence[float]
    other: float | None


def dot_chart(rows: Sequence[Dots], label: str, own: str, other: str) -> Markup:
    """One row a name: a dot where its mean is, small ones for what it is the mean of, a hollow mark beside.

    Args:
        rows: from the top down.
        label: what the chart shows, for screen readers.
        own: what the dots are.
        other: what the hollow marks are.
    """
    step, left, right = 19.0, 132.0, 34.0
    height = step * len(rows) + 22
    known = [v for row in rows for v in (row.mean, row.other, *row.values) if v is not None]
    scale, parts = axis_below(known, left, right, height)
    for place, row in enumerate(rows):
        y = step * (place + 0.5)
        parts.append(tag("text", shorten(row.name, 22), tag("title", row.name), x=0, y=y + 3.5))
        shapes = [tag("title", f"{row.name}: {own} {percent(row.mean)}, {other} {percent(row.other)}")]
        if row.other is not None:
            x = left + scale * row.other
            diamond = f"M{x:.2f} {y - 5:.2f}l5 5l-5 5l-5 -5Z"
            shapes.append(tag("path", d=diamond, class_="hollow l1"))
        if row.values:
            ends = {"x1": left + scale * min(row.values), "x2": left + scale * max(row.values)}
            shapes.append(tag("line", y1=y, y2=y, class_="curve l0", **ends))
            shapes += [tag("circle", cx=left + scale * v, cy=y, r=1.8, class_="f0") for v in row.values]
        if row.mean is not None:
            shapes.append(tag("circle", cx=left + scale * row.mean, cy=y, r=4, class_="f0"))
        parts.append(tag("g", *shapes))
        parts.append(tag("text", percent(row.mean), x=WIDTH, y=y + 3.5, text_anchor="end", class_="small"))
    return svg(height, label, *parts)
