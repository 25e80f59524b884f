"""Ground truth of nuScenes: lidarseg labels of key frames' points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from scenelift.errors import DataError
from scenelift.scenes.nuscenes.columns import Tables
from scenelift.scenes.nuscenes.files import (
    count_points,
    previous_rows,
    read_raw_labels,
    read_sweep,
)
from scenelift.scenes.nuscenes.labels import NUSCENES16, category_fault, nuscenes16_from_raw
from scenelift.scenes.nuscenes.tables import relative
from scenelift.types import IGNORE, U8, FrameTruth, SceneTruth


class NuScenesTruth:
    """lidarseg as a `TruthSource`; there are no labels of pixels.

    Args:
        folder: of the data set.
        version: such as ``v1.0-trainval``.
        tables: of this version.
        samples: index of the sample by scene name.
        sweeps: how many earlier sweeps the clouds hold.
    """

    classes = NUSCENES16

    def __init__(
        self, folder: Path, version: str, tables: Tables, samples: Mapping[str, int], sweeps: int
    ) -> None:
        self._folder, self._version, self._tables = folder, version, tables
        self._samples, self._sweeps = samples, sweeps

    def frame(self, scene: str, frame: str) -> FrameTruth | None:
        """Nothing: nuScenes has no labels of pixels."""
        return None

    def scene(self, scene: str) -> SceneTruth | None:
        """Labels of the key frame's points, then `IGNORE` for points of earlier sweeps; ``None`` without.

        Raises:
            DataError: the table or the file is missing, damaged, or of another sweep, or the category table
                contradicts nuScenes-lidarseg.
        """
        raw = self.raw(scene)
        if raw is None:
            return None
        row = int(self._tables.sample_row[self._samples[scene], 0])
        labels = [nuscenes16_from_raw()[raw]]
        for before in previous_rows(self._tables, row, self._sweeps):
            added = read_sweep(self._folder, self._tables, row, before)
            labels.append(np.full(len(added), IGNORE, np.uint8))
        return SceneTruth(np.concatenate(labels))

    def raw(self, scene: str) -> U8 | None:
        """The raw ids 0-31 of the key frame's points, (N,) uint8. Raises `DataError` as `scene` does."""
        tables, sample = self._tables, self._samples.get(scene)
        if sample is None:
            raise DataError(
                f"expected a scene of {self._folder}, found a request for {scene!r}; check the name"
            )
        filename, token = tables.lidarseg_file[sample], tables.lidar_token[sample]
        if not filename:
            return None
        table = self._folder / self._version / "lidarseg.json"
        if fault := category_fault(tables.categories):
            raise DataError(
                f"expected the categories of nuScenes-lidarseg in {table.with_name('category.json')}, "
                f"found that {fault}; take category.json from the nuScenes-lidarseg download"
            )
        if not relative(filename) or PurePosixPath(filename).name != f"{token}_lidarseg.bin":
            raise DataError(
                f"expected labels of sweep {token} of {scene} in a file {token}_lidarseg.bin in {table}, "
                f"found {filename[:120]!r}; download the lidarseg tables again"
            )
        lidar = self._folder / tables.path(int(tables.sample_row[sample, 0]))
        return read_raw_labels(self._folder / filename, count_points(lidar))
