"""What surfaces look like: class palettes, and textures as functions of a place on the surface.

Each class owns a hue, spread evenly over the colour wheel, from which every instance strays: colour says
something about the class, but does not decide it. Textures are sums and products of sines with random
phases: cheap, smooth, and the same from every view.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scenelift.types import F32, I64

Rgb = tuple[float, float, float]

PLAIN, WOOD, TILES, PLANKS, STRIPES, CHECKS, FABRIC, SKY, ART, BOOKS, DOTS = range(11)

_PALETTE: dict[str, tuple[int, float, float]] = {
    # name: (place on the hue wheel in twentieths, typical saturation, typical value)
    "sofa": (0, 0.55, 0.62),
    "bookshelf": (1, 0.55, 0.50),
    "floor": (2, 0.42, 0.58),
    "wall": (3, 0.20, 0.86),
    "table": (4, 0.50, 0.62),
    "chair": (5, 0.55, 0.58),
    "desk": (6, 0.42, 0.66),
    "other furniture": (7, 0.50, 0.50),
    "cabinet": (8, 0.38, 0.66),
    "counter": (9, 0.38, 0.58),
    "toilet": (10, 0.24, 0.88),
    "bathtub": (11, 0.30, 0.84),
    "window": (12, 0.32, 0.92),
    "refrigerator": (13, 0.28, 0.74),
    "bed": (14, 0.42, 0.66),
    "sink": (15, 0.28, 0.80),
    "shower curtain": (16, 0.42, 0.74),
    "picture": (17, 0.50, 0.62),
    "curtain": (18, 0.45, 0.70),
    "door": (19, 0.42, 0.58),
    "ceiling": (3, 0.06, 0.94),
}
_HUE_SPREAD = 0.03
_ODD_ONES = 0.12
"""Share of instances whose hue is anyone's."""


@dataclass(frozen=True)
class Material:
    """The look of one solid.

    Attributes:
        color: RGB in [0, 1].
        second: the texture's other colour (joints, stripes, grain).
        texture: one of the texture constants of this module.
        scale: size of the texture's motif in metres.
        phase: where the pattern starts, radians; also seeds variation between motifs.
        glow: 0 = lit by the room's light, 1 = shines by itself.
    """

    color: Rgb
    second: Rgb
    texture: int = PLAIN
    scale: float = 0.2
    phase: float = 0.0
    glow: float = 0.0


@dataclass(frozen=True, eq=False)
class Materials:
    """Materials as arrays of P rows; the attributes are those of `Material`."""

    color: F32
    second: F32
    texture: I64
    scale: F32
    phase: F32
    glow: F32

    @classmethod
    def pack(cls, materials: Sequence[Material]) -> Materials:
        """One row a material."""
        return cls(
            color=np.array([m.color for m in materials], dtype=np.float32),
            second=np.array([m.second for m in materials], dtype=np.float32),
            texture=np.array([m.texture for m in materials]),
            scale=np.array([m.scale for m in materials], dtype=np.float32),
            phase=np.array([m.phase for m in materials], dtype=np.float32),
            glow=np.array([m.glow for m in materials], dtype=np.float32),
        )


class Paint:
    """The colours of one instance.

    Args:
        rng: drawn from for every material.
        name: class name, or ``"ceiling"``.
    """

    def __init__(self, rng: np.random.Generator, name: str) -> None:
        slot, saturation, value = _PALETTE[name]
        self._rng = rng
        self._hue = (slot / 20 + rng.normal(0.0, _HUE_SPREAD)) % 1.0
        if name not in ("wall", "ceiling") and rng.random() < _ODD_ONES:
            self._hue = rng.random()
        self._saturation = float(np.clip(saturation * rng.uniform(0.6, 1.4), 0.0, 0.9))
        self._value = float(np.clip(value * rng.uniform(0.8, 1.2), 0.15, 0.97))

    def _rgb(self, hue: float, saturation: float, value: float) -> Rgb:
        return colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))

    def main(
        self, texture: int = PLAIN, scale: float = 0.2, value: float = 1.0, contrast: float = 0.3
    ) -> Material:
        """The instance's own colour.

        Args:
            texture: one of the texture constants.
            scale: motif in metres.
            value: brightness relative to the instance's colour.
            contrast: how much darker the texture's second colour is.
        """
        return Material(
            color=self._rgb(self._hue, self._saturation, self._value * value),
            second=self._rgb(self._hue + 0.01, self._saturation * 1.15, self._value * value * (1 - contrast)),
            texture=texture,
            scale=scale,
            phase=float(self._rng.uniform(0.0, 2 * np.pi)),
        )

    def accent(self, texture: int = PLAIN, scale: float = 0.2) -> Material:
        """A neighbouring hue, for cushions, blankets and the like."""
        hue = self._hue + self._rng.uniform(-0.05, 0.05)
        value = self._value * self._rng.uniform(0.7, 1.25)
        return replace(
            self.main(texture, scale),
            color=self._rgb(hue, self._saturation * self._rng.uniform(0.7, 1.2), value),
            second=self._rgb(hue + 0.04, self._saturation, value * 0.7),
        )

    def pale(self, texture: int = PLAIN, scale: float = 0.2) -> Material:
        """Nearly white with a breath of the instance's hue: linen, enamel, window frames."""
        return replace(
            self.main(texture, scale),
            color=self._rgb(self._hue, self._saturation * 0.35, 0.92),
            second=self._rgb(self._hue, self._saturation * 0.5, 0.75),
        )

    def dark(self) -> Material:
        """Nearly black with a breath of the instance's hue: legs, joints, handles."""
        value = self._value * self._rng.uniform(0.3, 0.5)
        return replace(self.main(), color=self._rgb(self._hue, self._saturation * 0.6, value))

    def metal(self) -> Material:
        """Grey, lightly tinted."""
        value = self._rng.uniform(0.55, 0.8)
        return replace(self.main(), color=self._rgb(self._hue, 0.12 + 0.2 * self._saturation, value))

    def motley(self, texture: int, scale: float) -> Material:
        """Two hues that have little to do with the class: book spines, paintings."""
        first, other = self._rng.random(2)
        saturation = self._rng.uniform(0.3, 0.6)
        return replace(
            self.main(texture, scale),
            color=self._rgb(0.5 * (first + self._hue), saturation, self._rng.uniform(0.45, 0.85)),
            second=self._rgb(other, saturation, self._rng.uniform(0.3, 0.8)),
        )

    def sky(self) -> Material:
        """What is seen through a window: bright, paler towards the bottom."""
        return replace(
            self.main(SKY, 0.5),
            color=self._rgb(self._hue, self._saturation * 0.9, 0.98),
            second=self._rgb(self._hue, 0.08, 0.96),
            glow=0.85,
        )


def surface_color(materials: Materials, rows: I64, u: F32, v: F32) -> F32:
    """Unlit colour of places on surfaces.

    Args:
        materials: of the room.
        rows: (N,) row of ``materials`` each place belongs to.
        u: (N,) metres across the surface.
        v: (N,) metres along its other direction; height on upright surfaces.

    Returns:
        (N, 3) float32 RGB in [0, 1].
    """
    scale, phase = materials.scale[rows], materials.phase[rows]
    u, v = u / scale, v / scale
    mix = np.zeros(len(rows), np.float32)
    kinds = materials.texture[rows]
    for kind, pattern in _PATTERNS.items():
        at = np.flatnonzero(kinds == kind)
        if len(at):
            mix[at] = pattern(u[at], v[at], phase[at])
    mix = mix[:, None]
    return materials.color[rows] * (1 - mix) + materials.second[rows] * mix


def _plasma(u: F32, v: F32, phase: F32) -> F32:
    """Soft blobs of size about one, in [0, 1]."""
    a = np.sin(2.1 * u + 1.3 * np.sin(1.7 * v + phase) + phase)
    b = np.sin(1.9 * v + 1.1 * np.sin(2.3 * u + 2 * phase))
    return np.asarray(0.5 + 0.25 * (a + b), np.float32)


def _cell(u: F32, v: F32, phase: F32) -> F32:
    """A number in [0, 1) for each unit cell, without visible order between neighbours."""
    return np.asarray(
        np.mod(np.sin(np.floor(u) * 12.99 + np.floor(v) * 78.23 + phase) * 437.58, 1.0), np.float32
    )


def _joint(u: F32, width: float) -> F32:
    """1 within ``width`` of an integer, else 0."""
    part = np.mod(u, 1.0)
    return np.asarray((part < width) | (part > 1 - width), np.float32)


def _plain(u: F32, v: F32, phase: F32) -> F32:
    return 0.25 * _plasma(u, v, phase)


def _wood(u: F32, v: F32, phase: F32) -> F32:
    rings = np.sin(9 * v + 1.2 * np.sin(0.9 * u + phase) + 2.5 * np.sin(2.1 * v + phase))
    return np.asarray(0.4 + 0.2 * rings + 0.15 * np.sin(41 * v + 2 * np.sin(1.3 * u)), np.float32)


def _tiles(u: F32, v: F32, phase: F32) -> F32:
    joints = np.maximum(_joint(u, 0.03), _joint(v, 0.03))
    return np.asarray(np.maximum(joints, 0.35 * _cell(u, v, phase)), np.float32)


def _planks(u: F32, v: F32, phase: F32) -> F32:
    along = np.asarray(u / 5 + np.mod(np.floor(v) * 0.37, 1.0), np.float32)
    grain = 0.12 * np.sin(9 * v + 2 * np.sin(u + phase))
    joints = np.maximum(_joint(v, 0.04), _joint(along, 0.006))
    boards = 0.15 + 0.55 * _cell(along, v, phase) + grain
    return np.asarray(np.clip(np.maximum(joints, boards), 0, 1), np.float32)


def _stripes(u: F32, v: F32, phase: F32) -> F32:
    return np.asarray(np.mod(u + phase, 1.0) < 0.4, np.float32)


def _checks(u: F32, v: F32, phase: F32) -> F32:
    return 0.5 * _stripes(u, v, phase) + 0.5 * _stripes(v, u, phase)


def _fabric(u: F32, v: F32, phase: F32) -> F32:
    weave = 0.25 * _cell(8 * u, 8 * v, phase)
    return weave + 0.4 * _plasma(u, v, phase)


def _sky(u: F32, v: F32, phase: F32) -> F32:
    clouds = 0.35 * (_plasma(3 * u, 5 * v, phase) > 0.68)
    return np.asarray(np.clip(0.4 - 0.45 * v + clouds, 0, 1), np.float32)


def _art(u: F32, v: F32, phase: F32) -> F32:
    bold = _plasma(3 * u, 3 * v, phase)
    return np.asarray(np.round(3 * bold) / 3, np.float32)


def _books(u: F32, v: F32, phase: F32) -> F32:
    """Spines side by side: every one has its own tone, with a dark gap in between."""
    return np.asarray(np.maximum(0.9 * _cell(u, 0 * v, phase), _joint(u, 0.08)), np.float32)


def _dots(u: F32, v: F32, phase: F32) -> F32:
    du, dv = np.mod(u, 1.0) - 0.5, np.mod(v, 1.0) - 0.5
    return np.asarray(du * du + dv * dv < 0.06, np.float32)


_PATTERNS = {
    PLAIN: _plain,
    WOOD: _wood,
    TILES: _tiles,
    PLANKS: _planks,
    STRIPES: _stripes,
    CHECKS: _checks,
    FABRIC: _fabric,
    SKY: _sky,
    ART: _art,
    BOOKS: _books,
    DOTS: _dots,
}
