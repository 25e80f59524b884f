"""Which source reads a folder, told from the names that stand in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scenelift.errors import DataError


def _scannet(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in ("scans", "scannet_frames_25k", "scans_test"))


def _nuscenes(folder: Path) -> bool:
    return any(folder.glob("v1.0-*/ego_pose.json")) and any(folder.glob("v1.0-*/scene.json"))


def _nuimages(folder: Path) -> bool:
    return any(folder.glob("v1.0-*/object_ann.json"))


def _lidar(folder: Path) -> bool:
    return (folder / "calib.json").is_file() and (folder / "lidar").is_dir()


def _kitti(folder: Path) -> bool:
    here = any((folder / name).is_dir() for name in ("velodyne", "data_3d_raw", "data_2d_raw", "sequences"))
    below = ("training/velodyne", "testing/velodyne", "dataset/sequences")
    return here or any((folder / name).is_dir() for name in below)


def _images(folder: Path) -> bool:
    """Images and nothing that would place them: a folder of them, or a train/ and val/."""
    if any((folder / name).exists() for name in ("color", "pose", "transforms.json", "groundtruth.txt")):
        return False
    below = ("train", "val", "images", "images/train", "images/val")
    places = [folder] + [folder / name for name in below if (folder / name).is_dir()]
    names = [
        path.name for place in places for path in place.iterdir() if path.name[0] != "." and path.is_file()
    ]
    pictures = [name for name in names if name.lower().endswith((".png", ".jpg", ".jpeg"))]
    posed = any(name.startswith("frame-") or ".pose." in name for name in names)
    return bool(pictures) and not posed and not (folder / "depth").is_dir()


_TELLTALES: dict[str, Callable[[Path], bool]] = {
    "scannet": _scannet,
    "nuimages": _nuimages,
    "nuscenes": _nuscenes,
    "lidar": _lidar,
    "kitti": _kitti,
    "images": _images,
}


def detect_source(folder: Path) -> str:
    """Name of the source that reads this folder; ``"capture"`` where no other one knows it.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DataError(
            f"expected 'synthetic' or a folder of data at {folder}, found {found}; check the path"
        )
    return next((name for name, fits in _TELLTALES.items() if fits(folder)), "capture")
