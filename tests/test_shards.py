"""Shards: an even deal that everyone agrees on, the same cache as one process makes, and what is told."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures_bench import Bench
from fixtures_cli import Command, scenelift
from scenelift import annotate as annotating
from scenelift import pipeline
from scenelift import shards as shards_module
from scenelift.cache import Cache, array_digest
from scenelift.claims import Claims
from scenelift.errors import ConfigError, DataError, RunError
from scenelift.shards import Shard, annotate_shard, deal
from test_claims import content

__all__ = ["scenelift"]


@pytest.mark.parametrize("text", ["", "3", "0/8", "9/8", "3/0", "-1/8", "1/8/9", "a/b", "1.5/2", "1/1000000"])
def test_no_shard(text: str) -> None:
    with pytest.raises(ConfigError, match="--shard: expected i/n with 1 <= i <= n"):
        Shard.parse(text)


def test_shards_are_counted_from_one() -> None:
    assert Shard.parse(" 3/8 ") == Shard(3, 8)
    assert str(Shard.parse("8/8")) == "8/8"


sizes = st.lists(st.integers(0, 500), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(1, 12))
def test_every_scene_is_dealt_once_in_its_order(counts: list[int], shards: int) -> None:
    frames = {f"s{number}": count for number, count in enumerate(counts)}
    shares = deal(frames, shards)
    assert len(shares) == shards
    assert sorted(itertools.chain(*shares)) == sorted(frames)
    for share in shares:
        assert list(share) == [name for name in frames if name in share]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(2, 3))
def test_the_deal_is_near_the_best_one(counts: list[int], shards: int) -> None:
    """Against all deals there are."""
    frames = {f"s{number}": count for number, count in enumerate(counts)}
    fullest = max(sum(frames[name] for name in share) for share in deal(frames, shards))
    best = min(
        max(sum(c for c, to in zip(counts, dealt, strict=True) if to == shard) for shard in range(shards))
        for dealt in itertools.product(range(shards), repeat=len(counts))
    )
    assert fullest <= best * (4 / 3 - 1 / (3 * shards)) + 1e-9


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_all_shards_together_are_one_process(bench: Bench) -> None:
    told = [annotate_shard(bench.session(), Shard(index, 3)) for index in (1, 3, 2)]
    assert [str(result) for result in told] == [
        "shard 1/3 done: 4 frames; 4 of 8 frames of all shards are in the cache",
        "shard 3/3 done: 0 frames; 4 of 8 frames of all shards are in the cache",
        "shard 2/3 done: 4 frames; all 8 frames are in the cache: go on without --shard",
    ]
    asked = bench.asked
    assert asked == 2 * 8
    assert not bench.session().folder.annotations.exists()
    together = pipeline.annotate(bench.session())
    assert bench.asked == asked
    alone = bench.session("alone", "alone_cache")
    pipeline.annotate(alone)
    assert bench.session().folder.annotations.read_bytes() == alone.folder.annotations.read_bytes()
    assert content(together.cache) == content(alone.cache)


def test_what_another_data_set_or_number_of_shards_left_is_not_counted(bench: Bench) -> None:
    annotate_shard(bench.session(), Shard(1, 2))
    assert annotate_shard(bench.session(), Shard(1, 4)).done == 4
    (first, _) = (bench.root / "cache" / "shards").iterdir()
    for note in first.parent.rglob("*.json"):
        note.write_text("{", encoding="utf-8")
    assert annotate_shard(bench.session(), Shard(2, 2)).done == 4
    assert Cache(bench.root / "cache").verify() == []


def test_a_stopped_shard_says_how_far_it_came_and_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "SECONDS_BETWEEN_NOTES", 0.0)
    real = bench.label_teacher
    bench.label_teacher = lambda truth: real(truth, die_after=3)
    with pytest.raises(KeyboardInterrupt):
        annotate_shard(bench.session(), Shard(1, 1))
    (note,) = (bench.root / "cache" / "shards").rglob("*.json")
    assert 0 <= json.loads(note.read_text())["frames_done"] <= 3  # what is still written then is not told
    bench.label_teacher = real
    assert annotate_shard(bench.session(), Shard(1, 1)).done == 8
    assert json.loads(note.read_text()) == {"frames_done": 8}


def test_a_shard_in_the_folder_of_another_run(bench: Bench) -> None:
    bench.session(seed=1).folder.claim(bench.session(seed=1).config)
    with pytest.raises(RunError, match="holds another run"):
        annotate_shard(bench.session(), Shard(1, 2))


def test_bad_data_of_one_shard_are_told_by_it_alone(bench: Bench) -> None:
    real = bench.source.scene

    def scene(name: str):  # type: ignore[no-untyped-def]
        if name == "scene1":
            raise DataError("scene1 is damaged")
        return real(name)

    bench.source.scene = scene  # type: ignore[method-assign]
    assert annotate_shard(bench.session(), Shard(1, 2)).done == 4
    with pytest.raises(DataError, match="scene1"):
        annotate_shard(bench.session(), Shard(2, 2))


def test_a_holder_that_never_lets_go_is_not_waited_for_forever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a machine that died and left its locks on a network file system."""
    monkeypatch.setattr(annotating, "SECONDS_BETWEEN_LOOKS", 0.02)
    monkeypatch.setattr(annotating, "PATIENCE_S", 0.3)
    frames = [frame for scene in bench.source.scenes.values() for frame in scene.frames]
    with Claims(bench.root / "cache") as dead:
        for frame in frames[:5]:
            dead.take(array_digest(frame.image))
        annotations = pipeline.annotate(bench.session())
    assert "waiting for 5 frames" in caplog.text
    assert bench.asked == 2 * 8
    alone = bench.session("alone", "alone_cache")
    assert content(annotations.cache) == content(pipeline.annotate(alone).cache)


SMALL = ("--set", "data.train_rooms=2", "--set", "data.val_rooms=0", "--set", "data.frames_per_room=2",
         "--set", "data.width=40", "--set", "data.height=32")  # fmt: skip


def test_the_command(scenelift: Command, tmp_path: Path) -> None:
    command = ("annotate", "synthetic", "--out", tmp_path / "run", "--device", "cpu", *SMALL)
    ended = scenelift(*command, "--shard", "2/2")
    assert ended.code == 0
    assert ended.out == "shard 2/2 done: 2 frames; 2 of 4 frames of all shards are in the cache\n"
    ended = scenelift(*command)
    assert ended.code == 0
    assert "2 from the cache" in ended.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--shard", "3/2"), "--shard: expected i/n"),
        (("--shard", "1/2", "--preview", "4"), "--preview"),
        (("--shard", "1/2", "--ray", "local"), "give either"),
        (("--ray-workers", "2"), "--ray-workers goes with --ray"),
    ],
)
def test_bad_options_leave_nothing(
    scenelift: Command, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    ended = scenelift("annotate", "synthetic", "--out", tmp_path / "run", *options)
    assert told in ended.error
    assert not (tmp_path / "run").exists()
