"""The columns of nuScenes' tables, kept in the user's cache: the second open reads a few megabytes."""

from __future__ import annotations

import json
import logging
import zlib
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from scenelift.errors import OutputError
from scenelift.files import atomic_write
from scenelift.scenes.index import index_path, stamp
from scenelift.scenes.nuscenes.columns import Strings, Tables
from scenelift.scenes.nuscenes.tables import read_tables, table_files

_KIND = "nuscenes-tables-1"
_ARRAYS = (
    "sample_scene",
    "sample_index",
    "sample_row",
    "row_folder",
    "row_pose",
    "row_sensor",
    "row_shape",
    "row_previous",
    "ego_poses",
    "sensor_poses",
    "sensor_intrinsics",
)
_STRINGS = ("row_file", "lidar_token", "lidarseg_file")

_log = logging.getLogger(__name__)


def open_tables(folder: Path, sweeps: bool) -> Tables:
    """The tables of a version from the index, or read anew and put there where they have changed.

    Args:
        folder: of the tables, such as ``v1.0-trainval``.
        sweeps: whether LIDAR_TOP rows between key frames are wanted.

    Raises:
        DataError: as `read_tables`.
    """
    path = index_path(folder, f"{_KIND}{'-sweeps' if sweeps else ''}", ".safetensors")
    now = json.dumps(stamp(table_files(folder)))
    tables = _load(path, now)
    if tables is None:
        tables = read_tables(folder, sweeps)
        _keep(path, tables, now)
    return tables


def _load(path: Path, now: str) -> Tables | None:
    """What was kept; ``None`` where nothing is, tables have changed since, or the file is damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="numpy") as stored:
            about = stored.metadata() or {}
            if about.get("stamp") != now:
                return None
            arrays: dict[str, npt.NDArray[Any]] = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        if about["sum"] != _checksum(arrays):
            return None
        lists = json.loads(about["lists"])
        columns: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
        columns.update((name, Strings(arrays[name], arrays[f"{name}.ends"])) for name in _STRINGS)
        return Tables(
            scene_names=tuple(lists["scene_names"]),
            channels=tuple(lists["channels"]),
            folders=tuple(lists["folders"]),
            categories=dict(lists["categories"]),
            labelled=bool(lists["labelled"]),
            **columns,
        )
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return None


def _keep(path: Path, tables: Tables, now: str) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {name: getattr(tables, name) for name in _ARRAYS}
    for name in _STRINGS:
        strings: Strings = getattr(tables, name)
        arrays[name], arrays[f"{name}.ends"] = strings.text, strings.ends
    lists = {
        "scene_names": tables.scene_names,
        "channels": tables.channels,
        "folders": tables.folders,
        "categories": dict(tables.categories),
        "labelled": tables.labelled,
    }
    about = {"stamp": now, "lists": json.dumps(lists), "sum": _checksum(arrays)}
    try:
        atomic_write(path, save(arrays, about))
    except OutputError as error:
        _log.warning("the index of these tables cannot be kept, so opening stays slow: %s", error)


def _checksum(arrays: dict[str, npt.NDArray[Any]]) -> str:
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(arrays[name].tobytes(), zlib.crc32(name.encode(), value))
    return str(value)
