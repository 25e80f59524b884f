from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import fixtures_street as street
from fixtures_capture import SHARED_DATA
from fuzzing import MANY, QUICK, only_data_errors
from layouts_lidar import (
    CAMERA_YAW,
    INTRINSICS,
    SHAPE,
    calibration,
    cam_from_lidar,
    npy_bytes,
    vehicle,
    write,
    write_lidar,
)
from scenelift.config import LidarData, PairingConfig
from scenelift.errors import DataError
from scenelift.pairing import pair_points
from scenelift.scenes.lidar import Lidar
from scenelift.scenes.lidar.calib import read_calibration, schema_text
from scenelift.scenes.lidar.layout import EgoMotion, match_images, read_poses, time_ns
from scenelift.scenes.point_labels import read_point_labels
from scenelift.types import IGNORE

PAIRING = PairingConfig(depth_test="none", min_depth_m=1.0)
DOCS = Path(__file__).resolve().parents[2] / "docs" / "data" / "lidar.md"
NUSCENES = SHARED_DATA / "nuscenes_keyframe"
EPOCH_S = 1_700_000_000


@pytest.fixture(autouse=True)
def _index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENELIFT_INDEX", str(tmp_path / "index"))


def open_lidar(folder: Path, **keys: Any) -> Lidar:
    return Lidar(LidarData(path=str(folder), **keys))


def agreement(source: Any, name: str, max_range_m: float = np.inf) -> tuple[float, int]:
    """Share of pairs whose point and pixel have one label, and how many pairs there are."""
    scene = source.scene(name)
    near = np.linalg.norm(scene.points_world, axis=1) < max_range_m
    pairs = pair_points(scene.points_world[near], scene.frames, PAIRING)
    assert source.truth is not None
    truth = source.truth.scene(name)
    assert truth is not None
    rows, columns = pairs.rowcol()
    pixels = np.empty(len(pairs), np.uint8)
    for index, frame in enumerate(scene.frames.names):
        labels = source.truth.frame(name, frame)
        assert labels is not None
        part = pairs.of_frame(index)
        pixels[part] = labels.labels[rows[part], columns[part]]
    points = truth.labels[near][pairs.point_index]
    known = (points != IGNORE) & (pixels != IGNORE)
    return float((points == pixels)[known].mean()), int(known.sum())


@pytest.mark.parametrize("kind", ["bin", "npy", "pcd", "las"])
def test_points_and_pixels_agree(tmp_path: Path, kind: str) -> None:
    source = open_lidar(write_lidar(tmp_path / "data", kind=kind))
    assert source.names("train") == source.names("val") == ("000000", "000001")
    for name in source.names("train"):
        share, count = agreement(source, name)
        assert share > 0.97  # the camera stands 36 cm beside the LiDAR and sees past some edges
        assert count > 2000
        scene = source.scene(name)
        assert scene.frames.names == tuple(CAMERA_YAW)
        assert source.frame_count(name) == 3
        np.testing.assert_array_equal(scene.frames[0].cam_from_world[:3, 3], cam_from_lidar(0.0)[:3, 3])
    assert source.classes is not None
    assert source.classes.names == ("road", "sidewalk", "house", "car", "tree", "person")
    assert source.findings().problems == ()
    assert dict(source.findings().counts) == {"clouds": 2, "images": 6, "missing_images": 0}


def test_points_that_the_camera_sees_agree_to_over_99_percent(tmp_path: Path) -> None:
    """With the camera in the LiDAR's place nothing is hidden from it; pixels of 0.3 degrees."""
    folder = write_lidar(tmp_path / "data", count=1)
    intrinsics = np.array([[200.0, 0.0, 199.5], [0.0, 200.0, 119.5], [0.0, 0.0, 1.0]])
    calib = calibration(intrinsics=intrinsics.tolist(), width=400, height=240)
    for name, yaw in CAMERA_YAW.items():
        pose = np.linalg.inv(street.pose((0.0, 0, 0), yaw) @ street.VEHICLE_FROM_CAMERA_AXES)
        calib["cameras"][name]["cam_from_lidar"] = pose.tolist()
        image, _, labels = street.camera_image(pose @ np.linalg.inv(vehicle(0)), intrinsics, (240, 400))
        cv2.imwrite(str(folder / "cameras" / name / "000000.png"), image)
        cv2.imwrite(str(folder / "image_labels" / name / "000000.png"), labels)
    (folder / "calib.json").write_text(json.dumps(calib))
    share, count = agreement(open_lidar(folder), "000000")
    assert share > 0.99
    assert count > 3000


def test_the_vehicles_motion_between_cloud_and_image(tmp_path: Path) -> None:
    """Images 40 ms late at 12 m/s: half a metre, which poses.txt takes out."""
    stems = lambda t: f"{EPOCH_S * 10**9 + round(t * 1e9)}"  # noqa: E731
    folder = write_lidar(tmp_path / "data", count=3, stems=stems, image_delay_s=0.04)
    source = open_lidar(folder)
    assert source.findings().problems == ()
    name = source.names("train")[1]
    frame = source.scene(name).frames[1]
    exact = cam_from_lidar(np.pi / 2) @ np.linalg.inv(vehicle(0.14)) @ vehicle(0.1)
    np.testing.assert_allclose(frame.cam_from_world, exact, atol=2e-3)
    with_motion, _ = agreement(source, name)
    (folder / "poses.txt").unlink()
    still = open_lidar(folder)
    without, _ = agreement(still, name)
    assert with_motion > 0.97
    assert 1 - without > 1.5 * (1 - with_motion)
    (problem,) = still.findings().problems
    assert "up to 40 ms" in problem.what
    assert "poses.txt" in problem.mend


def test_a_clock_that_is_off(tmp_path: Path) -> None:
    stems = lambda t: f"{EPOCH_S + t:.6f}"  # noqa: E731
    folder = write_lidar(tmp_path / "data", stems=stems, image_delay_s=0.3)
    apart = open_lidar(folder).findings()
    assert apart.counts["images"] == 0
    assert apart.problems[0].severity == "error"
    calib = calibration(time_offset_s=-0.3)
    (folder / "calib.json").write_text(json.dumps(calib))
    found = open_lidar(folder)
    assert found.findings().problems == ()
    assert found.matches(found.names("train")[0])["front"].delay_ns == 0


def test_lens_distortion_is_taken_out(tmp_path: Path) -> None:
    coefficients = [-0.2, 0.05, 0.001, -0.001]
    grid = np.stack(np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[0])), -1).reshape(-1, 1, 2)
    ideal = cv2.undistortPoints(grid.astype(np.float64), INTRINSICS, np.array(coefficients), P=INTRINSICS)
    maps = ideal.reshape(*SHAPE, 2).astype(np.float32)

    def distort(image: np.ndarray) -> np.ndarray:
        how = cv2.INTER_NEAREST if image.ndim == 2 else cv2.INTER_LINEAR
        return cv2.remap(image, maps[..., 0], maps[..., 1], how, borderValue=6 if image.ndim == 2 else 0)

    keys = {"distortion": {"model": "opencv", "coefficients": coefficients}}
    bent = open_lidar(write_lidar(tmp_path / "bent", count=1, distort=distort, **keys))
    plain = open_lidar(write_lidar(tmp_path / "plain", count=1))
    wrong = open_lidar(write_lidar(tmp_path / "wrong", count=1, distort=distort))
    best, _ = agreement(plain, "000000")
    assert agreement(bent, "000000")[0] > best - 0.01
    assert agreement(wrong, "000000")[0] < best - 0.01
    assert len(pickle.dumps(bent)) < 50_000  # maps of pixels stay behind


@pytest.mark.skipif(not NUSCENES.is_dir(), reason=f"no nuScenes key frame at {NUSCENES}")
def test_a_real_key_frame_projects_as_the_devkit_says(tmp_path: Path) -> None:
    """nuScenes' six cameras at their own times, rewritten in this layout with time stamps and poses.

    The poses between scans are not in the sample, so clouds are added at the cameras' times.
    """
    tables = {
        name: json.loads((NUSCENES / "v1.0-mini" / f"{name}.json").read_text())
        for name in ("sample_data", "calibrated_sensor", "ego_pose", "sensor")
    }
    rows = {name: {row["token"]: row for row in table} for name, table in tables.items()}

    def matrix(row: dict[str, Any]) -> np.ndarray:
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_quat(np.roll(row["rotation"], -1)).as_matrix()
        pose[:3, 3] = row["translation"]
        return pose

    sensors = {}
    for data in tables["sample_data"]:
        sensor = rows["calibrated_sensor"][data["calibrated_sensor_token"]]
        sensors[rows["sensor"][sensor["sensor_token"]]["channel"]] = (data, sensor)
    lidar, lidar_sensor = sensors.pop("LIDAR_TOP")
    ego_from_lidar = matrix(lidar_sensor)
    calib: dict[str, Any] = {"version": 1, "point_columns": 5, "cameras": {}}
    poses = {}
    for channel, (data, sensor) in {"LIDAR_TOP": (lidar, lidar_sensor), **sensors}.items():
        time = data["timestamp"]
        poses[time] = matrix(rows["ego_pose"][data["ego_pose_token"]]) @ ego_from_lidar
        write(tmp_path / "data" / "lidar" / f"{time}.bin", (NUSCENES / lidar["filename"]).read_bytes())
        if channel != "LIDAR_TOP":
            image = (NUSCENES / data["filename"]).read_bytes()
            write(tmp_path / "data" / "cameras" / channel / f"{time}.jpg", image)
            calib["cameras"][channel] = {
                "intrinsics": sensor["camera_intrinsic"],
                "width": 1600,
                "height": 900,
                "cam_from_lidar": (np.linalg.inv(matrix(sensor)) @ ego_from_lidar).tolist(),
            }
    (tmp_path / "data" / "calib.json").write_text(json.dumps(calib))
    np.savetxt(tmp_path / "data" / "poses.txt", np.stack([poses[t] for t in sorted(poses)]).reshape(-1, 16))
    source = open_lidar(tmp_path / "data")
    assert source.findings().problems == ()
    scene = source.scene(str(lidar["timestamp"]))
    pairs = pair_points(scene.points_world, scene.frames, PAIRING)
    counts = {}
    for index, name in enumerate(scene.frames.names):
        u, v = pairs.pixel_uv[pairs.of_frame(index)].T
        counts[name] = int(((u > 1) & (u < 1599) & (v > 1) & (v < 899)).sum())
    assert counts == {
        "CAM_FRONT": 3053,
        "CAM_FRONT_RIGHT": 3076,
        "CAM_FRONT_LEFT": 3696,
        "CAM_BACK": 4820,
        "CAM_BACK_LEFT": 4089,
        "CAM_BACK_RIGHT": 3369,
    }


def test_frames_in_another_size(tmp_path: Path) -> None:
    folder = write_lidar(tmp_path / "data", count=1)
    source = open_lidar(folder, image_size=(45, 80))
    frame = source.scene("000000").frames[0]
    assert frame.image.shape == (45, 80, 3)
    share, count = agreement(source, "000000")
    assert share > 0.95
    assert count > 2000


def test_organised_clouds_keep_labels_beside_their_points(tmp_path: Path) -> None:
    folder = write_lidar(tmp_path / "data", count=1, kind="npy")
    points = np.load(folder / "lidar" / "000000.npy")
    before = open_lidar(folder).truth.scene("000000")  # type: ignore[union-attr]
    points[::3] = np.nan
    np.save(folder / "lidar" / "000000.npy", points)
    after = open_lidar(folder).truth.scene("000000")  # type: ignore[union-attr]
    kept = np.ones(len(points), bool)
    kept[::3] = False
    np.testing.assert_array_equal(after.labels, before.labels[kept])


def test_coordinates_of_a_map(tmp_path: Path) -> None:
    """A cloud in UTM with cam_from_lidar for these coordinates: an origin is taken off both."""
    folder = write_lidar(tmp_path / "data", count=1, kind="npy")
    away = np.array([690_123.0, 5_334_567.0, 510.0])
    points = np.load(folder / "lidar" / "000000.npy")
    write(folder / "lidar" / "000000.npy", npy_bytes(points.astype(np.float64) + away))
    calib = calibration()
    shift = np.eye(4)
    shift[:3, 3] = -away
    for camera in calib["cameras"].values():
        camera["cam_from_lidar"] = (np.array(camera["cam_from_lidar"]) @ shift).tolist()
    (folder / "calib.json").write_text(json.dumps(calib))
    assert agreement(open_lidar(folder), "000000")[0] > 0.97


def test_time_stamps() -> None:
    assert time_ns("1305031102.175304", None) == 1305031102175304000
    for text in ("1305031102175304000", "1305031102175304", "1305031102175", "1305031102"):
        assert time_ns(text, None) == int(text.ljust(19, "0"))
    assert time_ns("000123", None) is None
    assert time_ns("000123", "ms") == 123_000_000
    assert time_ns("frame_1", "ms") is None
    clouds = ["10.0", "10.1", "10.2"]
    found = match_images(clouds, ["9.98", "10.13", "10.4"], None, 0.0, 0.05)
    assert {c: m.stem for c, m in found.items()} == {"10.0": "9.98", "10.1": "10.13"}
    assert found["10.1"].delay_ns == 30_000_000
    assert set(match_images(clouds, ["9.98", "10.13"], None, 0.0, 0.01)) == set()
    assert match_images(["a", "b"], ["b", "c"], None, 0.0, 1.0)["b"].stem == "b"


def test_motion_between_poses_is_slerp() -> None:
    from pyquaternion import Quaternion

    rng = np.random.default_rng(1)
    turns = [Quaternion(axis=rng.normal(size=3), angle=a) for a in (0.0, 0.7, 1.4)]
    poses = np.stack([q.transformation_matrix for q in turns])
    poses[:, :3, 3] = rng.normal(size=(3, 3))
    motion = EgoMotion(np.array([0.0, 0.1, 0.3]), poses)
    for i, (start, span) in enumerate(((0.0, 0.1), (0.1, 0.2))):
        for share in (0.0, 0.3, 0.9):
            pose = motion.at(start + share * span)
            wanted = Quaternion.slerp(turns[i], turns[i + 1], share).rotation_matrix
            np.testing.assert_allclose(pose[:3, :3], wanted, atol=1e-9)
            np.testing.assert_allclose(
                pose[:3, 3], poses[i, :3, 3] * (1 - share) + poses[i + 1, :3, 3] * share
            )


def test_findings_name_what_is_missing(tmp_path: Path) -> None:
    folder = write_lidar(tmp_path / "data", count=3)
    (folder / "cameras" / "front" / "000001.png").unlink()
    (folder / "cameras" / "left").rename(folder / "cameras" / "side")
    (folder / "classes.json").unlink()
    source = open_lidar(folder)
    assert source.classes is None
    assert source.truth is None
    said = [f"{p.where}: {p.what}; {p.mend}" for p in source.findings().problems]
    for wanted in (
        "left: camera left of calib.json has no folder cameras/left",
        r"side: cameras/side is not in calib\.json, so its 3 images are not used; add \"side\"",
        r"front: 1 of 3 clouds have no image of front: 000001",
        "there are labels but no classes.json",
    ):
        assert any(re.search(wanted, text) for text in said), (wanted, said)
    assert source.findings().counts["missing_images"] == 4
    assert source.scene("000001").frames.names == ("back",)


def test_no_image_belongs_to_a_cloud(tmp_path: Path) -> None:
    folder = write_lidar(tmp_path / "data", count=1)
    for path in folder.glob("cameras/*/000000.png"):
        path.rename(path.with_name("img_0.png"))
    problem = open_lidar(folder).findings().problems[0]
    assert problem.severity == "error"
    assert "clouds are named 000000" in problem.what


def _edit(change: Any) -> bytes:
    calib = calibration()
    change(calib)
    return json.dumps(calib).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{", "Invalid JSON"),
        (_edit(lambda c: c.pop("version")), "found at version: Field required"),
        (_edit(lambda c: c.update(version=2)), "found at version: Input should be 1"),
        (_edit(lambda c: c.update(kameras={})), "found at kameras: Extra inputs are not permitted"),
        (
            _edit(lambda c: c["cameras"]["left"].pop("width")),
            r"found at cameras\.left\.width: Field required",
        ),
        (
            _edit(lambda c: c["cameras"]["left"].update(cam_from_lidar=[[1, 0, 0, 0]] * 3)),
            r"found at cameras\.left\.cam_from_lidar\[3\]: Field required",
        ),
        (
            _edit(lambda c: c["cameras"]["left"].update(cam_from_lidar=np.diag([2, 2, 2, 1]).tolist())),
            r"cameras\.left\.cam_from_lidar: expected a rigid motion .* off by 3",
        ),
        (
            _edit(lambda c: c["cameras"]["left"].update(intrinsics=np.eye(3)[::-1].tolist())),
            r"cameras\.left\.intrinsics: expected \[\[fx, 0, cx\]",
        ),
        (
            _edit(lambda c: c["cameras"]["left"].update(intrinsics={"fx": 1, "fy": 1, "cx": 1})),
            r"cameras\.left\.intrinsics\.cy: Field required",
        ),
        (
            _edit(
                lambda c: c["cameras"]["left"].update(distortion={"model": "fisheye", "coefficients": [1]})
            ),
            r"cameras\.left\.distortion: fisheye has 4 coefficients, found 1",
        ),
        (_edit(lambda c: c["cameras"]["left"].update(width=float("nan"))), r"cameras\.left\.width"),
    ],
)
def test_a_wrong_calibration_is_said_with_its_place(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read_calibration(write(tmp_path / "calib.json", data))
    assert "\n" not in str(caught.value)
    assert "; mend this entry" in str(caught.value)


def test_the_shipped_schema_is_the_models(tmp_path: Path) -> None:
    import scenelift.scenes

    shipped = Path(scenelift.scenes.__file__).parent / "data" / "lidar_calib.schema.json"
    assert shipped.read_text(encoding="utf-8") == schema_text()
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(calibration(time_offset_s=0.1))
    examples = re.findall(r"```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    calibrations = [text for text in examples if '"cam_from_lidar"' in text]
    assert calibrations
    for text in calibrations:
        validator.validate(json.loads(text))
        read_calibration(write(tmp_path / "calib.json", text.encode()))
    assert not validator.is_valid({**calibration(), "more": 1})
    assert not validator.is_valid({"version": 1, "cameras": {}})


def test_faults_are_said_in_one_line(tmp_path: Path) -> None:
    folder = write_lidar(tmp_path / "data", count=1)

    def refused(act: Any, says: str) -> None:
        with pytest.raises(DataError, match=says) as caught:
            act()
        assert "\n" not in str(caught.value)

    source = open_lidar(folder)
    refused(lambda: source.scene("7"), "found a request for '7'")
    label = folder / "labels" / "000000.label"
    whole = label.read_bytes()
    label.write_bytes(whole[:-4])
    refused(lambda: source.truth.scene("000000"), "labels at .*000000.label, one for each point")  # type: ignore[union-attr]
    label.write_bytes(whole[:-4] + (77).to_bytes(4, "little"))
    refused(lambda: source.truth.scene("000000"), r"found 77 \(1 times\); name them in classes.json")  # type: ignore[union-attr]
    cv2.imwrite(str(folder / "cameras" / "front" / "000000.png"), np.zeros((20, 30, 3), np.uint8))
    refused(lambda: source.scene("000000").frames[0], "expected 160 × 90 pixels .* found 30 × 20")
    (folder / "lidar" / "000000.npy").write_bytes(b"x")
    refused(lambda: open_lidar(folder).names("train"), "expected one file per stem")
    (folder / "lidar" / "000000.npy").unlink()
    (folder / "lidar" / "000000.bin").unlink()
    refused(lambda: open_lidar(folder).names("train"), "expected clouds .* found none")
    refused(lambda: open_lidar(tmp_path / "nowhere").names("train"), "found no such folder; check the path")
    assert open_lidar(folder).findings().problems[0].severity == "error"


def test_poses_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "poses.txt"
    for text, says in (
        ("1 0 0 0 0 1 0 0 0 0 1 0\n", "expected 2 poses"),
        ("1 0 0\n1 0 0\n", "found in pose 1: 3 numbers"),
        ("a b c\n1 0 0\n", "found in pose 1: could not convert"),
        ("1 0 0 0 0 1 0 0 0 0 1 0\n2 0 0 0 0 2 0 0 0 0 2 0\n", "pose 2 off by 3"),
        ("nan 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 0 0 1 0 0 0 0 1 0\n", "pose 1 off by inf"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=says):
            read_poses(path, 2)


def test_point_labels_of_every_kind(tmp_path: Path) -> None:
    ids = np.array([0, 40, 255, 259], np.uint32)
    found, instances = read_point_labels(write(tmp_path / "a.label", (ids | 7 << 16).tobytes()), 4)
    np.testing.assert_array_equal(found, ids)
    np.testing.assert_array_equal(instances, [7] * 4)
    for dtype in ("u2", "i8"):
        found, _ = read_point_labels(write(tmp_path / "a.npy", npy_bytes(ids.astype(dtype))), 4)
        np.testing.assert_array_equal(found, ids)
    found, instances = read_point_labels(write(tmp_path / "a.bin", bytes([1, 2, 3, 4])), 4)
    np.testing.assert_array_equal(found, [1, 2, 3, 4])
    assert instances is None
    with pytest.raises(DataError, match="expected whole numbers"):
        read_point_labels(write(tmp_path / "a.npy", npy_bytes(np.zeros(4))), 4)


def test_sources_are_cheap_and_can_be_pickled(tmp_path: Path) -> None:
    folder = write_lidar(tmp_path / "data", count=1)
    source = open_lidar(folder)
    source.names("train")
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    np.testing.assert_array_equal(
        copy.scene("000000").frames[0].image, source.scene("000000").frames[0].image
    )
    for path in (*folder.glob("lidar/*"), *folder.glob("cameras/*/*")):
        path.write_bytes(b"damaged")
    fresh = open_lidar(folder)
    assert fresh.names("val") == ("000000",)
    assert fresh.frame_count("000000") == 3


def _fuzzed(folder: Path, kind: str) -> tuple[Any, bytes]:
    path = folder / {"calib": "calib.json", "poses": "poses.txt", "label": "a.label"}[kind]
    sample = {
        "calib": json.dumps(calibration()).encode(),
        "poses": b"1 0 0 0 0 1 0 0 0 0 1 0\n" * 4,
        "label": np.arange(50, dtype="<u4").tobytes(),
    }[kind]
    reader = {
        "calib": read_calibration,
        "poses": lambda p: read_poses(p, 4),
        "label": lambda p: read_point_labels(p, 50),
    }[kind]

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return reader(path)

    return read, sample


@pytest.mark.parametrize("kind", ["calib", "poses", "label"])
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    read, sample = _fuzzed(tmp_path, kind)
    assert only_data_errors(read, sample, QUICK) > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["calib", "poses", "label"])
def test_many_damaged_files(tmp_path: Path, kind: str) -> None:
    read, sample = _fuzzed(tmp_path, kind)
    assert only_data_errors(read, sample, MANY) > 20
