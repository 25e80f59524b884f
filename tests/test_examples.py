"""What `docs/extend.md` shows: each example runs as a user would run it, at tiny sizes."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import random_teachers
from fixtures_cli import Command
from fixtures_scenes import tiny_config, tiny_source
from scenelift import pipeline
from scenelift.errors import ConfigError
from scenelift.files import read_ply_points
from scenelift.pipeline import Session
from scenelift.recipes import load
from scenelift.runfolder import RunFolder

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SHORT = ("train.epochs=1", "train.steps_per_epoch=1", "train.scenes_per_step=1", "train.frames_per_scene=2")
ROOMS = (
    "data.train_rooms=1",
    "data.val_rooms=1",
    "data.frames_per_room=2",
    "data.width=64",
    "data.height=48",
)


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("add_*")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("add_*")), ids=lambda path: path.name)
def test_an_example_is_shown_as_it_is(path: Path) -> None:
    shown = (EXAMPLES.parent / "docs" / "extend.md").read_text(encoding="utf-8")
    assert f'\n--8<-- "examples/{path.name}"\n' in shown


def test_a_data_set_from_outside_is_annotated_trained_on_and_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_source(num_scenes=2, frames=2, size=(48, 64))
    (tmp_path / "scenes").mkdir()
    for name, scene in source.scenes.items():
        frames = list(scene.frames)
        np.savez(
            tmp_path / "scenes" / f"{name}.npz",
            image=np.stack([frame.image for frame in frames]),
            depth_m=np.stack([frame.depth_m for frame in frames if frame.depth_m is not None]),
            intrinsics=frames[0].intrinsics,
            cam_from_world=np.stack([frame.cam_from_world for frame in frames]),
            points=scene.points_world,
            rgb=np.asarray(scene.rgb),
        )
    out = tmp_path / "run"
    random_teachers.save_clip(tmp_path / "clip", seed=0, tiny=True)
    random_teachers.save_sam(tmp_path / "sam", seed=0, tiny=True)
    weights = [
        f"teachers.{kind}.weights={tmp_path / of}" for kind, of in (("labels", "clip"), ("masks", "sam"))
    ]
    light = ("teachers.masks.points_per_side=2", "teachers.labels.short_side=64")
    run(
        monkeypatch, "add_data_set.py", tmp_path / "scenes", out, "wall, floor, box", *SHORT, *weights, *light
    )
    for name, scene in source.scenes.items():
        points, _ = read_ply_points(out / "predictions" / name / "points.ply")
        np.testing.assert_array_equal(points, scene.points_world)
    assert "npz scenes" in (out / "config.yaml").read_text()


def test_a_teacher_from_outside_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "add_teacher.py", tmp_path / "run", *SHORT, *ROOMS)
    assert "steelblue" in capsys.readouterr().out


def test_the_colour_teacher_says_what_colour_a_cell_has() -> None:
    teacher = runpy.run_path(str(EXAMPLES / "add_teacher.py"))["ColourTeacher"]()
    names = ("white", "black", "saddlebrown", "steelblue")
    text = teacher.text_features([[name] for name in names])
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, atol=1e-6)
    frame = tiny_source(num_scenes=1, frames=1, size=(16, 32)).scenes["scene0"].frames[0]
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, 16:24] = (139, 69, 19)
    image[:, 24:] = 255
    frame = type(frame)("s", "f", image, frame.intrinsics, frame.cam_from_world)
    (features,) = teacher.image_features([frame])
    assert features.shape == (3, 2, 4)
    found = np.einsum("dhw,cd->chw", features.astype(np.float32), text).argmax(0)
    assert found.tolist() == [[1, 1, 2, 0]] * 2


def test_a_recipe_from_outside_trains(scenelift: Command, tmp_path: Path) -> None:
    config = load(EXAMPLES / "add_recipe.yaml", data="synthetic")
    assert (config.recipe, config.refine.image, config.switch.granularity) == ("add_recipe", False, "pixel")
    sets = [text for pair in (("--set", key) for key in (*SHORT, *ROOMS)) for text in pair]
    recipe = EXAMPLES / "add_recipe.yaml"
    ended = scenelift("train", "synthetic", "--recipe", recipe, "--out", tmp_path / "run", *sets)
    assert ended.code == 0, ended.err
    assert RunFolder(tmp_path / "run").networks.is_file()


# --- what is configured as a program's own, but not brought by one ---------------------------------------


def test_a_data_set_that_no_program_brings_is_one_clear_error(tmp_path: Path) -> None:
    config = tiny_config(data={"source": "python", "name": "mine"})
    with pytest.raises(ConfigError, match="mine was opened by a Python program"):
        _ = Session(config, RunFolder(tmp_path / "run"), tmp_path / "cache").source


@pytest.mark.parametrize("which", ["labels", "masks"])
def test_a_teacher_that_no_program_brings_is_one_clear_error(tmp_path: Path, which: str) -> None:
    config = tiny_config(teachers={which: {"kind": "python", "name": "mine"}})
    session = Session(config, RunFolder(tmp_path / "run"), tmp_path / "cache", opened=tiny_source())
    with pytest.raises(ConfigError, match="mine was made by a Python program"):
        pipeline.annotate(session)
    assert not (tmp_path / "run").exists()


# --- one pixel's journey ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_method_page_shows_what_the_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Word by word; numbers that training has a part in may differ a little from machine to machine."""
    import one_pixel

    one_pixel.main()
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    page = (EXAMPLES.parent / "docs" / "method.md").read_text(encoding="utf-8")
    shown = [
        line.strip()
        for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(shown) == len(printed) == 17
    for have, want in zip(printed, shown, strict=True):
        assert NUMBER.sub("#", have) == NUMBER.sub("#", want)
        trained = have.startswith(("eq. 5", "of its voxel", "eq. 7", "prediction", "metric"))
        np.testing.assert_allclose(numbers(have), numbers(want), atol=0.15 if trained else 0.006)


NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def numbers(line: str) -> list[float]:
    return [float(text) for text in NUMBER.findall(line)]


def test_a_pixel_outside_of_the_image_is_told() -> None:
    import one_pixel

    with pytest.raises(SystemExit, match="found 120 and 3"):
        one_pixel.main(120, 3)
