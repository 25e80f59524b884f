"""Which way is up in a capture's world, and turning clouds so that it is z.

Training rotates clouds about the vertical and mirrors them sideways, and voxels lie along the axes, so the
networks want z up; a capture's world may stand any way, often as its first camera stood.
"""

from __future__ import annotations

import numpy as np

from scenelift.types import F32, F64


def upright(points_world: F32, up_world: F64) -> F32:
    """Turn a cloud so that ``up_world`` becomes the z axis; a cloud that is upright comes back as it is.

    Args:
        points_world: (N, 3) float32, metres.
        up_world: (3,) the direction away from the floor, any length above zero.

    Returns:
        (N, 3) float32; lengths and handedness are kept.
    """
    rotation = z_up_from_world(up_world)
    if np.array_equal(rotation, np.eye(3)):
        return points_world
    return np.asarray(points_world @ rotation.T, dtype=np.float32)


def up_from_cameras(cam_from_world: F64) -> F64:
    """The direction away from the floor, from how cameras were held.

    People hold cameras level, so up is the direction most nearly at right angles to every camera's x axis;
    the mean of the cameras' own up sides settles its sign, and the axis itself where all cameras look the
    same way.

    Args:
        cam_from_world: (F, 4, 4), at least one.

    Returns:
        (3,) float64, unit length.
    """
    right, down = cam_from_world[:, 0, :3], cam_from_world[:, 1, :3]
    mean_up = -down.mean(0)
    _, directions = np.linalg.eigh(right.T @ right / len(right) - 0.01 * np.outer(mean_up, mean_up))
    up_world: F64 = directions[:, 0] * (1.0 if directions[:, 0] @ mean_up >= 0 else -1.0)
    return up_world


def z_up_from_world(up_world: F64) -> F64:
    """(3, 3) rotation that takes ``up_world`` to z, the identity where it is z already."""
    z = up_world / np.linalg.norm(up_world)
    x = np.eye(3)[0 if abs(z[0]) < 0.9 else 1]
    x = x - (x @ z) * z
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])
