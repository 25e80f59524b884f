"""From a training log to curves, and to warnings of what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from scenelift.collapse import NETWORKS, effective_series
from scenelift.report.charts import Line, legend, line_chart, stacked_shares
from scenelift.report.data import finite
from scenelift.report.markup import Markup, join, tag
from scenelift.types import F64
from scenelift.waiting import waiting_advice, waiting_share

Log = Sequence[Mapping[str, Any]]

COLLAPSE_VARIANCE = 0.02
"""Spread of feature directions below which a network counts as collapsed when the log does not say how
spread its target is: all features then lie within about 8 degrees of one direction."""

COLLAPSE_SHARE = 0.1
"""... and as a share of the target's first spread, where the log has it."""

_MOST_POINTS = 160
_MOST_COLUMNS = 60

_SOURCES = (("clip", "label teacher", 0), ("image", "2D network", 1), ("points", "3D network", 2))
_LOSSES = (
    ("loss", "total", 5),
    ("loss_image", "2D labels", 1),
    ("loss_points", "3D labels", 2),
    ("loss_latent", "latent consistency", 3),
    ("loss_distill", "distillation", 4),
)
_CHURN = (("churn_image", "2D", 1), ("churn_points", "3D", 2))
_VARIANCE = (
    ("variance_image", "2D network", 1),
    ("variance_points", "3D network", 2),
    ("variance_target", "their target", 0),
)
_RATE = (("lr", "learning rate", 0),)


def training_charts(log: Log, warnings: Sequence[str] = ()) -> Markup:
    """Every curve the log has values for, and above them these warnings and those of `log_warnings`."""
    stage2 = _stage2_step(log)
    limit = _collapse_limit(log)
    told = [
        tag("p", tag("strong", "Warning: "), words, class_="warning")
        for words in (*warnings, *log_warnings(log))
    ]
    charts = [
        _curves(log, _LOSSES, "Losses", stage2),
        _shares(log, "source_image", "Where the 2D network's labels come from", stage2),
        _shares(log, "source_points", "Where the 3D network's labels come from", stage2),
        _curves(log, _CHURN, "Label churn: labels that differ from the teacher's", stage2, percentages=True),
        _classes(log, stage2),
        _curves(log, _VARIANCE, "Feature variance (0 = collapsed; dashed: alarm)", stage2, threshold=limit),
        _curves(log, _RATE, "Learning rate", stage2),
    ]
    return join(*told, _time(log) or "", tag("div", *[chart for chart in charts if chart], class_="charts"))


def _time(log: Log) -> Markup | None:
    share = waiting_share(log)
    if share is None:
        return None
    minutes = sum(finite(record.get("seconds")) or 0.0 for record in log) / 60
    advice = waiting_advice(log)
    return tag(
        "p",
        f"{len(log):,} steps took {minutes:.1f} minutes, {100 * share:.0f} % of them waiting for data. ",
        "" if advice is None else f"{advice[0].upper()}{advice[1:]}.",
    )


def log_warnings(log: Log) -> list[str]:
    """Collapsed features and losses that are no numbers, in words."""
    words = []
    limit = _collapse_limit(log)
    for key, name, _ in _VARIANCE:
        steps, values = _series(log, key)
        fell = _first_fall(values, limit)
        if fell is not None:
            words.append(
                f"feature variance of {name} fell to {values[fell]:.2g} at step {steps[fell]:g} "
                f"(alarm below {limit:.2g}): the latent features collapse towards a constant. "
                "Use latent.target_map=frozen, or a smaller latent.weight."
            )
    for key, name, _ in _LOSSES:
        given = [record[key] for record in log if record.get(key) is not None]
        broken = sum(finite(value) is None for value in given)
        if broken:
            words.append(
                f"the loss “{name}” was not a finite number in {broken} of {len(given)} logged steps. "
                "Use a smaller train.lr, or train.clip_norm."
            )
    return words


def _first_fall(values: F64, limit: float) -> int | None:
    """Where values first drop below the limit after having stood above; or the end, if they end there.

    A network that starts low and rises is no collapse: features of untrained networks are much alike.
    """
    below = values < limit
    fallen = np.flatnonzero(below & np.logical_or.accumulate(~below)) if len(below) else below
    if len(fallen):
        return int(fallen[0])
    return len(values) - 1 if len(below) and below[-1] else None


def _collapse_limit(log: Log) -> float:
    _, target = _series(log, "variance_target")
    return COLLAPSE_SHARE * float(target[0]) if len(target) and target[0] > 0 else COLLAPSE_VARIANCE


def _steps(log: Log) -> list[float]:
    """The step of every record; its place in the log where it does not say."""
    given = [finite(record.get("step")) for record in log]
    return [float(place) if step is None else step for place, step in enumerate(given)]


def _stage2_step(log: Log) -> float | None:
    """The first step of stage 2, ``None`` if training began or ended in the other stage."""
    stages = [record.get("stage") for record in log]
    return _steps(log)[stages.index(2)] if 2 in stages and stages[0] != 2 else None


def _series(log: Log, key: str) -> tuple[F64, F64]:
    """Steps and values, (K,) float64 each, of the records that have a finite number, in order of steps."""
    pairs = [
        (step, value)
        for step, record in zip(_steps(log), log, strict=True)
        if (value := finite(record.get(key))) is not None
    ]
    table = np.array(sorted(pairs), dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _thinned(x: F64, y: F64) -> tuple[F64, F64]:
    """At most `_MOST_POINTS` means over runs of neighbouring values."""
    if len(x) <= _MOST_POINTS:
        return x, y
    starts = np.linspace(0, len(x), _MOST_POINTS, endpoint=False).astype(np.int64)
    sizes = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def _curves(
    log: Log,
    keys: Sequence[tuple[str, str, int]],
    title: str,
    stage2: float | None,
    threshold: float | None = None,
    percentages: bool = False,
) -> Markup | None:
    lines = [
        Line(name, *_thinned(x, y), color=color)
        for key, name, color in keys
        for x, y in [_series(log, key)]
        if len(x)
    ]
    return _drawn(lines, title, stage2, threshold, percentages)


def _classes(log: Log, stage2: float | None) -> Markup | None:
    """How many classes the networks predict, and the teacher's labels of the same places name."""
    lines = []
    for place, (own, labels, name) in enumerate(NETWORKS):
        for key, what, dashed in ((own, f"{name} network", False), (labels, f"teacher, {name}", True)):
            x, y = effective_series(log, key)
            if len(x):
                lines.append(Line(what, *_thinned(x, y), color=1 + place, dashed=dashed))
    return _drawn(lines, "Effective number of classes (1 = all is called the same)", stage2)


def _drawn(
    lines: Sequence[Line],
    title: str,
    stage2: float | None,
    threshold: float | None = None,
    percentages: bool = False,
    always_named: bool = False,
) -> Markup | None:
    if not lines:
        return None
    ends = ", ".join(f"{line.name} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in lines)
    chart = line_chart(lines, f"{title}: {ends}", stage2, threshold, percentages)
    names = legend(
        [line.name for line in lines], [line.color for line in lines], [line.dashed for line in lines]
    )
    return _figure(title, names if len(lines) > 1 or always_named else "", chart)


def _shares(log: Log, key: str, title: str, stage2: float | None) -> Markup | None:
    rows = [
        (step, *shares)
        for step, record in zip(_steps(log), log, strict=True)
        for shares in _source_shares(record.get(key))
    ]
    if not rows:
        return None
    table = np.array(sorted(rows), dtype=np.float64)
    starts = np.linspace(0, len(table), min(len(table), _MOST_COLUMNS), endpoint=False).astype(np.int64)
    sizes = np.diff(np.append(starts, len(table)))
    shares = np.add.reduceat(table[:, 1:], starts, axis=0) / sizes[:, None]
    edges = np.append(table[starts, 0], table[-1, 0] + 1)
    overall = table[:, 1:].mean(0)
    words = ", ".join(
        f"{name} {100 * share:.0f} %" for (_, name, _), share in zip(_SOURCES, overall, strict=True)
    )
    colors = [color for _, _, color in _SOURCES]
    chart = stacked_shares(edges, shares, colors, f"{title}, on average: {words}", stage2)
    return _figure(title, legend([name for _, name, _ in _SOURCES], colors), chart)


def _source_shares(value: Any) -> Iterator[tuple[float, ...]]:
    """One row of shares in the order of `_SOURCES`, or none if the record does not say."""
    named = {value: 1.0} if isinstance(value, str) else value if isinstance(value, Mapping) else {}
    shares = [max(finite(named.get(key)) or 0.0, 0.0) for key, _, _ in _SOURCES]
    total = sum(shares)
    if total > 0:
        yield tuple(share / total for share in shares)


def _figure(title: str, names: str, chart: Markup) -> Markup:
    return tag("figure", tag("figcaption", title), names, chart)


_OVERLAID = (
    ("loss", "Loss"),
    ("loss_image", "Loss on 2D labels"),
    ("loss_points", "Loss on 3D labels"),
    ("loss_latent", "Loss of latent consistency"),
    ("churn_image", "Label churn in 2D"),
    ("churn_points", "Label churn in 3D"),
)


def overlaid_charts(logs: Mapping[str, Log], names: Sequence[str]) -> Markup:
    """One chart a quantity, one curve a run.

    Args:
        logs: by name of the run.
        names: of all runs of the page: a run has the colour of its place here.
    """

    def chart(
        title: str, series: Callable[[Log], tuple[F64, F64]], percentages: bool = False
    ) -> Markup | None:
        lines = [
            Line(name, *_thinned(x, y), color=names.index(name))
            for name, log in logs.items()
            for x, y in [series(log)]
            if len(x)
        ]
        return _drawn(lines, title, None, percentages=percentages, always_named=True)

    charts = [chart(title, partial(_series, key=key), key.startswith("churn")) for key, title in _OVERLAID]
    for own, _, name in NETWORKS:
        charts.append(chart(f"Effective number of classes, {name}", partial(effective_series, key=own)))
    return tag("div", *[one for one in charts if one], class_="charts")
