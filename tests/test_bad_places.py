"""Disks that are full, read-only or gone, limits, clocks that jump: one clear line, and it goes on after."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures_bench import Bench
from fixtures_cli import Command, Ended
from fixtures_faults import Disk, attempt, limit
from fixtures_faults import disk as disk
from fixtures_scenes import tiny_config
from scenelift import checkpoint, cli, pipeline, progress
from scenelift.cache import Cache, cache_key
from scenelift.errors import CacheError, RunError
from scenelift.files import atomic_path, is_temp, sweep_temp_files
from scenelift.runfolder import LogFile, RunFolder, digest_of

EVERY_STEP = {"checkpoint_every": 1}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


class Commands:
    """The commands of one run, from annotation to predictions of its networks for other data."""

    def __init__(self, scenelift: Command, recipe: Path, root: Path) -> None:
        self._scenelift = scenelift
        run = root / "run"
        data = ["synthetic", "--recipe", recipe, "--out", run, "--device", "cpu"]
        self.all: dict[str, list[Any]] = {
            "annotate": ["annotate", *data],
            "train": ["train", *data],
            "evaluate": ["evaluate", run],
            "export": ["export", run, "--to", root / "labels"],
            "predict": ["predict", run, "synthetic", "--out", root / "other"],
        }
        self.root = root

    def run(self, name: str) -> Ended:
        return self._scenelift(*self.all[name])

    def results(self) -> tuple[str, Any]:
        networks = checkpoint.read_networks(self.root / "run" / "networks.safetensors")[0]
        (row,) = json.loads((self.root / "run" / "results.json").read_text())["rows"]
        return checkpoint.fingerprint(networks), {k: v for k, v in row.items() if k != "seconds"}

    def expect_nothing_half_written(self) -> None:
        assert not [path for path in self.root.rglob("*") if is_temp(path) or path.name.startswith(".tmp")]
        assert Cache(self.root / "run" / "cache").verify() == []
        for path in self.root.glob("run/**/*.json"):
            json.loads(path.read_text())
        for path in self.root.glob("run/checkpoints/*.safetensors"):
            checkpoint._read(path, "training")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_config(train=EVERY_STEP).to_yaml())
    return path


@pytest.mark.slow
def test_a_disk_that_fills_up_again_and_again(
    bench: Bench, scenelift: Command, recipe: Path, disk: Disk, tmp_path: Path
) -> None:
    """Each time twice the room: file after file is the one that finds none."""
    wanted = Commands(scenelift, recipe, tmp_path / "roomy")
    for name in wanted.all:
        assert wanted.run(name).code == 0
    have, size, left, refused = Commands(scenelift, recipe, disk.path), 24, list(wanted.all), 0
    disk.resize(size)
    while left:
        ended = have.run(left[0])
        if ended.code == 0:
            left.pop(0)
            continue
        assert "disk full" in ended.error or "No space left" in ended.error, ended.error
        refused += 1
        have.expect_nothing_half_written()
        size *= 2
        disk.resize(size)
    assert refused > 6
    assert have.results() == wanted.results()
    for part in ("labels", "other/predictions"):
        files = [p for p in (wanted.root / part).rglob("*.*") if p.is_file() and p.name != "done.json"]
        assert files
        for path in files:
            assert (disk.path / path.relative_to(wanted.root)).read_bytes() == path.read_bytes()


def test_a_read_only_disk(bench: Bench, scenelift: Command, recipe: Path, disk: Disk) -> None:
    commands = Commands(scenelift, recipe, disk.path)
    disk.read_only()
    assert "read-only" in commands.run("annotate").error.lower()
    disk.writable()
    assert commands.run("train").code == 0
    disk.read_only()
    for name in ("evaluate", "export", "predict"):
        assert "read-only" in commands.run(name).error.lower()
    disk.writable()
    assert commands.run("evaluate").code == 0


def test_a_finished_cache_may_be_read_only(
    bench: Bench, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """As a shared one that others have filled; only the end of stage 1 is then kept for nobody."""
    cache = disk.path / "cache"
    first = bench.session()
    first.cache_root = cache
    pipeline.annotate(first)
    del first  # it has a file open that says that the cache is in use
    disk.read_only()
    again = bench.session("again")
    again.cache_root = cache
    pipeline.fit(again, "x")
    assert "the end of stage 1 cannot be kept for other runs" in caplog.text
    assert again.folder.results.is_file()
    bench.label_teacher = lambda truth: type(bench.teachers[0])(truth, identity="another")  # type: ignore[arg-type,return-value]
    new = bench.session("new")
    new.cache_root = cache
    with pytest.raises(CacheError, match="read-only"):
        pipeline.annotate(new)


def test_a_limit_on_the_size_of_files(bench: Bench, scenelift: Command, recipe: Path, tmp_path: Path) -> None:
    commands = Commands(scenelift, recipe, tmp_path / "out")
    with limit(resource.RLIMIT_FSIZE, 50_000):
        error = commands.run("train").error
    assert "larger than the system allows" in error
    commands.expect_nothing_half_written()
    assert commands.run("train").code == 0


@pytest.mark.parametrize("more", [0, 1, 2, 3, 5, 8])
def test_a_limit_on_open_files(
    bench: Bench, scenelift: Command, recipe: Path, tmp_path: Path, more: int
) -> None:
    commands = Commands(scenelift, recipe, tmp_path / "out")
    held = len(os.listdir("/proc/self/fd"))
    with limit(resource.RLIMIT_NOFILE, held + more):
        ended = commands.run("train")
    if ended.code:
        assert "files" in ended.error
    commands.expect_nothing_half_written()
    assert commands.run("train").code == 0


@pytest.mark.parametrize("number", sorted(cli.SYSTEM_FAULTS))
def test_what_the_system_refuses_is_one_line_wherever_it_shows(
    scenelift: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number), "some\x1b[31m/file")

    monkeypatch.setattr("scenelift.pipeline.check", fail)
    monkeypatch.setattr("scenelift.options.open_session", lambda *args: SimpleNamespace())
    error = scenelift("train", "synthetic", "--out", tmp_path / "run").error
    assert os.strerror(number) in error
    assert "\x1b" not in error


def test_other_faults_of_the_system_are_bugs_of_ours(
    scenelift: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr("scenelift.pipeline.check", fail)
    monkeypatch.setattr("scenelift.options.open_session", lambda *args: SimpleNamespace())
    with pytest.raises(OSError, match="Invalid argument"):
        scenelift("train", "synthetic", "--out", tmp_path / "run")


# --- the log -------------------------------------------------------------------------------------------


def test_a_log_on_a_full_disk(disk: Disk) -> None:
    path, records = disk.path / "log.jsonl", [{"step": step, "seconds": 0.5} for step in range(4000)]
    disk.resize(16)
    with LogFile(path, []) as log:
        _, error = attempt(lambda: [log.add(record) for record in records])
    assert "log.jsonl: disk full" in error
    folder = RunFolder(disk.path)
    whole = folder.read_log()
    assert 0 < len(whole) < 4000
    assert whole == records[: len(whole)]


def test_the_digest_of_a_log_grows_with_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    records = [{"step": 0, "loss": 0.1}, {"step": 1, "loss": 1e-300}, {"step": 2, "shares": {"ü": [1, 2]}}]
    folder.write_log(records[:1])
    with LogFile(folder.log, records[:1]) as log:
        for number, record in enumerate(records[1:], 2):
            log.add(record)
            assert log.keep() == digest_of(records[:number])
    assert folder.read_log(digest_of(records)) == records
    assert folder.read_log_until(2, digest_of(records[:2])) == records[:2]
    with pytest.raises(RunError, match="not those that were written"):
        folder.read_log(digest_of(records[:2]))


# --- two at once, and what others remove ---------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from scenelift.runfolder import RunFolder
with RunFolder(Path(sys.argv[1])).training():
    print("held", flush=True)
    time.sleep(300)
"""


def test_two_trainings_in_one_folder(bench: Bench) -> None:
    session = bench.session()
    annotations = pipeline.annotate(session)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(session.folder.path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    try:
        with pytest.raises(RunError, match="found another one at work; wait for its end"):
            pipeline.train(session, annotations)
        assert not session.folder.log.exists()
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    pipeline.train(session, annotations)
    assert session.folder.networks.is_file()


def test_what_a_kill_left_among_the_checkpoints_is_removed(bench: Bench) -> None:
    session = bench.session()
    annotations = pipeline.annotate(session)
    folder = session.folder.checkpoint.parent
    folder.mkdir()
    (folder / ".tmpAb12Cd").write_bytes(b"half")  # of the safetensors library
    code = "import os, sys; from scenelift.files import *\n"
    code += "with atomic_path(Path(sys.argv[1])) as temp:\n temp.write_text('half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(folder / "last.safetensors")], check=False)
    assert len(list(folder.iterdir())) == 2
    pipeline.train(session, annotations)
    assert {path.name for path in folder.iterdir()} == {"last.safetensors"}


@pytest.mark.parametrize("what", ["run", "cache", "checkpoints"])
def test_what_is_removed_under_a_running_training(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """One error, or no harm; and the same again comes to the same end."""
    want = bench.train("whole", train=EVERY_STEP)
    real, folder = bench._cotrain, bench.root / "run"
    place = {"run": folder, "cache": bench.root / "other", "checkpoints": folder / "checkpoints"}[what]

    def removing(*args: Any) -> Iterator[Any]:
        for result in real(*args):
            if result.step == 1:
                shutil.rmtree(place)
            yield result

    monkeypatch.setattr(pipeline, "cotrain", removing)
    done, error = attempt(lambda: bench.train("run", "other", train=EVERY_STEP))
    assert done is not None or (what != "checkpoints" and str(place) in error)
    monkeypatch.setattr(pipeline, "cotrain", real)
    have = bench.train("run", "other", train=EVERY_STEP)
    one, two = (checkpoint.read_networks(folder.networks)[0] for folder in (have, want))
    assert checkpoint.fingerprint(one) == checkpoint.fingerprint(two)
    assert len(have.read_log()) == len(want.read_log())


# --- clocks --------------------------------------------------------------------------------------------

USE = """
import sys, time
from pathlib import Path
from scenelift.cache import Cache, cache_key
cache = Cache(Path(sys.argv[1]))
cache.hold()
assert cache.has(cache_key("masks", i=1))
print("held", flush=True)
time.sleep(300)
"""
DAY_S = 86400.0


def put(cache: Cache, i: int, age_s: float) -> Path:
    import numpy as np

    key = cache_key("masks", i=i)
    cache.put(key, {"a": np.arange(9)}, {})
    at = time.time() - age_s
    os.utime(cache.path(key), (at, at))
    return cache.path(key)


@pytest.mark.parametrize("jump_s", [0.0, 100 * DAY_S, -100 * DAY_S])
def test_pruning_leaves_what_others_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """However old it looks: the clock of whoever prunes may be anywhere."""
    cache = Cache(tmp_path)
    old, in_use = put(cache, 0, 50 * DAY_S), put(cache, 1, 50 * DAY_S)
    user = subprocess.Popen([sys.executable, "-c", USE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    assert user.stdout.readline() == "held\n"
    try:
        now = time.time() + jump_s
        monkeypatch.setattr(time, "time", lambda: now)
        for limits in ({"max_bytes": 0}, {"older_than_days": 0.0}, {"stage": "masks"}):
            cache.prune(**limits)  # type: ignore[arg-type]
            assert in_use.exists()
        assert old.exists() == (jump_s < 0)  # signs from the future: times tell nothing, so all is kept
    finally:
        user.send_signal(signal.SIGKILL)
        user.communicate()
    monkeypatch.undo()
    cache.prune(max_bytes=0)
    assert not in_use.exists()
    assert not list((tmp_path / "claims").glob("use-*"))  # nor what the dead one left


def test_a_sign_of_use_goes_with_whoever_holds_it(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    put(cache, 0, 0)
    cache.hold()
    cache.hold()
    assert len(list((tmp_path / "claims").glob("use-*.lock"))) == 1
    assert len(cache.prune(max_bytes=0)) == 1  # one's own use is no obstacle
    del cache
    assert not list((tmp_path / "claims").glob("use-*"))


def test_temporary_files_of_the_living_stay_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with atomic_path(tmp_path / "a.txt") as temp:
        temp.write_text("half")
        os.utime(temp, (1.0, 1.0))  # 1970
        monkeypatch.setattr(time, "time", lambda: 4e9)
        assert sweep_temp_files(tmp_path) == []
        other = temp.with_name(temp.name.replace(temp.name.split(".")[2], "00000000"))
        other.write_text("half")  # of another machine, just now; our clock is wrong
        assert sweep_temp_files(tmp_path) == []
        os.utime(other, (1.0, 1.0))
        assert sweep_temp_files(tmp_path) == [other]
        os.utime(temp, (5e9, 5e9))  # the future
        assert sweep_temp_files(tmp_path) == []
    assert (tmp_path / "a.txt").read_text() == "half"


def test_progress_does_not_follow_a_clock_that_is_put_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = iter(float(100 * i) for i in range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))
    monkeypatch.setattr(time, "time", lambda: -1e9)
    with progress.bars("train", 4, 0) as advance:
        for _ in range(4):
            advance("")
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "train: 1 of 4, about 300 s left"
    assert not any("-" in line.replace("train: ", "") for line in lines)


def test_entries_from_the_future_or_1970_are_read(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for i, age_s in enumerate((-1e9, 1.7e9)):
        path = put(cache, i, age_s)
        assert cache.get(cache_key("masks", i=i)) is not None
        assert abs(path.stat().st_mtime - time.time()) < 3600  # used now
    put(cache, 2, -1e9)
    assert cache.prune(older_than_days=1) == []
