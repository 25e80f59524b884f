"""Charts as inline SVG: bars, lines, stacked shares.

Drawn 400 units wide, so that letters stay readable when a telephone shows them one to one and a desktop
half as large again. Colours are classes of the page's style sheet (``s0`` to ``s5``, ``ink``, ``grid``),
which holds a light and a dark value of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scenelift.report.data import percent
from scenelift.report.markup import Markup, tag
from scenelift.types import F64

SERIES_COLORS = 6
"""How many series colours the style sheet has."""

WIDTH = 400.0
"""Of every chart."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 8.0, 18.0, 30.0
_HEIGHT = 198.0


@dataclass(frozen=True, eq=False)
class Line:
    """One curve.

    Attributes:
        name: for the legend.
        x: (K,) float64, ascending.
        y: (K,) float64, finite.
        color: index of the series colour.
        dashed: for a reference beside the curves that are compared.
        spread: (K,) float64: half the height of a bar through each point; ``None`` = no bars.
    """

    name: str
    x: F64
    y: F64
    color: int
    dashed: bool = False
    spread: F64 | None = None


@dataclass(frozen=True)
class XAxis:
    """What curves run over, where it is not training steps.

    Attributes:
        name: of the quantity.
        ticks: (place, words), ascending; curves have their points there.
    """

    name: str
    ticks: Sequence[tuple[float, str]]


def legend(
    names: Sequence[str], colors: Sequence[int] | None = None, dashed: Sequence[bool] | None = None
) -> Markup:
    """Names of series with their colour, as HTML above a chart."""
    keys = range(len(names)) if colors is None else colors
    kinds = [" broken" if broken else "" for broken in dashed or [False] * len(names)]
    items = [
        tag("li", tag("span", class_=f"swatch b{key % SERIES_COLORS}{kind}", aria_hidden="true"), name)
        for name, key, kind in zip(names, keys, kinds, strict=True)
    ]
    return tag("ul", *items, class_="legend")


def class_bars(
    names: Sequence[str], hex_colors: Sequence[str], series: Mapping[str, Sequence[float | None]], label: str
) -> Markup:
    """Horizontal bars, one group a class, one bar a series; values in [0, 1].

    Args:
        names: C class names.
        hex_colors: C colours of the swatches beside the names.
        series: C values by series name; ``None`` draws nothing.
        label: what the chart shows, for screen readers.
    """
    bar, gap, left, right = 6.0, 9.0, 112.0, 34.0
    group = max(bar * len(series) + gap, 15.0)
    height = group * len(names) + 22
    known = [value for values in series.values() for value in values if value is not None]
    scale, parts = axis_below(known, left, right, height)
    for row, (name, color) in enumerate(zip(names, hex_colors, strict=True)):
        top = row * group + gap / 2
        middle = top + (group - gap) / 2
        parts.append(tag("rect", x=0, y=middle - 4.5, width=9, height=9, rx=2, fill=color))
        parts.append(tag("text", shorten(name, 17), tag("title", name), x=14, y=middle + 4))
        for place, (of, values) in enumerate(series.items()):
            value = values[row]
            if value is None:
                continue
            hint = tag("title", f"{name}, {of}: {percent(value)}")
            width = max(scale * value, 0.8)
            color_class = f"f{place % SERIES_COLORS}"
            shape = tag("rect", x=left, y=top + bar * place, width=width, height=bar - 1, class_=color_class)
            parts.append(tag("g", hint, shape))
        highest = max((values[row] or 0.0 for values in series.values()), default=0.0)
        end = {"x": left + scale * highest + 4, "y": middle + 3.5}
        parts.append(tag("text", percent(highest, 0), class_="small", **end))
    return svg(height, label, *parts)


def line_chart(
    lines: Sequence[Line],
    label: str,
    stage2_step: float | None = None,
    threshold: float | None = None,
    percentages: bool = False,
    axis: XAxis | None = None,
) -> Markup:
    """Curves over training steps, from zero up; or over another axis, with points on a range that fits them.

    Args:
        lines: at least one, each with at least one point.
        label: what the chart shows, for screen readers.
        stage2_step: where to draw the line between the stages.
        threshold: height of a dashed line.
        percentages: write the ticks in %.
        axis: what x is, and where it is marked.
    """
    top = max(float((line.y + _reach(line)).max()) for line in lines)
    if axis is None:
        x_range = _x_range([line.x for line in lines])
        ticks = nice_ticks(max(top, threshold or 0.0))
        along = _x_axis(x_range)
    else:
        first, last = axis.ticks[0][0], axis.ticks[-1][0]
        margin = 0.05 * (last - first) or 0.5
        x_range = (first - margin, last + margin)
        ticks = _ticks_between(min(float((line.y - _reach(line)).min()) for line in lines), top)
        along = _named_x_axis(axis, x_range)
    y_range = (ticks[0], max(ticks[-1], 1e-12))
    parts = [*_y_axis(ticks, y_range, percentages), *along, *_stage_mark(stage2_step, x_range)]
    if threshold is not None:
        y = _y(threshold, y_range)
        parts.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="threshold"))
    for line in lines:
        parts += _curve(line, x_range, y_range, with_points=axis is not None)
    return svg(_HEIGHT, label, *parts)


def _reach(line: Line) -> F64:
    return np.zeros_like(line.y) if line.spread is None else line.spread


def _curve(
    line: Line, x_range: tuple[float, float], y_range: tuple[float, float], with_points: bool
) -> Iterator[Markup]:
    color = line.color % SERIES_COLORS
    points = [(_x(x, x_range), _y(max(y, y_range[0]), y_range)) for x, y in zip(line.x, line.y, strict=True)]
    if len(points) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        broken = " broken" if line.dashed else ""
        yield tag("polyline", points=path, class_=f"curve l{color}{broken}")
    if len(points) == 1 or with_points:
        for x, y in points:
            yield tag("circle", cx=x, cy=y, r=3 if len(points) == 1 else 2, class_=f"f{color}")
    for (x, _), value, spread in zip(points, line.y, _reach(line), strict=True):
        if spread > 0:
            ends = {"y1": _y(float(value - spread), y_range), "y2": _y(float(value + spread), y_range)}
            yield tag("line", x1=x, x2=x, class_=f"curve l{color}", **ends)


def stacked_shares(
    edges: F64, shares: F64, colors: Sequence[int], label: str, stage2_step: float | None = None
) -> Markup:
    """Shares that add up to 1, stacked, one column a bin of steps.

    Args:
        edges: (K + 1,) float64, ascending: where the columns begin and end.
        shares: (K, S) float64, rows sum to at most 1.
        colors: S series colours, from the bottom up.
        label: what the chart shows, for screen readers.
        stage2_step: where to draw the line between the stages.
    """
    x_range = (float(edges[0]), float(edges[-1]))
    heights = np.concatenate([np.zeros((len(shares), 1)), np.cumsum(shares, axis=1)], axis=1)
    parts = [*_y_axis([0.0, 0.5, 1.0], (0.0, 1.0), True), *_x_axis(x_range)]
    for place, color in enumerate(colors):
        columns = range(len(shares))
        upper = [corner for k in columns for corner in _step(edges, heights, k, place + 1, x_range)]
        lower = [corner for k in columns for corner in _step(edges, heights, k, place, x_range)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in [*upper, *reversed(lower)]) + "Z"
        parts.append(tag("path", d=path, class_=f"f{color % SERIES_COLORS}"))
    return svg(_HEIGHT, label, *parts, *_stage_mark(stage2_step, x_range))


def axis_below(
    values: Sequence[float], left: float, right: float, height: float
) -> tuple[float, list[Markup]]:
    """An axis of shares from 0, with its percentages below a chart of rows.

    Args:
        values: that have to fit.
        left: room left of the axis, units.
        right: room right of it.
        height: of the chart.

    Returns:
        Units for a share of 1, and the axis.
    """
    ticks = nice_ticks(max(values, default=1.0))
    scale = (WIDTH - left - right) / ticks[-1]
    parts = []
    for tick in ticks:
        x = left + scale * tick
        parts.append(tag("line", x1=x, x2=x, y1=0, y2=height - 18, class_="grid"))
        parts.append(
            tag("text", f"{100 * tick:.3g}", x=x, y=height - 5, text_anchor="middle", class_="small")
        )
    return scale, parts


def nice_ticks(top: float) -> list[float]:
    """Round numbers from 0 to at least ``top``, four to seven of them."""
    if top <= 0:
        return [0.0, 1.0]
    magnitude = 10.0 ** math.floor(math.log10(top))
    step = next(
        magnitude * factor for factor in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if top / (magnitude * factor) <= 5
    )
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


def _ticks_between(low: float, high: float) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``."""
    step = nice_ticks(max(high - low, 0.01))[1]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * place for place in range(first, max(last, first + 1) + 1)]


def shorten(name: str, length: int) -> str:
    """``name``, cut to this many letters with an ellipsis."""
    return name if len(name) <= length else name[: length - 1] + "…"


def svg(height: float, label: str, *parts: Markup) -> Markup:
    """A chart `WIDTH` wide and ``height`` high; ``label`` tells screen readers what it shows."""
    box = f"0 0 {WIDTH:g} {height:g}"
    return tag("svg", *parts, viewBox=box, role="img", aria_label=label, class_="chart")


def _x(step: float, x_range: tuple[float, float]) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * (step - x_range[0]) / (x_range[1] - x_range[0])


def _y(value: float, y_range: tuple[float, float]) -> float:
    low, high = y_range
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)


def _step(
    edges: F64, heights: F64, k: int, s: int, x_range: tuple[float, float]
) -> list[tuple[float, float]]:
    """The two upper corners of column ``k`` up to series ``s``."""
    y = _y(float(heights[k, s]), (0.0, 1.0))
    return [(_x(float(edges[k]), x_range), y), (_x(float(edges[k + 1]), x_range), y)]


def _x_range(xs: Sequence[F64]) -> tuple[float, float]:
    low, high = min(float(x[0]) for x in xs), max(float(x[-1]) for x in xs)
    return low, max(high, low + 1)


def _y_axis(ticks: Sequence[float], y_range: tuple[float, float], percentages: bool) -> Iterator[Markup]:
    for place, tick in enumerate(ticks):
        y = _y(tick, y_range)
        yield tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid" if place else "axis")
        words = f"{100 * tick:.4g}%" if percentages else f"{tick:.4g}"
        yield tag("text", words, x=_LEFT - 5, y=y + 3.5, text_anchor="end", class_="small")


def _x_axis(x_range: tuple[float, float]) -> Iterator[Markup]:
    low, high = x_range
    ticks = [tick for tick in nice_ticks(high) if low <= tick <= high]
    for tick in ticks:
        x = _x(tick, x_range)
        yield tag("text", f"{tick:g}", x=x, y=_HEIGHT - _BOTTOM + 14, text_anchor="middle", class_="small")
    yield tag("text", "step", x=WIDTH - _RIGHT, y=_HEIGHT - 3, text_anchor="end", class_="small")


def _named_x_axis(axis: XAxis, x_range: tuple[float, float]) -> Iterator[Markup]:
    """Words at every tick that does not run into the one before it."""
    free = 0.0
    for place, words in axis.ticks:
        x, half = _x(place, x_range), 2.7 * len(words)
        if x - half < free:
            continue
        free = x + half + 4
        yield tag("text", words, x=x, y=_HEIGHT - _BOTTOM + 14, text_anchor="middle", class_="small")
    yield tag("text", axis.name, x=WIDTH - _RIGHT, y=_HEIGHT - 3, text_anchor="end", class_="small")


def _stage_mark(step: float | None, x_range: tuple[float, float]) -> Iterator[Markup]:
    if step is None or not x_range[0] <= step <= x_range[1]:
        return
    x = _x(step, x_range)
    yield tag("line", x1=x, x2=x, y1=_TOP - 12, y2=_HEIGHT - _BOTTOM, class_="stage")
    end = x > WIDTH - 60
    anchor = "end" if end else "start"
    x_text = x - 4 if end else x + 4
    yield tag("text", "stage 2", x=x_text, y=_TOP - 5, text_anchor=anchor, class_="small")
