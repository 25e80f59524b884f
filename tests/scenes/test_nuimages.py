"""nuImages against the devkit, and what happens to trees that are incomplete or damaged."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from nuimages import NuImages as Devkit
from nuimages.utils.utils import name_to_index_mapping
from PIL import Image

import fuzzing
from layouts_nuimages import CATEGORIES, INTRINSICS, SHAPE, rle, token, write_nuimages
from scenelift import files
from scenelift.config import NuImagesData
from scenelift.errors import DataError
from scenelift.scenes import tables
from scenelift.scenes.nuimages import IGNORED_CATEGORIES, LABEL_OF_CATEGORY, NUIMAGES11, NuImages
from scenelift.scenes.nuimages import index as nuimages_index
from scenelift.scenes.tables import read_placed_rows, read_row, read_rows
from scenelift.types import IGNORE

pytestmark = [
    # pycocotools hands NumPy its arrays in an old way, and the devkit does not close the images it opens.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
]


@pytest.fixture(autouse=True)
def index(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("index")
    monkeypatch.setenv("SCENELIFT_INDEX", str(folder))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nuimages")
    write_nuimages(folder, "v1.0-train", 5)
    return write_nuimages(folder, "v1.0-val", 3, first=5)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "nuimages"))


def open_nuimages(folder: Path, **keys: Any) -> NuImages:
    return NuImages(NuImagesData(path=str(folder), **keys))


def edit(path: Path, change: Any) -> None:
    """Rewrite a table by ``change(rows)``, in place or as returned."""
    rows = json.loads(path.read_text())
    changed = change(rows)
    path.write_text(json.dumps(rows if changed is None else changed))


# --- against the devkit --------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_are_those_of_the_devkit(made, split):
    source, devkit = open_nuimages(made), Devkit(f"v1.0-{split}", str(made))
    names = source.names(split)
    assert len(names) == len(devkit.sample) == {"train": 5, "val": 3}[split]
    index = name_to_index_mapping(devkit.category)
    ours = np.full(32, 77)
    ours[0] = IGNORE
    for name, number in index.items():
        ours[number] = LABEL_OF_CATEGORY[name]
    seen = set()
    for name, sample in zip(names, devkit.sample, strict=True):
        key = devkit.get("sample_data", sample["key_camera_token"])
        channel = devkit.shortcut("sample_data", "sensor", key["token"])["channel"]
        semantic, instances = devkit.get_segmentation(key["token"])
        truth = source.truth.frame(name, channel)
        assert np.array_equal(truth.labels, ours[semantic])
        assert np.array_equal(truth.instances, instances)
        seen |= set(np.unique(truth.labels))
        frame = source.scene(name).frames[0]
        assert (frame.key, source.frame_count(name)) == (f"{name}/{channel}", 1)
        assert np.array_equal(frame.image, np.array(Image.open(made / key["filename"])))
        camera = devkit.get("calibrated_sensor", key["calibrated_sensor_token"])
        assert np.array_equal(frame.intrinsics, np.array(camera["camera_intrinsic"]))
        assert np.array_equal(frame.cam_from_world, np.eye(4))
        assert frame.depth_m is None
    assert {IGNORE, NUIMAGES11.names.index("driveable surface"), NUIMAGES11.names.index("car")} < seen


def test_every_category_has_a_rule():
    assert set(LABEL_OF_CATEGORY) == set(CATEGORIES)
    assert len(NUIMAGES11) == 11
    assert NUIMAGES11.names[-1] == "driveable surface"
    assert set(LABEL_OF_CATEGORY.values()) == {*range(11), IGNORE}
    # As in nuScenes-lidarseg, where these ten are in no class of the benchmark.
    assert sum(label == IGNORE for label in LABEL_OF_CATEGORY.values()) == len(IGNORED_CATEGORIES) == 10


def test_an_ignored_object_hides_the_road(folder):
    """What is painted over the road is no road, although it has no class."""
    name = open_nuimages(folder).names("train")[0]
    key = json.loads((folder / "v1.0-train" / "sample.json").read_text())[0]["key_camera_token"]
    mask = np.zeros(SHAPE, bool)
    mask[20:40, 10:60] = True

    def only(category: str, name: str) -> list[dict[str, Any]]:
        return [
            {"token": name, "sample_data_token": key, "category_token": token(category), "mask": rle(mask)}
        ]

    for table, category in (
        ("surface_ann", "flat.driveable_surface"),
        ("object_ann", "movable_object.debris"),
    ):
        (folder / "v1.0-train" / f"{table}.json").write_text(json.dumps(only(category, table)))
    truth = open_nuimages(folder).truth.frame(name, "CAM_FRONT")
    assert (truth.labels == IGNORE).all()
    assert np.array_equal(truth.instances == 1, mask)
    (folder / "v1.0-train" / "object_ann.json").write_text("[]")
    truth = open_nuimages(folder).truth.frame(name, "CAM_FRONT")
    assert np.array_equal(truth.labels == 10, mask)
    assert not truth.instances.any()


# --- as a source ---------------------------------------------------------------------------------------


def test_scenes_are_images_without_points(made):
    source = open_nuimages(made)
    train, val = source.names("train"), source.names("val")
    assert len({*train, *val}) == 8
    assert all("__CAM_" in name and "+" not in name for name in train)
    scene = source.scene(val[1])
    assert scene.points_world.shape == (0, 3)
    assert scene.points_world.dtype == np.float32
    assert scene.rgb is None
    assert source.truth.scene(val[1]) is None
    assert source.classes is source.truth.classes
    with pytest.raises(DataError, match="found a request for 'nothing'; names are"):
        source.scene("nothing")
    with pytest.raises(DataError, match="named after its camera"):
        source.truth.frame(val[1], "CAM_NONE")


def test_another_size(made):
    plain, small = open_nuimages(made), open_nuimages(made, image_size=(15, 40))
    name = plain.names("train")[0]
    big, frame = plain.scene(name).frames[0], small.scene(name).frames[0]
    assert frame.image.shape == (15, 40, 3)
    truth, whole = (s.truth.frame(name, frame.name) for s in (small, plain))
    assert np.array_equal(truth.labels, whole.labels[1::3, 1::2])
    assert np.array_equal(truth.instances, whole.instances[1::3, 1::2])
    assert np.allclose(frame.image, big.image.reshape(15, 3, 40, 2, 3).mean((1, 3)), atol=1.01)
    ray = np.linalg.inv(frame.intrinsics) @ (19.5, 7, 1)  # the middle of the image in both
    assert np.allclose(np.linalg.inv(INTRINSICS) @ (39.5, 22, 1), ray)


def test_mini_serves_both_splits_when_it_is_alone(made, tmp_path):
    write_nuimages(tmp_path, "v1.0-mini", 2)
    source = open_nuimages(tmp_path)
    assert source.names("train") == source.names("val")
    assert len(source.names("train")) == 2
    assert source.findings().problems == ()
    write_nuimages(tmp_path, "v1.0-val", 3)
    source = open_nuimages(tmp_path)
    assert source.names("train") == ()
    assert len(source.names("val")) == 3
    (problem,) = source.findings().problems
    assert (problem.severity, problem.what) == (
        "warning",
        "there is no v1.0-train, so the train split is empty",
    )


def test_sources_travel_and_threads_read_at_once(made):
    source = open_nuimages(made)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    names = source.names("train")
    source.truth.frame(names[0], source.scene(names[0]).frames.names[0])
    warm = pickle.loads(pickle.dumps(source))  # noqa: S301

    def look(job: tuple[NuImages, str]) -> bytes:
        which, name = job
        frame = which.scene(name).frames[0]
        return frame.image.tobytes() + which.truth.frame(name, frame.name).labels.tobytes()

    jobs = [(which, name) for which in (source, copy, warm) for name in names]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(look, jobs))
    assert found == [look((source, name)) for name in names] * 3


def test_constructing_reads_nothing(tmp_path):
    source = open_nuimages(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"expected v1.0-train, .* found none of them; unpack"):
        source.names("train")
    assert [problem.severity for problem in source.findings().problems] == ["error"]
    (tmp_path / "v1.0-test").mkdir()
    with pytest.raises(DataError, match=r"found v1.0-test; unpack"):
        open_nuimages(tmp_path).names("val")


# --- the index -----------------------------------------------------------------------------------------


def test_the_second_opening_reads_no_table(made, monkeypatch, index):
    source = open_nuimages(made)
    name = source.names("train")[2]
    channel = source.scene(name).frames.names[0]
    first = source.truth.frame(name, channel)
    assert len(list(index.iterdir())) == 3

    def no(*_: object) -> Any:
        raise AssertionError

    for reader in ("read_rows", "read_placed_rows"):
        monkeypatch.setattr(nuimages_index, reader, no)
    again = open_nuimages(made)
    assert again.names("train") == source.names("train")
    assert np.array_equal(again.truth.frame(name, channel).labels, first.labels)


def test_a_changed_table_is_noticed(folder):
    source = open_nuimages(folder)
    name = source.names("train")[0]
    channel = source.scene(name).frames.names[0]
    source.truth.frame(name, channel)
    tables = folder / "v1.0-train"
    edit(tables / "object_ann.json", lambda rows: rows[::2])
    devkit = Devkit("v1.0-train", str(folder))
    instances = devkit.get_segmentation(devkit.sample[0]["key_camera_token"])[1]
    assert np.array_equal(open_nuimages(folder).truth.frame(name, channel).instances, instances)
    with pytest.raises(DataError, match="open the data set again"):  # the old one has the old places
        [source.truth.frame(n, source.scene(n).frames.names[0]) for n in source.names("train")]


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "other", "places"])
def test_a_damaged_index_is_made_again(made, index, damage):
    source = open_nuimages(made)
    name = source.names("train")[1]
    channel = source.scene(name).frames.names[0]
    expected = source.truth.frame(name, channel).labels
    for path in index.iterdir():
        data = path.read_bytes()
        new = {"cut": data[:-9], "garbage": b"\xff" * 40, "empty": b""}.get(damage, data)
        path.write_bytes(new)
        if damage in ("other", "places"):
            import safetensors.numpy
            from safetensors import safe_open

            with safe_open(path, "np") as file:
                stamp = file.metadata()
            arrays = safetensors.numpy.load(data)
            far = {key: value + (1 << 50 if key == "offset" else 0) for key, value in arrays.items()}
            kept = {"x": np.zeros(1)} if damage == "other" else far
            path.write_bytes(safetensors.numpy.save(kept, stamp))
    again = open_nuimages(made)
    assert again.names("train") == source.names("train")
    assert np.array_equal(again.truth.frame(name, channel).labels, expected)


def test_an_index_that_cannot_be_kept_is_no_error(made, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SCENELIFT_INDEX", str(tmp_path / "file"))
    assert len(open_nuimages(made).names("train")) == 5
    assert "opening it will be slow again" in caplog.text


def test_nothing_is_written_into_the_data_set(folder):
    def listing() -> list[tuple[str, int]]:
        return sorted((str(path), os.stat(path).st_mtime_ns) for path in folder.rglob("*"))

    before = listing()
    source = open_nuimages(folder)
    for name in (*source.names("train"), *source.names("val")):
        source.truth.frame(name, source.scene(name).frames[0].name)
    source.findings()
    assert listing() == before


# --- what is wrong with a tree -------------------------------------------------------------------------


def test_findings_of_a_whole_tree(made):
    found = open_nuimages(made).findings()
    assert found.counts == {"images": 8, "images_missing": 0}
    assert found.problems == ()


def test_findings_name_what_is_missing(folder):
    source = open_nuimages(folder)
    version = source.versions["train"]
    for file in version.images.files[1:3]:
        (folder / file).unlink()
    (folder / "v1.0-val" / "surface_ann.json").unlink()
    table = folder / "v1.0-train" / "object_ann.json"
    table.write_text(table.read_text()[:-20])
    edit(folder / "v1.0-train" / "category.json", lambda rows: rows.append({"token": "x", "name": "ufo"}))
    found = open_nuimages(folder).findings()
    assert found.counts == {"images": 8, "images_missing": 2}
    assert [(p.severity, p.where, p.what.split(":")[0]) for p in found.problems] == [
        ("error", "v1.0-train", "2 of 5 annotated images are missing"),
        ("error", "v1.0-train", "object_ann.json is cut off"),
        ("warning", "v1.0-train", "1 categories are none of nuImages' 25 and are ignored"),
        ("error", "v1.0-val", "expected surface_ann.json beside the other tables, found no such file"),
    ]
    with pytest.raises(DataError, match=r"expected a PNG or JPEG image at .*found no such file"):
        source.scene(version.images.names[1]).frames[0]
    (folder / "v1.0-val" / "sample_data.json").unlink()
    problem = open_nuimages(folder).findings().problems[-1]
    assert "sample_data.json, found no such file" in problem.what


def test_images_without_annotations(folder):
    for table in folder.glob("v1.0-*/*_ann.json"):
        table.unlink()
    source = open_nuimages(folder)
    assert source.truth is None
    assert source.findings().problems == ()
    shutil.copy(folder / "v1.0-val" / "category.json", folder / "v1.0-val" / "object_ann.json")
    source = open_nuimages(folder)
    name = source.names("train")[0]
    assert source.truth.frame(name, source.scene(name).frames.names[0]) is None  # the other version's


def _set(field: str, value: Any) -> Any:
    return lambda rows: [row.update({field: value}) for row in rows] and rows


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        (
            "sample",
            _set("key_camera_token", "gone"),
            "found key_camera_token 'gone' that sample_data.json lacks",
        ),
        ("sample_data", _set("calibrated_sensor_token", "x"), "'x' that calibrated_sensor.json lacks"),
        ("calibrated_sensor", _set("sensor_token", "x"), "'x' that sensor.json lacks"),
        ("calibrated_sensor", _set("camera_intrinsic", [[0, 0, 0]] * 3), r"found \[\[0"),
        (
            "calibrated_sensor",
            _set("camera_intrinsic", [[1e400, 0, 1], [0, 1, 1], [0, 0, 1]]),
            r"calibrated_sensor\.json, found a fault",
        ),
        ("sample_data", _set("width", None), "found None × 45"),
        ("sample_data", _set("width", 10**9), "found 1000000000 × 45"),
        ("sample_data", _set("height", -45), "found 80 × -45"),
        ("sample_data", _set("width", "80"), "width"),
        ("sample_data", _set("filename", "../../etc/passwd"), "below the data set's folder"),
        ("sample_data", _set("filename", "/etc/passwd"), "below the data set's folder"),
        ("sample_data", _set("filename", ""), "below the data set's folder"),
    ],
)
def test_tables_that_contradict_each_other(folder, table, change, message):
    edit(folder / "v1.0-train" / f"{table}.json", change)
    with pytest.raises(DataError, match=message) as error:
        open_nuimages(folder).names("train")
    assert "\n" not in str(error.value)
    assert "again" in str(error.value).rpartition("; ")[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("sample_data_token", "x"), r"found \d+ rows, all of other images"),
        (_set("category_token", "x"), "found no 'x'"),
        (_set("mask", {"size": [45, 81], "counts": "abcd"}), "found 81 × 45"),
        (_set("mask", {"size": [45, 80], "counts": "ü"}), "base64"),
        (_set("mask", {"size": [45, 80], "counts": "abc"}), "base64"),
        (_set("mask", {"size": [45, 80], "counts": ""}), "an empty string"),
        (_set("mask", {"size": [45, 80], "counts": "NA=="}), "runs of 4 pixels together"),
        (_set("mask", {"size": [45, 80, 1], "counts": "NA=="}), "array"),
        (_set("mask", {"size": [45, 80]}), "counts"),
        (_set("mask", [1]), "mask"),
        (_set("token", 7), "token"),
    ],
)
@pytest.mark.parametrize("table", ["object_ann", "surface_ann"])
def test_damaged_annotations(folder, table, change, message):
    edit(folder / "v1.0-train" / f"{table}.json", change)
    source = open_nuimages(folder)
    with pytest.raises(DataError, match=message) as error:
        source.truth.frame(source.names("train")[0], "CAM_FRONT")
    assert "\n" not in str(error.value)
    assert table in str(error.value)


def test_file_names_that_are_the_same_become_two_scenes(folder):
    edit(folder / "v1.0-train" / "sample_data.json", _set("filename", "samples/CAM_FRONT/a.jpg"))
    names = open_nuimages(folder).names("train")
    assert len(set(names)) == 5
    assert all(name.startswith("a-") for name in names)


def test_an_image_of_another_size_than_the_table_says(folder):
    source = open_nuimages(folder, image_size=(30, 40))
    name = source.names("val")[0]
    version, number = source.find(name)
    path = folder / version.images.files[number]
    Image.open(path).resize((40, 30)).save(path)
    with pytest.raises(DataError, match=r"expected 80 × 45 pixels at .* found 40 × 30; unpack"):
        source.scene(name).frames[0]


# --- placed rows ---------------------------------------------------------------------------------------


class _Row(msgspec.Struct):
    a: int


class _Text(msgspec.Struct):
    b: str


@pytest.mark.parametrize("indent", [None, 0, 3])
@pytest.mark.parametrize("piece", [16, 50, 1 << 20])
@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf \n"])
def test_rows_are_found_again_where_they_were(tmp_path, indent, piece, head):
    rows = [{"a": n, "b": '}, {"' * (n % 4), "c": [{"d": []}, {"e": "ü\\"}]} for n in range(60)]
    path = tmp_path / "table.json"
    path.write_bytes(head + json.dumps(rows, indent=indent, ensure_ascii=False).encode() + b" \n")
    parts = list(read_placed_rows(path, _Row, piece))
    assert [row.a for part in parts for row in part.rows] == list(range(60))
    data = path.read_bytes()
    for part in parts:
        for row, offset, length in zip(part.rows, part.offsets, part.lengths, strict=True):
            assert json.loads(data[offset : offset + length]) == rows[row.a]
            assert read_row(path, _Row, offset, length) == row
    assert [row.a for part in read_rows(path, _Row, piece) for row in part] == list(range(60))


def test_rows_that_are_no_objects(tmp_path):
    path = tmp_path / "table.json"
    for text in ("[1, 2]", '[{"a": 1}, [{"a": 2}]]', '[{"a": 1}, {"a": "x"}]', '[{"b": 1}]', '{"a": 1}', ""):
        path.write_text(text)
        with pytest.raises(DataError, match=r"table\.json"):
            list(read_placed_rows(path, _Row))
    for offset, length in ((0, 5), (3, 2), (10**15, 4)):
        path.write_text('[{"a": 1}]')
        with pytest.raises(DataError, match="another content"):
            read_row(path, _Row, offset, length)
    path.write_bytes(b'[{"b": ""}, {"b": "\xe8"}]')  # no UTF-8
    for read in (read_rows, read_placed_rows):
        with pytest.raises(DataError, match="codec"):
            list(read(path, _Text, 12))
    with pytest.raises(DataError, match="codec"):
        read_row(path, _Text, 12, 10)
    with pytest.raises(DataError, match="another content"):
        read_row(tmp_path / "gone.json", _Row, 0, 5)


def test_a_damaged_row_does_not_bring_the_rest_of_the_table_into_memory(tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    monkeypatch.setattr(tables, "_MOST_BYTES", 1 << 12)
    for text, reason in (('{"a" 1}', "expected ':'"), ("1" * 5000, "no object ends in")):
        path.write_text("[" + ", ".join(['{"a": 1}', text, *['{"a": 2}'] * 20_000]) + "]")
        with pytest.raises(DataError, match=reason):
            list(read_rows(path, _Row, 1 << 10))


def _fuzz_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, count: int) -> int:
    monkeypatch.setattr(files, "_sync", lambda path: None)  # the index is written for every input
    folder = write_nuimages(tmp_path, "v1.0-mini", 1)
    path = folder / "v1.0-mini" / f"{table}.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        shutil.rmtree(os.environ["SCENELIFT_INDEX"], ignore_errors=True)
        source = open_nuimages(folder)
        for name in source.names("train"):
            source.truth.frame(name, source.scene(name).frames.names[0])

    # Tables are read in pieces of some megabytes, however small they are.
    return fuzzing.only_data_errors(read, path.read_bytes(), count, slack=16 << 20)


@pytest.mark.parametrize("table", ["object_ann", "sample_data", "calibrated_sensor", "category"])
def test_damaged_tables(tmp_path, monkeypatch, table):
    assert _fuzz_table(tmp_path, monkeypatch, table, fuzzing.QUICK // 2) > 50


@pytest.mark.slow
@pytest.mark.parametrize("table", ["object_ann", "sample_data", "calibrated_sensor", "category", "sample"])
def test_many_damaged_tables(tmp_path, monkeypatch, table):
    assert _fuzz_table(tmp_path, monkeypatch, table, fuzzing.MANY // 2) > 2000
