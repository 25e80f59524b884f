"""The ray caster: which solid does each pixel of a pinhole camera see, and how far away.

One solid at a time against the window of pixels that its bounding box covers, near solids first, so that
what is hidden is skipped. In a solid's own coordinates, scaled to half extents of one, the ray of a pixel is
an affine function of its column and row, and each kind of solid needs a few array operations.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scenelift.scenes.synthetic.shapes import BOX, CORNERS, CYLINDER, ELLIPSOID, Solids
from scenelift.types import F32, F64, I32

_NEAR = 0.02
"""Nothing nearer than this (m) is seen."""
_TINY = np.float32(1e-12)
"""Added to directions, so that none of them is zero."""

SHELL_ROWS: I32 = np.array([0, 2, 4, 6, 8, 9], dtype=np.int32)
"""Rows of `Solids` that hold the slabs at -x, +x, -y, +y, floor and ceiling: each wall's slab is followed by
its skirting board."""


def pinhole(width: int, height: int, fov_x: float) -> F64:
    """(3, 3) intrinsics of a camera with a horizontal field of view of ``fov_x`` radians."""
    focal = width / 2 / np.tan(fov_x / 2)
    return np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])


def cast(
    solids: Solids,
    room_size: tuple[float, float, float],
    intrinsics: F64,
    cam_from_world: F64,
    width: int,
    height: int,
) -> tuple[I32, F32]:
    """What the camera sees through the centre of every pixel.

    Args:
        solids: of the room; the rows `SHELL_ROWS` are its walls, floor and ceiling.
        room_size: (width, depth, height), metres; the camera is inside.
        intrinsics: (3, 3) pixels.
        cam_from_world: (4, 4) rigid.
        width: of the image.
        height: of the image.

    Returns:
        (H, W) int32 row of ``solids`` and (H, W) float32 depth in metres along the optical axis.
    """
    eye, rays = _eye_and_rays(intrinsics, cam_from_world)
    columns = np.arange(width, dtype=np.float32)
    lines = np.arange(height, dtype=np.float32)[:, None]
    rows, depth = _shell(rays, eye, room_size, columns, lines)

    part_from_world = solids.world_from_part.transpose(0, 2, 1) / solids.half[:, :, None]
    rays_part = part_from_world @ rays.astype(np.float32)
    eye_part = np.einsum("pij,pj->pi", part_from_world, eye.astype(np.float32) - solids.center)
    windows, nearest = _windows(solids, intrinsics, cam_from_world, width, height)

    with np.errstate(divide="ignore", invalid="ignore"):
        for row in np.argsort(nearest):
            left, right, top, bottom = windows[row]
            if left >= right or top >= bottom or row in SHELL_ROWS:
                continue
            seen = depth[top:bottom, left:right]
            if nearest[row] > seen.max():
                continue
            ray = rays_part[row][:, :, None, None]
            ray = ray[:, 0] * columns[left:right] + (ray[:, 1] * lines[top:bottom] + ray[:, 2]) + _TINY
            hit = _INTERSECT[solids.shape[row]](eye_part[row], ray, float(solids.taper[row]))
            closer = (hit > _NEAR) & (hit < seen)
            np.copyto(seen, hit, where=closer)
            np.copyto(rows[top:bottom, left:right], np.int32(row), where=closer)
    return rows, depth


def hit_points(depth_m: F32, intrinsics: F64, cam_from_world: F64) -> F32:
    """(H, W, 3) float32 world points that pixels of a (H, W) depth image see, metres."""
    height, width = depth_m.shape
    eye, rays = (part.astype(np.float32) for part in _eye_and_rays(intrinsics, cam_from_world))
    across = np.arange(width, dtype=np.float32)[:, None] * rays[:, 0]
    down = np.arange(height, dtype=np.float32)[:, None, None] * rays[:, 1]
    return (across + (down + rays[:, 2])) * depth_m[..., None] + eye


def _eye_and_rays(intrinsics: F64, cam_from_world: F64) -> tuple[F64, F64]:
    """Where the camera stands, (3,), and the matrix from (u, v, 1) to the pixel's ray of depth 1, (3, 3)."""
    world_from_cam = cam_from_world[:3, :3].T
    return -world_from_cam @ cam_from_world[:3, 3], world_from_cam @ np.linalg.inv(intrinsics)


def _shell(
    rays: F64, eye: F64, room_size: tuple[float, float, float], columns: F32, lines: F32
) -> tuple[I32, F32]:
    """Where rays leave the room: rows of `Solids` and depth, each (H, W)."""
    half = np.array(room_size, np.float32)[:, None, None] / 2
    ray = rays.astype(np.float32)[:, :, None, None]
    ray = ray[:, 0] * columns + (ray[:, 1] * lines + ray[:, 2]) + _TINY
    start = eye.astype(np.float32)[:, None, None] - half * np.array((0, 0, 1), np.float32)[:, None, None]
    leave = (np.copysign(half, ray) - start) / ray
    axis = leave.argmin(0)
    forward = np.take_along_axis(ray, axis[None], 0)[0] > 0
    return SHELL_ROWS[2 * axis + forward], leave.min(0)


def _windows(
    solids: Solids, intrinsics: F64, cam_from_world: F64, width: int, height: int
) -> tuple[I32, F32]:
    """The part of the image each solid can appear in.

    Returns:
        (P, 4) int32 left, right, top, bottom (half open; empty if out of sight) and (P,) float32 the depth of
        the nearest corner of the bounding box.
    """
    corners = solids.center[:, None] + np.einsum(
        "pij,pcj->pci", solids.world_from_part, CORNERS * solids.half[:, None]
    )
    cam = corners @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    nearest, farthest = cam[..., 2].min(1), cam[..., 2].max(1)
    pixel = cam @ intrinsics.T
    uv = pixel[..., :2] / np.maximum(pixel[..., 2:], _NEAR)
    low, high = np.floor(uv.min(1)), np.ceil(uv.max(1)) + 1
    limit = np.array((width, height))
    behind = (nearest < _NEAR)[:, None]  # partly behind the camera: its corners do not bound it
    low = np.where(behind, 0, np.clip(low, 0, limit))
    high = np.where(behind, limit, np.clip(high, 0, limit))
    high[farthest < _NEAR] = 0
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1).astype(np.int32), nearest.astype(
        np.float32
    )


def _box(eye: F32, ray: F32, taper: float) -> F32:
    """Slab test against [-1, 1]³ (Kay and Kajiya 1986). (3,), (3, h, w) -> (h, w) depth, inf = missed."""
    inverse = 1 / ray
    middle = -eye[:, None, None] * inverse
    reach = np.abs(inverse)
    enter, leave = (middle - reach).max(0), (middle + reach).min(0)
    return np.where(enter < leave, enter, np.float32(np.inf))


def _ellipsoid(eye: F32, ray: F32, taper: float) -> F32:
    """The unit sphere."""
    a = (ray * ray).sum(0)
    b = (ray * eye[:, None, None]).sum(0)
    inside = b * b - a * (float(eye @ eye) - 1)
    return np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / a, np.float32(np.inf))


def _cylinder(eye: F32, ray: F32, taper: float) -> F32:
    """|z| ≤ 1 and x² + y² ≤ r(z)², where r(z) = (1 + taper·z) / (1 + |taper|): side or the nearer cap."""
    base = 1 / (1 + abs(taper))
    slope = taper * base
    ex, ey, ez = (float(value) for value in eye)
    radius = base + slope * ez
    a = ray[0] * ray[0] + ray[1] * ray[1] - (slope * ray[2]) ** 2
    b = ex * ray[0] + ey * ray[1] - slope * radius * ray[2]
    inside = b * b - a * (ex * ex + ey * ey - radius * radius)
    root = np.sqrt(np.maximum(inside, 0))
    nearest: F32 = np.full(a.shape, np.inf, np.float32)
    for side in ((-b - root) / a, (-b + root) / a):
        on = (inside > 0) & (np.abs(ez + side * ray[2]) <= 1) & (side > 0)
        nearest = np.where(on, np.minimum(nearest, side), nearest)
    cap = (-np.sign(ray[2]) - ez) / ray[2]
    x, y = ex + cap * ray[0], ey + cap * ray[1]
    limit = base - slope * np.sign(ray[2])
    on = (x * x + y * y <= limit * limit) & (cap > 0)
    nearest[on] = np.minimum(nearest, cap)[on]
    return nearest


_INTERSECT: dict[int, Callable[[F32, F32, float], F32]] = {
    BOX: _box,
    CYLINDER: _cylinder,
    ELLIPSOID: _ellipsoid,
}
