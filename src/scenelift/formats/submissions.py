"""What the servers of two benchmarks take: SemanticKITTI and nuScenes-lidarseg.

Formats: https://www.semantic-kitti.org/tasks.html, semantic segmentation, and
https://github.com/nutonomy/nuscenes-devkit/tree/master/python-sdk/nuscenes/eval/lidarseg.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from scenelift.classes import ClassTable
from scenelift.config import Config
from scenelift.errors import ConfigError
from scenelift.files import atomic_write, write_json
from scenelift.formats.base import Format, Target
from scenelift.scenes import SceneSource
from scenelift.scenes.kitti.labels import SEMANTIC_KITTI, SEMANTIC_KITTI_RAW
from scenelift.scenes.nuscenes.files import count_points
from scenelift.scenes.nuscenes.labels import NUSCENES16, official_part
from scenelift.types import U8, Prediction, Scene

if TYPE_CHECKING:
    from scenelift.scenes.kitti import Kitti
    from scenelift.scenes.nuscenes import NuScenes

META = {
    "use_camera": True,
    "use_lidar": True,
    "use_radar": False,
    "use_map": False,
    "use_external": True,
}
"""What nuScenes asks of a method: images are trained on, and CLIP and SAM have seen other data."""


class SemanticKitti(Format):
    """``semantickitti/sequences/XX/predictions/NNNNNN.label``: little-endian uint32 raw ids, 0 = none."""

    wants_points = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._source = cast("Kitti", target.source)
        chosen = _ids_in(target.classes, SEMANTIC_KITTI)
        self._raw = np.zeros(256, "<u4")
        self._raw[: len(chosen)] = np.array(SEMANTIC_KITTI_RAW, "<u4")[chosen]

    @classmethod
    def check(cls, source: SceneSource, classes: ClassTable, config: Config) -> None:
        """It takes scans of KITTI odometry and classes of SemanticKITTI."""
        if config.data.source != "kitti" or cast("Kitti", source).layout.kind != "odometry":
            raise _foreign("semantickitti", "KITTI odometry (a folder with sequences/)", config)
        _expect_classes("semantickitti", classes, SEMANTIC_KITTI)

    def places(self, scene: str) -> tuple[Path, ...]:
        """The scan's file."""
        drive, stem = self._source.scan(scene)
        folder = self.target.out / "semantickitti" / "sequences" / drive.key / "predictions"
        return (folder / f"{stem}.label",)

    def points(self, scene: Scene, prediction: Prediction) -> None:
        """Write one id for each row of the scan's file, those without a finite coordinate too."""
        raw = self._raw[prediction.labels]
        kept = self._source.read_scan(scene.name).kept
        if kept is not None:
            rows = np.zeros(len(kept), "<u4")
            rows[kept] = raw
            raw = rows
        atomic_write(self.places(scene.name)[0], raw.tobytes())


class NuScenesLidarseg(Format):
    """``nuscenes/lidarseg/<part>/<token>_lidarseg.bin`` (uint8, 1-16), ``nuscenes/<part>/submission.json``.

    A part is an official split: train, val or test, mini_train or mini_val. Points of added sweeps are
    left out.
    """

    wants_points = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._source = cast("NuScenes", target.source)
        self._parts = {self._part(name) for name in target.names}  # complains before any work
        ids = _ids_in(target.classes, NUSCENES16)
        self._numbers: U8 = np.zeros(256, np.uint8)
        self._numbers[: len(ids)] = np.array(ids, np.uint8) + 1  # 0 is what the benchmark ignores

    @classmethod
    def check(cls, source: SceneSource, classes: ClassTable, config: Config) -> None:
        """It takes official key frames of nuScenes, the benchmark's classes, and a label for every point."""
        if config.data.source != "nuscenes":
            raise _foreign("nuscenes", "nuScenes", config)
        _expect_classes("nuscenes", classes, NUSCENES16)
        if config.predict.source not in ("networks", "fusion+networks"):
            raise ConfigError(
                "--as nuscenes: expected a run whose networks answer, as the benchmark takes a label for "
                f"every point, found predict.source={config.predict.source}; export a recipe that trains"
            )

    def places(self, scene: str) -> tuple[Path, ...]:
        """The key frame's file."""
        token = self._source.tables.lidar_token[self._source.samples[scene]]
        folder = self.target.out / "nuscenes" / "lidarseg" / self._part(scene)
        return (folder / f"{token}_lidarseg.bin",)

    def points(self, scene: Scene, prediction: Prediction) -> None:
        """Write one number for each point of the key frame."""
        tables, sample = self._source.tables, self._source.samples[scene.name]
        rows = count_points(self._source.folder / tables.path(int(tables.sample_row[sample, 0])))
        atomic_write(self.places(scene.name)[0], self._numbers[prediction.labels[:rows]].tobytes())

    def finish(self) -> None:
        """Write what the server wants to know of the method."""
        for part in self._parts:
            write_json(self.target.out / "nuscenes" / part / "submission.json", {"meta": META})

    def _part(self, scene: str) -> str:
        tables = self._source.tables
        of = tables.scene_names[tables.sample_scene[self._source.samples[scene]]]
        part = official_part(self._source.version, of)
        if part is None:
            raise ConfigError(
                f"--as nuscenes: expected key frames of official scenes, found {of}, which no split has; "
                "the server takes no other, use --as ply"
            )
        return part


def _ids_in(classes: ClassTable, official: ClassTable) -> list[int]:
    """Of each class of the run its id in the official table, by name; -1 where it has none."""
    known = {name.casefold(): number for number, name in enumerate(official.names)}
    return [known.get(name.casefold(), -1) for name in classes.names]


def _expect_classes(name: str, classes: ClassTable, official: ClassTable) -> None:
    foreign = [own for own, i in zip(classes.names, _ids_in(classes, official), strict=True) if i < 0]
    if foreign:
        raise ConfigError(
            f"--as {name}: expected the benchmark's classes ({', '.join(official.names)}), found "
            f"{foreign[0]!r}{f' and {len(foreign) - 1} more' if foreign[1:] else ''}; train "
            "without --classes, or name them so"
        )


def _foreign(name: str, wanted: str, config: Config) -> ConfigError:
    return ConfigError(
        f"--as {name}: expected scenes of {wanted}, found data of source {config.data.source}, which have no "
        "such ids; choose another format, for instance ply"
    )
