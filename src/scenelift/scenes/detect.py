"""Which source reads a folder, told from the names that stand in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scenelift.errors import DataError
from scenelift.scenes.folders import some, visible

_CHILDREN = 20
"""Folders in a folder that are looked at for a hint."""


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


def _capture(folder: Path) -> bool:
    """What `scenelift.scenes.capture.layouts` goes by, or part of it: the check will say what is missing."""
    parts = ("color", "depth", "pose", "image", "rgb", "transforms.json", "rgb.txt", "groundtruth.txt")
    if any((folder / name).exists() for name in parts) or any(folder.glob("*.log")):
        return True
    return any(folder.glob("frame-*.*.*")) or any(folder.glob("seq-*/frame-*.*.*"))


TELLTALES: dict[str, Callable[[Path], bool]] = {
    "scannet": _scannet,
    "nuimages": _nuimages,
    "nuscenes": _nuscenes,
    "lidar": _lidar,
    "kitti": _kitti,
    "images": _images,
    "capture": _capture,
}
"""By source what tells its folders, in the order in which they are tried."""


def detect_source(folder: Path) -> str:
    """Name of the source that reads this folder.

    Raises:
        DataError: there is no such folder, or nothing in it tells; with a word on the folders around it.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DataError(
            f"expected 'synthetic' or a folder of data at {folder}, found {found}; check the path"
        )
    source = _told(folder)
    if source is not None:
        return source
    names = [path.name for path in visible(folder)]
    raise DataError(
        f"expected data in a layout that is known ({', '.join(TELLTALES)}) at {folder}, found "
        f"{some(names, 5) or 'an empty folder'}; {_where_else(folder)}"
    )


def _told(folder: Path) -> str | None:
    return next((name for name, fits in TELLTALES.items() if fits(folder)), None)


def _where_else(folder: Path) -> str:
    """What to do with a folder that nothing tells."""
    above = folder.resolve().parent
    if (source := _told(above)) is not None and source != "images":
        return f"give the folder above it, {above}, which looks like {source}"
    for child in [path for path in visible(folder) if path.is_dir()][:_CHILDREN]:
        if (source := _told(child)) is not None:
            return f"give one of the folders in it, such as {child}, which looks like {source}"
    return "check the path, or name the layout with --set data.source=NAME"
