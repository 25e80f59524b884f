"""Where cameras stand: a walk round the room at eye height, and positions to scan it from."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from scenelift.scenes.synthetic.layout import Layout
from scenelift.types import F64

_CLEARANCE = 0.28
"""A camera keeps this far (m) from furniture of its own height."""
_TRIES = 24
_SECTOR = np.deg2rad(35.0)
"""A frame looks at something this close to its heading, if there is anything."""
_HIGHEST_AIM = 0.95
"""Pictures and windows hang higher (m), but looking up at them would lose the floor."""


def look_at(eye: F64, target: F64) -> F64:
    """(4, 4) cam_from_world of a level camera at ``eye`` (3,) that looks at ``target`` (3,), metres."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ eye
    return pose


def walk(rng: Generator, layout: Layout, count: int) -> list[F64]:
    """Poses of a walk round the room, looking across it at what stands there.

    Together the frames turn once, so that a handful of them sees most of the room. Each looks at a piece of
    furniture on the far side, near its heading.

    Returns:
        ``count`` matrices cam_from_world (4, 4).
    """
    centers = np.array([item.bounds().mean(0) for item in layout.furniture])
    start = rng.uniform(0, 2 * np.pi)
    poses = []
    for i in range(count):
        heading = start + 2 * np.pi * (i + rng.uniform(-0.2, 0.2)) / count
        eye = _stand(rng, layout, -0.3 * _across(layout, heading), rng.uniform(1.35, 1.6))
        aim = np.array((*0.42 * _across(layout, heading), rng.uniform(0.4, 1.2)))
        toward = centers[:, :2] - eye[:2]
        turn = np.abs(np.angle(np.exp(1j * (np.arctan2(toward[:, 1], toward[:, 0]) - heading))))
        turn[np.hypot(*toward.T) < 0.4 * min(layout.size[:2])] = np.pi
        ahead = np.flatnonzero(turn < _SECTOR)
        aim = 0.5 * (aim + centers[rng.choice(ahead) if len(ahead) else turn.argmin()])
        aim[2] = min(aim[2], _HIGHEST_AIM)
        poses.append(look_at(eye, aim + rng.normal(0, 0.1, 3)))
    return poses


def scan(rng: Generator, layout: Layout) -> list[F64]:
    """Poses that see nearly every surface: four places, four headings each, alternately high and low.

    Returns:
        16 matrices cam_from_world (4, 4), for a field of view of 90 degrees and more.
    """
    poses = []
    for corner in range(4):
        place = 0.32 * _across(layout, np.pi / 4 + corner * np.pi / 2)
        eye = _stand(rng, layout, place, (1.75, 1.05)[corner % 2])
        start = rng.uniform(0, np.pi / 2)
        for quarter in range(4):
            heading = start + quarter * np.pi / 2
            drop = -0.35 if corner % 2 == 0 else -0.1
            poses.append(look_at(eye, eye + np.array((np.cos(heading), np.sin(heading), drop))))
    return poses


def _across(layout: Layout, heading: float) -> F64:
    """(2,) the heading's unit vector stretched to the room's width and depth."""
    return np.array((np.cos(heading) * layout.size[0], np.sin(heading) * layout.size[1]))


def _stand(rng: Generator, layout: Layout, wish: F64, height: float) -> F64:
    """(3,) a free place near ``wish``, drawn towards the middle of the room with every try."""
    boxes = np.array([item.bounds() for item in layout.furniture])
    blocks = boxes[(boxes[:, 0, 2] < height + 0.2) & (boxes[:, 1, 2] > height - 0.2)][:, :, :2]
    best, best_gap = wish, -np.inf
    for i in range(_TRIES):
        place = wish * (1 - i / _TRIES) + rng.normal(0, 0.04 + 0.4 * i / _TRIES, 2)
        place = np.clip(place, -0.38 * np.array(layout.size[:2]), 0.38 * np.array(layout.size[:2]))
        gap = np.maximum(blocks[:, 0] - place, place - blocks[:, 1]).max(1).min(initial=np.inf)
        if gap > best_gap:
            best, best_gap = place, gap
        if gap > _CLEARANCE:
            break
    return np.array((*best, height))
