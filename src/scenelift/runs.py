"""Many runs on one data set: each a training and its evaluation, in worker processes, resumable.

A run finds what an earlier start has finished (`scenelift.pipeline`), so a list of runs may be stopped at any
moment and given again. Runs that share stage 1 wait until the first of them has ended that, and go on from
there; runs that differ only in how they predict take over networks that another has trained.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from scenelift import pipeline
from scenelift.annotations import Annotations
from scenelift.config import Config, TrainConfig
from scenelift.dependence import STAGE1, TRAINING
from scenelift.device import peak_bytes_of, reset_peak
from scenelift.errors import ConfigError, DataError, RunError, SceneLiftError
from scenelift.evaluate import Evaluation, saved_evaluation
from scenelift.files import atomic_write, read_sealed, write_sealed
from scenelift.pipeline import Session
from scenelift.predict import NetworkPair
from scenelift.progress import Advance, Progress, silent
from scenelift.runfolder import RunFolder
from scenelift.scenes import SceneSource

_ANNOTATIONS = ("data", "classes", "teachers", "pairing", "pseudo_labels")
"""What the annotations of a run depend on."""


@dataclass(frozen=True)
class Run:
    """One recipe with one seed.

    Attributes:
        recipe: its name, for the reader.
        seed: of ``config``.
        config: all of it.
        folder: where its results go.
    """

    recipe: str
    seed: int
    config: Config
    folder: RunFolder

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.recipe}, seed {self.seed}"

    def trains(self) -> bool:
        """Whether networks are trained for it."""
        return pipeline.trains(self.config)

    def shares(self, *sections: str) -> str:
        """Runs with equal digests share what depends on these sections."""
        return self.config.digest("seed", *_ANNOTATIONS, *sections)


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        run: which.
        evaluation: of its predictions.
        seconds: of training, a shared stage 1 included, and evaluation.
        peak_bytes: the most memory its process, or on CUDA its device, held at its last start; ``None`` where
            the system does not tell.
        log: a record for each training step.
    """

    run: Run
    evaluation: Evaluation
    seconds: float
    peak_bytes: int | None
    log: list[dict[str, Any]]


class Done(NamedTuple):
    """What is at hand after a run."""

    session: Session
    annotations: Annotations
    pair: NetworkPair | None
    evaluation: Evaluation


def carry_out(
    run: Run,
    cache_root: Path,
    device: str = "cpu",
    progress: Progress = silent,
    opened: SceneSource | None = None,
    twin: RunFolder | None = None,
    download: bool = False,
) -> Done:
    """Annotate, train and evaluate one run, here and now.

    Args:
        run: which.
        cache_root: of the annotations.
        device: where networks compute.
        progress: told of each stage.
        opened: the data set, when it has been opened already.
        twin: of a finished run that trained the same networks.
        download: may missing weights be fetched?
    """
    session = Session(run.config, run.folder, cache_root, device, progress, opened, download)
    annotations = pipeline.annotate(session)
    if twin is not None and not run.folder.networks.is_file() and twin.networks.is_file():
        atomic_write(run.folder.log, twin.log.read_bytes())
        atomic_write(run.folder.networks, twin.networks.read_bytes())
    pair = pipeline.train(session, annotations)
    return Done(session, annotations, pair, pipeline.evaluate(session, annotations, pair))


def finished(run: Run) -> Outcome | None:
    """What an earlier start left of a run, if it came to its end.

    The data are taken to be as they were then; nothing of them is read.
    """
    folder = run.folder
    if not folder.evaluation.is_file() or not folder.config.is_file():
        return None
    folder.claim(run.config)  # complains of another run's folder
    if (saved := saved_evaluation(folder.evaluation)) is None:
        return None
    evaluation, log = saved.evaluation, folder.read_log(saved.log, times=True)
    seconds = sum(record["seconds"] for record in log) + evaluation.seconds
    return Outcome(run, evaluation, seconds, _peak_bytes(folder), log)


def _peak_bytes(folder: RunFolder) -> int | None:
    """What is kept of the memory it took; a damaged file only leaves a blank in a table."""
    try:
        found = read_sealed(folder.cost)["peak_bytes"]
    except (DataError, KeyError):
        return None
    return None if found is None else int(found)


def run_all(
    runs: Sequence[Run],
    cache_root: Path,
    device: str = "cpu",
    jobs: int | None = None,
    progress: Progress = silent,
    after_each: Callable[[Outcome], None] = lambda outcome: None,
    download: bool = False,
) -> list[Outcome]:
    """Carry out runs that are not finished yet, some at a time, each in a worker process.

    Args:
        runs: no two with one folder; earlier ones first.
        cache_root: of the annotations.
        device: ``"cpu"`` or ``"cuda"``; on CUDA each worker has a device of its own.
        jobs: workers; ``None`` = one for each CUDA device, on a CPU one.
        progress: of all runs together, in hundredths of a run.
        after_each: told of each run as it comes to its end, and first of those that were finished before.
        download: may missing weights be fetched?

    Returns:
        The outcomes in the order of ``runs``.

    Raises:
        SceneLiftError: of the first run that met one; those that were going on are stopped, and nothing that
            was finished is lost.
        RunError: a worker died.
    """
    folders = [run.folder.path for run in runs]
    if len(set(folders)) < len(folders):
        raise ConfigError("runs: expected a folder for each run, found two runs with one folder")
    outcomes: dict[Path, Outcome] = {}
    for run in runs:
        if (outcome := finished(run)) is not None:
            outcomes[run.folder.path] = outcome
            after_each(outcome)
    left = [run for run in runs if run.folder.path not in outcomes]
    if left:
        done = [outcome.run for outcome in outcomes.values()]
        with progress(f"{len(runs)} runs, %", 100 * len(runs), 100 * len(done)) as advance:
            devices = worker_devices(device, min(jobs or 0, len(left)))[: len(left)]
            for run in _in_workers(left, done, cache_root, devices, advance, download):
                ended = finished(run)
                assert ended is not None, run.name  # the worker said so
                outcomes[run.folder.path] = ended
                after_each(ended)
    return [outcomes[folder] for folder in folders]


def worker_devices(device: str, jobs: int = 0) -> list[str]:
    """The device of each worker; ``jobs`` 0 = one worker a device."""
    import torch

    if not device.startswith("cuda"):
        return [device] * max(1, jobs)
    own = [device] if ":" in device else [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return [own[i % len(own)] for i in range(jobs or len(own))]


# --- the parent --------------------------------------------------------------------------------------


@dataclass
class _Worker:
    process: Any
    connection: Connection
    run: Run | None = None
    percent: int = 0


@dataclass
class _Queue:
    """Which run may begin now."""

    left: list[Run]
    done: list[Run]
    active: list[Run] = field(default_factory=list)
    past_stage1: list[Run] = field(default_factory=list)
    """Those whose stage 1 was over before they were: others may begin at its end."""

    def next(self) -> Run | None:
        """The first run that need not wait for another one's stage 1 or networks."""
        for run in self.left:
            if not run.trains() or not self._has_to_wait(run):
                self.left.remove(run)
                self.active.append(run)
                return run
        return None

    def _has_to_wait(self, run: Run) -> bool:
        if self._same(run, self.active, TRAINING):
            return True
        known = [*self.done, *self.past_stage1]
        return bool(self._same(run, self.active, STAGE1)) and not self._same(run, known, STAGE1)

    def ends(self, run: Run) -> None:
        """It has come to its end."""
        self.active.remove(run)
        self.done.append(run)

    def twin(self, run: Run) -> RunFolder | None:
        """Of a finished run that trained the same networks."""
        same = self._same(run, self.done, TRAINING) if run.trains() else []
        return same[0].folder if same else None

    @staticmethod
    def _same(run: Run, others: Sequence[Run], sections: tuple[str, ...]) -> list[Run]:
        own = run.shares(*sections)
        return [other for other in others if other.trains() and other.shares(*sections) == own]


def _in_workers(
    left: list[Run],
    done: list[Run],
    cache_root: Path,
    devices: Sequence[str],
    advance: Advance,
    download: bool,
) -> Iterator[Run]:
    queue = _Queue(list(left), list(done))
    workers = [_start_worker(cache_root, device, len(devices), download) for device in devices]
    try:
        while queue.left or queue.active:
            for worker in workers:
                if worker.run is None and (run := queue.next()) is not None:
                    worker.run, worker.percent = run, 0
                    worker.connection.send((run, queue.twin(run)))
            busy = [worker for worker in workers if worker.run is not None]
            for ready in wait([worker.connection for worker in busy]):
                worker = next(one for one in busy if one.connection is ready)
                run = worker.run
                assert run is not None
                kind = _listen(worker, [str(w.run.name) for w in busy if w.run is not None], advance)
                if kind == "stage 1":
                    queue.past_stage1.append(run)
                elif kind == "done":
                    worker.run = None
                    queue.ends(run)
                    yield run
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


def _listen(worker: _Worker, busy: Sequence[str], advance: Advance) -> str:
    """Take one message of a worker; its kind: ``percent``, ``stage 1`` (that is over) or ``done``."""
    run = worker.run
    assert run is not None
    try:
        kind, value = worker.connection.recv()
    except (EOFError, ConnectionError):
        worker.process.join()
        raise RunError(
            f"run {run.name}: its process died (exit code {worker.process.exitcode}); if memory ran out use "
            "fewer --jobs; the same command goes on from here"
        ) from None
    if kind == "error":
        raise value
    while worker.percent < value:
        worker.percent += 1
        advance("; ".join(busy))
    return str(kind)


def _start_worker(cache_root: Path, device: str, jobs: int, download: bool) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, cache_root, device, jobs, download)
    process = context.Process(target=_work, args=arguments, daemon=False, name=f"scenelift runs on {device}")
    process.start()
    theirs.close()
    return _Worker(process, ours)


# --- a worker ----------------------------------------------------------------------------------------


def _work(connection: Connection, cache_root: Path, device: str, jobs: int, download: bool) -> None:
    """Carry out the runs that come in, until the other side is gone."""
    import torch

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # whatever is killed goes on at the next start
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    opened: dict[str, SceneSource] = {}  # each data set is read, or rendered, once for all runs
    while True:
        try:
            run, twin = connection.recv()
        except EOFError:
            return
        data = run.config.digest("data")
        try:
            reset_peak(device)
            progress = _percent(connection, os.getppid(), run.config.train)
            done = carry_out(run, cache_root, device, progress, opened.get(data), twin, download)
            opened[data] = done.session.source
            write_sealed(run.folder.cost, {"peak_bytes": peak_bytes_of(device), "device": device})
            connection.send(("done", 100))
        except SceneLiftError as error:
            connection.send(("error", type(error)(f"{run.name}: {error}")))


def _percent(connection: Connection, parent: int, train: TrainConfig) -> Progress:
    """Tell the parent how far a run has come, training being most of it, and when its stage 1 is over."""
    parts = {"annotate": (0, 5), "train": (5, 95), "evaluate": (95, 100)}

    @contextmanager
    def progress(what: str, total: int, done: int) -> Iterator[Advance]:
        first, last = parts.get(what, (0, 0))
        told, stage2 = -1, what != "train" or train.switch_after >= train.epochs

        def advance(note: str) -> None:
            nonlocal done, told, stage2
            done += 1
            if os.getppid() != parent:  # nobody is waiting for this any more
                os._exit(1)
            percent = first + (last - first) * done // max(1, total)
            if percent > told:
                told = percent
                connection.send(("percent", percent))
            if not stage2 and done * train.epochs >= train.switch_after * total:
                stage2 = True
                connection.send(("stage 1", percent))

        yield advance

    def open_task(what: str, total: int, done: int) -> AbstractContextManager[Advance]:
        return progress(what, total, done)

    return open_task
