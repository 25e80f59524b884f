"""Time spent waiting for data: measured, told, and with advice where it is much."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures_bench import Bench
from report_samples import Page, sample_record
from scenelift import pipeline
from scenelift.report.training import training_charts
from scenelift.waiting import LEAST_STEPS, waiting_advice, waiting_share


def log(*waits: float | None) -> list[dict[str, Any]]:
    return [{"seconds": 2.0, **({} if wait is None else {"wait_seconds": wait})} for wait in waits]


@pytest.mark.parametrize(
    ("records", "share"),
    [([], None), (log(None, None), None), (log(1.0), 0.5), (log(0.0, 2.0, 1.0), 0.5), (log(None, 0.5), 0.25)],
)
def test_share(records: list[dict[str, Any]], share: float | None) -> None:
    assert waiting_share(records) == share


def test_advice_comes_when_it_is_much_and_known() -> None:
    assert waiting_advice(log(*[0.39] * 20)) is None
    assert waiting_advice(log(*[1.0] * (LEAST_STEPS - 1))) is None
    told = waiting_advice(log(*[1.0] * LEAST_STEPS))
    assert told is not None
    assert "waited 50 % of its time" in told
    assert "train.workers" in told


def test_the_report_says_it() -> None:
    page = Page(training_charts([sample_record(step, wait_seconds=0.15) for step in range(40)]))
    assert "40 steps took 0.2 minutes, 50 % of them waiting for data. Training waited" in page.words
    assert "waiting" not in Page(training_charts([sample_record(step) for step in range(40)])).words


@pytest.mark.parametrize("workers", [0, 1])
def test_slow_data_are_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    workers: int,
) -> None:
    bench = Bench(tmp_path, monkeypatch)
    quick, notes = pipeline.shared_batches, []

    def slow(*args: Any) -> Iterator[Any]:
        for batch in quick(*args):
            time.sleep(0.5)
            yield batch

    monkeypatch.setattr(pipeline, "shared_batches", slow)
    session = bench.session(train={"epochs": 5, "switch_after": 2, "workers": workers})

    class Shown:
        def __init__(self, what: str, total: int, done: int) -> None: ...
        def __enter__(self) -> Any:
            return notes.append

        def __exit__(self, *_: object) -> None: ...

    session.progress = Shown
    annotations = pipeline.annotate(session)
    with caplog.at_level(logging.WARNING):
        pipeline.train(session, annotations)
    records = [json.loads(line) for line in session.folder.log.read_text().splitlines()]
    assert len(records) == 10
    assert all(0.5 <= record["wait_seconds"] < record["seconds"] for record in records)
    assert all("% waiting" in note for note in notes if "loss" in note)
    told = [text for text in caplog.messages if "train.workers" in text]
    share = waiting_share(records)
    assert share is not None
    assert bool(told) == (share >= 0.2)
