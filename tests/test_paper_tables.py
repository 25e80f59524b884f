"""Tables: the paper's rows, the figures made of runs, and how they are shown."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from report_samples import Page
from scenelift.errors import ConfigError
from scenelift.recipes import load, recipe_names
from scenelift.tables import REDUCED, TABLES, Table, TableResult, markdown, measure, terminal, to_json
from scenelift.tables import write_table as write
from scenelift.tables.page import render_table_page
from scenelift.tables.rows import BELOW, CLOSE, Expectation, Row, paper_column
from table_samples import NAMES, outcome_of, sample_counts, sample_outcomes, sample_setting

TABLE2 = TABLES["table2"]
SMALL = TABLE2.only(["maskclip", "base_clip", "cns"])
SLY = "<script>alert('x')</script>|`\"&[a](http://evil)"


# --- the paper's rows ----------------------------------------------------------------------------------


def test_every_row_is_a_recipe_and_stands_once() -> None:
    for table in TABLES.values():
        assert len(set(table.recipes)) == len({row.title for row in table.rows}) == len(table.rows)
        assert {table.baseline, table.reference} <= set(table.recipes)
        for row in table.rows:
            load(row.recipe, (), "synthetic")
    assert set(TABLES["readings"].recipes) == {"cns", *recipe_names("readings")}
    assert set(TABLE2.recipes) == {"maskclip", "cns", *recipe_names("ablations")}
    assert set(TABLES["table1"].recipes) == set(recipe_names("methods"))
    assert len(TABLE2.rows) == 17
    assert len(REDUCED) == 7


def test_both_tables_tell_the_same_of_the_rows_they_share() -> None:
    for recipe in ("maskclip", "cns"):
        first, second = (
            next(row.paper for row in TABLES[name].rows if row.recipe == recipe)
            for name in ("table1", "table2")
        )
        assert second.items() <= first.items()


def test_the_papers_own_values_meet_the_expectations() -> None:
    broken = []
    for table in TABLES.values():
        for item in table.expectations:
            left, right = (
                next(row.paper for row in table.rows if row.recipe == recipe)
                for recipe in (item.left, item.right)
            )
            for kind in item.kinds:
                column = f"ScanNet {kind}"
                gap = item.relation.factor * right[column] - left[column]
                if not item.relation.low < gap < item.relation.high:
                    broken.append((item.left, kind))
    assert broken == [("w_2d", "3D")]  # 8.8 of 14.2 is more than half; the page says so


def test_only_keeps_the_tables_order_and_knows_its_rows() -> None:
    assert TABLE2.only(["cns", "maskclip"]).recipes == ("maskclip", "cns")
    with pytest.raises(ConfigError, match=r"table2: expected rows of maskclip, .*; found 'clip2scene'"):
        TABLE2.only(["cns", "clip2scene"])
    with pytest.raises(ConfigError, match="found none"):
        TABLE2.only([])


@pytest.mark.parametrize(
    ("name", "source", "kind", "expected"),
    [
        ("table1", "scannet", "3D", ("ScanNet 3D", True)),
        ("table1", "nuimages", "2D", ("nuImages 2D", True)),
        ("table1", "nuscenes", "3D", ("nuScenes 3D", True)),
        ("table1", "nuscenes", "2D", ("ScanNet 2D", False)),
        ("table2", "nuscenes", "3D", ("ScanNet 3D", False)),
        ("table1", "synthetic", "2D", ("ScanNet 2D", False)),
    ],
)
def test_the_papers_column_of_the_data(name: str, source: str, kind: str, expected: tuple[str, bool]) -> None:
    assert paper_column(TABLES[name], source, kind) == expected  # type: ignore[arg-type]


# --- figures -------------------------------------------------------------------------------------------


def result(table: Table = SMALL, seeds: int = 3, **changes: object) -> TableResult:
    numbers = range(seeds)
    return measure(table, sample_setting(numbers), sample_outcomes(table, numbers, **changes))  # type: ignore[arg-type]


def test_means_deviations_and_gaps_are_those_of_the_runs() -> None:
    outcomes = sample_outcomes(SMALL)
    found = measure(SMALL, sample_setting(), outcomes)
    assert (found.done, found.total, found.kinds) == (9, 9, ("2D", "3D"))
    mious = {
        recipe: [
            outcome.evaluation.confusion_3d.compute().miou
            for outcome in outcomes
            if outcome.run.recipe == recipe
        ]
        for recipe in SMALL.recipes
    }
    for row in found.rows:
        cell, values = row.cells["3D"], mious[row.recipe]
        assert list(cell.by_seed.values()) == values
        assert cell.mean == pytest.approx(np.mean(values))
        assert cell.deviation == pytest.approx(np.std(values, ddof=1))
        if row.recipe != "maskclip":
            assert cell.to_baseline == pytest.approx(np.mean(values) - np.mean(mious["maskclip"]))
        if row.recipe != "cns":
            assert cell.to_reference is not None
            assert cell.to_reference.mean == pytest.approx(np.mean(values) - np.mean(mious["cns"]))
            assert cell.to_reference.significant
    base, _, full = found.rows
    assert (base.cells["2D"].to_baseline, full.cells["2D"].to_reference) == (None, None)
    assert full.cells["3D"].paper_to_baseline == pytest.approx(0.335 - 0.142)
    assert (full.seconds, full.peak_bytes, full.done) == (150.0, 3 << 29, (0, 1, 2))
    assert found.rank["2D"] == (pytest.approx(1.0), 3)
    assert {check.text: check.verdict for check in found.checks} == {"Baseline below Base+CLIP": "holds"}


def test_per_class_is_the_mean_over_seeds_of_classes_that_occur() -> None:
    counts = np.zeros((2, 2, 3, 4), np.int64)
    counts[:, :, 0, 0], counts[:, 0, 0, 1] = 5, 5  # class 0 alone, half or all of it right
    outcomes = [outcome_of("cns", seed, counts[seed], np.zeros_like(counts[seed])) for seed in (0, 1)]
    outcomes[1].evaluation.confusion_2d.counts[0, 1] = 0
    found = measure(TABLE2.only(["cns"]), sample_setting((0, 1), NAMES[:3]), outcomes)
    cell = found.rows[0].cells["2D"]
    shares = [outcome.evaluation.confusion_2d.compute().iou[0] for outcome in outcomes]
    assert shares[0] != shares[1]
    assert cell.per_class == {"wall": pytest.approx(np.mean(shares))}
    assert found.kinds == ("2D",)


def two_rows(left: float, right: float, relation: object, noise: float) -> str:
    """The verdict on rows of which one class is so right, scene by scene with this noise."""
    rng = np.random.default_rng(0)
    outcomes = []
    for recipe, level in (("a", left), ("b", right)):
        for seed in range(3):
            right_of = np.round(1e4 * (level + noise * rng.normal(size=20)).clip(0, 1)).astype(np.int64)
            counts = np.zeros((20, 2, 3), np.int64)
            counts[:, 0, 0], counts[:, 0, 2] = right_of, 10_000 - right_of
            outcomes.append(outcome_of(recipe, seed, counts, np.zeros_like(counts)))
    rows = (Row("A", "a", {}), Row("B", "b", {}))
    table = Table("t", "T", rows, "a", "b", (Expectation("A and B", "a", relation, "b"),))  # type: ignore[arg-type]
    (check,) = measure(table, sample_setting((0, 1, 2), NAMES[:2]), outcomes).checks
    assert check.value is not None
    return check.verdict


@pytest.mark.parametrize(
    ("left", "right", "relation", "noise", "verdict"),
    [
        (0.3, 0.5, BELOW, 0.02, "holds"),
        (0.5, 0.3, BELOW, 0.02, "does not hold"),
        (0.5, 0.502, BELOW, 0.1, "within noise"),
        (0.5, 0.503, CLOSE, 0.001, "holds"),
        (0.5, 0.55, CLOSE, 0.01, "does not hold"),
        (0.55, 0.5, CLOSE, 0.01, "does not hold"),
        (0.5, 0.503, CLOSE, 0.1, "within noise"),
    ],
)
def test_verdicts(left: float, right: float, relation: object, noise: float, verdict: str) -> None:
    assert two_rows(left, right, relation, noise) == verdict


def test_missing_runs_are_blanks_and_counted() -> None:
    outcomes = [o for o in sample_outcomes(SMALL) if o.run.name not in ("cns, seed 0", "cns, seed 2")]
    found = measure(SMALL, sample_setting(), outcomes[:-1])  # cns has nothing left
    assert (found.done, found.total) == (6, 9)
    full = found.rows[-1].cells["2D"]
    assert (full.mean, full.deviation, full.to_baseline, full.coverage) == (None, None, None, None)
    assert found.rows[0].cells["2D"].to_reference is None
    one = measure(SMALL, sample_setting(), outcomes)
    gap = one.rows[0].cells["2D"].to_reference
    assert gap is not None
    assert gap.seeds == 1
    assert gap.mean == pytest.approx(one.rows[0].cells["2D"].by_seed[1] - one.rows[2].cells["2D"].by_seed[1])


def test_runs_of_other_tables_and_seeds_do_not_count() -> None:
    few = sample_outcomes(SMALL, (0,))
    more = [*few, *sample_outcomes(SMALL, (7,)), *sample_outcomes(TABLE2.only(["wo_ct"]), (0,))]
    assert to_json(measure(SMALL, sample_setting((0,)), more)) == to_json(
        measure(SMALL, sample_setting((0,)), few)
    )


# --- how they are shown --------------------------------------------------------------------------------


def hostile() -> TableResult:
    names = tuple(f"{name} {SLY}" for name in NAMES)
    classes = replace(sample_setting().classes, names=names)
    setting = replace(sample_setting((0,), dataset=SLY, command=SLY), classes=classes, notes=(SLY,))
    rows = tuple(replace(row, title=f"{row.title} {SLY}") for row in SMALL.rows)
    return measure(replace(SMALL, title=SLY, rows=rows), setting, sample_outcomes(SMALL, (0,)))


def nothing_measured() -> TableResult:
    nothing = np.zeros((8, 5, 6), np.int64)
    bad = outcome_of("cns", 0, nothing, nothing, math.nan)
    return measure(SMALL, sample_setting((0,)), [*sample_outcomes(SMALL, (0,))[:2], bad])


VARIANTS: dict[str, Callable[[], TableResult]] = {
    "three seeds": result,
    "one seed": lambda: result(seeds=1),
    "one scene and seed": lambda: result(seeds=1, scenes=1),
    "all of table 2": lambda: result(TABLE2, seeds=2),
    "table 1": lambda: result(TABLES["table1"], seeds=1),
    "readings": lambda: result(TABLES["readings"], seeds=1),
    "images alone": lambda: result(points=False),
    "nothing yet": lambda: measure(SMALL, sample_setting(), []),
    "some missing": lambda: measure(SMALL, sample_setting(), sample_outcomes(SMALL)[:4]),
    "no baseline": lambda: result(TABLE2.only(["base_clip", "cns"])),
    "no reference": lambda: result(TABLE2.only(["maskclip", "base_clip"])),
    "one row": lambda: result(TABLE2.only(["cns"])),
    "hostile names": hostile,
    "a row that measured nothing": nothing_measured,
}


def on_terminal(found: TableResult, width: int = 140) -> str:
    console = Console(file=StringIO(), width=width)
    for part in terminal(found):
        console.print(part)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_shown_everywhere(variant: str) -> None:
    found = VARIANTS[variant]()
    html = render_table_page(found)
    page = Page(html)
    assert page.count("h1") == 1
    assert not page.find("script")
    assert not page.find("a")
    if variant != "hostile names":
        assert not re.search(r"https?://", html)
    for text in (
        re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL),
        markdown(found),
        on_terminal(found),
    ):
        assert not re.search(r"\bnan\b|\binf\b|(?<!LSC )\bNone\b", text)
        assert variant == "hostile names" or all(row.title in text for row in found.rows)
    grids = re.findall(r"(?:^\|.*\n?)+", markdown(found), flags=re.MULTILINE)
    assert len(grids) >= 3
    for grid in grids:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in grid.splitlines()}) == 1
    for grid in grids[:3]:  # mIoU, differences, what is run
        assert len(grid.splitlines()) == len(found.rows) + 2
    tree = to_json(found)
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree
    assert (tree["schema"], tree["table"], len(tree["rows"])) == (1, found.table.name, len(found.rows))


def test_images_alone_have_no_3d_column() -> None:
    found = VARIANTS["images alone"]()
    assert found.kinds == ("2D",)
    for text in (Page(render_table_page(found)).words, markdown(found), on_terminal(found)):
        assert "3D" not in text.replace("2D-3D", "")
    assert "3D" not in to_json(found)["rows"][0]


def test_markdown_has_both_kinds_side_by_side() -> None:
    found = VARIANTS["three seeds"]()
    row, cells = found.rows[1], found.rows[1].cells
    text = markdown(found)
    figures, differences, run = re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)[:3]
    assert figures.startswith("| Row | 2D | paper (ScanNet) | 3D | paper (ScanNet) |\n")
    means = [f"{100 * cells[kind].mean:.1f} ± {100 * cells[kind].deviation:.1f}" for kind in found.kinds]
    assert f"| {row.title} | {means[0]} | 20.4 | {means[1]} | 23.8 |\n" in figures
    base, full = "Δ Baseline (paper)", "Δ Full [95 %]"
    heads = [f"{kind}: {change}" for kind in found.kinds for change in (base, full)]
    assert differences.startswith(f"| Row | {' | '.join(heads)} |\n")
    assert re.search(rf"\| {re.escape(row.title)} \| [+−][\d.]+ \(\+3.1\) \| [+−][\d.]+\*? \[", differences)
    assert f"| {row.title} | `{row.recipe}` | {row.about} | " in run


def test_what_the_page_says() -> None:
    found = VARIANTS["three seeds"]()
    words = Page(render_table_page(found)).words
    cell = found.rows[2].cells["2D"]
    assert cell.mean is not None
    assert cell.deviation is not None
    assert f"{100 * cell.mean:.1f} ± {100 * cell.deviation:.1f}" in words
    assert "paper (ScanNet)" in words
    assert "28.4" in words
    assert "of 9 runs done" not in words
    assert "4 of 9 runs done." in Page(render_table_page(VARIANTS["some missing"]())).words
    assert "1 of 3 seeds" in Page(render_table_page(VARIANTS["some missing"]())).words
    assert (
        "with one seed the noise of training is not in them"
        in Page(render_table_page(VARIANTS["one seed"]())).words
    )


def test_the_files(tmp_path: Path) -> None:
    page = write(tmp_path / "new", VARIANTS["three seeds"]())
    assert page == tmp_path / "new" / "table2.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["table2.html", "table2.json", "table2.md"]
    tree = json.loads((page.parent / "table2.json").read_text())
    assert tree["rows"][0]["2D"]["by_seed"].keys() == {"0", "1", "2"}
    assert tree["rows"][0]["2D"]["to_reference"]["seeds"] == 3
    assert tree["rows"][0]["about"].startswith("MaskCLIP: ")


def test_sample_counts_hold_what_they_promise() -> None:
    counts = sample_counts(0.7, 0, 30)
    total = counts.sum(0)
    assert np.diagonal(total).sum() / total.sum() == pytest.approx(0.75, abs=0.02)  # and a sixth of the rest
