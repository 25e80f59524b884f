"""The command line: help, exit codes, one line for an error, and going on after being stopped."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fixtures_bench import Bench
from fixtures_capture import edit_poses, room_frames, write_capture
from fixtures_cli import Command
from scenelift import checkpoint
from scenelift.files import is_temp
from scenelift.teachers import registry
from scenelift.types import F16, F32, Frame, Masks

COMMANDS = [
    "demo", "check", "plan", "annotate", "train", "evaluate", "predict", "export", "fit", "weights", "table",
    "doctor", "cache ls", "cache verify", "cache prune",
]  # fmt: skip
NAMES = "wall, floor, box / crate"
STEPS = 6
TINY = [
    "train.epochs=3", "train.switch_after=1", "train.steps_per_epoch=2", "train.frames_per_scene=2",
    "train.checkpoint_every=1", "networks.points.voxel_m=0.2", "latent.dim=8",
]  # fmt: skip


class ColourTeacher:
    """Answers by colour, at once: a label and a mask teacher for captures without ground truth."""

    identity, text_identity, weights, summary, dim = "colour", "colour words", "none", "", 8
    words = ("wall", "floor", "box")

    def text_features(self, prompts: Sequence[Sequence[str]]) -> F32:
        return np.eye(self.dim, dtype=np.float32)[[self.words.index(phrases[0]) for phrases in prompts]]

    def image_features(self, frames: Sequence[Frame]) -> list[F16]:
        return [self._cells(frame).astype(np.float16) for frame in frames]

    def masks(self, frames: Sequence[Frame]) -> list[Masks]:
        found = []
        for frame in frames:
            ids = (1 + frame.image[..., 0] // 64).astype(np.uint16)
            found.append(Masks(ids, self._cells(frame).astype(np.float16)))
        return found

    def _cells(self, frame: Frame) -> F32:
        cells = frame.image[::8, ::8].transpose(2, 0, 1).astype(np.float32) / 255
        return np.concatenate([cells, np.zeros((5, *cells.shape[1:]), np.float32)])


def use_colour_teachers() -> None:
    registry.LABEL_TEACHERS["embedded"] = lambda *args: ColourTeacher()
    registry.MASK_TEACHERS["embedded"] = lambda *args: ColourTeacher()


@pytest.fixture
def colour_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "LABEL_TEACHERS", dict(registry.LABEL_TEACHERS))
    monkeypatch.setattr(registry, "MASK_TEACHERS", dict(registry.MASK_TEACHERS))
    use_colour_teachers()


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("cli") / "room", room_frames(6))


def fitting(capture: Path, out: Path, *more: str, sets: Sequence[str] = TINY) -> list[str]:
    options = ["--classes", NAMES, "--teacher", "embedded", "--device", "cpu", "--out", str(out)]
    return ["fit", str(capture), *options, *(part for one in sets for part in ("--set", one)), *more]


# --- help ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(scenelift: Command, command: str) -> None:
    ended = scenelift(*command.split(), "--help")
    assert ended.code == 0
    assert f"Example: scenelift {command} " in " ".join(ended.out.split())


def test_the_commands_are_those_promised(scenelift: Command) -> None:
    out = scenelift("--help").out
    for command in COMMANDS:
        assert re.search(rf"^ +{command.split()[0]} ", out, re.MULTILINE), command


def test_version(scenelift: Command) -> None:
    ended = scenelift("--version")
    assert (ended.code, ended.out) == (0, "scenelift 0.1.0\n")


@pytest.mark.parametrize("command", [[], ["fit"], ["weights"]])
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    code = (
        f"import sys; sys.argv = {['scenelift', *command, '--help']}\n"
        "from scenelift.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'rich', 'numpy', 'transformers', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


# --- user errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["fit", "NOWHERE", "--classes", NAMES], "nowhere"),
        (["fit", "ROOM", "--classes", ""], "expected at least two names"),
        (["fit", "ROOM", "--classes", " , "], "expected at least two names"),
        (["fit", "ROOM", "--classes", "wall"], "one class (wall)"),
        (["fit", "ROOM", "--classes", "wall, floor, Wall"], "found wall again"),
        (["fit", "ROOM"], '--classes "wall, floor, chair"'),
        (["fit", "ROOM", "--classes", NAMES, "--recipe", "cnss"], "did you mean 'cns'?"),
        (["fit", "ROOM", "--classes", NAMES, "--data-recipe", "captur"], "did you mean 'capture'?"),
        (["fit", "ROOM", "--classes", NAMES, "--set", "train.epoch=3"], "did you mean 'epochs'?"),
        (["fit", "ROOM", "--classes", NAMES, "--set", "trian.epochs=3"], "did you mean 'train'?"),
        (["fit", "ROOM", "--classes", NAMES, "--set", "train.epochs=many"], "train.epochs: "),
        (["fit", "ROOM", "--classes", NAMES, "--set", "epochs"], "expected key.path=value"),
        (["fit", "ROOM", "--classes", NAMES, "--device", "gpu"], "found 'gpu'"),
        (["fit", "ROOM", "--classes", NAMES, "--teacher", "clip"], "expected simulated or embedded"),
        (["fit", "ROOM", "--classes", NAMES, "--teacher", "simulated"], "--clip and --sam, or choose"),
        (["fit", "ROOM", "--classes", NAMES], "`scenelift weights --clip openai/"),
        (["fit", "ROOM", "--classes", NAMES, "--clip", "./no"], "teachers.labels.weights: expected"),
        (["fit", "ROOM", "--classes", NAMES, "--clip", "x/y", "--teacher", "embedded"], "--clip another one"),
        (["train", "ROOM", "--classes", NAMES, "--sam", "x/y", "--teacher", "embedded"], "--sam another one"),
        (["annotate", "ROOM", "--classes", NAMES, "--sam", "x/y", "--set", "teachers.masks.kind=embedded"],
         "--sam x/y and --set contradict"),
        (["fit", "ROOM", "--classes", NAMES, "--clip", "x/y", "--set", "teachers.labels.weights=z/y"],
         "--clip x/y and --set contradict"),
        (["train", "NOWHERE", "--classes", NAMES], "nowhere"),
        (["annotate", "NOWHERE", "--classes", NAMES], "nowhere"),
        (["demo", "--size", "medium"], "expected small or full, found 'medium'"),
        (["demo", "--size", "small", "--device", "tpu9"], "device"),
        (["predict", "NOWHERE", "ROOM"], "train first"),
    ],
)  # fmt: skip
def test_user_errors_are_one_line(
    scenelift: Command, capture: Path, tmp_path: Path, args: list[str], expected: str
) -> None:
    named = {"NOWHERE": str(tmp_path / "nowhere"), "ROOM": str(capture)}
    ended = scenelift(*(named.get(arg, arg) for arg in args), "--out", tmp_path / "out")
    assert expected in ended.error
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["evaluate", "nowhere"], "expected a folder with config.yaml"),
        (["export", "nowhere", "--to", "x"], "expected a folder with config.yaml"),
        (["weights", "--recipe", "cnss"], "did you mean 'cns'?"),
        (["cache", "ls", "nowhere"], "cache nowhere: no such folder"),
        (["cache", "verify", "nowhere"], "no such folder"),
        (["cache", "prune", "nowhere", "--max-gib", "1"], "no such folder"),
        (["cache", "prune", "."], "expected a stage, an age or a size"),
        (["cache", "prune", ".", "--stage", "maps"], "found 'maps'"),
    ],
)
def test_errors_of_commands_without_out(
    scenelift: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in scenelift(*args).error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args", [["fit"], ["nonsense"], ["demo", "--seed", "-1"], ["fit", "x", "--nonsense"]]
)
def test_wrong_usage_is_exit_code_2(scenelift: Command, args: list[str]) -> None:
    ended = scenelift(*args)
    assert ended.code == 2
    assert "Traceback" not in ended.err


def test_control_characters_of_names_do_not_reach_the_terminal(scenelift: Command) -> None:
    error = scenelift("evaluate", "no\x1b[31m\nwhere").error
    assert "\x1b" not in error
    assert "where" in error
    ended = scenelift("check", "no\x1b[31m\nwhere")
    assert ended.code == 2
    assert "\x1b" not in ended.out + ended.err
    assert "where" in ended.out + ended.err


def test_a_bug_keeps_its_traceback(
    scenelift: Command, monkeypatch: pytest.MonkeyPatch, capture: Path
) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("scenelift.check.check_source", fail)
    with pytest.raises(ZeroDivisionError):
        scenelift("check", capture)


# --- check ---------------------------------------------------------------------------------------------


def test_check_good_and_bad(scenelift: Command, capture: Path, tmp_path: Path) -> None:
    good = scenelift("check", capture)
    assert good.code == 0
    assert good.out
    as_json = scenelift("check", capture, "--json")
    assert as_json.code == 0
    assert isinstance(json.loads(as_json.out), dict)

    bad = write_capture(tmp_path / "inverse", room_frames(6))
    edit_poses(bad, np.linalg.inv)
    ended = scenelift("check", bad)
    assert ended.code == 2
    assert "pose_convention" in ended.out
    assert ended.err == ""
    assert scenelift("check", bad, "--json").code == 2


def test_bad_data_leave_nothing_that_stands_in_the_way(
    scenelift: Command, colour_teachers: None, tmp_path: Path
) -> None:
    """The remedy that the error names works with the same output folder."""
    bad = write_capture(tmp_path / "inverse", room_frames(6))
    edit_poses(bad, np.linalg.inv)
    sets = ["train.epochs=0", "predict.source=teacher"]
    forgotten = [word for word in fitting(bad, tmp_path / "out") if word not in ("--teacher", "embedded")]
    assert "--download" in scenelift(*forgotten, "--set", "data.pose_convention=world_to_cam").error
    assert "pose_convention" in scenelift(*fitting(bad, tmp_path / "out", sets=sets)).error
    assert not (tmp_path / "out").exists()
    mended = scenelift(*fitting(bad, tmp_path / "out", sets=[*sets, "data.pose_convention=world_to_cam"]))
    assert mended.code == 0, mended.err


# --- everything, on a capture --------------------------------------------------------------------------


def test_the_stages_one_by_one_and_at_once(
    scenelift: Command, colour_teachers: None, capture: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = fitting(capture, run)
    for stage, said in (("annotate", "1 scenes annotated"), ("train", "networks: ")):
        ended = scenelift(stage, *command[1:])
        assert ended.code == 0, ended.err
        assert said in ended.out
    trained = (run / "networks.safetensors").stat().st_mtime_ns
    ended = scenelift(*command)
    assert ended.code == 0, ended.err
    assert f"report: {run / 'report.html'}" in ended.out
    assert (run / "networks.safetensors").stat().st_mtime_ns == trained
    results = json.loads((run / "results.json").read_text())
    assert results["rows"][0]["miou_2d"] is None
    (scene,) = [item for item in (run / "predictions").iterdir() if item.is_dir()]
    assert (scene / "points.ply").is_file()
    assert len(list((scene / "labels").iterdir())) == len(list((scene / "overlays").iterdir())) == 6
    assert "scenelift fit" in (run / "report.html").read_text()

    # run again: nothing twice
    written = {p: p.stat().st_mtime_ns for p in scene.rglob("*.*")}
    assert scenelift(*command).code == 0
    assert {p: p.stat().st_mtime_ns for p in written} == written

    # its own folder is taken
    error = scenelift(*command, "--seed", "1").error
    assert "holds another run (it differs in seed)" in error

    # what else can be done with it
    assert "no ground truth" in scenelift("evaluate", run).error
    assert scenelift("export", run, "--to", tmp_path / "labelled").code == 0
    assert (tmp_path / "labelled" / scene.name / "points.ply").read_bytes() == (
        scene / "points.ply"
    ).read_bytes()
    for _ in range(2):
        ended = scenelift("predict", run, capture, "--out", tmp_path / "other", "--device", "cpu")
        assert ended.code == 0, ended.err
    other = tmp_path / "other" / "predictions" / scene.name
    assert (other / "points.ply").read_bytes() == (scene / "points.ply").read_bytes()
    assert "nowhere" in scenelift("predict", run, tmp_path / "nowhere", "--out", tmp_path / "new").error
    assert not (tmp_path / "new").exists()

    # its cache
    listed = scenelift("cache", "ls", run / "cache").out
    assert {line.split()[0] for line in listed.splitlines()} >= {"labels", "masks", "pairs", "stage1"}
    assert scenelift("cache", "verify", run / "cache").out == "0 damaged\n"
    victim = next((run / "cache" / "masks").rglob("*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-1])
    ended = scenelift("cache", "verify", run / "cache")
    assert (ended.code, str(victim) in ended.out) == (2, True)
    ended = scenelift("cache", "verify", run / "cache", "--remove")
    assert (ended.code, victim.exists()) == (0, False)
    ended = scenelift("cache", "prune", run / "cache", "--max-gib", "0", "--dry-run")
    assert ended.out.startswith("would remove ")
    assert scenelift("cache", "ls", run / "cache").out != "empty\n"
    assert scenelift("cache", "prune", run / "cache", "--max-gib", "0").out.startswith("removed ")
    assert scenelift("cache", "ls", run / "cache").out == "empty\n"


def test_a_folder_of_other_things_is_not_touched(
    scenelift: Command, colour_teachers: None, capture: Path, tmp_path: Path
) -> None:
    (tmp_path / "diary.txt").write_text("dear")
    assert "found other files in it" in scenelift(*fitting(capture, tmp_path)).error
    assert [item.name for item in tmp_path.iterdir()] == ["diary.txt"]


def test_no_training_is_said(
    scenelift: Command, colour_teachers: None, capture: Path, tmp_path: Path
) -> None:
    ended = scenelift("train", *fitting(capture, tmp_path / "run", "--recipe", "maskclip", sets=[])[1:])
    assert (ended.code, ended.out) == (0, "this recipe trains nothing\n")


def test_demo_and_evaluate(scenelift: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch)
    monkeypatch.setattr("scenelift.compare.DEMO_RECIPES", ("wo_sct", "cns"))
    sets = [
        part
        for one in (
            *TINY,
            "train.steps_per_epoch=1",
            "train.scenes_per_step=1",
            "pairing.depth_tolerance_m=0.1",
        )
        for part in ("--set", one)
    ]
    ended = scenelift(
        "demo", "--size", "small", "--seeds", "2", "--device", "cpu", "--out", tmp_path / "demo", *sets
    )
    assert ended.code == 0, ended.err
    assert bench.begun == [0, 1, 0, 1]
    assert (tmp_path / "demo" / "spread.md").read_text() in ended.out
    for seed in (0, 1):
        assert f"report: {tmp_path / 'demo' / f'seed{seed}' / 'report.html'}" in ended.out
    ended = scenelift("evaluate", tmp_path / "demo" / "seed1" / "cns", "--cache", tmp_path / "demo" / "cache")
    assert ended.code == 0, ended.err
    assert "cns" in ended.out
    assert json.loads((tmp_path / "demo" / "seed1" / "cns" / "results.json").read_text())["seed"] == 1


def test_annotate_draws_a_contact_sheet_and_a_full_disk_is_one_line(
    scenelift: Command,
    colour_teachers: None,
    capture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    command = ["annotate", *fitting(capture, run)[1:], "--preview", 3]

    def full(*paths: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        replaced = os.replace
        disk.setattr(os, "replace", lambda src, dst: full() if "masks" in str(dst) else replaced(src, dst))
        assert "disk full" in scenelift(*command).error
    assert not any(is_temp(path) for path in run.rglob("*"))
    ended = scenelift(*command)
    assert ended.code == 0, ended.err
    assert f"3 frames shown: {run / 'preview.jpg'}" in ended.out
    sheet = (run / "preview.jpg").read_bytes()
    (run / "preview.jpg").unlink()
    monkeypatch.setattr(ColourTeacher, "masks", None)  # nothing is asked again
    monkeypatch.setattr(ColourTeacher, "image_features", None)
    monkeypatch.setattr(ColourTeacher, "text_features", None)
    assert scenelift(*command).code == 0
    assert (run / "preview.jpg").read_bytes() == sheet


# --- stopped -------------------------------------------------------------------------------------------


def start(args: Sequence[str]) -> subprocess.Popen[str]:
    """The entry point in a process of its own, with colour teachers and steps that take a while."""
    code = (
        "import time, test_cli, scenelift.cotrain as c\n"
        "test_cli.use_colour_teachers()\n"
        "real = c._train_step\n"
        "c._train_step = lambda *a: (time.sleep(0.2), real(*a))[1]\n"
        "from scenelift.cli import main\n"
        "main()"
    )
    here = str(Path(__file__).parent)
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code, *args], stdout=pipe, stderr=pipe, text=True, env=env)


def steps_saved(path: Path) -> int:
    """Of a checkpoint, whosever it is."""
    import safetensors

    if not path.is_file():
        return 0
    with safetensors.safe_open(path, framework="pt") as file:
        return int(json.loads(file.metadata()["scenelift"])["step"])


def test_stopped_by_signals_it_goes_on_where_it_was(
    scenelift: Command, colour_teachers: None, capture: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    saved = run / "checkpoints" / "last.safetensors"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)):
        before = steps_saved(saved)
        process = start(fitting(capture, run))
        while steps_saved(saved) <= before and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode == code, err
        assert "Traceback" not in err
        if number != signal.SIGKILL:
            assert err.splitlines()[-1] == "stopped; the same command goes on from here"
            assert not [item for item in run.rglob("*") if is_temp(item)]
        if before:
            assert f"train: {before} of {STEPS} done" in err
    assert not (run / "networks.safetensors").exists()
    assert scenelift(*fitting(capture, run)).code == 0
    assert scenelift(*fitting(capture, tmp_path / "whole")).code == 0
    have, want = (checkpoint.read_networks(p / "networks.safetensors")[0] for p in (run, tmp_path / "whole"))
    assert [key for key in want if not torch.equal(have[key], want[key])] == []
    logs: list[list[dict[str, Any]]] = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (run, tmp_path / "whole")
    ]
    assert [[r["loss"] for r in log] for log in logs] == [[r["loss"] for r in logs[1]]] * 2
