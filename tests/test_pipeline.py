"""A run from data to report on tiny scenes: done once, stopped anywhere, gone on, shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fixtures_bench import Bench
from fixtures_scenes import CLASSES, FakeLabelTeacher, tiny_config, tiny_source
from scenelift import checkpoint, pipeline
from scenelift.config import Config
from scenelift.errors import ConfigError, DataError, RunError
from scenelift.files import read_ply_points
from scenelift.pipeline import Session
from scenelift.runfolder import RunFolder
from scenelift.world import World

WHOLE = 4
"""Steps of the tiny training: two epochs of two scenes; the second epoch is stage 2."""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def log_of(folder: RunFolder) -> list[dict[str, Any]]:
    return [
        {key: v for key, v in record.items() if not key.endswith("seconds")} for record in folder.read_log()
    ]


def assert_same_training(have: RunFolder, want: RunFolder) -> None:
    one, two = (checkpoint.read_networks(folder.networks)[0] for folder in (have, want))
    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    assert log_of(have) == log_of(want)


# --- once, and not twice -------------------------------------------------------------------------------


def checked_results(path: Path, rows: int) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(path.read_text())
    assert list(results) == ["schema", "recipe", "dataset", "seed", "rows"]
    assert results["schema"] == 1
    assert len(results["rows"]) == rows
    for row in results["rows"]:
        assert list(row) == [
            "recipe", "miou_2d", "miou_3d", "coverage_2d", "coverage_3d",
            "per_class_2d", "per_class_3d", "seconds", "warnings",
        ]  # fmt: skip
    return results


def test_fit_makes_everything_once(bench: Bench) -> None:
    session = bench.session()
    pipeline.fit(session, "scenelift fit tiny")
    folder = session.folder
    assert (bench.steps, bench.asked) == (WHOLE, 2 * 8)
    assert [record["step"] for record in folder.read_log()] == list(range(WHOLE))
    results = checked_results(folder.results, rows=1)
    row = results["rows"][0]
    assert (results["recipe"], results["dataset"], results["seed"]) == ("tiny", "synthetic", 0)
    assert 0 < row["miou_2d"] <= 1
    assert row["coverage_2d"] == row["coverage_3d"] == 1
    assert set(row["per_class_2d"]) == set(CLASSES.names)
    page = folder.report.read_text()
    assert "scenelift fit tiny" in page
    assert "No label was used in training" in page
    for name, scene in bench.source.scenes.items():
        out = folder.predictions / name
        assert sorted(p.name for p in (out / "labels").iterdir()) == ["f0.png", "f1.png", "f2.png", "f3.png"]
        assert sorted(p.stem for p in (out / "overlays").iterdir()) == ["f0", "f1", "f2", "f3"]
        points, _ = read_ply_points(out / "points.ply")
        np.testing.assert_array_equal(points, scene.points_world)
        labels = np.array(Image.open(out / "labels" / "f0.png"))
        assert labels.shape == (24, 32)
        assert labels.max() < 4

    # a second start finds all of it
    written = {p: p.stat().st_mtime_ns for p in folder.predictions.rglob("*.[pj]*")}
    assert len(written) > 16
    again = bench.session()
    bench.source.read.clear()
    pipeline.fit(again, "scenelift fit tiny")
    assert (bench.steps, bench.asked) == (WHOLE, 2 * 8)
    assert {p: p.stat().st_mtime_ns for p in written if p.name != "done.json"} == {
        p: t for p, t in written.items() if p.name != "done.json"
    }
    assert json.loads(folder.results.read_text()) == results


def test_the_time_of_a_row_is_what_was_recorded(bench: Bench) -> None:
    session = bench.session()
    annotations = pipeline.annotate(session)
    pair = pipeline.train(session, annotations)
    evaluation = pipeline.evaluate(session, annotations, pair)
    row = pipeline.row(session, evaluation)
    expected = sum(record["seconds"] for record in session.folder.read_log()) + evaluation.seconds
    assert row.seconds == pytest.approx(expected)
    reread = pipeline.evaluate(bench.session(), annotations, pair)
    assert reread.seconds == evaluation.seconds  # read back, not done again
    assert pipeline.row(session, reread).seconds == row.seconds
    blank = pipeline.row(session, None)
    assert blank.miou_2d is None
    assert blank.confusion_2d is None


def test_predictions_of_another_run_are_done_again(bench: Bench) -> None:
    session = bench.session()
    annotations = pipeline.annotate(session)
    pair = pipeline.train(session, annotations)
    out = session.folder.predictions
    shares = pipeline.predict(session, annotations, pair, out)
    for kind in ("2D", "3D"):
        assert list(shares[kind]) == list(CLASSES.names)
        assert sum(shares[kind].values()) == pytest.approx(1)
    counted = np.bincount(
        np.concatenate([np.array(Image.open(p)).reshape(-1) for p in out.rglob("labels/*.png")]), minlength=4
    )
    assert list(shares["2D"].values()) == pytest.approx(list(counted / counted.sum()))
    assert pipeline.predict(bench.session(), annotations, pair, out) == shares  # read from done.json
    bench.source.read.clear()
    other = Session(tiny_config(predict={"post_refine": True}), session.folder, session.cache_root)
    pipeline.predict(other, annotations, pair, out)
    assert bench.source.read == ["scene0", "scene1"]
    assert json.loads((out / "done.json").read_text())["digest"] != pipeline._predictions_digest(
        session, annotations, pair
    )


def test_without_validation_scenes_those_learned_from_are_judged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a part of a data set that has none of the official validation scenes."""
    scenes = tuple(bench.source.scenes)
    monkeypatch.setattr(bench.source, "names", lambda split: scenes if split == "train" else ())
    session = bench.session()
    pipeline.fit(session, "x")
    row = checked_results(session.folder.results, rows=1)["rows"][0]
    assert row["miou_2d"] is not None
    assert row["coverage_3d"] == 1
    assert len(list(session.folder.predictions.glob("*/points.ply"))) == len(scenes)
    assert "No scene was set apart" in session.folder.report.read_text()


# --- stopped and gone on -------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3])
def test_training_goes_on_after_a_kill_at_any_step(bench: Bench, every: int) -> None:
    train = {"checkpoint_every": every, "epochs": 3}
    want = bench.train("whole", "cache of the whole", train=train)
    bench.steps, bench.stop_after = 0, 2
    for _ in range(10):
        try:
            have = bench.train("stopped", "cache", train=train)
            break
        except KeyboardInterrupt:
            assert not (bench.root / "stopped" / "networks.safetensors").exists()
            if every == 3:  # between checkpoints a kill loses the steps since: without progress, no end
                bench.stop_after = (bench.stop_after or 0) + 1
    assert bench.steps == 6 if every == 1 else bench.steps > 6
    assert_same_training(have, want)


def test_annotation_goes_on_after_a_kill(bench: Bench) -> None:
    bench.label_teacher = lambda truth: FakeLabelTeacher(truth, die_after=4)
    with pytest.raises(KeyboardInterrupt):
        pipeline.annotate(bench.session())
    assert bench.asked == 2 * 4  # the first scene
    bench.label_teacher = FakeLabelTeacher
    pipeline.annotate(bench.session())
    assert bench.asked == 2 * 8


def test_prediction_goes_on_after_a_kill(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    session = bench.session()
    annotations = pipeline.annotate(session)
    pair = pipeline.train(session, annotations)
    with monkeypatch.context() as patch:
        real = bench.source.scene

        def die(name: str) -> Any:
            if name == "scene1":
                raise KeyboardInterrupt
            return real(name)

        patch.setattr(bench.source, "scene", die)
        with pytest.raises(KeyboardInterrupt):
            pipeline.predict(session, annotations, pair, session.folder.predictions)
    bench.source.read.clear()
    shares = pipeline.predict(bench.session(), annotations, pair, session.folder.predictions)
    assert bench.source.read == ["scene1"]
    fresh = pipeline.predict(session, annotations, pair, bench.root / "elsewhere")
    assert shares == fresh


def test_a_lost_cache_is_made_again(bench: Bench) -> None:
    pipeline.fit(bench.session(), "x")
    bench.session().cache.prune(max_bytes=0)
    pipeline.fit(bench.session(), "x")
    assert (bench.steps, bench.asked) == (WHOLE, 2 * 2 * 8)


@pytest.mark.parametrize("file", ["networks", "checkpoint"])
def test_a_damaged_file_is_told(bench: Bench, file: str) -> None:
    folder = bench.train()
    if file == "checkpoint":
        folder.networks.unlink()
    path: Path = getattr(folder, file)
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"is damaged .*delete it"):
        bench.train()
    path.unlink()
    bench.train()
    assert bench.steps == WHOLE + (WHOLE // 2 if file == "checkpoint" else 0)  # stage 1 is in the cache


def test_a_damaged_checkpoint_costs_the_steps_since_the_previous_one(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    train = {"checkpoint_every": 1}
    want = bench.train("whole", train=train)
    bench.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        bench.train("stopped", "another cache", train=train)
    folder = RunFolder(bench.root / "stopped")
    content = bytearray(folder.checkpoint.read_bytes())
    content[-9] ^= 4
    folder.checkpoint.write_bytes(content)
    bench.stop_after = None
    assert_same_training(bench.train("stopped", "another cache", train=train), want)
    assert bench.begun[-1] == 2
    assert "going on from previous.safetensors, step 2" in caplog.text
    assert {item.name for item in folder.checkpoint.parent.iterdir()} == {
        "last.safetensors", "previous.safetensors", "damaged.safetensors",
    }  # fmt: skip


def test_a_log_cut_short_by_a_kill_is_mended(bench: Bench) -> None:
    folder = bench.train()
    want = folder.read_log()
    folder.networks.unlink()
    with folder.log.open("a") as log:
        log.write('{"step": 4, "lo')
    bench.train()
    assert folder.read_log() == want


def test_devices_that_scenes_cannot_be_dealt_to_are_told_first(bench: Bench) -> None:
    session = bench.session()
    session.world = World(0, 3)
    with pytest.raises(ConfigError, match="a multiple of 3"):
        pipeline.annotate(session)
    assert bench.asked == 0
    assert not session.folder.path.exists()


# --- stage 1 is shared ---------------------------------------------------------------------------------

WO_SCT = {"clip": 1.0, "image": 0.0, "points": 0.0}


def test_recipes_that_differ_in_stage_2_share_stage_1(bench: Bench) -> None:
    train = {"checkpoint_every": 1000}
    bench.train("wo_sct", switch=WO_SCT, train=train)
    assert bench.steps == WHOLE
    branched = bench.train("cns", switch={"granularity": "pixel"}, train=train)
    assert bench.steps == WHOLE + WHOLE // 2
    alone = bench.train("alone", "another cache", switch={"granularity": "pixel"}, train=train)
    assert bench.steps == 2 * WHOLE + WHOLE // 2
    assert_same_training(branched, alone)
    assert len(branched.read_log()) == WHOLE
    assert [r["stage"] for r in branched.read_log()] == [1, 1, 2, 2]
    shared = RunFolder(bench.root / "wo_sct").read_log()[:2]
    assert branched.read_log()[:2] == shared  # its time included


def first_step(bench: Bench, name: str, change: dict[str, Any]) -> int:
    """The step at which a run begins that shares the cache of others."""
    bench.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        bench.train(name, **change)
    return bench.begun[-1]


def test_only_what_agrees_in_stage_1_is_shared(bench: Bench) -> None:
    bench.train("first")
    apart: list[dict[str, Any]] = [
        {"seed": 1},
        {"refine": {"clip": False}},
        {"latent": {"weight": 0.0}},
        {"train": {"epochs": 3}},
        {"train": {"switch_after": 2, "epochs": 3}},
        {"augment": {"hflip": 0.0}},
        {"networks": {"points": {"voxel_m": 0.3}}},
        {"classes": ["wall", "floor", "box"]},
        {"pairing": {"depth_tolerance_m": 0.01}},
    ]
    for number, change in enumerate(apart):
        assert first_step(bench, f"apart{number}", change) == 0, change
    together: list[dict[str, Any]] = [
        {"refine": {"image": False, "points": False}},
        {"switch": {"own_only": True}},
        {"predict": {"ensemble": True}},
    ]
    for number, change in enumerate(together):
        assert first_step(bench, f"together{number}", change) == WHOLE // 2, change


def test_training_of_stage_1_alone_leaves_nothing_to_share(bench: Bench) -> None:
    session = bench.session(train={"switch_after": 2})
    pipeline.train(session, pipeline.annotate(session))
    assert "stage1" not in session.cache.stats()


# --- recipes without training, data without truth ------------------------------------------------------


def test_a_recipe_without_training(bench: Bench) -> None:
    session = bench.session(train={"epochs": 0}, predict={"source": "teacher"}, refine={"clip": False})
    annotations = pipeline.annotate(session)
    assert pipeline.train(session, annotations) is None
    pipeline.fit(session, "x")
    assert bench.steps == 0
    assert not session.folder.networks.exists()
    row = checked_results(session.folder.results, rows=1)["rows"][0]
    assert row["miou_2d"] > 0.5  # the fake teacher knows the truth but for the cells' borders
    assert row["coverage_3d"] > 0.8


def test_without_truth_label_shares_stand_in(bench: Bench) -> None:
    bench.source.truth = None
    session = bench.session()
    pipeline.fit(session, "x")
    row = checked_results(session.folder.results, rows=1)["rows"][0]
    assert row["miou_2d"] is row["miou_3d"] is row["coverage_2d"] is None
    assert row["per_class_2d"] == {}
    assert row["seconds"] > 0
    page = session.folder.report.read_text()
    assert "There is no ground truth here" in page
    assert not session.folder.evaluation.exists()
    annotations = pipeline.annotate(session)
    pair = pipeline.train(session, annotations)
    with pytest.raises(DataError, match="no ground truth"):
        pipeline.evaluate(session, annotations, pair)


@pytest.mark.parametrize(
    ("kind", "note"), [("simulated", "simulated from ground truth"), ("embedded", "very weak")]
)
def test_the_report_says_what_the_teachers_are(bench: Bench, kind: str, note: str) -> None:
    session = bench.session(
        train={"epochs": 0},
        predict={"source": "teacher"},
        teachers={"labels": {"kind": kind}, "masks": {"kind": kind}},
    )
    pipeline.fit(session, "x")
    page = session.folder.report.read_text()
    assert note in page
    assert page.count("very weak") + page.count("simulated from ground truth") == 1


# --- the session ---------------------------------------------------------------------------------------


def test_classes_come_from_the_run_or_from_the_data(bench: Bench) -> None:
    assert bench.session("a").classes is CLASSES
    named = bench.session("b", classes=["box / crate", "wall"]).classes
    assert named.names == ("box", "wall")
    assert named.prompts == (("box", "crate"), ("wall",))
    bench.source.classes = None
    with pytest.raises(ConfigError, match="--classes"):
        bench.session("a").classes


def test_names_of_splits_stand_once(bench: Bench) -> None:
    assert bench.session().names("train", "val") == ("scene0", "scene1")


def test_check_raises_what_it_finds(tmp_path: Path) -> None:
    config = Config.model_validate({"data": {"source": "capture", "path": str(tmp_path / "nowhere")}})
    with pytest.raises(DataError, match="nowhere"):
        pipeline.check(Session(config, RunFolder(tmp_path / "run"), tmp_path / "cache"))


def test_check_reports_on_good_data(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from scenelift.check import check_source, raise_if_bad

    monkeypatch.setattr(pipeline, "check_source", check_source)
    monkeypatch.setattr(pipeline, "raise_if_bad", raise_if_bad)
    bench.source = tiny_source(size=(48, 64))
    assert pipeline.check(bench.session()).ok
