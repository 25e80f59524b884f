from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fixtures_capture import INTRINSICS, SEVEN_SCENES, SHAPE, camera_path, cast, open_capture, room_frames
from layouts_capture import WRITERS, transforms_tree, write_redwood, write_seven_scenes, write_transforms
from scenelift.config import PairingConfig, SyntheticData
from scenelift.errors import DataError, OutputError
from scenelift.files import write_ply_points
from scenelift.importing import import_capture, millimetres
from scenelift.pairing import pair_points
from scenelift.progress import silent
from scenelift.scenes import Findings
from scenelift.scenes.capture import Capture
from scenelift.scenes.rgbd import scale_intrinsics
from scenelift.scenes.synthetic import SyntheticRooms
from scenelift.types import F32, Frame, Frames, Scene


class Scenes:
    """A source of scenes in memory."""

    classes = None
    truth = None

    def __init__(self, frames: dict[str, list[Frame]], points_world: F32 | None = None) -> None:
        self._frames = frames
        self._points = np.zeros((0, 3), np.float32) if points_world is None else points_world
        self.read: list[str] = []
        self.broken: str | None = None

    def names(self, split: str) -> tuple[str, ...]:
        return tuple(self._frames)

    def frame_count(self, name: str) -> int:
        return len(self._frames[name])

    def scene(self, name: str) -> Scene:
        frames = {frame.name: frame for frame in self._frames[name]}

        def read(frame: str) -> Frame:
            if f"{name}/{frame}" == self.broken:
                raise DataError("expected a frame, found half; export it again")
            self.read.append(f"{name}/{frame}")
            return frames[frame]

        return Scene(name, self._points, None, Frames(tuple(frames), read))

    def findings(self) -> Findings:
        return Findings()


def expect_equal(have: Scene, want: Scene, depth_m: float = 0.0005001) -> None:
    assert np.array_equal(have.points_world, want.points_world)
    assert len(have.frames) == len(want.frames)
    for new, old in zip(have.frames, want.frames, strict=True):
        assert np.array_equal(new.image, old.image)
        assert np.abs(new.intrinsics - old.intrinsics).max() < 1e-9
        assert np.abs(new.cam_from_world - old.cam_from_world).max() < 1e-12
        assert (new.depth_m is None) == (old.depth_m is None)
        if new.depth_m is not None:
            assert np.abs(new.depth_m - old.depth_m).max() <= depth_m


def expect_equal_pairs(have: Scene, want: Scene) -> None:
    new, old = (pair_points(scene.points_world, scene.frames, PairingConfig()) for scene in (have, want))
    assert np.array_equal(new.frame_index, old.frame_index)
    assert np.array_equal(new.point_index, old.point_index)
    assert np.abs(new.pixel_uv - old.pixel_uv).max() < 1e-4


def nothing_temporary(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if ".scenelift-tmp" in path.name]


@pytest.mark.parametrize("layout", WRITERS)
def test_the_import_of_every_layout_equals_it(tmp_path, layout):
    source = open_capture(WRITERS[layout](tmp_path / "room", room_frames(8)), cloud_voxel_m=0.05)
    (folder,) = import_capture(source, ["room"], tmp_path / "out" / "room", silent)
    assert nothing_temporary(tmp_path)
    have, want = open_capture(folder).scene("room"), source.scene("room")
    expect_equal(have, want)
    if layout == "tum":
        # fifths of a millimetre are rounded: a point on the edge of the depth test may differ
        new, old = (pair_points(s.points_world, s.frames, PairingConfig()) for s in (have, want))
        keys = [set(zip(p.frame_index.tolist(), p.point_index.tolist(), strict=True)) for p in (new, old)]
        assert len(keys[0] ^ keys[1]) < 0.001 * len(keys[1])
    else:
        expect_equal_pairs(have, want)
    again = import_capture(open_capture(folder), ["room"], tmp_path / "again" / "room", silent)[0]
    for path in (path for path in folder.rglob("*") if path.parent.name in ("color", "depth")):
        assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_original_files_are_copied_where_pixels_are_the_same(tmp_path):
    source_folder = write_seven_scenes(tmp_path / "room", room_frames(2))
    Image.fromarray(room_frames(2)[1].image).save(tmp_path / "1.jpg")
    (source_folder / "frame-000001.color.png").unlink()
    shutil.move(tmp_path / "1.jpg", source_folder / "frame-000001.color.jpg")
    source = open_capture(source_folder)
    (folder,) = import_capture(source, ["room"], tmp_path / "out", silent)
    assert sorted(path.name for path in (folder / "color").iterdir()) == ["000000.png", "000001.jpg"]
    original = source_folder / "frame-000001.color.jpg"
    assert (folder / "color" / "000001.jpg").read_bytes() == original.read_bytes()
    small = open_capture(source_folder, max_width=32)
    (folder,) = import_capture(small, ["room"], tmp_path / "small", silent)
    assert sorted(path.name for path in (folder / "color").iterdir()) == ["000000.png", "000001.png"]
    expect_equal(open_capture(folder).scene("small"), small.scene("room"))


def test_cameras_of_each_frame_and_lens_distortion(tmp_path):
    """References: the room cast through the lens by OpenCV's own model, and as a pinhole sees it."""
    import cv2

    k1, k2, p1, p2 = 0.15, -0.02, 0.003, -0.002
    frames = []
    for index, pose in enumerate(camera_path(3)):
        k = INTRINSICS + index * np.array([[1.0, 0, 0.25], [0, 1.0, 0], [0, 0, 0]])
        image, depth_m, _ = cast(pose, k)
        frames.append(Frame("room", str(index), image, k, pose, depth_m))
    bent = []
    fine = (SHAPE[0] * 4, SHAPE[1] * 4)
    for frame in frames:
        row, column = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(np.float64)
        pixels = np.stack([column, row], -1).reshape(-1, 1, 2)
        fine_k = scale_intrinsics(frame.intrinsics, SHAPE, fine)
        ideal = cv2.undistortPoints(pixels, frame.intrinsics, np.array([k1, k2, p1, p2]), P=fine_k)
        u, v = np.clip(np.round(ideal[:, 0]).astype(int), 0, [fine[1] - 1, fine[0] - 1]).T
        image, depth_m, _ = cast(frame.cam_from_world, fine_k, fine)
        image, depth_m = image[v, u].reshape(*SHAPE, 3), depth_m[v, u].reshape(SHAPE)
        bent.append(replace(frame, image=image, depth_m=depth_m))
    folder = write_transforms(tmp_path / "room", bent, per_frame=True)
    tree = transforms_tree(bent, per_frame=True) | {"k1": k1, "k2": k2, "p1": p1, "p2": p2}
    (folder / "transforms.json").write_text(json.dumps(tree))
    source = open_capture(folder)
    for have, want, raw in zip(source.frames(), frames, bent, strict=True):
        error = np.abs(have.depth_m - want.depth_m)[have.depth_m > 0]
        assert (have.depth_m > 0).mean() > 0.85
        assert np.percentile(error, 90) < 0.02
        assert np.percentile(np.abs(raw.depth_m - want.depth_m), 90) > 0.04
        assert np.median(np.abs(have.image.astype(int) - want.image)) <= 6
    (imported,) = import_capture(source, ["room"], tmp_path / "out", silent)
    assert sorted(path.name for path in (imported / "intrinsic" / "frames").iterdir()) == [
        "000001.txt",
        "000002.txt",
    ]
    expect_equal(open_capture(imported).scene("out"), source.scene("room"))


def test_rooms_of_another_source(tmp_path):
    source = SyntheticRooms(SyntheticData(train_rooms=2, val_rooms=1, frames_per_room=3, width=64, height=48))
    names = source.names("train")
    folders = import_capture(source, names, tmp_path / "out", silent)
    assert folders == [tmp_path / "out" / name for name in names]
    for name, folder in zip(names, folders, strict=True):
        expect_equal(open_capture(folder).scene(name), source.scene(name))


def test_without_depth_with_a_cloud(tmp_path):
    frames = [replace(frame, depth_m=None) for frame in room_frames(3)]
    source = Scenes({"a": frames}, np.ones((7, 3), np.float32))
    (folder,) = import_capture(source, ["a"], tmp_path / "a", silent)
    expect_equal(open_capture(folder).scene("a"), source.scene("a"))
    with pytest.raises(DataError, match="expected points or depth in scene a"):
        import_capture(Scenes({"a": frames}), ["a"], tmp_path / "b", silent)
    mixed = Scenes({"a": [room_frames(1)[0], frames[1]]}, np.ones((7, 3), np.float32))
    with pytest.raises(DataError, match="depth of every frame or of none in scene a"):
        import_capture(mixed, ["a"], tmp_path / "b", silent)
    with pytest.raises(DataError, match="expected frames in scene a"):
        import_capture(Scenes({"a": []}), ["a"], tmp_path / "b", silent)
    assert not (tmp_path / "b").exists()
    assert nothing_temporary(tmp_path)


def test_without_points_the_cloud_is_fused(tmp_path):
    source = Scenes({"a": room_frames(3)})
    (folder,) = import_capture(source, ["a"], tmp_path / "a", silent)
    assert not (folder / "cloud.ply").exists()
    assert len(open_capture(folder).scene("a").points_world) > 1000


def test_a_stopped_import_goes_on(tmp_path):
    source = Scenes({name: room_frames(3) for name in ("a", "b", "c")})
    source.broken = "b/1"
    out = tmp_path / "out"
    with pytest.raises(DataError, match="found half"):
        import_capture(source, ["a", "b", "c"], out, silent)
    assert [path.name for path in out.iterdir()] == ["a"]
    source.broken = None
    source.read.clear()
    dead = out / ".scenelift-tmp.x.1.2"
    dead.mkdir()
    seen: list[Any] = []

    @contextmanager
    def progress(what: str, total: int, done: int = 0) -> Iterator[Any]:
        seen.append((what, total, done))
        yield seen.append

    import_capture(source, ["a", "b", "c"], out, progress)
    assert seen[0] == ("import", 9, 3)
    assert len(seen) == 1 + 6
    assert {name[0] for name in source.read} == {"b", "c"}
    assert sorted(path.name for path in out.iterdir() if path != dead) == ["a", "b", "c"]
    (out / "c" / "import.json").write_text('{"scene": "c", "frames": []}')
    with pytest.raises(OutputError, match="found c in it; choose another folder"):
        import_capture(source, ["a", "b", "c"], out, silent)


def test_what_a_killed_import_left_is_swept(tmp_path, monkeypatch):
    """A folder of a process that is no more goes; one of a process that lives stays."""
    from scenelift import files

    for pid in (1, 4_000_000):
        (tmp_path / f"{files._TEMP_PREFIX}{files._HOST}.{pid}.00" / "color").mkdir(parents=True)
    import_capture(Scenes({"a": room_frames(2)}), ["a"], tmp_path / "a", silent)
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert left == [f"{files._TEMP_PREFIX}{files._HOST}.1.00"]


def test_what_is_there_is_not_written_over(tmp_path):
    source = Scenes({"a": room_frames(2), "b": room_frames(2)})
    (tmp_path / "out").mkdir()
    import_capture(source, ["a"], tmp_path / "out", silent)  # an empty folder is as good as none
    for names in (["a"], ["a", "b"]):
        with pytest.raises(OutputError, match="expected a new or empty folder, found color"):
            import_capture(source, names, tmp_path / "out", silent)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="a file stands in its place"):
        import_capture(source, ["a"], tmp_path / "file", silent)
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        import_capture(source, ["a"], tmp_path / "file" / "x", silent)
    with pytest.raises(DataError, match="each once"):
        import_capture(source, ["a", "a"], tmp_path / "c", silent)


def test_frames_are_numbered(tmp_path):
    frames = [replace(frame, name=f"cam-{9 - i}") for i, frame in enumerate(room_frames(3))]
    (folder,) = import_capture(Scenes({"a": frames}), ["a"], tmp_path / "a", silent)
    assert json.loads((folder / "import.json").read_text()) == {
        "scene": "a",
        "frames": ["cam-9", "cam-8", "cam-7"],
        "files": ["000000", "000001", "000002"],
    }
    assert open_capture(folder).frames().names == ("000000", "000001", "000002")


def test_depth_beyond_16_bits():
    depth_m = np.array([[0.0, 0.0004, 0.0005, 65.534, 65.535, 1e9, np.inf, np.nan]], np.float32)
    assert millimetres(depth_m).tolist() == [[0, 0, 1, 65534, 0, 0, 0, 0]]


def test_cloud_of_another_format(tmp_path):
    folder = write_redwood(tmp_path / "room", room_frames(2))
    text = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 2\nHEIGHT 1\n"
    (folder / "scan.pcd").write_text(text + "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 2\nDATA ascii\n0 0 1\n1 2 3\n")
    assert open_capture(folder).scene("room").points_world.tolist() == [[0, 0, 1], [1, 2, 3]]
    write_ply_points(folder / "cloud.ply", np.zeros((1, 3), np.float32), None)
    assert len(open_capture(folder).scene("room").points_world) == 1


@pytest.mark.skipif(not SEVEN_SCENES.is_dir(), reason="real frames are absent: ../shared/data/sevenscenes")
def test_seven_scenes(tmp_path):
    source: Capture = open_capture(SEVEN_SCENES, stride=5)
    (folder,) = import_capture(source, [source.name], tmp_path / "sevenscenes", silent)
    have, want = open_capture(folder).scene("sevenscenes"), source.scene("sevenscenes")
    expect_equal(have, want, depth_m=1e-6)
    expect_equal_pairs(have, want)
    for path in (folder / "color").iterdir():
        assert path.read_bytes() == (SEVEN_SCENES / "color" / path.name).read_bytes()
