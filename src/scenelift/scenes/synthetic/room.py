"""One room from its number: furnish, light, walk, cast, shade, label."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator

from scenelift.config import SyntheticData
from scenelift.scenes.synthetic.cameras import scan, walk
from scenelift.scenes.synthetic.layout import KINDS, Layout, make_layout
from scenelift.scenes.synthetic.render import cast, hit_points, pinhole
from scenelift.scenes.synthetic.shading import develop, make_light, shade, to_bytes
from scenelift.scenes.synthetic.shapes import Solids
from scenelift.types import F32, I32, IGNORE, U8, Frame, FrameTruth, SceneTruth

SPLITS = ("train", "val")

FRAME_FOV_X = np.deg2rad(68.0)
_SCAN_FOV_X = np.deg2rad(95.0)
_SCAN_SIZE = (84, 80)
"""Rays of a scan view: about 5 cm apart on a wall 2 m away, where several views overlap."""
CLOUD_VOXEL_M = 0.03
"""The cloud holds one point of each voxel of this edge."""


@dataclass(frozen=True, eq=False)
class Room:
    """A rendered room with its ground truth.

    Attributes:
        name: scene name.
        kind: one of `KINDS`.
        frames: by name, in walking order.
        frame_truth: by the name of the frame.
        points_world: (N, 3) float32, metres.
        rgb: (N, 3) uint8.
        scene_truth: of the points.
    """

    name: str
    kind: str
    frames: dict[str, Frame]
    frame_truth: dict[str, FrameTruth]
    points_world: F32
    rgb: U8
    scene_truth: SceneTruth

    @cached_property
    def nbytes(self) -> int:
        """Memory its arrays take."""
        pixels = sum(frame.height * frame.width for frame in self.frames.values())
        return pixels * (3 + 4 + 1 + 2) + len(self.points_world) * (12 + 3 + 1 + 2)


def render_room(config: SyntheticData, split: str, index: int, name: str) -> Room:
    """Room number ``index`` of a split.

    The room depends on ``config.seed``, ``split`` and ``index`` alone; image size and number of frames
    change only the pictures taken of it.
    """

    def stream(purpose: int) -> Generator:
        return np.random.default_rng([config.seed, SPLITS.index(split), index, purpose])

    layout = make_layout(stream(0), KINDS[index % len(KINDS)])
    solids = Solids.pack([*layout.shell, *layout.furniture])
    light = make_light(stream(1), layout)
    intrinsics = pinhole(config.width, config.height, FRAME_FOV_X)

    frames, frame_truth = {}, {}
    noise = stream(3)
    for i, pose in enumerate(walk(stream(2), layout, config.frames_per_room)):
        rows, depth = cast(solids, layout.size, intrinsics, pose, config.width, config.height)
        points = hit_points(depth, intrinsics, pose).reshape(-1, 3)
        color = shade(solids, light, rows.ravel(), points).reshape(*rows.shape, 3)
        image = develop(color, noise.uniform(0.9, 1.1), noise)
        frame = Frame(name, f"frame_{i:03d}", image, intrinsics, pose, depth)
        frames[frame.name] = frame
        frame_truth[frame.name] = FrameTruth(solids.labels[rows], solids.instances[rows])

    points_world, rows = _scan_points(stream(4), layout, solids)
    noise = stream(5)
    color = shade(solids, light, rows, points_world)
    rgb = to_bytes(color + np.float32(0.012) * noise.standard_normal(color.shape, np.float32))
    truth = SceneTruth(solids.labels[rows], solids.instances[rows])
    return Room(name, layout.kind, frames, frame_truth, points_world, rgb, truth)


def _scan_points(rng: Generator, layout: Layout, solids: Solids) -> tuple[F32, I32]:
    """Points that scan views hit, thinned to one a voxel, without the ceiling, which has no class.

    Returns:
        (N, 3) float32 metres and (N,) int32 the row of ``solids`` each lies on.
    """
    width, height = _SCAN_SIZE
    intrinsics = pinhole(width, height, _SCAN_FOV_X)
    points, rows = [], []
    for pose in scan(rng, layout):
        hit, depth = cast(solids, layout.size, intrinsics, pose, width, height)
        labelled = solids.labels[hit] != IGNORE
        points.append(hit_points(depth, intrinsics, pose)[labelled])
        rows.append(hit[labelled])
    cloud, row = np.concatenate(points), np.concatenate(rows)
    kept = _one_per_voxel(cloud)
    return cloud[kept], row[kept]


def _one_per_voxel(points: F32) -> I32:
    """Indices of one point in each occupied voxel of `CLOUD_VOXEL_M`."""
    cell = np.floor(points / np.float32(CLOUD_VOXEL_M)).astype(np.int64)
    cell -= cell.min(0)
    size = cell.max(0) + 1
    key = (cell[:, 0] * size[1] + cell[:, 1]) * size[2] + cell[:, 2]
    holder = np.full(int(size.prod()), -1, np.int32)  # a room has few enough voxels for a dense table
    holder[key] = np.arange(len(points), dtype=np.int32)
    return holder[holder >= 0]
