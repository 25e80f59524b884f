"""What a capture folder comes down to, whichever way it is laid out, and the small files in it.

Every layout (`scenelift.scenes.capture_layout`) gives a `Layout`: frames with their files, poses and lenses,
maybe a point cloud, and what was odd. `scenelift.scenes.capture` makes frames of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import numpy as np

from scenelift.config import PoseConvention
from scenelift.errors import DataError
from scenelift.files import read_bytes, safe_name
from scenelift.scenes import Problem
from scenelift.types import F64

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
CLOUD_SUFFIXES = (".ply", ".pcd", ".las", ".laz")

LensModel = Literal["pinhole", "opencv", "fisheye"]


@dataclass(frozen=True)
class Lens:
    """Intrinsics of one camera as a file states them; equal ones are one camera.

    Attributes:
        fx_fy_cx_cy: pixels, pixel centres at integers. ``None``: from ``angle_x``.
        size: (H, W) of the images they are for, if that is stated.
        angle_x: field of view across the width, radians, for files that give nothing else.
        model: ``opencv`` with k1 k2 p1 p2 k3, ``fisheye`` with k1 k2 k3 k4.
        coefficients: of the model; empty for a pinhole.
        guessed: nobody wrote these down; they hold for images of ``size`` alone.
    """

    fx_fy_cx_cy: tuple[float, float, float, float] | None
    size: tuple[int, int] | None = None
    angle_x: float | None = None
    model: LensModel = "pinhole"
    coefficients: tuple[float, ...] = ()
    guessed: bool = False

    def matrix(self, shape: tuple[int, int]) -> F64:
        """(3, 3) float64 for images of (H, W) pixels."""
        if self.fx_fy_cx_cy is not None:
            fx, fy, cx, cy = self.fx_fy_cx_cy
        else:
            assert self.angle_x is not None
            height, width = shape
            fx = fy = 0.5 * width / math.tan(0.5 * self.angle_x)
            cx, cy = (width - 1) / 2, (height - 1) / 2
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Lenses:
    """What is known of the cameras of a frame: of colour, of depth, or of both.

    A path is a file of 3×3 or 4×4 numbers (`read_intrinsics`), read when it is needed. Where one of them is
    ``None``, both cameras show the same picture.
    """

    color: Lens | Path | None = None
    depth: Lens | Path | None = None


@dataclass(frozen=True, eq=False)
class FrameFiles:
    """What one frame is made of.

    Attributes:
        name: unique in the capture, safe as a file name.
        color: PNG or JPEG.
        depth: 16-bit PNG, .npy or .exr; ``None`` in captures without depth.
        pose: (4, 4) as the layout has it, or the file that holds such a matrix.
        pose_place: where the pose stands, for messages.
        lenses: the frame's cameras.
    """

    name: str
    color: Path
    depth: Path | None
    pose: F64 | Path
    pose_place: str
    lenses: Lenses


@dataclass(frozen=True, eq=False)
class Layout:
    """A capture folder.

    Attributes:
        frames: complete frames in order.
        cloud: a point cloud in the folder, if there is one.
        convention: what the poses are.
        units_per_metre: of depth stored as whole numbers.
        counts: what was left out, by name.
        problems: what is odd, or was guessed, but does not stop the work.
    """

    folder: Path
    frames: tuple[FrameFiles, ...]
    cloud: Path | None
    convention: PoseConvention = "cam_to_world"
    units_per_metre: float = 1000.0
    counts: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


# --- names --------------------------------------------------------------------------------------------


def natural_key(name: str) -> tuple[object, ...]:
    """Sort key: whole-number and decimal names by value, digits inside other names by value too."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", name):
        return (0, Decimal(name), name)
    pieces = re.split(r"([0-9]+)", name)
    return (1, *((int(piece), piece) if i % 2 else (piece,) for i, piece in enumerate(pieces)))


def some(names: Sequence[str], limit: int = 3) -> str:
    """The first few of many names: ``a, b, c and 7 more``."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, in order, without what begins with a dot."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files of a folder by name without suffix. Raises `DataError` where two have one name."""
    files: dict[str, Path] = {}
    for path in visible(folder):
        if path.suffix.lower() not in suffixes:
            continue
        other = files.setdefault(path.stem, path)
        if other is not path:
            raise DataError(
                f"expected one file per frame in {folder}, found {other.name} and {path.name}; "
                "remove the one that does not belong there"
            )
    return files


def inside(folder: Path, text: str, where: str) -> Path:
    """The file that a table names, below ``folder``.

    Raises:
        DataError: the name is absolute or leads out of the folder: a table may come from anybody.
    """
    parts: list[str] = []
    for part in PurePosixPath(text.replace("\\", "/")).parts:
        if part != "..":
            parts.append(part)
        elif parts:
            parts.pop()
        else:
            parts = []
            break
    windows = PureWindowsPath(text)
    if not parts or "\0" in text or windows.drive or windows.root or text.startswith("/"):
        raise DataError(
            f"expected names of files below {folder} in {where}, found {text[:80]!r}; "
            "move the files into the folder and name them relative to it"
        )
    return folder.joinpath(*parts)


def existing(paths: Iterable[Path]) -> set[Path]:
    """Those of many paths that are files or folders; each parent folder is listed once."""
    wanted = set(paths)
    found: set[Path] = set()
    for parent in {path.parent for path in wanted}:
        with suppress(OSError):
            found.update(parent.iterdir())
    return wanted & found


def unique_names(stems: Sequence[str], longer: Sequence[str], where: str) -> list[str]:
    """Frame names: ``stems``, or ``longer`` with ``/`` as ``-`` where stems repeat.

    Raises:
        DataError: the longer ones repeat too.
    """
    names = list(stems) if len(set(stems)) == len(stems) else [name.replace("/", "-") for name in longer]
    twice = sorted({name for name, count in _counts(names).items() if count > 1})
    if twice:
        raise DataError(
            f"expected every image once in {where}, found {some(twice)} several times; "
            "delete the repeated entries"
        )
    return [safe_name(name) for name in names]


def _counts(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def find_cloud(folder: Path) -> Path | None:
    """The point cloud of a folder: ``cloud.ply`` (.pcd, .las, .laz), else the only one there.

    Raises:
        DataError: there are several.
    """
    clouds = [path for path in visible(folder) if path.suffix.lower() in CLOUD_SUFFIXES]
    named = [path for path in clouds if path.stem == "cloud"]
    chosen = named or clouds
    if len(chosen) > 1:
        raise DataError(
            f"expected one point cloud in {folder}, found {some([path.name for path in chosen])}; "
            f"rename the one to use to cloud{chosen[0].suffix}"
        )
    return chosen[0] if chosen else None


# --- text files ---------------------------------------------------------------------------------------


def read_lines(path: Path, what: str) -> list[tuple[int, list[str]]]:
    """A text file's lines that hold something: (line number, words); ``#`` begins a comment line.

    Raises:
        DataError: missing, unreadable or empty.
    """
    text = read_bytes(path, what).decode("utf-8-sig", errors="replace")
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, words) for number, words in lines if words and not words[0].startswith("#")]


def read_intrinsics(path: Path) -> F64:
    """Read pinhole intrinsics, 3×3 or 4×4.

    Returns:
        (3, 3) float64, pixels, without skew.

    Raises:
        DataError: not such a matrix.
    """
    return pinhole(_read_matrix(path, "camera intrinsics", (9, 16)), path)


def pinhole(matrix: F64, where: Path | str) -> F64:
    """A (3, 3) or (4, 4) matrix as exact pinhole intrinsics, (3, 3) without skew.

    Raises:
        DataError: it is none; ``where`` stands in the message.
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


# --- image files --------------------------------------------------------------------------------------


def looks_whole(path: Path) -> bool:
    """Whether an image file begins and ends as a whole PNG or JPEG does: a cheap look, not a proof.

    A file that fails may still be readable (bytes appended after the image); read it to know. Of .npy and
    .exr only the beginning can be told.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
            stream.seek(max(0, path.stat().st_size - 64))
            tail = stream.read()
    except OSError:
        return False
    if head in (b"\x93NUM", b"\x76\x2f\x31\x01"):
        return True
    return (head[:3] == b"\x89PN" and b"IEND" in tail) or (
        head[:3] == b"\xff\xd8\xff" and b"\xff\xd9" in tail
    )
