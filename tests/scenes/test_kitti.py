from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fixtures_street as street
from fuzzing import MANY, QUICK, only_data_errors
from layouts_kitti import (
    BASELINE,
    KITTI_360_IDS,
    RECTIFY,
    SEMANTIC_KITTI_IDS,
    SHAPE,
    K,
    cam_0_from_velo,
    cam_from_velo,
    picture,
    projection,
    scan,
    write_kitti360,
    write_object,
    write_odometry,
)
from scenelift.config import KittiData, PairingConfig
from scenelift.errors import DataError
from scenelift.geometry import project
from scenelift.pairing import pair_points
from scenelift.scenes.kitti import Kitti
from scenelift.scenes.kitti.calib import kitti360_camera, object_camera, sequence_camera
from scenelift.scenes.kitti.labels import (
    CITYSCAPES,
    KITTI_360_LABELS,
    SEMANTIC_KITTI,
    SEMANTIC_KITTI_LABELS,
    UNKNOWN,
)
from scenelift.types import F64, IGNORE

PAIRING = PairingConfig(depth_test="none", min_depth_m=1.0)


@pytest.fixture(autouse=True)
def _index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENELIFT_INDEX", str(tmp_path / "index"))


def open_kitti(folder: Path, **keys: Any) -> Kitti:
    return Kitti(KittiData(path=str(folder), **keys))


def seen(source: Kitti, name: str, frame: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Point indices, rows and columns of the pairs of one frame."""
    scene = source.scene(name)
    pairs = pair_points(scene.points_world, scene.frames.only([frame]), PAIRING)
    return pairs.point_index, *pairs.rowcol()


def expect_projection(source: Kitti, name: str, camera: str, matrix: F64) -> None:
    """The frame's camera projects as the one (3, 4) matrix does, in float64."""
    scene = source.scene(name)
    frame = next(frame for frame in scene.frames if frame.name == camera)
    points = scene.points_world.astype(np.float64)
    homogeneous = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    before = homogeneous[:, 2] > 0.5
    wanted = homogeneous[before, :2] / homogeneous[before, 2:]
    uv, z = project(*map(torch.from_numpy, (points[before], frame.intrinsics, frame.cam_from_world)))
    assert before.sum() > 1000
    np.testing.assert_allclose(z.numpy(), homogeneous[before, 2], rtol=0, atol=1e-9)
    np.testing.assert_allclose(uv.numpy(), wanted, rtol=1e-9, atol=1e-6)


def test_object_detection(tmp_path: Path) -> None:
    folder = write_object(tmp_path / "kitti")
    source = open_kitti(folder, cameras=("image_2", "image_3"))
    assert source.names("train") == source.names("val") == ("000000", "000001")
    assert source.classes is None
    assert source.truth is None
    assert source.frame_count("000001") == 2
    assert source.scene("000001").frames.names == ("image_2", "image_3")
    np.testing.assert_array_equal(source.scene("000001").points_world, scan(1)[0][:, :3])
    for camera in BASELINE:
        expect_projection(source, "000001", camera, projection(camera) @ RECTIFY @ cam_0_from_velo())
    assert source.findings().problems == ()
    assert open_kitti(folder).scene("000000").frames.names == ("image_2",)
    assert open_kitti(folder / "training").names("train") == ("000000", "000001")


def test_odometry_and_semantic_kitti(tmp_path: Path) -> None:
    folder = write_odometry(tmp_path / "kitti")
    source = open_kitti(folder, cameras=("image_2", "image_3"))
    assert source.names("train") == ("00_000000", "00_000001")
    assert source.names("val") == ("08_000000", "08_000001")
    assert source.classes is SEMANTIC_KITTI
    for camera in BASELINE:
        expect_projection(source, "08_000001", camera, projection(camera) @ cam_0_from_velo())
    truth = source.truth
    assert truth is not None
    found = truth.scene("08_000001")
    assert found is not None
    _, labels = scan(1)
    np.testing.assert_array_equal(found.labels, SEMANTIC_KITTI_LABELS[SEMANTIC_KITTI_IDS[labels]])
    assert found.instances is not None
    np.testing.assert_array_equal(found.instances, 5 * (labels == street.CAR))
    assert truth.scene("11_000000") is None
    assert truth.frame("08_000001", "image_2") is None
    assert source.findings().problems == ()
    one = open_kitti(folder / "dataset" / "sequences" / "08")
    assert one.names("train") == one.names("val") == ("08_000000", "08_000001")


@pytest.mark.parametrize("camera", list(BASELINE))
def test_points_of_semantic_kitti_fall_on_their_pixels(tmp_path: Path, camera: str) -> None:
    source = open_kitti(write_odometry(tmp_path / "kitti", ["00"]), cameras=("image_2", "image_3"))
    shares, counts = [], []
    for number, name in enumerate(source.names("train")):
        index, rows, columns = seen(source, name, camera)
        truth = source.truth.scene(name)  # type: ignore[union-attr]
        assert truth is not None
        pixels = SEMANTIC_KITTI_LABELS[SEMANTIC_KITTI_IDS[picture(number, cam_from_velo(camera, False))[1]]]
        pixels = pixels[rows, columns]
        points = truth.labels[index]
        known = (points != IGNORE) & (pixels != IGNORE)
        shares.append((points == pixels)[known].mean())
        counts.append(known.sum())
    assert min(counts) > 1500
    # the right camera stands half a metre beside the Velodyne and sees behind some edges
    assert min(shares) > (0.99 if camera == "image_2" else 0.97)


def test_kitti360(tmp_path: Path) -> None:
    folder = write_kitti360(tmp_path / "kitti360")
    source = open_kitti(folder, cameras=("image_00", "image_01"))
    assert source.names("train") == ("0003_0000000000", "0003_0000000001")
    assert source.names("val") == ("0003_0000000002",)
    assert source.classes is CITYSCAPES
    assert source.findings().problems == ()
    name = source.names("val")[0]
    labels = scan(2)[1]
    points_360 = KITTI_360_LABELS[KITTI_360_IDS[labels]]
    for camera in ("image_00", "image_01"):
        truth = source.truth.frame(name, camera)  # type: ignore[union-attr]
        assert truth is not None
        index, rows, columns = seen(source, name, camera)
        share = (points_360[index] == truth.labels[rows, columns]).mean()
        assert len(index) > 1500
        assert share > (0.985 if camera == "image_00" else 0.97)
    assert source.truth.scene(name) is None  # type: ignore[union-attr]
    assert open_kitti(folder).scene(name).frames.names == ("image_00",)
    for path in folder.glob("data_2d_semantics/train/*.txt"):
        path.unlink()
    assert len(open_kitti(folder).names("train")) == len(open_kitti(folder).names("val")) == 3


def test_images_of_another_size(tmp_path: Path) -> None:
    folder = write_kitti360(tmp_path / "kitti360", frames=(2,))
    source = open_kitti(folder, image_size=(47, 155))
    frame = source.scene("0003_0000000002").frames[0]
    assert frame.image.shape == (47, 155, 3)
    truth = source.truth.frame("0003_0000000002", "image_00")  # type: ignore[union-attr]
    assert truth is not None
    assert truth.labels.shape == (47, 155)
    full = open_kitti(folder).scene("0003_0000000002").frames[0]
    assert full.image.shape == (*SHAPE, 3)
    np.testing.assert_array_equal(full.intrinsics, K)
    point = np.array([[0.3, 0.1, 1.0]]) @ np.array([full.intrinsics, frame.intrinsics]).transpose(0, 2, 1)
    np.testing.assert_allclose((point[0, 0, :2] + 0.5) / 2 - 0.5, point[1, 0, :2])


def test_the_table_of_semantic_kitti() -> None:
    """Spot checks of learning_map: 19 classes, moving ones with those that stand, four ids ignored."""
    names = dict(enumerate(SEMANTIC_KITTI.names)) | {IGNORE: "-", UNKNOWN: "?"}
    wanted = {
        **dict.fromkeys((0, 1, 52, 99), "-"),
        **dict.fromkeys((2, 12, 260, 65535), "?"),
        **dict.fromkeys((10, 252), "car"),
        **dict.fromkeys((13, 16, 20, 256, 257, 259), "other-vehicle"),
        **dict.fromkeys((40, 60), "road"),
        254: "person",
        253: "bicyclist",
        255: "motorcyclist",
        258: "truck",
        81: "traffic-sign",
    }
    assert {raw: names[int(SEMANTIC_KITTI_LABELS[raw])] for raw in wanted} == wanted
    assert (SEMANTIC_KITTI_LABELS != UNKNOWN).sum() == 34
    assert len(SEMANTIC_KITTI) == len(CITYSCAPES) == 19
    ids = {7: "road", 23: "sky", 33: "bicycle", 34: "building", 35: "fence", 37: "pole"}
    assert {n: CITYSCAPES.names[int(KITTI_360_LABELS[n])] for n in ids} == ids
    assert (KITTI_360_LABELS[[0, 9, 14, 29, 44, 255]] == IGNORE).all()
    assert KITTI_360_LABELS[45] == UNKNOWN


def test_findings_name_what_is_missing(tmp_path: Path) -> None:
    folder = write_odometry(tmp_path / "kitti", ["00", "08"])
    sequences = folder / "dataset" / "sequences"
    (sequences / "00" / "image_2" / "000001.png").unlink()
    (sequences / "00" / "labels" / "000000.label").unlink()
    (sequences / "08" / "calib.txt").write_text("P2: 1 2 3\n")
    findings = open_kitti(folder).findings()
    said = [f"{p.severity} {p.where}: {p.what}" for p in findings.problems]
    assert said[0] == "warning 00: 1 of 2 scans have no image_2: 000001"
    assert said[1] == "warning 00: 1 of 2 scans have no labels: 000000"
    assert said[2].startswith("error 08: expected 12 numbers Tr")
    assert dict(findings.counts) == {"clouds": 4, "images": 3, "missing_images": 1}
    bare = open_kitti(folder, cameras=("image_0",)).findings()
    assert bare.problems[0].severity == "error"
    assert bare.problems[0].what == "none of 4 scans has an image of image_0"


def test_faults_are_said_in_one_line(tmp_path: Path) -> None:
    folder = write_odometry(tmp_path / "kitti", ["00"], count=1)

    def refused(act: Any, says: str) -> None:
        with pytest.raises(DataError, match=says) as caught:
            act()
        assert "\n" not in str(caught.value)

    source = open_kitti(folder)
    refused(lambda: source.scene("00_7"), "found a request for '00_7'")
    refused(lambda: open_kitti(tmp_path / "nothing").names("train"), "found no such folder")
    refused(lambda: open_kitti(tmp_path).names("train"), "found none of them; unpack")
    refused(lambda: open_kitti(folder, cameras=("image_00",)).frame_count("00_000000"), "to be among image_0")
    root = folder / "dataset" / "sequences" / "00"
    label = root / "labels" / "000000.label"
    whole = label.read_bytes()
    label.write_bytes(whole[:-4])
    refused(lambda: source.truth.scene("00_000000"), "one for each point of its cloud, found")  # type: ignore[union-attr]
    label.write_bytes(whole[:-4] + (2).to_bytes(4, "little"))
    refused(lambda: source.truth.scene("00_000000"), r"expected class ids .* found 2 \(1 times\)")  # type: ignore[union-attr]
    (root / "velodyne" / "000000.bin").write_bytes(b"1234567")
    refused(lambda: source.scene("00_000000"), "rows of 4 float32")
    (root / "calib.txt").write_text((root / "calib.txt").read_text().replace("Tr:", "T:"))
    refused(lambda: sequence_camera(root / "calib.txt", "image_2"), "expected 12 numbers Tr .* found none")
    refused(lambda: kitti360_camera(root, "image_02"), "fisheye cameras are not read")


def test_a_bent_rotation_is_refused_and_a_rounded_one_mended(tmp_path: Path) -> None:
    folder = write_object(tmp_path / "kitti", count=1)
    path = folder / "training" / "calib" / "000000.txt"
    lines = {row.split(":")[0]: row for row in path.read_text().splitlines() if row}
    rounded = " ".join(f"{x:.4f}" for x in cam_0_from_velo()[:3].ravel())
    path.write_text("\n".join((lines | {"Tr_velo_to_cam": f"Tr_velo_cam {rounded}"}).values()))
    pose = object_camera(path, "image_2").cam_from_velo
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(pose, cam_from_velo("image_2", True), atol=1e-3)
    path.write_text("\n".join((lines | {"R0_rect": "R0_rect: 2 0 0 0 2 0 0 0 2"}).values()))
    with pytest.raises(DataError, match=r"rigid motion R0_rect .* off by 3"):
        object_camera(path, "image_2")


def test_sources_are_cheap_and_can_be_pickled(tmp_path: Path) -> None:
    folder = write_odometry(tmp_path / "kitti", ["00"], count=1)
    source = open_kitti(folder)
    source.names("train")
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert copy.scene("00_000000").frames[0].image.shape == (*SHAPE, 3)
    for path in (*folder.rglob("*.bin"), *folder.rglob("*.png")):
        path.write_bytes(b"damaged")
    fresh = open_kitti(folder)
    assert fresh.names("val") == ("00_000000",)
    assert fresh.frame_count("00_000000") == 1
    with pytest.raises(DataError, match="rows of 4 float32"):
        fresh.scene("00_000000")


def _fuzz(folder: Path, kind: str, count: int) -> None:
    if kind == "object":
        path = write_object(folder, count=1) / "training" / "calib" / "000000.txt"
        act: Any = lambda: object_camera(path, "image_2")  # noqa: E731
    elif kind == "odometry":
        path = write_odometry(folder, ["00"], 1) / "dataset" / "sequences" / "00" / "calib.txt"
        act = lambda: sequence_camera(path, "image_3")  # noqa: E731
    else:
        names = {"perspective": "perspective", "velo": "calib_cam_to_velo", "pose": "calib_cam_to_pose"}
        root = write_kitti360(folder, frames=(0,)) / "calibration"
        path = root / f"{names[kind]}.txt"
        act = lambda: kitti360_camera(root, "image_01")  # noqa: E731

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return act()

    assert only_data_errors(read, path.read_bytes(), count) > count // 20


KINDS = ["object", "odometry", "perspective", "velo", "pose"]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_calibrations(tmp_path: Path, kind: str) -> None:
    _fuzz(tmp_path / "kitti", kind, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_calibrations(tmp_path: Path, kind: str) -> None:
    _fuzz(tmp_path / "kitti", kind, MANY)
