"""Which scans of ScanNet lie in a folder, and which of their files and frames.

::

    PATH/scans/<id>/<id>_vh_clean_2.ply ...            and scans_test/<id>/
    PATH/scannet_frames_25k/<id>/color/NNNNNN.jpg ...  or frames_25k/; for test scans scannet_frames_test/

The frames' folders may also lie in ``PATH/tasks/``, where ScanNet's download script leaves the archives. What
a look at a scan finds is kept in the index (`scenelift.scenes.index`); a look lists its folders and reads its
pose files, nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from scenelift import geometry
from scenelift.errors import DataError
from scenelift.scenes.folders import natural_key, some
from scenelift.scenes.index import remembered
from scenelift.scenes.matrices import read_pose
from scenelift.scenes.rgbd import RIGID_TOLERANCE
from scenelift.types import F64

SPLITS = ("train", "val", "test")
MESH, LABELS, INFO, SENS = "_vh_clean_2.ply", "_vh_clean_2.labels.ply", ".txt", ".sens"
SEGMENTS, AGGREGATION = "_vh_clean_2.0.010000.segs.json", ".aggregation.json"

SCAN_FOLDERS = ("scans", "scans_test")
FRAME_FOLDERS = ("scannet_frames_25k", "frames_25k", "scannet_frames_test", "frames_test")
COLOR, DEPTH, POSE, LABEL = "color", "depth", "pose", "label"
PARTS = {COLOR: ".jpg", DEPTH: ".png", POSE: ".txt"}
"""What a frame is made of: folder and ending."""

FrameChoice = Literal["auto", "25k", "sens"]
"""``data.frames``."""

_KIND = "scannet-1"
_SCAN_ID = re.compile(r"scene\d{4}_\d{2}")
_OWN_FILES = (MESH, SENS, INFO, LABELS, SEGMENTS, AGGREGATION)


@dataclass(frozen=True)
class Scan:
    """One scan as it lies there.

    Attributes:
        id: such as ``scene0000_00``.
        folder: of its mesh; ``None`` if there is none.
        frames_folder: of its exported frames; ``None`` if there is none.
        files: endings of the files in ``folder``, of those that scenelift knows; not the empty ones.
        frames: names of exported frames that are complete and have a finite pose, in order.
        lost: names of those whose pose is NaN or infinite.
        bent: names of those among ``frames`` whose pose is not a rigid motion or cannot be read.
        partial: names of those that lack colour, depth or pose.
        empty: names of those among ``frames`` whose colour or depth is a file of 0 bytes.
    """

    id: str
    folder: Path | None
    frames_folder: Path | None
    files: frozenset[str]
    frames: tuple[str, ...]
    lost: tuple[str, ...]
    bent: tuple[str, ...]
    partial: tuple[str, ...]
    empty: tuple[str, ...]

    def file(self, ending: str) -> Path:
        """Path of one of its own files, whether it is there or not."""
        return (self.folder or Path(self.id)) / f"{self.id}{ending}"

    def frame_file(self, part: str, frame: str) -> Path:
        """Path of colour, depth, pose or label of an exported frame, whether it is there or not."""
        return (self.frames_folder or Path(self.id)) / part / f"{frame}{PARTS.get(part, '.png')}"

    def uses_sens(self, choice: FrameChoice) -> bool:
        """Whether frames come from its recording, if ``data.frames`` is this."""
        if choice == "auto":
            return not self.frames and SENS in self.files
        return choice == "sens"

    def lacks(self, choice: FrameChoice) -> str:
        """What it lacks to be used: ``"mesh and frames"``, ``"mesh"``, ``"frames"`` or nothing."""
        has_frames = SENS in self.files if self.uses_sens(choice) else bool(self.frames)
        missing = [*(["mesh"] if MESH not in self.files else []), *([] if has_frames else ["frames"])]
        return " and ".join(missing)


@lru_cache(maxsize=len(SPLITS))
def official_split(split: str) -> tuple[str, ...]:
    """The scans of ``"train"`` (1,201), ``"val"`` (312) or ``"test"`` (100), as ScanNet v2 lists them.

    From https://github.com/ScanNet/ScanNet/tree/master/Tasks/Benchmark. Raises `DataError` for other names.
    """
    if split not in SPLITS:
        raise DataError(
            f"expected one of the splits {', '.join(SPLITS)}, found {split!r}; choose one of them"
        )
    text = resources.files("scenelift.scenes").joinpath(f"data/scannetv2_{split}.txt").read_text("utf-8")
    return tuple(text.split())


def find_scans(path: Path) -> dict[str, Scan]:
    """All scans below a ScanNet folder, by id, in order.

    Raises:
        DataError: no such folder, or nothing of ScanNet in it.
    """
    scan_folders = _by_id(path, SCAN_FOLDERS)
    frame_folders = _by_id(path, FRAME_FOLDERS) | _by_id(path / "tasks", FRAME_FOLDERS)
    ids = sorted(scan_folders.keys() | frame_folders.keys())
    if not ids:
        raise DataError(_nothing(path))
    parts = {
        scan_id: [
            *(_own_parts(scan_folders[scan_id]) if scan_id in scan_folders else []),
            *([frame_folders[scan_id] / part for part in PARTS] if scan_id in frame_folders else []),
        ]
        for scan_id in ids
    }

    def look(scan_id: str) -> dict[str, Any]:
        return _look(scan_id, scan_folders.get(scan_id), frame_folders.get(scan_id))

    found = remembered(path, _KIND, parts, look)
    return {
        scan_id: _scan(scan_id, scan_folders.get(scan_id), frame_folders.get(scan_id), value)
        for scan_id, value in found.items()
    }


def _own_parts(folder: Path) -> list[Path]:
    """Not the folder alone: a file that was empty when it was first seen may have grown since."""
    return [folder, folder / f"{folder.name}{MESH}", folder / f"{folder.name}{SENS}"]


def _scan(
    scan_id: str, folder: Path | None, frames_folder: Path | None, value: Mapping[str, list[str]]
) -> Scan:
    names = {key: tuple(value[key]) for key in ("frames", "lost", "bent", "partial", "empty")}
    return Scan(scan_id, folder, frames_folder, frozenset(value["files"]), **names)


def _by_id(path: Path, folders: tuple[str, ...]) -> dict[str, Path]:
    """Scan folders by id; of two of one id the one in the folder named first."""
    found: dict[str, Path] = {}
    for folder in folders:
        for name in _names(path / folder):
            if _SCAN_ID.fullmatch(name):
                found.setdefault(name, path / folder / name)
    return found


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(
            f"expected to list the folder {folder}, which cannot be read: {error.strerror or error}; "
            "check that you may read it"
        ) from error


def _nothing(path: Path) -> str:
    expected = f"expected scans/ and scannet_frames_25k/ (or .sens files in the scans) in {path}"
    if not path.is_dir():
        return f"{expected}, found {'a file' if path.exists() else 'nothing'} there; check the path"
    names = sorted(_names(path))
    if any(_SCAN_ID.fullmatch(name) for name in names):
        return (
            f"{expected}, found scans in the folder itself; give its parent folder, {path.resolve().parent}"
        )
    if any(name.startswith("scene") and name.endswith((MESH, SENS)) for name in names):
        return f"{expected}, found one scan; lay it in PATH/scans/ and give PATH"
    return f"{expected}, found {some(names, 5) or 'an empty folder'}; check the path"


# --- a look at one scan --------------------------------------------------------------------------------


def _look(scan_id: str, folder: Path | None, frames_folder: Path | None) -> dict[str, Any]:
    """What the index keeps of a scan: what JSON can hold of `Scan`."""
    sizes = _sizes(folder) if folder else {}
    value: dict[str, Any] = {"files": [end for end in _OWN_FILES if sizes.get(f"{scan_id}{end}", 0) > 0]}
    return value | (_look_at_frames(frames_folder) if frames_folder else _look_at_none())


def _look_at_none() -> dict[str, list[str]]:
    return {key: [] for key in ("frames", "lost", "bent", "partial", "empty")}


def _look_at_frames(folder: Path) -> dict[str, list[str]]:
    sizes = {part: _stems(_sizes(folder / part), ending) for part, ending in PARTS.items()}
    names = sorted(set().union(*sizes.values()), key=natural_key)
    complete = [name for name in names if all(name in sizes[part] for part in PARTS)]
    poses = {name: _pose(folder / POSE / f"{name}.txt") for name in complete}
    lost = [name for name, pose in poses.items() if pose is not None and not np.isfinite(pose).all()]
    frames = [name for name in complete if name not in set(lost)]
    return {
        "frames": frames,
        "lost": lost,
        "bent": _bent({name: poses[name] for name in frames}),
        "partial": [name for name in names if name not in poses],
        "empty": [name for name in frames if not (sizes[COLOR][name] and sizes[DEPTH][name])],
    }


def _pose(path: Path) -> F64 | None:
    """The matrix, or ``None`` where the file holds none."""
    try:
        return read_pose(path)
    except DataError:
        return None


def _bent(poses: Mapping[str, F64 | None]) -> list[str]:
    """Names of the poses that are not rigid motions."""
    whole = [pose for pose in poses.values() if pose is not None]
    if len(whole) == len(poses) and (not whole or _rigid_error(np.stack(whole)) <= RIGID_TOLERANCE):
        return []  # all at once, which is many times as fast as one by one
    return [name for name, pose in poses.items() if pose is None or _rigid_error(pose) > RIGID_TOLERANCE]


def _rigid_error(pose: F64) -> float:
    return geometry.rigid_error(torch.from_numpy(pose))


def _stems(sizes: Mapping[str, int], ending: str) -> dict[str, int]:
    """Size by name without ending, of the files that are named by a number and have this ending."""
    stems = {name[: -len(ending)]: size for name, size in sizes.items() if name.endswith(ending)}
    return {stem: size for stem, size in stems.items() if stem.isdecimal() and stem.isascii()}


def _sizes(folder: Path) -> dict[str, int]:
    """Size by name of the files in a folder; nothing where it is not there."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise DataError(
            f"expected to list the folder {folder}, which cannot be read: {error.strerror or error}; "
            "check that you may read it"
        ) from error
