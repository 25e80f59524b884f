"""What is kept of nuScenes' tables: columns of numbers and of short texts, tens of megabytes for trainval."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from scenelift.types import F64, I32, I64, U8

LIDAR = "LIDAR_TOP"
"""The LiDAR's channel; it has the first column of ``Tables.sample_row``."""


@dataclass(frozen=True, eq=False)
class Strings:
    """Many short texts without an object for each.

    Attributes:
        text: (B,) uint8, all of them in UTF-8, one after the other.
        ends: (N,) int64, where each ends.
    """

    text: U8
    ends: I64

    @classmethod
    def of(cls, items: Iterable[str]) -> Strings:
        """These texts."""
        text, ends = bytearray(), array("q")
        for item in items:
            text += item.encode(errors="surrogatepass")
            ends.append(len(text))
        return cls(np.frombuffer(bytes(text), np.uint8), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index > 0 else 0
        return self.text[start : self.ends[index]].tobytes().decode(errors="surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True, eq=False)
class Tables:
    """The columns that scenes need. S samples, C channels, R rows of sample_data, P ego poses, K sensors.

    Attributes:
        scene_names: in the order of the table.
        channels: LIDAR_TOP, then the cameras by name.
        folders: folders of the files, relative to the data set.
        categories: ``index`` by name of the categories that have one.
        labelled: whether there is a lidarseg table with rows.
        sample_scene: (S,) int32, index into ``scene_names``; samples are sorted by scene, then by time.
        sample_index: (S,) int32, the sample's place in its scene.
        sample_row: (S, C) int32, row of the channel's key frame, -1 where there is none.
        row_folder: (R,) int32, index into ``folders``.
        row_pose: (R,) int32, index into ``ego_poses``.
        row_sensor: (R,) int32, index into ``sensor_poses``.
        row_shape: (R, 2) int32, (height, width) of an image, 0 where the table does not say.
        row_previous: (R,) int32, row of the sweep before, -1 where there is none or sweeps were not read.
        row_file: (R,) file names.
        ego_poses: (P, 7) float64, global_from_ego: quaternion w x y z, translation in metres.
        sensor_poses: (K, 7) float64, ego_from_sensor, alike.
        sensor_intrinsics: (K, 3, 3) float64, pixels; NaN for what is no camera.
        lidar_token: (S,) sample_data token of the sample's LIDAR_TOP key frame, "" where there is none.
        lidarseg_file: (S,) label file relative to the data set, "" where the table has none.
    """

    scene_names: tuple[str, ...]
    channels: tuple[str, ...]
    folders: tuple[str, ...]
    categories: Mapping[str, int]
    labelled: bool
    sample_scene: I32
    sample_index: I32
    sample_row: I32
    row_folder: I32
    row_pose: I32
    row_sensor: I32
    row_shape: I32
    row_previous: I32
    row_file: Strings
    ego_poses: F64
    sensor_poses: F64
    sensor_intrinsics: F64
    lidar_token: Strings
    lidarseg_file: Strings

    def path(self, row: int) -> str:
        """A row's file, relative to the data set's folder."""
        return f"{self.folders[self.row_folder[row]]}/{self.row_file[row]}"
