"""Workers of a cluster make what one process makes, whoever of them dies."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fixtures_ray
from fixtures_bench import Bench
from fixtures_cli import Command
from fixtures_scenes import tiny_source
from scenelift import pipeline, ray_annotate
from scenelift.cache import Cache
from scenelift.cli_annotate import with_address
from scenelift.errors import ConfigError, DataError, RunError, SceneLiftError
from scenelift.ray_annotate import annotate_with_ray
from test_claims import content

# --- the dealing, on a Ray of one process --------------------------------------------------------------


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class RayTaskError(RayError):
    pass


class OneProcess:
    """Those functions of ray that are used. An actor dies when it is to begin a scene of ``deadly``."""

    exceptions = SimpleNamespace(RayError=RayError, RayActorError=RayActorError, RayTaskError=RayTaskError)

    def __init__(self, deadly: list[str], machines: int = 2, gpus: int = 0) -> None:
        self.deadly, self.machines, self.gpus = deadly, machines, gpus
        self.calls: list[tuple[int, str]] = []
        self.options: list[dict[str, Any]] = []
        self.living: list[Any] = []
        self.numbers = itertools.count()

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0, **({"GPU": float(self.gpus)} if self.gpus else {})}

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}] * self.machines + [{"Alive": False}]

    def remote(self, cls: Any) -> Any:
        def options(**options: Any) -> Any:
            self.options.append(options)
            return SimpleNamespace(remote=lambda *args: self._actor(cls(*args)))

        return SimpleNamespace(options=options)

    def _actor(self, body: Any) -> Any:
        number = next(self.numbers)

        def annotate(name: str) -> Callable[[], Any]:
            def call() -> Any:
                self.calls.append((number, name))
                if name in self.deadly:
                    self.deadly.remove(name)
                    raise RayActorError("it died")
                return body.annotate(name)

            return call

        class Actor:
            pass

        actor: Any = Actor()
        actor.annotate = SimpleNamespace(remote=annotate)
        actor.progress = SimpleNamespace(remote=lambda: body.progress)
        self.living.append(actor)
        return actor

    def wait(self, refs: list[Any], num_returns: int = 1, timeout: float = 0) -> tuple[list[Any], list[Any]]:
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref: Any) -> Any:
        return ref()

    def kill(self, actor: Any) -> None:
        if actor in self.living:
            self.living.remove(actor)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    found = Bench(tmp_path, monkeypatch)
    found.source = tiny_source(num_scenes=3, frames=3, points=200)
    found._truth = found.source.truth
    return found


def use(monkeypatch: pytest.MonkeyPatch, ray: OneProcess) -> OneProcess:
    monkeypatch.setattr(ray_annotate, "_import_ray", lambda: ray)
    monkeypatch.setattr(ray_annotate, "SECONDS_BETWEEN_LOOKS", 0.01)
    return ray


@pytest.mark.parametrize("deadly", [[], ["scene0"], ["scene0", "scene1", "scene1", "scene2"]])
def test_whoever_dies_the_result_is_that_of_one_process(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, deadly: list[str]
) -> None:
    ray = use(monkeypatch, OneProcess(list(deadly)))
    told: list[tuple[str, int, int]] = []
    session = bench.session()

    def progress(what: str, total: int, done: int = 0) -> Any:
        from contextlib import nullcontext

        told.append((what, total, done))
        return nullcontext(lambda note: told.append((note, 1, 1)))

    session.progress = progress
    annotations = annotate_with_ray(session, "auto")
    assert bench.asked == 2 * 9
    assert ray.living == []
    assert len(ray.options) == 2 + len(deadly)
    assert told[0] == ("annotate", 9, 0)
    assert len(told) == 1 + 9
    alone = bench.session("alone", "alone_cache")
    pipeline.annotate(alone)
    assert session.folder.annotations.read_bytes() == alone.folder.annotations.read_bytes()
    assert content(annotations.cache) == content(alone.cache)


def test_a_scene_at_which_all_die_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = use(monkeypatch, OneProcess(["scene1"] * 9))
    with pytest.raises(RunError, match="3 workers died at scene scene1"):
        annotate_with_ray(bench.session(), "auto")
    assert ray.living == []


def test_a_user_error_of_a_worker_is_the_drivers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = use(monkeypatch, OneProcess([]))

    def scene(name: str) -> Any:
        raise DataError("scene0: damaged")

    bench.source.scene = scene  # type: ignore[method-assign]
    with pytest.raises(DataError, match="scene0: damaged"):
        annotate_with_ray(bench.session(), "auto")
    assert ray.living == []


@pytest.mark.parametrize(
    ("gpus", "workers", "device", "expected"),
    [
        (4, None, "cuda", (4, 1.0)),
        (4, 8, "cuda", (8, 0.5)),
        (0, None, "cpu", (2, None)),
        (4, 3, "cpu", (3, None)),
    ],
)
def test_one_worker_a_gpu_or_a_machine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, gpus: int, workers: int | None, device: str, expected: Any
) -> None:
    ray, session = OneProcess([], gpus=gpus), bench.session()
    session.device = device
    driver = ray_annotate._Driver(ray, session, workers)
    assert (driver._workers, driver._options.get("num_gpus")) == expected


def test_no_gpu_in_the_cluster(bench: Bench) -> None:
    session = bench.session()
    session.device = "cuda"
    with pytest.raises(ConfigError, match="expected a cluster with GPUs"):
        ray_annotate._Driver(OneProcess([]), session, None)


def test_results_that_cannot_be_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache on a disk that only the workers have."""
    use(monkeypatch, OneProcess([]))
    monkeypatch.setattr(ray_annotate, "SECONDS_TO_SEE", 0.05)
    monkeypatch.setattr(Cache, "has", lambda cache, key: False)
    with pytest.raises(RunError, match="a folder that all machines share"):
        annotate_with_ray(bench.session(), "auto")


def test_without_the_package(
    scenelift: Command, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ended = scenelift("annotate", "synthetic", "--out", tmp_path / "none", "--device", "cpu", "--ray")
    assert "pip install 'scenelift[ray]'" in ended.error
    assert not (tmp_path / "none").exists()


def test_an_address_may_be_left_out() -> None:
    assert with_address(["annotate", "d", "--ray"]) == ["annotate", "d", "--ray=auto"]
    assert with_address(["--ray", "--out", "x"]) == ["--ray=auto", "--out", "x"]
    assert with_address(["--ray", "local", "d"]) == ["--ray", "local", "d"]
    assert with_address([]) == []


# --- the real one --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.skipif(os.name != "posix", reason="kills a process the POSIX way")
def test_a_killed_worker_costs_the_frames_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    asked, bench = tmp_path / "asked", Bench(tmp_path, monkeypatch)
    bench.source = tiny_source(num_scenes=fixtures_ray.SCENES, frames=fixtures_ray.FRAMES)
    bench._truth = bench.source.truth
    session = bench.session()
    in_flight: set[str] = set()
    victims: list[int] = []

    def lines() -> list[tuple[int, str]]:
        text = asked.read_text(encoding="utf-8") if asked.exists() else ""
        return [(int(pid), frame) for pid, frame in map(str.split, text.splitlines())]

    def kill_one() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until and len(lines()) < 8:
            time.sleep(0.02)
        victims.append(lines()[-1][0])
        os.kill(victims[0], signal.SIGSTOP)
        time.sleep(0.2)
        cache = Cache(session.cache_root)
        written = {str(info.meta.get("frame")) for info in cache.entries() if info.stage == "mask_features"}
        in_flight.update(frame for pid, frame in lines() if pid == victims[0] and frame not in written)
        os.kill(victims[0], signal.SIGKILL)

    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    setup = {"worker_process_setup_hook": "fixtures_ray.setup"}
    env = {"SCENELIFT_ASKED": str(asked), "PYTHONPATH": paths, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    env["RAY_worker_niceness"] = "0"  # or a busy machine never comes to the workers
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=setup)
    killer = threading.Thread(target=kill_one)
    try:
        killer.start()
        annotations = annotate_with_ray(session, "local", 2)
    finally:
        killer.join()
        ray.shutdown()

    every = [f"scene{s}/f{f}" for s in range(fixtures_ray.SCENES) for f in range(fixtures_ray.FRAMES)]
    frames = [frame for _, frame in lines()]
    again = {frame for frame in frames if frames.count(frame) > 1}
    assert set(frames) == set(every)
    assert len(frames) == len(every) + len(again)
    assert again <= in_flight
    assert len(in_flight) < 8
    assert len({pid for pid, _ in lines()} - set(victims)) >= 1
    alone = bench.session("alone", "alone_cache")
    pipeline.annotate(alone)
    assert session.folder.annotations.read_bytes() == alone.folder.annotations.read_bytes()
    assert annotations.cache.verify() == []
    assert content(annotations.cache) == content(alone.cache)


def test_errors_travel() -> None:
    """Between processes, as Ray sends them."""
    import copy

    error = copy.copy(DataError("frame f0: damaged"))
    assert isinstance(error, SceneLiftError)
    assert str(error) == "frame f0: damaged"
