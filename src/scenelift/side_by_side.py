"""Several finished runs compared: what differs, by how much, and whether chance could do it.

Runs that differ only in their seed are one row. Differences are paired: to the first row, on the scenes and
seeds that both have, with the bootstrap of `scenelift.tables.statistics`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scenelift.errors import RunError, SceneLiftError
from scenelift.predict import Predictor
from scenelift.progress import Progress, silent
from scenelift.qualitative import Gallery, gallery
from scenelift.report import ReportRow
from scenelift.report.comparison import ComparedRun, ComparisonData, Gap, Kind, write_comparison
from scenelift.report.data import KINDS, finite, mean_and_deviation
from scenelift.runfolder import differences
from scenelift.saved import SavedRun, left_out
from scenelift.tables.statistics import Bootstrap, miou
from scenelift.types import I64

_MOST_SHOWN = 6
"""Runs whose pictures stand side by side; of more, the first and the last ones."""

_FEW_SCENES = 6


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, by seed.

    Attributes:
        name: for the page, unlike that of any other group.
        runs: by seed, ascending; at least one.
    """

    name: str
    runs: dict[int, SavedRun]

    @property
    def first(self) -> SavedRun:
        """The run of the lowest seed."""
        return next(iter(self.runs.values()))


def compare_runs(
    runs: Sequence[SavedRun],
    page: Path,
    command: str,
    cache: Path | None,
    device: str,
    progress: Progress = silent,
) -> None:
    """Write the page that compares runs.

    Args:
        runs: at least two; differences are to the first.
        page: where to.
        command: for the page.
        cache: of the annotations; ``None`` = the nearest above each run.
        device: where networks compute.
        progress: told of each run whose pictures are drawn.

    Raises:
        RunError: their classes differ.
    """
    groups = grouped(runs)
    data = figures(groups, command)
    try:
        shown = _gallery(groups, cache, device, progress)
        data = replace(
            data,
            pictures_2d=shown.images,
            pictures_3d=shown.overviews,
            clouds=shown.clouds,
        )
    except SceneLiftError as error:
        data = replace(data, notes=[*data.notes, left_out(str(error))])
    write_comparison(page, data)


def notes(groups: Sequence[Group]) -> list[str]:
    """What a reader of the figures and pictures has to know."""
    found = []
    if all(len(group.runs) == 1 for group in groups):
        found.append("One seed each: the intervals know of scenes only, not of what another seed would give.")
    judged = len(_scenes(groups[0].first))
    if 0 < judged < _FEW_SCENES:
        found.append(f"Judged by {judged} scenes only: intervals that draw among so few are rough.")
    if len(groups) > _MOST_SHOWN:
        found.append(f"Of {len(groups)} rows the pictures show {_MOST_SHOWN}: the first and the last ones.")
    return found


def grouped(runs: Sequence[SavedRun]) -> list[Group]:
    """Runs of one configuration together, in the order of their first.

    Raises:
        RunError: classes differ, or two runs are the same with the same seed.
    """
    names = runs[0].classes.names
    for run in runs[1:]:
        if run.classes.names != names:
            odd = [name for name in run.classes.names if name not in names] or list(run.classes.names)
            raise RunError(
                f"{run.name}: expected the classes of {runs[0].name} ({len(names)}: {', '.join(names[:4])}, "
                f"...), found {len(run.classes)} others such as {odd[0]!r}; compare runs of the same classes"
            )
    found: dict[str, dict[int, SavedRun]] = {}
    for run in runs:
        key = f"{run.config.recipe} {run.config.model_copy(update={'seed': 0}).digest()}"
        seeds = found.setdefault(key, {})
        if run.config.seed in seeds:
            twin = seeds[run.config.seed]
            raise RunError(f"{run.name} and {twin.name} are the same run with the same seed; leave one out")
        seeds[run.config.seed] = run
    groups = [dict(sorted(seeds.items())) for seeds in found.values()]
    recipes = [next(iter(seeds.values())).config.recipe for seeds in groups]
    return [
        Group(name if recipes.count(name) == 1 else f"{name}, {_place(seeds)}", seeds)
        for name, seeds in zip(recipes, groups, strict=True)
    ]


def _place(seeds: dict[int, SavedRun]) -> str:
    """The path of the first run: the only thing that surely tells it from others of its recipe."""
    return str(next(iter(seeds.values())).folder.path)


def figures(groups: Sequence[Group], command: str) -> ComparisonData:
    """All of the page but pictures."""
    first = groups[0].first
    measured = {kind: _Measured(groups, kind) for kind in KINDS}
    rows = [
        ComparedRun(
            row=mean_row(group),
            seeds=tuple(group.runs),
            deviations={kind: measured[kind].deviation(group) for kind in KINDS},
            gaps={kind: gap for kind in KINDS if place and (gap := measured[kind].gap(place)) is not None},
            scenes={kind: measured[kind].by_scene(place) for kind in KINDS},
        )
        for place, group in enumerate(groups)
    ]
    scenes = measured["2D"].scenes
    source = first.config.data.source
    judged = f"; scenes to judge by: {len(scenes)}" if scenes else ""
    return ComparisonData(
        dataset=f"{source}{judged}",
        command=command,
        classes=first.classes,
        runs=rows,
        warnings=incomparable(groups),
        settings=settings(groups),
        notes=notes(groups),
    )


def mean_row(group: Group) -> ReportRow:
    """The row of a group: means over its seeds, counts summed, the log of the first."""
    rows = [run.row() for run in group.runs.values()]
    first = rows[0]

    def per_class(kind: Literal["2D", "3D"]) -> dict[str, float | None]:
        names = first.on(kind).per_class
        return {
            name: mean_and_deviation([row.on(kind).per_class.get(name) for row in rows])[0] for name in names
        }

    def counts(kind: Literal["2D", "3D"]) -> I64 | None:
        known = [confusion for row in rows if (confusion := row.on(kind).confusion) is not None]
        return sum(known[1:], start=known[0]) if known else None

    return ReportRow(
        recipe=group.name,
        miou_2d=mean_and_deviation([row.miou_2d for row in rows])[0],
        miou_3d=mean_and_deviation([row.miou_3d for row in rows])[0],
        coverage_2d=mean_and_deviation([row.coverage_2d for row in rows])[0],
        coverage_3d=mean_and_deviation([row.coverage_3d for row in rows])[0],
        per_class_2d=per_class("2D"),
        per_class_3d=per_class("3D"),
        seconds=statistics.fmean(row.seconds for row in rows),
        confusion_2d=counts("2D"),
        confusion_3d=counts("3D"),
        log=first.log,
        warnings=list(dict.fromkeys(words for row in rows for words in row.warnings)),
        role=first.role,
    )


class _Measured:
    """Confusion matrices of all groups on the scenes that all of their runs were judged by.

    Args:
        groups: of runs with one list of classes.
        kind: images or points.
    """

    def __init__(self, groups: Sequence[Group], kind: Kind) -> None:
        self._groups, self._kind = groups, kind
        seeds = sorted({seed for group in groups for seed in group.runs})
        judged = [set(_scenes(run)) for group in groups for run in group.runs.values()]
        self.scenes = [name for name in _scenes(groups[0].first) if all(name in names for names in judged)]
        classes = len(groups[0].first.classes)
        shape = (len(groups), len(seeds), len(self.scenes), classes, classes + 1)
        self._counts: I64 = np.zeros(shape, dtype=np.int64)
        for row, group in enumerate(groups):
            for seed, run in group.runs.items():
                for column, name in enumerate(self.scenes):
                    assert run.evaluation is not None  # it has scenes
                    pair = run.evaluation.scenes[name]
                    self._counts[row, seeds.index(seed), column] = pair[KINDS.index(kind)].counts
        self._bootstrap = Bootstrap(self._counts) if self._counts.any() else None

    def deviation(self, group: Group) -> float | None:
        """Of the mIoU over seeds."""
        mious = [run.row().on(self._kind).miou for run in group.runs.values()]
        return mean_and_deviation(mious)[1]

    def gap(self, place: int) -> Gap | None:
        """Of a group to the first; ``None`` where they have no seed in common or nothing was measured."""
        if self._bootstrap is None:
            return None
        found = self._bootstrap.difference(place, 0)
        if not found.seeds or finite(found.mean) is None:
            return None
        return Gap(found.mean, finite(found.low), finite(found.high))

    def by_scene(self, place: int) -> dict[str, float]:
        """mIoU of each scene, mean over seeds; scenes without ground truth of this kind are left out."""
        by_seed = miou(self._counts[place])  # (S, N)
        means = [mean_and_deviation(list(column))[0] for column in by_seed.T]
        return {name: mean for name, mean in zip(self.scenes, means, strict=True) if mean is not None}


def _scenes(run: SavedRun) -> list[str]:
    return [] if run.evaluation is None else list(run.evaluation.scenes)


def incomparable(groups: Sequence[Group]) -> list[str]:
    """Why the rows are not, or not well, comparable: other data, other scenes, other seeds, no truth."""
    first, *others = groups
    found = []
    for group in others:
        if group.first.config.digest("data") != first.first.config.digest("data"):
            keys = differences(
                first.first.config.data.model_dump(mode="json"),
                group.first.config.data.model_dump(mode="json"),
            )
            found.append(f"{group.name} is of other data than {first.name} ({', '.join(keys[:4])} differ).")
        have, want = set(_scenes(group.first)), set(_scenes(first.first))
        if have != want:
            found.append(
                f"{group.name} was judged by {len(have)} scenes, {first.name} by {len(want)}; "
                f"differences are over the {len(have & want)} that they share, mIoU over each one's own."
            )
        if set(group.runs) != set(first.runs):
            shared = len(set(group.runs) & set(first.runs))
            found.append(
                f"{group.name} has seeds {_listed(group)}, {first.name} {_listed(first)}; "
                f"differences are over the {shared} that they share."
            )
    return found


def _listed(group: Group) -> str:
    return ", ".join(map(str, group.runs))


def settings(groups: Sequence[Group]) -> dict[str, list[str]]:
    """By configuration key that differs between any two groups the value in each; seeds aside."""
    trees = [group.first.config.model_dump(mode="json") for group in groups]
    keys = {path for tree in trees[1:] for path in differences(trees[0], tree) if path != "seed"}
    ordered = [path for path in _paths(trees) if path in keys]
    return {path: [_value(tree, path) for tree in trees] for path in ordered}


def _paths(trees: Sequence[Any]) -> list[str]:
    """Every dotted path of any tree, in the order of the configuration; sections too."""
    found: dict[str, None] = {}

    def walk(tree: Any, path: str) -> None:
        found[path] = None
        for key, value in tree.items() if isinstance(tree, dict) else ():
            walk(value, f"{path}.{key}" if path else key)

    for tree in trees:
        walk(tree, "")
    return list(found)


def _value(tree: Any, path: str) -> str:
    for part in path.split("."):
        tree = tree.get(part, "–") if isinstance(tree, dict) else "–"
    return "null" if tree is None else str(tree).lower() if isinstance(tree, bool) else str(tree)


def _gallery(groups: Sequence[Group], cache: Path | None, device: str, progress: Progress) -> Gallery:
    """Pictures of the first run's scenes, labelled by every group's first run."""
    shown = groups if len(groups) <= _MOST_SHOWN else [groups[0], *groups[1 - _MOST_SHOWN :]]
    first = groups[0].first.session(cache, device)
    predictors = {}
    for group in shown:
        run = group.first
        session = run.session(cache, device)
        predictors[group.name] = Predictor(run.config, run.networks(session.device), run.annotations(session))
    annotations = groups[0].first.annotations(first)
    return gallery(
        first.source,
        [name for name in first.names("val") if name in annotations.scenes],
        first.classes,
        predictors,
        annotations,
        frames=3,
        scenes=2,
        runs=len(shown),
        progress=progress,
    )
