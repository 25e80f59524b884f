"""Colours that people tell apart, those with a colour-vision deficiency too.

Categories: the eight colours of Okabe and Ito ("Color Universal Design", 2008) but black, then, one by one,
the colour farthest from all before it for the eye that sees the least difference. Quantities: viridis
(Smith and van der Walt, matplotlib, CC0).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from scenelift.types import F32, F64, U8

OKABE_ITO = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
"""RGB, in an order that keeps neighbours far apart."""

_VIRIDIS = np.array(
    [
        (68, 1, 84),
        (72, 36, 117),
        (65, 68, 135),
        (53, 95, 141),
        (42, 120, 142),
        (33, 145, 140),
        (34, 168, 132),
        (68, 191, 112),
        (122, 209, 81),
        (189, 223, 38),
        (253, 231, 37),
    ],
    dtype=np.float64,
)

_SIGHT = np.array(
    [
        np.eye(3),
        # Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation of Color Vision
        # Deficiency", TVCG 2009, severity 1: protanopia, deuteranopia, tritanopia; on linear RGB
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)
_OKLAB_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
"""B. Ottosson, "A perceptual color space for image processing", 2020."""

_AVOID = ((64, 64, 64), (16, 17, 19), (255, 255, 255))
"""What stands for "no label", and the backgrounds that clouds are shown on."""


@lru_cache(maxsize=8)
def _safe(count: int) -> tuple[tuple[int, int, int], ...]:
    steps = np.arange(0, 256, 32).clip(max=255)
    offered = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    looks = perceived(offered.astype(np.uint8))
    lightness, chroma = looks[0, :, 0], np.linalg.norm(looks[0, :, 1:], axis=1)
    # neither grey, which stands for "no label", nor lost on a dark or a white page
    usable = (lightness > 0.4) & (lightness < 0.95) & (chroma > 0.06)
    offered, looks = offered[usable], looks[:, usable]
    chosen = [*OKABE_ITO[:count]]
    taken = perceived(np.array([*_AVOID, *chosen], dtype=np.uint8))
    # for each offered colour, the least distance to any that is taken, for the eye that sees it least
    nearest = np.min([_distance(looks, taken[:, i : i + 1]) for i in range(taken.shape[1])], axis=0)
    while len(chosen) < count:
        best = int(np.argmax(nearest))
        red, green, blue = offered[best].tolist()
        chosen.append((red, green, blue))
        nearest = np.minimum(nearest, _distance(looks, looks[:, best : best + 1]))
    return tuple(chosen)


def distinct_colors(count: int) -> U8:
    """(count, 3) uint8 RGB for up to 254 categories; the first ones do not depend on ``count``."""
    return np.array(_safe(count), dtype=np.uint8).reshape(-1, 3)


def perceived(colors: U8) -> F64:
    """(n, 3) uint8 sRGB as four eyes see it: (4, n, 3) Oklab; normal, protan, deutan, tritan."""
    unit = colors.astype(np.float64) / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.einsum("eij,nj->eni", _SIGHT, linear), 0.0, 1.0)
    return np.asarray(np.cbrt(seen @ _OKLAB_LMS.T) @ _OKLAB.T, dtype=np.float64)


def heat(values: F32, low: float, high: float) -> U8:
    """Viridis: (...) values to (..., 3) uint8 RGB; ``low`` and less is dark, ``high`` and more bright."""
    share = np.clip((values - low) / max(high - low, 1e-9), 0.0, 1.0)
    table = np.empty((256, 3), np.uint8)
    grid = np.linspace(0, len(_VIRIDIS) - 1, 256)
    for channel in range(3):
        table[:, channel] = np.round(np.interp(grid, np.arange(len(_VIRIDIS)), _VIRIDIS[:, channel]))
    colors: U8 = table[np.round(share * 255).astype(np.uint8)]
    return colors


def _distance(one: F64, other: F64) -> F64:
    """(4, n, 3) and (4, 1, 3) to (n,): the least of the four distances."""
    least: F64 = np.linalg.norm(one - other, axis=-1).min(axis=0)
    return least
