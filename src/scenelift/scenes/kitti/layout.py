"""The files of KITTI's benchmarks: which layout a folder has, its drives, and the scans of each split.

::

    object      [training|testing/]velodyne/NNNNNN.bin  image_2/NNNNNN.png  calib/NNNNNN.txt
    odometry    [dataset/]sequences/NN/velodyne/NNNNNN.bin  image_2/NNNNNN.png  calib.txt  labels/NNNNNN.label
    kitti360    data_3d_raw/<drive>/velodyne_points/data/NNNNNNNNNN.bin
                data_2d_raw/<drive>/image_00/data_rect/NNNNNNNNNN.png  calibration/*.txt
                data_2d_semantics/train/<drive>/image_00/semantic/NNNNNNNNNN.png
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scenelift.errors import DataError
from scenelift.files import read_bytes
from scenelift.scenes.index import remembered
from scenelift.scenes.kitti.labels import TRAIN_SEQUENCES, VAL_SEQUENCES
from scenelift.scenes.lidar.layout import IMAGES, by_stem

Kind = Literal["object", "odometry", "kitti360"]
CAMERAS: dict[str, tuple[str, ...]] = {
    "object": ("image_0", "image_1", "image_2", "image_3"),
    "odometry": ("image_0", "image_1", "image_2", "image_3"),
    "kitti360": ("image_00", "image_01"),
}
_INDEX = "kitti-files-1"
_SPLIT_FILE = "2013_05_28_drive_{}_frames.txt"


@dataclass(frozen=True, eq=False)
class Drive:
    """Scans of one recording, which share a place on disk.

    Attributes:
        key: goes before the stem in scene names; empty for object detection.
        clouds: folder of .bin files.
        calib: file, or folder of files.
        images: folder by camera.
        labels: folder of .label files, or ``None``.
        semantics: folder of label images by camera.
        files: for ``clouds``, ``labels``, ``images/<camera>`` and ``semantics/<camera>``: name by stem.
    """

    key: str
    clouds: Path
    calib: Path
    images: Mapping[str, Path]
    labels: Path | None = None
    semantics: Mapping[str, Path] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def parts(self) -> dict[str, tuple[Path, tuple[str, ...]]]:
        """Folders to list and the endings wanted there, by the names of ``files``."""
        parts: dict[str, tuple[Path, tuple[str, ...]]] = {"clouds": (self.clouds, (".bin",))}
        if self.labels is not None:
            parts["labels"] = (self.labels, (".label",))
        parts |= {f"images/{camera}": (folder, IMAGES) for camera, folder in self.images.items()}
        parts |= {f"semantics/{camera}": (folder, (".png",)) for camera, folder in self.semantics.items()}
        return {name: part for name, part in parts.items() if part[0].is_dir()}


@dataclass(frozen=True, eq=False)
class KittiLayout:
    """A data set of KITTI: its kind and its drives in order."""

    folder: Path
    kind: Kind
    drives: tuple[Drive, ...]


def find_kitti(folder: Path) -> KittiLayout:
    """Tell the layout of a folder, and list its files; an index of the listing is kept in the user's cache.

    Raises:
        DataError: none of the layouts, or no scans in it.
    """
    kind, drives = _drives(folder)
    parts = {f"{i}/{name}": part for i, drive in enumerate(drives) for name, part in drive.parts().items()}
    found = remembered(
        folder,
        _INDEX,
        {name: [place] for name, (place, _) in parts.items()},
        lambda name: by_stem(*parts[name]),
    )
    listed = []
    for i, drive in enumerate(drives):
        prefix = f"{i}/"
        files = {name[len(prefix) :]: value for name, value in found.items() if name.startswith(prefix)}
        if files.get("clouds"):
            listed.append(
                Drive(
                    drive.key, drive.clouds, drive.calib, drive.images, drive.labels, drive.semantics, files
                )
            )
    if not listed:
        places = ", ".join(str(drive.clouds) for drive in drives[:2])
        raise DataError(f"expected scans (*.bin) in {places}, found none; unpack the velodyne archive there")
    return KittiLayout(folder, kind, tuple(listed))


def _drives(folder: Path) -> tuple[Kind, list[Drive]]:
    for root in (folder, folder / "dataset"):
        if (root / "sequences").is_dir():
            return "odometry", [_sequence(path.name, path) for path in _folders(root / "sequences")]
    if (folder / "data_3d_raw").is_dir():
        return "kitti360", [_kitti360(folder, path.name) for path in _folders(folder / "data_3d_raw")]
    for root in (folder, folder / "training", folder / "testing"):
        if (root / "velodyne").is_dir():
            if (root / "calib.txt").is_file():
                return "odometry", [_sequence(root.resolve().name, root)]
            images = {camera: root / camera for camera in CAMERAS["object"]}
            return "object", [Drive("", root / "velodyne", root / "calib", images)]
    found = "no such folder" if not folder.is_dir() else "none of them"
    raise DataError(
        f"expected training/velodyne (object detection), sequences (odometry, SemanticKITTI) or data_3d_raw "
        f"(KITTI-360) in {folder}, found {found}; unpack all archives of the benchmark into one folder"
    )


def _sequence(key: str, root: Path) -> Drive:
    images = {camera: root / camera for camera in CAMERAS["odometry"]}
    return Drive(key, root / "velodyne", root / "calib.txt", images, root / "labels")


def _kitti360(root: Path, drive: str) -> Drive:
    match = re.fullmatch(r"2013_05_28_drive_(\d{4})_sync", drive)
    images = {c: root / "data_2d_raw" / drive / c / "data_rect" for c in CAMERAS["kitti360"]}
    semantics = {
        c: root / "data_2d_semantics" / "train" / drive / c / "semantic" for c in CAMERAS["kitti360"]
    }
    clouds = root / "data_3d_raw" / drive / "velodyne_points" / "data"
    return Drive(match[1] if match else drive, clouds, root / "calibration", images, None, semantics)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


# --- splits -------------------------------------------------------------------------------------------


def split_scans(layout: KittiLayout, split: str) -> list[tuple[Drive, str]]:
    """The scans, (drive, stem), of ``"train"`` or ``"val"``.

    Odometry: sequences 00-10 without 08, and 08, as SemanticKITTI has it; the other official sequences are
    its test split and belong to neither. KITTI-360: the frames that its semantics name for the split. Where
    there is no such thing (object detection, other sequences, no semantics) all scans serve both.
    """
    scans = [(drive, stem) for drive in layout.drives for stem in drive.files["clouds"]]
    if layout.kind == "odometry":
        known = {drive.key for drive in layout.drives} & {*TRAIN_SEQUENCES, *VAL_SEQUENCES}
        if len(layout.drives) > 1 and known:
            wanted = TRAIN_SEQUENCES if split == "train" else VAL_SEQUENCES
            return [scan for scan in scans if scan[0].key in wanted]
    if layout.kind == "kitti360":
        path = layout.folder / "data_2d_semantics" / "train" / _SPLIT_FILE.format(split)
        if path.is_file():
            named = _split_frames(path)
            return [(drive, stem) for drive, stem in scans if (drive.key, stem) in named]
    return scans


def _split_frames(path: Path) -> set[tuple[str, str]]:
    """(drive key, stem) of lines ``data_2d_raw/<drive>/image_00/data_rect/<stem>.png ...``."""
    text = read_bytes(path, "a list of frames").decode("utf-8", errors="replace")
    pattern = r"data_2d_raw/2013_05_28_drive_(\d{4})_sync/image_0[01]/data_rect/(\d+)\.png"
    return set(re.findall(pattern, text))
