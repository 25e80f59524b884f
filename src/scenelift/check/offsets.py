"""Are the clocks of poses and images apart? Frames are opened again with poses looked up at other times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import BaseModel

from scenelift.check.looks import Look
from scenelift.errors import DataError
from scenelift.scenes import SceneSource
from scenelift.scenes.agreement import DepthView, pairs_of
from scenelift.scenes.capture import Capture
from scenelift.types import Frames

OFFSETS_S = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
"""Tried in both directions, seconds. Between hand-held cameras and trackers 0.02 to 0.3 s occur."""

_MAX_FRAMES = 10


@runtime_checkable
class _HasConfig(Protocol):
    config: BaseModel


Pairs = list[tuple[DepthView, DepthView]]


def offset_poses(source: SceneSource, looks: Sequence[Look]) -> Iterator[tuple[float, Pairs, Pairs]]:
    """Pairs of frames with the poses they would have with another ``time_offset_s``.

    Args:
        source: tried when it can be built from its ``config`` and that has a field ``time_offset_s``;
            nothing comes when poses do not change with it.
        looks: of scenes; the first with frames to compare is used.

    Yields:
        (seconds added to the configured offset, pairs as of `pairs_of` with it, the same without).
    """
    config = source.config if isinstance(source, _HasConfig) else None
    if config is None or "time_offset_s" not in type(config).model_fields:
        return
    look = next((look for look in looks if len(look.depths) > 1), None)
    if look is None:
        return
    views = {index: look.depths[index] for index in sorted(look.depths)[:_MAX_FRAMES]}
    base = float(config.time_offset_s)  # type: ignore[attr-defined]
    for size in OFFSETS_S:
        for offset_s in (size, -size):
            other = _reopened(source, config, base + offset_s)
            moved = _with_poses_of(other, look, views) if other is not None else {}
            if moved and all(
                np.array_equal(moved[index].cam_from_world, views[index].cam_from_world) for index in moved
            ):
                return
            if pairs_of(moved):
                yield offset_s, pairs_of(moved), pairs_of({index: views[index] for index in moved})


def _reopened(source: SceneSource, config: BaseModel, offset_s: float) -> SceneSource | None:
    try:
        again: SceneSource = type(source)(config.model_copy(update={"time_offset_s": offset_s}))  # type: ignore[call-arg]
    except DataError:
        return None
    return again


def _with_poses_of(source: SceneSource, look: Look, views: dict[int, DepthView]) -> dict[int, DepthView]:
    """The views with the poses that ``source`` gives frames of these names; fewer where it lacks some."""
    moved: dict[int, DepthView] = {}
    try:
        frames: Frames = source.frames() if isinstance(source, Capture) else source.scene(look.scene).frames
        at = {name: index for index, name in enumerate(frames.names)}
        for index, view in views.items():
            place = at.get(look.names[index])
            if place is not None:
                pose = torch.from_numpy(frames[place].cam_from_world)
                moved[index] = replace(view, cam_from_world=pose)
                if index == min(views) and bool(torch.equal(pose, view.cam_from_world)):
                    return moved
    except DataError:
        return {}
    return moved
