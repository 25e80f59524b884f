"""Folders of plain images: layouts, labels against PIL, what is wrong with them, and very many files."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fixtures_street as street
import fuzzing
from fixtures_capture import SHARED_DATA
from layouts_nuimages import IMAGE_CLASSES, SHAPE, view, write_images
from scenelift.config import ImagesData
from scenelift.errors import DataError
from scenelift.scenes.images import Images, nominal_intrinsics
from scenelift.scenes.images import layout as images_layout
from scenelift.scenes.images.layout import read_classes
from scenelift.types import IGNORE

CAMVID = SHARED_DATA / "camvid"


@pytest.fixture(autouse=True)
def index(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("index")
    monkeypatch.setenv("SCENELIFT_INDEX", str(folder))
    return folder


def open_images(folder: Path, **keys: Any) -> Images:
    return Images(ImagesData(path=str(folder), **keys))


def read_everything(source: Images) -> None:
    source.findings()
    for split in ("train", "val"):
        for name in source.names(split):
            frame = source.scene(name).frames[0]
            if source.truth is not None:
                source.truth.frame(name, frame.name)


# --- layouts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["annot", "labels", None])
@pytest.mark.parametrize("deeper", [False, True])
def test_splits(tmp_path, labels, deeper):
    write_images(tmp_path, {"train": 3, "val": 2}, labels)
    if deeper:
        (tmp_path / "images").mkdir()
        for split in ("train", "val"):
            (tmp_path / split).rename(tmp_path / "images" / split)
    source = open_images(tmp_path)
    assert source.names("train") == ("train-street00", "train-street01", "train-street02")
    assert source.names("val") == ("val-street03", "val-street04")
    assert source.frame_count("val-street03") == 1
    assert source.findings().problems == ()
    assert source.findings().counts == {"images": 5, "labels": 0 if labels is None else 5}
    scene = source.scene("val-street04")
    assert (scene.points_world.shape, scene.points_world.dtype, scene.rgb) == ((0, 3), np.float32, None)
    frame = scene.frames[0]
    image, ids = view(4)
    assert frame.key == "val-street04/image"
    assert np.array_equal(frame.image, image)
    assert np.array_equal(frame.cam_from_world, np.eye(4))
    assert frame.depth_m is None
    if labels is None:
        assert source.truth is source.classes is None
        return
    assert source.classes.names == ("Road", "Sidewalk", "House", "Car", "Tree", "Person")
    truth = source.truth.frame("val-street04", "image")
    assert np.array_equal(truth.labels, np.where(ids == street.SKY, IGNORE, ids))
    assert truth.instances is None
    assert source.truth.scene("val-street04") is None
    assert source.truth.classes is source.classes


def test_without_splits_all_serve_both(tmp_path):
    write_images(tmp_path, {"": 3}, "labels")
    (tmp_path / "labels" / "street01.png").unlink()
    source = open_images(tmp_path)
    assert source.names("train") == source.names("val") == ("street00", "street01", "street02")
    assert source.truth.frame("street01", "image") is None
    assert source.truth.frame("street02", "image") is not None
    (tmp_path / "images").mkdir()
    for path in tmp_path.glob("*.png"):
        path.rename(tmp_path / "images" / path.name)
    assert open_images(tmp_path).names("val") == ("street00", "street01", "street02")
    (tmp_path / "labels" / "street01.png").write_bytes((tmp_path / "labels" / "street02.png").read_bytes())
    assert open_images(tmp_path).truth.frame("street01", "image") is not None  # the change was noticed


def test_names_are_in_natural_order_and_safe(tmp_path):
    for name in ("10.png", "9.PNG", "8.JPeG", "a b.png", ".hidden.png", "._9.png", "notes.txt", "7.gif"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, "JPEG" if name.endswith("JPeG") else "PNG")
    source = open_images(tmp_path)
    *numbers, odd = source.names("train")
    assert numbers == ["8", "9", "10"]
    assert odd.startswith("a_b-")
    assert source.scene(odd).frames[0].image.shape == (4, 4, 3)


def test_another_size(tmp_path):
    write_images(tmp_path, {"": 2}, "labels", sizes=(SHAPE, (90, 80)))
    plain, small = open_images(tmp_path), open_images(tmp_path, image_size=(15, 40))
    assert plain.scene("street01").frames[0].image.shape == (90, 80, 3)
    frame = small.scene("street00").frames[0]
    assert frame.image.shape == small.scene("street01").frames[0].image.shape == (15, 40, 3)
    expected = np.diag([0.5, 1 / 3, 1]) @ np.array([[80, 0, 40], [0, 80, 22.5], [0, 0, 1]])
    expected[:2, 2] -= 0.5  # pixel centres are whole numbers, the edge of the image is at −½
    assert np.allclose(frame.intrinsics, expected)
    whole = plain.truth.frame("street00", "image").labels
    assert np.array_equal(small.truth.frame("street00", "image").labels, whole[1::3, 1::2])
    (problem,) = plain.findings().problems
    assert problem.what == "images differ in size: 80 × 45 (street00.png), 80 × 90 (street01.png)"
    assert small.findings().problems == ()


def test_the_nominal_camera():
    camera = nominal_intrinsics((100, 200))
    rays = np.linalg.inv(camera) @ np.array([[-0.5, 99.5, 199.5], [49.5, 49.5, 49.5], [1, 1, 1]])
    assert np.allclose(rays[0], [-0.5, 0, 0.5])
    assert np.allclose(rays[1], 0)


def test_sources_travel_and_threads_read_at_once(tmp_path):
    write_images(tmp_path, {"train": 4, "val": 1})
    source = open_images(tmp_path)
    cold = pickle.loads(pickle.dumps(source))  # noqa: S301
    names = source.names("train")
    assert source.truth is not None
    warm = pickle.loads(pickle.dumps(source))  # noqa: S301

    def look(job: tuple[Images, str]) -> bytes:
        which, name = job
        return which.scene(name).frames[0].image.tobytes() + which.truth.frame(name, "image").labels.tobytes()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(look, [(which, name) for which in (source, cold, warm) for name in names]))
    assert found == [look((source, name)) for name in names] * 3


# --- what is wrong -------------------------------------------------------------------------------------


def test_folders_without_images(tmp_path):
    with pytest.raises(DataError, match="found nothing there; check the path"):
        open_images(tmp_path / "none").names("train")
    with pytest.raises(DataError, match="found an empty folder; check the path"):
        open_images(tmp_path).names("train")
    (tmp_path / "notes.txt").write_text("hello")
    for where in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError, match="found"):
            open_images(where).names("train")
        assert [problem.severity for problem in open_images(where).findings().problems] == ["error"]


def test_labels_without_names(tmp_path):
    write_images(tmp_path)
    (tmp_path / "classes.json").unlink()
    source = open_images(tmp_path)
    assert len(source.names("train")) == 3
    for door in ("truth", "classes"):
        with pytest.raises(
            DataError, match=r"classes\.json .*found no such file; write it as .* or move the"
        ):
            getattr(source, door)
    assert [problem.severity for problem in source.findings().problems] == ["error"]


def test_classes_without_labels(tmp_path):
    write_images(tmp_path, labels=None)
    (tmp_path / "classes.json").write_text(json.dumps(IMAGE_CLASSES))
    source = open_images(tmp_path)
    assert source.truth is None
    assert len(source.classes) == 6


def test_findings_of_images_and_labels_that_do_not_match(tmp_path):
    write_images(tmp_path, {"train": 5})
    (tmp_path / "trainannot" / "street01.png").unlink()
    (tmp_path / "train" / "street02.png").unlink()
    Image.new("L", (9, 9)).save(tmp_path / "trainannot" / "street03.png")
    odd = tmp_path / "trainannot" / "street04.png"
    Image.fromarray(np.full(SHAPE, 77, np.uint8)).save(odd)
    data = (tmp_path / "train" / "street00.png").read_bytes()
    (tmp_path / "train" / "street00.png").write_bytes(data[:-100])
    source = open_images(tmp_path)
    found = source.findings()
    assert found.doubtful == {"train-street00": ("image",)}
    assert [(problem.severity, problem.what) for problem in found.problems] == [
        ("warning", "there is no image in val/, so the val split is empty"),
        ("warning", "1 of 4 images have no label image: street01.png"),
        ("warning", "1 of 4 label images have no image: street02.png"),
        ("error", "street03.png has 80 × 45 pixels and its label image 9 × 9"),
        ("error", f"expected ids of classes.json or 255 at {odd}, found 77 (3,600 pixels)"),
    ]
    assert source.names("val") == ()
    assert source.truth.frame("train-street01", "image") is None
    with pytest.raises(DataError, match=r"street04\.png, found 77 \(3,600 pixels\); name them in classes"):
        source.truth.frame("train-street04", "image")
    with pytest.raises(DataError, match=r"expected 80 × 45 pixels at .*street03\.png .* found 9 × 9; export"):
        source.truth.frame("train-street03", "image")
    with pytest.raises(DataError, match=r"street00\.png.*truncated"):
        source.scene("train-street00").frames[0]
    for name, frame in (("train-none", "image"), ("train-street03", "CAM_FRONT")):
        with pytest.raises(DataError, match="found a request for"):
            source.truth.frame(name, frame)


def test_two_files_of_one_name_and_two_folders_of_labels(tmp_path):
    write_images(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "val" / "street03.jpg")
    with pytest.raises(DataError, match=r"found street03\.(png|jpg) and street03\.(png|jpg); remove"):
        open_images(tmp_path).names("train")
    (tmp_path / "val" / "street03.jpg").unlink()
    (tmp_path / "labels" / "val").mkdir(parents=True)
    with pytest.raises(DataError, match=r"found valannot/ and labels/val/; remove"):
        open_images(tmp_path).names("train")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "names by id"),
        ({}, "names by id"),
        ({"0": "a", "1": ["b"]}, "found '1'"),
        ({"0": "a", "256": "b"}, "found '256'"),
        ({"0": "a", "-1": "b"}, "found '-1'"),
        ({"0": "a", "one": "b"}, "found 'one'"),
        ({"0": "a", "00": "b"}, "found '00'"),
        ({"0": "a", "1": " "}, "found '1'"),
        ({"0": "a", "1": "A"}, "each name may stand once"),
        ({"0": "a", "1": "void"}, "leaves nothing to tell apart"),
        ({"0": "void", "1": "Ignored"}, "found none"),
    ],
)
def test_class_files_that_are_none(tmp_path, tree, message):
    (tmp_path / "classes.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=message) as error:
        read_classes(tmp_path / "classes.json")
    assert str(tmp_path) in str(error.value)


def test_class_files(tmp_path):
    names = {
        "7": "SignSymbol",
        "0": "sofa / couch",
        "3": "Void (ignore)",
        "9": "traffic_light",
        "254": "IGNORE me",
    }
    (tmp_path / "classes.json").write_text(json.dumps(names))
    found = read_classes(tmp_path / "classes.json")
    assert found.table.names == ("sofa", "SignSymbol", "traffic_light")
    assert found.table.prompts == (("sofa", "couch"), ("Sign Symbol",), ("traffic light",))
    assert {i: found.label_of_id[i] for i in (0, 7, 9)} == {0: 0, 7: 1, 9: 2}
    assert np.flatnonzero(found.known).tolist() == [0, 3, 7, 9, 254, 255]
    assert (np.delete(found.label_of_id, [0, 7, 9]) == IGNORE).all()


# --- damage --------------------------------------------------------------------------------------------


def _fuzz(tmp_path: Path, file: str, count: int) -> int:
    write_images(tmp_path, {"train": 1})
    path = tmp_path / file

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_everything(open_images(tmp_path))

    return fuzzing.only_data_errors(read, path.read_bytes(), count, slack=16 << 20)


@pytest.mark.parametrize("file", ["classes.json", "trainannot/street00.png", "train/street00.png"])
def test_damaged_files(tmp_path, file):
    assert _fuzz(tmp_path, file, fuzzing.QUICK) > 100


@pytest.mark.slow
@pytest.mark.parametrize("file", ["classes.json", "trainannot/street00.png"])
def test_many_damaged_files(tmp_path, file):
    assert _fuzz(tmp_path, file, fuzzing.MANY) > 4000


# --- size ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_images_are_listed_once(tmp_path, monkeypatch, count):
    (tmp_path / "train").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "0.png")
    for number in range(1, count):
        os.close(os.open(tmp_path / "train" / f"{number}.png", os.O_CREAT))
    start = time.perf_counter()
    names = open_images(tmp_path).names("train")
    assert time.perf_counter() - start < count / 500
    assert names == tuple(f"train-{number}" for number in range(count))
    monkeypatch.setattr(images_layout, "_listing", lambda folder: [])  # would find nothing
    start = time.perf_counter()
    source = open_images(tmp_path)
    assert source.names("train") == names
    assert time.perf_counter() - start < count / 500
    assert source.scene("train-0").frames[0].image.shape == (4, 4, 3)


def test_nothing_is_written_into_the_folder(tmp_path):
    write_images(tmp_path)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    read_everything(open_images(tmp_path))
    assert sorted((str(path), path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


# --- the real thing ------------------------------------------------------------------------------------


@pytest.mark.skipif(not CAMVID.is_dir(), reason="real CamVid images are not here")
def test_camvid(tmp_path):
    source = open_images(CAMVID)
    found = source.findings()
    assert found.counts == {"images": 30, "labels": 30}
    assert found.problems == ()
    assert found.doubtful == {}
    assert source.classes.names == (
        *("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian"),
        "Bicyclist",
    )
    counts, direct = np.zeros(256, int), np.zeros(256, int)
    for split, number in (("train", 20), ("val", 10)):
        names = source.names(split)
        listed = [line.split() for line in (CAMVID / f"{split}.txt").read_text().splitlines()]
        assert [f"{split}-{Path(image).stem}" for image, _ in listed] == list(names)
        assert len(names) == number
        for name, (image, label) in zip(names, listed, strict=True):
            with Image.open(CAMVID / image) as picture, Image.open(CAMVID / label) as ids:
                raw, rgb = np.array(ids), np.array(picture.convert("RGB"))
            truth = source.truth.frame(name, "image").labels
            assert np.array_equal(truth, np.where(raw == 11, IGNORE, raw))
            assert np.array_equal(source.scene(name).frames[0].image, rgb)
            counts += np.bincount(truth.ravel(), minlength=256)
            direct += np.bincount(raw.ravel(), minlength=256)
    assert np.array_equal(counts[:11], direct[:11])
    assert counts[IGNORE] == direct[11]
    copy = Path(shutil.copytree(CAMVID, tmp_path / "camvid"))
    (copy / "classes.json").write_text(json.dumps({"0": "Sky", "1": "Building"}))
    assert [p.severity for p in open_images(copy).findings().problems] == ["error"] * 16
