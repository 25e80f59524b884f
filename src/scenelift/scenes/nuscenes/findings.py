"""What is wrong with a copy of nuScenes, as far as tables and lists of files tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from scenelift.config_data import NuScenesData
from scenelift.errors import DataError
from scenelift.scenes import Findings, Problem
from scenelift.scenes.folders import looks_whole, some
from scenelift.scenes.nuscenes.columns import LIDAR, Tables
from scenelift.scenes.nuscenes.files import missing_labels, previous_rows
from scenelift.scenes.nuscenes.labels import category_fault
from scenelift.scenes.rgbd import camera_fault
from scenelift.types import Bool

LOOKED_AT = 2000
"""Images whose first and last bytes are looked at, spread over the data set: opening all 200,000 of a network
file system takes a quarter of an hour."""


class _Source(Protocol):
    """What is asked of `scenelift.scenes.nuscenes.NuScenes`."""

    config: NuScenesData
    folder: Path

    @property
    def version(self) -> str: ...
    @property
    def tables(self) -> Tables: ...
    @property
    def all_names(self) -> tuple[str, ...]: ...
    @property
    def splits(self) -> dict[str, frozenset[str]] | None: ...
    @property
    def columns(self) -> tuple[int, ...]: ...
    @property
    def missing(self) -> Bool: ...
    @property
    def complete(self) -> Bool: ...
    def lacking(self, column: int) -> Bool: ...


def find_problems(source: _Source) -> Findings:
    """Everything that can be told without reading images and clouds; raises nothing for it."""
    try:
        complete = source.complete
        tables = source.tables
        counts = {
            "scenes": len(tables.scene_names),
            "key_frames": len(complete),
            "incomplete_key_frames": int((~complete).sum()),
        }
        problems = [*_files(source), *_splits(source, counts), *_cameras(source)]
        problems += _sweeps(source, counts) if source.config.sweeps else []
        problems += _labels(source, counts)
        return Findings(counts, tuple(problems), _doubtful(source, counts))
    except DataError as error:
        what, _, mend = str(error).rpartition("; ")
        return Findings(problems=(Problem("error", what or mend, str(source.folder), mend),))


def _files(source: _Source) -> list[Problem]:
    """Channels of which files are missing: archives that were not downloaded."""
    problems, total = [], len(source.complete)
    left = int(source.complete.sum())
    if total == 0:
        tables = str(source.folder / source.version)
        return [Problem("error", "sample.json holds no key frame", tables, "download the tables again")]
    for column in (0, *source.columns):
        lost = source.lacking(column)
        if not lost.any():
            continue
        channel, count = source.tables.channels[column], int(lost.sum())
        names = [source.all_names[sample] for sample in np.flatnonzero(lost)[:4]]
        shown = some([*names, *[""] * (count - len(names))])
        mend = f"download the missing archives of {source.version} (…_blobs) into the same folder"
        if channel != LIDAR:
            mend += f", or leave {channel} out with data.cameras"
        what = (
            f"{count:,} of {total:,} key frames have no file of {channel}: {shown}; {left:,} key frames "
            "are complete and used"
        )
        where = str(source.folder / "samples" / channel)
        problems.append(Problem("warning" if left else "error", what, where, mend))
    return problems


def _splits(source: _Source, counts: dict[str, int]) -> list[Problem]:
    names, where = source.tables.scene_names, str(source.folder / source.version)
    if source.splits is None:
        what = f"none of the {len(names)} scenes is in nuScenes' official lists; all are used for both splits"
        mend = "nothing to do for data of your own; scores then come from scenes that were learned from"
        return [Problem("warning", what, where, mend)]
    counts["scenes_in_no_split"] = len(set(names) - source.splits["train"] - source.splits["val"])
    problems = []
    for split, scenes in source.splits.items():
        if not scenes and "test" not in source.version:
            what = f"no scene of the {split} split ({source.config.split}) is among the {len(names)} scenes"
            mend = "download the version that has them, or choose another data.split"
            problems.append(Problem("warning", what, where, mend))
    return problems


def _cameras(source: _Source) -> list[Problem]:
    """Intrinsics that cannot belong to images of the size the tables state."""
    tables, problems = source.tables, []
    for column in source.columns:
        rows = tables.sample_row[:, column]
        rows = rows[rows >= 0]
        kinds = np.unique(np.column_stack([tables.row_sensor[rows], tables.row_shape[rows]]), axis=0)
        for sensor, height, width in kinds.tolist():
            if min(height, width) == 0:
                continue
            if fault := camera_fault(tables.sensor_intrinsics[sensor], (height, width)):
                where = str(source.folder / source.version / "calibrated_sensor.json")
                mend = "check the table against the original images"
                problems.append(Problem("warning", f"{tables.channels[column]}: {fault}", where, mend))
                break
    return problems


def _sweeps(source: _Source, counts: dict[str, int]) -> list[Problem]:
    tables, wanted = source.tables, set[int]()
    for row in tables.sample_row[source.complete, 0].tolist():
        wanted.update(previous_rows(tables, row, source.config.sweeps))
    rows = np.array(sorted(wanted), np.int64)
    lost = rows[source.missing[rows]]
    counts["sweeps"], counts["missing_sweeps"] = len(rows), len(lost)
    if not len(lost):
        return []
    what = f"{len(lost):,} of {len(rows):,} earlier LiDAR sweeps are missing: {tables.path(int(lost[0]))}, …"
    mend = "download the sweeps of LIDAR_TOP, or set data.sweeps=0"
    return [Problem("error", what, str(source.folder), mend)]


def _labels(source: _Source, counts: dict[str, int]) -> list[Problem]:
    tables, folder = source.tables, source.folder / source.version
    if not tables.labelled:
        if "test" in source.version:
            return []
        what, mend = (
            "there are no labels in lidarseg.json, so nothing can be evaluated",
            "download nuScenes-lidarseg",
        )
        return [Problem("warning", what, str(folder), mend)]
    problems = []
    if fault := category_fault(tables.categories):
        mend = "take category.json from the nuScenes-lidarseg download"
        problems.append(Problem("error", fault, str(folder / "category.json"), mend))
    unlisted, odd = [], []
    lost = missing_labels(source.folder, source.version, tables) & source.complete
    for sample in np.flatnonzero(source.complete).tolist():
        filename = tables.lidarseg_file[sample]
        if not filename:
            unlisted.append(source.all_names[sample])
        elif filename.rpartition("/")[2] != f"{tables.lidar_token[sample]}_lidarseg.bin":
            odd.append(source.all_names[sample])
    counts["key_frames_without_labels"] = len(unlisted) + int(lost.sum())
    if odd:
        what = f"{len(odd):,} key frames have label files named after another sweep: {some(odd)}"
        mend = "download the lidarseg tables again"
        problems.append(Problem("error", what, str(folder / "lidarseg.json"), mend))
    if unlisted:
        what = f"{len(unlisted):,} key frames have no labels in lidarseg.json: {some(unlisted)}"
        mend = "they are not evaluated; nothing to do if that is known"
        problems.append(Problem("warning", what, str(folder / "lidarseg.json"), mend))
    if lost.any():
        first = tables.lidarseg_file[int(np.flatnonzero(lost)[0])]
        what = f"{int(lost.sum()):,} label files are missing, first {first}"
        mend = "download nuScenes-lidarseg into the same folder"
        problems.append(Problem("error", what, str(source.folder / "lidarseg"), mend))
    return problems


def _doubtful(source: _Source, counts: dict[str, int]) -> Mapping[str, tuple[str, ...]]:
    """Frames whose files do not begin and end as whole images do, among at most `LOOKED_AT`."""
    tables = source.tables
    images = [(s, c) for s in np.flatnonzero(source.complete).tolist() for c in source.columns]
    step = max(1, -(-len(images) // LOOKED_AT))
    counts["images_looked_at"] = len(images[::step])
    found: dict[str, list[str]] = defaultdict(list)
    for sample, column in images[::step]:
        if not looks_whole(source.folder / tables.path(int(tables.sample_row[sample, column]))):
            found[source.all_names[sample]].append(tables.channels[column])
    return {name: tuple(channels) for name, channels in found.items()}
