"""``scenelift query``: phrases held against networks and against the teacher's features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData

from fixtures_cli import Command, scenelift
from fixtures_open import room_run
from fixtures_scenes import CLASSES, FakeLabelTeacher, annotated, tiny_source
from scenelift.errors import ConfigError, RunError
from scenelift.query import Query, TeacherAsker, write_queries
from scenelift.query.files import heat_overlay, heat_range, lines
from scenelift.query.things import NEVER

__all__ = ["scenelift"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return room_run(tmp_path_factory.mktemp("query") / "run").path


def _query(*phrases: str) -> Query:
    source = tiny_source(1, 1)
    assert source.truth is not None
    teacher = FakeLabelTeacher(source.truth)
    own = torch.from_numpy(teacher.text_features([[name] for name in CLASSES.names]))
    return Query(phrases, torch.from_numpy(teacher.text_features([[phrase] for phrase in phrases])), own)


class TestTeacher:
    """Its fake features are the true classes, so a query has to find just those."""

    def test_points_and_pixels_of_the_class_are_found(self, tmp_path: Path) -> None:
        source, annotations = annotated(tmp_path, num_scenes=1, points=1500)
        assert source.truth is not None
        told = write_queries(
            source, ["scene0"], _query("box", "floor"), TeacherAsker(annotations), {}, tmp_path / "out"
        )
        vertex = PlyData.read(str(tmp_path / "out" / "scene0" / "box" / "points.ply"))["vertex"]
        true = source.truth.scenes["scene0"].labels == CLASSES.names.index("box")
        selected = vertex["selected"].astype(bool)
        # where classes meet, cells of 4 pixels mix them
        assert (selected & true).sum() / (selected | true).sum() > 0.7
        assert ((vertex["similarity"] >= -1) & (vertex["similarity"] <= 1)).all()
        np.testing.assert_array_equal(vertex["x"], source.scenes["scene0"].points_world[:, 0])
        answer = told["scenes"]["scene0"]["box"]
        np.testing.assert_array_equal(selected, vertex["similarity"] >= np.float32(answer["3d"]["threshold"]))
        first = answer["3d"]["instances"][0]
        points = source.scenes["scene0"].points_world[vertex["instance"] == 1]
        np.testing.assert_allclose(first["centroid_m"], points.mean(0), atol=1e-3)
        assert first["points"] == len(points)
        shares = [item["selected_share"] for item in answer["2d"]["frames"].values()]
        wanted = [(source.truth.frames["scene0", name].labels == 3).mean() for name in answer["2d"]["frames"]]
        np.testing.assert_allclose(shares, wanted, atol=0.06)
        assert len(lines(told, "scene0", "box")) == 1 + len(answer["3d"]["instances"])

    def test_heat_maps_are_pictures_of_the_frames(self, tmp_path: Path) -> None:
        source, annotations = annotated(tmp_path, num_scenes=1)
        write_queries(
            source, ["scene0"], _query("box"), TeacherAsker(annotations), {}, tmp_path / "out", frames=2
        )
        files = sorted((tmp_path / "out" / "scene0" / "box" / "heat").iterdir())
        assert [file.name for file in files] == ["f0.png", "f3.png"]
        with Image.open(files[0]) as picture:
            assert picture.size == (32, 24)

    def test_a_finished_scene_is_not_done_again_until_the_question_changes(self, tmp_path: Path) -> None:
        source, annotations = annotated(tmp_path)
        asker, out = TeacherAsker(annotations), tmp_path / "out"
        write_queries(source, ["scene0"], _query("box"), asker, {"run": "a"}, out)
        source.read.clear()
        write_queries(source, ["scene0", "scene1"], _query("box"), asker, {"run": "a"}, out)
        assert source.read == ["scene1"]
        write_queries(source, ["scene0"], _query("box"), asker, {"run": "b"}, out)
        assert source.read == ["scene1", "scene0"]
        assert list(json.loads((out / "query.json").read_text())["scenes"]) == ["scene0"]

    def test_a_given_threshold(self, tmp_path: Path) -> None:
        source, annotations = annotated(tmp_path, num_scenes=1)
        asker, query = TeacherAsker(annotations), _query("box")
        told = write_queries(source, ["scene0"], query, asker, {}, tmp_path / "out", threshold=-1.0, top=1)
        answer = told["scenes"]["scene0"]["box"]["3d"]
        assert answer["selected"] == answer["points"]
        assert len(answer["instances"]) <= 1

    def test_other_files_are_left_alone(self, tmp_path: Path) -> None:
        source, annotations = annotated(tmp_path, num_scenes=1)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
        with pytest.raises(RunError, match="found other files in it"):
            write_queries(source, ["scene0"], _query("box"), TeacherAsker(annotations), {}, tmp_path / "out")
        assert [item.name for item in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_what_never_wins_selects_nothing() -> None:
    query = Query(("a", "b"), torch.eye(4)[[3, 0]], torch.eye(4)[:3])
    found = np.full((5, 5), 0.1, np.float32)
    found[:, 4] = 0.5  # the third class is nearer everywhere
    assert not query.wins(found).any()
    found[0, 1] = 0.9
    assert query.wins(found).sum() == 1


def test_text_of_another_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected embeddings of length 4 as the run has, found 8"):
        Query(("a",), torch.eye(8)[:1], torch.eye(4))


def test_a_heat_map_shows_what_is_selected() -> None:
    image = np.full((20, 30, 3), 90, np.uint8)
    similarity = np.zeros((20, 30), np.float32)
    similarity[5:15, 10:20] = 0.8
    picture = heat_overlay(image, similarity, 0.5, heat_range(similarity, 0.5))
    assert (picture[14, 12] == 255).all()  # the outline
    assert picture[10, 15].astype(int).sum() > picture[1, 1].astype(int).sum() + 100
    low, high = heat_range(similarity, NEVER)
    assert low < high < NEVER


class TestCommand:
    def test_by_the_networks(self, run: Path, scenelift: Command, tmp_path: Path) -> None:
        ended = scenelift(
            "query", run, "--text", "a red chair", "--text", "floor", "--out", tmp_path / "q", "--frames", 1,
            "--threshold", "0", "--scene", "room_v0000", "--device", "cpu",
        )  # fmt: skip
        assert ended.code == 0, ended.err
        assert "room_v0000: 'a red chair': " in ended.out
        tree = json.loads((tmp_path / "q" / "query.json").read_text())
        assert tree["asked"]["asked"] == "NetworkAsker"
        assert set(tree["scenes"]) == {"room_v0000"}
        assert set(tree["scenes"]["room_v0000"]) == {"a red chair", "floor"}

    def test_by_the_teacher(self, run: Path, scenelift: Command, tmp_path: Path) -> None:
        ended = scenelift(
            "query", run, "--text", "floor", "--teacher", "--out", tmp_path / "q", "--frames", 0
        )
        assert ended.code == 0, ended.err
        tree = json.loads((tmp_path / "q" / "query.json").read_text())
        for scene in ("room_0000", "room_v0000"):
            answer = tree["scenes"][scene]["floor"]["3d"]
            assert 0.02 < answer["selected"] / answer["points"] < 0.6

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("--text", "something to sit on"), "a word that the simulated teacher knows"),
            (("--text", " "), "found an empty one"),
            (("--text", "chair", "--text", "Chair"), "expected each phrase once"),
            (("--text", "chair", "--scene", "attic"), "--scene: expected one of 2 scenes"),
            (("--text", "chair", "--set", "data.stride=2"), "it goes with --on DATA"),
            (("--text", "chair", "--teacher", "--on", "synthetic"), "give either"),
            (("--text", "chair", "--cache", "nowhere"), "--cache nowhere: expected the folder of a cache"),
        ],
    )
    def test_wrong_use(
        self, run: Path, scenelift: Command, tmp_path: Path, arguments: tuple[str, ...], told: str
    ) -> None:
        assert told in scenelift("query", run, *arguments, "--out", tmp_path / "q").error
        assert not (tmp_path / "q").exists()

    def test_a_folder_of_runs_is_told_apart(self, run: Path, scenelift: Command, tmp_path: Path) -> None:
        ended = scenelift("query", run.parent, "--text", "chair", "--out", tmp_path / "q")
        assert f"a folder of several runs; give one of them, such as {run}" in ended.error
        assert (
            "no such folder" in scenelift("query", "gone", "--text", "chair", "--out", tmp_path / "q").error
        )
