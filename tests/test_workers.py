"""`--devices`: the command in several processes; whoever dies, nothing is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scenelift import checkpoint, workers
from scenelift.errors import ConfigError, RunError

SETTINGS = [
    "train.epochs=2", "train.switch_after=1", "train.steps_per_epoch=3", "train.scenes_per_step=2",
    "train.frames_per_scene=2", "train.checkpoint_every=1", "data.train_rooms=2", "data.val_rooms=2",
]  # fmt: skip


@pytest.fixture
def unlaunched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS", workers.PARENT):
        monkeypatch.delenv(name, raising=False)


def test_one_device_is_this_process(unlaunched: None) -> None:
    from scenelift.world import ALONE

    assert workers.enter(None, None, "cpu") is ALONE
    assert workers.enter(1, 1, "cpu") is ALONE


def test_hosts_need_a_launcher(unlaunched: None) -> None:
    with pytest.raises(ConfigError, match=r"--nodes 2: .*torchrun --nnodes 2 --nproc-per-node 4"):
        workers.enter(4, 2, "cpu")


def test_launchers_are_known(unlaunched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers._launched() is None
    for name, value in {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"}.items():
        monkeypatch.setenv(name, value)
    assert workers._launched() == (4, 2)
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert workers._launched() is None
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    assert workers._launched() == (2, 3)


def children(*programs: str) -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen([sys.executable, "-c", program]) for program in programs]


SLEEP = "import time; time.sleep(100)"


@pytest.mark.parametrize(
    ("last_words", "told"),
    [
        ("import os; os.kill(os.getpid(), 9)", r"process 1 of 3 was killed \(SIGKILL\).*goes on from it"),
        ("raise SystemExit(7)", r"process 1 of 3 ended with exit code 7"),
    ],
)
def test_one_that_dies_ends_the_others(last_words: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_GRACE_SECONDS", 0.5)
    processes = children("raise SystemExit(75)", last_words, SLEEP)
    with pytest.raises(RunError, match=told) as caught:
        workers._watch(processes)
    assert "\n" not in str(caught.value)
    assert all(process.returncode is not None for process in processes)


def test_one_that_will_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_GRACE_SECONDS", 0.5)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
    processes = children("raise SystemExit(1)", deaf)
    with pytest.raises(RunError, match="process 0 of 2"):
        workers._watch(processes)
    assert processes[1].returncode in (-signal.SIGTERM, -signal.SIGKILL)


def test_an_error_that_was_told_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_GRACE_SECONDS", 0.5)
    with pytest.raises(SystemExit) as caught:
        workers._watch(children("raise SystemExit(2)", SLEEP))
    assert caught.value.code == 2
    workers._watch(children("", ""))  # all is well


def test_an_error_of_another_one_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "_GRACE_SECONDS", 0.5)
    with (tmp_path / "0").open("w+b") as first, (tmp_path / "1").open("w+b") as second:
        second.write("warning\nerror: frame ä is damaged\n".encode())
        with pytest.raises(RunError, match=r"^frame ä is damaged$"):
            workers._watch(children("raise SystemExit(75)", "raise SystemExit(2)"), [first, second])


# --- the whole command: minutes on a busy machine ------------------------------------------------------


def train(out: Path, *more: str) -> subprocess.Popen[str]:
    sets = [word for key in SETTINGS for word in ("--set", key)]
    command = ["train", "synthetic", "--recipe", "cns", "--out", str(out), "--device", "cpu"]
    cache = ["--cache", str(out.parent / "cache")]
    return subprocess.Popen(
        [sys.executable, "-m", "scenelift", *command, *cache, "--devices", "2", *sets, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def worker(watcher: int, rank: int) -> int:
    """Process id of a rank."""
    for text in Path(f"/proc/{watcher}/task/{watcher}/children").read_text().split():
        try:
            environment = Path(f"/proc/{text}/environ").read_bytes()
        except OSError:
            continue
        if f"LOCAL_RANK={rank}".encode() in environment.split(b"\0"):
            return int(text)
    raise AssertionError("no such process")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
def test_a_lost_process_costs_nothing(tmp_path: Path) -> None:
    """Killed at either rank it says so in one line, and goes on to the same networks, bit for bit."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    process = train(whole)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert out.count("networks: ") == 1
    for rank in (1, 0):
        process = train(stopped)
        log, before = stopped / "log.jsonl", 2 if rank else 4
        while process.poll() is None and (not log.is_file() or log.read_bytes().count(b"\n") < before):
            time.sleep(0.05)
        os.kill(worker(process.pid, rank), signal.SIGKILL)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 2
        told = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(told) == 1, err
        assert re.search(rf"process {rank} of 2 was killed \(SIGKILL\)", told[0]), err
        assert "Traceback" not in err
    process = train(stopped)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    one, two = (checkpoint.read_networks(run / "networks.safetensors")[0] for run in (whole, stopped))
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    logs = [
        [
            {**json.loads(line), "seconds": 0, "wait_seconds": 0}
            for line in (run / "log.jsonl").read_text().splitlines()
        ]
        for run in (whole, stopped)
    ]
    assert logs[0] == logs[1]
