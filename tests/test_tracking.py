"""Trackers hear of every step once, and nothing of a training depends on them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fixtures_bench import Bench
from fixtures_cli import Command
from scenelift import checkpoint, pipeline
from scenelift.config import Config
from scenelift.errors import ConfigError
from scenelift.files import read_json
from scenelift.runfolder import RunFolder
from scenelift.tracking import TensorBoard, open_trackers


class Fake:
    """Keeps what it hears (a `Tracker`)."""

    heard: list[Any]

    def __init__(self) -> None:
        self.heard = []

    def start(self, config: Config, folder: Path) -> None:
        self.heard.append(("start", config.recipe, folder.name))

    def step(self, record: Mapping[str, Any]) -> None:
        self.heard.append(dict(record))

    def result(self, row: Mapping[str, Any]) -> None:
        self.heard.append(("result", row["recipe"], row["miou_3d"]))

    def close(self) -> None:
        self.heard.append("close")


class Broken(Fake):
    """Fails at its second step, as when a net goes down."""

    def step(self, record: Mapping[str, Any]) -> None:
        super().step(record)
        if record["step"] == 1:
            raise ConnectionError("no route to host")


class Half:
    """Lacks most of a tracker."""

    def start(self, config: Config, folder: Path) -> None: ...


class Wants:
    """Cannot be made without arguments."""

    def __init__(self, project: str) -> None: ...


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def states(folder: RunFolder) -> dict[str, torch.Tensor]:
    return checkpoint.read_networks(folder.networks)[0]


# --- the protocol --------------------------------------------------------------------------------------


def test_a_tracker_hears_everything_and_changes_nothing(bench: Bench) -> None:
    fake = Fake()
    session = bench.session("tracked", "cache1")
    session.trackers = (fake,)
    pipeline.fit(session, "fit")
    plain = bench.session("plain", "cache2")
    pipeline.fit(plain, "fit")
    log = session.folder.read_log()
    row = read_json(session.folder.results)["rows"][0]
    heard = [json.loads(json.dumps(item)) if isinstance(item, dict) else item for item in fake.heard]
    assert heard == [
        ("start", "tiny", "tracked"), *log, "close",
        ("start", "tiny", "tracked"), ("result", "tiny", row["miou_3d"]), "close",
    ]  # fmt: skip
    assert len(log) == 4
    one, two = states(session.folder), states(plain.folder)
    assert all(torch.equal(one[key], two[key]) for key in two)
    assert session.folder.config.read_bytes() == plain.folder.config.read_bytes()


def test_a_run_that_was_stopped_is_told_of_from_where_it_goes_on(bench: Bench) -> None:
    fake = Fake()
    for stop in (2, None):
        bench.stop_after = stop
        session = bench.session(train={"checkpoint_every": 1})
        session.trackers = (fake,)
        annotations = pipeline.annotate(session)
        if stop:
            with pytest.raises(KeyboardInterrupt):
                pipeline.train(session, annotations)
            assert fake.heard[-1] == "close"
        else:
            pipeline.train(session, annotations)
    steps = [heard["step"] for heard in fake.heard if isinstance(heard, dict)]
    assert steps == [record["step"] for record in session.folder.read_log()] + (
        [1] if steps.count(1) > 1 else []
    )


def test_one_that_fails_is_left_out_and_training_goes_on(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    broken, fake = Broken(), Fake()
    session = bench.session()
    session.trackers = (broken, fake)
    with caplog.at_level(logging.WARNING, "scenelift.tracking"):
        pipeline.train(session, pipeline.annotate(session))
    assert len(broken.heard) == 3  # the start and two steps, no close
    assert len(fake.heard) == 4 + 2
    told = [record.getMessage() for record in caplog.records if record.name == "scenelift.tracking"]
    assert told == ["tracker Broken failed and is left out from here on (ConnectionError: no route to host)"]


# --- TensorBoard ---------------------------------------------------------------------------------------


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag, as TensorBoard itself reads them."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_back_every_step(bench: Bench) -> None:
    session = bench.session()
    session.trackers = (TensorBoard(),)
    pipeline.fit(session, "fit")
    log, found = session.folder.read_log(), scalars(session.folder.path)
    for key in ("loss", "loss_image", "lr", "stage", "seconds", "pairs"):
        assert [step for step, _ in found[key]] == [0, 1, 2, 3]
        assert [value for _, value in found[key]] == pytest.approx([r[key] for r in log], rel=1e-6)
    shares = [record["source_image"]["clip"] for record in log]
    assert [value for _, value in found["source_image/clip"]] == pytest.approx(shares)
    assert "step" not in found
    assert "classes_image" not in found
    row = read_json(session.folder.results)["rows"][0]
    assert found["result/miou_2d"] == [(4, pytest.approx(row["miou_2d"]))]
    # the result is told again, and counts once
    pipeline.fit(session, "fit")
    assert scalars(session.folder.path) == found


def test_tensorboard_has_no_step_twice_after_a_kill(bench: Bench) -> None:
    bench.stop_after = 3
    session = bench.session(train={"checkpoint_every": 2})
    session.trackers = (TensorBoard(),)
    annotations = pipeline.annotate(session)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(session, annotations)
    assert [step for step, _ in scalars(session.folder.path)["loss"]] == [0, 1, 2]
    bench.stop_after = None
    again = bench.session(train={"checkpoint_every": 2})
    again.trackers = (TensorBoard(),)
    pipeline.train(again, pipeline.annotate(again))
    assert bench.begun == [0, 2]  # the third was undone
    found = scalars(session.folder.path)["loss"]
    want = [(record["step"], pytest.approx(record["loss"], rel=1e-6)) for record in again.folder.read_log()]
    assert found == want


def test_steps_before_the_tracker_are_told_of_too(bench: Bench) -> None:
    bench.stop_after = 2
    session = bench.session(train={"checkpoint_every": 1})
    annotations = pipeline.annotate(session)
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(session, annotations)
    bench.stop_after = None
    session = bench.session(train={"checkpoint_every": 1})
    session.trackers = (TensorBoard(),)
    pipeline.train(session, annotations)
    assert [step for step, _ in scalars(session.folder.path)["loss"]] == [0, 1, 2, 3]


# --- by name -------------------------------------------------------------------------------------------


def test_trackers_by_name() -> None:
    assert open_trackers(None) == ()
    (board,) = open_trackers(["tensorboard", "tensorboard"])
    assert isinstance(board, TensorBoard)
    (own,) = open_trackers(["test_tracking:Fake"])
    assert own.heard == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wandb", "expected tensorboard or package.module:Class, found 'wandb'"),
        (":Fake", "expected tensorboard or package.module:Class"),
        ("nowhere.at_all:Thing", "ModuleNotFoundError"),
        ("test_tracking:Nobody", "AttributeError"),
        ("test_tracking:Wants", "made without arguments"),
        ("test_tracking:Half", "found no step; see scenelift.tracking.Tracker"),
    ],
)
def test_what_is_no_tracker_is_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        open_trackers([name])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_tensorboard_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scenelift.tracking.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "scenelift\[tensorboard\]"'):
        open_trackers(["tensorboard"])


@pytest.mark.parametrize("command", ["train", "fit"])
def test_the_command_line_refuses_before_any_work(scenelift: Command, tmp_path: Path, command: str) -> None:
    ended = scenelift(command, "synthetic", "--out", tmp_path / "out", "--track", "nonsense")
    assert "--track: expected tensorboard" in ended.error
    assert not (tmp_path / "out").exists()
