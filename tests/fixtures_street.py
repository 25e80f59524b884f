"""A small true street: a road between houses with cars, trees and people, seen by cameras and a LiDAR.

Everything is cast in closed form from one static world, so labels of pixels and of points can be compared.
World: metres, z up, the road along x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scenelift.types import F32, F64, U8

ROAD, SIDEWALK, HOUSE, CAR, TREE, PERSON, SKY = range(7)
"""Labels of the street; SKY is met by pixels alone."""

NAMES = ("road", "sidewalk", "house", "car", "tree", "person")

_BOXES: tuple[tuple[int, tuple[float, float, float], tuple[float, float, float]], ...] = (
    # label, lowest corner, highest corner
    (HOUSE, (-60.0, 9.0, 0.0), (60.0, 12.0, 8.0)),
    (HOUSE, (-60.0, -12.0, 0.0), (60.0, -9.0, 8.0)),
    (CAR, (6.0, 2.2, 0.0), (10.2, 4.0, 1.6)),
    (CAR, (-12.0, -4.0, 0.0), (-7.8, -2.2, 1.5)),
    (CAR, (16.0, -1.0, 0.0), (20.0, 0.9, 1.6)),
    (CAR, (-22.0, 1.5, 0.0), (-18.0, 3.4, 1.7)),
    (TREE, (3.0, 6.6, 0.0), (4.2, 7.8, 5.0)),
    (TREE, (-5.0, -8.0, 0.0), (-3.8, -6.8, 5.0)),
    (PERSON, (5.0, -5.6, 0.0), (5.6, -5.0, 1.8)),
    (PERSON, (-3.0, 5.2, 0.0), (-2.4, 5.8, 1.75)),
)
_GREYS = [(90, 90, 95), (150, 140, 130), (170, 110, 90)]
_COLORS = np.array([*_GREYS, (40, 60, 170), (50, 130, 50), (220, 180, 60), (190, 215, 240)])
CURB_M = 5.0
"""Beyond this distance from the middle of the road the ground is sidewalk."""


@dataclass(frozen=True, eq=False)
class Hits:
    """Where rays end: distance along each in ray lengths (inf = sky), and label."""

    distance: F64
    labels: U8


def cast_rays(origins: F64, directions: F64) -> Hits:
    """Follow rays (..., 3) from ``origins`` (broadcast) to the first surface; distances in ray lengths."""
    origins = np.broadcast_to(origins, directions.shape)
    safe = np.where(np.abs(directions) < 1e-12, 1e-12, directions)
    ground = -origins[..., 2] / safe[..., 2]
    distance = np.where(ground > 0, ground, np.inf)
    y = origins[..., 1] + np.where(np.isfinite(distance), distance, 0) * directions[..., 1]
    labels = np.where(np.abs(y) > CURB_M, SIDEWALK, ROAD)
    labels[~np.isfinite(distance)] = SKY
    for label, low, high in _BOXES:
        near, far = (np.array(low) - origins) / safe, (np.array(high) - origins) / safe
        enter, leave = np.minimum(near, far).max(-1), np.maximum(near, far).min(-1)
        nearer = (enter < leave) & (enter > 0) & (enter < distance)
        distance = np.where(nearer, enter, distance)
        labels = np.where(nearer, label, labels)
    return Hits(distance, labels.astype(np.uint8))


def camera_image(cam_from_world: F64, intrinsics: F64, shape: tuple[int, int]) -> tuple[U8, F32, U8]:
    """What a pinhole camera sees: image (H, W, 3), depth_m (H, W) (0 = sky), labels (H, W)."""
    row, column = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    rays_cam = np.stack([column, row, np.ones(shape)], -1) @ np.linalg.inv(intrinsics).T
    world_from_cam = np.linalg.inv(cam_from_world)
    rays = rays_cam @ world_from_cam[:3, :3].T
    hits = cast_rays(world_from_cam[:3, 3], rays)
    seen = np.isfinite(hits.distance)
    points = world_from_cam[:3, 3] + np.where(seen, hits.distance, 0)[..., None] * rays
    shade = 1 + 0.15 * np.sin(points * np.array([2.0, 3.0, 4.0])).sum(-1, keepdims=True) / 3
    image = np.clip(_COLORS[hits.labels] * np.where(seen[..., None], shade, 1), 0, 255).astype(np.uint8)
    return image, np.where(seen, hits.distance, 0).astype(np.float32), hits.labels


def lidar_scan(
    world_from_lidar: F64, beams: int = 16, columns: int = 360, max_range_m: float = 60.0
) -> tuple[F32, U8]:
    """One turn of a spinning LiDAR: points (N, 3) float32 in its own frame, and their labels (N,)."""
    elevation = np.deg2rad(np.linspace(-28, 8, beams))
    azimuth = np.linspace(-np.pi, np.pi, columns, endpoint=False)
    azimuth, elevation = (grid.ravel() for grid in np.meshgrid(azimuth, elevation))
    rays = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], -1
    )
    hits = cast_rays(world_from_lidar[:3, 3], rays @ world_from_lidar[:3, :3].T)
    kept = hits.distance < max_range_m
    return (rays[kept] * hits.distance[kept, None]).astype(np.float32), hits.labels[kept]


def pose(position: tuple[float, float, float], yaw: float = 0.0, pitch: float = 0.0) -> F64:
    """(4, 4) world_from_vehicle: x forward, y left, z up, turned by yaw then pitched (radians)."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    turn = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, position
    return matrix


VEHICLE_FROM_CAMERA_AXES = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""A camera (x right, y down, z forward) that looks along a vehicle's x axis."""
