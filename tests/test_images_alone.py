"""Data without any point: everything runs, the 3D network stays out of it, and nobody is given its labels."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import scenelift
from fixtures_bench import Bench
from fixtures_scenes import TinySource, tiny_config, tiny_source
from scenelift import checkpoint, pipeline
from scenelift.errors import RunError
from scenelift.models.networks import Networks
from scenelift.predict import Predictor
from scenelift.predictions import write_predictions


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(tmp_path, monkeypatch)
    bench.source = images_alone(bench.source)
    return bench


def images_alone(source: TinySource) -> TinySource:
    """The same frames without clouds, each a scene of its own."""
    assert source.truth is not None
    truth, scenes = source.truth, []
    for scene in list(source.scenes.values()):
        for frame in scene.frames:
            name = f"{scene.name}_{frame.name}"
            truth.frames[name, frame.name] = truth.frames[scene.name, frame.name]
            alone = scene.frames.only([frame.name])
            moved = replace(alone[0], scene=name, depth_m=None)
            scenes.append(
                replace(
                    scene,
                    name=name,
                    points_world=np.zeros((0, 3), np.float32),
                    rgb=None,
                    frames=type(alone).of([moved]),
                )
            )
    truth.scenes.clear()
    return TinySource(scenes, truth)


OVERRIDES = {"pairing": {"depth_test": "none"}, "train": {"frames_per_scene": 1, "scenes_per_step": 3}}


def test_fit_on_images_alone(bench: Bench) -> None:
    session = bench.session(**OVERRIDES)
    pipeline.fit(session, "scenelift fit images")
    row = json.loads(session.folder.results.read_text())["rows"][0]
    assert row["miou_2d"] is not None
    assert row["miou_3d"] is None
    assert row["coverage_3d"] is None
    outputs = session.folder.predictions
    assert len(list(outputs.glob("*/labels/*.png"))) == len(bench.source.scenes)
    assert list(outputs.glob("*/points.ply")) == []
    records = session.folder.read_log()
    assert all(record["pairs"] == 0 and record["loss_points"] == 0 for record in records)
    assert {record["stage"] for record in records} == {1, 2}
    assert math.isfinite(records[-1]["loss"])
    page = session.folder.report.read_text()
    assert "3D" in page  # the table's columns stay, with dashes
    steps = bench.steps
    pipeline.fit(bench.session(**OVERRIDES), "again")  # everything is found
    assert bench.steps == steps


def test_the_image_network_learns_and_the_point_network_stays_as_drawn(bench: Bench) -> None:
    folder = bench.train(**OVERRIDES)
    state, _, about = checkpoint.read_networks(folder.networks)
    config = tiny_config(**OVERRIDES)
    fresh = Networks(config.networks, config.latent, 8, about["target_dim"], config.seed).state_dict()
    same = {key for key in state if torch.equal(state[key], fresh[key])}
    assert {key for key in state if key.startswith("points.")} <= same
    assert not {key for key in state if key.startswith("image_head.")} & same
    assert about["knows_points"] is False


def test_such_a_run_labels_no_points(bench: Bench) -> None:
    folder = bench.train(**OVERRIDES)
    run = scenelift.load(folder.path)
    assert run.segment_image(np.zeros((24, 32, 3), np.uint8)).labels.shape == (24, 32)
    with pytest.raises(RunError, match="images alone"):
        run.segment_points(np.zeros((5, 3), np.float32))
    scene = tiny_source().scene("scene0")  # one with a cloud
    predictor = Predictor(run.config, run.pair, None)
    assert not predictor.can_label(scene)
    out = folder.path / "other"
    wanted = (tiny_source(), ["scene0"], run.classes, predictor, "digest", out)
    shares = write_predictions(*wanted)
    assert set(shares) == {"2D"}
    assert (out / "scene0" / "labels" / "f0.png").is_file()
    assert not (out / "scene0" / "points.ply").exists()
    assert write_predictions(*wanted) == shares


@pytest.mark.parametrize("granularity", ["step", "image", "pixel"])
def test_every_way_to_switch_works_without_pairs(bench: Bench, granularity: str) -> None:
    switch = {"granularity": granularity, "clip": 0.1, "image": 0.4, "points": 0.5}
    folder = bench.train(switch=switch, **OVERRIDES)
    assert all(math.isfinite(record["loss"]) for record in folder.read_log())
