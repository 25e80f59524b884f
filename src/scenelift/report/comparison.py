"""The page that compares runs: one table, what is chance, and where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scenelift.classes import ClassTable
from scenelift.files import atomic_write
from scenelift.report import sections
from scenelift.report.answer import troubled, warning
from scenelift.report.data import (
    KINDS,
    Cloud,
    Picture,
    ReportRow,
    best,
    difference,
    duration,
    finite,
    is_best,
    percent,
    plus_minus,
)
from scenelift.report.markup import Markup, join, tag
from scenelift.report.page import fitting_page
from scenelift.report.shell import occurring, scroller
from scenelift.report.strips import Strip, strip_chart
from scenelift.report.training import overlaid_charts

Kind = Literal["2D", "3D"]

_FULL = 0.25
"""A difference of this much has the full colour."""


@dataclass(frozen=True)
class Gap:
    """A difference to the first run; shares, not points.

    Attributes:
        mean: over the seeds that both have, all scenes together.
        low: lower end of the 95 % interval; ``None`` where there is nothing to resample.
        high: its upper end.
    """

    mean: float
    low: float | None
    high: float | None

    @property
    def sure(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One recipe with all its seeds.

    Attributes:
        row: means over seeds; counts are summed over them, the log is that of the first seed.
        seeds: of its runs.
        deviations: sample standard deviation of the mIoU over seeds by kind, where there are several.
        gaps: to the first run, by kind; none for the first.
        scenes: mIoU of every scene by kind, mean over seeds.
    """

    row: ReportRow
    seeds: Sequence[int]
    deviations: Mapping[Kind, float | None] = field(default_factory=dict)
    gaps: Mapping[Kind, Gap] = field(default_factory=dict)
    scenes: Mapping[Kind, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ComparisonData:
    """Everything on the page.

    Attributes:
        dataset: what the runs were judged by.
        command: that makes the page again.
        classes: names and colours.
        runs: at least one; differences are to the first.
        warnings: why they are not, or not well, comparable.
        settings: by configuration key that differs, its value in each run.
        notes: for the reader.
        pictures_2d: qualitative rows, a column a run.
        pictures_3d: the same of rendered clouds.
        clouds: the same to turn about.
    """

    dataset: str
    command: str
    classes: ClassTable
    runs: Sequence[ComparedRun]
    warnings: Sequence[str] = ()
    settings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    pictures_2d: Sequence[Picture] = ()
    pictures_3d: Sequence[Picture] = ()
    clouds: Sequence[Cloud] = ()


def write_comparison(path: Path, data: ComparisonData) -> None:
    """Write the page as one HTML file. Raises `OutputError` if that cannot be done."""
    atomic_write(path, render_comparison(data).encode())


def render_comparison(data: ComparisonData) -> str:
    """The page as HTML; names may hold any text, it is escaped."""
    rows = [run.row for run in data.runs]
    parts = [
        _answer(data),
        _scenes(data),
        _classes(data),
        _settings(data),
        sections.qualitative(data.pictures_2d, data.classes, "Images", "image"),
        sections.qualitative(data.pictures_3d, data.classes, "Point clouds", "point cloud"),
        sections.clouds_section(data.clouds, data.classes),
        sections.confusion(rows, data.classes),
        _training(rows),
        sections.again(data.command, ""),
    ]
    return fitting_page(f"{_title(data)} – {data.dataset}", [part for part in parts if part])


def _title(data: ComparisonData) -> str:
    names = [run.row.recipe for run in data.runs]
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"Compared: {some}"


def _answer(data: ComparisonData) -> Markup:
    alarms = [run.row.recipe for run in data.runs if troubled(run.row)]
    head = tag("h1", _title(data)), tag("p", "Data: ", tag("strong", data.dataset), class_="muted")
    lead = list(_summary(data.runs))
    return join(
        tag("header", *head),
        *[warning(words) for words in data.warnings],
        tag("p", *lead, class_="lead") if lead else "",
        *[warning(f"{name} had trouble in training, see below.") for name in alarms],
        _table(data.runs),
        tag("ul", *[tag("li", note) for note in data.notes], class_="notes") if data.notes else "",
    )


def _summary(runs: Sequence[ComparedRun]) -> Iterator[Markup]:
    first = runs[0]
    for kind in KINDS:
        known = [(miou, run) for run in runs if (miou := run.row.on(kind).miou) is not None]
        if not known:
            continue
        miou, run = max(known, key=lambda pair: pair[0])
        figure = tag("strong", f"{kind}: {percent(miou)}\u00a0% mIoU")
        gap = run.gaps.get(kind)
        against = ""
        if gap is not None:
            judged = "" if gap.low is None else " (more than chance)" if gap.sure else " (may be chance)"
            against = f", {_gap_words(gap)} points against {first.row.recipe}{judged}"
        yield tag("span", figure, f" with {run.row.recipe}{against}.")


def _gap_words(gap: Gap) -> str:
    if gap.low is None or gap.high is None:
        return difference(gap.mean, 0.0)
    return f"{difference(gap.mean, 0.0)} [{difference(gap.low, 0.0)}, {difference(gap.high, 0.0)}]"


def _table(runs: Sequence[ComparedRun]) -> Markup:
    kinds = [kind for kind in KINDS if any(run.row.on(kind).miou is not None for run in runs)]
    below = [
        tag("th", text, scope="col", class_="narrow block" if text == "mIoU" else "narrow")
        for _ in kinds
        for text in ("mIoU", f"Δ {runs[0].row.recipe}", "coverage")
    ]
    span = 2 if kinds else None
    top = [
        tag("th", "Run", scope="col", rowspan=span),
        *[tag("th", f"{kind}, %", scope="colgroup", colspan=3, class_="group block") for kind in kinds],
        *[tag("th", text, scope="col", rowspan=span) for text in ("Seeds", "Time")],
    ]
    bests = {kind: best([run.row.on(kind).miou for run in runs]) for kind in kinds}
    body = []
    for run in runs:
        cells = [cell for kind in kinds for cell in _cells(run, kind, bests[kind])]
        seeds = tag("td", ", ".join(map(str, run.seeds)))
        time = tag("td", duration(run.row.seconds))
        body.append(tag("tr", tag("th", run.row.recipe, scope="row"), *cells, seeds, time))
    words = tag("p", "mIoU over all scenes; differences in points with their 95 % interval.", class_="muted")
    head = tag("thead", tag("tr", *top), tag("tr", *below) if below else "")
    table = tag("table", head, tag("tbody", *body), class_="numbers wide")
    return join(words, scroller("Runs", table))


def _cells(run: ComparedRun, kind: Kind, best_miou: float | None) -> Iterator[Markup]:
    measured, gap = run.row.on(kind), run.gaps.get(kind)
    value = plus_minus(measured.miou, run.deviations.get(kind))
    number = tag("strong" if is_best(measured.miou, best_miou) else "span", value)
    yield tag("td", number, class_="block")
    if gap is None:
        yield tag("td", "–")
    else:
        words = tag("strong" if gap.sure else "span", difference(gap.mean, 0.0))
        ends = "" if gap.low is None else f"{difference(gap.low, 0.0)} to {difference(gap.high, 0.0)}"
        yield tag("td", words, tag("span", ends, class_="muted small"), **_tint(gap.mean))
    yield tag("td", percent(measured.coverage))


def _tint(gap: float) -> dict[str, str]:
    """Attributes that colour a cell by the size of a difference: blue is better, orange worse."""
    depth = min(abs(gap) / _FULL, 1.0)
    return {"class_": "better" if gap > 0 else "worse", "style": f"--tint:{45 * depth:.1f}%"}


# --- where they differ ----------------------------------------------------------------------------------


def _scenes(data: ComparisonData) -> Markup | None:
    first, *others = data.runs
    figures, tables = [], []
    for kind in KINDS:
        base = first.scenes.get(kind, {})
        if not base or not others:
            continue
        strips = []
        for number, run in enumerate(others, 1):
            gap, own = run.gaps.get(kind), run.scenes.get(kind, {})
            values = [(name, own[name] - base[name]) for name in base if name in own]
            ends = (None, None, None) if gap is None else (gap.mean, gap.low, gap.high)
            strips.append(Strip(run.row.recipe, number, values, *ends))
        title = f"{kind}: mIoU of each scene against {first.row.recipe}, points"
        figures.append(tag("figure", tag("figcaption", title), strip_chart(strips, title)))
        tables.append(_scene_table(kind, base, data.runs))
    if not figures:
        return None
    words = (
        "A dot is a scene; dots of one scene are differences of runs on the same scene. The diamond is the "
        "difference over all scenes together, the bar its 95 % interval: scenes and seeds are drawn again "
        "2000 times. A bar that crosses 0 may be chance."
    )
    details = tag("details", tag("summary", "Every scene"), *tables)
    charts = tag("div", *figures, class_="charts")
    return tag("section", tag("h2", "Scene by scene"), tag("p", words), charts, details)


def _scene_table(kind: Kind, base: Mapping[str, float], runs: Sequence[ComparedRun]) -> Markup:
    head = tag("tr", *[tag("th", text, scope="col") for text in ("scene", *[r.row.recipe for r in runs])])
    body = []
    for name in base:
        cells = [_against(run.scenes.get(kind, {}).get(name), base[name], run is runs[0]) for run in runs]
        body.append(tag("tr", tag("th", name, scope="row"), *cells))
    caption = f"mIoU in {kind}, %, and its difference to {runs[0].row.recipe}"
    table = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), class_="numbers")
    return scroller(caption, table)


def _against(value: float | None, reference: float | None, is_first: bool) -> Markup:
    if is_first or value is None or reference is None:
        return tag("td", percent(value))
    gap = value - reference
    return tag("td", f"{percent(value)} ", tag("span", difference(gap, 0.0), class_="gap"), **_tint(gap))


def _classes(data: ComparisonData) -> Markup | None:
    tables = []
    names, runs = data.classes.names, data.runs
    for kind in KINDS:
        shares = {run.row.recipe: run.row.on(kind).per_class for run in runs}
        kept = occurring(names, shares)
        if not kept:
            continue
        base = shares[runs[0].row.recipe]
        head = tag("tr", *[tag("th", text, scope="col") for text in ("class", *shares)])
        body = []
        for name in [names[i] for i in kept]:
            cells = [
                _against(finite(of.get(name)), finite(base.get(name)), of is base) for of in shares.values()
            ]
            body.append(tag("tr", tag("th", name, scope="row"), *cells))
        caption = f"IoU in {kind}, %, and its difference to {runs[0].row.recipe}"
        parts = tag("caption", caption), tag("thead", head), tag("tbody", *body)
        tables.append(scroller(caption, tag("table", *parts, class_="numbers")))
    if not tables:
        return None
    words = "Blue is better than the first run, orange worse. Classes that do not occur are left out."
    charts = tag("div", *tables, class_="charts")
    return tag("section", tag("h2", "Class by class"), tag("p", words), charts)


def _settings(data: ComparisonData) -> Markup | None:
    if len(data.runs) < 2:
        return None
    title = tag("h2", "What was set otherwise")
    if not data.settings:
        return tag("section", title, tag("p", "Nothing but the recipe's name or the seed."))
    head = tag("tr", *[tag("th", text, scope="col") for text in ("key", *[r.row.recipe for r in data.runs])])
    body = [
        tag("tr", tag("th", key, scope="row"), *[tag("td", value) for value in values])
        for key, values in data.settings.items()
    ]
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="numbers settings")
    words = "Keys of the configuration that differ; all others are equal, seeds aside."
    return tag("section", title, tag("p", words), scroller("Settings", table))


def _training(rows: Sequence[ReportRow]) -> Markup | None:
    trained = {row.recipe: row for row in rows if row.log}
    if not trained:
        return None
    told = [
        tag("p", tag("strong", f"{name}: "), words, class_="warning")
        for name, row in trained.items()
        for words in row.warnings
    ]
    charts = overlaid_charts({name: row.log for name, row in trained.items()}, [row.recipe for row in rows])
    return tag("section", tag("h2", "Training"), *told, charts)
