"""Plans: the probe runs the real stages and touches nothing; the sums are checked by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures_bench import Bench
from fixtures_cli import Command
from fixtures_scenes import tiny_source
from scenelift import pipeline
from scenelift.errors import DataError
from scenelift.frame_stream import READERS, WRITERS
from scenelift.pipeline import Session
from scenelift.plan import duration, lines_of, plan, size
from scenelift.probe import Measured, probe, scattered

HAND = Measured(
    scenes=2,
    frames=4,
    seconds={"opening": 36.0, "reading": 18.0, "label teacher": 36.0, "mask teacher": 72.0, "encoding": 1.0},
    bytes={"labels": 100.0, "label_features": 1000.0, "masks": 10.0, "mask_features": 2000.0},
    files=4.5,
    paired_bytes=500.0,
    step_seconds={1: 360.0, 2: 720.0},
    steps=4,
    step_images=1.0,
    images=2.0,
    peak_bytes=1 << 30,
)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.integers(1, 25), st.integers(1, 16))
def test_probe_frames_are_scattered(counts: list[int], wanted: int, each: int) -> None:
    frames = {f"s{number}": count for number, count in enumerate(counts)}
    chosen = scattered(frames, wanted, each)
    assert bool(chosen) == any(counts)
    for name, indices in chosen.items():
        assert len(set(indices)) == len(indices) >= 1
        assert all(0 <= index < frames[name] for index in indices)
    assert sum(map(len, chosen.values())) <= wanted + len(chosen)


def test_scattered_means_far_apart() -> None:
    frames = dict.fromkeys("abcdefgh", 100)
    assert scattered(frames, 20, 10) == {n: tuple(range(0, 100, 10)) for n in "ae"}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_the_probe_measures_every_stage_and_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    session = bench.session()
    measured = probe(session, frames=4)
    assert list(tmp_path.iterdir()) == []
    assert measured.frames == 4
    assert bench.asked == 2 * 4
    assert set(measured.seconds) == {
        "opening", "reading", "pairing", "label teacher", "mask teacher", "encoding",
    }  # fmt: skip
    assert all(seconds > 0 for seconds in measured.seconds.values())
    assert set(measured.step_seconds) == {1, 2}
    assert measured.steps >= 2
    assert (measured.step_images, measured.images) == (2.0, 2.0)
    assert measured.files == 4 + measured.scenes / 4


def test_the_bytes_are_those_of_the_real_thing(bench: Bench) -> None:
    """All frames probed: what is planned is what annotating then takes."""
    session = bench.session()
    found = plan(session, probe(session, frames=8), session.cache_root)
    real = pipeline.annotate(session).cache.stats()
    real.pop("text")
    assert found.bytes == pytest.approx(sum(of.bytes for of in real.values()), rel=0.02)
    assert found.files == sum(of.entries for of in real.values())


def test_paired_features_are_measured_as_they_would_be_kept(bench: Bench) -> None:
    full = probe(bench.session(), frames=8)
    paired = probe(bench.session(latent={"features": "paired"}), frames=8)
    assert paired.bytes["mask_features"] == pytest.approx(full.paired_bytes, rel=0.01)


def test_fused_features_are_counted_by_scene(bench: Bench) -> None:
    session = bench.session(predict={"source": "fusion"}, train={"epochs": 0})
    measured = probe(session, frames=4)
    assert measured.seconds["fusion"] > 0
    assert measured.bytes["fused"] > 200 * 8 * 2
    assert measured.step_seconds == {}


def test_when_time_is_up_a_batch_and_a_step_are_enough(bench: Bench) -> None:
    measured = probe(bench.session(), frames=8, budget_s=0.0)
    assert measured.frames == 1
    assert measured.steps == 2  # one of each stage


def test_no_frames(bench: Bench) -> None:
    bench.source = tiny_source(num_scenes=1, frames=2)
    bench.source.frame_count = lambda name: 0  # type: ignore[method-assign]
    with pytest.raises(DataError, match="found none in any scene"):
        probe(bench.session())


def test_the_sums(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    session = bench.session()  # 2 scenes of 4 frames; 2 epochs of 2 steps, switched after the first
    found = plan(session, HAND, tmp_path / "none" / "cache", gpus=2, hosts=2)
    by_stage = {line.stage: line for line in found.lines}
    assert (found.scenes, found.frames, found.devices) == (2, 8, 4)
    assert by_stage["opening"].hours == pytest.approx(2 * 36 / 3600)
    assert by_stage["mask teacher"].hours == pytest.approx(8 * 72 / 3600)
    assert by_stage["mask teacher"].elapsed_hours == pytest.approx(8 * 72 / 3600 / 4)
    assert by_stage["reading"].elapsed_hours == pytest.approx(8 * 18 / 3600 / 4 / READERS)
    assert by_stage["encoding"].elapsed_hours == pytest.approx(8 / 3600 / 4 / WRITERS)
    assert found.annotate_hours == pytest.approx((72 + 8 * (36 + 72)) / 3600 / 4)
    assert [by_stage[f"training {n}"].units for n in (1, 2)] == [2, 2]
    assert found.train_hours == pytest.approx((2 * 2 * 360 + 2 * 2 * 720) / 3600)  # twice the images
    assert found.dominant == "training 2"
    assert found.bytes == 8 * 3110
    assert found.files == 36
    assert "does not fit" in found.warnings[0]
    assert "needs 24.3 KiB" in found.warnings[0]
    assert f"would save {size(8 * 1500)}" in found.warnings[1]
    assert "a real step has 2 images" in found.warnings[2]
    text = "\n".join(lines_of(found))
    assert "most of it is training 2" in text
    assert all(assumption in text for assumption in found.assumptions)
    assert json.loads(json.dumps(found.to_json()))["dominant"] == "training 2"


def test_a_plan_that_fits_has_no_warnings(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 40))
    measured = replace(HAND, step_images=2.0, paired_bytes=1990.0)
    assert plan(bench.session(), measured, tmp_path).warnings == ()


def test_figures_for_people() -> None:
    assert [size(n) for n in (12, 2048, 3 << 30, 5 << 50)] == ["12 B", "2 KiB", "3 GiB", "5 PiB"]
    assert [duration(h) for h in (1 / 3600, 0.5, 2.5, 12345)] == ["1 s", "30 min", "2.5 h", "12,345 h"]


def test_the_command(
    scenelift: Command, bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = scenelift(
        "plan", "synthetic", "--device", "cpu", "--frames", "2", "--seconds", "0", "--json", "--gpus", "8"
    )
    assert ended.code == 0, ended.err
    tree: dict[str, Any] = json.loads(ended.out)
    assert (tree["devices"], tree["device"]) == (8, "cpu")
    assert list(tmp_path.iterdir()) == []


def test_missing_weights(scenelift: Command, tmp_path: Path) -> None:
    ended = scenelift("plan", "synthetic", "--clip", tmp_path / "none", "--device", "cpu")
    assert str(tmp_path / "none") in ended.error


def test_a_session_is_not_touched(bench: Bench) -> None:
    session: Session = bench.session()
    probe(session, frames=2)
    assert session.opened is None
    assert not session.folder.path.exists()
