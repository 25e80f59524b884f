"""Which source reads a folder: each layout is told from the others by the names that stand in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fixtures_capture import room_frames, write_capture
from layouts_nuimages import write_images, write_nuimages
from layouts_nuscenes import write_nuscenes
from scenelift.errors import DataError
from scenelift.scenes.detect import detect_source


def touch(folder: Path, *names: str) -> Path:
    """Empty files below a folder; a name that ends in / is a folder."""
    for name in names:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return folder


LAYOUTS = {
    "scannet": [
        ["scans/scene0000_00/scene0000_00_vh_clean_2.ply"],
        ["scannet_frames_25k/scene0000_00/color/000000.jpg"],
        ["scans_test/scene0707_00/scene0707_00.sens", "scannet_frames_test/"],
    ],
    "nuscenes": [
        [
            "v1.0-trainval/scene.json",
            "v1.0-trainval/ego_pose.json",
            "samples/",
            "sweeps/",
            "maps/",
            "lidarseg/",
        ],
        ["v1.0-mini/scene.json", "v1.0-mini/ego_pose.json", "samples/CAM_FRONT/a.jpg"],
    ],
    "nuimages": [
        ["v1.0-train/object_ann.json", "v1.0-train/ego_pose.json", "samples/CAM_FRONT/a.jpg"],
        ["v1.0-mini/object_ann.json", "v1.0-mini/ego_pose.json"],
    ],
    "kitti": [
        ["sequences/00/velodyne/000000.bin", "sequences/00/calib.txt", "sequences/00/image_2/000000.png"],
        ["dataset/sequences/00/velodyne/000000.bin"],
        ["training/velodyne/000000.bin", "training/image_2/000000.png", "training/calib/000000.txt"],
        ["data_3d_raw/", "data_2d_raw/", "calibration/"],
    ],
    "lidar": [
        ["calib.json", "lidar/0.bin", "cameras/front/0.jpg"],
        ["calib.json", "lidar/0.pcd", "front/0.png"],
    ],
    "images": [
        ["a.jpg", "b.jpg"],
        ["a.PNG"],
        ["train/a.png", "val/b.png", "trainannot/a.png", "valannot/b.png", "classes.json"],
        ["train/a.jpeg", "labels/train/a.png", "classes.json"],
        ["images/train/a.jpg", "images/val/b.jpg", "labels/train/a.png"],
        ["images/a.jpg", "labels/a.png", "classes.json"],
        ["val/a.jpg"],
    ],
    "capture": [
        ["color/0.jpg", "depth/0.png", "pose/0.txt", "intrinsic/intrinsic_color.txt"],
        ["frame-000000.color.png", "frame-000000.depth.png", "frame-000000.pose.txt"],
        ["seq-01/frame-000000.color.png", "seq-01/frame-000000.pose.txt"],
        ["rgb/1.0.png", "depth/1.0.png", "rgb.txt", "depth.txt", "groundtruth.txt"],
        ["transforms.json", "images/0001.jpg"],
        ["transforms.json", "0001.jpg"],
        ["color/0.jpg"],
        ["image/0.jpg", "depth/0.png", "scene/trajectory.log"],
    ],
}


@pytest.mark.parametrize(
    ("source", "names"), [(source, names) for source, layouts in LAYOUTS.items() for names in layouts]
)
def test_layouts(tmp_path, source, names):
    assert detect_source(touch(tmp_path, *names)) == source


def test_true_trees(tmp_path):
    assert detect_source(write_capture(tmp_path / "capture", room_frames(2))) == "capture"
    assert detect_source(write_capture(tmp_path / "seven", room_frames(2), naming="7scenes")) == "capture"
    assert detect_source(write_nuimages(tmp_path / "nuimages", "v1.0-mini", 1)) == "nuimages"
    assert detect_source(write_images(tmp_path / "splits")) == "images"
    assert detect_source(write_images(tmp_path / "plain", {"": 2}, None)) == "images"


def test_what_stands_beside_does_not_matter(tmp_path):
    """Pictures in the folder of a data set, and files a system or an editor leaves behind."""
    for source in ("scannet", "nuscenes", "nuimages", "kitti", "lidar"):
        folder = touch(tmp_path / source, *LAYOUTS[source][0], "overview.png", "README.md", ".DS_Store")
        assert detect_source(folder) == source
    capture = write_capture(tmp_path / "room", room_frames(2))
    Image.new("RGB", (4, 4)).save(capture / "preview.png")
    assert detect_source(capture) == "capture"
    with pytest.raises(DataError, match=r"found notes\.txt; check the path"):
        detect_source(touch(tmp_path / "hidden" / "folder", "._a.jpg", ".b.png", "notes.txt"))


def test_a_folder_above_or_below(tmp_path):
    write_nuscenes(tmp_path / "sets" / "nuscenes", samples=1)
    with pytest.raises(
        DataError, match=r"found .*; give one of the folders in it, such as .*nuscenes, which"
    ):
        detect_source(tmp_path / "sets")
    with pytest.raises(DataError, match=r"; give the folder above it, .*nuscenes, which looks like nuscenes"):
        detect_source(tmp_path / "sets" / "nuscenes" / "v1.0-mini")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found an empty folder; check the path, or name the layout"):
        detect_source(tmp_path / "empty")


def test_where_there_is_no_folder(tmp_path):
    (tmp_path / "file.png").touch()
    for path, found in ((tmp_path / "none", "nothing"), (tmp_path / "file.png", "a file")):
        with pytest.raises(DataError, match=f"found {found}; check the path"):
            detect_source(path)
