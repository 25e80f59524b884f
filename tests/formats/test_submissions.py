"""Submissions to SemanticKITTI and nuScenes, judged by the rules of the benchmarks themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nuscenes import NuScenes as Devkit
from nuscenes.eval.lidarseg.evaluate import LidarSegEval
from nuscenes.eval.lidarseg.validate_submission import validate_submission

from fixtures_scenes import tiny_config
from layouts_kitti import write_object, write_odometry
from layouts_nuscenes import write_nuscenes
from scenelift.classes import ClassTable
from scenelift.config import Config, KittiData, NuScenesData
from scenelift.errors import ConfigError
from scenelift.formats import SCENE_FORMATS, Target, check_formats
from scenelift.scenes import SceneSource
from scenelift.scenes.kitti import Kitti
from scenelift.scenes.kitti.labels import SEMANTIC_KITTI
from scenelift.scenes.nuscenes import NuScenes
from scenelift.scenes.nuscenes.labels import NUSCENES16, official_part
from scenelift.types import IGNORE, U8, Prediction

# of semantic-kitti.yaml: names by number, and both maps
CROSS = {
    1: ("car", 10), 2: ("bicycle", 11), 3: ("motorcycle", 15), 4: ("truck", 18), 5: ("other-vehicle", 20),
    6: ("person", 30), 7: ("bicyclist", 31), 8: ("motorcyclist", 32), 9: ("road", 40), 10: ("parking", 44),
    11: ("sidewalk", 48), 12: ("other-ground", 49), 13: ("building", 50), 14: ("fence", 51),
    15: ("vegetation", 70), 16: ("trunk", 71), 17: ("terrain", 72), 18: ("pole", 80),
    19: ("traffic-sign", 81),
}  # fmt: skip


def write(
    name: str, source: SceneSource, labels: dict[str, U8], out: Path, classes: ClassTable, config: Config
) -> None:
    """Write what someone says of the points of some scenes."""
    check_formats([name], source, classes, config)
    target = Target(out, source, tuple(labels), classes, predictor=None)  # type: ignore[arg-type]
    writer = SCENE_FORMATS[name](target)
    for scene, said in labels.items():
        writer.points(source.scene(scene), Prediction(said, np.ones(len(said), np.float32)))
        assert [place.is_file() for place in writer.places(scene)] == [True]
    writer.finish()


# --- SemanticKITTI -----------------------------------------------------------------------------------------


def kitti(folder: Path) -> tuple[Kitti, Config]:
    data = KittiData(source="kitti", path=str(folder))
    return Kitti(data), tiny_config().model_copy(update={"data": data})


def test_semantickitti_files_hold_raw_ids_of_every_row(tmp_path: Path) -> None:
    write_odometry(tmp_path / "data", sequences=("08", "11"), count=1)
    sequences = tmp_path / "data" / "dataset" / "sequences"
    scan = np.fromfile(sequences / "08" / "velodyne" / "000000.bin", "<f4").reshape(-1, 4)
    scan[[3, 70], 1] = np.nan
    scan.tofile(sequences / "08" / "velodyne" / "000000.bin")
    source, config = kitti(tmp_path / "data")
    labels = {}
    for name in ("08_000000", "11_000000"):
        count = len(source.scene(name).points_world)
        labels[name] = np.resize(np.array([*range(19), IGNORE], np.uint8), count)
    write("semantickitti", source, labels, tmp_path / "out", SEMANTIC_KITTI, config)
    root = tmp_path / "out" / "semantickitti"
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))
    assert files == [f"sequences/{s}/predictions/000000.label" for s in ("08", "11")]
    for sequence in ("08", "11"):
        rows = len(np.fromfile(sequences / sequence / "velodyne" / "000000.bin", "<f4")) // 4
        raw = np.fromfile(root / "sequences" / sequence / "predictions" / "000000.label", np.uint32)
        assert len(raw) == rows  # what the server's validation counts
        assert set(raw.tolist()) == {0} | {number for _, number in CROSS.values()}
        kept = np.ones(rows, bool)
        if sequence == "08":
            kept[[3, 70]] = False
            assert raw[[3, 70]].tolist() == [0, 0]
        by_raw = {number: name for name, number in CROSS.values()}
        found = [by_raw.get(int(number), "") for number in raw[kept][:20]]
        assert found == [*SEMANTIC_KITTI.names, ""]


def test_some_classes_in_any_order_will_do(tmp_path: Path) -> None:
    write_odometry(tmp_path / "data", sequences=("08",), count=1)
    source, config = kitti(tmp_path / "data")
    few = ClassTable.from_names(["Sidewalk", "other-vehicle"])
    said = np.zeros(len(source.scene("08_000000").points_world), np.uint8)
    said[1::2] = 1
    write("semantickitti", source, {"08_000000": said}, tmp_path, few, config)
    raw = np.fromfile(tmp_path / "semantickitti/sequences/08/predictions/000000.label", np.uint32)
    assert raw[:2].tolist() == [48, 20]
    foreign = ClassTable.from_names(["road", "lamp", "tree"])
    with pytest.raises(ConfigError, match="found 'lamp' and 1 more; train without --classes"):
        check_formats(["semantickitti"], source, foreign, config)


def test_object_detection_has_no_sequences(tmp_path: Path) -> None:
    write_object(tmp_path, count=1)
    source, config = kitti(tmp_path)
    with pytest.raises(ConfigError, match="expected scenes of KITTI odometry"):
        check_formats(["semantickitti"], source, SEMANTIC_KITTI, config)


# --- nuScenes ----------------------------------------------------------------------------------------------


def nuscenes(folder: Path, **keys: object) -> tuple[NuScenes, Config]:
    data = NuScenesData.model_validate({"source": "nuscenes", "path": str(folder), **keys})
    return NuScenes(data), tiny_config().model_copy(update={"data": data})


def test_the_devkit_validates_and_scores_a_submission(tmp_path: Path) -> None:
    """True labels get an mIoU of 1, and points of added sweeps are left out."""
    tree = write_nuscenes(tmp_path / "data", samples=1)
    source, config = nuscenes(tree.folder, sweeps=1)
    labels = {}
    for name in (*source.names("train"), *source.names("val")):
        truth = source.truth
        assert truth is not None
        found = truth.scene(name)
        assert found is not None
        labels[name] = np.where(found.labels == IGNORE, np.uint8(0), found.labels)
    write("nuscenes", source, labels, tmp_path / "out", NUSCENES16, config)
    devkit = Devkit(version=tree.version, dataroot=str(tree.folder), verbose=False)
    results = tmp_path / "out" / "nuscenes"
    parts = {official_part(tree.version, row["name"]) for row in tree.tables["scene"]}
    assert parts == {"mini_train", "mini_val"}
    for part in ("mini_train", "mini_val"):
        files = list((results / "lidarseg" / part).iterdir())
        assert len(files) == 1
        meta = json.loads((results / part / "submission.json").read_text())
        assert set(meta) == {"meta"}
    # the devkit wants every scene of a split, of which this copy has one
    scenes = {row["name"] for row in tree.tables["scene"]}
    with pytest.MonkeyPatch.context() as context:
        for module in ("validate_submission", "evaluate"):
            context.setattr(
                f"nuscenes.eval.lidarseg.{module}.get_samples_in_eval_set",
                lambda nusc, part: [
                    row["token"]
                    for row in nusc.sample
                    if official_part(tree.version, nusc.get("scene", row["scene_token"])["name"]) == part
                ],
            )
        for part in ("mini_train", "mini_val"):
            validate_submission(devkit, str(results), part)
            judged = LidarSegEval(devkit, str(results), part, verbose=False)
            scores = judged.evaluate()
            present = [value for value in scores["iou_per_class"].values() if value == value and value > 0]
            assert len(present) >= 4
            assert present == [1.0] * len(present)
    assert scenes == {"scene-0061", "scene-0103"}


def test_nuscenes_wants_a_label_for_every_point(tmp_path: Path) -> None:
    tree = write_nuscenes(tmp_path / "data", samples=1, scenes=("scene-0061",))
    source, config = nuscenes(tree.folder)
    teacher = config.model_copy(update={"predict": tiny_config(predict={"source": "teacher"}).predict})
    with pytest.raises(ConfigError, match="takes a label for every point"):
        check_formats(["nuscenes"], source, NUSCENES16, teacher)
    with pytest.raises(ConfigError, match="found 'lamp'"):
        check_formats(["nuscenes"], source, ClassTable.from_names(["car", "lamp"]), config)


def test_scenes_of_no_split_are_refused(tmp_path: Path) -> None:
    tree = write_nuscenes(tmp_path / "data", samples=1, scenes=("my-drive",))
    source, config = nuscenes(tree.folder)
    (name,) = source.names("val")
    said = np.zeros(len(source.scene(name).points_world), np.uint8)
    with pytest.raises(ConfigError, match="found my-drive, which no split has"):
        write("nuscenes", source, {name: said}, tmp_path / "out", NUSCENES16, config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("version", "scene", "part"),
    [
        ("v1.0-trainval", "scene-0061", "train"),
        ("v1.0-trainval", "scene-0103", "val"),
        ("v1.0-mini", "scene-0061", "mini_train"),
        ("v1.0-test", "scene-0077", "test"),
        ("v1.0-mini", "scene-0001", None),
    ],
)
def test_official_parts(version: str, scene: str, part: str | None) -> None:
    assert official_part(version, scene) == part
