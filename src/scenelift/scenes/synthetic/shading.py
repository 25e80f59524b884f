"""From what a ray hits to a colour: the place on the surface, its texture, and the room's light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from scenelift.scenes.synthetic.layout import Layout
from scenelift.scenes.synthetic.shapes import BOX, CYLINDER, Solids
from scenelift.scenes.synthetic.textures import surface_color
from scenelift.types import F32, I32, I64, U8

_CELL = 0.04
"""Cell of the floor's shadow map (m)."""
_CONTACT = 0.14
"""How far the shadow of furniture reaches over the floor (m)."""


@dataclass(frozen=True, eq=False)
class Light:
    """The light of one room.

    Attributes:
        lamp_world: (3,) a lamp below the ceiling, metres.
        lamp_rgb: (3,) float32 its colour times strength.
        sky_rgb: (3,) float32 light from everywhere, strongest from above.
        room_size: (width, depth, height), metres; corners are darker.
        floor_light: (nx, ny) float32 in (0, 1]: how much of the light reaches each cell of the floor.
    """

    lamp_world: F32
    lamp_rgb: F32
    sky_rgb: F32
    room_size: tuple[float, float, float]
    floor_light: F32


def make_light(rng: Generator, layout: Layout) -> Light:
    """A lamp of random place, strength and warmth."""
    width, depth, height = layout.size
    place = (rng.uniform(-0.3, 0.3) * width, rng.uniform(-0.3, 0.3) * depth, height - rng.uniform(0.1, 0.4))
    warmth = rng.uniform(-0.05, 0.07)
    tint = np.array((1 + warmth, 1.0, 1 - 1.3 * warmth))
    return Light(
        lamp_world=np.array(place, np.float32),
        lamp_rgb=(rng.uniform(0.55, 0.8) * tint).astype(np.float32),
        sky_rgb=(rng.uniform(0.52, 0.64) * (2 - tint)).astype(np.float32),
        room_size=layout.size,
        floor_light=_floor_light(layout),
    )


def _floor_light(layout: Layout) -> F32:
    """Soft dark borders round the footprints of what stands on the floor."""
    width, depth, _ = layout.size
    x = np.arange(0, width + _CELL, _CELL)[:, None] - width / 2
    y = np.arange(0, depth + _CELL, _CELL)[None] - depth / 2
    light = np.ones(np.broadcast_shapes(x.shape, y.shape))
    for item in layout.furniture:
        low, high = item.bounds()
        if low[2] < 0.3:
            dx = np.maximum(np.maximum(low[0] - x, x - high[0]), 0)
            dy = np.maximum(np.maximum(low[1] - y, y - high[1]), 0)
            light *= 1 - 0.45 * np.exp(-np.hypot(dx, dy) / _CONTACT)
    return np.maximum(light, 0.35).astype(np.float32)


def shade(solids: Solids, light: Light, rows: I32, points_world: F32) -> F32:
    """Lit colours of points on surfaces.

    Args:
        solids: of the room.
        light: of the room.
        rows: (N,) the solid each point lies on.
        points_world: (N, 3) float32, metres.

    Returns:
        (N, 3) float32 RGB, about [0, 1]; not clipped.
    """
    row = rows.astype(np.int64)
    place = np.einsum("nji,nj->ni", solids.world_from_part[row], points_world - solids.center[row])
    normal, u, v = _surface(solids, row, place)
    color = surface_color(solids.materials, row, u, v)
    normal = np.einsum("nij,nj->ni", solids.world_from_part[row], normal)
    glow = solids.materials.glow[row][:, None]
    return color * (glow + (1 - glow) * _light_at(light, points_world, normal))


def _surface(solids: Solids, row: I64, place: F32) -> tuple[F32, F32, F32]:
    """Normals (N, 3) in the part's frame, and texture coordinates in metres, of (N, 3) places on parts."""
    half, shape = solids.half[row], solids.shape[row]
    unit = place / half
    face = np.abs(unit).argmax(1)
    normal = np.zeros_like(place)
    np.put_along_axis(normal, face[:, None], np.sign(np.take_along_axis(unit, face[:, None], 1)), 1)
    u = np.where(face == 0, place[:, 1], place[:, 0])
    v = np.where(face == 2, place[:, 1], place[:, 2])

    curved = np.flatnonzero((shape != BOX) & ~((shape == CYLINDER) & (np.abs(unit[:, 2]) > 0.999)))
    around = unit[curved] / half[curved]
    upright = shape[curved] == CYLINDER
    slope = solids.taper[row[curved]] * half[curved, :2].mean(1) / half[curved, 2]
    length = np.linalg.norm(around[:, :2], axis=1)
    around[:, 2] = np.where(upright, -slope * length, around[:, 2])
    normal[curved] = around / np.maximum(np.linalg.norm(around, axis=1, keepdims=True), 1e-6)
    angle = np.arctan2(unit[curved, 1], unit[curved, 0])
    u[curved] = np.where(upright, angle * half[curved, :2].mean(1), place[curved, 0])
    v[curved] = place[curved, 2]
    caps = np.flatnonzero((shape == CYLINDER) & (np.abs(unit[:, 2]) > 0.999))
    normal[caps] = np.sign(unit[caps, 2:]) * np.array((0, 0, 1), np.float32)
    u[caps], v[caps] = place[caps, 0], place[caps, 1]
    return normal, u, v


def _light_at(light: Light, points: F32, normal: F32) -> F32:
    """(N, 3) light that falls on points: the lamp by angle and distance, the sky by height of the normal."""
    to_lamp = light.lamp_world - points
    distance = np.linalg.norm(to_lamp, axis=1, keepdims=True)
    facing = (normal * to_lamp).sum(1, keepdims=True) / np.maximum(distance, 1e-3)
    lamp = np.clip(0.25 + 0.75 * facing, 0, 1) * (1.5 / (1 + 0.12 * distance * distance))
    sky = 0.75 + 0.25 * normal[:, 2:]
    bright = (lamp * light.lamp_rgb + sky * light.sky_rgb) * _openness(light, points)[:, None]
    return np.asarray(bright, np.float32)


def _openness(light: Light, points: F32) -> F32:
    """(N,) in (0, 1]: less in creases of the shell, near the floor, and on the floor beside furniture."""
    width, depth, height = light.room_size
    x, y, z = points.T
    crease = np.exp(-(width / 2 - np.abs(x)) / 0.2) + np.exp(-(depth / 2 - np.abs(y)) / 0.2)
    crease += np.exp(-np.abs(z) / 0.25) + 0.5 * np.exp(-np.abs(height - z) / 0.3)
    open_ = (1 - 0.13 * crease) * (0.92 + 0.1 * z / height)
    ground = np.flatnonzero(z < 0.01)
    nx, ny = light.floor_light.shape
    i = np.clip(np.rint((x[ground] + width / 2) / _CELL), 0, nx - 1).astype(np.int64)
    j = np.clip(np.rint((y[ground] + depth / 2) / _CELL), 0, ny - 1).astype(np.int64)
    open_[ground] *= light.floor_light[i, j]
    return np.asarray(open_, np.float32)


def develop(linear: F32, exposure: float, rng: Generator) -> U8:
    """What a camera makes of colours: exposure, a slight blur of its lens, and noise.

    Args:
        linear: (H, W, 3) float32.
        exposure: factor.
        rng: for the noise.

    Returns:
        (H, W, 3) uint8.
    """
    image = np.pad(linear * np.float32(exposure), ((1, 1), (1, 1), (0, 0)), mode="edge")
    image = 0.15 * (image[:-2] + image[2:]) + 0.7 * image[1:-1]
    image = 0.15 * (image[:, :-2] + image[:, 2:]) + 0.7 * image[:, 1:-1]
    return to_bytes(image + np.float32(0.012) * rng.standard_normal(image.shape, np.float32))


def to_bytes(color: F32) -> U8:
    """Clip to [0, 1] and quantise to uint8."""
    return np.rint(np.clip(color, 0, 1) * 255).astype(np.uint8)
