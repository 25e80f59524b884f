"""Do the depth images of a scene agree about the world, and would they if poses or units meant another thing?

The depth of one frame is lifted with its pose and projected into another frame, where it must meet the
depth measured there. With right poses, units and intrinsics nearly all of it does; hardly any does with
inverted poses. Frames that stand still relative to each other agree under any reading, so pairs need
some distance between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from scenelift import geometry
from scenelift.config import PoseConvention
from scenelift.scenes.rgbd import cam_from_world, file_pose
from scenelift.types import Frame

TOLERANCE = 0.05
"""Two depths agree when they differ by at most this share: relative, so that no unit is favoured."""

PAIR_OFFSETS = (1, 4, 16)
"""How far apart in the sequence compared frames lie. Video needs the long ones, sparse frames the short."""

_VIEW_WIDTH = 160
_SOURCE_STEP = 2


@dataclass(frozen=True, eq=False)
class DepthView:
    """What is kept of a frame: its depth, thinned out to about 160 pixels of width.

    Attributes:
        key: the frame's.
        depth_m: (h, w) float64, 0 = no measurement.
        intrinsics: (3, 3) float64, for this size.
        cam_from_world: (4, 4) float64.
    """

    key: str
    depth_m: Tensor
    intrinsics: Tensor
    cam_from_world: Tensor

    @classmethod
    def of(cls, frame: Frame) -> DepthView | None:
        """The view of a frame; ``None`` if the frame has no depth image."""
        if frame.depth_m is None:
            return None
        step = max(1, round(frame.width / _VIEW_WIDTH))
        depth = torch.from_numpy(frame.depth_m).to(torch.float64)
        return _thin(
            cls(frame.key, depth, torch.from_numpy(frame.intrinsics), torch.from_numpy(frame.cam_from_world)),
            step,
        )


@dataclass(frozen=True)
class Agreement:
    """Counts of pixels of one frame (or many) that were looked for in another.

    Attributes:
        measured: pixels with depth.
        landed: those that fall on a pixel with depth of the other frame.
        agreeing: those whose depth is the one measured there, within `TOLERANCE`.
    """

    measured: int = 0
    landed: int = 0
    agreeing: int = 0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.measured + other.measured, self.landed + other.landed, self.agreeing + other.agreeing
        )

    @property
    def seen_again(self) -> float:
        """Share of the measured pixels that the other frame confirms: overlap and accuracy together."""
        return self.agreeing / max(1, self.measured)

    @property
    def accuracy(self) -> float:
        """Share of the landed pixels that the other frame confirms: accuracy alone."""
        return self.agreeing / max(1, self.landed)


@dataclass(frozen=True)
class Reading:
    """One way to read a capture: what its pose files hold, and a factor on its depth."""

    convention: PoseConvention
    depth_factor: float


def agreement(source: DepthView, target: DepthView) -> Agreement:
    """Look for the pixels of ``source`` in ``target``."""
    source = _thin(source, _SOURCE_STEP)
    points_world = geometry.unproject(source.depth_m, source.intrinsics, source.cam_from_world).reshape(-1, 3)
    points_world = points_world[source.depth_m.flatten() > 0]
    pixel_uv, z_m = geometry.project(points_world, target.intrinsics, target.cam_from_world)
    height, width = target.depth_m.shape
    column, row = torch.floor(pixel_uv + 0.5).unbind(-1)
    inside = (
        (column >= 0) & (column < width) & (row >= 0) & (row < height)
    )  # false for NaN: behind the camera
    there_m = target.depth_m[row[inside].long(), column[inside].long()]
    landed = there_m > 0
    close = (there_m - z_m[inside]).abs() <= TOLERANCE * z_m[inside]
    return Agreement(len(points_world), int(landed.sum()), int((landed & close).sum()))


def sample_frames(length: int, limit: int) -> list[int]:
    """Indices of about ``limit`` frames: all, or groups spread evenly with `PAIR_OFFSETS` inside."""
    if length <= limit:
        return list(range(length))
    groups = max(1, limit // (len(PAIR_OFFSETS) + 1))
    span = max(length - max(PAIR_OFFSETS), length // 2)
    starts = [group * span // groups for group in range(groups)]
    chosen = {start + offset for start in starts for offset in (0, *PAIR_OFFSETS)}
    return sorted(index for index in chosen if index < length)


def pairs_of(views: Mapping[int, DepthView]) -> list[tuple[DepthView, DepthView]]:
    """Pairs of views, given by frame index, that lie one of `PAIR_OFFSETS` apart."""
    return [
        (view, views[index + offset])
        for index, view in views.items()
        for offset in PAIR_OFFSETS
        if index + offset in views
    ]


def best_agreement(pairs: Iterable[tuple[DepthView, DepthView]]) -> dict[str, Agreement]:
    """For each frame of the pairs, by key, the agreement with the partner that confirms most of it.

    Frames without any measured depth have none.
    """
    best: dict[str, Agreement] = {}
    for first, second in pairs:
        for source, target in ((first, second), (second, first)):
            found = agreement(source, target)
            if found.measured and found.seen_again >= best.get(source.key, Agreement()).seen_again:
                best[source.key] = found
    return best


def reread(view: DepthView, have: PoseConvention, reading: Reading) -> DepthView:
    """The view as it would be, had its files been read as ``reading`` says and not as ``have`` did."""
    pose = view.cam_from_world
    if reading.convention != have:
        pose = torch.from_numpy(cam_from_world(file_pose(pose.numpy(), have), reading.convention))
    return replace(view, depth_m=view.depth_m * reading.depth_factor, cam_from_world=pose)


def compare_readings(
    pairs: Sequence[tuple[DepthView, DepthView]], have: PoseConvention, depth_factors: Iterable[float]
) -> dict[Reading, Agreement]:
    """Total agreement over pairs under every pose convention and every factor on depth."""
    conventions: tuple[PoseConvention, ...] = get_args(PoseConvention)
    totals = {}
    for reading in [Reading(c, factor) for c in conventions for factor in depth_factors]:
        found = (agreement(reread(a, have, reading), reread(b, have, reading)) for a, b in pairs)
        totals[reading] = sum(found, Agreement())
    return totals


def median_depth_m(views: Iterable[DepthView]) -> float:
    """Median over all measured pixels, metres; NaN if there is none."""
    depths = np.concatenate([np.zeros(0), *(view.depth_m.numpy().ravel() for view in views)])
    measured = depths[depths > 0]
    return float(np.median(measured)) if len(measured) else float("nan")


def _thin(view: DepthView, step: int) -> DepthView:
    """Keep every ``step``-th row and column; exact, for pixel centres lie at integers."""
    intrinsics = view.intrinsics.clone()
    intrinsics[:2] /= step
    return replace(view, depth_m=view.depth_m[::step, ::step], intrinsics=intrinsics)
