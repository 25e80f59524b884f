"""The files of a posed RGB-D folder: which exist, what each frame is made of, what the text files say.

Two namings are understood. ``SEQ`` is any number or timestamp::

    ScanNet export      color/SEQ.jpg   depth/SEQ.png   pose/SEQ.txt
    7-Scenes            frame-SEQ.color.png   frame-SEQ.depth.png   frame-SEQ.pose.txt
                        (in the folder itself, or in folders seq-01, seq-02, ... of it)

Intrinsics stand in the folder or in its ``intrinsic/`` or ``intrinsics/``, as 3×3 or 4×4 numbers:
``intrinsic_color.txt`` and ``intrinsic_depth.txt`` (or ``intrinsics_*.txt``), or one file for both
cameras, ``intrinsics.txt``, ``intrinsic.txt`` or ``camera-intrinsics.txt``, in pixels of the colour image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np

from scenelift.errors import DataError
from scenelift.files import read_bytes, safe_name
from scenelift.types import F64

_IMAGE = (".jpg", ".jpeg", ".png")
_FLOAT_DEPTH = (".npy", ".npz", ".exr", ".tif", ".tiff", ".pfm")
_SEVEN_SCENES = re.compile(r"frame-(\d+)\.(color|depth|pose)\.(?:png|jpg|jpeg|txt)", re.IGNORECASE)
_EXPECTED = "color/, depth/ and pose/ (ScanNet export) or frame-000000.color.png ... (7-Scenes)"


@dataclass(frozen=True)
class FrameFiles:
    """What one frame is made of."""

    name: str
    color: Path
    depth: Path
    pose: Path


@dataclass(frozen=True)
class Layout:
    """A capture folder.

    Attributes:
        frames: complete frames in natural order.
        intrinsics: file by camera, ``"color"``, ``"depth"`` or both.
        cloud: a PLY file in the folder, if there is one.
    """

    folder: Path
    frames: tuple[FrameFiles, ...]
    intrinsics: Mapping[str, Path]
    cloud: Path | None


def find_layout(folder: Path) -> Layout:
    """Find the frames, intrinsics and cloud of a capture folder; image contents are not looked at.

    Raises:
        DataError: no such folder, no frames, incomplete frames, no intrinsics, or several clouds.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DataError(f"expected a capture folder at {folder}, found {found} there; check the path")
    parts = _scannet_parts(folder) or _seven_scenes_parts(folder)
    frames = _complete_frames(parts, folder)
    return Layout(folder, frames, _find_intrinsics(folder), _find_cloud(folder))


def natural_key(name: str) -> tuple[object, ...]:
    """Sort key: whole-number and decimal names by value, digits inside other names by value too."""
    if re.fullmatch(r"\d+(\.\d+)?", name):
        return (0, Decimal(name), name)
    pieces = re.split(r"(\d+)", name)
    return (1, *((int(piece), piece) if i % 2 else (piece,) for i, piece in enumerate(pieces)))


def some(names: Sequence[str], limit: int = 3) -> str:
    """The first few of many names: ``a, b, c and 7 more``."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


# --- frames -------------------------------------------------------------------------------------------

_Parts = Mapping[str, Mapping[str, Path]]
"""For ``color``, ``depth`` and ``pose``: file by frame name."""


def _scannet_parts(folder: Path) -> _Parts | None:
    folders = {part: folder / part for part in ("color", "depth", "pose")}
    if not any(path.is_dir() for path in folders.values()):
        return None
    missing = [f"{part}/" for part, path in folders.items() if not path.is_dir()]
    if missing:
        raise DataError(
            f"expected color/, depth/ and pose/ in {folder}, found no {', '.join(missing)}; "
            "export what is missing or check the path"
        )
    return {
        "color": _by_stem(folders["color"], _IMAGE),
        "depth": _by_stem(folders["depth"], (".png", *_FLOAT_DEPTH)),
        "pose": _by_stem(folders["pose"], (".txt",)),
    }


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in _visible(folder):
        if path.suffix.lower() not in suffixes:
            continue
        other = files.setdefault(path.stem, path)
        if other is not path:
            raise DataError(
                f"expected one file per frame in {folder}, found {other.name} and {path.name}; "
                "remove the one that does not belong there"
            )
    return files


def _seven_scenes_parts(folder: Path) -> _Parts:
    parts: dict[str, dict[str, Path]] = {"color": {}, "depth": {}, "pose": {}}
    sequences = [path for path in _visible(folder) if path.is_dir() and path.name.startswith("seq-")]
    for place in (folder, *sequences):
        prefix = "" if place is folder else f"{place.name}-"
        for path in _visible(place):
            match = _SEVEN_SCENES.fullmatch(path.name)
            if match:
                parts[match[2].lower()][f"{prefix}{match[1]}"] = path
    return parts


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _complete_frames(parts: _Parts, folder: Path) -> tuple[FrameFiles, ...]:
    names = sorted(set().union(*parts.values()), key=natural_key)
    if not names:
        found = some([path.name for path in _visible(folder)], 5) or "an empty folder"
        raise DataError(
            f"expected frames in {folder}: {_EXPECTED}; found none, but {found}; check path and naming"
        )
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
    floats = [path for path in parts["depth"].values() if path.suffix.lower() in _FLOAT_DEPTH]
    if floats:
        raise DataError(
            f"expected depth as 16-bit PNG in {floats[0].parent}, found {floats[0].name}"
            f"{f' and {len(floats) - 1} more' if len(floats) > 1 else ''}, which hold floats; "
            "multiply metres by 1000, round, and save as 16-bit grey PNG"
        )
    return tuple(
        FrameFiles(safe_name(name), parts["color"][name], parts["depth"][name], parts["pose"][name])
        for name in names
    )


# --- intrinsics and cloud -----------------------------------------------------------------------------


def _find_intrinsics(folder: Path) -> dict[str, Path]:
    places = [folder / "intrinsic", folder / "intrinsics", folder]
    names = {
        "color": ("intrinsic_color", "intrinsics_color", "intrinsics", "intrinsic", "camera-intrinsics"),
        "depth": ("intrinsic_depth", "intrinsics_depth"),
    }
    found = {}
    for camera, stems in names.items():
        files = [place / f"{stem}.txt" for stem in stems for place in places]
        path = next((path for path in files if path.is_file()), None)
        if path:
            found[camera] = path
    if found:
        return found
    raise DataError(
        f"expected camera intrinsics in {folder}, found none; write {folder / 'intrinsics.txt'} with three "
        "lines 'fx 0 cx', '0 fy cy', '0 0 1' in pixels (7-Scenes: '585 0 320', '0 585 240', '0 0 1')"
    )


def _find_cloud(folder: Path) -> Path | None:
    clouds = [path for path in _visible(folder) if path.suffix.lower() == ".ply"]
    named = [path for path in clouds if path.name == "cloud.ply"]
    if len(clouds) > 1 and not named:
        raise DataError(
            f"expected one point cloud in {folder}, found {some([path.name for path in clouds])}; "
            "rename the one to use to cloud.ply"
        )
    return next(iter(named or clouds), None)


# --- text files ---------------------------------------------------------------------------------------


def read_intrinsics(path: Path) -> F64:
    """Read pinhole intrinsics, 3×3 or 4×4.

    Returns:
        (3, 3) float64, pixels, without skew.

    Raises:
        DataError: not such a matrix.
    """
    return pinhole(_read_matrix(path, "camera intrinsics", (9, 16)), str(path))


def pinhole(matrix: F64, where: str) -> F64:
    """Intrinsics as a file holds them, (3, 3) or (4, 4), as (3, 3) float64 without skew.

    Raises:
        DataError: they are not finite, or not those of a pinhole camera; ``where`` stands in the message.
    """
    matrix = matrix[:3, :3]
    fx, fy = matrix[0, 0], matrix[1, 1]
    # Depth is carried over to colour row by row and column by column, which a skew would not allow.
    pattern = np.array([[fx, 0.0, matrix[0, 2]], [0.0, fy, matrix[1, 2]], [0.0, 0.0, 1.0]])
    if not (
        np.isfinite(matrix).all() and min(fx, fy) > 0 and np.allclose(matrix, pattern, rtol=0, atol=1e-6)
    ):
        raise DataError(
            f"expected intrinsics [fx 0 cx; 0 fy cy; 0 0 1] in pixels at {where}, found {matrix.tolist()}; "
            "check the file's order of rows and its units"
        )
    return pattern


def read_pose(path: Path) -> F64:
    """Read a 4×4 matrix as it stands in the file; entries may be NaN or infinite. Raises `DataError`."""
    return _read_matrix(path, "a camera pose", (16,))


def _read_matrix(path: Path, what: str, sizes: tuple[int, ...]) -> F64:
    text = read_bytes(path, what).decode("utf-8-sig", errors="replace").replace(",", " ")
    try:
        numbers = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise DataError(
            f"expected {what} as plain numbers at {path}, found something else ({error}); "
            "export the file again"
        ) from None
    if len(numbers) not in sizes:
        shapes = " or ".join(f"{int(size**0.5)}×{int(size**0.5)}" for size in sizes)
        raise DataError(
            f"expected {what} of {shapes} numbers at {path}, found {len(numbers)} numbers; export it again"
        )
    edge = int(len(numbers) ** 0.5)
    return numbers.reshape(edge, edge)


def looks_whole(path: Path) -> bool:
    """Whether an image file begins and ends as a whole PNG or JPEG does: a cheap look, not a proof.

    A file that fails may still be readable (bytes appended after the image); read it to know.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(3)
            stream.seek(max(0, path.stat().st_size - 64))
            tail = stream.read()
    except OSError:
        return False
    return (head == b"\x89PN" and b"IEND" in tail) or (head == b"\xff\xd8\xff" and b"\xff\xd9" in tail)
