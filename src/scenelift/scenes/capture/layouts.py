"""How a posed RGB-D folder may be laid out, told from what lies in it; the file-per-pose layouts.

In this order (`LAYOUTS`); ``data.layout`` names one where a folder fits several. ``SEQ`` is any number or
time stamp::

    scannet     color/SEQ.jpg   depth/SEQ.png   pose/SEQ.txt             also what `scenelift import` writes
    7scenes     frame-SEQ.color.png   frame-SEQ.depth.png   frame-SEQ.pose.txt
                (in the folder itself, or in folders seq-01, seq-02, ... of it)
    tum         rgb.txt   depth.txt   groundtruth.txt                    see `scenelift.scenes.capture.tum`
    transforms  transforms.json                                          see ...capture_transforms
    redwood     color/ (image/, rgb/)   depth/   trajectory.log          see ...capture_redwood

For the first two, intrinsics stand in the folder or in its ``intrinsic/`` or ``intrinsics/``, as 3×3 or 4×4
numbers: ``intrinsic_color.txt`` and ``intrinsic_depth.txt`` (or ``intrinsics_*.txt``), or one file for both
cameras, ``intrinsics.txt``, ``intrinsic.txt`` or ``camera-intrinsics.txt``, in pixels of the colour image.
``intrinsic/frames/SEQ.txt`` holds them for a frame whose camera is another one (both cameras').
A folder without depth/ is a capture when it brings a point cloud.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from scenelift.config import CaptureData
from scenelift.errors import DataError
from scenelift.files import safe_name
from scenelift.scenes.capture.files import IMAGE_SUFFIXES, FrameFiles, Layout, Lenses, find_cloud
from scenelift.scenes.capture.redwood import redwood_layout
from scenelift.scenes.capture.transforms import transforms_layout
from scenelift.scenes.capture.tum import tum_layout
from scenelift.scenes.depth_files import DEPTH_SUFFIXES, REFUSED_SUFFIXES, refuse_unknown
from scenelift.scenes.folders import by_stem, natural_key, some, visible

_SEVEN_SCENES = re.compile(r"frame-(\d+)\.(color|depth|pose)\.(?:png|jpg|jpeg|txt)", re.IGNORECASE)
_EXPECTED = (
    "color/, depth/ and pose/ (ScanNet export), frame-000000.color.png ... (7-Scenes), rgb.txt and "
    "groundtruth.txt (TUM), transforms.json (nerfstudio), or color/, depth/ and trajectory.log (Redwood)"
)


def find_layout(folder: Path, config: CaptureData | None = None) -> Layout:
    """Find the frames, intrinsics and cloud of a capture folder; image contents are not looked at.

    Args:
        folder: the capture.
        config: its settings (``layout``, time stamps of TUM); ``None`` = as they are by default.

    Raises:
        DataError: no such folder, no frames, incomplete frames, no intrinsics, or several clouds.
    """
    config = config or CaptureData(path=str(folder))
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DataError(f"expected a capture folder at {folder}, found {found} there; check the path")
    tried = LAYOUTS if config.layout is None else {config.layout: LAYOUTS[config.layout]}
    for find in tried.values():
        layout = find(folder, config)
        if layout is not None:
            return layout
    if config.layout is not None:
        raise DataError(
            f"expected the layout {config.layout} in {folder}, found no such files; "
            "leave out data.layout, or check the path"
        )
    missing = [f"{part}/" for part in ("color", "depth", "pose") if not (folder / part).is_dir()]
    if 0 < len(missing) < 3:
        raise DataError(
            f"expected color/, depth/ and pose/ in {folder}, found no {', '.join(missing)}; "
            "export what is missing or check the path"
        )
    found = some([path.name for path in visible(folder)], 5) or "an empty folder"
    raise DataError(
        f"expected frames in {folder}: {_EXPECTED}; found none, but {found}; check path and naming"
    )


# --- one file per pose --------------------------------------------------------------------------------

_Parts = Mapping[str, Mapping[str, Path]]
"""For ``color``, ``depth`` and ``pose``: file by frame name."""


def _scannet(folder: Path, config: CaptureData) -> Layout | None:
    folders = {part: folder / part for part in ("color", "depth", "pose")}
    if not folders["pose"].is_dir():
        return None
    cloud = find_cloud(folder)
    if cloud is not None and not folders["depth"].is_dir():
        del folders["depth"]
    if not all(path.is_dir() for path in folders.values()):
        return None
    suffixes = {"color": IMAGE_SUFFIXES, "depth": DEPTH_SUFFIXES + REFUSED_SUFFIXES, "pose": (".txt",)}
    parts = {part: by_stem(path, suffixes[part]) for part, path in folders.items()}
    if not any(parts.values()):
        return None
    return _layout(parts, folder, cloud)


def _seven_scenes(folder: Path, config: CaptureData) -> Layout | None:
    parts: dict[str, dict[str, Path]] = {"color": {}, "depth": {}, "pose": {}}
    sequences = [path for path in visible(folder) if path.is_dir() and path.name.startswith("seq-")]
    for place in (folder, *sequences):
        prefix = "" if place is folder else f"{place.name}-"
        for path in visible(place):
            match = _SEVEN_SCENES.fullmatch(path.name)
            if match:
                parts[match[2].lower()][f"{prefix}{match[1]}"] = path
    if not any(parts.values()):
        return None
    return _layout(parts, folder, find_cloud(folder))


def _layout(parts: _Parts, folder: Path, cloud: Path | None) -> Layout:
    names = sorted(set().union(*parts.values()), key=natural_key)
    lacks = []
    for part, files in parts.items():
        without = [name for name in names if name not in files]
        if without:
            lacks.append(f"{len(without)} of {len(names)} without {part} ({some(without)})")
    if lacks:
        raise DataError(
            f"expected colour, depth and pose of every frame in {folder}, found frames {', '.join(lacks)}; "
            "add the missing files or delete the rest of these frames"
        )
    depth = parts.get("depth", {})
    refuse_unknown(list(depth.values()))
    lenses = _find_intrinsics(folder)
    own = folder / "intrinsic" / "frames"
    own_lenses = by_stem(own, (".txt",)) if own.is_dir() else {}
    frames = tuple(
        FrameFiles(
            name=safe_name(name),
            color=parts["color"][name],
            depth=depth.get(name),
            pose=parts["pose"][name],
            pose_place=str(parts["pose"][name].relative_to(folder)),
            lenses=Lenses(color=own_lenses[name]) if name in own_lenses else lenses,
        )
        for name in names
    )
    return Layout(folder, frames, cloud)


def _find_intrinsics(folder: Path) -> Lenses:
    places = [folder / "intrinsic", folder / "intrinsics", folder]
    names = {
        "color": ("intrinsic_color", "intrinsics_color", "intrinsics", "intrinsic", "camera-intrinsics"),
        "depth": ("intrinsic_depth", "intrinsics_depth"),
    }
    found: dict[str, Path | None] = {}
    for camera, stems in names.items():
        files = [place / f"{stem}.txt" for stem in stems for place in places]
        found[camera] = next((path for path in files if path.is_file()), None)
    if not any(found.values()):
        raise DataError(
            f"expected camera intrinsics in {folder}, found none; write {folder / 'intrinsics.txt'} with "
            "three lines 'fx 0 cx', '0 fy cy', '0 0 1' in pixels "
            "(7-Scenes: '585 0 320', '0 585 240', '0 0 1')"
        )
    return Lenses(color=found["color"], depth=found["depth"])


LAYOUTS: dict[str, Callable[[Path, CaptureData], Layout | None]] = {
    "scannet": _scannet,
    "7scenes": _seven_scenes,
    "tum": tum_layout,
    "transforms": transforms_layout,
    "redwood": redwood_layout,
}
"""By name what finds the frames of a folder; ``None`` where it is laid out in another way."""
