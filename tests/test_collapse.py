"""Label collapse: told when it comes, and never otherwise."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures_bench import Bench
from report_samples import Page
from scenelift import pipeline
from scenelift.collapse import (
    COLLAPSE_SHARE,
    LEAST_STEPS,
    WINDOW,
    Monitor,
    collapses,
    effective_classes,
    effective_series,
)
from scenelift.report.training import training_charts

NAMES = ("wall", "floor", "chair", "bed")
EVEN = (0.25, 0.25, 0.25, 0.25)
ONE = (0.01, 0.97, 0.01, 0.01)


def record(
    step: int, stage: int, own: Sequence[float], labels: Sequence[float] = EVEN, points: Any = None
) -> dict[str, Any]:
    return {
        "step": step,
        "stage": stage,
        "classes_image": own,
        "labels_image": labels,
        "classes_points": points,
        "labels_points": None if points is None else labels,
    }


def training(own_of_stage: dict[int, Sequence[Sequence[float]]], **keys: Any) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = []
    for stage, rows in own_of_stage.items():
        log += [record(len(log) + place, stage, own, **keys) for place, own in enumerate(rows)]
    return log


shares_of = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=8).filter(lambda row: sum(row) > 1e-3)


@given(shares_of)
def test_effective_classes_against_its_definition(row: list[float]) -> None:
    total = math.fsum(row)
    entropy = -math.fsum(x / total * math.log(x / total) for x in row if x > 0)
    assert effective_classes(row) == pytest.approx(math.exp(entropy), rel=1e-9)
    assert 1 - 1e-9 <= effective_classes(row) <= sum(x > 0 for x in row) + 1e-9


@given(st.integers(1, 30))
def test_equal_classes_count_themselves(count: int) -> None:
    assert effective_classes([1 / count] * count) == pytest.approx(count)


def test_series_is_of_the_mean_over_a_window_of_one_stage() -> None:
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(4), 70)
    log = training({1: rows[:40].tolist(), 2: rows[40:].tolist()})
    steps, values = effective_series(log, "classes_image")
    assert steps.tolist() == list(range(70))
    for step in range(70):
        first = max(0 if step < 40 else 40, step - WINDOW + 1)
        mean = rows[first : step + 1].mean(0)
        assert values[step] == pytest.approx(math.exp(-(mean * np.log(mean)).sum()))


def test_a_collapse_is_told_once_at_the_step_it_comes() -> None:
    fade = [tuple(np.interp(k, [0, 40], pair) for pair in zip(EVEN, ONE, strict=True)) for k in range(60)]
    log = training({1: [EVEN] * 30, 2: fade})
    monitor, told = Monitor(), []
    for entry in log:
        told += [(entry["step"], found) for found in monitor.add(entry)]
    ((step, found),) = told
    # by hand: the first window of stage 2 whose mean holds less than a third of the three further classes
    rows = np.array(fade)
    slow = next(
        30 + end
        for end in range(LEAST_STEPS - 1, 60)
        if effective_classes(rows[max(0, end - WINDOW + 1) : end + 1].mean(0)) - 1 < COLLAPSE_SHARE * 3
    )
    assert step == found.since == slow
    assert monitor.end() == []  # told before
    (last,) = collapses(log)
    assert (last.since, last.step, last.network, last.top_class) == (slow, 89, "2D", 1)
    words = last.words(NAMES)
    assert words.startswith(
        f"label collapse since step {slow}: the 2D network calls 97 % of all pixels floor: "
    )
    assert (
        "1.2 classes' worth where the teacher's labels name 4.0 (it had 4.0 at the end of stage 1)" in words
    )
    assert "\n" not in words


def test_a_network_that_recovers_ends_without_a_verdict() -> None:
    assert collapses(training({1: [EVEN] * 30, 2: [ONE] * 40 + [EVEN] * 40})) == []


def test_each_network_is_judged_on_its_own() -> None:
    log = [record(k, 1, EVEN, points=EVEN) for k in range(30)]
    log += [record(30 + k, 2, EVEN, points=ONE) for k in range(30)]
    (found,) = collapses(log)
    assert found.network == "3D"
    assert "% of all points floor" in found.words(NAMES)


def test_the_start_of_a_training_is_no_alarm() -> None:
    """Untrained networks call things at random, then all the same, then learn."""
    start = [EVEN] * 10 + [ONE] * 30 + [EVEN] * 30
    assert collapses(training({1: start, 2: [EVEN] * 30})) == []
    monitor = Monitor()
    assert all(not monitor.add(entry) for entry in training({1: start[:40]}))


def test_stage_1_alone_is_judged_at_its_end() -> None:
    dead = (0.0, 1.0, 0.0, 0.0)
    (found,) = collapses(training({1: [EVEN] * 10 + [dead] * 40}))
    assert found.since is None
    assert found.words(NAMES).startswith("stage 1 ended in label collapse: the 2D network calls 100 % of all")
    monitor = Monitor()
    told = [bool(monitor.add(entry)) for entry in training({1: [dead] * 40, 2: [dead] * 20})]
    assert told.index(True) == 40  # the first step after stage 1, and then no more
    assert sum(told) == 1
    assert collapses(training({1: [dead] * (WINDOW - 1)})) == []  # too short for a verdict


def test_dull_places_are_no_collapse() -> None:
    """A few rooms of two classes: the network names two, as the labels do."""
    dull = (0.5, 0.5, 0.0, 0.0)
    log = training({1: [EVEN] * 30}) + [record(30 + k, 2, dull, dull) for k in range(40)]
    assert collapses(log) == []


@pytest.mark.parametrize("rare", [0.5, 0.3, 0.15, 0.05, 0.01])
def test_two_classes_without_false_alarms(rare: float) -> None:
    """A network that finds half of a class, as many do, and one that overlooks a class of few pixels."""
    labels = (1 - rare, rare)
    half = training({1: [labels] * 30, 2: [(1 - rare / 2, rare / 2)] * 60}, labels=labels)
    assert collapses(half) == []
    none = training({1: [labels] * 30, 2: [(1.0, 0.0)] * 60}, labels=labels)
    assert len(collapses(none)) == (1 if rare > 0.14 else 0)


@given(st.data())
def test_noise_of_healthy_steps_is_no_alarm(data: st.DataObject) -> None:
    """Single steps may show hardly anything, as long as prediction and labels differ by chance alone."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    log = []
    for step in range(90):
        labels = rng.dirichlet(np.full(8, 0.5))
        own = labels * rng.uniform(0.5, 1.5, 8)
        log.append(record(step, 1 + (step >= 40), (own / own.sum()).tolist(), labels.tolist()))
    assert collapses(log) == []


def test_stage_1_of_an_older_log_is_no_alarm() -> None:
    """Its end is unknown, so what stage 2 begins with is the measure."""
    few = (0.9, 0.1, 0.0, 0.0)
    old = [{"step": k, "stage": 1} for k in range(30)]
    assert collapses(old + [record(30 + k, 2, few) for k in range(60)]) == []
    lost = [record(50 + k, 2, (1.0, 0.0, 0.0, 0.0)) for k in range(40)]
    (found,) = collapses(old + [record(30 + k, 2, few) for k in range(20)] + lost)
    assert found.before is None


def test_logs_that_lack_the_shares_say_nothing() -> None:
    old: list[dict[str, Any]] = [{"step": k, "stage": 1 + (k > 30), "loss": 1.0} for k in range(60)]
    broken = [{**entry, "classes_image": [math.nan, 1.0], "labels_image": "wall"} for entry in old]
    for log in (old, broken, []):
        assert collapses(log) == []
        assert len(effective_series(log, "classes_image")[0]) == 0
        assert "Effective number" not in training_charts(log)


def test_the_report_draws_networks_and_teacher() -> None:
    log = [record(k, 1 + (k >= 30), EVEN, points=EVEN) for k in range(60)]
    html = training_charts(log, ["label collapse since step 3: <all>"])
    page = Page(html)
    assert page.count("polyline") == 4
    assert sum("broken" in str(have["class"]) for have in page.find("polyline")) == 2
    assert "label collapse since step 3: <all>" in page.words


def test_a_training_on_its_own_labels_collapses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A real one: after a short stage 1 the 2D network teaches both, in steps that lose what it knew."""
    bench = Bench(tmp_path, monkeypatch)
    train = {"epochs": 15, "switch_after": 3, "lr": 0.05, "schedule": "constant"}
    session = bench.session(switch={"clip": 0.0, "image": 1.0, "points": 0.0}, train=train)
    annotations = pipeline.annotate(session)
    with caplog.at_level(logging.WARNING, "scenelift"):
        pair = pipeline.train(session, annotations)
    log = session.folder.read_log()
    told = [message for message in caplog.messages if "label collapse" in message]
    expected = collapses(log)
    assert expected
    assert len(told) >= len(expected)
    assert len({message.split("network")[0][-3:] for message in told}) == len(told)  # each network once
    row = pipeline.row(session, pipeline.evaluate(session, annotations, pair))
    assert row.warnings == [found.words(session.classes.names) for found in expected]
    pipeline.report(session, annotations, pair, [row], session.folder, "again")
    assert json.loads(session.folder.results.read_text())["rows"][0]["warnings"] == row.warnings
    words = Page(session.folder.report.read_text()).words
    assert "had trouble in training" in words
    assert row.warnings[0] in words
