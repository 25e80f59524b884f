"""A posed RGB-D folder as a scene: someone's own capture, in one of the usual layouts.

`scenelift.scenes.capture.layouts` says which layouts there are and which files make a frame. Here they become
frames in the conventions of `scenelift.types`:

- poses are camera-to-world as the layout has it unless ``pose_convention`` says otherwise; rotations are
  brought to the nearest orthonormal ones, and refused when they are far from it;
- depth is metres for floats and ``depth_scale`` units per metre for whole numbers (1000, for TUM 5000, where
  it is not set); 0, 65535, negative, NaN and infinite mean "no measurement";
- distorted cameras are made pinhole cameras: colour is interpolated, depth taken from the nearest pixel;
- depth is carried to the pixels of the colour image by nearest neighbour through both intrinsics, with
  both cameras at one place: the few centimetres between them are not in the files;
- ``max_width`` scales frames down: colour by area average, depth by nearest neighbour.

The folder may bring its own cloud (``cloud.ply`` or one other), in the world of the poses and in metres; else
it is fused from depth, see `scenelift.scenes.capture.fuse`. With a cloud, depth may be absent altogether.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from scenelift import geometry
from scenelift.config import CaptureData, PoseConvention
from scenelift.errors import DataError
from scenelift.files import read_ply_points, safe_name
from scenelift.image_files import read_rgb
from scenelift.orientation import up_from_cameras
from scenelift.scenes import Findings, Problem
from scenelift.scenes.capture.camera import CaptureCamera, build_camera
from scenelift.scenes.capture.files import FrameFiles, Layout, Lens, Lenses
from scenelift.scenes.capture.fuse import fuse_depth
from scenelift.scenes.capture.layouts import find_layout
from scenelift.scenes.clouds import read_cloud
from scenelift.scenes.depth_files import read_depth, read_npy
from scenelift.scenes.folders import looks_whole, some
from scenelift.scenes.matrices import read_pose
from scenelift.scenes.rgbd import RIGID_TOLERANCE, cam_from_world
from scenelift.types import F32, F64, U8, Frame, Frames, Scene

_CAMERAS_KEPT = 16


class Capture:
    """One posed RGB-D folder as a `SceneSource` of one scene, named after the folder.

    Nothing is read before it is asked for. Layout, poses and the fused cloud are then kept; images are not.
    """

    classes = None
    truth = None

    def __init__(self, config: CaptureData) -> None:
        self.config = config
        self.name = safe_name(Path(config.path).resolve().name)
        self._cameras: dict[_CameraKey, CaptureCamera] = {}
        self._shapes: dict[Lenses, tuple[_Shape, _Shape | None]] = {}

    def names(self, split: str) -> tuple[str, ...]:
        """The one scene, for either split. Raises `DataError` when the folder is no capture."""
        return (self.name,) if self._layout.frames else ()

    def frame_count(self, name: str) -> int:
        """Frames of the scene. Raises `DataError` where their poses cannot be used."""
        return len(self._posed_frames)

    def scene(self, name: str) -> Scene:
        """The scene; its frames are read when they are used, the cloud is read or fused now.

        Raises:
            DataError: files are missing or damaged, or poses are not finite or not rigid.
        """
        if name != self.name:
            raise DataError(
                f"expected scene {self.name!r} of {self.config.path}, found a request for {name!r}"
            )
        points_world, rgb = self._cloud
        return Scene(self.name, points_world, rgb, self.frames(), up_from_cameras(self._poses()))

    def _poses(self) -> F64:
        """(F, 4, 4) cam_from_world of all frames."""
        return np.stack(
            [cam_from_world(self._file_poses[name], self.convention) for name in self._posed_frames]
        )

    def frames(self) -> Frames:
        """The frames alone, without the cost of the cloud. Raises `DataError` as `scene` does."""
        files = self._posed_frames
        read_image = partial(self._read_image, files)
        return Frames(tuple(files), lambda name: self._read_frame(files[name]), read_image)

    @property
    def lost_frames(self) -> tuple[str, ...]:
        """Names of frames left out because their pose is not finite (``skip_lost_frames``)."""
        return tuple(name for name, pose in self._file_poses.items() if not np.isfinite(pose).all())

    @property
    def convention(self) -> PoseConvention:
        """What the pose files hold: as configured, else as the layout has it (if there is one)."""
        if self.config.pose_convention is not None:
            return self.config.pose_convention
        try:
            return self._layout.convention
        except DataError:
            return "cam_to_world"

    @property
    def units_per_metre(self) -> float:
        """Of depth as it is stored: as configured, else as layout and type of number have it."""
        if self.config.depth_scale is not None:
            return self.config.depth_scale
        first = self._layout.frames[0].depth
        if first is None or first.suffix.lower() == ".png":
            return self._layout.units_per_metre
        whole = first.suffix.lower() == ".npy" and read_npy(first).dtype.kind in "iu"
        return self._layout.units_per_metre if whole else 1.0

    def color_file(self, scene: str, frame: str) -> Path | None:
        """The file that holds exactly a frame's pixels; ``None`` where they are made from it."""
        files = self._posed_frames[frame]
        lens = files.lenses.color or files.lenses.depth
        changed = isinstance(lens, Lens) and lens.model != "pinhole"
        return None if changed or self.config.max_width is not None else files.color

    def findings(self) -> Findings:
        """Frames that were left out, what was guessed, and frames whose files look cut off."""
        try:
            lost, problems = self.lost_frames, list(self._layout.problems)
            doubtful = self.doubtful_frames()
        except DataError as error:
            what, _, mend = str(error).rpartition("; ")
            return Findings({}, (Problem("error", what or mend, self.name, mend),))
        if lost:
            what = f"{len(lost)} frames without a finite pose are left out: {some(lost)}"
            mend = "nothing to do if tracking was lost; else export poses again"
            problems.append(Problem("warning", what, self.name, mend))
        counts = {"lost_frames": len(lost), **self._layout.counts}
        return Findings(counts, tuple(problems), {self.name: doubtful})

    def doubtful_frames(self) -> tuple[str, ...]:
        """Frames whose image files do not begin and end as whole files do; reading them will tell."""
        return tuple(
            name
            for name, files in self._posed_frames.items()
            if not (looks_whole(files.color) and (files.depth is None or looks_whole(files.depth)))
        )

    @cached_property
    def _layout(self) -> Layout:
        return find_layout(Path(self.config.path), self.config)

    @cached_property
    def _file_poses(self) -> dict[str, F64]:
        used = self._layout.frames[:: self.config.stride]
        return {
            files.name: read_pose(files.pose) if isinstance(files.pose, Path) else files.pose
            for files in used
        }

    @cached_property
    def _posed_frames(self) -> dict[str, FrameFiles]:
        lost = set(self.lost_frames)
        if lost and not self.config.skip_lost_frames:
            raise DataError(
                f"expected finite camera poses in {self.config.path}, found NaN or infinity in "
                f"{len(lost)} of {len(self._file_poses)}: {some(self._pose_files(self.lost_frames))}; "
                "delete the files of these frames or set data.skip_lost_frames=true"
            )
        files = {f.name: f for f in self._layout.frames if f.name in self._file_poses and f.name not in lost}
        if not files:
            raise DataError(
                f"expected frames with a pose in {self.config.path}, found all {len(lost)} lost; "
                "track the camera again"
            )
        poses = torch.from_numpy(np.stack([self._file_poses[name] for name in files]))
        if geometry.rigid_error(poses) <= RIGID_TOLERANCE:  # all at once: a long capture opens in a second
            return files
        error = {name: geometry.rigid_error(pose) for name, pose in zip(files, poses, strict=True)}
        bent = [name for name in files if error[name] > RIGID_TOLERANCE]
        raise DataError(
            f"expected rigid 4×4 camera poses in {self.config.path} (RᵀR within {RIGID_TOLERANCE} "
            f"of I, det R > 0, last row 0 0 0 1), found {len(bent)} of {len(files)} that are not: "
            f"{some(self._pose_files(bent))} (off by {max(error[name] for name in bent):.3g}); "
            "remove scale or mirroring from the poses, or delete the files of these frames"
        )

    def _pose_files(self, names: tuple[str, ...] | list[str]) -> list[str]:
        by_name = {files.name: files.pose_place for files in self._layout.frames}
        return [by_name[name] for name in names]

    @cached_property
    def _cloud(self) -> tuple[F32, U8 | None]:
        path = self._layout.cloud
        if path is None:
            return fuse_depth(self.frames(), self.config.cloud_voxel_m, self.config.max_depth_m)
        if path.suffix.lower() == ".ply":
            points_world, rgb = read_ply_points(path)
        else:
            cloud = read_cloud(path)
            points_world, rgb = cloud.points, cloud.rgb
            if cloud.origin_world.any():
                raise DataError(
                    f"expected points near the origin in {path}, found them around "
                    f"{cloud.origin_world.tolist()}; take the same offset off cloud and poses"
                )
        if len(points_world) == 0:
            raise DataError(
                f"expected points in {path}, found none; delete the file to have the cloud fused from depth"
            )
        return points_world, rgb

    # --- frames ----------------------------------------------------------------------------------

    @cached_property
    def _first_of(self) -> dict[Lenses, FrameFiles]:
        """For each set of cameras the first frame; every other one is held to its image sizes."""
        first: dict[Lenses, FrameFiles] = {}
        for files in self._posed_frames.values():
            first.setdefault(files.lenses, files)
        return first

    def _read_files(self, files: FrameFiles) -> tuple[U8, F32 | None]:
        """Colour, (H, W, 3) uint8, and depth, (h, w) float32 metres, as stored."""
        color = read_rgb(files.color)
        if files.depth is None:
            return color, None
        scale = self.config.depth_scale
        return color, read_depth(files.depth, scale or self._layout.units_per_metre, scale or 1.0)

    def _expected_shapes(self, lenses: Lenses) -> tuple[_Shape, _Shape | None]:
        if lenses not in self._shapes:
            self._shapes[lenses] = _shapes_of(*self._read_files(self._first_of[lenses]))
        return self._shapes[lenses]

    def _camera(self, lenses: Lenses, color_shape: _Shape, depth_shape: _Shape | None) -> CaptureCamera:
        key = (lenses, color_shape, depth_shape)
        camera = self._cameras.get(key)
        if camera is None:
            camera = build_camera(
                lenses, color_shape, depth_shape, self.config.max_width, self._layout.folder
            )
            # A new dictionary each time: threads read the old one meanwhile.
            self._cameras = {**dict(list(self._cameras.items())[1 - _CAMERAS_KEPT :]), key: camera}
        return camera

    def _read_frame(self, files: FrameFiles) -> Frame:
        color, depth_m = self._read_files(files)
        shapes = _shapes_of(color, depth_m)
        if self._first_of[files.lenses] is files:
            self._shapes[files.lenses] = shapes
        expected = self._expected_shapes(files.lenses)
        for path, found, wanted in zip((files.color, files.depth), shapes, expected, strict=True):
            _check_shape(path, found, wanted)
        camera = self._camera(files.lenses, *shapes)
        return Frame(
            scene=self.name,
            name=files.name,
            image=camera.image(color),
            intrinsics=camera.intrinsics,
            cam_from_world=cam_from_world(self._file_poses[files.name], self.convention),
            depth_m=None if depth_m is None else camera.depth(depth_m),
        )

    def _read_image(self, frames: Mapping[str, FrameFiles], name: str) -> U8:
        files = frames[name]
        color = read_rgb(files.color)
        expected = self._expected_shapes(files.lenses)
        _check_shape(files.color, (color.shape[0], color.shape[1]), expected[0])
        return self._camera(files.lenses, *expected).image(color)


_Shape = tuple[int, int]
_CameraKey = tuple[Lenses, _Shape, _Shape | None]


def _check_shape(path: Path | None, found: _Shape | None, wanted: _Shape | None) -> None:
    if found is not None and wanted is not None and found != wanted:
        raise DataError(
            f"expected {wanted[1]} × {wanted[0]} pixels as in the first frame at {path}, "
            f"found {found[1]} × {found[0]}; one intrinsics file can only fit one size: "
            "export the frames in one size"
        )


def _shapes_of(color: U8, depth_m: F32 | None) -> tuple[_Shape, _Shape | None]:
    """(H, W) of both."""
    return (color.shape[0], color.shape[1]), None if depth_m is None else (depth_m.shape[0], depth_m.shape[1])
