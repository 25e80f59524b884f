"""From finished runs to the figures of a table. Shares are in [0, 1], ``None`` = not measured (yet)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from scenelift.classes import ClassTable
from scenelift.evaluate import Evaluation
from scenelift.metrics import Confusion
from scenelift.recipes import describe
from scenelift.report.data import KINDS, finite, mean_and_deviation
from scenelift.runs import Outcome
from scenelift.tables.rows import Expectation, Kind, Row, Table, paper_column
from scenelift.tables.statistics import Bootstrap, Difference, spearman
from scenelift.types import I64

Verdict = Literal["holds", "does not hold", "within noise", "not run"]


@dataclass(frozen=True)
class Setting:
    """What the runs of a table have in common, for the reader.

    Attributes:
        source: name of the data source.
        dataset: the data in words.
        classes: names and colours.
        seeds: those asked for.
        command: that makes the table again.
        notes: sentences for the reader.
    """

    source: str
    dataset: str
    classes: ClassTable
    seeds: tuple[int, ...]
    command: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """What one row reached on images or on points.

    Attributes:
        by_seed: mIoU by seed.
        mean: of ``by_seed``.
        deviation: its sample standard deviation; ``None`` with fewer than two seeds.
        coverage: mean share of the ground truth that has a prediction.
        per_class: mean IoU by class name, classes that occur.
        paper: the paper's mIoU.
        to_baseline: difference to the baseline row, over the seeds that both have.
        paper_to_baseline: the same of the paper's values.
        to_reference: difference to the reference row over seeds and scenes; ``None`` for that row itself.
    """

    by_seed: Mapping[int, float]
    mean: float | None
    deviation: float | None
    coverage: float | None
    per_class: Mapping[str, float]
    paper: float | None
    to_baseline: float | None
    paper_to_baseline: float | None
    to_reference: Difference | None


@dataclass(frozen=True)
class RowResult:
    """One row.

    Attributes:
        title: as the paper prints it.
        recipe: by name.
        about: the recipe in a sentence.
        cells: by kind.
        seconds: mean time of a run.
        peak_bytes: the most memory of any of its runs.
        done: seeds that are finished.
    """

    title: str
    recipe: str
    about: str
    cells: Mapping[Kind, Cell]
    seconds: float | None
    peak_bytes: int | None
    done: tuple[int, ...]


@dataclass(frozen=True)
class Check:
    """What became of an expectation in one column; differences in points of mIoU.

    Attributes:
        text: the expectation.
        kind: where it was looked at.
        verdict: ``"within noise"`` if the interval holds values on both sides of a bound.
        value: ``factor * right - left`` of the expectation's relation.
        low: lower end of its 95 % interval.
        high: its upper end.
        paper: the same of the paper's values, and whether the expectation holds there.
        paper_holds: see ``paper``.
    """

    text: str
    kind: Kind
    verdict: Verdict
    value: float | None
    low: float | None
    high: float | None
    paper: float | None
    paper_holds: bool | None


@dataclass(frozen=True)
class TableResult:
    """Everything a rendered table shows.

    Attributes:
        table: its definition.
        setting: what its runs have in common.
        kinds: the columns there is ground truth for.
        columns: by kind the paper's column beside ours, and whether it was measured on these data.
        rows: in the table's order.
        checks: expectations whose rows are both in the table.
        rank: by kind Spearman's correlation with the paper's column, and over how many rows.
        done: finished runs.
        total: runs of the whole table.
    """

    table: Table
    setting: Setting
    kinds: tuple[Kind, ...]
    columns: Mapping[Kind, tuple[str, bool]]
    rows: tuple[RowResult, ...]
    checks: tuple[Check, ...]
    rank: Mapping[Kind, tuple[float | None, int]]
    done: int
    total: int

    def title_of(self, recipe: str) -> str:
        """The title of a recipe's row."""
        return next((row.title for row in self.table.rows if row.recipe == recipe), recipe)


def measure(table: Table, setting: Setting, outcomes: Sequence[Outcome]) -> TableResult:
    """The figures of a table from the runs that are finished; others are blanks.

    Args:
        table: its rows.
        setting: its seeds, classes and data.
        outcomes: of any of its runs, each at most once; others are not looked at.
    """
    found = {
        (outcome.run.recipe, outcome.run.seed): outcome
        for outcome in outcomes
        if outcome.run.recipe in table.recipes and outcome.run.seed in setting.seeds
    }
    kinds = tuple(
        kind
        for kind in KINDS
        if not found or any(_total(outcome.evaluation, kind).counts.any() for outcome in found.values())
    )
    columns = {kind: paper_column(table, setting.source, kind) for kind in kinds}
    cells: dict[Kind, list[Cell]] = {}
    checks: list[Check] = []
    for kind in kinds:
        bootstrap = Bootstrap(_counts(table, setting, found, kind))
        column = columns[kind][0]
        cells[kind] = _cells(table, setting, found, kind, column, bootstrap)
        checks += [_check(item, table, kind, column, bootstrap) for item in _decidable(table, kind)]
    rows = tuple(
        _row(row, setting, found, {kind: cells[kind][place] for kind in kinds})
        for place, row in enumerate(table.rows)
    )
    order = [item.text for item in table.expectations]
    checks.sort(key=lambda check: order.index(check.text))  # both kinds of one expectation side by side
    rank = {
        kind: spearman([cell.mean for cell in cells[kind]], [cell.paper for cell in cells[kind]])
        for kind in kinds
    }
    total = len(table.rows) * len(setting.seeds)
    return TableResult(table, setting, kinds, columns, rows, tuple(checks), rank, len(found), total)


def to_json(result: TableResult) -> dict[str, Any]:
    """The content of ``<table>.json``, schema 1."""
    setting, table = result.setting, result.table
    return {
        "schema": 1,
        "table": table.name,
        "title": table.title,
        "dataset": setting.dataset,
        "source": setting.source,
        "classes": list(setting.classes.names),
        "seeds": list(setting.seeds),
        "command": setting.command,
        "notes": list(setting.notes),
        "runs": {"done": result.done, "total": result.total},
        "baseline": table.baseline,
        "reference": table.reference,
        "paper_columns": {
            kind: {"name": name, "same_data": same} for kind, (name, same) in result.columns.items()
        },
        "rows": [
            {
                "title": row.title,
                "recipe": row.recipe,
                "about": row.about,
                "seeds": list(row.done),
                "seconds": row.seconds,
                "peak_bytes": row.peak_bytes,
                **{kind: _plain(asdict(cell)) for kind, cell in row.cells.items()},
            }
            for row in result.rows
        ],
        "expectations": [_plain(asdict(check)) for check in result.checks],
        "spearman": {kind: {"rho": rho, "rows": rows} for kind, (rho, rows) in result.rank.items()},
    }


def _plain(tree: Any) -> Any:
    """NaN to null: JSON has none."""
    if isinstance(tree, dict):
        return {str(key): _plain(value) for key, value in tree.items()}
    return finite(tree) if isinstance(tree, float) else tree


# --- rows --------------------------------------------------------------------------------------------

_Found = Mapping[tuple[str, int], Outcome]


def _total(evaluation: Evaluation, kind: Kind) -> Confusion:
    return evaluation.confusion_2d if kind == "2D" else evaluation.confusion_3d


def _counts(table: Table, setting: Setting, found: _Found, kind: Kind) -> I64:
    """(R, S, N, C, C + 1) counts of all runs and scenes, 0 for what there is not."""
    names = dict.fromkeys(name for outcome in found.values() for name in outcome.evaluation.scenes)
    place, classes = {name: index for index, name in enumerate(names)}, len(setting.classes)
    counts = np.zeros((len(table.rows), len(setting.seeds), len(names), classes, classes + 1), dtype=np.int64)
    for r, recipe in enumerate(table.recipes):
        for s, seed in enumerate(setting.seeds):
            if (recipe, seed) in found:
                for name, both in found[recipe, seed].evaluation.scenes.items():
                    counts[r, s, place[name]] = both[KINDS.index(kind)].counts
    return counts


def _cells(
    table: Table, setting: Setting, found: _Found, kind: Kind, column: str, bootstrap: Bootstrap
) -> list[Cell]:
    measured = [
        {
            seed: scores
            for seed in setting.seeds
            if (row.recipe, seed) in found
            and not math.isnan((scores := _total(found[row.recipe, seed].evaluation, kind).compute()).miou)
        }
        for row in table.rows
    ]
    papers = [row.paper[column] / 100 if column in row.paper else None for row in table.rows]
    base = table.recipes.index(table.baseline) if table.baseline in table.recipes else None
    reference = table.recipes.index(table.reference) if table.reference in table.recipes else None
    cells = []
    for place, by_seed in enumerate(measured):
        mean, deviation = mean_and_deviation([scores.miou for scores in by_seed.values()])
        to_baseline = _difference(bootstrap, place, base)
        ious = np.array([scores.iou for scores in by_seed.values()]).reshape(-1, len(setting.classes))
        by_class = {
            name: mean_and_deviation(column)[0]
            for name, column in zip(setting.classes.names, ious.T.tolist(), strict=True)
        }
        cells.append(
            Cell(
                by_seed={seed: scores.miou for seed, scores in by_seed.items()},
                mean=mean,
                deviation=deviation,
                coverage=mean_and_deviation([scores.coverage for scores in by_seed.values()])[0],
                per_class={name: iou for name, iou in by_class.items() if iou is not None},
                paper=papers[place],
                to_baseline=to_baseline.mean if to_baseline is not None else None,
                paper_to_baseline=None if base in (None, place) else _gap(papers[place], papers[base or 0]),
                to_reference=_difference(bootstrap, place, reference),
            )
        )
    return cells


def _difference(bootstrap: Bootstrap, row: int, other: int | None) -> Difference | None:
    """To another row, where there is one and both have a seed in common."""
    if other is None or other == row:
        return None
    found = bootstrap.difference(row, other)
    return found if found.seeds else None


def _gap(value: float | None, reference: float | None) -> float | None:
    return None if value is None or reference is None else value - reference


def _row(row: Row, setting: Setting, found: _Found, cells: Mapping[Kind, Cell]) -> RowResult:
    runs = {seed: found[row.recipe, seed] for seed in setting.seeds if (row.recipe, seed) in found}
    peaks = [outcome.peak_bytes for outcome in runs.values() if outcome.peak_bytes is not None]
    seconds = mean_and_deviation([outcome.seconds for outcome in runs.values()])[0]
    about, peak = describe(row.recipe), max(peaks, default=None)
    return RowResult(row.title, row.recipe, about, cells, seconds, peak, tuple(runs))


# --- expectations --------------------------------------------------------------------------------------


def _decidable(table: Table, kind: Kind) -> list[Expectation]:
    return [
        item
        for item in table.expectations
        if kind in item.kinds and {item.left, item.right} <= set(table.recipes)
    ]


def _check(item: Expectation, table: Table, kind: Kind, column: str, bootstrap: Bootstrap) -> Check:
    left, right = (table.recipes.index(recipe) for recipe in (item.left, item.right))
    relation = item.relation
    ours = bootstrap.difference(left, right, relation.factor)
    value = -100 * ours.mean if ours.seeds else None
    low = None if ours.high is None else -100 * ours.high
    high = None if ours.low is None else -100 * ours.low
    of_paper = [table.rows[place].paper.get(column) for place in (left, right)]
    paper = None
    if of_paper[0] is not None and of_paper[1] is not None:
        paper = relation.factor * of_paper[1] - of_paper[0]
    holds_there = None if paper is None else relation.low < paper < relation.high
    verdict: Verdict = "within noise"
    if value is None:
        verdict = "not run"
    elif low is not None and high is not None:
        if relation.low < low and high < relation.high:
            verdict = "holds"
        elif high < relation.low or low > relation.high:
            verdict = "does not hold"
    return Check(item.text, kind, verdict, value, low, high, paper, holds_there)
