"""A point cloud to a picture, with numpy alone: for reports and exports, on machines without a display.

`render_points` splats a disc for every point into a depth buffer and darkens edges; `render_overview` adds
a camera above one corner of the room, after `cutaway` has taken the ceiling and the near walls out of the
way. Pictures are made of point clouds as they are: no mesh, no normals.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from scenelift.geometry import look_at, project
from scenelift.orientation import z_up_from_world
from scenelift.types import F32, F64, U8, Bool

BACKGROUND = (243, 244, 246)
"""RGB of pixels that no point covers."""

AZIMUTH_DEG = 225.0
"""Where overview cameras stand unless told: above the corner towards −x, −y."""

_MAX_SPLAT_PX = 12
"""Largest splat radius: points right before the camera must not paint the whole picture."""

_EDGE_STRENGTH = 2.5
_EDGE_DARKEST = 0.35

_EMPTY = np.uint64(np.iinfo(np.uint64).max)

_SPREAD, _RIM = 2.0, 0.1
"""See `core`."""


def render_points(
    points_world: F32,
    colors: U8,
    intrinsics: F64,
    cam_from_world: F64,
    size: tuple[int, int],
    radius_m: float,
) -> U8:
    """Splat points as discs that face the camera; the nearest covers what lies behind it.

    Every disc is centred on the pixel its point falls into and covers at least that pixel. Depth edges are
    darkened on their far side (eye-dome lighting: C. Boucheny, PhD thesis, Grenoble 2009), so that shapes
    read where neighbours share a colour.

    Args:
        points_world: (N, 3), metres.
        colors: (N, 3) uint8, RGB.
        intrinsics: (3, 3), pixels, for ``size``.
        cam_from_world: (4, 4).
        size: (height, width) of the picture in pixels.
        radius_m: radius of a disc in metres, see `splat_radius`.

    Returns:
        (H, W, 3) uint8, RGB; `BACKGROUND` where there is no point.
    """
    winner, depth_m = _splat(points_world, intrinsics, cam_from_world, size, radius_m)
    picture = np.empty((*size, 3), np.uint8)
    picture[:] = BACKGROUND
    covered = np.isfinite(depth_m)
    shade = _edge_shade(depth_m)[covered, None]
    picture[covered] = np.round(colors[winner[covered]] * shade).astype(np.uint8)
    return picture


def render_overview(
    points_world: F32,
    colors: U8,
    size: tuple[int, int] = (360, 480),
    azimuth_deg: float = AZIMUTH_DEG,
    elevation_deg: float = 50.0,
) -> U8:
    """The inside of a room from above one corner: `cutaway`, `overview_camera`, `render_points`.

    Drawn at twice the size and averaged down, so that outlines are smooth. The same points give the same
    view whatever their colours, so pictures of one cloud can be compared side by side.

    Args:
        points_world: (N, 3) float32, metres, z up (see `scenelift.orientation` for other clouds).
        colors: (N, 3) uint8, RGB.
        size: (height, width) of the picture in pixels.
        azimuth_deg: see `overview_camera`.
        elevation_deg: see `overview_camera`.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    height, width = size
    for drawn in (core, lambda points: cutaway(points, azimuth_deg)):
        kept = drawn(points_world)
        points_world, colors = points_world[kept], colors[kept]
    double = (2 * height, 2 * width)
    intrinsics, cam_from_world = overview_camera(points_world, double, azimuth_deg, elevation_deg)
    radius_m = splat_radius(points_world)
    large = render_points(points_world, colors, intrinsics, cam_from_world, double, radius_m)
    blocks = large.reshape(height, 2, width, 2, 3).astype(np.uint16)
    return np.asarray((blocks.sum((1, 3), dtype=np.uint16) + 2) // 4, dtype=np.uint8)


def core(points_world: F32) -> Bool:
    """Which points to draw so that those near the middle can be seen.

    A LiDAR's points grow few with distance; where the outer tenth spreads over more than `_SPREAD` times the
    extent of the rest, seen from above, it is left out but for a rim. Rooms come back whole.

    Args:
        points_world: (N, 3), metres, z up.

    Returns:
        (N,) bool, True = draw.
    """
    if not len(points_world):
        return np.zeros(0, np.bool_)
    plan = points_world[:, :2]
    low, inner_low, inner_high, high = np.quantile(plan, (0.002, 0.05, 0.95, 0.998), axis=0)
    extent = inner_high - inner_low
    far = high - low > _SPREAD * extent
    inside = (plan >= inner_low - _RIM * extent) & (plan <= inner_high + _RIM * extent)
    kept: Bool = (inside | ~far).all(1)
    return kept


def overview_camera(
    points_world: F32, size: tuple[int, int], azimuth_deg: float = AZIMUTH_DEG, elevation_deg: float = 50.0
) -> tuple[F64, F64]:
    """A camera above and beside the cloud that frames it.

    The camera stands two room diagonals from the room's middle; focal length and principal point are then
    chosen so that the cloud fills 94 % of the picture. Stray points (0.2 % at each end) may fall outside.

    Args:
        points_world: (N, 3), metres, z up.
        size: (height, width) of the picture in pixels.
        azimuth_deg: where the camera stands, seen from above: 0 = towards +x, 90 = towards +y.
        elevation_deg: its height above the horizon, 0 < elevation < 90.

    Returns:
        intrinsics: (3, 3) float64, pixels.
        cam_from_world: (4, 4) float64.
    """
    height, width = size
    cloud = points_world.astype(np.float64) if len(points_world) else np.zeros((1, 3))
    low, high = np.quantile(cloud, (0.002, 0.998), axis=0)
    middle = (low + high) / 2
    distance_m = 2 * max(float(np.linalg.norm(high - low)), 1e-3)
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    flat = math.cos(elevation)
    away = np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    pose = look_at(torch.from_numpy(middle + distance_m * away), torch.from_numpy(middle), up)
    unit_uv = project(torch.from_numpy(cloud), torch.eye(3, dtype=torch.float64), pose)[0].numpy()
    left_top, right_bottom = np.nanquantile(unit_uv, (0.002, 0.998), axis=0)
    extent = np.maximum(right_bottom - left_top, 1e-6)
    focal = 0.94 * float(np.min(np.array([width, height]) / extent))
    cx, cy = (np.array([width, height]) - 1) / 2 - focal * (left_top + right_bottom) / 2
    return np.array([[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]]), pose.numpy()


def cutaway(points_world: F32, azimuth_deg: float) -> Bool:
    """Which points to draw so that a camera at this azimuth looks into the room.

    Two rules, on the room's bounding box turned so that its floor plan is smallest: the ceiling goes, which
    is the top tenth of the height; and of the walls those that face away from the camera's side stay,
    while of the near ones only the lowest tenth does. A wall is the outer 4 % of the box.

    Args:
        points_world: (N, 3), metres, z up.
        azimuth_deg: where the camera stands, see `overview_camera`.

    Returns:
        (N,) bool, True = draw.
    """
    if not len(points_world):
        return np.zeros(0, dtype=bool)
    low_z, high_z = np.quantile(points_world[:, 2], (0.005, 0.995))
    height = (points_world[:, 2] - low_z) / max(float(high_z - low_z), 1e-6)
    drawn = height < 0.9
    for axis in plan_axes(points_world[:, :2]):
        towards = axis @ (math.cos(math.radians(azimuth_deg)), math.sin(math.radians(azimuth_deg)))
        if abs(towards) > 0.2:  # a wall seen edge-on hides nothing
            along = points_world[:, :2] @ (axis * np.sign(towards)).astype(np.float32)
            far, near = np.quantile(along, (0.005, 0.995))
            drawn &= (along < near - 0.04 * (near - far)) | (height < 0.1)
    return np.asarray(drawn, dtype=bool)


def splat_radius(points_world: F32) -> float:
    """A disc radius in metres at which the surfaces of this cloud close without blurring.

    The surface is estimated as the number of 10 cm cells that hold points, and each point stands for a
    square of its share. With a radius of 1.1 times the square's side, points strewn at random leave 2 % of
    the surface open (the Poisson probability of no point within the radius).
    """
    if not len(points_world):
        return 0.01
    cells = np.floor(points_world.astype(np.float64) / 0.1).astype(np.int64)
    cells -= cells.min(0)
    spread = cells.max(0) + 1
    keys = (cells[:, 0] * spread[1] + cells[:, 1]) * spread[2] + cells[:, 2]
    side_m = math.sqrt(len(np.unique(keys)) * 0.01 / len(points_world))
    return min(1.1 * side_m, 0.15)


def viewing_azimuth_deg(cam_from_world: F64, up_world: F64) -> float:
    """Where to stand to look the way the cameras did, for `render_overview` of the upright cloud.

    Args:
        cam_from_world: (F, 4, 4), at least one.
        up_world: (3,) the direction away from the floor.

    Returns:
        Degrees as in `overview_camera`; the usual ones where the cameras look all around.
    """
    x, y, _ = -z_up_from_world(up_world) @ cam_from_world[:, 2, :3].mean(0)
    return math.degrees(math.atan2(y, x)) if math.hypot(x, y) > 0.2 else AZIMUTH_DEG


def _splat(
    points_world: F32, intrinsics: F64, cam_from_world: F64, size: tuple[int, int], radius_m: float
) -> tuple[npt.NDArray[np.uint32], F32]:
    """The nearest point of each pixel and its depth: (H, W) uint32 and float32, infinite where none."""
    height, width = size
    uv_tensor, z_tensor = project(
        torch.from_numpy(points_world.astype(np.float64)),
        torch.from_numpy(intrinsics),
        torch.from_numpy(cam_from_world),
    )
    uv, z_m = uv_tensor.numpy(), z_tensor.numpy()
    reach = _MAX_SPLAT_PX
    with np.errstate(invalid="ignore"):  # NaN = behind the camera, and compares as False
        seen = np.flatnonzero(((uv > -reach - 1) & (uv < (width + reach, height + reach))).all(1))
    column, row = np.floor(uv[seen] + 0.5).astype(np.int64).T
    radius_px = np.minimum(radius_m * intrinsics[0, 0] / z_m[seen], reach)
    # Depth above, index below: positive float32 sort like their bits, so the least key is the nearest point.
    depth_bits = z_m[seen].astype(np.float32).view(np.uint32).astype(np.uint64)
    keys = (depth_bits << np.uint64(32)) | seen.astype(np.uint64)
    buffer = np.full(height * width, _EMPTY)
    for dv in range(-reach, reach + 1):
        for du in range(-reach, reach + 1):
            covers = math.hypot(du, dv) <= radius_px if (du or dv) else np.ones(len(seen), dtype=bool)
            if not covers.any():
                continue
            v, u = row[covers] + dv, column[covers] + du
            inside = (v >= 0) & (v < height) & (u >= 0) & (u < width)
            np.minimum.at(buffer, (v * width + u)[inside], keys[covers][inside])
    nearest = buffer.reshape(height, width)
    depth_m = (nearest >> np.uint64(32)).astype(np.uint32).view(np.float32)
    winner = (nearest & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return winner, np.where(nearest == _EMPTY, np.float32(np.inf), depth_m)


def _edge_shade(depth_m: F32) -> F64:
    """(H, W) factors in (0, 1]: darker the more of the surroundings is nearer than the pixel."""
    step = max(1, round(min(depth_m.shape) / 400))
    log_depth = np.log2(depth_m.astype(np.float64))
    padded = np.pad(log_depth, step, constant_values=np.inf)
    height, width = depth_m.shape
    darkness = np.zeros(depth_m.shape)
    with np.errstate(invalid="ignore"):  # background minus background
        for dv in (-step, 0, step):
            for du in (-step, 0, step):
                beside = padded[step + dv : step + dv + height, step + du : step + du + width]
                # The cap keeps a far background from being black: an edge is an edge, however deep.
                darkness += np.nan_to_num(np.clip(log_depth - beside, 0, 0.06), nan=0.0)
    return np.maximum(np.exp(-_EDGE_STRENGTH * darkness), _EDGE_DARKEST)


def plan_axes(plan: F32) -> F64:
    """The two horizontal directions, (2, 2), of the smallest rectangle around a floor plan, to 3 degrees."""
    thinned = plan[:: max(1, len(plan) // 20_000)].astype(np.float64)
    angles = np.radians(np.arange(0, 90, 3))
    axes = np.stack([np.cos(angles), np.sin(angles), -np.sin(angles), np.cos(angles)], 1).reshape(-1, 2, 2)
    spread = np.ptp(np.quantile(thinned @ axes.reshape(-1, 2).T, (0.01, 0.99), axis=0), axis=0)
    best = int(np.argmin(spread.reshape(-1, 2).prod(1)))
    return np.asarray(axes[best], dtype=np.float64)
