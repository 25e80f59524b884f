"""Copies of nuScenes that are partial, damaged or someone's own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fuzzing import MANY, QUICK, only_data_errors
from layouts_nuscenes import CAMERAS, Tree, token, write_nuscenes
from scenelift.config_data import NuScenesData
from scenelift.errors import DataError
from scenelift.scenes.nuscenes import NuScenes
from scenelift.scenes.nuscenes import findings as nuscenes_findings
from scenelift.scenes.nuscenes.files import read_lidar, read_raw_labels
from scenelift.scenes.nuscenes.tables import read_tables


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Written once; tests change copies."""
    return write_nuscenes(tmp_path_factory.mktemp("original") / "nuscenes", sweeps=1)


@pytest.fixture
def tree(original: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A copy to be damaged."""
    monkeypatch.setenv("SCENELIFT_INDEX", str(tmp_path / "index"))
    folder = tmp_path / "nuscenes"
    shutil.copytree(original.folder, folder)
    return Tree(folder, original.version, json.loads(json.dumps(original.tables)))


def open_nuscenes(tree: Tree, **keys: Any) -> NuScenes:
    """The source of a tree."""
    return NuScenes(NuScenesData(path=str(tree.folder), **keys))


def file_of(tree: Tree, name: str, channel: str) -> Path:
    """The file of a channel in a key frame."""
    scene, _, index = name.rpartition("_")
    key = token(scene, "sample", int(index))
    calibrated = token("calibrated", scene, channel)
    row = tree.row("sample_data", sample_token=key, is_key_frame=True, calibrated_sensor_token=calibrated)
    return tree.folder / row["filename"]


def label_file(tree: Tree, name: str) -> Path:
    """The lidarseg file of a key frame."""
    scene, _, index = name.rpartition("_")
    calibrated, key = token("calibrated", scene, "LIDAR_TOP"), token(scene, "sample", int(index))
    row = tree.row("sample_data", sample_token=key, is_key_frame=True, calibrated_sensor_token=calibrated)
    return tree.folder / tree.row("lidarseg", token=row["token"])["filename"]


# --- partial copies -----------------------------------------------------------------------------------


def test_key_frames_without_all_their_files_are_left_out(tree: Tree) -> None:
    file_of(tree, "scene-0061_00", "CAM_BACK").unlink()
    file_of(tree, "scene-0103_01", "LIDAR_TOP").unlink()
    source = open_nuscenes(tree)
    assert source.names("train") == ("scene-0061_01",)
    assert source.names("val") == ("scene-0103_00",)
    findings = source.findings()
    assert findings.counts["incomplete_key_frames"] == 2
    lidar, camera = findings.problems
    assert lidar.severity == camera.severity == "warning"
    assert "1 of 4 key frames have no file of LIDAR_TOP: scene-0103_01; 2 key frames" in lidar.what
    assert "no file of CAM_BACK: scene-0061_00" in camera.what
    assert camera.mend.endswith("or leave CAM_BACK out with data.cameras")
    assert "data.cameras" not in lidar.mend
    four = open_nuscenes(tree, cameras=("CAM_FRONT", "CAM_BACK_LEFT"))
    assert four.names("train") == ("scene-0061_00", "scene-0061_01")
    with pytest.raises(DataError, match=r"CAM_BACK.*found no such file"):
        source.scene("scene-0061_00").frames[3]


def test_a_file_that_arrives_later_is_noticed(tree: Tree) -> None:
    path = file_of(tree, "scene-0061_00", "CAM_BACK")
    content = path.read_bytes()
    path.unlink()
    assert len(open_nuscenes(tree).names("train")) == 1
    path.write_bytes(content)
    os.utime(path.parent, ns=(1, 1))
    assert len(open_nuscenes(tree).names("train")) == 2


def test_a_camera_without_a_folder(tree: Tree) -> None:
    shutil.rmtree(tree.folder / "samples" / "CAM_FRONT")
    source = open_nuscenes(tree)
    with pytest.raises(DataError, match=r"4 key frames .* none complete \(missing: CAM_FRONT 4\); download"):
        source.names("train")
    (problem, *_) = source.findings().problems
    assert problem.severity == "error"
    without = tuple(name for name in CAMERAS if name != "CAM_FRONT")
    assert len(open_nuscenes(tree, cameras=without).names("val")) == 2


def test_missing_sweeps(tree: Tree) -> None:
    assert "missing_sweeps" not in open_nuscenes(tree).findings().counts
    shutil.rmtree(tree.folder / "sweeps")
    source = open_nuscenes(tree, sweeps=3)
    assert len(source.names("train")) == 2
    findings = source.findings()
    assert (findings.counts["sweeps"], findings.counts["missing_sweeps"]) == (6, 4)
    (problem,) = findings.problems
    assert problem.severity == "error"
    assert "data.sweeps=0" in problem.mend
    with pytest.raises(DataError, match="found no such file"):
        source.scene("scene-0061_01")


def test_without_lidarseg_there_is_no_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENELIFT_INDEX", str(tmp_path / "index"))
    plain = write_nuscenes(tmp_path / "plain", samples=1, sweeps=0, lidarseg=False)
    source = open_nuscenes(plain)
    assert source.truth is None
    (problem,) = source.findings().problems
    assert problem.severity == "warning"
    assert "nothing can be evaluated" in problem.what
    test = write_nuscenes(tmp_path / "t", scenes=["scene-0077"], version="v1.0-test", lidarseg=False)
    (test.folder / test.version / "lidarseg.json").write_text("[]")  # as it is delivered
    source = open_nuscenes(test)
    assert source.truth is None
    assert source.names("train") == ()
    assert source.names("val") == ("scene-0077_00", "scene-0077_01")
    assert source.findings().problems == ()


# --- data of one's own --------------------------------------------------------------------------------


def test_scenes_of_ones_own_are_used_for_both_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENELIFT_INDEX", str(tmp_path / "index"))
    own = write_nuscenes(tmp_path / "own", scenes=["drive 1", "second"], samples=1, version="v2")
    source = open_nuscenes(own)
    names = source.names("train")
    assert names == source.names("val")
    assert [name.rpartition("_")[2] for name in names] == ["00", "00"]
    assert names[0].startswith("drive_1-")  # safe as a file name
    assert source.scene(names[0]).frames[0].scene == names[0]
    (problem,) = source.findings().problems
    assert "none of the 2 scenes" in problem.what
    assert problem.severity == "warning"


def test_samples_are_in_order_of_time_and_rows_in_any_order(tree: Tree) -> None:
    expected = {name: open_nuscenes(tree, sweeps=1).scene(name).points_world for name in ("scene-0061_01",)}
    for rows in tree.tables.values():
        rows.reverse()
    tree.write_tables()
    source = open_nuscenes(tree, sweeps=1)
    for name, points in expected.items():
        np.testing.assert_array_equal(source.scene(name).points_world, points)
    assert source.names("train") == ("scene-0061_00", "scene-0061_01")


# --- versions -----------------------------------------------------------------------------------------


def test_which_version(tree: Tree, tmp_path: Path) -> None:
    shutil.copytree(tree.folder / "v1.0-mini", tree.folder / "v1.0-test")
    assert open_nuscenes(tree).version == "v1.0-mini"
    assert open_nuscenes(tree, version="v1.0-test").version == "v1.0-test"
    shutil.copytree(tree.folder / "v1.0-mini", tree.folder / "v1.0-trainval")
    with pytest.raises(DataError, match=r"v1.0-mini, v1.0-trainval; choose one.*data.version=v1.0-trainval"):
        open_nuscenes(tree).names("train")
    with pytest.raises(DataError, match=r"found v1.0-mini, .*; set data.version"):
        open_nuscenes(tree, version="v1.0-train").names("train")
    for path, message in (
        (tree.folder / "v1.0-mini", "give the folder above it"),
        (tree.folder / "samples", "download the metadata"),
        (tmp_path / "nowhere", "found nothing; check the path"),
    ):
        source = NuScenes(NuScenesData(path=str(path)))
        with pytest.raises(DataError, match=message):
            source.names("train")
        (problem,) = source.findings().problems
        assert problem.severity == "error"


@pytest.mark.parametrize("cameras", [("CAM_TOP",), (), ("CAM_BACK", "CAM_BACK"), ("RADAR_FRONT",)])
def test_cameras_that_are_not_there(tree: Tree, cameras: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"cameras of .* \(CAM_BACK, CAM_BACK_LEFT, .*; set data.cameras"):
        open_nuscenes(tree, cameras=cameras).names("train")


def test_unknown_names(tree: Tree) -> None:
    source = open_nuscenes(tree)
    for ask in (source.scene, source.frame_count, source.truth.scene if source.truth else None):
        assert ask is not None
        with pytest.raises(DataError, match=r"scene-0061_77.*; check the name"):
            ask("scene-0061_77")


# --- damaged tables -----------------------------------------------------------------------------------


def _set(table: str, field: str, value: Any) -> Callable[[Tree], None]:
    def change(tree: Tree) -> None:
        tree.tables[table][0][field] = value

    return change


def _twice(table: str) -> Callable[[Tree], None]:
    return lambda tree: tree.tables[table].append(tree.tables[table][0])


def _second_key_frame(tree: Tree) -> None:
    row = tree.row("sample_data", is_key_frame=True)
    tree.tables["sample_data"].append({**row, "token": "other"})


DAMAGE: list[tuple[Callable[[Tree], None], str]] = [
    (_set("calibrated_sensor", "sensor_token", "x"), r"sensor_token 'x' that sensor.json lacks"),
    (_set("calibrated_sensor", "rotation", [2.0, 0, 0, 0]), r"expected unit quaternions"),
    (_set("calibrated_sensor", "rotation", [1.0, 0, 0]), r"found a fault after byte"),
    (_set("sample", "scene_token", "x"), r"scene_token 'x' that scene.json lacks"),
    (_set("sample_data", "calibrated_sensor_token", "x"), r"that calibrated_sensor.json lacks"),
    (_set("sample_data", "ego_pose_token", "x"), r"ego_pose_token 'x' that ego_pose.json lacks"),
    (_set("sample_data", "sample_token", "x"), r"sample_token 'x' that sample.json lacks"),
    (_set("sample_data", "filename", "../../secret/a.bin"), r"below the data set's folder"),
    (_set("sample_data", "filename", "/etc/passwd"), r"below the data set's folder"),
    (_set("sample_data", "filename", "samples/"), r"below the data set's folder"),
    (_set("ego_pose", "rotation", [0.5, 0, 0, 0]), r"expected unit quaternions"),
    (_set("ego_pose", "translation", [1, 2, None]), r"expected rotation of 4 and translation of 3"),
    (_twice("scene"), r"every scene name once"),
    (_second_key_frame, r"expected one key frame of LIDAR_TOP for each sample"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGE)
def test_contradictions_are_one_line(tree: Tree, change: Callable[[Tree], None], message: str) -> None:
    for row in tree.tables["sample_data"]:  # the first row is a key frame of the LiDAR
        row["is_key_frame"] = row["filename"].startswith("samples/")
    tree.tables["sample_data"].sort(key=lambda row: not row["is_key_frame"])
    first = tree.tables["sample_data"][0]["ego_pose_token"]
    tree.tables["ego_pose"].sort(key=lambda row: row["token"] != first)
    change(tree)
    tree.write_tables()
    source = open_nuscenes(tree)
    with pytest.raises(DataError, match=message) as caught:
        source.names("train")
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)
    (problem,) = source.findings().problems
    assert problem.severity == "error"
    assert problem.mend


@pytest.mark.parametrize("matrix", [[], [[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 5, 1], [0, 0, 1]]])
def test_cameras_need_intrinsics(tree: Tree, matrix: list[list[float]]) -> None:
    tree.row("calibrated_sensor", camera_intrinsic=tree.tables["calibrated_sensor"][-1]["camera_intrinsic"])[
        "camera_intrinsic"
    ] = matrix
    tree.write_tables()
    with pytest.raises(DataError, match="expected camera_intrinsic"):
        open_nuscenes(tree).names("train")


def test_intrinsics_of_another_image_size_are_found(tree: Tree) -> None:
    for row in tree.tables["calibrated_sensor"]:
        if row["camera_intrinsic"]:
            row["camera_intrinsic"] = [[1266.0, 0, 816.0], [0, 1266.0, 491.0], [0, 0, 1]]
    tree.write_tables()
    problems = open_nuscenes(tree).findings().problems
    assert len(problems) == 6
    assert "far from the centre of images of 160 × 90" in problems[0].what


@pytest.mark.parametrize("table", ["sensor", "scene", "sample", "sample_data", "ego_pose"])
def test_a_table_that_is_missing_or_cut_off(tree: Tree, table: str) -> None:
    path = tree.folder / tree.version / f"{table}.json"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"expected a table.*cut off"):
        open_nuscenes(tree).names("train")
    path.unlink()
    with pytest.raises(DataError, match=r"expected (a|nuScenes) table"):
        open_nuscenes(tree).names("train")


def test_a_table_that_changes_is_read_again(tree: Tree) -> None:
    assert len(open_nuscenes(tree).names("train")) == 2
    tree.tables["scene"][0]["name"] = "scene-0553"
    tree.write_tables()
    assert open_nuscenes(tree).names("train") == ("scene-0553_00", "scene-0553_01")


# --- damaged files ------------------------------------------------------------------------------------


def test_an_image_of_another_size_or_cut_off(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file_of(tree, "scene-0061_00", "CAM_FRONT")
    content = path.read_bytes()
    Image.new("RGB", (80, 45)).save(path)
    with pytest.raises(DataError, match=r"160 × 90 pixels at .*, found 80 × 45; .*data.image_size"):
        open_nuscenes(tree).scene("scene-0061_00").frames[0]
    path.write_bytes(content[:-200])
    source = open_nuscenes(tree)
    with pytest.raises(DataError, match="truncated or damaged"):
        source.scene("scene-0061_00").frames[0]
    findings = source.findings()
    assert findings.doubtful == {"scene-0061_00": ("CAM_FRONT",)}
    assert findings.counts["images_looked_at"] == 24
    monkeypatch.setattr(nuscenes_findings, "LOOKED_AT", 5)
    assert source.findings().counts["images_looked_at"] == 5


def test_labels_of_another_sweep(tree: Tree) -> None:
    name, path = "scene-0061_00", label_file(tree, "scene-0061_00")
    content = path.read_bytes()

    def fails(match: str) -> None:
        truth = open_nuscenes(tree).truth
        assert truth is not None
        with pytest.raises(DataError, match=match):
            truth.scene(name)

    path.write_bytes(content[:-1])
    fails(rf"expected {len(content):,} lidarseg labels at .*found {len(content) - 1:,}; copy")
    path.write_bytes(content + content)
    fails(r"expected .* lidarseg labels")
    path.write_bytes(bytes([*content[:-1], 32]))
    fails(r"expected lidarseg ids 0-31 at .*, found 32")
    path.unlink()
    fails(r"found no such file")
    (problem,) = open_nuscenes(tree).findings().problems
    assert "1 label files are missing" in problem.what
    assert problem.severity == "error"
    path.write_bytes(content)
    rows = tree.tables["lidarseg"]
    rows[0]["filename"], rows[1]["filename"] = rows[1]["filename"], rows[0]["filename"]
    tree.write_tables()
    fails(r"expected labels of sweep \w+ of scene-0061_00 in a file")
    (problem,) = open_nuscenes(tree).findings().problems
    assert "2 key frames have label files named after another sweep" in problem.what
    rows[0]["filename"] = f"../{tree.folder.name}/{rows[1]['filename']}"
    tree.write_tables()
    fails(r"expected labels of sweep")
    del rows[0]
    tree.write_tables()
    truth = open_nuscenes(tree).truth
    assert truth is not None
    assert truth.scene(name) is None  # not annotated
    assert open_nuscenes(tree).findings().counts["key_frames_without_labels"] == 1


def test_categories_of_another_order(tree: Tree) -> None:
    first, second = tree.tables["category"][16:18]
    first["index"], second["index"] = 17, 16
    tree.write_tables()
    source = open_nuscenes(tree)
    assert source.truth is not None
    with pytest.raises(DataError, match=r"category 'vehicle.bus.rigid' has index 17.*; take category.json"):
        source.truth.scene("scene-0061_00")
    (problem,) = source.findings().problems
    assert problem.severity == "error"
    source.scene("scene-0061_00")  # may still be learned from


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found an empty file"),
        (b"\0" * 21, "found 21 bytes, which is no multiple"),
        (np.full(10, np.nan, "<f4").tobytes(), "found 2 of 2 points"),
        (np.full(10, 1e30, "<f4").tobytes(), "found 2 of 2 points"),
    ],
)
def test_damaged_sweeps(tree: Tree, content: bytes, message: str) -> None:
    file_of(tree, "scene-0061_00", "LIDAR_TOP").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_nuscenes(tree).scene("scene-0061_00")


# --- damage by the thousand ---------------------------------------------------------------------------


def _fuzz_lidar(tree: Tree, count: int) -> int:
    path = file_of(tree, "scene-0061_00", "LIDAR_TOP")
    sample = path.read_bytes()[:4000]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        points = read_lidar(path)
        assert np.isfinite(points).all()

    return only_data_errors(read, sample, count)


def _fuzz_labels(tree: Tree, count: int) -> int:
    path = label_file(tree, "scene-0061_00")
    sample = path.read_bytes()[:1000]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        assert read_raw_labels(path, 1000).max() < 32

    return only_data_errors(read, sample, count)


def _fuzz_tables(tree: Tree, count: int) -> int:
    refused = 0
    for name in ("sample_data", "ego_pose", "calibrated_sensor", "scene", "sample", "lidarseg", "category"):
        path = tree.folder / tree.version / f"{name}.json"
        sample = json.dumps(tree.tables[name], separators=(",", ":")).encode()

        def read(data: bytes, path: Path = path) -> None:
            path.write_bytes(data)
            read_tables(path.parent, sweeps=True)

        refused += only_data_errors(read, sample, count // 7)
        path.write_bytes(sample)
    return refused


def test_only_data_errors(tree: Tree) -> None:
    assert _fuzz_lidar(tree, QUICK) > QUICK // 5
    assert _fuzz_labels(tree, QUICK) > QUICK // 3
    assert _fuzz_tables(tree, QUICK) > QUICK // 3


@pytest.mark.slow
def test_only_data_errors_slow(tree: Tree) -> None:
    assert _fuzz_lidar(tree, MANY) > MANY // 5
    assert _fuzz_labels(tree, MANY) > MANY // 3
    assert _fuzz_tables(tree, MANY) > MANY // 3
