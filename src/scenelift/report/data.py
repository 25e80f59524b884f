"""What a report is made of, and the same results as JSON and for a terminal."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from scenelift.classes import ClassTable
from scenelift.errors import printable
from scenelift.types import F32, I64, U8

if TYPE_CHECKING:
    from rich.table import Table


KINDS: tuple[Literal["2D", "3D"], ...] = ("2D", "3D")
"""What is measured: images and points."""

Role: TypeAlias = Literal["run", "teacher", "refined"]
"""What a row stands for: a run, the teacher's labels as they are, or those refined by masks."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What one recipe reached on images or on points: the half of a `ReportRow`, NaN turned to ``None``."""

    miou: float | None
    coverage: float | None
    per_class: Mapping[str, float | None]
    confusion: I64 | None


@dataclass(frozen=True, eq=False)
class ReportRow:
    """What one recipe reached. Shares are in [0, 1]; ``None`` and NaN both mean "not measured".

    Attributes:
        recipe: its name.
        miou_2d: mean IoU on images.
        miou_3d: mean IoU on points.
        coverage_2d: share of labelled pixels that have a prediction.
        coverage_3d: the same for points.
        per_class_2d: IoU on images by class name; classes that do not occur may be left out.
        per_class_3d: the same for points.
        seconds: wall time of the recipe.
        confusion_2d: (C, C + 1) int64 counts, row = true class, column = prediction, last = none.
        confusion_3d: the same for points.
        log: one mapping per logged step, as `cotrain` yields them; empty when nothing was trained.
        warnings: sentences on what went wrong in it, beside those that the log alone gives rise to.
        role: a run, or what it is to be compared with.
    """

    recipe: str
    miou_2d: float | None
    miou_3d: float | None
    coverage_2d: float | None
    coverage_3d: float | None
    per_class_2d: Mapping[str, float | None]
    per_class_3d: Mapping[str, float | None]
    seconds: float
    confusion_2d: I64 | None = None
    confusion_3d: I64 | None = None
    log: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[str] = ()
    role: Role = "run"

    def on(self, kind: Literal["2D", "3D"]) -> Measured:
        """The figures on images or on points."""
        miou, coverage, per_class, confusion = (
            (self.miou_2d, self.coverage_2d, self.per_class_2d, self.confusion_2d)
            if kind == "2D"
            else (self.miou_3d, self.coverage_3d, self.per_class_3d, self.confusion_3d)
        )
        ious = {name: finite(iou) for name, iou in per_class.items()}
        return Measured(finite(miou), finite(coverage), ious, confusion)


@dataclass(frozen=True, eq=False)
class Picture:
    """One qualitative row, as in the paper's Figures 3 and 4.

    Attributes:
        title: the frame's or scene's name.
        panels: (caption, (H, W, 3) uint8 RGB) from left to right; equal captions share a column.
    """

    title: str
    panels: Sequence[tuple[str, U8]]


@dataclass(frozen=True, eq=False)
class Cloud:
    """A labelled point cloud to turn about on the page.

    Attributes:
        name: of the scene.
        points: (N, 3) float32, metres, z up.
        rgb: (N, 3) uint8, ``None`` where the cloud has no colours.
        labels: (N,) uint8 class ids by caption, `IGNORE` where there is none; the last is the run's own.
        truth: (N,) uint8 class ids, `IGNORE` where unknown; ``None`` without ground truth.
        confidence: (N,) float32 in [0, 1] of the last labels; ``None`` where nothing says how sure it is.
        azimuth_deg: where to stand at first, see `scenelift.render.overview_camera`.
        still: (H, W, 3) uint8, RGB: what is shown where there is no WebGL.
        runs: how many of the last labels are of runs; errors of each are shown.
    """

    name: str
    points: F32
    rgb: U8 | None
    labels: Mapping[str, U8]
    truth: U8 | None
    confidence: F32 | None
    azimuth_deg: float
    still: U8
    runs: int = 1


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything on the page.

    Attributes:
        title: heading.
        dataset: name of the data.
        command: the command that makes this report again.
        classes: names and colours.
        rows: the compared recipes; differences are to the first, curves open at the last.
        pictures_2d: qualitative rows of images.
        pictures_3d: qualitative rows of rendered clouds.
        notes: sentences for the reader, shown below the table.
        config_yaml: the resolved configuration.
        has_truth: whether anything could be measured.
        label_shares: without ground truth: by network, the share of each class in its predictions.
        facts: what was done, as (name, value).
        clouds: to turn about.
        agreement: without ground truth: who was compared, and the share of places labelled alike.
    """

    title: str
    dataset: str
    command: str
    classes: ClassTable
    rows: Sequence[ReportRow]
    pictures_2d: Sequence[Picture] = ()
    pictures_3d: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    config_yaml: str = ""
    has_truth: bool = True
    label_shares: Mapping[str, Mapping[str, float]] | None = None
    facts: Sequence[tuple[str, str]] = ()
    clouds: Sequence[Cloud] = ()
    agreement: Mapping[str, float] | None = None


def finite(value: Any) -> float | None:
    """``value`` as a float if it is a finite number, else ``None``."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def best(values: Sequence[float | None]) -> float | None:
    """The largest finite value, ``None`` if fewer than two are there to compare."""
    known = [number for number in map(finite, values) if number is not None]
    return max(known) if len(known) > 1 else None


def mean_and_deviation(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation of what is known; ``None`` for what one or no value cannot tell."""
    known = [number for number in map(finite, values) if number is not None]
    mean = statistics.fmean(known) if known else None
    return mean, statistics.stdev(known) if len(known) > 1 else None


def plus_minus(mean: float | None, deviation: float | None) -> str:
    """``28.4 ± 0.3`` in percent, without the second part where there is none."""
    return percent(mean) + ("" if deviation is None else f" ± {percent(deviation)}")


def percent(value: float | None, digits: int = 1) -> str:
    """``0.284`` as ``28.4``; a dash where nothing was measured."""
    number = finite(value)
    return "–" if number is None else f"{100 * number:.{digits}f}"


def difference(value: float | None, reference: float | None) -> str:
    """The gap in percentage points with its sign, empty where one side is missing."""
    number, other = finite(value), finite(reference)
    if number is None or other is None:
        return ""
    return f"{100 * (number - other):+.1f}".replace("-", "\u2212")


def duration(seconds: float) -> str:
    """``372.4`` as ``6 min 12 s``, unbroken between figure and unit."""
    number = finite(seconds)
    if number is None:
        return "–"
    if number < 10:
        return f"{number:.1f}\u00a0s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}\u00a0h {minutes:02d}\u00a0min"
    return f"{minutes}\u00a0min {rest:02d}\u00a0s" if minutes else f"{rest}\u00a0s"


def results_json(recipe: str, dataset: str, seed: int, rows: Sequence[ReportRow]) -> dict[str, Any]:
    """The content of ``results.json``, schema 1; what was not measured is null.

    mIoU, IoU and coverage are shares in [0, 1].
    """
    return {
        "schema": 1,
        "recipe": recipe,
        "dataset": dataset,
        "seed": seed,
        "rows": [
            {
                "recipe": row.recipe,
                "miou_2d": row.on("2D").miou,
                "miou_3d": row.on("3D").miou,
                "coverage_2d": row.on("2D").coverage,
                "coverage_3d": row.on("3D").coverage,
                "per_class_2d": row.on("2D").per_class,
                "per_class_3d": row.on("3D").per_class,
                "seconds": finite(row.seconds),
                "warnings": list(row.warnings),
            }
            for row in rows
        ],
    }


def terminal_table(rows: Sequence[ReportRow]) -> Table:
    """The table of methods for a terminal: mIoU and its difference to the first row, coverage, time."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="mIoU in %, difference to the first row in points")
    table.add_column("recipe", overflow="fold")
    for heading in ("2D", "", "3D", "", "cover 2D", "cover 3D", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    bests = {kind: best([row.on(kind).miou for row in rows]) for kind in KINDS}
    for place, row in enumerate(rows):
        cells: list[str | Text] = [
            Text(printable(row.recipe))
        ]  # not a str: brackets in a name are no rich markup
        for kind in KINDS:
            miou = row.on(kind).miou
            reference = rows[0].on(kind).miou if place else None
            cells += [Text(percent(miou), style="bold" if is_best(miou, bests[kind]) else "")]
            cells += [difference(miou, reference)]
        cells += [percent(row.on(kind).coverage) for kind in KINDS]
        table.add_row(*cells, duration(row.seconds))
    return table


def is_best(value: float | None, best_value: float | None) -> bool:
    """Whether ``value`` is printed like the best, so that equal figures look equal."""
    return best_value is not None and percent(value) == percent(best_value)
