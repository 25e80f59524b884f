"""What a sweep shows: curves, sentences computed from them, and the same as HTML, Markdown and JSON."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from scenelift.config import Config, SwitchConfig
from scenelift.files import atomic_write, write_json
from scenelift.report.charts import SERIES_COLORS, Line, XAxis, legend, line_chart
from scenelift.report.data import KINDS, difference, finite, percent
from scenelift.report.markup import Markup, tag
from scenelift.report.shell import code_block, html_page, scroller
from scenelift.runfolder import differences
from scenelift.runs import Outcome
from scenelift.sweep import Place, Plan, words

Kind = Literal["2D", "3D"]

LEVEL = 0.95
"""A difference counts when the t-interval of this level around the mean of its paired seeds leaves out 0."""

_WIDE = 20.0
"""Positive values whose largest is this many times the smallest are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Results:
    """A plan and what of it is finished.

    Attributes:
        plan: what was to be run.
        outcomes: by the path of a run's folder.
        command: that makes them again.
        dataset: in words.
    """

    plan: Plan
    outcomes: Mapping[Path, Outcome]
    command: str
    dataset: str

    def values(self, place: Place, recipe: str, kind: Kind) -> dict[int, float]:
        """mIoU by seed of the runs that are finished and have one."""
        found = {}
        for seed in self.plan.seeds:
            outcome = self.outcomes.get(place.runs[recipe, seed].folder.path)
            if outcome is not None:
                ended = outcome.evaluation
                confusion = ended.confusion_2d if kind == "2D" else ended.confusion_3d
                if (miou := finite(confusion.compute().miou)) is not None:
                    found[seed] = miou
        return found

    def spread(self, place: Place, recipe: str, kind: Kind) -> float | None:
        """Sample standard deviation over seeds; ``None`` where one run is all there is."""
        values = self.values(place, recipe, kind)
        runs = {place.runs[recipe, seed].folder.path for seed in values}
        return float(np.std(list(values.values()), ddof=1)) if len(runs) > 1 else None


def write_sweep(out: Path, results: Results) -> None:
    """``sweep.html``, ``sweep.md`` and ``sweep.json`` in a folder, of what is finished so far."""
    write_json(out / "sweep.json", to_json(results))
    atomic_write(out / "sweep.md", to_markdown(results).encode())
    atomic_write(out / "sweep.html", to_html(results).encode())


# --- sentences ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contrast:
    """Two recipes that differ in one thing.

    Attributes:
        topic: that thing, as the subject of a sentence.
        having: the recipe that has it.
        lacking: the recipe without.
        fails: what it means when ``having`` is below ``lacking``.
    """

    topic: str
    having: str
    lacking: str
    fails: str = "hurts"


def contrasts(plan: Plan) -> list[Contrast]:
    """Pairs of recipes from which one thing can be told, found by comparing their configurations."""
    found = []
    for a, b in itertools.permutations(plan.recipes, 2):
        having, lacking = plan.at_rest[a], plan.at_rest[b]
        changed = differences(lacking.model_dump(mode="json"), having.model_dump(mode="json"))
        sections = {path.partition(".")[0] for path in changed}
        for section, topic, has in _TOPICS:
            if sections == {section} and has(having) and not has(lacking):
                found.append(Contrast(topic, a, b))
    for recipe in plan.recipes:
        # a network is measured by the labels it learned from
        refined = plan.at_rest[recipe].refine.clip
        for reference in plan.references:
            if plan.at_rest[reference].refine.clip == refined:
                found.append(Contrast("Training beyond the teacher", recipe, reference, "ends below it"))
    return found


def _switches(config: Config) -> bool:
    switch: SwitchConfig = config.switch
    return switch.image + switch.points > 0


_TOPICS: tuple[tuple[str, str, Callable[[Config], bool]], ...] = (
    ("switch", "Label switching", _switches),
    ("refine", "Refinement by masks", lambda config: config.refine.clip),
    ("latent", "Latent consistency", lambda config: config.latent.weight > 0),
)


def sentences(results: Results, key: str) -> list[str]:
    """What one key's curves say, for each pair of recipes that can tell and each network."""
    found = []
    for contrast in contrasts(results.plan):
        for kind in KINDS:
            told = list(_gaps(results, key, contrast, kind))
            if told:
                found.append(
                    f"{contrast.topic}, {kind} ({contrast.having} − {contrast.lacking}): "
                    + ", ".join(f"{gap} at {where}" for where, gap, _ in told)
                    + f". {_verdict(contrast, told)}"
                )
    return found


def _gaps(
    results: Results, key: str, contrast: Contrast, kind: Kind
) -> Iterator[tuple[str, str, int | None]]:
    """For each value: its words, the mean gap in points with its spread, and its `sign`."""
    for place in results.plan.of(key):
        having, lacking = (results.values(place, name, kind) for name in (contrast.having, contrast.lacking))
        paired = [having[seed] - lacking[seed] for seed in having if seed in lacking]
        if paired:
            mean = difference(float(np.mean(paired)), 0.0)
            spread = f" ± {percent(float(np.std(paired, ddof=1)))}" if len(paired) > 1 else ""
            yield words(place.value), mean + spread, sign(paired)


def sign(paired: Sequence[float]) -> int | None:
    """Whether differences of paired seeds are above (1) or below (−1) zero at `LEVEL`; 0 if neither is sure.

    ``None`` for a single seed, which can tell nothing.
    """
    if len(paired) < 2:
        return None
    mean, deviation = float(np.mean(paired)), float(np.std(paired, ddof=1))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(paired) - 1)) * deviation / math.sqrt(len(paired))
    return 0 if abs(mean) <= reach else int(math.copysign(1, mean))


def _verdict(contrast: Contrast, told: Sequence[tuple[str, str, int | None]]) -> str:
    at = {found: [where for where, _, one in told if one == found] for found in (1, -1, 0, None)}
    parts = []
    if at[1]:
        parts.append(f"helps at {', '.join(at[1])}")
    if at[-1]:
        parts.append(f"{contrast.fails} at {', '.join(at[-1])}")
    if at[0]:
        parts.append(f"open at {', '.join(at[0])}")
    if at[None]:
        parts.append(f"one seed, no verdict at {', '.join(at[None])}")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _notes(results: Results) -> list[str]:
    plan = results.plan
    finished = sum(run.folder.path in results.outcomes for run in plan.runs)
    notes = (
        [] if finished == len(plan.runs) else [f"{finished} of {len(plan.runs)} runs are finished so far."]
    )
    seeds = len(plan.seeds)
    notes.append(
        f"{seeds} seeds; bars and ± are standard deviations over them, of differences over paired seeds; "
        f"“open”: the {100 * LEVEL:.0f} % t-interval of the paired difference holds 0."
        if seeds > 1
        else "One seed: how far chance reaches is not known."
    )
    for key in plan.keys:
        if kept := [recipe for recipe in plan.kept[key] if recipe in plan.recipes]:
            notes.append(f"{', '.join(kept)} set {key} themselves and keep it: their lines are level.")
        for place in plan.of(key):
            if place.held:
                notes.append(f"At {place.name} these are held at their most: {', '.join(place.held)}.")
    return notes


# --- charts ------------------------------------------------------------------------------------------


def axis_of(places: Sequence[Place]) -> tuple[list[Place], XAxis]:
    """Places from left to right, and their axis: numbers where they lie, other values side by side."""
    values = [place.value for place in places]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        ordered, at = list(places), [float(k) for k in range(len(places))]
    else:
        ordered = sorted(places, key=lambda place: float(place.value))
        numbers = [float(place.value) for place in ordered]
        wide = numbers[0] > 0 and numbers[-1] / numbers[0] > _WIDE
        at = [math.log10(number) for number in numbers] if wide else numbers
    ticks = [(x, words(place.value)) for x, place in zip(at, ordered, strict=True)]
    return ordered, XAxis(places[0].key, ticks)


def _lines(results: Results, key: str, kind: Kind) -> tuple[list[Line], XAxis]:
    places, axis = axis_of(results.plan.of(key))
    lines = []
    plan = results.plan
    for number, recipe in enumerate((*plan.references, *plan.recipes)):
        found = [
            (x, float(np.mean(list(values.values()))), results.spread(place, recipe, kind) or 0.0)
            for (x, _), place in zip(axis.ticks, places, strict=True)
            if (values := results.values(place, recipe, kind))
        ]
        if found:
            reference = recipe in plan.references
            lines.append(
                Line(
                    f"{recipe} (nothing trained)" if reference else recipe,
                    np.array([x for x, _, _ in found]),
                    np.array([mean for _, mean, _ in found]),
                    number % SERIES_COLORS,
                    reference,
                    np.array([spread for _, _, spread in found]),
                )
            )
    return lines, axis


def _panel(results: Results, key: str, kind: Kind) -> Markup | None:
    lines, axis = _lines(results, key, kind)
    if not lines:
        return None
    ends = ", ".join(f"{line.name} from {percent(line.y[0])} to {percent(line.y[-1])}" for line in lines)
    title = f"{kind}: mIoU, %, against {key}"
    return tag(
        "figure",
        tag("figcaption", title),
        legend(
            [line.name for line in lines], [line.color for line in lines], [line.dashed for line in lines]
        ),
        line_chart(lines, f"{title}: {ends}", percentages=True, axis=axis),
    )


# --- pages -------------------------------------------------------------------------------------------


def _rows(results: Results, key: str, kind: Kind) -> list[list[str]]:
    """Cells of a table: a head of values, then a recipe a row; empty if nothing was measured."""
    plan = results.plan
    places, axis = axis_of(plan.of(key))
    rows = []
    for recipe in (*plan.references, *plan.recipes):
        cells = []
        for place in places:
            values = list(results.values(place, recipe, kind).values())
            deviation = results.spread(place, recipe, kind)
            spread = "" if deviation is None else f" ± {percent(deviation)}"
            cells.append(f"{percent(float(np.mean(values)))}{spread}" if values else "–")
        rows.append([recipe, *cells])
    if all(cell == "–" for row in rows for cell in row[1:]):
        return []
    return [[f"{kind} mIoU, %", *[f"{key}={value}" for _, value in axis.ticks]], *rows]


def to_html(results: Results) -> str:
    """The page."""
    plan = results.plan
    parts = [
        tag(
            "header", tag("h1", f"Sweep of {', '.join(plan.keys)}"), tag("p", results.dataset, class_="muted")
        ),
        tag("ul", *[tag("li", note) for note in _notes(results)], class_="notes"),
    ]
    for key in plan.keys:
        charts = [chart for kind in KINDS if (chart := _panel(results, key, kind)) is not None]
        tables = [_html_table(rows) for kind in KINDS if (rows := _rows(results, key, kind))]
        told = sentences(results, key)
        parts.append(
            tag(
                "section",
                tag("h2", key),
                tag("div", *charts, class_="charts") if charts else tag("p", "No run is finished yet."),
                tag("ul", *[tag("li", sentence) for sentence in told]) if told else "",
                tag("details", tag("summary", "Numbers"), *tables) if tables else "",
            )
        )
    again = code_block(results.command)
    parts.append(tag("section", tag("h2", "Make it again"), again))
    return html_page(f"scenelift: sweep of {', '.join(plan.keys)}", parts)


def _html_table(rows: Sequence[Sequence[str]]) -> Markup:
    head = tag("tr", *[tag("th", cell, scope="col") for cell in rows[0]])
    body = [
        tag("tr", tag("th", row[0], scope="row"), *[tag("td", cell) for cell in row[1:]]) for row in rows[1:]
    ]
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="numbers")
    return scroller(rows[0][0], table)


def to_markdown(results: Results) -> str:
    """Tables and sentences."""
    lines = [f"# Sweep of {', '.join(results.plan.keys)}", "", results.dataset, ""]
    lines += [f"- {note}" for note in _notes(results)]
    for key in results.plan.keys:
        lines += ["", f"## {key}"]
        for kind in KINDS:
            rows = _rows(results, key, kind)
            for place, row in enumerate(rows):
                lines += [""] if place == 0 else []
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
                lines += ["|" + "---|" * len(row)] if place == 0 else []
        told = sentences(results, key)
        lines += ["", *[f"- {sentence}" for sentence in told]] if told else []
    return "\n".join([*lines, "", f"    {results.command}", ""])


def to_json(results: Results) -> dict[str, Any]:
    """Everything, schema 1; mIoU are shares in [0, 1], one a seed, null where a run is not finished."""
    plan = results.plan

    def of(key: str, recipe: str, kind: Kind) -> list[list[float | None]]:
        rows = [results.values(place, recipe, kind) for place in plan.of(key)]
        return [[row.get(seed) for seed in plan.seeds] for row in rows]

    return {
        "schema": 1,
        "command": results.command,
        "dataset": results.dataset,
        "seeds": list(plan.seeds),
        "runs": len(plan.runs),
        "finished": sum(run.folder.path in results.outcomes for run in plan.runs),
        "keys": [
            {
                "key": key,
                "values": [place.value for place in plan.of(key)],
                "held": [list(place.held) for place in plan.of(key)],
                "recipes": [
                    {
                        "recipe": recipe,
                        "trained": recipe not in plan.references,
                        "keeps_its_own": recipe in plan.kept[key],
                        "miou_2d": of(key, recipe, "2D"),
                        "miou_3d": of(key, recipe, "3D"),
                    }
                    for recipe in (*plan.references, *plan.recipes)
                ],
                "sentences": sentences(results, key),
            }
            for key in plan.keys
        ],
        "notes": _notes(results),
    }
