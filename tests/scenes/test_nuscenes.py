"""nuScenes read here and by its own devkit: the same points in the same pixels with the same labels."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nuscenes.nuscenes import NuScenes as Devkit
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.data_io import load_bin_file
from nuscenes.utils.geometry_utils import view_points
from pyquaternion import Quaternion

from fixtures_capture import SHARED_DATA
from layouts_nuscenes import CAMERAS, INTRINSICS, SHAPE, TRAIN, Tree, write_nuscenes
from scenelift.config import PairingConfig
from scenelift.config_data import NuScenesData
from scenelift.geometry import project
from scenelift.pairing import pair_points
from scenelift.scenes.nuscenes import NuScenes
from scenelift.scenes.nuscenes import index as nuscenes_index
from scenelift.types import F64, Frame

KEYFRAME = SHARED_DATA / "nuscenes_keyframe"
COUNTS = {
    "CAM_FRONT": 3053,
    "CAM_FRONT_RIGHT": 3076,
    "CAM_FRONT_LEFT": 3696,
    "CAM_BACK": 4820,
    "CAM_BACK_LEFT": 4089,
    "CAM_BACK_RIGHT": 3369,
}


@pytest.fixture(scope="module", autouse=True)
def _index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCENELIFT_INDEX", str(tmp_path_factory.mktemp("index")))
        yield


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Two scenes of two key frames, with sweeps and labels."""
    return write_nuscenes(tmp_path_factory.mktemp("data") / "nuscenes")


@pytest.fixture(scope="module")
def devkit(tree: Tree) -> Devkit:
    """The same through nuScenes' own code."""
    return Devkit(version=tree.version, dataroot=str(tree.folder), verbose=False)


def open_nuscenes(folder: Path, **keys: Any) -> NuScenes:
    """The source of a folder."""
    return NuScenes(NuScenesData(path=str(folder), **keys))


def all_names(source: NuScenes) -> tuple[str, ...]:
    """Names of both splits."""
    return (*source.names("train"), *source.names("val"))


def devkit_samples(devkit: Devkit) -> dict[str, dict[str, Any]]:
    """The devkit's sample records by our names."""
    found = {}
    for scene in devkit.scene:
        key, index = scene["first_sample_token"], 0
        while key:
            found[f"{scene['name']}_{index:02d}"] = devkit.get("sample", key)
            key, index = devkit.get("sample", key)["next"], index + 1
    return found


def devkit_projection(devkit: Devkit, sample: dict[str, Any], channel: str, dtype: Any) -> tuple[F64, F64]:
    """Pixels (N, 2) and depths (N,) by the steps of ``map_pointcloud_to_image``, before its mask."""
    lidar = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
    camera = devkit.get("sample_data", sample["data"][channel])
    cloud = LidarPointCloud.from_file(f"{devkit.dataroot}/{lidar['filename']}")
    cloud.points = cloud.points.astype(dtype)
    for record in (
        devkit.get("calibrated_sensor", lidar["calibrated_sensor_token"]),
        devkit.get("ego_pose", lidar["ego_pose_token"]),
    ):
        cloud.rotate(Quaternion(record["rotation"]).rotation_matrix)
        cloud.translate(np.array(record["translation"]))
    mount = devkit.get("calibrated_sensor", camera["calibrated_sensor_token"])
    for record in (devkit.get("ego_pose", camera["ego_pose_token"]), mount):
        cloud.translate(-np.array(record["translation"]))
        cloud.rotate(Quaternion(record["rotation"]).rotation_matrix.T)
    depths = cloud.points[2].astype(np.float64)
    pixels = view_points(cloud.points[:3], np.array(mount["camera_intrinsic"]), normalize=True)
    return pixels[:2].T, depths


def our_projection(points_world: Any, frame: Frame) -> tuple[F64, F64]:
    """Pixels (N, 2) and depths (N,)."""
    uv, z = project(
        torch.from_numpy(points_world).double(),
        torch.from_numpy(frame.intrinsics),
        torch.from_numpy(frame.cam_from_world),
    )
    return uv.numpy(), z.numpy()


def seen(uv: F64, z: F64, frame: Frame) -> Any:
    """The devkit's mask: further than 1 m, and a rim of one pixel left out."""
    with np.errstate(invalid="ignore"):
        inside = (uv > 1).all(1) & (uv[:, 0] < frame.width - 1) & (uv[:, 1] < frame.height - 1)
    return inside & (z > 1)


def compare_with_devkit(devkit: Devkit, source: NuScenes, name: str) -> tuple[float, float]:
    """Largest difference in pixels to the devkit's steps in float64 and as they are, over all cameras."""
    scene, sample = source.scene(name), devkit_samples(devkit)[name]
    worst = [0.0, 0.0]
    for frame in scene.frames:
        uv, z = our_projection(scene.points_world, frame)
        exact_uv, exact_z = devkit_projection(devkit, sample, frame.name, np.float64)
        mask = seen(uv, z, frame)
        np.testing.assert_array_equal(mask, seen(exact_uv, exact_z, frame))
        assert mask.sum() > 100
        worst[0] = max(worst[0], float(np.abs(uv - exact_uv)[mask].max()))
        theirs, depths, image = devkit.explorer.map_pointcloud_to_image(
            sample["data"]["LIDAR_TOP"], sample["data"][frame.name]
        )
        image.close()
        assert theirs.shape[1] == mask.sum()
        worst[1] = max(worst[1], float(np.abs(uv[mask].T - theirs[:2]).max()))
        np.testing.assert_allclose(z[mask], depths, atol=2e-3)
    return worst[0], worst[1]


def test_key_frames_are_scenes(tree: Tree, devkit: Devkit) -> None:
    source = open_nuscenes(tree.folder)
    assert source.names("train") == ("scene-0061_00", "scene-0061_01")
    assert source.names("val") == ("scene-0103_00", "scene-0103_01")
    assert sorted(devkit_samples(devkit)) == sorted(all_names(source))
    for name in all_names(source):
        scene = source.scene(name)
        assert source.frame_count(name) == len(scene.frames) == 6
        assert scene.frames.names == tuple(CAMERAS)
        assert scene.rgb is None
        lidar = devkit.get("sample_data", devkit_samples(devkit)[name]["data"]["LIDAR_TOP"])
        stored = LidarPointCloud.from_file(f"{tree.folder}/{lidar['filename']}").points[:3].T
        np.testing.assert_array_equal(scene.points_world, stored)  # to the last bit, in the file's order
        np.testing.assert_array_equal(scene.points_world, tree.points[name])
        mount = devkit.get("calibrated_sensor", lidar["calibrated_sensor_token"])
        up = Quaternion(mount["rotation"]).inverse.rotate(np.array([0.0, 0.0, 1.0]))
        np.testing.assert_allclose(scene.up_world, up, atol=1e-12)


def test_every_point_falls_on_the_devkits_pixel(tree: Tree, devkit: Devkit) -> None:
    source = open_nuscenes(tree.folder)
    for name in all_names(source):
        exact, as_is = compare_with_devkit(devkit, source, name)
        assert exact < 1e-6
        assert as_is < 0.05  # float32 at kilometres: 1e-4 m, at 126 px and 1 m


def test_labels_are_the_devkits(tree: Tree, devkit: Devkit, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_nuscenes(tree.folder)
    truth = source.truth
    assert truth is not None
    total = np.zeros(32, np.int64)
    for name, sample in devkit_samples(devkit).items():
        record = devkit.get("lidarseg", sample["data"]["LIDAR_TOP"])
        raw = truth.raw(name)
        np.testing.assert_array_equal(raw, load_bin_file(f"{tree.folder}/{record['filename']}"))
        total += np.bincount(raw, minlength=32)
        labels, street = truth.scene(name), tree.point_labels[name]
        assert labels is not None
        wanted = np.array([TRAIN.get(label, 255) for label in range(256)], np.uint8)[street]
        np.testing.assert_array_equal(labels.labels, wanted)
        assert truth.frame(name, "CAM_FRONT") is None
    devkit.list_lidarseg_categories(sort_by="index")
    lines = [line for line in capsys.readouterr().out.splitlines() if "nbr_points=" in line]
    counts = [int(line.split("nbr_points=")[1].replace(",", "")) for line in lines]
    assert counts == total.tolist()
    assert (total > 0).sum() == 9


def test_labels_of_points_and_pixels_agree(tree: Tree) -> None:
    source = open_nuscenes(tree.folder)
    truth, equal, close, pairs_in_all = source.truth, [], [], 0
    assert truth is not None
    table = np.array([TRAIN.get(label, 255) for label in range(256)], np.uint8)
    for name in all_names(source):
        scene, labels = source.scene(name), truth.scene(name)
        assert labels is not None
        frames = [
            dataclasses.replace(frame, depth_m=tree.frame_depth_m[name, frame.name]) for frame in scene.frames
        ]
        everything = pair_points(scene.points_world, frames, PairingConfig(depth_test="none"))
        config = PairingConfig(depth_test="relative", depth_tolerance_ratio=0.02)
        pairs = pair_points(scene.points_world, frames, config)
        row, column = pairs.rowcol()
        images = np.stack([table[tree.frame_labels[name, frame.name]] for frame in frames])
        equal.append(images[pairs.frame_index, row, column] == labels.labels[pairs.point_index])
        close.append(len(pairs) / len(everything))
        pairs_in_all += len(pairs)
        seen_by_any = len(np.unique(everything.point_index)) / len(scene.points_world)
        assert 0.5 < seen_by_any < 0.9  # six cameras all around; the ground close by is below them
    assert np.concatenate(equal).mean() > 0.99
    assert min(close) > 0.85  # the rest is hidden from the camera, which sits lower and to the side
    assert pairs_in_all > 5000


def test_the_cars_motion_between_the_sensors_matters(tree: Tree, devkit: Devkit) -> None:
    """What would be wrong if both were taken to fire at once: the tests above would see it."""
    sample = devkit_samples(devkit)["scene-0061_01"]
    lidar = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
    camera = devkit.get("sample_data", sample["data"]["CAM_FRONT_RIGHT"])
    scene = open_nuscenes(tree.folder).scene("scene-0061_01")
    frame = scene.frames[1]
    uv, z = our_projection(scene.points_world, frame)
    ego_pose = devkit.get("ego_pose", camera["ego_pose_token"])
    keep = dict(ego_pose)
    try:
        ego_pose.update(devkit.get("ego_pose", lidar["ego_pose_token"]))
        still_uv, still_z = devkit_projection(devkit, sample, frame.name, np.float64)
    finally:
        ego_pose.update(keep)
    both = seen(uv, z, frame) & seen(still_uv, still_z, frame)
    assert np.median(np.abs(uv - still_uv)[both].max(1)) > 1.0


@pytest.mark.parametrize("sweeps", [1, 2, 7])
def test_sweeps_are_the_devkits(tree: Tree, devkit: Devkit, sweeps: int) -> None:
    source = open_nuscenes(tree.folder, sweeps=sweeps)
    truth = source.truth
    assert truth is not None
    for name, sample in devkit_samples(devkit).items():
        scene, key = source.scene(name), tree.points[name]
        np.testing.assert_array_equal(scene.points_world[: len(key)], key)
        theirs, times = LidarPointCloud.from_file_multisweep(
            devkit, sample, "LIDAR_TOP", "LIDAR_TOP", nsweeps=sweeps + 1, min_distance=1.0
        )
        added = theirs.points[:3, times[0] > 0].T
        np.testing.assert_allclose(scene.points_world[len(key) :], added, atol=2e-5)
        assert len(np.unique(times)) == 1 + min(sweeps, 2 if name.endswith("_00") else 5)
        labels = truth.scene(name)
        assert labels is not None
        assert len(labels.labels) == len(scene.points_world)
        assert (labels.labels[len(key) :] == 255).all()
        assert (labels.labels[: len(key)] != 255).mean() > 0.99
        assert len(scene.frames) == 6


def test_images_are_scaled_with_their_intrinsics(tree: Tree) -> None:
    whole = open_nuscenes(tree.folder).scene("scene-0061_00").frames[0]
    np.testing.assert_array_equal(whole.intrinsics, INTRINSICS)
    assert whole.image.shape == (*SHAPE, 3)
    half = open_nuscenes(tree.folder, image_size=(45, 80)).scene("scene-0061_00").frames[0]
    assert half.image.shape == (45, 80, 3)
    blocks = whole.image.reshape(45, 2, 80, 2, 3).mean((1, 3))
    assert np.abs(half.image - blocks).max() <= 1  # rows and columns are rounded one after the other
    points = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32) * 10
    uv, _ = our_projection(points, whole)
    half_uv, _ = our_projection(points, half)
    np.testing.assert_allclose((uv + 0.5) / 2 - 0.5, half_uv)


def test_cameras_can_be_chosen(tree: Tree) -> None:
    source = open_nuscenes(tree.folder, cameras=("CAM_BACK", "CAM_FRONT"))
    name = source.names("val")[0]
    assert source.frame_count(name) == 2
    scene = source.scene(name)
    assert [frame.name for frame in scene.frames] == ["CAM_BACK", "CAM_FRONT"]
    every = {frame.name: frame for frame in open_nuscenes(tree.folder).scene(name).frames}
    np.testing.assert_array_equal(scene.frames[0].image, every["CAM_BACK"].image)
    np.testing.assert_array_equal(scene.frames[0].cam_from_world, every["CAM_BACK"].cam_from_world)


def test_a_source_is_lazy_picklable_and_leaves_the_data_alone(tree: Tree, tmp_path: Path) -> None:
    open_nuscenes(tmp_path / "nowhere")  # no error before something is asked for
    before = fingerprint(tree.folder)
    source = open_nuscenes(tree.folder)
    early = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert source.names("train")
    late = pickle.loads(pickle.dumps(source))  # noqa: S301
    truth = pickle.loads(pickle.dumps(source.truth))  # noqa: S301
    scene = source.scene("scene-0103_01")
    with ThreadPoolExecutor(4) as pool:
        frames = list(pool.map(scene.frames.__getitem__, [0, 1, 2, 3, 4, 5] * 2))
    for copy in (early, late):
        assert all_names(copy) == all_names(source)
        other = copy.scene("scene-0103_01")
        np.testing.assert_array_equal(other.points_world, scene.points_world)
        np.testing.assert_array_equal(other.frames[3].image, frames[3].image)
        np.testing.assert_array_equal(frames[3].image, frames[9].image)
    assert truth.scene("scene-0103_01") is not None
    assert source.findings().problems == ()
    assert fingerprint(tree.folder) == before


def fingerprint(folder: Path) -> str:
    """Names, sizes and times of all files below a folder."""
    rows = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*"))]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def test_the_second_open_reads_no_table(tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCENELIFT_INDEX", str(tmp_path / "own"))
    first = open_nuscenes(tree.folder, sweeps=1)
    expected = all_names(first), first.scene("scene-0061_01").points_world
    with monkeypatch.context() as patch:
        patch.setattr(nuscenes_index, "read_tables", None)
        second = open_nuscenes(tree.folder, sweeps=1)
        assert all_names(second) == expected[0]
        np.testing.assert_array_equal(second.scene("scene-0061_01").points_world, expected[1])
        for name in ("sample_row", "row_previous", "ego_poses", "sensor_intrinsics"):
            np.testing.assert_array_equal(getattr(first.tables, name), getattr(second.tables, name))
        assert second.tables.categories == first.tables.categories
    for path in (tmp_path / "own").glob("*.safetensors"):  # a damaged index is made again
        content = bytearray(path.read_bytes())
        content[-100] ^= 4
        path.write_bytes(content)
        assert all_names(open_nuscenes(tree.folder, sweeps=1)) == expected[0]
        assert path.read_bytes() != content
        path.write_bytes(content[: len(content) // 2])
        assert all_names(open_nuscenes(tree.folder, sweeps=1)) == expected[0]


def test_an_index_that_cannot_be_kept_is_done_without(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SCENELIFT_INDEX", str(tmp_path / "file" / "index"))
    assert len(all_names(open_nuscenes(tree.folder))) == 4


@pytest.mark.skipif(not KEYFRAME.is_dir(), reason="needs the nuScenes key frame in shared/data")
def test_a_real_key_frame_projects_as_in_the_devkit() -> None:
    devkit = Devkit(version="v1.0-mini", dataroot=str(KEYFRAME), verbose=False)
    source = open_nuscenes(KEYFRAME)
    assert source.names("train") == ("scene-0061_00",)
    assert source.names("val") == ()
    scene = source.scene("scene-0061_00")
    assert scene.points_world.shape == (34688, 3)
    for frame in scene.frames:
        assert seen(*our_projection(scene.points_world, frame), frame).sum() == COUNTS[frame.name]
    exact, as_is = compare_with_devkit(devkit, source, "scene-0061_00")
    print(f"largest difference {exact:.2g} px in float64, {as_is:.2g} px as the devkit computes")
    assert exact < 0.01
    assert as_is < 0.2
    truth = source.truth
    assert truth is not None
    labels = truth.scene("scene-0061_00")
    assert labels is not None
    assert (labels.labels != 255).mean() == pytest.approx(0.366, abs=1e-3)
