"""TUM RGB-D folders: images and poses that belong together by time.

Format: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats. ``rgb.txt`` and ``depth.txt`` hold
``time file`` lines, ``groundtruth.txt`` holds ``time tx ty tz qx qy qz qw``: the colour camera in the world,
seconds, metres, unit quaternion. ``#`` begins a comment. Depth PNG hold 5000 units per metre, registered to
colour.

Colour and depth are matched one to one, smallest difference first, as the data set's own tool does. The pose
is that at the time of the colour image, whose pixels are paired with points: between the two poses around it,
interpolated (straight line, slerp) where they lie at most twice ``max_time_gap_s`` apart; else the nearest
one within ``max_time_gap_s``. Motion capture runs at 100 Hz, so the nearest pose alone would be up to 5 ms
off: 5 mm at 1 m/s.

Intrinsics are not in these folders: they come from ``intrinsics.txt`` (as in a ScanNet export), else the
published ones of the three cameras by the folder's name (freiburg1, fr2, ...), and that is said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from scenelift.config import CaptureData
from scenelift.errors import DataError
from scenelift.scenes import Problem
from scenelift.scenes.capture.files import FrameFiles, Layout, Lens, Lenses, find_cloud, unique_names
from scenelift.scenes.depth_files import refuse_unknown
from scenelift.scenes.folders import existing, inside, read_lines, some
from scenelift.types import F64, I64

UNITS_PER_METRE = 5000.0
_QUATERNION_TOLERANCE = 0.01
_MAX_CANDIDATES = 20_000_000
_FREIBURG = re.compile(r"(?:freiburg|(?<![a-z])fr)([123])(?![0-9])", re.IGNORECASE)
_CALIBRATIONS = {
    "1": (517.3, 516.5, 318.6, 255.3),
    "2": (520.9, 521.0, 325.1, 249.7),
    "3": (535.4, 539.2, 320.1, 247.6),
}
"""fx, fy, cx, cy of the colour cameras, 640 × 480, from the file formats page."""


def tum_layout(folder: Path, config: CaptureData) -> Layout | None:
    """The frames of a TUM RGB-D folder; ``None`` if it has no rgb.txt.

    Raises:
        DataError: a table is missing or damaged, names files that are not there, nothing matches in time, or
            the intrinsics are not known.
    """
    if not (folder / "rgb.txt").is_file():
        return None
    color_s, color_files = _read_list(folder, "rgb.txt")
    pose_s, poses = read_trajectory(folder / "groundtruth.txt")
    cloud = find_cloud(folder)
    has_depth = (folder / "depth.txt").is_file() or cloud is None
    depth_files: Sequence[Path | None] = [None] * len(color_files)
    color_index = depth_index = np.arange(len(color_files))
    if has_depth:
        depth_s, depth_files = _read_list(folder, "depth.txt")
        refuse_unknown([path for path in depth_files if path is not None])
        color_index, depth_index = associate(color_s, depth_s, config.max_time_gap_s)
    without_depth = len(color_files) - len(color_index)
    found = poses_at(color_s[color_index], pose_s + config.time_offset_s, poses, config.max_time_gap_s)
    placed = [place for place, pose in enumerate(found) if pose is not None]
    gaps = _gaps(color_s, pose_s + config.time_offset_s)
    if not placed:
        raise DataError(
            f"expected colour, depth and poses within {config.max_time_gap_s} s of each other in {folder}, "
            f"found none of {len(color_files)} images so (their nearest pose is {np.median(gaps):.3g} s away "
            f"in the median, and {without_depth} have no depth); "
            "set data.time_offset_s if clocks differ, or data.max_time_gap_s"
        )
    lenses, problems = _lenses(folder)
    names = unique_names(
        [color_files[i].stem for i in color_index],
        [str(color_files[i].relative_to(folder).with_suffix("").as_posix()) for i in color_index],
        str(folder / "rgb.txt"),
    )
    frames = []
    for place in placed:
        color, pose = color_files[color_index[place]], found[place]
        assert pose is not None
        depth = depth_files[depth_index[place]]
        frames.append(FrameFiles(names[place], color, depth, pose, "groundtruth.txt", lenses))
    without_pose = len(color_index) - len(placed)
    if without_depth or without_pose:
        percent = np.percentile(gaps, [50, 95, 100])
        problems.append(
            Problem(
                "warning",
                f"{without_depth + without_pose} of {len(color_files)} colour images are left out: "
                f"{without_depth} have no depth and {without_pose} no pose within {config.max_time_gap_s} s; "
                f"the nearest pose is {percent[0]:.3g} s away in the median, {percent[1]:.3g} s at 95 %, "
                f"{percent[2]:.3g} s at most",
                str(folder),
                "nothing to do if recording began or ended apart; else set data.max_time_gap_s or "
                "data.time_offset_s",
            )
        )
    absent = _absent(frames, folder)
    if absent:
        raise DataError(
            f"expected the images that rgb.txt and depth.txt name in {folder}, found {len(absent)} of "
            f"{len(frames)} frames without: {some(absent)}; extract the archive again or delete their lines"
        )
    counts = {"colour_without_depth": without_depth, "colour_without_pose": without_pose}
    return Layout(folder, tuple(frames), cloud, "cam_to_world", UNITS_PER_METRE, counts, tuple(problems))


# --- tables -------------------------------------------------------------------------------------------


def _read_list(folder: Path, name: str) -> tuple[F64, list[Path]]:
    """``time file`` lines in order of time: (N,) seconds, and the files."""
    path = folder / name
    rows = []
    for number, words in read_lines(path, "a TUM list of images"):
        time_s = _number(words[0], path, number)
        if len(words) < 2:
            raise DataError(
                f"expected 'time file' in line {number} of {path}, found {len(words)} word; export it again"
            )
        rows.append((time_s, inside(folder, " ".join(words[1:]), str(path))))
    if not rows:
        raise DataError(f"expected images in {path}, found none; export it again")
    rows.sort(key=lambda row: row[0])
    return np.array([time_s for time_s, _ in rows]), [file for _, file in rows]


def read_trajectory(path: Path) -> tuple[F64, F64]:
    """Read ``time tx ty tz qx qy qz qw`` lines.

    Returns:
        time_s: (N,) float64, seconds, ascending.
        poses: (N, 4, 4) float64, camera-to-world as a rule; NaN where a line holds NaN.

    Raises:
        DataError: missing, empty, fewer than eight numbers in a line, or no unit quaternion.
    """
    numbers = []
    for number, words in read_lines(path, "poses (groundtruth.txt)"):
        if len(words) < 8:
            raise DataError(
                f"expected 'time tx ty tz qx qy qz qw' in line {number} of {path}, found {len(words)} words; "
                "export it again"
            )
        row = [_number(words[0], path, number), *(_number(w, path, number, finite=False) for w in words[1:8])]
        norm = math.hypot(*row[4:])
        if math.isfinite(norm) and abs(norm - 1) > _QUATERNION_TOLERANCE:
            raise DataError(
                f"expected a unit quaternion in line {number} of {path}, found length {norm:.3g}; "
                "check the order: time tx ty tz qx qy qz qw"
            )
        numbers.append(row)
    if not numbers:
        raise DataError(f"expected poses in {path}, found none; export it again")
    table = np.array(numbers)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return table[:, 0], _pose_matrices(table[:, 1:4], table[:, 4:8])


def _number(word: str, path: Path, line: int, finite: bool = True) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
        finite = True
    if finite and not math.isfinite(value):
        raise DataError(f"expected a number in line {line} of {path}, found {word[:40]!r}; export it again")
    return value


def _pose_matrices(translation: F64, quaternion_xyzw: F64) -> F64:
    """(N, 4, 4) from (N, 3) and (N, 4)."""
    with np.errstate(invalid="ignore"):
        x, y, z, w = (quaternion_xyzw / np.linalg.norm(quaternion_xyzw, axis=1, keepdims=True)).T
        rows = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    poses = np.tile(np.eye(4), (len(translation), 1, 1))
    poses[:, :3, :3] = np.array(rows).transpose(2, 0, 1)
    poses[:, :3, 3] = translation
    return poses


# --- time ---------------------------------------------------------------------------------------------


def associate(first_s: F64, second_s: F64, max_gap_s: float) -> tuple[I64, I64]:
    """Match two lists of time stamps one to one, smallest difference first.

    Args:
        first_s: (N,) seconds, ascending.
        second_s: (M,) seconds, ascending.
        max_gap_s: pairs further apart than this do not match.

    Returns:
        Indices into both, (K,) int64, ascending in the first.

    Raises:
        DataError: the gap is so large that nearly everything could match everything.
    """
    slack = 1e-9 + 4 * np.spacing(max(np.abs(first_s).max(initial=0), np.abs(second_s).max(initial=0)))
    low = np.searchsorted(second_s, first_s - (max_gap_s + slack))
    count = np.searchsorted(second_s, first_s + (max_gap_s + slack), side="right") - low
    if count.sum() > _MAX_CANDIDATES:
        raise DataError(
            f"expected time stamps further apart than data.max_time_gap_s={max_gap_s}, found {count.sum():,} "
            "candidates; set a smaller gap"
        )
    first = np.repeat(np.arange(len(first_s)), count)
    second = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)
    order = np.argsort(np.abs(first_s[first] - second_s[second]), kind="stable")
    partner = np.full(len(first_s), -1)
    taken = np.zeros(len(second_s), dtype=np.bool_)
    for i, j in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if partner[i] < 0 and not taken[j]:
            partner[i], taken[j] = j, True
    matched = np.flatnonzero(partner >= 0)
    return matched, partner[matched]


def poses_at(times_s: F64, pose_s: F64, poses: F64, max_gap_s: float) -> list[F64 | None]:
    """The pose at each of some times, see the module's text.

    Args:
        times_s: (N,) seconds.
        pose_s: (M,) seconds, ascending, at least one.
        poses: (M, 4, 4), rigid, or NaN.
        max_gap_s: no pose further away in time is used.

    Returns:
        N times (4, 4) float64, ``None`` where no pose is near.
    """
    found: list[F64 | None] = []
    slack_s = 1e-9 + 4 * float(np.spacing(np.abs(pose_s).max()))
    for time_s, right in zip(times_s, np.searchsorted(pose_s, times_s), strict=True):
        before, after = max(int(right) - 1, 0), min(int(right), len(pose_s) - 1)
        gaps = abs(time_s - pose_s[before]), abs(pose_s[after] - time_s)
        nearest = before if gaps[0] < gaps[1] else after
        if min(gaps) > max_gap_s + slack_s:
            found.append(None)
        elif pose_s[before] < time_s < pose_s[after] and sum(gaps) <= 2 * max_gap_s + slack_s:
            found.append(interpolate(poses[before], poses[after], float(gaps[0] / sum(gaps))))
        else:
            found.append(poses[nearest])
    return found


def interpolate(start: F64, end: F64, share: float) -> F64:
    """The rigid motion between two poses, (4, 4): position on a straight line, rotation at constant speed."""
    if not (np.isfinite(start).all() and np.isfinite(end).all()):
        return np.full((4, 4), np.nan)
    pose = np.eye(4)
    pose[:3, 3] = (1 - share) * start[:3, 3] + share * end[:3, 3]
    turn = start[:3, :3].T @ end[:3, :3]
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
    sine = float(np.linalg.norm(axis))
    angle = math.atan2(sine, (float(np.trace(turn)) - 1) / 2)
    if sine < 1e-12:  # no turn, or half a turn, whose axis would be anybody's guess: the nearer end
        pose[:3, :3] = start[:3, :3] if share < 0.5 or angle < 1 else end[:3, :3]
        return pose
    x, y, z = axis / sine
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    part = share * angle
    pose[:3, :3] = start[:3, :3] @ (np.eye(3) + math.sin(part) * cross + (1 - math.cos(part)) * cross @ cross)
    return pose


def _gaps(times_s: F64, pose_s: F64) -> F64:
    """(N,) seconds from each time to the nearest pose."""
    right = np.clip(np.searchsorted(pose_s, times_s), 1, max(1, len(pose_s) - 1))
    near: F64 = np.minimum(np.abs(times_s - pose_s[right - 1]), np.abs(times_s - pose_s[right % len(pose_s)]))
    return near


# --- cameras ------------------------------------------------------------------------------------------


def _lenses(folder: Path) -> tuple[Lenses, list[Problem]]:
    for name in ("intrinsics.txt", "intrinsic.txt", "camera-intrinsics.txt", "intrinsic/intrinsic_color.txt"):
        if (folder / name).is_file():
            return Lenses(color=folder / name), []
    match = _FREIBURG.search(folder.resolve().name)
    if match is None:
        raise DataError(
            f"expected camera intrinsics in {folder}, found none, nor freiburg1, 2 or 3 in its name; write "
            f"{folder / 'intrinsics.txt'} with three lines 'fx 0 cx', '0 fy cy', '0 0 1' in pixels "
            "(ROS default: '525 0 319.5', '0 525 239.5', '0 0 1')"
        )
    lens = Lens(_CALIBRATIONS[match[1]], size=(480, 640), guessed=True)
    fx, fy, cx, cy = _CALIBRATIONS[match[1]]
    what = (
        f"no intrinsics in the folder: those of the camera freiburg{match[1]} are used ({fx} {fy} {cx} {cy})"
    )
    mend = "nothing to do for the data set's own sequences; else write intrinsics.txt"
    return Lenses(color=lens), [Problem("warning", what, str(folder), mend)]


def _absent(frames: Sequence[FrameFiles], folder: Path) -> list[str]:
    def files(frame: FrameFiles) -> Iterator[Path]:
        yield frame.color
        if frame.depth is not None:
            yield frame.depth

    there = existing(file for frame in frames for file in files(frame))
    return [
        str(next(file for file in files(frame) if file not in there).relative_to(folder))
        for frame in frames
        if any(file not in there for file in files(frame))
    ]
