"""nuScenes with lidarseg, in the devkit's layout: one scene for each key frame.

- A scene is called ``<scene name>_<place of the sample in it>`` (``scene-0061_00``), its frames are called
  after the cameras' channels.
- The world frame is the LiDAR's own at the time of its sweep (x right, y forward, z up), so points are the
  float32 numbers of the file in the file's order. Cameras and LiDAR fire at different times, and the car
  moves between them; ``cam_from_world`` goes through the ego poses of both times.
- Images are used as they are; ``u = fx x / z + cx``, as in the devkit.
- A key frame is used when the LiDAR sweep and all wanted cameras' images are on the disk.

Layout and schema: https://www.nuscenes.org/nuscenes and
https://github.com/nutonomy/nuscenes-devkit/blob/master/docs/schema_nuscenes.md
"""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path

import numpy as np

from scenelift.config_data import NuScenesData
from scenelift.errors import DataError
from scenelift.files import safe_name
from scenelift.image_files import read_rgb
from scenelift.scenes import Findings, Reopened
from scenelift.scenes.nuscenes.columns import Tables
from scenelift.scenes.nuscenes.files import (
    matrix,
    missing_rows,
    previous_rows,
    read_lidar,
    read_sweep,
    sensor_from_sensor,
)
from scenelift.scenes.nuscenes.findings import find_problems
from scenelift.scenes.nuscenes.index import open_tables
from scenelift.scenes.nuscenes.labels import NUSCENES16, split_scenes
from scenelift.scenes.nuscenes.truth import NuScenesTruth
from scenelift.scenes.resize import resize_image
from scenelift.scenes.rgbd import inverse_rigid, scale_intrinsics
from scenelift.types import I64, Bool, Frame, Frames, Scene


class NuScenes(Reopened):
    """Key frames of nuScenes as a `SceneSource`. Tables are read when the first of them is needed."""

    classes = NUSCENES16

    def __init__(self, config: NuScenesData) -> None:
        self.config = config
        self.folder = Path(config.path)

    def names(self, split: str) -> tuple[str, ...]:
        """Key frames of a split whose files are all on the disk.

        Raises:
            DataError: no data set, damaged tables, a camera that is not there, or no key frame is complete.
        """
        used = self.complete
        if not used.any():
            raise DataError(self._nothing_complete())
        scenes = self.splits[split] if self.splits is not None else frozenset(self.tables.scene_names)
        in_split = np.array([name in scenes for name in self.tables.scene_names], np.bool_)
        chosen = np.flatnonzero(used & in_split[self.tables.sample_scene])
        return tuple(self.all_names[sample] for sample in chosen)

    def frame_count(self, name: str) -> int:
        """Number of cameras. Raises `DataError` for a name that is not there."""
        self._sample(name)
        return len(self.columns)

    def scene(self, name: str) -> Scene:
        """One key frame: the LiDAR's points, read now, and a frame for each camera, read when used.

        Raises:
            DataError: no such key frame, or files are missing or damaged.
        """
        sample = self._sample(name)
        tables, row = self.tables, self._row(sample, 0)
        clouds = [read_lidar(self.folder / tables.path(row))]
        for before in previous_rows(tables, row, self.config.sweeps):
            clouds.append(read_sweep(self.folder, tables, row, before))
        ego_from_lidar = matrix(tables.sensor_poses[tables.row_sensor[row]])
        return Scene(
            name=name,
            points_world=np.concatenate(clouds),
            rgb=None,
            frames=Frames(self.config.cameras, partial(self._read_frame, name, sample)),
            up_world=inverse_rigid(ego_from_lidar)[:3, 2].copy(),
        )

    @property
    def truth(self) -> NuScenesTruth | None:
        """lidarseg labels; ``None`` where the version has no lidarseg table, or an empty one as v1.0-test."""
        if not (self.folder / self.version / "lidarseg.json").is_file() or not self.tables.labelled:
            return None
        return NuScenesTruth(self.folder, self.version, self.tables, self.samples, self.config.sweeps)

    def findings(self) -> Findings:
        """Missing images, sweeps and labels by channel, odd calibrations, contradictions between tables."""
        return find_problems(self)

    # --- what the tables hold -------------------------------------------------------------------------

    @cached_property
    def version(self) -> str:
        """Folder of the tables. Raises `DataError` where it cannot be told which."""
        return find_version(self.folder, self.config.version)

    @cached_property
    def tables(self) -> Tables:
        """The columns of the tables. Raises `DataError`."""
        return open_tables(self.folder / self.version, self.config.sweeps > 0)

    @cached_property
    def all_names(self) -> tuple[str, ...]:
        """A name for each sample, complete or not."""
        tables = self.tables
        scenes = [safe_name(name) for name in tables.scene_names]
        pairs = zip(tables.sample_scene.tolist(), tables.sample_index.tolist(), strict=True)
        return tuple(f"{scenes[scene]}_{index:02d}" for scene, index in pairs)

    @cached_property
    def samples(self) -> dict[str, int]:
        """Index of the sample by name."""
        return {name: sample for sample, name in enumerate(self.all_names)}

    @cached_property
    def splits(self) -> dict[str, frozenset[str]] | None:
        """nuScenes' scenes by split; ``None`` where no official list names one of them."""
        found = split_scenes(self.version, self.config.split, self.tables.scene_names)
        return None if found is None else dict(found)

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """Of each wanted camera its column in ``tables.sample_row``. Raises `DataError`."""
        cameras, there = self.config.cameras, self.tables.channels[1:]
        wrong = [name for name in cameras if name not in there]
        if wrong or not cameras or len(set(cameras)) < len(cameras):
            found = f"{wrong[0]!r}" if wrong else f"{list(cameras)}"
            raise DataError(
                f"expected data.cameras to name, once each, cameras of {self.folder / self.version} "
                f"({', '.join(there) or 'it has none'}), found {found}; set data.cameras"
            )
        return tuple(self.tables.channels.index(name) for name in cameras)

    @cached_property
    def missing(self) -> Bool:
        """(R,) whether a row's file is not on the disk."""
        return missing_rows(self.folder, self.version, self.tables, self.config.sweeps > 0)

    def lacking(self, column: int) -> Bool:
        """(S,) whether a sample has no file of a channel, be it in the table or on the disk."""
        rows: I64 = self.tables.sample_row[:, column].astype(np.int64)
        lost = rows < 0
        lost[~lost] = self.missing[rows[~lost]]
        return lost

    @cached_property
    def complete(self) -> Bool:
        """(S,) whether a sample has its LiDAR sweep and the images of all wanted cameras."""
        lost = np.zeros(len(self.tables.sample_scene), np.bool_)
        for column in (0, *self.columns):
            lost |= self.lacking(column)
        return ~lost

    # --- one key frame --------------------------------------------------------------------------------

    def _sample(self, name: str) -> int:
        sample = self.samples.get(name)
        if sample is None:
            raise DataError(
                f"expected a key frame of {self.folder / self.version}, such as "
                f"{next(iter(self.samples), 'scene-0061_00')}, found a request for {name!r}; check the name"
            )
        return sample

    def _row(self, sample: int, column: int) -> int:
        row = int(self.tables.sample_row[sample, column])
        if row < 0:
            raise DataError(
                f"expected a key frame of {self.tables.channels[column]} for {self.all_names[sample]} in "
                f"{self.folder / self.version / 'sample_data.json'}, found none; "
                "leave the camera out with data.cameras or download the tables again"
            )
        return row

    def _read_frame(self, scene: str, sample: int, camera: str) -> Frame:
        tables, column = self.tables, self.tables.channels.index(camera)
        row, lidar_row = self._row(sample, column), self._row(sample, 0)
        path = self.folder / tables.path(row)
        image = read_rgb(path)
        shape = (image.shape[0], image.shape[1])
        said = (int(tables.row_shape[row, 0]), int(tables.row_shape[row, 1]))
        if min(said) > 0 and said != shape:
            raise DataError(
                f"expected an image of {said[1]} × {said[0]} pixels at {path}, as sample_data.json says, "
                f"found {shape[1]} × {shape[0]}; its intrinsics would not fit: use the original "
                "image, and data.image_size to scale it"
            )
        size = self.config.image_size or shape
        return Frame(
            scene=scene,
            name=camera,
            image=resize_image(image, size),
            intrinsics=scale_intrinsics(tables.sensor_intrinsics[tables.row_sensor[row]], shape, size),
            cam_from_world=sensor_from_sensor(tables, row, lidar_row),
        )

    def _nothing_complete(self) -> str:
        tables = self.tables
        lost = {tables.channels[column]: int(self.lacking(column).sum()) for column in (0, *self.columns)}
        counts = ", ".join(f"{name} {count:,}" for name, count in lost.items() if count)
        return (
            f"expected the files of {len(tables.sample_scene):,} key frames below {self.folder}, found "
            f"none complete (missing: {counts or 'all, as the tables have no sample'}); download the "
            f"archives of {self.version}, or leave out cameras with data.cameras"
        )


def find_version(folder: Path, wanted: str | None) -> str:
    """The folder of tables to read.

    Args:
        folder: of the data set.
        wanted: the one that is configured; ``None`` = the one that is there. v1.0-test does not count beside
            another one: it has no labels.

    Raises:
        DataError: none, or several.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise DataError(f"expected a nuScenes folder at {folder}, found {found}; check the path")
    there = sorted(path.parent.name for path in folder.glob("*/scene.json"))
    if wanted is not None:
        if wanted in there:
            return wanted
        raise DataError(
            f"expected nuScenes tables in {folder / wanted}, found {', '.join(there) or 'no version'}; "
            "set data.version or download the metadata archive"
        )
    if len(there) > 1:
        there = [name for name in there if not name.endswith("test")]
    if len(there) == 1:
        return there[0]
    if there:
        raise DataError(
            f"expected one nuScenes version in {folder}, found {', '.join(there)}; "
            f"choose one, for instance --set data.version={there[-1]}"
        )
    above = (folder / "scene.json").is_file()
    found = "the tables themselves; give the folder above it" if above else "none; download the metadata"
    raise DataError(f"expected nuScenes tables such as v1.0-trainval/scene.json in {folder}, found {found}")
