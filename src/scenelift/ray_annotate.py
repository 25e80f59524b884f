"""Annotation by the workers of a Ray cluster; the extra ``ray``.

Each worker is an actor with its own teachers, loaded once. It is given scene after scene, the largest first,
and annotates each as a single process would, into the cache that all share. A worker that finds no scene left
helps with one that another is at: frames are claimed (`claims`), so none is asked about twice. A worker that
dies is replaced, and its scene given out again; what it had written is found. The driver deals and counts.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenelift import pipeline
from scenelift.annotations import Annotations, SceneKeys
from scenelift.errors import ConfigError, RunError, SceneLiftError, one_line
from scenelift.pipeline import Session
from scenelift.progress import Advance
from scenelift.recipes import build
from scenelift.runfolder import RunFolder
from scenelift.types import F32

SECONDS_BETWEEN_LOOKS = 1.0
MOST_DEATHS = 3
"""Workers that may die at one scene before it is taken for the cause."""
SECONDS_TO_SEE = 60.0
"""How long a network file system may hide a new file of another machine."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What a worker needs to know; plain values, as they travel between machines.

    Attributes:
        config: the configuration's tree.
        cache_root: folder of the cache, the same on all machines.
        device: where its networks compute.
        download: may weights be fetched?
        folder: working folder of the driver; relative paths in the configuration start there.
    """

    config: dict[str, Any]
    cache_root: str
    device: str
    download: bool
    folder: str


@dataclass(frozen=True)
class Answer:
    """What a worker found for a scene, or what is wrong; ``error`` is the user's to mend."""

    text: F32 | None = None
    keys: SceneKeys | None = None
    error: SceneLiftError | None = None


class Worker:
    """The body of an actor: two calls may run in it at a time, a long `annotate` and `progress`."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._session: Session | None = None
        self._teachers: Any = None
        self._at = ("", 0)

    def annotate(self, name: str) -> Answer:
        """Annotate a scene."""
        try:
            session = self._open()
            found = pipeline.annotate_scenes(session, self._teachers, [name], self._counting(name))
            return Answer(found.text, found.scenes[name])
        except SceneLiftError as error:
            return Answer(error=error)

    def progress(self) -> tuple[str, int]:
        """The scene it is at, or was at last, and how many of its frames are finished."""
        return self._at

    def _open(self) -> Session:
        """The session; data and teachers are opened once."""
        if self._session is None:
            order = self._order
            try:
                os.chdir(order.folder)
            except OSError as error:
                raise RunError(
                    f"ray: expected the driver's folder {order.folder} on every machine ({one_line(error)}); "
                    "start on a shared file system"
                ) from None
            config, out = build(order.config), RunFolder(Path(order.folder))
            cache = Path(order.cache_root)
            session = Session(config, out, cache, order.device, download=order.download)
            self._teachers = pipeline.teachers_of(session)
            self._session = session
        return self._session

    def _counting(self, name: str) -> Any:
        @contextmanager
        def progress(what: str, total: int, done: int = 0) -> Iterator[Advance]:
            self._at = (name, done)

            def advance(note: str) -> None:
                self._at = (name, self._at[1] + 1)

            yield advance

        return progress


def annotate_with_ray(session: Session, address: str, workers: int | None = None) -> Annotations:
    """What `pipeline.annotate` does, by the workers of a Ray cluster.

    Args:
        session: the run. Its data, cache and weights have the same paths on all machines.
        address: ``"local"`` for workers on this machine alone, ``"auto"`` for the cluster that runs here or
            that ``RAY_ADDRESS`` names (else local), or an address of a cluster. A cluster that this process
            is connected to already is used as it is.
        workers: how many; ``None`` = one for each GPU with ``device="cuda"``, one for each machine on CPUs.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
        RunError: the folder holds another run; workers keep dying; they write where nobody else can read.
        SceneLiftError: whatever a worker meets in data, weights or cache.
    """
    ray = _import_ray()
    names = session.names("train", "val")
    session.folder.claim(session.config)
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, address)
    try:
        text, keys = _Driver(ray, session, workers).run(names)
    finally:
        if mine:
            ray.shutdown()
    return pipeline.keep_annotations(session, Annotations(session.cache, text, {n: keys[n] for n in names}))


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(
            f"--ray: expected the package ray, found none ({one_line(error)}); pip install 'scenelift[ray]'"
        ) from None


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == "auto":
            with suppress(ConnectionError):
                ray.init(address="auto", **quiet)
                return
        if address in ("auto", "local"):
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"--ray {address}: expected local, auto or the address of a running cluster, and could not start "
            f"there: {one_line(error)}"
        ) from None


class _Driver:
    """Deals scenes to workers until all are finished."""

    def __init__(self, ray: Any, session: Session, workers: int | None) -> None:
        self._ray, self._session = ray, session
        self._order = Order(
            session.config.model_dump(mode="json"),
            str(session.cache_root.absolute()),
            session.device,
            session.download,
            os.getcwd(),
        )
        have = ray.cluster_resources()
        machines = sum(node["Alive"] for node in ray.nodes())
        gpus = int(have.get("GPU", 0)) if session.device == "cuda" else 0
        if session.device == "cuda" and not gpus:
            raise ConfigError(
                "--ray: expected a cluster with GPUs for --device cuda, found none; --device cpu"
            )
        self._workers = workers or gpus or machines
        # Ray gives a worker as many threads as CPUs
        cpus = max(1, int(have.get("CPU", 1)) // self._workers)
        needs = {"num_gpus": min(1.0, gpus / self._workers)} if gpus else {}
        self._options = {
            "num_cpus": min(cpus, 8) if gpus else cpus,
            "max_concurrency": 2,
            "scheduling_strategy": "SPREAD",
            **needs,
        }
        self._actors: list[Any] = []
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, str]] = {}
        self._asked: dict[Any, Any] = {}
        self._deaths: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._keys: dict[str, SceneKeys] = {}
        self._text: F32 | None = None

    def run(self, names: Sequence[str]) -> tuple[F32, dict[str, SceneKeys]]:
        """Text embeddings and the keys of all scenes."""
        self._frames = {name: self._session.source.frame_count(name) for name in names}
        # the largest first: a large one that comes last would leave the others idle
        self._waiting = deque(sorted(names, key=lambda name: -self._frames[name]))
        with self._session.progress("annotate", sum(self._frames.values()), 0) as advance:
            self._advance = advance
            try:
                self._idle = [self._new_actor() for _ in range(self._workers)]
                while len(self._keys) < len(names):
                    self._deal()
                    for ref in self._ready(list(self._running), SECONDS_BETWEEN_LOOKS):
                        self._take(ref)
                    self._look()
            finally:
                for actor in self._actors:
                    self._ray.kill(actor)
        assert self._text is not None
        return self._text, self._keys

    def _new_actor(self) -> Any:
        actor = self._ray.remote(Worker).options(**self._options).remote(self._order)
        self._actors.append(actor)
        return actor

    def _ready(self, refs: list[Any], timeout_s: float) -> list[Any]:
        """Those that are there once the first is, or after the time."""
        if refs:
            self._ray.wait(refs, timeout=timeout_s)
            refs = self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]
        return refs

    def _deal(self) -> None:
        """Give every idle worker a scene nobody is at; else the one with most left, to help with."""
        still_idle = []
        for actor in self._idle:
            while self._waiting and self._waiting[0] in self._keys:
                self._waiting.popleft()
            name = self._waiting.popleft() if self._waiting else self._to_help()
            if name is None:
                still_idle.append(actor)
            else:
                self._running[actor.annotate.remote(name)] = (actor, name)
        self._idle = still_idle

    def _to_help(self) -> str | None:
        """The unfinished scene with most frames left for each worker at it, where a helper gets any."""
        at = Counter(name for _, name in self._running.values() if name not in self._keys)
        left = {name: (self._frames[name] - self._done[name]) / count for name, count in at.items()}
        name = max(left, key=left.__getitem__, default=None)
        return name if name is not None and left[name] >= 2 else None

    def _take(self, ref: Any) -> None:
        """What a worker answered, or that it died."""
        actor, name = self._running.pop(ref)
        try:
            answer: Answer = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            self._bury(actor, name, error)
            return
        if answer.error is not None:
            raise answer.error
        self._idle.append(actor)
        if name not in self._keys and answer.keys is not None:
            self._text = answer.text
            if not self._keys:
                self._expect_to_see(answer.keys)
            self._keys[name] = answer.keys
            self._count(name, self._frames[name])

    def _bury(self, actor: Any, name: str, error: Exception) -> None:
        self._deaths[name] += 1
        _log.warning("a worker died at scene %s (%s): another takes over", name, one_line(error))
        if self._deaths[name] >= MOST_DEATHS:
            raise RunError(
                f"ray: {MOST_DEATHS} workers died at scene {name} ({one_line(error)}); look at Ray's logs: "
                "memory may be too small for so many workers. What is done is in the cache"
            ) from None
        self._ray.kill(actor)
        self._actors.remove(actor)
        self._asked.pop(actor, None)
        self._idle.append(self._new_actor())
        if name not in self._keys and all(at != name for _, at in self._running.values()):
            self._waiting.appendleft(name)

    def _expect_to_see(self, keys: SceneKeys) -> None:
        """Whether what workers write comes to the cache as this process sees it."""
        until = time.monotonic() + SECONDS_TO_SEE
        while not self._session.cache.has(keys.pairs):
            if time.monotonic() > until:
                raise RunError(
                    f"ray: expected the workers' results in {self._order.cache_root}, found none; "
                    "--cache has to be a folder that all machines share"
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _look(self) -> None:
        """Ask workers how far they are, and count what has come since."""
        for actor in {id(actor): actor for actor, _ in self._running.values()}.values():
            self._asked.setdefault(actor, None)
            if self._asked[actor] is None:
                self._asked[actor] = actor.progress.remote()
        for actor, ref in self._asked.items():
            if ref is not None and self._ready([ref], 0):
                self._asked[actor] = None
                with suppress(self._ray.exceptions.RayError):
                    self._count(*self._ray.get(ref))

    def _count(self, name: str, done: int) -> None:
        """Frames of a scene that are finished: a helper, or who takes over, finds those of others."""
        for _ in range(done - self._done[name]):
            self._advance(f"{len(self._actors)} workers")
        self._done[name] = max(done, self._done[name])
