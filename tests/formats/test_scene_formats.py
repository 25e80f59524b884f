"""Labels of scenes in each format, read back by libraries that are not ours."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import laspy
import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData
from pycocotools import mask as coco_mask
from safetensors import safe_open
from torch.nn import functional as F

from fixtures_scenes import CLASSES, TinySource, save_untrained_run, tiny_config, tiny_source
from scenelift.api import TrainedRun
from scenelift.classes import ClassTable
from scenelift.errors import ConfigError, OutputError
from scenelift.formats import SCENE_FORMATS, check_formats, parse_formats
from scenelift.formats.coco import as_rgb, segments_of
from scenelift.formats.las import encode_las
from scenelift.predict import Predictor
from scenelift.predictions import write_predictions
from scenelift.types import IGNORE, U8, Prediction, Scene


class Told:
    """Answers with ground truth, two columns and every fifth point left out (as a `Predictor`)."""

    def __init__(self, source: TinySource) -> None:
        self.source = source
        self.asked: list[str] = []

    def can_label(self, scene: Scene) -> bool:
        return len(scene.points_world) > 0

    def frames(self, scene: Scene) -> Iterator[tuple[str, Prediction]]:
        self.asked.append("2D")
        assert self.source.truth is not None
        for name in scene.frames.names:
            truth = self.source.truth.frame(scene.name, name)
            assert truth is not None
            labels = truth.labels.copy()
            labels[:, 3:5] = IGNORE
            yield name, Prediction(labels, np.full(labels.shape, 0.5, np.float32))

    def points(self, scene: Scene) -> Prediction:
        self.asked.append("3D")
        assert self.source.truth is not None
        truth = self.source.truth.scene(scene.name)
        assert truth is not None
        labels = truth.labels.copy()
        labels[::5] = IGNORE
        return Prediction(labels, np.linspace(0, 1, len(labels), dtype=np.float32))


@pytest.fixture(scope="module")
def source() -> TinySource:
    return tiny_source(frames=2)


def export(source: TinySource, out: Path, *formats: str, digest: str = "one") -> Told:
    told = Told(source)
    predictor = cast(Predictor, told)
    write_predictions(
        source, source.names("val"), CLASSES, predictor, digest, out, formats=parse_formats(",".join(formats))
    )
    return told


# --- LAS and LAZ -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["las", "laz"])
def test_a_cloud_is_read_back_by_laspy(source: TinySource, tmp_path: Path, kind: str) -> None:
    export(source, tmp_path, kind)
    for name, scene in source.scenes.items():
        said = Told(source).points(scene)
        cloud = laspy.read(tmp_path / name / f"points.{kind}")
        assert str(cloud.header.version) == "1.4"
        assert cloud.header.are_points_compressed == (kind == "laz")
        assert np.abs(cloud.xyz - scene.points_world).max() < 1e-3 / 10
        np.testing.assert_array_equal(cloud.classification, said.labels)
        np.testing.assert_array_equal(cloud["label"], said.labels)
        np.testing.assert_array_equal(cloud["confidence"], said.confidence)
        colors = np.stack([cloud.red, cloud.green, cloud.blue], 1)
        np.testing.assert_array_equal(colors >> 8, scene.rgb)
        assert colors.max() == 257 * int(np.max(cast(U8, scene.rgb)))
        (table,) = cloud.header.vlrs.get("ClassificationLookupVlr")
        names = {number: name for number, name in table.lookups.items() if name}
        assert names == {**dict(enumerate(CLASSES.names)), IGNORE: "no label"}  # laspy drops brackets
        texts = [vlr for vlr in cloud.header.vlrs if vlr.record_id == 3]
        assert b"class 3 box" in texts[0].record_data_bytes()


@pytest.mark.parametrize("middle", [0.0, 4000.0, -9999.5])
@pytest.mark.parametrize("reach", [0.0, 0.01, 90.0, 5000.0, 300_000.0])
def test_coordinates_lose_less_than_a_millimetre(middle: float, reach: float) -> None:
    rng = np.random.default_rng(0)
    points = (middle + reach * rng.uniform(-1, 1, (200, 3))).astype(np.float32)
    labels, sure = np.zeros(200, np.uint8), np.ones(200, np.float32)
    data = encode_las(points, None, labels, sure, CLASSES, packed=False)
    lost = np.abs(laspy.read(io.BytesIO(data)).xyz - points.astype(np.float64)).max()
    assert lost < 1e-3
    if reach < 100_000:
        assert lost < 0.06e-3


def test_an_empty_cloud_and_one_without_colour(tmp_path: Path) -> None:
    nothing = np.zeros(0, np.uint8)
    empty = np.zeros((0, 3), np.float32)
    for packed in (False, True):
        path = tmp_path / "empty.laz"
        path.write_bytes(encode_las(empty, None, nothing, np.zeros(0, np.float32), CLASSES, packed=packed))
        assert len(laspy.read(path)) == 0
    one = encode_las(
        np.ones((1, 3), np.float32),
        None,
        np.array([IGNORE], np.uint8),
        np.zeros(1, np.float32),
        CLASSES,
        packed=False,
    )
    path.write_bytes(one)
    cloud = laspy.read(path)
    assert cloud.header.point_format.id == 6
    assert cloud.classification.tolist() == [IGNORE]


def test_long_and_foreign_names_fit_the_look_up_table(tmp_path: Path) -> None:
    classes = ClassTable.from_names(["überlanger Klassenname", "ööööööööööö", "x"])
    data = encode_las(
        np.ones((1, 3), np.float32),
        None,
        np.zeros(1, np.uint8),
        np.ones(1, np.float32),
        classes,
        packed=False,
    )
    (tmp_path / "a.las").write_bytes(data)
    vlrs = laspy.read(tmp_path / "a.las").header.vlrs
    table = next(vlr for vlr in vlrs if vlr.record_id == 0).record_data_bytes()
    assert len(table) == 256 * 16
    assert [table[16 * i + 1 : 16 * i + 16].rstrip(b"\0").decode() for i in range(3)] == [
        "uberlanger Klas",
        "ooooooooooo",
        "x",
    ]


# --- COCO --------------------------------------------------------------------------------------------------


def read_coco(folder: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((folder / "panoptic.json").read_text())
    return tree


def test_coco_obeys_the_rules_of_panoptic_files(source: TinySource, tmp_path: Path) -> None:
    """The rules of panopticapi: ids of PNG and JSON are the same, known categories, areas and boxes right."""
    export(source, tmp_path, "coco")
    tree = read_coco(tmp_path / "coco")
    categories = {row["id"]: row for row in tree["categories"]}
    assert [row["name"] for row in tree["categories"]] == list(CLASSES.names)
    images = {row["id"]: row for row in tree["images"]}
    assert len(images) == len(tree["images"]) == len(tree["annotations"]) == 4
    for annotation in tree["annotations"]:
        image = images[annotation["image_id"]]
        scene, frame = Path(image["file_name"]).parts[0], Path(image["file_name"]).stem
        with Image.open(tmp_path / "coco" / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
        with Image.open(tmp_path / "coco" / "panoptic" / annotation["file_name"]) as file:
            assert file.mode == "RGB"
            rgb = np.array(file).astype(np.int64)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]
        segments = {row["id"]: row for row in annotation["segments_info"]}
        assert len(segments) == len(annotation["segments_info"])
        assert set(np.unique(ids)) - {0} == set(segments)
        said = dict(Told(source).frames(source.scenes[scene]))[frame].labels
        np.testing.assert_array_equal(ids == 0, said == IGNORE)
        for number, row in segments.items():
            inside = np.asfortranarray(ids == number).astype(np.uint8)
            encoded = coco_mask.encode(inside)
            assert row["area"] == int(coco_mask.area(encoded))
            assert row["bbox"] == coco_mask.toBbox(encoded).astype(int).tolist()
            assert (said[ids == number] == row["category_id"] - 1).all()
            assert row["category_id"] in categories
            assert row["iscrowd"] == 0
    part = json.loads((tmp_path / "coco" / "scenes" / "scene1.json").read_text())
    assert [row["id"] for row in part["images"]] == [3, 4]


def test_segments_are_connected_regions() -> None:
    """Against a flood fill in plain Python."""
    rng = np.random.default_rng(3)
    labels = rng.choice([0, 1, IGNORE], (13, 17)).astype(np.uint8)
    ids, segments = segments_of(labels)
    seen = np.zeros(labels.shape, bool)
    count = 0
    for start in np.ndindex(*labels.shape):
        if seen[start] or labels[start] == IGNORE:
            continue
        count += 1
        region, queue = {start}, [start]
        while queue:
            y, x = queue.pop()
            for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                inside = 0 <= near[0] < 13 and 0 <= near[1] < 17
                if inside and near not in region and labels[near] == labels[start]:
                    region.add(near)
                    queue.append(near)
        rows, columns = zip(*region, strict=True)
        seen[rows, columns] = True
        assert len(set(ids[rows, columns].tolist())) == 1
        assert (ids == ids[start]).sum() == len(region)
    assert len(segments) == count
    assert segments_of(np.full((4, 4), IGNORE, np.uint8))[1] == []


def test_ids_above_two_bytes_are_coded() -> None:
    ids = np.array([[0, 255, 256, 65536 + 513]])
    assert as_rgb(ids).tolist() == [[[0, 0, 0], [255, 0, 0], [0, 1, 0], [1, 2, 1]]]


# --- embeddings --------------------------------------------------------------------------------------------


def test_embeddings_score_as_the_networks_do(source: TinySource, tmp_path: Path) -> None:
    save_untrained_run(tmp_path / "run")
    run = TrainedRun(tmp_path / "run", "cpu")
    predictor = Predictor(tiny_config(), run.pair, None)
    names = source.names("val")
    formats = ("embeddings", "pixel-embeddings")
    write_predictions(source, names, CLASSES, predictor, "d", tmp_path / "out", formats=formats)
    scene = source.scenes["scene1"]
    with safe_open(tmp_path / "out" / "scene1" / "embeddings.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == list(CLASSES.names)
        found, points, text = (file.get_tensor(key) for key in ("embeddings", "points", "text"))
    assert (found.dtype, found.shape) == (torch.float16, (400, 8))
    np.testing.assert_array_equal(points.numpy(), scene.points_world)
    want = run.pair.point_cosines(scene.points_world, scene.rgb)
    torch.testing.assert_close(found.float() @ text.T, want, atol=2e-3, rtol=0)
    with safe_open(tmp_path / "out" / "scene1" / "embeddings" / "f1.safetensors", "pt") as file:
        pixels = file.get_tensor("embeddings")
        assert list(file.keys()) == ["embeddings", "text"]
    assert pixels.shape[0] == 8
    cosines = torch.einsum("dhw,cd->chw", pixels.float(), text)[None]
    full = F.interpolate(cosines, size=(24, 32), mode="bilinear", align_corners=False)
    want = run.pair.image_cosines(scene.frames[1].image[None])
    torch.testing.assert_close(full, want, atol=2e-3, rtol=0)


# --- all together ------------------------------------------------------------------------------------------


def test_several_formats_ask_the_networks_once(source: TinySource, tmp_path: Path) -> None:
    told = export(source, tmp_path, "ply", "png", "las", "coco")
    assert told.asked == ["2D", "3D"] * 2
    assert export(source, tmp_path, "ply", "png", "las", "coco").asked == []
    assert export(source, tmp_path, "ply", "laz").asked == ["3D"] * 2  # the new one alone
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("points.*")}
    (tmp_path / "scene1" / "points.las").unlink()
    assert export(source, tmp_path, "ply", "las").asked == ["3D"]
    assert {p for p, t in written.items() if p.stat().st_mtime_ns != t} == {tmp_path / "scene1/points.las"}
    damaged = tmp_path / "coco" / "panoptic" / "scene0" / "f1.png"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert export(source, tmp_path, "ply", "coco").asked == ["2D"]
    assert export(source, tmp_path, "ply", digest="two").asked == ["3D"] * 2
    assert len(PlyData.read(tmp_path / "scene0" / "points.ply")["vertex"]) == 400


def test_an_export_that_was_stopped_goes_on(
    source: TinySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Told.points

    def stop(self: Told, scene: Scene) -> Prediction:
        if scene.name == "scene1":
            raise KeyboardInterrupt
        return real(self, scene)

    with monkeypatch.context() as context:
        context.setattr(Told, "points", stop)
        with pytest.raises(KeyboardInterrupt):
            export(source, tmp_path, "coco", "las")
    assert not (tmp_path / "coco" / "panoptic.json").exists()
    assert export(source, tmp_path, "coco", "las").asked == ["2D", "3D"]
    assert len(read_coco(tmp_path / "coco")["images"]) == 4


def test_images_alone_have_no_cloud_to_write(tmp_path: Path) -> None:
    source = tiny_source(num_scenes=1)
    scene = source.scenes["scene0"]
    empty = replace(scene, points_world=np.zeros((0, 3), np.float32), rgb=np.zeros((0, 3), np.uint8))
    source.scenes["scene0"] = empty
    for _ in range(2):
        told = export(source, tmp_path, "las", "png")
    assert told.asked == []
    assert not (tmp_path / "scene0" / "points.las").exists()
    assert (tmp_path / "scene0" / "labels" / "f0.png").is_file()


def test_a_place_that_cannot_be_written(source: TinySource, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for name in SCENE_FORMATS:
        if name not in ("semantickitti", "nuscenes", "embeddings", "pixel-embeddings"):
            with pytest.raises(OutputError, match="cannot write"):
                export(source, tmp_path / "file", name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found nothing"),
        (" , ", "found nothing"),
        ("ply,lass", "found 'lass'; did you mean 'las'?"),
        ("ply,zzzz", "expected some of ply, png, las"),
    ],
)
def test_formats_are_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_formats(text)
    assert said in str(error.value)
    assert parse_formats(" ply,las , ply") == ("ply", "las")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scenelift.formats.find_spec", lambda name: None)
    for name, extra in (("las", "formats"), ("laz", "formats"), ("onnx", "onnx")):
        with pytest.raises(ConfigError, match=rf'not installed; pip install "scenelift\[{extra}\]"'):
            parse_formats(f"ply,{name}")
    assert parse_formats("ply,png,coco,torch") == ("ply", "png", "coco", "torch")


@pytest.mark.parametrize("name", ["embeddings", "pixel-embeddings"])
def test_a_teacher_embeds_nothing(source: TinySource, name: str) -> None:
    with pytest.raises(ConfigError, match=r"found predict\.source=teacher"):
        check_formats([name], source, CLASSES, tiny_config(predict={"source": "teacher"}))
    check_formats([name], source, CLASSES, tiny_config())


@pytest.mark.parametrize("name", ["semantickitti", "nuscenes"])
def test_a_submission_wants_scenes_of_its_benchmark(source: TinySource, name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"--as {name}: expected scenes of .* found data of source synthetic"
    ):
        check_formats([name], source, CLASSES, tiny_config())
