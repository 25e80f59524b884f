"""Colours for classes that bring none: apart for every common kind of colour vision.

Colours are chosen one after another, each as far as can be from those before it, where the distance of two is
the least of what normal, deutan and protan eyes see. So a list of classes that grows keeps its colours.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from scenelift.types import F64, U8

FIRST = (0, 114, 178)
"""The colour of the first class: the blue of Okabe and Ito (2008)."""

_DEUTAN = (
    (0.367322, 0.860646, -0.227968),
    (0.280085, 0.672501, 0.047413),
    (-0.011820, 0.042940, 0.968881),
)
_PROTAN = (
    (0.152286, 1.052583, -0.204868),
    (0.114503, 0.786281, 0.099216),
    (-0.003882, -0.048116, 1.051998),
)
"""Linear RGB as an eye without one kind of cone sees it: Machado et al., "A Physiologically-based Model for
Simulation of Color Vision Deficiency" (2009), severity 1."""

_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_WHITE = (0.95047, 1.0, 1.08883)

_STEP = 23
"""Between candidates, along each of R, G and B."""
_LIGHTNESS = (32.0, 86.0)
"""Of candidates, CIELAB: to be seen on white and on black."""
_LEAST_CHROMA = 20.0
"""Greys are for what has no label."""
_NORMAL_WEIGHT = 0.25
"""How much of the distance in normal vision counts on top, so that hues vary for most readers too."""


def distinct_colors(count: int) -> U8:
    """(count, 3) uint8 RGB colours; the first ones are the same for any count."""
    return np.array(_chosen(count)).reshape(-1, 3).astype(np.uint8)


@lru_cache(maxsize=8)
def _chosen(count: int) -> tuple[tuple[int, ...], ...]:
    axis = np.append(np.arange(0, 255, _STEP), 255)
    candidates = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    seen = as_seen(candidates.astype(np.uint8))
    lightness, chroma = seen[0, :, 0], np.hypot(seen[0, :, 1], seen[0, :, 2])
    fit = (lightness >= _LIGHTNESS[0]) & (lightness <= _LIGHTNESS[1]) & (chroma > _LEAST_CHROMA)
    candidates, seen = candidates[fit], seen[:, fit]
    last, chosen = as_seen(np.array([FIRST], dtype=np.uint8)), [FIRST]
    nearest = np.full(seen.shape[:2], np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.linalg.norm(seen - last, axis=2))
        best = int((nearest.min(0) + _NORMAL_WEIGHT * nearest[0]).argmax())
        chosen.append(tuple(candidates[best].tolist()))
        last = seen[:, best : best + 1]
    return tuple(chosen[:count])


def as_seen(rgb: U8) -> F64:
    """Colours as normal, deutan and protan eyes see them.

    Args:
        rgb: (N, 3) uint8, sRGB.

    Returns:
        (3, N, 3) float64, CIELAB under D65: distances are those that people tell apart.
    """
    unit = rgb / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    eyes = [linear, linear @ np.array(_DEUTAN).T, linear @ np.array(_PROTAN).T]
    xyz = np.clip(np.stack(eyes), 0, 1) @ np.array(_XYZ).T / _WHITE
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, 2, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=2)
