"""A posed RGB-D folder as a scene: someone's own capture, a ScanNet export, a 7-Scenes sequence.

`scenelift.scenes.capture_layout` says which files make a frame. Here they become frames in the
conventions of `scenelift.types`:

- pose files hold camera-to-world unless ``pose_convention`` says otherwise; rotations are brought to the
  nearest orthonormal ones, and refused when they are far from it;
- depth is 16-bit, ``depth_scale`` units per metre; 0 and 65535 mean "no measurement";
- depth is carried to the pixels of the colour image by nearest neighbour through both intrinsics, with
  both cameras at one place: the few centimetres between them are not in the files;
- ``max_width`` scales frames down: colour by area average, depth by nearest neighbour.

The folder may bring its own cloud (``cloud.ply`` or one other PLY), in the world of the poses and in
metres; else it is fused from depth, see `scenelift.scenes.fuse`.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from scenelift import geometry
from scenelift.config import CaptureData, PoseConvention
from scenelift.errors import DataError
from scenelift.files import read_depth_png, read_ply_points, read_rgb, safe_name
from scenelift.orientation import up_from_cameras
from scenelift.scenes import Findings, Problem
from scenelift.scenes.capture_layout import (
    FrameFiles,
    Layout,
    find_layout,
    looks_whole,
    read_intrinsics,
    read_pose,
    some,
)
from scenelift.scenes.fuse import fuse_depth
from scenelift.scenes.rgbd import RgbdCamera, cam_from_world, complete_intrinsics, metres
from scenelift.types import F32, F64, U8, U16, Frame, Frames, Scene

RIGID_TOLERANCE = 1e-2
"""Poses further than this from rigid (`geometry.rigid_error`) are refused; 7-Scenes' reach 4e-4."""

UNITS_PER_METRE = 1000.0
"""Depth units of 16-bit PNG where ``depth_scale`` does not say otherwise: millimetres."""


class Capture:
    """One posed RGB-D folder as a `SceneSource` of one scene, named after the folder.

    Nothing is read before it is asked for. Layout, poses and the fused cloud are then kept; images are not.
    """

    classes = None
    truth = None

    def __init__(self, config: CaptureData) -> None:
        self.config = config
        self.name = safe_name(Path(config.path).resolve().name)

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
        return Frames(tuple(files), lambda name: self._read_frame(files[name]))

    @property
    def lost_frames(self) -> tuple[str, ...]:
        """Names of frames left out because their pose is not finite (``skip_lost_frames``)."""
        return tuple(name for name, pose in self._file_poses.items() if not np.isfinite(pose).all())

    @property
    def convention(self) -> PoseConvention:
        """What the pose files hold: as configured, else as the layout has it."""
        return self.config.pose_convention or "cam_to_world"

    def findings(self) -> Findings:
        """Frames that were left out, and those whose files look cut off."""
        lost, problems = self.lost_frames, []
        if lost:
            what = f"{len(lost)} frames without a finite pose are left out: {some(lost)}"
            mend = "nothing to do if tracking was lost; else export poses again"
            problems.append(Problem("warning", what, self.name, mend))
        counts = {"lost_frames": len(lost)}
        return Findings(counts, tuple(problems), {self.name: self.doubtful_frames()})

    def doubtful_frames(self) -> tuple[str, ...]:
        """Frames whose image files do not begin and end as whole files do; reading them will tell."""
        return tuple(
            name
            for name, files in self._posed_frames.items()
            if not (looks_whole(files.color) and looks_whole(files.depth))
        )

    @cached_property
    def _layout(self) -> Layout:
        return find_layout(Path(self.config.path))

    @cached_property
    def _file_poses(self) -> dict[str, F64]:
        used = self._layout.frames[:: self.config.stride]
        return {files.name: read_pose(files.pose) for files in used}

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
        error = {name: geometry.rigid_error(torch.from_numpy(self._file_poses[name])) for name in files}
        bent = [name for name in files if error[name] > RIGID_TOLERANCE]
        if bent:
            raise DataError(
                f"expected rigid 4×4 camera poses in {self.config.path} (RᵀR within {RIGID_TOLERANCE} "
                f"of I, det R > 0, last row 0 0 0 1), found {len(bent)} of {len(files)} that are not: "
                f"{some(self._pose_files(bent))} (off by {max(error[name] for name in bent):.3g}); "
                "remove scale or mirroring from the poses, or delete the files of these frames"
            )
        return files

    def _pose_files(self, names: tuple[str, ...] | list[str]) -> list[str]:
        by_name = {files.name: files.pose for files in self._layout.frames}
        return [str(by_name[name].relative_to(self._layout.folder)) for name in names]

    @cached_property
    def _camera(self) -> RgbdCamera:
        """Sizes come from the first frame; every other frame is held to them when it is read."""
        first = next(iter(self._posed_frames.values()))
        color, depth = read_rgb(first.color), read_depth_png(first.depth)
        shapes = {"color": _shape(color), "depth": _shape(depth)}
        known = {camera: read_intrinsics(path) for camera, path in self._layout.intrinsics.items()}
        both = complete_intrinsics(known, shapes, self._layout.folder)
        return RgbdCamera(
            shapes["color"], shapes["depth"], both["color"], both["depth"], self.config.max_width
        )

    @cached_property
    def _cloud(self) -> tuple[F32, U8 | None]:
        if self._layout.cloud is None:
            return fuse_depth(self.frames(), self.config.cloud_voxel_m, self.config.max_depth_m)
        points_world, rgb = read_ply_points(self._layout.cloud)
        if len(points_world) == 0:
            raise DataError(
                f"expected points in {self._layout.cloud}, found none; "
                "delete the file to have the cloud fused from depth"
            )
        return points_world, rgb

    def _read_frame(self, files: FrameFiles) -> Frame:
        camera = self._camera
        color, depth = read_rgb(files.color), read_depth_png(files.depth)
        for path, found, expected in (
            (files.color, _shape(color), camera.color_shape),
            (files.depth, _shape(depth), camera.depth_shape),
        ):
            if found != expected:
                raise DataError(
                    f"expected {expected[1]} × {expected[0]} pixels as in the first frame at {path}, "
                    f"found {found[1]} × {found[0]}; one intrinsics file can only fit one size: "
                    "export the frames in one size"
                )
        units = self.config.depth_scale or UNITS_PER_METRE
        return Frame(
            scene=self.name,
            name=files.name,
            image=camera.resize(color),
            intrinsics=camera.intrinsics,
            cam_from_world=cam_from_world(self._file_poses[files.name], self.convention),
            depth_m=camera.register(metres(depth, units)),
        )


def _shape(image: U8 | U16) -> tuple[int, int]:
    """(H, W)."""
    return image.shape[0], image.shape[1]
