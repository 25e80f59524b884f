"""KITTI object detection, KITTI odometry with SemanticKITTI, and KITTI-360, as they are downloaded.

Each scan is a scene whose frames are the images of the chosen cameras, named after the cameras; its world is
the Velodyne's frame. `scenelift.scenes.kitti.layout` says where files lie and which splits there are,
`scenelift.scenes.kitti.calib` where cameras stand.

The cameras are triggered when the Velodyne faces forward, so scan and images need no motion between them.
Scans of KITTI-360 are raw: points to the side and behind were measured up to half a turn (0.05 s) away from
the images.
"""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path

import numpy as np

from scenelift.classes import ClassTable
from scenelift.config import KittiData
from scenelift.errors import DataError
from scenelift.files import safe_name
from scenelift.image_files import read_rgb
from scenelift.scenes import Findings, Problem, Reopened
from scenelift.scenes.clouds import Cloud, read_cloud
from scenelift.scenes.folders import some
from scenelift.scenes.kitti.calib import KittiCamera, kitti360_camera, object_camera, sequence_camera
from scenelift.scenes.kitti.labels import (
    CITYSCAPES,
    KITTI_360_LABELS,
    SEMANTIC_KITTI,
    SEMANTIC_KITTI_LABELS,
    TEST_SEQUENCES,
    UNKNOWN,
)
from scenelift.scenes.kitti.layout import CAMERAS, Drive, KittiLayout, find_kitti, split_scans
from scenelift.scenes.label_images import read_label_png
from scenelift.scenes.point_labels import read_point_labels
from scenelift.scenes.resize import resize_image, resize_nearest
from scenelift.scenes.rgbd import scale_intrinsics
from scenelift.types import I64, U8, Frame, Frames, FrameTruth, Scene, SceneTruth

_COLUMNS = 4  # x, y, z, reflectance
_DEFAULT_CAMERA = {"object": "image_2", "odometry": "image_2", "kitti360": "image_00"}


class Kitti(Reopened):
    """A folder of one of KITTI's benchmarks as a `SceneSource` of one scene per scan.

    Nothing is read before it is asked for; only names of files are kept.
    """

    def __init__(self, config: KittiData) -> None:
        self.config = config
        self.folder = Path(config.path)

    @property
    def classes(self) -> ClassTable | None:
        """The 19 of SemanticKITTI, or of Cityscapes for KITTI-360; ``None`` for object detection."""
        return {"odometry": SEMANTIC_KITTI, "kitti360": CITYSCAPES}.get(self.layout.kind)

    @property
    def truth(self) -> KittiTruth | None:
        """Labels of points (SemanticKITTI) or pixels (KITTI-360); ``None`` where there are none."""
        has = ("labels", *(f"semantics/{camera}" for camera in CAMERAS["kitti360"]))
        labelled = any(drive.files.get(part) for drive in self.layout.drives for part in has)
        return KittiTruth(self, self.classes) if labelled and self.classes else None

    def names(self, split: str) -> tuple[str, ...]:
        """Scenes of a split, such as ``08_000123``: see `layout.split_scans`."""
        return tuple(_name(drive, stem) for drive, stem in split_scans(self.layout, split))

    def frame_count(self, name: str) -> int:
        """Cameras that have an image of this scan."""
        return len(self._cameras_of(name))

    def scene(self, name: str) -> Scene:
        """The scan, read now with its calibration, and its frames, read when they are used.

        Raises:
            DataError: no such scene, or a missing or damaged file.
        """
        cloud = self.read_scan(name)
        cameras = {camera: self._camera(name, camera) for camera in self._cameras_of(name)}
        frames = Frames(tuple(cameras), partial(self._read_frame, name, cameras))
        return Scene(name, cloud.points, cloud.rgb, frames)

    def findings(self) -> Findings:
        """Scans without images or labels, and calibrations that cannot be used."""
        try:
            drives, cameras = self.layout.drives, self.cameras
        except DataError as error:
            return Findings({}, (_problem(error, str(self.folder)),))
        problems: list[Problem] = []
        images = 0
        for drive in drives:
            where, stems = drive.key or drive.clouds.parent.name, list(drive.files["clouds"])
            for camera in cameras:
                found = drive.files.get(f"images/{camera}", {})
                without = [stem for stem in stems if stem not in found]
                images += len(stems) - len(without)
                if without:
                    what = f"{len(without):,} of {len(stems):,} scans have no {camera}: {some(without)}"
                    mend = f"unpack the images into {drive.images[camera]}, or choose data.cameras"
                    problems.append(Problem("warning", what, where, mend))
                elif stems:
                    try:
                        self._camera(_name(drive, stems[0]), camera)
                    except DataError as error:
                        problems.append(_problem(error, where))
            problems += self._label_problems(drive, where, stems)
        scans = sum(len(drive.files["clouds"]) for drive in drives)
        if not images:
            what = f"none of {scans:,} scans has an image of {', '.join(cameras)}"
            problems.insert(0, Problem("error", what, str(self.folder), "unpack the images of the benchmark"))
        counts = {"clouds": scans, "images": images, "missing_images": scans * len(cameras) - images}
        return Findings(counts, tuple(problems))

    def _label_problems(self, drive: Drive, where: str, stems: list[str]) -> list[Problem]:
        labels = drive.files.get("labels")
        if self.layout.kind != "odometry" or drive.key in TEST_SEQUENCES or self.truth is None:
            return []
        bare = [stem for stem in stems if stem not in (labels or {})]
        if not bare:
            return []
        what = f"{len(bare):,} of {len(stems):,} scans have no labels: {some(bare)}"
        return [Problem("warning", what, where, "unpack data_odometry_labels.zip, or leave them unlabelled")]

    # --- what lies there -------------------------------------------------------------------------------

    @cached_property
    def layout(self) -> KittiLayout:
        """The files. Raises `DataError` when the folder has none of the layouts."""
        return find_kitti(self.folder)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Those that are used. Raises `DataError` for one that the benchmark does not have."""
        kind = self.layout.kind
        chosen = self.config.cameras or (_DEFAULT_CAMERA[kind],)
        wrong = [camera for camera in chosen if camera not in CAMERAS[kind]]
        if wrong:
            raise DataError(
                f"expected data.cameras of {self.folder} to be among {', '.join(CAMERAS[kind])}, "
                f"found {', '.join(wrong)}; choose from these"
            )
        return chosen

    @cached_property
    def _scans(self) -> dict[str, tuple[Drive, str]]:
        """Drive and stem by scene name, of all splits."""
        return {_name(d, stem): (d, stem) for d in self.layout.drives for stem in d.files["clouds"]}

    def scan(self, name: str) -> tuple[Drive, str]:
        """Drive and stem of a scene. Raises `DataError` for a name that is none."""
        if name not in self._scans:
            raise DataError(
                f"expected a scene of {self.folder} such as {next(iter(self._scans))}, "
                f"found a request for {name!r}; check the name"
            )
        return self._scans[name]

    def _cameras_of(self, name: str) -> tuple[str, ...]:
        drive, stem = self.scan(name)
        return tuple(camera for camera in self.cameras if stem in drive.files.get(f"images/{camera}", {}))

    # --- reading ---------------------------------------------------------------------------------------

    def read_scan(self, name: str) -> Cloud:
        """The points of a scan. Raises `DataError` as `clouds.read_cloud`."""
        drive, stem = self.scan(name)
        return read_cloud(drive.clouds / drive.files["clouds"][stem], _COLUMNS)

    def _camera(self, name: str, camera: str) -> KittiCamera:
        drive, stem = self.scan(name)
        if self.layout.kind == "object":
            return object_camera(drive.calib / f"{stem}.txt", camera)
        if self.layout.kind == "odometry":
            return sequence_camera(drive.calib, camera)
        return kitti360_camera(drive.calib, camera)

    def _read_frame(self, scene: str, cameras: dict[str, KittiCamera], name: str) -> Frame:
        drive, stem = self.scan(scene)
        image = read_rgb(drive.images[name] / drive.files[f"images/{name}"][stem])
        own = (image.shape[0], image.shape[1])
        shape = self.config.image_size or own
        return Frame(
            scene=scene,
            name=name,
            image=resize_image(image, shape),
            intrinsics=scale_intrinsics(cameras[name].intrinsics, own, shape),
            cam_from_world=cameras[name].cam_from_velo,
        )


class KittiTruth:
    """SemanticKITTI's labels of points, KITTI-360's labels of pixels."""

    def __init__(self, source: Kitti, classes: ClassTable) -> None:
        self._source = source
        self.classes = classes

    def frame(self, scene: str, frame: str) -> FrameTruth | None:
        """KITTI-360: labels of a frame in its size; ``None`` where there are none."""
        drive, stem = self._source.scan(scene)
        name = drive.files.get(f"semantics/{frame}", {}).get(stem)
        if name is None:
            return None
        path = drive.semantics[frame] / name
        labels = _labels(read_label_png(path).astype(np.int64), KITTI_360_LABELS, path)
        new = self._source.config.image_size or labels.shape
        return FrameTruth(np.ascontiguousarray(resize_nearest(labels, new), np.uint8))

    def scene(self, scene: str) -> SceneTruth | None:
        """SemanticKITTI: labels and instances of a scan's points; ``None`` where there are none.

        Raises:
            DataError: damaged, another number than the scan has points, or ids that the data set lacks.
        """
        drive, stem = self._source.scan(scene)
        name = drive.files.get("labels", {}).get(stem)
        if name is None or drive.labels is None:
            return None
        path = drive.labels / name
        cloud = self._source.read_scan(scene)
        ids, instances = read_point_labels(path, cloud.rows)
        kept = slice(None) if cloud.kept is None else cloud.kept
        labels = _labels(ids[kept], SEMANTIC_KITTI_LABELS, path)
        return SceneTruth(labels, None if instances is None else instances[kept])


def _labels(ids: I64, look_up: I64, path: Path) -> U8:
    labels = look_up[ids]
    unknown = labels == UNKNOWN
    if unknown.any():
        numbers = [str(number) for number in np.unique(ids[unknown])]
        raise DataError(
            f"expected class ids of the data set at {path}, found {some(numbers)} "
            f"({np.count_nonzero(unknown):,} times); download the labels again, raw and not mapped"
        )
    return labels.astype(np.uint8)


def _name(drive: Drive, stem: str) -> str:
    return safe_name(f"{drive.key}_{stem}" if drive.key else stem)


def _problem(error: DataError, where: str) -> Problem:
    what, _, mend = str(error).rpartition("; ")
    return Problem("error", what, where, mend)
