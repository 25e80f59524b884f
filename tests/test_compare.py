"""Several recipes side by side."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fixtures_bench import Bench
from scenelift.compare import DEMO_DATA, DEMO_RECIPES, Comparison, compare, expect_own, spread
from scenelift.config import SyntheticData
from scenelift.errors import ConfigError, OutputError, RunError
from scenelift.recipes import load
from scenelift.report import ReportRow
from scenelift.runfolder import RunFolder

TINY = (
    "train.epochs=2", "train.switch_after=1", "train.scenes_per_step=1", "train.frames_per_scene=2",
    "pairing.depth_tolerance_m=0.1", "latent.dim=8", "networks.points.voxel_m=0.2",
)  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


@pytest.fixture
def asked(tmp_path: Path) -> Comparison:
    # a row without training keeps its 0 epochs: overrides come last, so they are left to the others
    return Comparison(
        ("base_clip", "wo_sct", "cns"), "synthetic_small", tmp_path / "out", tmp_path / "cache", "demo", TINY
    )


def test_recipes_share_annotations_and_stage_1(bench: Bench, asked: Comparison) -> None:
    rows = compare(asked, seed=3)
    assert [row.recipe for row in rows] == ["base_clip", "wo_sct", "cns"]
    assert bench.asked == 2 * 8  # the teachers once
    assert bench.begun == [0, 0, 2]  # cns goes on from the stage 1 of wo_sct
    assert all(row.miou_2d is not None and row.miou_3d is not None for row in rows)
    folder = RunFolder(asked.out / "seed3")
    results = json.loads(folder.results.read_text())
    assert [row["recipe"] for row in results["rows"]] == ["base_clip", "wo_sct", "cns"]
    assert (results["schema"], results["dataset"], results["seed"]) == (1, "synthetic", 3)
    assert [row["miou_2d"] for row in results["rows"]] == [row.miou_2d for row in rows]
    assert folder.report.is_file()
    for recipe in asked.recipes:
        assert (folder.path / recipe / "networks.safetensors").is_file()

    again = compare(asked, seed=3)
    assert (bench.steps, bench.asked) == (4 + 4 + 2, 2 * 8)
    assert [(row.miou_2d, row.seconds) for row in again] == [(row.miou_2d, row.seconds) for row in rows]


def test_a_stopped_comparison_goes_on(bench: Bench, asked: Comparison) -> None:
    bench.stop_after = 3  # in the middle of stage 2 of the first recipe
    with pytest.raises(KeyboardInterrupt):
        compare(asked, seed=0)
    assert not (asked.out / "seed0" / "results.json").exists()
    bench.stop_after = None
    assert [row.recipe for row in compare(asked, seed=0)] == list(asked.recipes)


def test_progress_names_the_recipe(bench: Bench, asked: Comparison) -> None:
    from scenelift.progress import silent

    told: list[str] = []

    def progress(what: str, total: int, done: int) -> object:
        told.append(what)
        return silent(what, total, done)

    compare(replace(asked, recipes=("wo_cns",), overrides=TINY[4:]), 0, progress)  # type: ignore[arg-type]
    assert told == ["wo_cns: annotate", "wo_cns: evaluate", "wo_cns: evaluate", "wo_cns: pictures"]
    assert bench.steps == 0


def test_another_comparison_in_the_folder(bench: Bench, asked: Comparison) -> None:
    few = replace(asked, recipes=("wo_cns",), overrides=TINY[4:])
    compare(few, 0)
    with pytest.raises(RunError, match=r"holds another run \(it differs in latent\.weight\)"):
        compare(replace(few, overrides=(*few.overrides, "latent.weight=2")), 0)


def test_no_recipe_is_told(asked: Comparison) -> None:
    with pytest.raises(ConfigError, match="at least one recipe"):
        compare(replace(asked, recipes=()), 0)


def test_the_demos_recipes_exist() -> None:
    for data in DEMO_DATA.values():
        for recipe in DEMO_RECIPES:
            config = load(recipe, (), data)
            assert isinstance(config.data, SyntheticData)
            assert (config.predict.source == "teacher") == (recipe in ("maskclip", "wo_cns"))


def row(recipe: str, miou_2d: float | None, miou_3d: float | None) -> ReportRow:
    return ReportRow(recipe, miou_2d, miou_3d, 1.0, 1.0, {}, {}, 1.0)


def test_spread_is_mean_and_sample_deviation() -> None:
    values = {0: (0.20, 0.30), 1: (0.26, 0.30), 2: (0.29, 0.36)}
    table = spread({seed: [row("a", *v), row("b", None, 0.5)] for seed, v in values.items()})
    lines = table.splitlines()
    two_d, three_d = (100 * np.array(column) for column in zip(*values.values(), strict=True))
    assert lines[0] == "| mIoU in %, 3 seeds | 2D | 3D |"
    cells = [f"{column.mean():.1f} ± {column.std(ddof=1):.1f}" for column in (two_d, three_d)]
    assert lines[2] == f"| a | {cells[0]} | {cells[1]} |"
    assert lines[3].endswith("| 50.0 ± 0.0 |")
    assert spread({0: [row("a", 0.2, 0.3)]}).splitlines()[2] == "| a | 20.0 | 30.0 |"


# --- the folder, looked at before any work -----------------------------------------------------------------


def test_a_folder_of_other_things_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear")
    with pytest.raises(RunError, match=r"found other files in it \(diary\.txt\); choose another folder"):
        expect_own(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["diary.txt"]


@pytest.mark.parametrize("names", [[], ["seed0"], ["cache"], ["cache", "seed3", "notes.txt"]])
def test_a_new_folder_or_an_earlier_demo_will_do(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    expect_own(tmp_path)
    expect_own(tmp_path / "not" / "yet")
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("below", ["", "demo", "a/b"])
def test_a_file_in_the_way_is_told(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("dear")
    with pytest.raises(OutputError, match=r"^cannot write .*file.*: a file stands where a folder is needed"):
        expect_own(tmp_path / "file" / below)


def test_a_folder_without_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **keys: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr("scenelift.compare.TemporaryFile", refuse)
    with pytest.raises(OutputError, match="no permission to write there"):
        expect_own(tmp_path / "demo")
