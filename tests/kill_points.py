"""A tiny run in a process of its own that kills itself at a chosen moment, as a power cut would.

Moments are counted: every call of ``os.fsync`` and ``os.replace`` (before it happens), every step of training
once it is computed and before it is logged, every scene of the evaluation. A run that dies at each of them in
turn has been interrupted at every point at which anything on disk changes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fixtures_scenes import FakeLabelTeacher, FakeMaskTeacher, tiny_config, tiny_source
from scenelift import pipeline
from scenelift.cache import Cache
from scenelift.entries import Key
from scenelift.pipeline import Session
from scenelift.predict import Predictor
from scenelift.runfolder import RunFolder

STAGES = ("annotate", "train", "evaluate")


class Ended(NamedTuple):
    """How a start of the run came to its end.

    Attributes:
        code: exit code; −9 = killed.
        stage: in which it died, or ``"done"``.
        moment: what it was about to do.
        moments: how many it lived through.
    """

    code: int
    stage: str
    moment: str
    moments: int


def start(root: Path, die_at: int | None = None, after_s: float | None = None) -> Ended:
    """Begin the run below ``root``, or go on with it.

    Args:
        root: its folder and its cache lie there.
        die_at: number of the moment at which it kills itself, from 0.
        after_s: seconds after which it is killed from outside.
    """
    context = multiprocessing.get_context("forkserver")  # a fork of a process without threads, all imported
    context.set_forkserver_preload(["kill_points"])
    note = root / "note.json"
    note.unlink(missing_ok=True)
    process = context.Process(target=_live, args=(root, die_at, note))
    process.start()
    if after_s is not None:
        while not note.is_file() and process.exitcode is None:
            time.sleep(0.01)
        process.join(after_s)
        process.kill()
    process.join()
    assert process.exitcode is not None
    stage, moment, moments = json.loads(note.read_text())
    return Ended(process.exitcode, stage, moment, moments)


def _live(root: Path, die_at: int | None, note: Path) -> None:
    clock = _Clock(die_at, note)
    clock.watch(os, "fsync", lambda handle: os.readlink(f"/proc/self/fd/{handle}"))
    clock.watch(os, "replace", lambda source, target: str(target))
    clock.watch(Predictor, "points", lambda self, scene: scene.name)
    steps = pipeline.cotrain

    def counted(*args: Any) -> Iterator[Any]:
        for result in steps(*args):
            clock.moment(f"step {result.step}")
            yield result

    pipeline.cotrain = counted
    source = tiny_source(num_scenes=2, frames=2, points=200)
    truth = source.truth
    assert truth is not None
    pipeline.open_teachers = lambda *_: (FakeLabelTeacher(truth), FakeMaskTeacher(truth))
    config = tiny_config(train={"epochs": 3, "checkpoint_every": 2})
    session = Session(config, RunFolder(root / "run"), root / "cache", opened=source)
    clock.stage = "annotate"
    annotations = pipeline.annotate(session)
    clock.stage = "train"
    pair = pipeline.train(session, annotations)
    clock.stage = "evaluate"
    pipeline.evaluate(session, annotations, pair)
    clock.stage = "done"
    clock.tell("end")


class _Clock:
    """Counts moments, from several threads, and ends the process at one of them."""

    def __init__(self, die_at: int | None, note: Path) -> None:
        self.stage = "annotate"
        self._die_at = die_at
        self._count = 0
        self._lock = threading.Lock()
        self._note = os.open(note, os.O_WRONLY | os.O_CREAT)
        self.tell("start")

    def watch(self, owner: Any, name: str, what: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def watched(*args: Any) -> Any:
            self.moment(f"{name} {Path(what(*args)).name}")
            return original(*args)

        setattr(owner, name, watched)

    def moment(self, what: str) -> None:
        with self._lock:
            self.tell(what)
            if self._count == self._die_at:
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)
            self._count += 1

    def tell(self, what: str) -> None:
        line = json.dumps([self.stage, what, self._count]).ljust(300)  # in place of the one before
        os.pwrite(self._note, line.encode(), 0)


def outcome(root: Path) -> dict[str, Any]:
    """All that a run leaves and that has to be the same, however often it was interrupted."""
    folder, cache = RunFolder(root / "run"), Cache(root / "cache")
    evaluation = json.loads(folder.evaluation.read_text())
    for name in ("seconds", "log", "checksum"):  # the last two are over times
        evaluation.pop(name)
    log = [json.loads(line) for line in folder.log.read_text().splitlines()]
    for record in log:
        assert 0 <= record.pop("wait_seconds") <= record.pop("seconds")
    assert cache.verify() == []
    entries = {}
    for info in cache.entries():
        if info.stage == "stage1":  # holds the seconds of its steps
            continue
        entry = cache.get(Key(info.stage, info.digest))
        assert entry is not None
        arrays = {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in entry.arrays.items()}
        entries[info.stage, info.digest] = (arrays, entry.meta)
    return {
        "annotations": folder.annotations.read_bytes(),
        "cache": entries,
        "log": log,
        "both networks, optimiser and step": folder.checkpoint.read_bytes(),
        "networks": folder.networks.read_bytes(),
        "evaluation": evaluation,
    }
