"""New class lists without training, none of these, and similarities by the API."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

import scenelift as library
from fixtures_cli import Command, scenelift
from fixtures_open import SMALL_ROOM, room_run
from scenelift.api import TrainedRun
from scenelift.config import SyntheticData
from scenelift.errors import ConfigError, DataError
from scenelift.refusal import SHARES, Calibration, calibrate, least_similarities, load_calibration
from scenelift.similarity import common_direction, similarities
from scenelift.types import IGNORE

__all__ = ["scenelift"]

XYZ = np.random.default_rng(0).uniform(-2, 2, (150, 3))
RGB = np.random.default_rng(1).integers(0, 256, (150, 3), dtype=np.uint8)
IMAGE = np.random.default_rng(2).integers(0, 256, (40, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return room_run(tmp_path_factory.mktemp("classes") / "run").path


@pytest.fixture(scope="module")
def run(folder: Path) -> TrainedRun:
    return library.load(folder, "cpu")


def test_the_same_list_gives_the_same_labels(run: TrainedRun) -> None:
    again = run.with_classes(list(run.classes.names))
    np.testing.assert_array_equal(again.segment_points(XYZ, RGB).labels, run.segment_points(XYZ, RGB).labels)
    np.testing.assert_array_equal(again.segment_image(IMAGE).labels, run.segment_image(IMAGE).labels)


def test_a_shorter_list_gives_the_best_of_those_that_are_left(run: TrainedRun) -> None:
    names = ["floor", "chair", "table"]
    few = run.with_classes(names)
    assert few.classes.names == tuple(names)
    centred = (XYZ - XYZ.mean(0)).astype(np.float32)
    kept = [run.classes.names.index(name) for name in names]
    best = run.pair.point_probabilities(centred, RGB)[:, kept].argmax(1)
    np.testing.assert_array_equal(few.segment_points(XYZ, RGB).labels, best)
    assert few.pair.digest != run.pair.digest
    assert few.with_classes(None).pair.digest != few.pair.digest
    assert run.classes.names[0] == "wall"  # the run itself is as it was


def test_synonyms_and_unknown_words(run: TrainedRun) -> None:
    assert run.with_classes(["sofa / couch", "lamp table"]).classes.prompts[0] == ("sofa", "couch")
    with pytest.raises(ConfigError, match="a word that the simulated teacher knows, found 'lamp'"):
        run.with_classes(["chair", "lamp"])


def test_similarity_of_points_and_pixels(run: TrainedRun) -> None:
    found = run.similarity(["a chair", "floor"], XYZ, RGB)
    assert found.shape == (150, 2)
    assert found.dtype == np.float32
    assert np.abs(found).max() <= 1
    axes = torch.eye(run.pair.text.shape[1])
    run_of_axes = run.pair.with_text(axes)
    embedding = run_of_axes.point_cosines((XYZ - XYZ.mean(0)).astype(np.float32), RGB)
    wanted = similarities(embedding, run.text([["chair"], ["floor"]]), common_direction(run.pair.text))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    pixels = run.image_similarity(["floor"], IMAGE)
    assert pixels.shape == (40, 56, 1)
    # a list for a list, so that nobody asks for the letters of a word
    with pytest.raises(ConfigError, match="expected a list of phrases"):
        run.similarity("chair", XYZ)
    with pytest.raises(DataError, match="similarity: expected"):
        run.similarity(["chair"], XYZ[:, :2])
    with pytest.raises(DataError, match="image_similarity: expected"):
        run.image_similarity(["chair"], IMAGE[..., 0])
    assert run.similarity(["chair"], np.zeros((0, 3))).shape == (0, 1)


class TestNoneOfThese:
    def test_quantiles_are_those_of_the_nearest_class(self, run: TrainedRun) -> None:
        config = run.config.data
        found = calibrate(run.pair, config)
        assert isinstance(config, SyntheticData)
        from scenelift.scenes.synthetic import SyntheticRooms

        scene = SyntheticRooms(config).scene("room_0000")
        best = run.pair.point_similarities(scene.points_world, scene.rgb, run.pair.text).amax(1).numpy()
        assert found.in_3d is not None
        np.testing.assert_allclose(found.in_3d, np.quantile(best, SHARES), atol=1e-6)
        assert found.in_2d is not None
        assert np.mean(best < least_similarities(found, 0.1)[1]) == pytest.approx(0.1, abs=0.01)
        assert least_similarities(Calibration(None, None), 0.1) == (-1.0, -1.0)

    def test_a_listed_share_is_refused_and_grows(self, run: TrainedRun) -> None:
        refused = []
        for share in (0.0, 0.1, 0.5):
            asked = run.with_classes(None, share)
            points, pixels = asked.segment_points(XYZ, RGB), asked.segment_image(IMAGE)
            for answer in (points, pixels):
                assert (answer.confidence[answer.labels == IGNORE] == 0).all()
                assert (answer.confidence[answer.labels != IGNORE] > 0).all()
            refused.append((1 - points.coverage, 1 - pixels.coverage))
        assert refused[0] <= refused[1] <= refused[2]
        assert refused[0] != refused[2]

    def test_a_class_that_is_not_listed_takes_nothing_listed(self, run: TrainedRun) -> None:
        listed = ["floor", "table"]
        asked, forced = run.with_classes(listed, 0.0), run.with_classes(listed)
        labels = asked.segment_points(XYZ, RGB).labels
        kept = labels != IGNORE
        np.testing.assert_array_equal(labels[kept], forced.segment_points(XYZ, RGB).labels[kept])
        own = run.similarity(list(run.classes.names), XYZ, RGB)
        index = [run.classes.names.index(name) for name in listed]
        beaten = own[:, index].max(1) < np.delete(own, index, axis=1).max(1)
        assert (labels[beaten] == IGNORE).all()

    def test_it_is_calibrated_once(self, run: TrainedRun, tmp_path: Path) -> None:
        asked: list[str] = []

        def progress(what: str, total: int, done: int):  # type: ignore[no-untyped-def]
            asked.append(what)
            from scenelift.progress import silent

            return silent(what, total, done)

        path = tmp_path / "calibration.json"
        first = load_calibration(run.pair, run.config.data, path, progress)
        assert load_calibration(run.pair, run.config.data, path, progress) == first
        assert asked == ["calibrate"]
        tree = json.loads(path.read_text())
        path.write_text(json.dumps({**tree, "digest": "of other networks"}))
        load_calibration(run.pair, run.config.data, path, progress)
        assert asked == ["calibrate", "calibrate"]

    def test_a_share_out_of_range(self, run: TrainedRun) -> None:
        with pytest.raises(ConfigError, match=r"expected a share from 0 to 0\.5, found 0\.7"):
            run.with_classes(None, 0.7)


class TestCommand:
    def test_predict_with_other_classes(self, folder: Path, scenelift: Command, tmp_path: Path) -> None:
        sets = [text for key in SMALL_ROOM if key.startswith("data.") for text in ("--set", key)]
        ended = scenelift(
            "predict", folder, "synthetic", "--classes", "chair, table, floor", "--none-of-these", "0.3",
            "--out", tmp_path / "p", "--device", "cpu", *sets,
        )  # fmt: skip
        assert ended.code == 0, ended.err
        labels = PlyData.read(str(tmp_path / "p" / "predictions" / "room_0000" / "points.ply"))["vertex"][
            "label"
        ]
        assert set(np.unique(labels)) <= {0, 1, 2, IGNORE}
        assert (labels == IGNORE).mean() > 0.2

    def test_a_word_that_means_nothing(self, folder: Path, scenelift: Command, tmp_path: Path) -> None:
        ended = scenelift(
            "predict", folder, "synthetic", "--classes", "chair, gizmo", "--out", tmp_path / "p"
        )
        assert "found 'gizmo'" in ended.error
        assert not (tmp_path / "p").exists()
