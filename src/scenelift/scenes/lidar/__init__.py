"""Clouds and camera images of someone's own vehicle or robot, with a calib.json.

Each cloud is a scene, named after its file; its frames are the cameras' images that belong to it, named
after the cameras. The world of a scene is the LiDAR's frame at the time of the cloud.
`scenelift.scenes.lidar.layout` says which files there are and which image belongs to which cloud,
`scenelift.scenes.lidar.calib` what calib.json holds.

An image taken earlier or later than its cloud saw the world from another place. With poses.txt its camera
stands where the vehicle was at the image's time; without, the gap is reported. Points of one cloud are taken
as measured at one time: sweeps are not unrolled.
"""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path

import numpy as np

from scenelift.classes import ClassTable
from scenelift.config import LidarData
from scenelift.errors import DataError
from scenelift.files import safe_name
from scenelift.image_files import read_rgb
from scenelift.scenes import Findings, Problem, Reopened
from scenelift.scenes.clouds import Cloud, read_cloud
from scenelift.scenes.folders import some
from scenelift.scenes.images.layout import FileClasses, read_classes
from scenelift.scenes.label_images import read_label_png
from scenelift.scenes.lidar.calib import Calibration, Camera, read_calibration
from scenelift.scenes.lidar.layout import (
    EgoMotion,
    LidarLayout,
    Match,
    find_files,
    match_images,
    read_poses,
    times_ns,
)
from scenelift.scenes.point_labels import read_point_labels
from scenelift.scenes.resize import resize_image, resize_nearest
from scenelift.scenes.rgbd import scale_intrinsics
from scenelift.scenes.undistort import Undistorter
from scenelift.types import F64, U8, Frame, Frames, FrameTruth, Scene, SceneTruth

_WORTH_A_WORD_NS = 1_000_000
"""A vehicle at 20 m/s moves 2 cm in a millisecond: larger gaps without poses are reported."""


class Lidar(Reopened):
    """A folder of clouds and camera images as a `SceneSource` of one scene per cloud; both splits are all.

    Nothing is read before it is asked for; kept are file names, the calibration, poses, and one map of
    pixels for each camera with lens distortion.
    """

    def __init__(self, config: LidarData) -> None:
        self.config = config
        self.folder = Path(config.path)

    @property
    def classes(self) -> ClassTable | None:
        """Those of classes.json; ``None`` without it. Raises `DataError` if it is damaged."""
        return self.file_classes.table if self.file_classes else None

    @property
    def truth(self) -> LidarTruth | None:
        """Labels of points and pixels; ``None`` where there are none, or no classes.json to name them."""
        labelled = self.layout.labels or any(self.layout.image_labels.values())
        return LidarTruth(self, self.file_classes) if labelled and self.file_classes else None

    def names(self, split: str) -> tuple[str, ...]:
        """One scene per cloud, the same for either split. Raises `DataError` when there are no clouds."""
        return tuple(self._stems)

    def frame_count(self, name: str) -> int:
        """Cameras that have an image of this cloud."""
        return len(self.matches(name))

    def scene(self, name: str) -> Scene:
        """The cloud, read now, and its frames, read when they are used.

        Raises:
            DataError: no such scene, or a missing or damaged file.
        """
        cloud = self.read_cloud(name)
        read = partial(self._read_frame, name, cloud.origin_world)
        frames = Frames(tuple(self.matches(name)), read)
        return Scene(safe_name(name), cloud.points, cloud.rgb, frames, self.calibration.up_lidar)

    def findings(self) -> Findings:
        """Cameras without images or calibration, clouds without images, labels without classes."""
        try:
            problems = [*self._camera_problems(), *self._match_problems(), *self._label_problems()]
        except DataError as error:
            what, _, mend = str(error).rpartition("; ")
            return Findings({}, (Problem("error", what, str(self.folder), mend),))
        clouds, cameras = len(self._stems), len(self.calibration.cameras)
        found = sum(map(len, self._matches.values()))
        counts = {"clouds": clouds, "images": found, "missing_images": clouds * cameras - found}
        return Findings(counts, tuple(problems))

    # --- what lies there -------------------------------------------------------------------------------

    @cached_property
    def layout(self) -> LidarLayout:
        """The files. Raises `DataError` when there are no clouds."""
        return find_files(self.folder)

    @cached_property
    def calibration(self) -> Calibration:
        """calib.json. Raises `DataError` if it is missing or wrong."""
        return read_calibration(self.folder / "calib.json")

    @cached_property
    def file_classes(self) -> FileClasses | None:
        """classes.json, if there is one. Raises `DataError` if it is damaged."""
        path = self.folder / "classes.json"
        return read_classes(path) if path.is_file() else None

    @cached_property
    def _stems(self) -> dict[str, str]:
        """Stem of the cloud by scene name."""
        return {safe_name(stem): stem for stem in self.layout.clouds}

    def stem(self, name: str) -> str:
        """Stem of a scene's files. Raises `DataError` for a name that is none."""
        if name not in self._stems:
            raise DataError(
                f"expected a scene of {self.folder} such as {some(list(self._stems), 2)}, "
                f"found a request for {name!r}; check the name"
            )
        return self._stems[name]

    @cached_property
    def _matches(self) -> dict[str, dict[str, Match]]:
        """By camera of calib.json: the image of each cloud that has one."""
        unit, gap = self.calibration.time_unit, self.config.max_time_gap_s
        return {
            name: match_images(
                self.layout.clouds, self.layout.images.get(name, {}), unit, camera.time_offset_s, gap
            )
            for name, camera in self.calibration.cameras.items()
        }

    def matches(self, name: str) -> dict[str, Match]:
        """The image of each camera that has one of this scene."""
        stem = self.stem(name)
        return {camera: found[stem] for camera, found in self._matches.items() if stem in found}

    @cached_property
    def _motion(self) -> EgoMotion | None:
        path = self.folder / "poses.txt"
        times = times_ns(self.layout.clouds, self.calibration.time_unit)
        if not path.is_file() or times is None:
            return None
        poses = read_poses(path, len(self.layout.clouds))
        nanoseconds = np.array(list(times.values()), np.int64)
        order = np.argsort(nanoseconds, kind="stable")
        return EgoMotion((nanoseconds[order] - nanoseconds.min()) / 1e9, poses[order])

    @cached_property
    def _start_ns(self) -> int:
        times = times_ns(self.layout.clouds, self.calibration.time_unit)
        return min(times.values()) if times else 0

    # --- reading ---------------------------------------------------------------------------------------

    def read_cloud(self, name: str) -> Cloud:
        """The cloud of a scene. Raises `DataError` as `clouds.read_cloud`."""
        path = self.folder / "lidar" / self.layout.clouds[self.stem(name)]
        return read_cloud(path, self.calibration.point_columns)

    def cam_from_lidar(self, name: str, camera: str) -> F64:
        """(4, 4) from the LiDAR's frame at the time of the cloud to the camera at the time of its image."""
        extrinsics = self.calibration.cameras[camera].extrinsics
        delay_ns = self.matches(name)[camera].delay_ns
        if self._motion is None or delay_ns == 0:
            return extrinsics
        stem = self.stem(name)
        times = times_ns([stem], self.calibration.time_unit) or {}
        cloud_s = (times[stem] - self._start_ns) / 1e9
        then, now = self._motion.at(cloud_s), self._motion.at(cloud_s + delay_ns / 1e9)
        moved: F64 = extrinsics @ np.linalg.inv(now) @ then
        return moved

    @cached_property
    def _lenses(self) -> dict[str, Undistorter]:
        return {
            name: Undistorter(
                camera.matrix, camera.shape, camera.distortion.model, camera.distortion.coefficients
            )
            for name, camera in self.calibration.cameras.items()
        }

    def _read_frame(self, scene: str, origin_lidar: F64, name: str) -> Frame:
        camera = self.calibration.cameras[name]
        path = self._image_path(scene, name)
        image = read_rgb(path)
        _expect_shape(image, camera, name, path)
        shape = self.config.image_size or camera.shape
        cam_from_world = self.cam_from_lidar(scene, name)
        cam_from_world[:3, 3] += cam_from_world[:3, :3] @ origin_lidar
        return Frame(
            scene=safe_name(scene),
            name=name,
            image=resize_image(self._lenses[name].image(image), shape),
            intrinsics=scale_intrinsics(camera.matrix, camera.shape, shape),
            cam_from_world=cam_from_world,
        )

    def _image_path(self, scene: str, camera: str) -> Path:
        match = self.matches(scene)[camera]
        return self.folder / "cameras" / camera / self.layout.images[camera][match.stem]

    def read_label_image(self, scene: str, camera: str) -> U8 | None:
        """Raw ids, (H, W), of the frame's pixels as the ideal camera sees them; `None` where not labelled."""
        match = self.matches(scene).get(camera)
        name = self.layout.image_labels.get(camera, {}).get(match.stem) if match else None
        if name is None:
            return None
        path = self.folder / "image_labels" / camera / name
        ids = read_label_png(path)
        _expect_shape(ids, self.calibration.cameras[camera], camera, path)
        ids = self._lenses[camera].nearest(ids)
        return np.asarray(resize_nearest(ids, self.config.image_size or ids.shape), np.uint8)

    # --- findings --------------------------------------------------------------------------------------

    def _camera_problems(self) -> list[Problem]:
        known, there = self.calibration.cameras, self.layout.images
        problems = []
        for name in (name for name in known if name not in there):
            what = f"camera {name} of calib.json has no folder cameras/{name}"
            problems.append(Problem("warning", what, name, "add its images or take it out of calib.json"))
        for name in (name for name in there if name not in known):
            what = f"cameras/{name} is not in calib.json, so its {len(there[name]):,} images are not used"
            problems.append(Problem("warning", what, name, f'add "{name}" to the cameras of calib.json'))
        return problems

    def _match_problems(self) -> list[Problem]:
        problems, stems = [], list(self.layout.clouds)
        cameras = [name for name in self._matches if self.layout.images.get(name)]
        if not any(self._matches.values()):
            first = {name: next(iter(self.layout.images[name])) for name in cameras}
            what = f"no image belongs to a cloud: clouds are named {stems[0]}, images {first or '(none)'}"
            mend = "give images and clouds the same names, or time stamps (data.max_time_gap_s, time_unit)"
            return [Problem("error", what, str(self.folder), mend)]
        for name in cameras:
            without = [stem for stem in stems if stem not in self._matches[name]]
            if without:
                what = f"{len(without):,} of {len(stems):,} clouds have no image of {name}: {some(without)}"
                mend = "add images, or raise data.max_time_gap_s if names are time stamps"
                problems.append(Problem("warning", what, name, mend))
        late = max((abs(m.delay_ns) for found in self._matches.values() for m in found.values()), default=0)
        if self._motion is None and late > _WORTH_A_WORD_NS:
            what = f"images lie up to {late / 1e6:.0f} ms from their clouds, and there is no poses.txt"
            mend = "write poses.txt (world_from_lidar of each cloud) unless the vehicle stood still"
            problems.append(Problem("warning", what, str(self.folder), mend))
        return problems

    def _label_problems(self) -> list[Problem]:
        layout = self.layout
        if (layout.labels or any(layout.image_labels.values())) and self.file_classes is None:
            what = "there are labels but no classes.json to name their ids"
            mend = 'write {"0": "road", "1": "car", ...}, with "void" for ids to ignore'
            return [Problem("warning", what, str(self.folder), mend)]
        bare = [stem for stem in layout.clouds if stem not in layout.labels] if layout.labels else []
        if bare:
            what = f"{len(bare):,} of {len(layout.clouds):,} clouds have no labels: {some(bare)}"
            return [Problem("warning", what, "labels", "nothing to do if they are not annotated")]
        return []


class LidarTruth:
    """Labels of the clouds' points and the images' pixels."""

    def __init__(self, source: Lidar, classes: FileClasses) -> None:
        self._source = source
        self._file_classes = classes
        self.classes = classes.table

    def frame(self, scene: str, frame: str) -> FrameTruth | None:
        """Labels of a frame in its size, `IGNORE` where the lens shows nothing; ``None`` without any."""
        ids = self._source.read_label_image(scene, frame)
        return None if ids is None else FrameTruth(self._labels(ids.astype(np.int64), f"{scene}/{frame}"))

    def scene(self, scene: str) -> SceneTruth | None:
        """Labels of the cloud's points; ``None`` where it has none.

        Raises:
            DataError: damaged, another number than the cloud has points, or ids that classes.json lacks.
        """
        source = self._source
        name = source.layout.labels.get(source.stem(scene))
        if name is None:
            return None
        path = source.folder / "labels" / name
        cloud = source.read_cloud(scene)
        ids, instances = read_point_labels(path, cloud.rows)
        kept = slice(None) if cloud.kept is None else cloud.kept
        labels = self._labels(ids[kept], str(path))
        return SceneTruth(labels, None if instances is None else instances[kept])

    def _labels(self, ids: np.ndarray, where: str) -> U8:
        classes = self._file_classes
        known = (ids >= 0) & (ids < 256)
        known &= classes.known[np.where(known, ids, 0)]
        if not known.all():
            unknown = sorted({int(number) for number in np.unique(ids[~known])})
            raise DataError(
                f"expected ids of classes.json or 255 at {where}, found {some(list(map(str, unknown)))} "
                f"({np.count_nonzero(~known):,} times); name them in classes.json, as void if they are none"
            )
        labels: U8 = classes.label_of_id[ids]
        return labels


def _expect_shape(array: np.ndarray, camera: Camera, name: str, path: Path) -> None:
    if array.shape[:2] != camera.shape:
        raise DataError(
            f"expected {camera.width} × {camera.height} pixels at {path} as calib.json says of {name}, found "
            f"{array.shape[1]} × {array.shape[0]}; calibrate for this size or mend width and height"
        )
