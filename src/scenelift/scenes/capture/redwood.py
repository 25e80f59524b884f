"""Open3D and Redwood folders: images in order, and one trajectory file with a pose for each.

Formats: http://redwood-data.org/indoor/fileformat.html and
https://www.open3d.org/docs/release/tutorial/reconstruction_system/. Colour in ``color/``, ``image/`` or
``rgb/``, depth (millimetres) in ``depth/``, both numbered alike. The trajectory (``trajectory.log``,
``scene/trajectory.log``, or the only ``.log``) holds, five lines each, three whole numbers and a 4×4
camera-to-world matrix. Intrinsics are Open3D's JSON: ``width``, ``height`` and ``intrinsic_matrix`` of nine
numbers column by column; without a file the PrimeSense default of Redwood's own scans, and that is said.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scenelift.config import CaptureData
from scenelift.errors import DataError
from scenelift.files import read_bytes, read_json
from scenelift.scenes import Problem
from scenelift.scenes.capture.files import (
    IMAGE_SUFFIXES,
    FrameFiles,
    Layout,
    Lens,
    Lenses,
    find_cloud,
    unique_names,
)
from scenelift.scenes.depth_files import DEPTH_SUFFIXES, REFUSED_SUFFIXES, refuse_unknown
from scenelift.scenes.folders import natural_key, some, visible
from scenelift.scenes.matrices import pinhole
from scenelift.types import F64, I64

_PRIMESENSE = Lens((525.0, 525.0, 319.5, 239.5), size=(480, 640), guessed=True)
_INTRINSICS = ("camera_intrinsic.json", "camera_primesense.json", "intrinsic.json", "intrinsics.json")
_MAX_SIZE = 1 << 20


def redwood_layout(folder: Path, config: CaptureData) -> Layout | None:
    """The frames of an Open3D or Redwood folder; ``None`` if it has no trajectory or no folder of colour.

    Raises:
        DataError: counts of images, depth images and poses do not fit, or a file is damaged.
    """
    color_folder = next((folder / n for n in ("color", "image", "rgb") if (folder / n).is_dir()), None)
    trajectory = _find_trajectory(folder)
    if color_folder is None or trajectory is None:
        return None
    color = _images(color_folder, IMAGE_SUFFIXES)
    cloud = find_cloud(folder)
    depth: list[Path] | None = None
    if (folder / "depth").is_dir():
        depth = _images(folder / "depth", DEPTH_SUFFIXES + REFUSED_SUFFIXES)
        refuse_unknown(depth)
    elif cloud is None:
        raise DataError(f"expected depth/ or a point cloud in {folder}, found neither; export one of them")
    if not color or (depth is not None and len(depth) != len(color)):
        raise DataError(
            f"expected as many depth images as colour images in {folder}, found {len(depth or [])} and "
            f"{len(color)}; extract the archives again"
        )
    ids, poses = read_log(trajectory)
    index = _frames_of_poses(ids, len(color), trajectory)
    lenses, problems = _lenses(folder)
    without = len(color) - len(index)
    if without:
        what = f"{without} of {len(color)} images have no pose in {trajectory.name} and are left out"
        mend = "nothing to do if they could not be tracked; else reconstruct again"
        problems.append(Problem("warning", what, str(folder), mend))
    names = unique_names([path.stem for path in color], [path.stem for path in color], str(color_folder))
    place = str(trajectory.relative_to(folder))
    frames = [
        FrameFiles(names[i], color[i], depth[i] if depth else None, pose, f"{place} (pose {number})", lenses)
        for number, (i, pose) in enumerate(zip(index, poses, strict=True))
    ]
    frames.sort(key=lambda frame: natural_key(frame.name))
    counts = {"images_without_pose": without}
    return Layout(folder, tuple(frames), cloud, counts=counts, problems=tuple(problems))


def _find_trajectory(folder: Path) -> Path | None:
    for name in ("trajectory.log", "scene/trajectory.log"):
        if (folder / name).is_file():
            return folder / name
    logs = [path for path in visible(folder) if path.suffix.lower() == ".log" and path.is_file()]
    if len(logs) > 1:
        raise DataError(
            f"expected one trajectory in {folder}, found {some([path.name for path in logs])}; "
            "rename the one to use to trajectory.log"
        )
    return logs[0] if logs else None


def _images(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = [path for path in visible(folder) if path.suffix.lower() in suffixes]
    return sorted(files, key=lambda path: natural_key(path.stem))


def read_log(path: Path) -> tuple[I64, F64]:
    """Read a trajectory.

    Returns:
        ids: (N,) int64, the first of the three numbers before each pose.
        poses: (N, 4, 4) float64 as they stand; entries may be NaN or infinite.

    Raises:
        DataError: missing, empty, cut off, or no such numbers.
    """
    text = read_bytes(path, "a trajectory (.log)").decode("utf-8-sig", errors="replace")
    words = text.split()
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError as error:
        raise DataError(
            f"expected a trajectory of plain numbers in {path}, found something else ({error}); "
            "export it again"
        ) from None
    if len(numbers) == 0 or len(numbers) % 19:
        raise DataError(
            f"expected poses of 3 + 16 numbers in {path}, found {len(numbers):,} numbers; "
            "it is cut off or of another format: export it again"
        )
    table = numbers.reshape(-1, 19)
    ids = table[:, 0]
    if not (np.isfinite(table[:, :3]).all() and (np.abs(table[:, :3]) < 2**53).all()) or (ids % 1).any():
        raise DataError(
            f"expected three whole numbers before each pose in {path}, found others; "
            "each pose is a line of three numbers and four lines of four"
        )
    return ids.astype(np.int64), table[:, 3:].reshape(-1, 4, 4)


def _frames_of_poses(ids: I64, images: int, path: Path) -> list[int]:
    """Which image each pose is of: by its id where ids tell images apart, by order where counts are equal."""
    if len(np.unique(ids)) == len(ids) and ids.min() >= 0 and ids.max() < images:
        return [int(i) for i in ids]
    if len(ids) == images:
        return list(range(images))
    raise DataError(
        f"expected a pose for each of {images} images in {path}, found {len(ids)} whose numbers do not say "
        "which; number them 0 to the count of images, or delete the images without a pose"
    )


def _lenses(folder: Path) -> tuple[Lenses, list[Problem]]:
    for name in _INTRINSICS:
        if (folder / name).is_file():
            return Lenses(color=read_open3d_intrinsics(folder / name)), []
    for name in ("intrinsics.txt", "intrinsic.txt", "camera-intrinsics.txt"):
        if (folder / name).is_file():
            return Lenses(color=folder / name), []
    what = "no intrinsics in the folder: the PrimeSense default of Redwood is used (525 525 319.5 239.5)"
    mend = f"nothing to do for Redwood's own scans; else write {_INTRINSICS[0]} or intrinsics.txt"
    return Lenses(color=_PRIMESENSE), [Problem("warning", what, str(folder), mend)]


def read_open3d_intrinsics(path: Path) -> Lens:
    """Read Open3D's ``PinholeCameraIntrinsic`` as JSON. Raises `DataError` if it is none."""
    tree = read_json(path)
    fields = tree if isinstance(tree, dict) else {}
    numbers, size = fields.get("intrinsic_matrix"), (fields.get("height"), fields.get("width"))
    if not (
        isinstance(numbers, list)
        and len(numbers) == 9
        and all(type(n) in (int, float) and abs(n) < 1e9 for n in numbers)
        and all(isinstance(edge, int) and 0 < edge < _MAX_SIZE for edge in size)
    ):
        raise DataError(
            f"expected width, height and an intrinsic_matrix of 9 numbers (column by column) in {path}, "
            f"found {', '.join(map(str, fields))[:80] or 'another structure'}; write it with Open3D"
        )
    matrix = pinhole(np.array(numbers, dtype=np.float64).reshape(3, 3).T, path)
    fx_fy_cx_cy = tuple(float(matrix[place]) for place in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return Lens(fx_fy_cx_cy, size)  # type: ignore[arg-type]
