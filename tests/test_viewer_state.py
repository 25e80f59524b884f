"""What the viewer shows, without a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures_open import room_run
from scenelift.colors import distinct_colors
from scenelift.errors import RunError
from scenelift.evaluate import Evaluation
from scenelift.export import NO_LABEL_COLOR
from scenelift.files import read_json
from scenelift.opened import open_data, open_run
from scenelift.types import IGNORE
from scenelift.viewer import wording
from scenelift.viewer.detail import parts
from scenelift.viewer.layers import Layers
from scenelift.viewer.state import RIGHT, WRONG, Cloud, Row, View, errors, legend, paint, palette_of

PALETTE = palette_of(distinct_colors(4))
POINTS = np.random.default_rng(0).uniform(0, 2, (6, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, IGNORE, 1], np.uint8)
TRUTH = np.array([0, 2, 2, IGNORE, 1, 1], np.uint8)
CLOUD = Cloud(
    POINTS, POINTS[:, 2] - POINTS[:, 2].min(), None, {"points": LABELS, "truth": TRUTH},
    np.linspace(0, 1, 6, dtype=np.float32), np.linspace(-0.2, 0.9, 6, dtype=np.float32),
)  # fmt: skip
VIEW = View("room", "points", "points")


class TestPaint:
    def test_labels(self) -> None:
        colors, drawn = paint(VIEW, CLOUD, PALETTE)
        np.testing.assert_array_equal(colors[:4], distinct_colors(4))
        assert tuple(colors[4]) == NO_LABEL_COLOR
        assert drawn.all()

    def test_errors(self) -> None:
        colors, _ = paint(replace(VIEW, coloring="error"), CLOUD, PALETTE)
        told = [{RIGHT: "right", WRONG: "wrong", NO_LABEL_COLOR: "?"}[tuple(row)] for row in colors.tolist()]
        assert told == ["right", "wrong", "right", "?", "wrong", "right"]
        np.testing.assert_array_equal(errors(LABELS, TRUTH), [0, 1, 0, 2, 1, 0])

    def test_hidden_classes_are_those_of_the_colouring_or_of_the_prediction(self) -> None:
        hidden = frozenset({1, IGNORE})
        _, drawn = paint(replace(VIEW, hidden=hidden), CLOUD, PALETTE)
        np.testing.assert_array_equal(drawn, [1, 0, 1, 1, 0, 0])
        _, drawn = paint(replace(VIEW, coloring="truth", hidden=hidden), CLOUD, PALETTE)
        np.testing.assert_array_equal(drawn, [1, 1, 1, 0, 0, 0])
        _, drawn = paint(replace(VIEW, coloring="color", hidden=hidden), CLOUD, PALETTE)
        np.testing.assert_array_equal(drawn, [1, 0, 1, 1, 0, 0])

    def test_a_query_lights_up_what_it_selects(self) -> None:
        colors, _ = paint(replace(VIEW, phrase="chair", threshold=0.5), CLOUD, PALETTE)
        bright = colors.astype(int).sum(1)
        assert bright[4:].min() > 2 * bright[:4].max()

    def test_without_colour_by_height_and_cut_off(self) -> None:
        colors, drawn = paint(View("room", cut=0.5), CLOUD, PALETTE)
        assert CLOUD.height_m.argmax() == colors.astype(int).sum(1).argmax()
        np.testing.assert_array_equal(drawn, CLOUD.height_m <= CLOUD.height_m.max() / 2)
        rgb = np.full((6, 3), 7, np.uint8)
        np.testing.assert_array_equal(paint(View("room"), replace(CLOUD, rgb=rgb), PALETTE)[0], rgb)

    def test_it_asks_for_no_more_than_it_looks_at(self) -> None:
        assert View("room", judged="points").needed() == ()
        assert View("room", judged="points", hidden=frozenset({0})).needed() == ("points",)
        assert replace(VIEW, coloring="error").needed() == ("points", "truth")
        assert replace(VIEW, coloring="confidence").needed() == ()
        for view in (VIEW, replace(VIEW, coloring="error", hidden=frozenset({2}))):
            only = {kind: CLOUD.labels[kind] for kind in view.needed()}
            np.testing.assert_array_equal(
                paint(view, replace(CLOUD, labels=only), PALETTE)[0], paint(view, CLOUD, PALETTE)[0]
            )


def test_the_legend_has_the_classes_that_occur() -> None:
    rows, scores = legend(LABELS, TRUTH, 5)
    assert [row.label for row in rows] == [0, 1, 2, 3, IGNORE]
    assert rows[0] == Row(0, 1 / 6, 1.0)
    assert rows[1].iou == pytest.approx(1 / 3)
    assert rows[2].iou == pytest.approx(0.5)
    assert rows[3].iou is None
    assert scores is not None
    assert scores.miou == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)
    assert all(row.iou is None for row in legend(LABELS, None, 5)[0])


def test_texts_are_escaped() -> None:
    assert "<script>" not in wording.note("<script>") + wording.found_things("<script>", 0, 1, [])


class TestDetail:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 3000), st.integers(1, 2500), st.integers(50, 400))
    def test_every_point_once_within_the_budget(self, count: int, budget: int, part: int) -> None:
        points = np.random.default_rng(count).uniform(-3, 3, (count, 3)).astype(np.float32)
        found = parts(points, budget, first=200, part=part)
        sent = np.concatenate(found) if found else np.zeros(0, int)
        assert len(sent) == min(count, budget)
        assert len(np.unique(sent)) == len(sent)
        assert all(len(one) <= part for one in found[1:])

    def test_the_first_part_is_coarse_and_whole(self) -> None:
        points = np.random.default_rng(0).uniform(0, 10, (60_000, 3)).astype(np.float32)
        points[:, 2] = 0
        points[:30_000, :2] /= 10  # half of them in a hundredth of the room
        first = parts(points, 60_000, first=2000)[0]
        assert 1000 < len(first) < 4000
        assert np.mean((points[first, :2] < 1).all(1)) < 0.1
        cells = {tuple(cell) for cell in np.floor(points[first, :2]).astype(int)}
        assert len(cells) == 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return room_run(tmp_path_factory.mktemp("state") / "run").path


class TestLayers:
    def test_a_whole_run(self, folder: Path) -> None:
        opened = open_run(folder, "cpu")
        layers = Layers(opened, "room_v0000")
        assert layers.colorings == (
            "color", "points", "lifted", "refined", "teacher", "truth", "error", "confidence",
        )  # fmt: skip
        count = len(layers.scene.points_world)
        for kind in ("points", "lifted", "refined", "teacher", "truth"):
            assert layers.labels(kind).shape == (count,)
            assert layers.labels(kind) is layers.labels(kind)
        kept = Evaluation.from_json(read_json(opened.folder.evaluation))  # type: ignore[union-attr]
        scores = legend(layers.labels("points"), layers.labels("truth"), 20)[1]
        assert scores is not None
        assert scores.miou == pytest.approx(kept.confusion_3d.compute().miou)
        assert set(layers.frame_labels(1)) == {"2D network", "ground truth"}
        # carried along the pairs: where one view alone sees a point, it has that view's label
        assert 0.3 < np.mean(layers.labels("lifted") != IGNORE) <= 1
        query = opened.query(("chair",))
        found = layers.ask_points(query)
        assert found is not None
        assert found.shape == (count, 21)
        assert layers.ask_frame(0, query).shape == (48, 64, 21)
        np.testing.assert_allclose(layers.points + layers.origin, layers.scene.points_world, atol=1e-5)

    def test_without_networks_the_teacher_answers(self, folder: Path, tmp_path: Path) -> None:
        only = tmp_path / "annotated"
        only.mkdir()
        for name in ("config.yaml", "annotations.json"):
            (only / name).write_bytes((folder / name).read_bytes())
        opened = open_run(only, "cpu", folder / "cache")
        layers = Layers(opened, "room_v0000")
        assert layers.colorings == ("color", "refined", "teacher", "truth", "error")
        assert layers.judged == "refined"
        assert set(layers.frame_labels(0)) == {"refined labels", "ground truth"}
        assert layers.ask_points(opened.query(("floor",))) is not None
        bare = open_run(only, "cpu")
        assert Layers(bare, "room_v0000").colorings == ("color", "truth")
        with pytest.raises(RunError, match="expected trained networks or the teacher's features, found none"):
            bare.asker()

    def test_data_alone(self) -> None:
        opened = open_data("synthetic", "cpu", ["data.width=64", "data.height=48", "data.frames_per_room=2"])
        layers = Layers(opened, "room_v0000")
        assert layers.colorings == ("color", "truth")
        assert not layers.can_ask
        assert set(layers.frame_labels(0)) == {"ground truth"}
