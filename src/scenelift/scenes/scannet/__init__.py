"""ScanNet v2 as its download script leaves it: meshes, frames exported or in ``.sens`` recordings, labels.

`scenelift.scenes.scannet.layout` says what lies where, `frames` reads frames, `labels` ground
truth. The cloud of a scene is the vertices of ``<id>_vh_clean_2.ply``. ``data.axis_align`` applies the matrix
of ``<id>.txt`` to cloud and cameras alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from scenelift import geometry
from scenelift.classes import ClassTable
from scenelift.config import ScanNetData
from scenelift.errors import DataError
from scenelift.files import read_ply_points
from scenelift.scenes import Findings, Reopened
from scenelift.scenes.resize import resize_nearest
from scenelift.scenes.scannet import labels
from scenelift.scenes.scannet.findings import find_problems
from scenelift.scenes.scannet.frames import frame_names, frame_shape, frames_of, read_axis_alignment
from scenelift.scenes.scannet.layout import (
    AGGREGATION,
    INFO,
    LABEL,
    LABELS,
    MESH,
    SEGMENTS,
    SPLITS,
    Scan,
    find_scans,
    official_split,
)
from scenelift.types import I32, FrameTruth, Scene, SceneTruth


class ScanNet(Reopened):
    """A ScanNet folder as a `SceneSource`.

    What lies in the folder is found when it is first asked for, and kept.
    """

    def __init__(self, config: ScanNetData) -> None:
        self.config = config

    @property
    def classes(self) -> ClassTable:
        """The 20 or 200 classes of ``data.labels``."""
        return labels.class_table(self.config.labels)

    @cached_property
    def truth(self) -> ScanNetTruth:
        """The labels, read when they are asked for."""
        return ScanNetTruth(self)

    def names(self, split: str) -> tuple[str, ...]:
        """Scans of the official ``"train"``, ``"val"`` or ``"test"`` that lie there with a mesh and frames.

        Raises:
            DataError: nothing of ScanNet lies there, or no scan of any split can be used.
        """
        usable = {name for name, scan in self._scans.items() if not scan.lacks(self.config.frames)}
        if not any(usable.intersection(official_split(any_split)) for any_split in SPLITS):
            raise DataError(self._why_nothing())
        return tuple(name for name in official_split(split) if name in usable)

    def frame_count(self, name: str) -> int:
        """Frames with a finite pose. Raises `DataError` for a recording that is cut off."""
        return len(frame_names(self.scan(name), self.config))

    def scene(self, name: str) -> Scene:
        """One scan; its frames are read when they are used.

        Raises:
            DataError: its files are missing or damaged, or a pose is not a rigid motion.
        """
        scan = self.scan(name)
        aligned_from_world = np.eye(4)
        points_world, rgb = read_ply_points(scan.file(MESH))
        if self.config.axis_align:
            aligned_from_world = read_axis_alignment(scan.file(INFO))
            points = torch.from_numpy(points_world).double()
            points_world = geometry.transform(points, torch.from_numpy(aligned_from_world)).float().numpy()
        return Scene(name, points_world, rgb, frames_of(scan, self.config, aligned_from_world))

    def superpoints(self, name: str) -> I32:
        """The over-segmentation of the mesh: (N,) int32, a segment's id for each point of the scene.

        Raises:
            DataError: the segs.json is missing or damaged, or belongs to another mesh.
        """
        scan = self.scan(name)
        path, mesh = scan.file(SEGMENTS), scan.file(MESH)
        segments = labels.read_segments(path)
        labels.check_vertices(len(segments), labels.mesh_vertices(mesh), path, mesh)
        return segments

    def scan(self, name: str) -> Scan:
        """The files of a scan. Raises `DataError` when it is not there or lacks mesh or frames."""
        scan = self._scans.get(name)
        lacks = "no such scan" if scan is None else scan.lacks(self.config.frames)
        if scan is None or lacks:
            found = lacks if scan is None else f"it without {lacks}"
            raise DataError(
                f"expected scan {name!r} with mesh and frames in {self.config.path}, found {found}; "
                "download its files"
            )
        return scan

    def findings(self) -> Findings:
        """Scans that are absent or incomplete, frames that are left out, as far as names and sizes tell."""
        return find_problems(self.config, self._scans)

    @cached_property
    def _scans(self) -> Mapping[str, Scan]:
        return find_scans(Path(self.config.path))

    def _why_nothing(self) -> str:
        lacks = [scan.lacks(self.config.frames) or "a place in the splits" for scan in self._scans.values()]
        counts = ", ".join(f"{lacks.count(what)} without {what}" for what in sorted(set(lacks)))
        kinds = {"auto": "scannet_frames_25k or <id>.sens", "25k": "scannet_frames_25k", "sens": "<id>.sens"}
        return (
            f"expected scans with <id>{MESH} and frames ({kinds[self.config.frames]}) in {self.config.path}, "
            f"found {len(lacks)} scans, {counts}; download what is missing"
        )


class ScanNetTruth:
    """Ground truth of a `ScanNet` as a `TruthSource`."""

    def __init__(self, source: ScanNet) -> None:
        self.source = source
        self.classes = source.classes

    def frame(self, scene: str, frame: str) -> FrameTruth | None:
        """Labels of a frame in the frame's size, without objects: ScanNet numbers those anew in each frame.

        ``None`` for ScanNet200, and where there is no exported label image of this name.

        Raises:
            DataError: the image is damaged or holds ids that nyu40 does not have.
        """
        scan, config = self.source.scan(scene), self.source.config
        path = scan.frame_file(LABEL, frame)
        if config.labels != "scannet20" or not path.is_file():
            return None
        found = labels.read_nyu40_image(path, scan.id)
        return FrameTruth(resize_nearest(found, frame_shape(scan, config, frame)).astype(np.uint8))

    def scene(self, scene: str) -> SceneTruth | None:
        """Labels and objects of the mesh's vertices; ``None`` where the scan is not annotated (test).

        Raises:
            DataError: files are damaged, belong to another mesh, or hold unknown ids.
        """
        scan = self.source.scan(scene)
        is_200 = self.source.config.labels == "scannet200"
        instances, found = None, None
        if {SEGMENTS, AGGREGATION} <= scan.files:
            segments = self.source.superpoints(scene)
            group, instances, categories = labels.read_objects(scan.file(AGGREGATION), segments)
            found = labels.labels_200(group, categories, self._train_ids_200) if is_200 else None
        if not is_200 and LABELS in scan.files:
            found = labels.read_nyu40_points(scan.file(LABELS), scan.id)
            mesh = scan.file(MESH)
            labels.check_vertices(len(found), labels.mesh_vertices(mesh), scan.file(LABELS), mesh)
        return None if found is None else SceneTruth(found, instances)

    @cached_property
    def _train_ids_200(self) -> Mapping[str, int]:
        path = Path(self.source.config.path) / labels.TSV
        return labels.train_ids_200(path if path.is_file() else None)
