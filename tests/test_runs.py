"""Many runs in worker processes: nothing is done twice, nothing is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scenelift import runs as running
from scenelift.errors import ConfigError, RunError
from scenelift.evaluate import Evaluation
from scenelift.recipes import load
from scenelift.runfolder import RunFolder
from scenelift.runs import Outcome, Run, carry_out, finished, run_all, worker_devices

TINY = (
    "data.train_rooms=2", "data.val_rooms=2", "data.frames_per_room=3", "data.width=48", "data.height=36",
    "train.epochs=3", "train.switch_after=1", "train.steps_per_epoch=2", "train.scenes_per_step=1",
    "train.frames_per_scene=2", "networks.points.voxel_m=0.3", "latent.dim=8", "train.checkpoint_every=1",
)  # fmt: skip


def make(out: Path, *recipes: str, seed: int = 0, extra: Sequence[str] = ()) -> list[Run]:
    return [
        Run(recipe, seed, load(recipe, (*TINY, *extra, f"seed={seed}"), "synthetic"), RunFolder(out / recipe))
        for recipe in recipes
    ]


def counts(outcome: Outcome) -> list[list[list[int]]]:
    evaluation = outcome.evaluation
    return [evaluation.confusion_2d.counts.tolist(), evaluation.confusion_3d.counts.tolist()]


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Outcome]]:
    root = tmp_path_factory.mktemp("runs")
    runs = make(root / "out", "cns", "wo_sct", "post_refine", "maskclip")
    return root, run_all(runs, root / "cache", jobs=2)


class TestAll:
    def test_outcomes_are_in_order_and_whole(self, two_workers: tuple[Path, list[Outcome]]) -> None:
        _, outcomes = two_workers
        assert [outcome.run.recipe for outcome in outcomes] == ["cns", "wo_sct", "post_refine", "maskclip"]
        assert [len(outcome.log) for outcome in outcomes] == [6, 6, 6, 0]
        for outcome in outcomes:
            assert outcome.seconds > 0
            assert outcome.peak_bytes is None or outcome.peak_bytes > 2**26

    def test_the_same_as_here_and_now(self, two_workers: tuple[Path, list[Outcome]], tmp_path: Path) -> None:
        _, outcomes = two_workers
        (alone,) = make(tmp_path / "alone", "wo_sct")
        done = carry_out(alone, tmp_path / "cache")
        assert done.evaluation.to_json()["scenes"] == outcomes[1].evaluation.to_json()["scenes"]

    def test_stage_1_is_shared(self, two_workers: tuple[Path, list[Outcome]]) -> None:
        """Records of shared steps are the same to the measured second."""
        _, (full, without, _, _) = two_workers
        assert full.log[:2] == without.log[:2]
        assert full.log[2:] != without.log[2:]

    def test_networks_are_taken_over(self, two_workers: tuple[Path, list[Outcome]]) -> None:
        root, (full, _, refined, _) = two_workers
        own = (root / "out" / "cns" / "networks.safetensors").read_bytes()
        assert (root / "out" / "post_refine" / "networks.safetensors").read_bytes() == own
        assert full.log == refined.log
        assert counts(full) != counts(refined)

    def test_again_nothing_is_done(
        self, two_workers: tuple[Path, list[Outcome]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root, outcomes = two_workers
        monkeypatch.setattr(running, "_start_worker", None)  # none is needed
        told: list[str] = []
        runs = [outcome.run for outcome in outcomes]
        again = run_all(runs, root / "cache", after_each=lambda outcome: told.append(outcome.run.recipe))
        assert [counts(outcome) for outcome in again] == [counts(outcome) for outcome in outcomes]
        assert told == [run.recipe for run in runs]

    def test_scenes_add_up(self, two_workers: tuple[Path, list[Outcome]]) -> None:
        _, outcomes = two_workers
        for outcome in outcomes:
            evaluation = Evaluation.from_json(json.loads(json.dumps(outcome.evaluation.to_json())))
            assert list(evaluation.scenes) == ["room_v0000", "room_v0001"]
            for index, total in enumerate((evaluation.confusion_2d, evaluation.confusion_3d)):
                parts = [scene[index].counts for scene in evaluation.scenes.values()]
                assert all(part.sum() > 0 for part in parts)
                assert (np.sum(parts, axis=0) == total.counts).all()

    def test_an_older_evaluation_is_made_anew(
        self, two_workers: tuple[Path, list[Outcome]], tmp_path: Path
    ) -> None:
        root, outcomes = two_workers
        folder = RunFolder(tmp_path / "maskclip")
        run = replace(outcomes[3].run, folder=folder)
        folder.claim(run.config)
        tree = json.loads((root / "out" / "maskclip" / "evaluation.json").read_text())
        del tree["version"], tree["scenes"]
        folder.evaluation.write_text(json.dumps(tree))
        assert finished(run) is None
        (made,) = run_all([run], root / "cache")
        assert counts(made) == counts(outcomes[3])
        assert len(made.evaluation.scenes) == 2


class TestTrouble:
    def test_a_killed_worker_is_told_and_its_run_goes_on(
        self, two_workers: tuple[Path, list[Outcome]], tmp_path: Path
    ) -> None:
        root, _ = two_workers
        slow = ("train.epochs=10", "train.switch_after=5")
        (run,) = make(tmp_path / "out", "cns", extra=slow)

        def kill() -> None:
            until = time.monotonic() + 120
            while time.monotonic() < until and len(run.folder.read_log()) < 3:
                time.sleep(0.01)
            for child in multiprocessing.active_children():
                if child.pid is not None and child.name.startswith("scenelift runs"):
                    os.kill(child.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(RunError, match=r"cns, seed 0: its process died \(exit code -9\).*goes on"):
            run_all([run], root / "cache")
        killer.join()
        assert finished(run) is None
        assert 3 <= len(run.folder.read_log()) < 20
        (resumed,) = run_all([run], root / "cache")

        (whole,) = make(tmp_path / "whole", "cns", extra=slow)
        (uninterrupted,) = run_all([whole], tmp_path / "other_cache")
        assert counts(resumed) == counts(uninterrupted)
        weights = [folder.networks.read_bytes() for folder in (run.folder, whole.folder)]
        assert weights[0] == weights[1]

    def test_an_error_names_the_run_and_keeps_what_was_finished(
        self, two_workers: tuple[Path, list[Outcome]], tmp_path: Path
    ) -> None:
        root, _ = two_workers
        good, bad = *make(tmp_path, "maskclip"), *make(tmp_path, "cns", extra=("data.train_rooms=1",))
        bad.folder.path.mkdir(parents=True)
        (bad.folder.path / "letter.txt").write_text("mine")
        with pytest.raises(RunError, match=r"cns, seed 0: --out .* found other files"):
            run_all([good, bad], root / "cache")
        assert finished(good) is not None
        assert multiprocessing.active_children() == []

    def test_two_runs_with_one_folder(self, tmp_path: Path) -> None:
        (run,) = make(tmp_path, "cns")
        with pytest.raises(ConfigError, match="a folder for each run"):
            run_all([run, run], tmp_path / "cache")

    def test_another_run_in_the_folder(self, two_workers: tuple[Path, list[Outcome]]) -> None:
        root, outcomes = two_workers
        other = replace(outcomes[0].run, config=load("cns", (*TINY, "seed=1"), "synthetic"))
        with pytest.raises(RunError, match=r"holds another run \(it differs in seed\)"):
            run_all([other], root / "cache")


class TestOrder:
    def test_a_stage_is_waited_for(self, tmp_path: Path) -> None:
        runs = make(tmp_path, "cns", "wo_sct", "post_refine", "base_clip", "maskclip", "wo_ct")
        queue = running._Queue(list(runs), [])
        cns, base, teacher = queue.next(), queue.next(), queue.next()
        assert [run.recipe for run in (cns, base, teacher) if run is not None] == [
            "cns",
            "base_clip",
            "maskclip",
        ]
        assert queue.next() is None  # all others share the stage 1 of cns
        assert cns is not None
        queue.past_stage1.append(cns)
        ablation = queue.next()
        assert ablation is not None
        assert ablation.recipe == "wo_sct"
        assert [run.recipe for run in queue.left] == ["post_refine", "wo_ct"]
        queue.ends(cns)
        names = [run.recipe for run in iter(queue.next, None) if run is not None]
        assert names == ["post_refine", "wo_ct"]
        assert [queue.twin(run) is not None for run in runs] == [True, False, True, False, False, False]

    def test_runs_go_on_from_a_stage_while_its_run_trains(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun: list[tuple[str, list[str]]] = []

        class Observed(running._Queue):
            def next(self) -> Run | None:
                beside = [run.recipe for run in self.active]
                if (run := super().next()) is not None:
                    begun.append((run.recipe, beside))
                return run

        monkeypatch.setattr(running, "_Queue", Observed)
        outcomes = run_all(make(tmp_path, "cns", "wo_sct"), tmp_path / "cache", jobs=2)
        assert begun == [("cns", []), ("wo_sct", ["cns"])]
        full, without = outcomes
        assert full.log[:2] == without.log[:2]  # to the measured second

    def test_equal_networks_are_trained_once(self, tmp_path: Path) -> None:
        """Even when their stage 1 is known: the second waits for the first."""
        wo_sct, cns, refined = make(tmp_path, "wo_sct", "cns", "post_refine")
        queue = running._Queue([cns, refined], [wo_sct])
        assert queue.next() is cns
        assert queue.next() is None

    def test_seeds_do_not_wait_for_each_other(self, tmp_path: Path) -> None:
        first, second = *make(tmp_path / "0", "cns"), *make(tmp_path / "1", "cns", seed=1)
        queue = running._Queue([first, second], [])
        assert queue.next() is first
        assert queue.next() is second


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert worker_devices("cpu") == ["cpu"]
    assert worker_devices("cpu", 3) == ["cpu"] * 3
    assert worker_devices("cuda") == ["cuda:0", "cuda:1"]
    assert worker_devices("cuda", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert worker_devices("cuda:1", 2) == ["cuda:1", "cuda:1"]
