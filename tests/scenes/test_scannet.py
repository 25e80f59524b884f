"""ScanNet from its official layout: what lies there, clouds, frames, findings."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData

import layouts_scannet as layouts
from layouts_scannet import TEST, TRAIN, VAL, write_frames, write_scan, write_scannet, write_sens
from scenelift import geometry
from scenelift.config import PairingConfig, ScanNetData
from scenelift.errors import DataError
from scenelift.pairing import coverage, pair_points
from scenelift.scenes.detect import detect_source
from scenelift.scenes.registry import open_source
from scenelift.scenes.scannet import ScanNet
from scenelift.scenes.scannet import layout as scannet_layout
from scenelift.scenes.scannet.frames import read_axis_alignment
from scenelift.scenes.scannet.layout import official_split
from scenelift.types import IGNORE, Frame


@pytest.fixture(autouse=True)
def index_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENELIFT_INDEX", str(tmp_path / "index"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that tests read and never change."""
    return write_scannet(tmp_path_factory.mktemp("scannet"))


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "scannet"))


def opened(root: Path, **keys: Any) -> ScanNet:
    return ScanNet(ScanNetData(path=str(root), **({"image_size": (48, 64)} | keys)))


def same(a: Frame, b: Frame) -> bool:
    arrays = [(getattr(a, k), getattr(b, k)) for k in ("image", "intrinsics", "cam_from_world", "depth_m")]
    return (a.scene, a.name) == (b.scene, b.name) and all(np.array_equal(x, y) for x, y in arrays)


# --- what lies there -----------------------------------------------------------------------------------


def test_official_splits() -> None:
    sizes = {split: len(official_split(split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 1201, "val": 312, "test": 100}
    everything = [name for split in sizes for name in official_split(split)]
    assert len(set(everything)) == 1613
    assert {TRAIN, VAL, TEST} <= set(everything)
    spaces = [{name[:9] for name in official_split(split)} for split in sizes]
    assert not spaces[0] & spaces[1]  # rescans of one room stay on one side
    assert not (spaces[0] | spaces[1]) & spaces[2]


def test_names_are_the_official_ones_that_lie_there(whole: Path) -> None:
    source = opened(whole)
    assert source.names("train") == (TRAIN,)
    assert source.names("val") == (VAL,)
    assert source.names("test") == (TEST,)
    assert source.frame_count(TRAIN) == 4
    with pytest.raises(DataError, match="expected one of the splits train, val, test, found 'all'"):
        source.names("all")
    assert detect_source(whole) == "scannet"


@pytest.mark.parametrize("folder", ["scannet_frames_25k", "frames_25k", "tasks/scannet_frames_25k"])
def test_frames_are_found_where_people_lay_them(root: Path, folder: str) -> None:
    (root / "tasks").mkdir()
    (root / "scannet_frames_25k").rename(root / folder)
    assert opened(root).frame_count(TRAIN) == 4


def test_constructing_reads_nothing_and_the_registry_knows_it(tmp_path: Path) -> None:
    source = open_source(ScanNetData(path=str(tmp_path / "none")))
    assert isinstance(source, ScanNet)
    with pytest.raises(DataError, match="found nothing there; check the path"):
        source.names("train")
    problems = ScanNet(ScanNetData(path=str(tmp_path))).findings
    with pytest.raises(DataError, match=r"found .*; check the path"):
        problems()


def test_one_level_too_deep_is_told(whole: Path) -> None:
    with pytest.raises(DataError, match=f"found scans in the folder itself; give its parent folder, {whole}"):
        opened(whole / "scans").names("train")
    with pytest.raises(DataError, match="found one scan; lay it in PATH/scans/"):
        opened(whole / "scans" / TRAIN).names("train")


def test_nothing_usable_is_told_with_what_lacks(root: Path) -> None:
    shutil.rmtree(root / "scannet_frames_25k")
    shutil.rmtree(root / "scannet_frames_test")
    with pytest.raises(DataError, match="found 3 scans, 3 without frames; download what is missing"):
        opened(root).names("train")
    with pytest.raises(DataError, match=f"expected scan '{TRAIN}' .* found it without frames"):
        opened(root).scene(TRAIN)
    with pytest.raises(DataError, match="found no such scan"):
        opened(root).scene("scene0001_00")


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda f: (f / "pose" / "000100.txt").unlink(), 3),
        (lambda f: (f / "color" / "000100.jpg").unlink(), 3),
        (
            lambda f: [shutil.copy(f / p / f"000000.{e}", f / p / f"000500.{e}") for p, e in layouts_parts()],
            5,
        ),
    ],
)
def test_frames_that_come_or_go_are_noticed(root: Path, change: Any, count: int) -> None:
    assert opened(root).frame_count(TRAIN) == 4
    change(root / "scannet_frames_25k" / TRAIN)
    assert opened(root).frame_count(TRAIN) == count


def layouts_parts() -> tuple[tuple[str, str], ...]:
    return (("color", "jpg"), ("depth", "png"), ("pose", "txt"))


def test_scans_that_come_or_go_are_noticed(root: Path) -> None:
    assert opened(root).names("train") == (TRAIN,)
    write_scan(root, "scene0000_01")
    assert opened(root).names("train") == (TRAIN,)  # without frames
    write_frames(root, "scene0000_01", count=1)
    assert opened(root).names("train") == (TRAIN, "scene0000_01")
    (root / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.ply").unlink()
    assert opened(root).names("train") == ("scene0000_01",)


def test_a_mesh_that_was_still_empty_is_noticed_when_it_has_grown(root: Path) -> None:
    mesh = root / "scans" / VAL / f"{VAL}_vh_clean_2.ply"
    data = mesh.read_bytes()
    mesh.write_bytes(b"")
    assert opened(root).names("val") == ()
    mesh.write_bytes(data)
    assert opened(root).names("val") == (VAL,)


def test_the_second_opening_looks_at_no_scan(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(root).frame_count(TRAIN)
    monkeypatch.setattr(scannet_layout, "_look", None)
    assert opened(root).frame_count(TRAIN) == first
    assert not [path for path in root.rglob("*") if "index" in path.name]


# --- clouds and frames ---------------------------------------------------------------------------------


def test_the_cloud_is_the_mesh(whole: Path) -> None:
    scene = opened(whole).scene(TRAIN)
    vertex = PlyData.read(str(whole / "scans" / TRAIN / f"{TRAIN}_vh_clean_2.ply"))["vertex"]
    assert np.array_equal(scene.points_world, np.stack([vertex[axis] for axis in "xyz"], 1))
    assert scene.rgb is not None
    assert np.array_equal(scene.rgb, np.stack([vertex[c] for c in ("red", "green", "blue")], 1))
    assert scene.up_world.tolist() == [0, 0, 1]


def test_frames_at_their_own_size(whole: Path) -> None:
    scene = opened(whole, image_size=None).scene(TRAIN)
    assert scene.frames.names == ("000000", "000100", "000200", "000300")
    folder = whole / "scannet_frames_25k" / TRAIN
    for frame, (pose, _, depth_mm, _) in zip(scene.frames, layouts.views(4), strict=True):
        assert np.array_equal(frame.image, np.array(Image.open(folder / "color" / f"{frame.name}.jpg")))
        assert np.allclose(frame.intrinsics, layouts.COLOR_INTRINSICS)
        assert np.allclose(frame.cam_from_world, pose, atol=1e-9)
        assert frame.depth_m is not None
        assert set(np.unique(frame.depth_m)) <= {0.0, *(np.unique(depth_mm).astype(np.float32) / 1000)}


@pytest.mark.parametrize("size", [None, (30, 36)])
def test_an_image_alone_is_that_of_the_frame(whole: Path, size: tuple[int, int] | None) -> None:
    frames = opened(whole, image_size=size).scene(TRAIN).frames
    for frame in frames:
        np.testing.assert_array_equal(frames.image(frame.name), frame.image)


def test_resized_frames_show_the_same_rays(whole: Path) -> None:
    frame = opened(whole, image_size=(30, 36)).scene(TRAIN).frames[1]
    assert frame.image.shape == (30, 36, 3)
    corners = np.array([[-0.5, -0.5, 1], [127.5, 95.5, 1]])  # of the area of the colour image
    resized = np.array([[-0.5, -0.5, 1], [35.5, 29.5, 1]])
    rays = [
        np.linalg.solve(k, p.T) for k, p in ((layouts.COLOR_INTRINSICS, corners), (frame.intrinsics, resized))
    ]
    assert np.allclose(*rays)
    pose = layouts.camera_path(4)[1]
    _, depth_m, _ = layouts.cast(pose, frame.intrinsics, (30, 36))
    assert frame.depth_m is not None
    seen = frame.depth_m > 0
    assert seen.mean() > 0.85  # the depth camera sees a little less
    assert np.mean(np.abs(frame.depth_m - depth_m)[seen] < 0.08) > 0.95
    assert np.median(np.abs(frame.depth_m - depth_m)[seen]) < 0.02


@pytest.mark.parametrize("frames", ["25k", "sens"])
def test_labels_of_pixels_and_points_agree(tmp_path: Path, frames: str) -> None:
    write_scan(tmp_path)
    write_frames(tmp_path)
    write_sens(tmp_path, count=4, repeat=100)
    source = opened(tmp_path, frames=frames, image_size=None)
    scene = source.scene(TRAIN)
    assert scene.frames.names == ("000000", "000100", "000200", "000300")
    pairs = pair_points(scene.points_world, scene.frames, PairingConfig())
    truth = source.truth.scene(TRAIN)
    assert truth is not None
    row, column = pairs.rowcol()
    labels = []
    for index, name in enumerate(scene.frames.names):
        of_frame, part = source.truth.frame(TRAIN, name), pairs.of_frame(index)
        assert of_frame is not None
        labels.append(of_frame.labels[row[part], column[part]])
    of_points, of_pixels = truth.labels[pairs.point_index], np.concatenate(labels)
    assert np.mean(of_points == of_pixels) > 0.99
    assert set(np.unique(of_points)) == {0, 1, 12, IGNORE}
    seen = coverage(pairs, 4, len(scene.points_world))
    assert seen.share_seen > 0.7
    assert seen.points_per_frame.min() > 1000


def test_both_kinds_of_frames_are_alike(tmp_path: Path) -> None:
    write_scan(tmp_path)
    write_frames(tmp_path, lost=[1])
    write_sens(tmp_path, count=4, repeat=100, lost=[100])
    exported = opened(tmp_path).scene(TRAIN).frames
    recorded = opened(tmp_path, frames="sens").scene(TRAIN).frames
    assert exported.names == recorded.names == ("000000", "000200", "000300")
    for a, b in zip(exported, recorded, strict=True):
        assert np.array_equal(a.image, b.image)
        assert a.depth_m is not None
        assert np.array_equal(a.depth_m, b.depth_m)
        assert np.allclose(a.cam_from_world, b.cam_from_world, atol=1e-6)  # float32 in the recording
        assert np.allclose(a.intrinsics, b.intrinsics, atol=1e-5)
    assert opened(tmp_path, frames="sens", sens_stride=50).frame_count(TRAIN) == 7


def test_recordings_are_taken_where_there_are_no_exported_frames(tmp_path: Path) -> None:
    write_scan(tmp_path)
    write_sens(tmp_path, count=2, repeat=2)
    source = opened(tmp_path, sens_stride=2)
    assert source.names("train") == (TRAIN,)
    assert source.scene(TRAIN).frames.names == ("000000", "000002")
    assert source.truth.frame(TRAIN, "000000") is None
    with pytest.raises(DataError, match="1 without frames"):
        opened(tmp_path, frames="25k").names("train")


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_lost_frames_are_left_out_and_counted(root: Path, value: float) -> None:
    pose = root / "scannet_frames_25k" / TRAIN / "pose" / "000100.txt"
    np.savetxt(pose.with_suffix(".new"), np.full((4, 4), value))
    pose.with_suffix(".new").rename(pose)
    source = opened(root)
    assert source.frame_count(TRAIN) == 3
    assert source.scene(TRAIN).frames.names == ("000000", "000200", "000300")
    findings = source.findings()
    assert findings.counts["lost_frames"] == 1
    assert any("1 frames without a finite pose" in p.what and "000100" in p.what for p in findings.problems)


def test_poses_that_are_not_rigid_are_an_error_until_mended(root: Path) -> None:
    folder = root / "scannet_frames_25k" / TRAIN / "pose"
    good = (folder / "000100.txt").read_text()
    (folder / "000100.txt").unlink()
    np.savetxt(folder / "000100.txt", np.diag([2.0, 2, 2, 1]))
    source = opened(root)
    with pytest.raises(DataError, match=r"rigid 4×4 transform .*000100.txt, found one that is off by 3;"):
        source.scene(TRAIN)
    (problem,) = [p for p in source.findings().problems if p.severity == "error"]
    assert f"{TRAIN}/000100" in problem.what
    (folder / "000100.txt").write_text(good)  # in place: the folder does not tell
    assert len(opened(root).scene(TRAIN).frames) == 4


def test_a_frame_is_checked_when_it_is_read(root: Path) -> None:
    scene = opened(root).scene(TRAIN)
    folder = root / "scannet_frames_25k" / TRAIN
    np.savetxt(folder / "pose" / "000100.txt", layouts.LOST)
    with pytest.raises(DataError, match="rigid"):
        scene.frames[1]
    color = (folder / "color" / "000200.jpg").read_bytes()
    (folder / "color" / "000200.jpg").write_bytes(color[: len(color) // 2])
    with pytest.raises(DataError, match="truncated or damaged"):
        scene.frames[2]


def test_axis_alignment_moves_cloud_and_cameras_alike(whole: Path) -> None:
    plain, aligned = opened(whole).scene(TRAIN), opened(whole, axis_align=True).scene(TRAIN)
    matrix = layouts.ALIGNMENT
    expected = plain.points_world.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    assert np.allclose(aligned.points_world, expected, atol=1e-5)
    for a, b in zip(plain.frames, aligned.frames, strict=True):
        seen = [
            geometry.project(
                torch.from_numpy(p).double(), *(torch.from_numpy(m) for m in (f.intrinsics, f.cam_from_world))
            )
            for p, f in ((plain.points_world, a), (aligned.points_world, b))
        ]
        assert torch.allclose(seen[0][0], seen[1][0], atol=1e-3, equal_nan=True)
        assert torch.allclose(seen[0][1], seen[1][1], atol=1e-5)
    assert np.array_equal(opened(whole, axis_align=True).scene(TEST).points_world, plain.points_world)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axisAlignment = 1 2 3", "16 numbers"),
        ("axisAlignment = a b", "16 numbers"),
        ("axisAlignment = " + "2 " * 16, "rigid"),
        ("axisAlignment = " + "nan " * 16, "rigid"),
    ],
)
def test_bad_axis_alignment(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_axis_alignment(tmp_path / "x.txt")


def test_intrinsics_of_the_camera_fit_images_that_were_scaled_down(root: Path) -> None:
    folder = root / "scannet_frames_25k" / TRAIN
    own = opened(root).scene(TRAIN).frames[0].intrinsics
    to_camera = np.array(
        [[1296 / 128, 0, (1296 / 128 - 1) / 2], [0, 968 / 96, (968 / 96 - 1) / 2], [0, 0, 1]]
    )
    np.savetxt(folder / "intrinsics_color.txt", layouts.matrix4(to_camera @ layouts.COLOR_INTRINSICS))
    assert np.allclose(opened(root).scene(TRAIN).frames[0].intrinsics, own)
    np.savetxt(folder / "intrinsics_color.txt", np.diag([5.0, 5.0, 1, 1]))
    with pytest.raises(
        DataError, match=r"intrinsics of images of 128 × 96 .*; take images and intrinsics of one export"
    ):
        opened(root).scene(TRAIN).frames[0]


# --- findings ------------------------------------------------------------------------------------------


def test_findings_of_a_whole_folder_name_what_is_absent(whole: Path) -> None:
    findings = opened(whole).findings()
    assert findings.counts == {
        "train_scans": 1,
        "val_scans": 1,
        "test_scans": 1,
        "lost_frames": 0,
        "incomplete_frames": 0,
    }
    assert [p.severity for p in findings.problems] == ["warning"] * 3
    assert findings.problems[0].what.startswith("expected the 1,201 scans of train, found 1; absent: scene")


def test_findings_of_a_folder_with_faults(root: Path) -> None:
    frames = root / "scannet_frames_25k"
    (root / "scans" / "scene0000_01").mkdir()
    write_frames(root, "scene0000_02", count=1)
    write_frames(root, "scene9999_00", count=1)
    (frames / TRAIN / "color" / "000000.jpg").write_bytes(b"")
    (frames / TRAIN / "depth" / "000100.png").unlink()
    (frames / VAL / "intrinsics_depth.txt").unlink()
    (root / "scans" / VAL / f"{VAL}_vh_clean_2.labels.ply").unlink()
    (root / "scans" / VAL / f"{VAL}.txt").unlink()
    findings = opened(root, axis_align=True).findings()
    text = "\n".join(f"{p.severity}: {p.what}" for p in findings.problems)
    for expected in (
        "warning: 1 scans without mesh and frames are left out: scene0000_01",
        "warning: 2 scans without mesh are left out: scene0000_02, scene9999_00",
        "warning: 1 scans are in no official split and are not used: scene9999_00",
        f"warning: 1 frames lack colour, depth or pose ({TRAIN}/000100)",
        f"warning: 1 of 1 val scans cannot be evaluated without <id>_vh_clean_2.labels.ply: {VAL}",
        f"error: 1 scans without intrinsics_color.txt or intrinsics_depth.txt: {VAL}",
        f"error: 1 scans cannot be axis-aligned without <id>.txt: {VAL}",
    ):
        assert expected in text
    assert findings.doubtful == {TRAIN: ("000000",)}


def test_findings_look_at_the_headers_of_recordings(tmp_path: Path) -> None:
    write_scan(tmp_path)
    path = write_sens(tmp_path, count=1)
    assert not [p for p in opened(tmp_path).findings().problems if p.severity == "error"]
    path.write_bytes(path.read_bytes()[:100])
    (problem,) = [p for p in opened(tmp_path).findings().problems if p.severity == "error"]
    assert (problem.where, problem.mend) == (TRAIN, "download it again")


# --- several readers -----------------------------------------------------------------------------------


def test_a_pickled_source_is_small_and_alike(whole: Path) -> None:
    source = opened(whole)
    source.names("train")
    data = pickle.dumps(source)
    assert len(data) < 2000
    assert pickle.loads(data).names("train") == source.names("train")  # noqa: S301


def digests(source: ScanNet, name: str, folder: str) -> list[tuple[str, int, float]]:
    os.environ["SCENELIFT_INDEX"] = folder
    scene = source.scene(name)
    rows = [(f.name, int(f.image.sum(dtype=np.int64)), float(f.cam_from_world.sum())) for f in scene.frames]
    return [*rows, ("cloud", len(scene.points_world), float(scene.points_world.sum()))]


@pytest.mark.slow
def test_two_processes_read_what_one_reads(whole: Path, tmp_path: Path) -> None:
    source, index = opened(whole), str(tmp_path / "index")
    names = [*source.names("train"), *source.names("val"), *source.names("test")]
    expected = [digests(source, name, index) for name in names]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(digests, [source] * 3, names, [index] * 3))
    assert found == expected


@pytest.mark.parametrize("frames", ["25k", "sens"])
def test_threads_read_frames_of_one_scene_at_once(tmp_path: Path, frames: str) -> None:
    write_scan(tmp_path)
    write_frames(tmp_path)
    write_sens(tmp_path, count=4, repeat=100)
    scene = opened(tmp_path, frames=frames).scene(TRAIN)
    alone = list(scene.frames)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(scene.frames.__getitem__, [0, 1, 2, 3] * 4))
    assert all(same(a, alone[number % 4]) for number, a in enumerate(together))
