"""Finished runs read back: a page again, several compared, and what cannot be compared."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fixtures_bench import Bench
from fixtures_browser import PHONE, overflows, serious_findings
from fixtures_cli import Command
from fixtures_scenes import CLASSES
from report_samples import Page as Parsed
from report_samples import block
from scenelift import pipeline
from scenelift.errors import DataError, RunError
from scenelift.evaluate import Evaluation
from scenelift.metrics import Confusion
from scenelift.report.comparison import render_comparison
from scenelift.saved import SavedRun, open_run, open_runs, rebuild_report
from scenelift.side_by_side import compare_runs, figures, grouped, incomparable, settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TEACHER = {"train": {"epochs": 0}, "predict": {"source": "teacher"}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with three finished runs: the teacher raw and refined, and a trained one."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = tmp_path_factory.mktemp("runs")
        bench = Bench(root, monkeypatch)
        for session in (
            bench.session("raw", recipe="raw", refine={"clip": False}, **TEACHER),
            bench.session("masks", recipe="masks", **TEACHER),
            bench.session("ours", recipe="ours"),
        ):
            pipeline.fit(session, "fit")
        yield root


@pytest.fixture
def bench(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(runs, monkeypatch)


def all_three(runs: Path) -> list[SavedRun]:
    return open_runs([runs / name for name in ("raw", "masks", "ours")])


def other_seed(run: SavedRun, seed: int, **config: object) -> SavedRun:
    """The same run with another seed and somewhat other counts."""
    assert run.evaluation is not None
    rng = np.random.default_rng(seed)
    scenes = {
        name: tuple(Confusion.from_counts(one.counts + rng.integers(0, 9, one.counts.shape)) for one in pair)
        for name, pair in run.evaluation.scenes.items()
    }
    totals = [Confusion.from_counts(sum(pair[k].counts for pair in scenes.values())) for k in (0, 1)]
    evaluation = Evaluation(*totals, 1.0, scenes)  # type: ignore[arg-type]
    changed = run.config.model_copy(update={"seed": seed, **config})
    return dataclasses.replace(run, config=changed, evaluation=evaluation)


# --- one run ---------------------------------------------------------------------------------------------


def test_a_report_is_made_again_from_what_is_saved(bench: Bench, runs: Path, tmp_path: Path) -> None:
    run = open_run(runs / "ours")
    results = run.folder.results.read_text()
    steps, asked = bench.steps, bench.asked
    rebuild_report(run, tmp_path / "again.html", "scenelift report ours", runs / "cache", "cpu")
    html = (tmp_path / "again.html").read_text(encoding="utf-8")
    assert (bench.steps, bench.asked) == (steps, asked)  # nothing is trained, no teacher asked
    assert run.folder.results.read_text() == results

    def without_command(text: str) -> str:
        return text[: text.index("Make it again")]

    old = run.folder.report.read_text(encoding="utf-8")
    assert without_command(html) == without_command(old)
    page = Parsed(html)
    assert "scenelift report ours" in page.words
    for name in ("teacher labels", "refined labels", "ours"):
        assert page.count("img", alt=f"image scene0 / f1: {name}") == 1
    assert len(block(html, "confusions")["runs"]) == 3


def test_teacher_rows_are_those_of_the_teachers_own_runs(bench: Bench, runs: Path) -> None:
    saved = json.loads((runs / "ours" / "teacher.json").read_text())
    for name, role in (("raw", "teacher"), ("masks", "refined")):
        evaluated = json.loads((runs / name / "evaluation.json").read_text())
        assert (saved[role]["2d"], saved[role]["3d"]) == (evaluated["2d"], evaluated["3d"])
    assert "teacher" not in json.loads((runs / "raw" / "teacher.json").read_text())  # it is its own row


def test_without_data_the_figures_stay(runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def gone(config: object) -> None:
        raise DataError("expected scenes in /data, found no such folder; mount it")

    monkeypatch.setattr(pipeline, "open_source", gone)
    run = open_run(runs / "ours")
    assert run.classes.names == CLASSES.names
    rebuild_report(run, tmp_path / "page.html", "x", None, "cpu")
    page = Parsed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "found no such folder" in page.words
    assert "2D: " in page.words
    assert page.count("img") == 0
    compare_runs(all_three(runs), tmp_path / "compared.html", "x", None, "cpu")
    page = Parsed((tmp_path / "compared.html").read_text(encoding="utf-8"))
    assert "found no such folder" in page.words
    assert "Class by class" in page.words


def test_without_truth_the_networks_are_compared_with_the_teacher(
    runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, monkeypatch)
    bench.source.truth = None
    pipeline.fit(bench.session(), "x")
    words = Parsed((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).words
    found = open_run(tmp_path / "run")
    alike = pipeline.report_data(
        found.session(tmp_path / "cache", "cpu"),
        found.annotations(found.session(tmp_path / "cache", "cpu")),
        found.networks("cpu"),
        [found.row()],
        "x",
        {},
    ).agreement
    assert alike is not None
    assert set(alike) == {
        "2D network and 3D network",
        "2D network and refined labels",
        "3D network and refined labels",
    }
    for who, share in alike.items():
        assert f"{who} {100 * share:.1f} %" in words
    # a slow reference: every pixel by itself
    annotations = found.annotations(found.session(tmp_path / "cache", "cpu"))
    from scenelift.predict import Predictor, teacher_config

    teacher = Predictor(teacher_config(found.config, refined=True), None, annotations)
    ours = Predictor(found.config, found.networks("cpu"), annotations)
    same = of = 0
    for name, scene in bench.source.scenes.items():
        for frame, prediction in ours.frames(scene):
            for one, other in zip(
                prediction.labels.ravel(), teacher.teacher_labels(name, frame).ravel(), strict=True
            ):
                of += int(one != 255 and other != 255)
                same += int(one == other != 255)
    assert alike["2D network and refined labels"] == pytest.approx(same / of)


# --- several ---------------------------------------------------------------------------------------------


def test_differences_are_those_of_the_confusion_matrices(bench: Bench, runs: Path) -> None:
    saved = all_three(runs)
    data = figures(grouped(saved), "x")
    assert [run.row.recipe for run in data.runs] == ["raw", "masks", "ours"]
    assert data.warnings == []
    for place, kind in enumerate(("2D", "3D")):
        mious = []
        for run, compared in zip(saved, data.runs, strict=True):
            assert run.evaluation is not None
            for name, pair in run.evaluation.scenes.items():
                assert compared.scenes[kind][name] == pytest.approx(pair[place].compute().miou)
            mious.append((run.evaluation.confusion_2d, run.evaluation.confusion_3d)[place].compute().miou)
        for compared, miou in zip(data.runs[1:], mious[1:], strict=True):
            gap = compared.gaps[kind]
            assert gap.mean == pytest.approx(miou - mious[0])
            assert gap.low is not None
            assert gap.high is not None
            assert gap.low <= gap.high
    assert not data.runs[0].gaps


def test_seeds_of_one_recipe_are_one_row(bench: Bench, runs: Path) -> None:
    raw, _, ours = all_three(runs)
    groups = grouped([raw, other_seed(ours, 2), ours, other_seed(raw, 2)])
    assert [(group.name, tuple(group.runs)) for group in groups] == [("raw", (0, 2)), ("ours", (0, 2))]
    data = figures(groups, "x")
    mious = [run.row().miou_2d for run in groups[1].runs.values()]
    row = data.runs[1]
    assert row.row.miou_2d == pytest.approx(np.mean(mious))
    assert row.deviations["2D"] == pytest.approx(np.std(mious, ddof=1))
    first = [run.row().miou_2d for run in groups[0].runs.values()]
    assert row.gaps["2D"].mean == pytest.approx(np.mean(mious) - np.mean(first))
    assert incomparable(groups) == []


def test_only_what_differs_is_listed(bench: Bench, runs: Path) -> None:
    groups = grouped(all_three(runs))
    found = settings(groups)
    assert found["refine.clip"] == ["false", "true", "true"]
    assert found["predict.source"] == ["teacher", "teacher", "networks"]
    assert found["train.epochs"] == ["0", "0", "2"]
    assert set(found) == {"refine.clip", "predict.source", "train.epochs"}


def test_what_makes_runs_hard_to_compare_is_said(bench: Bench, runs: Path) -> None:
    raw, masks, ours = all_three(runs)
    elsewhere = other_seed(masks, 0, data=masks.config.data.model_copy(update={"seed": 7}))
    assert ours.evaluation is not None
    fewer = dict(list(ours.evaluation.scenes.items())[:1])
    part = dataclasses.replace(ours, evaluation=dataclasses.replace(ours.evaluation, scenes=fewer))
    groups = grouped([raw, elsewhere, part, other_seed(part, 4)])
    told = incomparable(groups)
    assert "masks is of other data than raw (seed differ)." in told
    assert any("ours was judged by 1 scenes, raw by 2; differences are over the 1" in one for one in told)
    assert any("ours has seeds 0, 4, raw 0; differences are over the 1" in one for one in told)
    page = Parsed(render_comparison(figures(groups, "x")))
    assert page.count("p", class_="warning") == len(told)


def test_equal_names_are_told_apart(bench: Bench, runs: Path, tmp_path: Path) -> None:
    raw, _, ours = all_three(runs)
    twin = other_seed(ours, 0, train=ours.config.train.model_copy(update={"lr": 0.5}))
    names = [group.name for group in grouped([raw, ours, twin])]
    assert names[0] == "raw"
    assert names[1] == f"ours, {runs / 'ours'}"


def test_the_page_shows_all_runs_side_by_side(bench: Bench, runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "compared.html"
    compare_runs(all_three(runs), page, "scenelift report", runs / "cache", "cpu")
    html = page.read_text(encoding="utf-8")
    parsed = Parsed(html)
    for name in ("input", "masks", "raw", "ours", "ground truth"):
        assert parsed.count("img", alt=f"image scene0 / f1: {name}") == 1
    assert [layer["name"] for layer in block(html, "cloud-0")["labels"]] == ["raw", "masks", "ours"]
    assert block(html, "cloud-0")["runs"] == 3
    for heading in ("Scene by scene", "Class by class", "What was set otherwise", "Training", "Confusion"):
        assert heading in parsed.words
    assert "One seed each" in parsed.words
    assert (bench.steps, bench.asked) == (0, 0)


@pytest.mark.slow
def test_the_compared_page_is_accessible(browser: Browser, bench: Bench, runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "compared.html"
    compare_runs(all_three(runs), path, "scenelift report", runs / "cache", "cpu")
    page = browser.new_page(viewport={"width": PHONE[0], "height": PHONE[1]}, color_scheme="dark")
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.locator(".confusions").scroll_into_view_if_needed()
    page.locator(".matrix td[data-row]").first.wait_for(timeout=60_000)
    assert serious_findings(page) == []
    assert not overflows(page)
    assert page.get_by_role("radio", name="errors of masks").count() == 1
    page.close()
    assert errors == []


# --- errors ----------------------------------------------------------------------------------------------


def test_folders_that_are_no_finished_run(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"expected the folder of a run, with config\.yaml in it, found none"):
        open_runs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"expected the folder of a run"):
        open_runs([tmp_path / "empty"])
    (tmp_path / "young").mkdir()
    shutil.copy(runs / "ours" / "config.yaml", tmp_path / "young")
    with pytest.raises(RunError, match="found a run that has none yet; run `scenelift evaluate"):
        open_runs([tmp_path / "young"])
    with pytest.raises(RunError, match="found it named again"):
        open_runs([runs / "ours", runs / "raw" / ".." / "ours"])


def test_a_folder_stands_for_the_runs_in_it(runs: Path, tmp_path: Path) -> None:
    for name in ("raw", "masks", "ours"):
        shutil.copytree(runs / name, tmp_path / name)
    assert [run.folder.path.name for run in open_runs([tmp_path])] == ["masks", "ours", "raw"]
    rows = [{"recipe": name} for name in ("raw", "masks", "ours")]
    (tmp_path / "results.json").write_text(json.dumps({"rows": rows}))
    assert [run.folder.path.name for run in open_runs([tmp_path])] == ["raw", "masks", "ours"]


def test_runs_of_other_classes_are_not_compared(bench: Bench, runs: Path) -> None:
    raw, masks, _ = all_three(runs)
    config = masks.config.model_copy(update={"classes": ("wall", "floor", "lamp", "box")})
    with pytest.raises(RunError, match=r"expected the classes of .* found 4 others such as 'lamp'"):
        grouped([raw, dataclasses.replace(masks, config=config)])
    with pytest.raises(RunError, match="the same run with the same seed"):
        grouped([raw, raw])


def test_the_command(scenelift: Command, bench: Bench, runs: Path, tmp_path: Path) -> None:
    ended = scenelift("report", runs / "raw", runs / "ours", "--out", tmp_path / "c.html")
    assert ended.code == 0, ended.err
    assert f"report: {tmp_path / 'c.html'}" in ended.out
    assert "scenelift report" in (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "expected the folder of a run" in scenelift("report", tmp_path).error
    assert "expected a file, found a folder" in scenelift("report", runs / "raw", "--out", tmp_path).error
    ended = scenelift("report", runs / "raw", "--out", tmp_path / "one.html")
    assert ended.code == 0, ended.err
    assert (tmp_path / "one.html").is_file()
