"""nuScenes' binary files, the poses that join them, and which of them are on this disk.

Points: little-endian float32, five a point (x, y, z, intensity, ring), in the LiDAR's frame (x right,
y forward, z up). Labels: one byte a point, in the order of the points.

Sources: ``LidarPointCloud.from_file`` and ``docs/instructions_lidarseg.md`` of
https://github.com/nutonomy/nuscenes-devkit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from scenelift.errors import DataError
from scenelift.files import read_bytes
from scenelift.scenes.index import remembered
from scenelift.scenes.nuscenes.columns import Tables
from scenelift.scenes.nuscenes.labels import RAW_NAMES
from scenelift.scenes.rgbd import inverse_rigid
from scenelift.types import F32, F64, U8, Bool

_POINT_BYTES = 20
_FAR_M = 1e5
"""No LiDAR measures this far: coordinates beyond are damage."""
OWN_CAR_M = 1.0
"""Points of added sweeps with |x| and |y| below this are returns from the car itself, as in the devkit."""


def read_lidar(path: Path) -> F32:
    """The points of a ``.pcd.bin`` file, (N, 3) float32, metres, in the LiDAR's frame and the file's order.

    Raises:
        DataError: missing, cut off, or with coordinates that are not finite or absurdly far away.
    """
    data = read_bytes(path, "a LiDAR sweep of float32 x y z intensity ring")
    if len(data) % _POINT_BYTES:
        raise DataError(
            f"expected a LiDAR sweep of {_POINT_BYTES} bytes a point at {path}, found {len(data):,} bytes, "
            "which is no multiple; copy or download the file again"
        )
    points = np.frombuffer(data, "<f4").reshape(-1, 5)[:, :3].astype(np.float32)
    far = ~(np.abs(points) < _FAR_M).all(1)  # true for NaN as well
    if far.any():
        raise DataError(
            f"expected finite coordinates in metres at {path}, found {int(far.sum())} of {len(points)} "
            f"points with others, first {points[far][0].tolist()}; copy or download the file again"
        )
    return points


def count_points(path: Path) -> int:
    """Points of a ``.pcd.bin`` file by its size. Raises `DataError` when it is missing."""
    try:
        return os.stat(path).st_size // _POINT_BYTES
    except OSError as error:
        raise DataError(
            f"expected a LiDAR sweep at {path}, found none ({error.strerror}); download it"
        ) from error


def read_raw_labels(path: Path, points: int) -> U8:
    """The raw ids of a lidarseg ``.bin`` file, (N,) uint8 in 0-31.

    Args:
        path: the file.
        points: how many points its sweep has.

    Raises:
        DataError: missing, of another length, or with ids that nuScenes-lidarseg does not have.
    """
    raw = np.frombuffer(read_bytes(path, "lidarseg labels of one byte a point"), np.uint8)
    if len(raw) != points:
        raise DataError(
            f"expected {points:,} lidarseg labels at {path}, one for each point of its sweep, "
            f"found {len(raw):,}; copy or download the file again"
        )
    if raw.size and raw.max() >= len(RAW_NAMES):
        raise DataError(
            f"expected lidarseg ids 0-{len(RAW_NAMES) - 1} at {path}, found {int(raw.max())}; "
            "copy or download the file again (panoptic labels are another download and not read)"
        )
    return raw


# --- poses --------------------------------------------------------------------------------------------


def matrix(pose: F64) -> F64:
    """(4, 4) float64 of a pose (7,): unit quaternion w x y z, translation."""
    w, x, y, z = pose[:4]
    result = np.eye(4)
    result[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    result[:3, 3] = pose[4:]
    return result


def sensor_from_sensor(tables: Tables, to_row: int, from_row: int) -> F64:
    """What carries points from one sensor at its time to another one at its own time.

    Both ego poses are large and close together; their translations are subtracted before they are turned, so
    that coordinates of kilometres do not eat digits.

    Args:
        tables: where the rows stand.
        to_row: sample_data row of the sensor whose frame is wanted.
        from_row: sample_data row of the sensor whose frame is given.

    Returns:
        (4, 4) float64: ``to_from_ego · ego_from_global(t_to) · global_from_ego(t_from) · ego_from_from``.
    """
    to_ego, from_ego = (tables.ego_poses[tables.row_pose[row]].copy() for row in (to_row, from_row))
    from_ego[4:] -= to_ego[4:]
    to_ego[4:] = 0.0
    to_sensor, from_sensor = (
        matrix(tables.sensor_poses[tables.row_sensor[row]]) for row in (to_row, from_row)
    )
    result: F64 = inverse_rigid(to_sensor) @ inverse_rigid(matrix(to_ego)) @ matrix(from_ego) @ from_sensor
    return result


# --- clouds -------------------------------------------------------------------------------------------


def previous_rows(tables: Tables, row: int, count: int) -> list[int]:
    """Up to ``count`` sweeps before a row, the last one first."""
    rows: list[int] = []
    while len(rows) < count and tables.row_previous[row] >= 0:
        row = int(tables.row_previous[row])
        rows.append(row)
    return rows


def read_sweep(folder: Path, tables: Tables, key_row: int, row: int) -> F32:
    """An earlier sweep in the frame of the key sweep, (N, 3) float32, without returns from the car itself."""
    points = read_lidar(folder / tables.path(row))
    points = points[(np.abs(points[:, :2]) >= OWN_CAR_M).any(1)]
    key_from_sweep = sensor_from_sensor(tables, key_row, row)
    carried = points.astype(np.float64) @ key_from_sweep[:3, :3].T + key_from_sweep[:3, 3]
    return carried.astype(np.float32)


# --- what is on the disk ------------------------------------------------------------------------------


def missing_rows(folder: Path, version: str, tables: Tables, sweeps: bool) -> Bool:
    """Which rows' files are not on the disk, (R,) bool: every folder is listed once and remembered.

    Raises:
        DataError: a folder is there but cannot be listed.
    """
    by_folder = np.argsort(tables.row_folder, kind="stable")
    ends = np.searchsorted(tables.row_folder[by_folder], np.arange(len(tables.folders)), side="right")
    rows_of = dict(zip(tables.folders, np.split(by_folder, ends[:-1]), strict=True)) if len(ends) else {}

    def scan(name: str) -> list[int]:
        there = _listing(folder / name)
        return [int(row) for row in rows_of[name] if tables.row_file[row] not in there]

    table = folder / version / "sample_data.json"
    parts = {name: [folder / name, table] for name in tables.folders}
    kind = f"nuscenes-files-1-{version}{'-sweeps' if sweeps else ''}"
    missing = np.zeros(len(tables.row_file), np.bool_)
    for name, rows in remembered(folder, kind, parts, scan).items():
        missing[_indices(rows, rows_of[name], len(missing))] = True
    return missing


def missing_labels(folder: Path, version: str, tables: Tables) -> Bool:
    """Which samples have a label file in the table that is not on the disk, (S,) bool."""
    files = list(tables.lidarseg_file)
    parents = sorted({name.rpartition("/")[0] for name in files if name})

    def scan(parent: str) -> list[int]:
        there = _listing(folder / parent)
        return [
            sample
            for sample, name in enumerate(files)
            if name and name.rpartition("/")[0] == parent and name.rpartition("/")[2] not in there
        ]

    table = folder / version / "lidarseg.json"
    parts = {parent: [folder / parent, table] for parent in parents}
    missing = np.zeros(len(files), np.bool_)
    for samples in remembered(folder, f"nuscenes-labels-1-{version}", parts, scan).values():
        missing[_indices(samples, np.arange(len(files)), len(files))] = True
    return missing


def _listing(path: Path) -> set[str]:
    try:
        return set(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(
            f"expected a folder of files at {path}, which cannot be listed: {error.strerror}; "
            "check that you may read it"
        ) from error


def _indices(values: Any, allowed: Any, size: int) -> list[int]:
    """Row numbers out of an index file, without those that cannot be."""
    known = np.zeros(size, np.bool_)
    known[allowed] = True
    return [value for value in values if isinstance(value, int) and 0 <= value < size and known[value]]
