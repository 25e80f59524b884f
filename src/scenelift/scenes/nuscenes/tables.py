"""nuScenes' tables, reduced to what scenes are made of, as columns of numbers.

The devkit's ``sample_data.json`` and ``ego_pose.json`` hold 2.6 million rows each, of which key frames of the
cameras and of LIDAR_TOP are a tenth. Tables are read in pieces (`scenelift.scenes.tables`), and rows that are
not needed are never made into Python objects for longer than a piece.

Schema: https://github.com/nutonomy/nuscenes-devkit/blob/master/docs/schema_nuscenes.md
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from scenelift.errors import DataError, one_line
from scenelift.scenes.nuscenes.columns import LIDAR, Strings, Tables
from scenelift.scenes.tables import read_rows
from scenelift.types import F64, I32

_UNIT_TOLERANCE = 1e-2


class _Sensor(msgspec.Struct, gc=False):
    token: str
    channel: str
    modality: str


class _Calibrated(msgspec.Struct, gc=False):
    token: str
    sensor_token: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    camera_intrinsic: list[list[float]] = []


class _Scene(msgspec.Struct, gc=False):
    token: str
    name: str


class _Sample(msgspec.Struct, gc=False):
    token: str
    scene_token: str
    timestamp: int


class _SampleData(msgspec.Struct, gc=False):
    token: str
    sample_token: str
    ego_pose_token: str
    calibrated_sensor_token: str
    is_key_frame: bool
    filename: str
    prev: str = ""
    height: int | None = 0
    width: int | None = 0


class _EgoPose(msgspec.Struct, gc=False):
    token: str
    translation: msgspec.Raw  # made into numbers for the few that are needed
    rotation: msgspec.Raw


class _Lidarseg(msgspec.Struct, gc=False):
    sample_data_token: str
    filename: str


class _Category(msgspec.Struct, gc=False):
    name: str
    index: int | None = None


def table_files(folder: Path) -> list[Path]:
    """The tables that are read, some of which need not be there; they tell of changes."""
    names = (
        "sensor",
        "calibrated_sensor",
        "scene",
        "sample",
        "sample_data",
        "ego_pose",
        "lidarseg",
        "category",
    )
    return [folder / f"{name}.json" for name in names]


def read_tables(folder: Path, sweeps: bool) -> Tables:
    """Read the tables of a version.

    Args:
        folder: of the tables, such as ``v1.0-trainval``.
        sweeps: whether to keep LIDAR_TOP rows between key frames.

    Raises:
        DataError: a table is missing or damaged, or refers to rows that are not there.
    """
    sensors = _Sensors(folder)
    scene_names, scene_of = _scenes(folder)
    samples = _Samples(folder, scene_of)
    rows = _Rows(folder, sensors, samples, sweeps)
    labels = _lidarseg(folder)
    return Tables(
        scene_names=scene_names,
        channels=sensors.channels,
        folders=tuple(rows.folders),
        categories=_categories(folder),
        labelled=bool(labels),
        sample_scene=samples.scene,
        sample_index=samples.index,
        sample_row=rows.sample_row,
        row_folder=np.array(rows.folder_index, np.int32),
        row_pose=np.array(rows.pose, np.int32),
        row_sensor=np.array(rows.sensor, np.int32),
        row_shape=np.array(rows.shape, np.int32).reshape(-1, 2),
        row_previous=rows.previous(),
        row_file=Strings.of(rows.files),
        ego_poses=_ego_poses(folder / "ego_pose.json", rows.pose_index),
        sensor_poses=sensors.poses,
        sensor_intrinsics=sensors.intrinsics,
        lidar_token=Strings.of(rows.lidar_token),
        lidarseg_file=Strings.of(labels.get(token, "") for token in rows.lidar_token),
    )


class _Sensors:
    """Channels and calibrations."""

    def __init__(self, folder: Path) -> None:
        kinds = {s.token: s for part in read_rows(folder / "sensor.json", _Sensor) for s in part}
        cameras = sorted({s.channel for s in kinds.values() if s.modality == "camera"})
        self.channels = (LIDAR, *cameras)
        column = {channel: index for index, channel in enumerate(self.channels)}
        self.index: dict[str, int] = {}
        self.column: list[int] = []
        """Of each calibrated sensor the index of its channel, -1 for one that is not read (radar)."""
        poses, intrinsics = [], []
        path = folder / "calibrated_sensor.json"
        for row in (row for part in read_rows(path, _Calibrated) for row in part):
            kind = kinds.get(row.sensor_token)
            if kind is None:
                raise _dangling(path, row.token, "sensor", row.sensor_token)
            self.index[row.token] = len(self.column)
            self.column.append(column.get(kind.channel, -1))
            poses.append((*row.rotation, *row.translation))
            intrinsics.append(_matrix(row, path) if kind.modality == "camera" else np.full((3, 3), np.nan))
        self.poses = checked_poses(np.array(poses, np.float64).reshape(-1, 7), path)
        self.intrinsics = np.array(intrinsics, np.float64).reshape(-1, 3, 3)


def _matrix(row: _Calibrated, path: Path) -> F64:
    fits = len(row.camera_intrinsic) == 3 and all(len(line) == 3 for line in row.camera_intrinsic)
    matrix = np.array(row.camera_intrinsic if fits else np.zeros((3, 3)), np.float64)
    upper = matrix[1, 0] == 0 and matrix[2].tolist() == [0, 0, 1]
    if not (upper and np.isfinite(matrix).all() and min(matrix[0, 0], matrix[1, 1]) > 0):
        raise DataError(
            f"expected camera_intrinsic [fx s cx; 0 fy cy; 0 0 1] in {path} for {row.token!r}, "
            f"found {str(row.camera_intrinsic)[:80]}; copy or download the tables again"
        )
    return matrix


def checked_poses(poses: F64, path: Path) -> F64:
    """Poses, (P, 7), with unit quaternions. Raises `DataError` where one is not finite or far from unit."""
    norm = np.linalg.norm(poses[:, :4], axis=1, keepdims=True)
    wrong = ~np.isfinite(poses).all(1) | ~(np.abs(norm[:, 0] - 1) < _UNIT_TOLERANCE)
    if wrong.any():
        raise DataError(
            f"expected unit quaternions (w x y z) and finite translations in {path}, found "
            f"{int(wrong.sum())} other poses, first {poses[wrong][0].tolist()}; "
            "copy or download the tables again"
        )
    poses[:, :4] /= norm
    return poses


def _scenes(folder: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    rows = [row for part in read_rows(folder / "scene.json", _Scene) for row in part]
    names = tuple(row.name for row in rows)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"expected every scene name once in {folder / 'scene.json'}, found {twice!r} again; rename one"
        )
    return names, {row.token: index for index, row in enumerate(rows)}


class _Samples:
    """Samples sorted by scene and time."""

    def __init__(self, folder: Path, scene_of: Mapping[str, int]) -> None:
        path = folder / "sample.json"
        keys: list[tuple[int, int, str]] = []
        for row in (row for part in read_rows(path, _Sample) for row in part):
            if row.scene_token not in scene_of:
                raise _dangling(path, row.token, "scene", row.scene_token)
            keys.append((scene_of[row.scene_token], row.timestamp, row.token))
        keys.sort()
        self.position = {token: place for place, (_, _, token) in enumerate(keys)}
        self.scene = np.array([scene for scene, _, _ in keys], np.int32)
        first = np.searchsorted(self.scene, self.scene)
        self.index = (np.arange(len(keys)) - first).astype(np.int32)


class _Rows:
    """The rows of sample_data that are needed."""

    def __init__(self, folder: Path, sensors: _Sensors, samples: _Samples, sweeps: bool) -> None:
        self.folders: dict[str, int] = {}
        self.folder_index, self.pose, self.sensor, self.shape = (array("i") for _ in range(4))
        self.files: list[str] = []
        self.pose_index: dict[str, int] = {}
        self.sample_row = np.full((len(samples.position), len(sensors.channels)), -1, np.int32)
        self.lidar_token = [""] * len(samples.position)
        self._lidar_rows: dict[str, int] = {}
        self._lidar_before: list[tuple[int, str]] = []
        self._path, self._sensors, self._samples = folder / "sample_data.json", sensors, samples
        for part in read_rows(self._path, _SampleData):
            for row in part:
                if row.is_key_frame or sweeps:
                    self._add(row, sweeps)

    def _add(self, row: _SampleData, sweeps: bool) -> None:
        sensor = self._sensors.index.get(row.calibrated_sensor_token)
        if sensor is None:
            raise _dangling(self._path, row.token, "calibrated_sensor", row.calibrated_sensor_token)
        column = self._sensors.column[sensor]
        if column < 0 or (column > 0 and not row.is_key_frame):
            return
        number = len(self.files)
        if row.is_key_frame:
            place = self._samples.position.get(row.sample_token)
            if place is None:
                raise _dangling(self._path, row.token, "sample", row.sample_token)
            if self.sample_row[place, column] >= 0:
                raise DataError(
                    f"expected one key frame of {self._sensors.channels[column]} for each sample in "
                    f"{self._path}, found another for {row.sample_token!r}; download the tables again"
                )
            self.sample_row[place, column] = number
            if column == 0:
                self.lidar_token[place] = row.token
        if column == 0 and sweeps:
            self._lidar_rows[row.token] = number
            self._lidar_before.append((number, row.prev))
        parent, _, name = row.filename.rpartition("/")
        if not relative(row.filename) or not name:
            raise DataError(
                f"expected file names below the data set's folder in {self._path}, "
                f"found {row.filename[:80]!r}; download the tables again"
            )
        self.files.append(name)
        self.folder_index.append(self.folders.setdefault(parent or ".", len(self.folders)))
        self.pose.append(self.pose_index.setdefault(row.ego_pose_token, len(self.pose_index)))
        self.sensor.append(sensor)
        for size in (row.height or 0, row.width or 0):
            self.shape.append(size if 0 <= size < 1 << 24 else 0)

    def previous(self) -> I32:
        """(R,) int32, row of the LIDAR_TOP sweep before each, -1 where there is none."""
        before = np.full(len(self.files), -1, np.int32)
        for number, token in self._lidar_before:
            before[number] = self._lidar_rows.get(token, -1)
        return before


def relative(filename: str) -> bool:
    """Whether a table's file name stays below the data set's folder."""
    odd = filename.startswith("/") or "\0" in filename or "\\" in filename
    return not odd and ".." not in filename.split("/")


def _ego_poses(path: Path, wanted: Mapping[str, int]) -> F64:
    """(P, 7) float64 of the wanted tokens."""
    poses = np.full((len(wanted), 7), np.nan)
    found = np.zeros(len(wanted), np.bool_)
    rotation = msgspec.json.Decoder(tuple[float, float, float, float])
    translation = msgspec.json.Decoder(tuple[float, float, float])
    for part in read_rows(path, _EgoPose):
        for row in part:
            place = wanted.get(row.token)
            if place is None:
                continue
            try:
                poses[place] = *rotation.decode(row.rotation), *translation.decode(row.translation)
            except msgspec.DecodeError as error:
                raise DataError(
                    f"expected rotation of 4 and translation of 3 numbers in {path} for {row.token[:40]!r}, "
                    f"found something else: {one_line(error)}; download the tables again"
                ) from error
            found[place] = True
    if not found.all():
        token = next(token for token, place in wanted.items() if not found[place])
        raise _dangling(path.with_name("sample_data.json"), "a row", "ego_pose", token)
    return checked_poses(poses, path)


def _lidarseg(folder: Path) -> dict[str, str]:
    """Label file by sample_data token; nothing without the table, or with v1.0-test's empty one."""
    path = folder / "lidarseg.json"
    if not path.is_file():
        return {}
    return {row.sample_data_token: row.filename for part in read_rows(path, _Lidarseg) for row in part}


def _categories(folder: Path) -> dict[str, int]:
    path = folder / "category.json"
    if not path.is_file():
        return {}
    rows = [row for part in read_rows(path, _Category) for row in part]
    return {row.name: row.index for row in rows if row.index is not None}


def _dangling(path: Path, token: str, table: str, missing: str) -> DataError:
    return DataError(
        f"expected every reference of {path} in the table it points to, found {token[:40]!r} with "
        f"{table}_token {missing[:40]!r} that {table}.json lacks; download all tables of one version again"
    )
