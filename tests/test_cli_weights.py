"""The command line where weights are concerned: choosing, listing and fetching them."""

from __future__ import annotations

import io
import json
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

import random_teachers
from fixtures_capture import room_frames, write_capture
from fixtures_cli import Command
from fixtures_hub import no_network, serving
from random_teachers import save_clip, save_sam
from scenelift import inventory
from scenelift.teachers import registry
from scenelift.teachers.weights import quiet_transformers
from test_cli import NAMES, ColourTeacher

BARE = ["--set", "train.epochs=0", "--set", "predict.source=teacher"]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example writes: the folders clip and sam."""
    out = tmp_path_factory.mktemp("teachers")
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, quiet_transformers(), redirect_stdout(told):
        patch.setattr(sys, "argv", ["random_teachers.py", str(out), "--tiny"])
        random_teachers.main()
    assert f"--clip {out / 'clip'} --sam {out / 'sam'}" in told.getvalue()
    return out


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("weights") / "room", room_frames(4))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, bool]]:
    """Sections and leave to download that colour teachers were opened with instead of the real ones."""
    calls: list[tuple[Any, bool]] = []

    def opened(config: Any, truth: Any, device: str, download: bool) -> ColourTeacher:
        calls.append((config, download))
        return ColourTeacher()

    for table, kind in ((registry.LABEL_TEACHERS, "clip"), (registry.MASK_TEACHERS, "sam")):
        monkeypatch.setitem(table, kind, opened)
    return calls


def test_the_example_is_the_same_each_time(teachers: Path, tmp_path: Path) -> None:
    with quiet_transformers():
        for name, save in (("clip", save_clip), ("sam", save_sam)):
            save(tmp_path / name, seed=0, tiny=True)
    for path in teachers.rglob("*.*"):
        assert (tmp_path / path.relative_to(teachers)).read_bytes() == path.read_bytes(), path.name
    with quiet_transformers():
        save_clip(tmp_path / "other", seed=1, tiny=True)
    other, first = (folder / "model.safetensors" for folder in (tmp_path / "other", teachers / "clip"))
    assert other.read_bytes() != first.read_bytes()


# --- choosing ------------------------------------------------------------------------------------------


def test_weights_of_the_options_reach_the_teachers(
    scenelift: Command,
    asked: list[tuple[Any, bool]],
    capture: Path,
    tmp_path: Path,
) -> None:
    options = ["--classes", NAMES, "--device", "cpu", "--out", tmp_path / "run", *BARE]
    chosen = ["--clip", "org/clip@v1", "--sam", "org/sam"]
    for stage, more, download in (
        ("annotate", ["--download"], True),
        ("train", [], False),  # the same run: leave to download is no part of it
        ("fit", ["--download"], True),
    ):
        asked.clear()
        ended = scenelift(stage, capture, *options, *chosen, *more)
        assert ended.code == 0, ended.err
        assert [config.weights for config, _ in asked] == ["org/clip@v1", "org/sam"]
        assert asked[1][0].points_per_side == 16  # the recipe's settings stay
        assert {leave for _, leave in asked} == {download}
    for more, download in (([], False), (["--download"], True)):  # a run names its own teachers
        asked.clear()
        ended = scenelift("export", tmp_path / "run", "--to", tmp_path / "out", *more)
        assert ended.code == 0, ended.err
        assert [config.weights for config, _ in asked] == ["org/clip@v1", "org/sam"]
        assert {leave for _, leave in asked} == {download}
    asked.clear()
    assert "no ground truth" in scenelift("evaluate", tmp_path / "run", "--download").error
    assert {leave for _, leave in asked} == {True}
    error = scenelift("fit", capture, *options, "--clip", "org/clip@v2", "--sam", "org/sam").error
    assert "holds another run (it differs in teachers.labels.weights)" in error


def test_defaults_are_the_real_teachers(
    scenelift: Command,
    asked: list[tuple[Any, bool]],
    capture: Path,
    tmp_path: Path,
) -> None:
    ended = scenelift("annotate", capture, "--classes", NAMES, "--device", "cpu", "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    names = [config.weights for config, _ in asked]
    assert names == ["openai/clip-vit-base-patch16", "facebook/sam-vit-base"]


# --- listing -------------------------------------------------------------------------------------------


def test_the_list_when_all_is_there(
    scenelift: Command,
    teachers: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_network(monkeypatch)
    options = ["--clip", teachers / "clip", "--sam", teachers / "sam", "--device", "cpu"]
    ended = scenelift("weights", *options)
    assert ended.code == 0, ended.err
    told = ended.out.splitlines()
    assert [line[:14].strip() for line in told] == ["label teacher", "mask teacher", "2D backbone"]
    assert f"clip {teachers / 'clip'}: {teachers / 'clip'} (0." in told[0]
    assert told[2].endswith("small: needs no weights")

    ended = scenelift("weights", *options, "--json")
    tree = json.loads(ended.out)
    assert (ended.code, tree["schema"]) == (0, 1)
    clip, sam, backbone = tree["weights"]
    assert clip["digest"][:12] in told[0]
    assert sam["bytes"] == sum(path.stat().st_size for path in (teachers / "sam").iterdir())
    assert (clip["problem"], sam["place"]) == (None, str(teachers / "sam"))
    assert backbone["digest"] is None


def test_the_list_when_something_is_missing(
    scenelift: Command,
    teachers: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    no_network(monkeypatch)
    ended = scenelift("weights", "--data-recipe", "capture", "--sam", teachers / "sam", "--json")
    assert ended.code == 2
    clip, sam, backbone = json.loads(ended.out)["weights"]
    assert sam["problem"] is None
    assert "`scenelift weights --clip openai/clip-vit-base-patch16 --download`" in clip["problem"]
    assert clip["place"].endswith("models--openai--clip-vit-base-patch16")
    assert backbone["place"].startswith(str(tmp_path / "checkpoints" / "resnet50"))
    assert "`scenelift weights --download`" in backbone["problem"]
    ended = scenelift("weights", "--data-recipe", "capture", "--sam", teachers / "sam")
    assert ended.code == 2
    assert [": MISSING. " in line for line in ended.out.splitlines()] == [True, False, True]

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ended = scenelift("weights", "--data-recipe", "capture", "--download")
    assert ended.code == 2
    assert ended.out.count("HF_HUB_OFFLINE=1 forbids fetching it") == 3
    wrong = ["--clip", teachers / "sam", "--sam", teachers / "clip"]
    ended = scenelift(
        "weights", *wrong, "--set", f"networks.image={{name: deeplabv3_resnet50, weights: {tmp_path}/x}}"
    )
    assert "found 'sam'" in ended.out
    assert "found 'clip'" in ended.out
    assert "--set networks.image.weights=FILE" in ended.out


def test_teachers_without_weights(scenelift: Command) -> None:
    ended = scenelift("weights", "--data-recipe", "synthetic")
    assert ended.code == 0
    assert ended.out.count(": needs no weights") == 3


def test_fetching(
    scenelift: Command,
    teachers: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    files = {path.name: path.read_bytes() for path in (teachers / "clip").iterdir()}
    backbone = tmp_path / "backbone.pth"
    monkeypatch.setattr(inventory, "weights_file", lambda config: backbone)
    monkeypatch.setattr(inventory, "fetch_weights", lambda config: backbone.write_bytes(b"x"))
    asked = ["weights", "--clip", "org/model", "--sam", teachers / "sam"]
    with serving(files, tmp_path / "hub", monkeypatch) as hub:
        assert scenelift(*asked).code == 2
        assert hub.requests == 0
        assert not backbone.exists()
        ended = scenelift(*asked, "--download")
        assert ended.code == 0, ended.out
        assert sorted(hub.sent) == sorted(files)
        assert backbone.exists()
    no_network(monkeypatch)
    assert scenelift(*asked).code == 0


# --- the real path -------------------------------------------------------------------------------------


def test_fit_with_random_teachers(
    scenelift: Command,
    teachers: Path,
    capture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the folders to labels, offline; a folder that has moved is the same teacher."""
    no_network(monkeypatch)
    cache = tmp_path / "cache"
    few = [*BARE, "--set", "teachers.masks.points_per_side=3"]
    common = ["fit", capture, "--classes", NAMES, "--device", "cpu", "--cache", cache, *few]
    ended = scenelift(
        *common, "--clip", teachers / "clip", "--sam", teachers / "sam", "--out", tmp_path / "a"
    )
    assert ended.code == 0, ended.err
    assert len(list((tmp_path / "a" / "predictions").rglob("labels/*.png"))) == 4
    entries = {path: path.stat().st_ino for path in cache.rglob("*.safetensors")}
    assert {path.relative_to(cache).parts[0] for path in entries} >= {"labels", "masks", "pairs"}

    moved = Path(shutil.copytree(teachers, tmp_path / "moved"))
    ended = scenelift(*common, "--clip", moved / "clip", "--sam", moved / "sam", "--out", tmp_path / "b")
    assert ended.code == 0, ended.err
    assert {path: path.stat().st_ino for path in cache.rglob("*.safetensors")} == entries
