"""Kitchen and bathroom fixtures, and what hangs on or opens through walls. See `Item` for the local frame."""

from __future__ import annotations

from numpy.random import Generator

from scenelift.scenes.synthetic.shapes import Item, Part, box, cylinder, ellipsoid, oval, rod
from scenelift.scenes.synthetic.textures import (
    ART,
    CHECKS,
    DOTS,
    FABRIC,
    PLAIN,
    STRIPES,
    TILES,
    WOOD,
    Material,
    Paint,
)


def _basin(
    at: tuple[float, float, float], size: tuple[float, float, float], wall: float, paint: Paint
) -> list[Part]:
    """An open box: floor and four walls, ``wall`` metres thick."""
    (x, y, z), (width, depth, height) = at, size
    rim, inside = paint.main(), paint.main(value=0.88)
    return [
        box((x, y, z), (width - wall, depth - wall, height * 0.25), inside),
        *(box((x + s * (width - wall) / 2, y, z), (wall, depth, height), rim) for s in (-1, 1)),
        *(box((x, y + s * (depth - wall) / 2, z), (width - 2 * wall, wall, height), rim) for s in (-1, 1)),
    ]


def _tap(x: float, y: float, z: float, material: Material) -> list[Part]:
    return [
        cylinder((x, y, z), 0.018, 0.2, material),
        box((x, y + 0.06, z + 0.18), (0.03, 0.15, 0.025), material),
    ]


def toilet(rng: Generator) -> Item:
    """Tank, bowl, seat and sometimes a raised lid."""
    paint = Paint(rng, "toilet")
    white, seat = paint.main(), paint.main(value=1.08)
    width, tank = rng.uniform(0.34, 0.42), rng.uniform(0.72, 0.85)
    parts = [
        box((0, 0.1, 0.38), (width + 0.06, 0.19, tank - 0.38), white),
        box((0, 0.1, tank), (width + 0.09, 0.21, 0.035), seat),
        box((0, 0.15, 0), (width * 0.6, 0.28, 0.39), white),
        oval((0, 0.42, 0), (width, 0.5, 0.39), white, taper=0.25),
        oval((0, 0.42, 0.38), (width + 0.03, 0.52, 0.035), seat),
        oval((0, 0.44, 0.4), (width * 0.6, 0.3, 0.02), paint.dark()),
    ]
    if rng.random() < 0.5:
        parts.append(box((0, 0.22, 0.4), (width, 0.03, 0.4), seat, tilt=0.12))
    else:
        parts.append(oval((0, 0.42, 0.41), (width + 0.02, 0.5, 0.025), seat))
    return Item("toilet", tuple(parts))


def washbasin(rng: Generator) -> Item:
    """A sink on a pedestal."""
    paint = Paint(rng, "sink")
    width, depth, top = rng.uniform(0.5, 0.65), rng.uniform(0.4, 0.48), rng.uniform(0.8, 0.88)
    parts = _basin((0, depth / 2, top - 0.16), (width, depth, 0.16), 0.06, paint)
    parts += [oval((0, 0.16, 0), (0.2, 0.2, top - 0.15), paint.main(), taper=0.15)]
    parts += _tap(0, 0.05, top - 0.02, paint.metal())
    return Item("sink", tuple(parts))


def sink_in_top(rng: Generator, x: float, y: float, z: float) -> Item:
    """A basin or bowl set on a counter or vanity at height ``z``."""
    paint = Paint(rng, "sink")
    if rng.random() < 0.4:
        parts = [
            oval((x, y, z), (0.42, 0.36, 0.13), paint.main(), taper=0.3),
            oval((x, y, z + 0.125), (0.35, 0.29, 0.01), paint.main(value=0.7)),
        ]
    else:
        parts = _basin((x, y, z), (rng.uniform(0.45, 0.6), 0.4, 0.07), 0.04, paint)
    return Item("sink", (*parts, *_tap(x, y - 0.2, z, paint.metal())))


def bathtub(rng: Generator, width: float) -> Item:
    """A hollow tub of ``width`` along the wall."""
    paint = Paint(rng, "bathtub")
    depth, height = rng.uniform(0.7, 0.78), rng.uniform(0.5, 0.58)
    parts = _basin((0, depth / 2, 0), (width, depth, height), 0.07, paint)
    parts += [
        box((0, depth + 0.003, 0.05), (width - 0.1, 0.012, height - 0.14), paint.main(TILES, 0.3)),
        rod((width / 2 - 0.2, 0.03, height + 0.12), 0.03, 0.16, paint.metal()),
    ]
    return Item("bathtub", tuple(parts))


def _pleats(paint: Paint, x0: float, x1: float, y: float, z0: float, z1: float, texture: int) -> list[Part]:
    """A hanging cloth from ``x0`` to ``x1``: upright ellipses side by side, every other one set back."""
    count = max(3, round((x1 - x0) / 0.09))
    each = (x1 - x0) / count
    cloth, shade = paint.main(texture, 0.12), paint.main(texture, 0.12, value=0.88)
    return [
        oval(
            (x0 + (i + 0.5) * each, y + (0.012 if i % 2 else -0.012), z0),
            (each * 1.25, 0.055, z1 - z0),
            shade if i % 2 else cloth,
        )
        for i in range(count)
    ]


def shower_curtain(rng: Generator, width: float, y: float) -> Item:
    """Half drawn on a rod over the open side of a tub of ``width``."""
    paint = Paint(rng, "shower curtain")
    top, share = rng.uniform(1.95, 2.1), rng.uniform(0.4, 0.65)
    texture = int(rng.choice([PLAIN, STRIPES, DOTS, CHECKS]))
    start = -width / 2 + 0.02 if rng.random() < 0.5 else width / 2 - 0.02 - share * width
    parts = _pleats(paint, start, start + share * width, y, rng.uniform(0.2, 0.4), top, texture)
    return Item("shower curtain", (*parts, rod((0, y, top + 0.02), 0.014, width, paint.metal())))


def curtain(rng: Generator, x: float, width: float, top: float, low: float) -> Item:
    """Two drapes on one rod at the sides of a window of ``width`` whose middle is at ``x``."""
    paint = Paint(rng, "curtain")
    texture = int(rng.choice([PLAIN, STRIPES, FABRIC, DOTS]))
    reach = width / 2 + 0.18
    inner = width / 2 - rng.uniform(0.08, 0.25)
    parts = [
        *_pleats(paint, x - reach, x - inner, 0.06, low, top, texture),
        *_pleats(paint, x + inner, x + reach, 0.06, low, top, texture),
        rod((x, 0.06, top + 0.02), 0.015, 2 * reach + 0.1, paint.dark()),
    ]
    return Item("curtain", tuple(parts))


def window(rng: Generator, width: float, sill: float, height: float) -> Item:
    """A frame with panes that show the sky, over a sill."""
    paint = Paint(rng, "window")
    frame, sky = paint.pale(), paint.sky()
    parts = [
        box((0, 0.005, sill), (width, 0.01, height), sky),
        *(box((s * (width / 2 - 0.03), 0.02, sill), (0.06, 0.04, height), frame) for s in (-1, 1)),
        *(box((0, 0.02, z), (width, 0.04, 0.06), frame) for z in (sill, sill + height - 0.06)),
        box((0, 0.06, sill - 0.03), (width + 0.08, 0.12, 0.03), frame),
    ]
    for i in range(1, max(2, round(width / 0.5))):
        x = -width / 2 + i * width / max(2, round(width / 0.5))
        parts.append(box((x, 0.02, sill), (0.045, 0.036, height), frame))
    if rng.random() < 0.4:
        parts.append(box((0, 0.02, sill + height * 0.65), (width, 0.032, 0.04), frame))
    return Item("window", tuple(parts))


def door(rng: Generator) -> Item:
    """A closed door in its frame, with panels and a handle."""
    paint = Paint(rng, "door")
    width, height = rng.uniform(0.78, 0.92), rng.uniform(1.95, 2.08)
    leaf, panel, frame = paint.main(WOOD, 0.2), paint.main(WOOD, 0.2, value=0.85), paint.main(value=1.15)
    parts = [
        box((0, 0.012, 0), (width, 0.024, height), leaf),
        *(box((s * (width / 2 + 0.035), 0.025, 0), (0.07, 0.05, height + 0.07), frame) for s in (-1, 1)),
        box((0, 0.025, height), (width, 0.05, 0.07), frame),
        cylinder((width / 2 - 0.08, 0.05, 1.0), 0.022, 0.05, paint.metal()),
        box((width / 2 - 0.13, 0.06, 1.02), (0.12, 0.02, 0.022), paint.metal()),
    ]
    rows = int(rng.integers(1, 4))
    each = (height - 0.2) / rows
    for i in range(rows):
        parts.append(box((0, 0.026, 0.12 + i * each), (width - 0.26, 0.016, each - 0.1), panel))
    return Item("door", tuple(parts))


def picture(rng: Generator, width: float, height: float, z: float) -> Item:
    """A painting in a frame."""
    paint = Paint(rng, "picture")
    art = paint.main(ART, 0.3, contrast=0.6) if rng.random() < 0.5 else paint.motley(ART, 0.3)
    rim = 0.035
    parts = (
        box((0, 0.02, z), (width, 0.04, height), paint.main(WOOD, 0.1, value=0.7)),
        box((0, 0.024, z + rim), (width - 2 * rim, 0.036, height - 2 * rim), paint.pale()),
        box((0, 0.026, z + 2.2 * rim), (width - 4.4 * rim, 0.036, height - 4.4 * rim), art),
    )
    return Item("picture", parts)


def counter(rng: Generator, width: float, depth: float, top: float) -> Item:
    """A worktop with a splashback."""
    paint = Paint(rng, "counter")
    slab = paint.main(int(rng.choice([PLAIN, FABRIC, WOOD])), 0.15)
    parts = (
        box((0, depth / 2, top - 0.06), (width, depth, 0.06), slab),
        box((0, 0.01, top), (width, 0.02, rng.uniform(0.3, 0.5)), paint.main(TILES, 0.12, value=1.1)),
    )
    return Item("counter", parts)


def breakfast_bar(rng: Generator) -> Item:
    """A high counter on panels."""
    paint = Paint(rng, "counter")
    width, depth, top = rng.uniform(0.9, 1.3), rng.uniform(0.5, 0.6), rng.uniform(0.9, 1.0)
    body = paint.main(TILES, 0.25, value=0.85)
    parts = (
        box((0, depth / 2, top - 0.06), (width, depth, 0.06), paint.main(WOOD, 0.15)),
        box((0, depth / 2, 0), (width - 0.12, depth - 0.22, top - 0.06), body),
    )
    return Item("counter", parts)


def refrigerator(rng: Generator) -> Item:
    """Fridge and freezer doors, with long handles."""
    paint = Paint(rng, "refrigerator")
    width, depth, height = rng.uniform(0.58, 0.72), rng.uniform(0.6, 0.68), rng.uniform(1.55, 1.9)
    split = height * (rng.uniform(0.62, 0.72) if rng.random() < 0.6 else rng.uniform(0.3, 0.4))
    face, grip = paint.main(value=1.1), paint.metal()
    side = rng.choice([-1.0, 1.0]) * (width / 2 - 0.07)
    parts = (
        box((0, (depth - 0.06) / 2, 0.03), (width, depth - 0.06, height - 0.03), paint.main(value=0.9)),
        box((0, depth - 0.035, 0.06), (width - 0.005, 0.06, split - 0.075), face),
        box((0, depth - 0.035, split), (width - 0.005, 0.06, height - split - 0.005), face),
        box((side, depth + 0.015, split - 0.45), (0.025, 0.04, 0.38), grip),
        box((side, depth + 0.015, split + 0.06), (0.025, 0.04, min(0.3, height - split - 0.15)), grip),
    )
    return Item("refrigerator", parts)


def laundry_basket(rng: Generator) -> Item:
    """A woven basket with a heap of cloth."""
    paint = Paint(rng, "other furniture")
    radius, height = rng.uniform(0.19, 0.25), rng.uniform(0.45, 0.6)
    parts = (
        cylinder((0, radius, 0), radius, height, paint.main(CHECKS, 0.05), taper=0.12),
        ellipsoid((0, radius, height), (radius * 1.6, radius * 1.6, 0.22), paint.accent(FABRIC, 0.1)),
    )
    return Item("other furniture", parts)


def stove(rng: Generator, width: float = 0.6) -> Item:
    """Oven with a hob."""
    paint = Paint(rng, "other furniture")
    dark = paint.dark()
    rings = [cylinder((x, y, 0.9), 0.09, 0.012, dark) for x in (-0.14, 0.14) for y in (0.18, 0.44)]
    parts = (
        box((0, 0.3, 0), (width, 0.6, 0.9), paint.main(value=1.3)),
        box((0, 0.6, 0.2), (width - 0.1, 0.02, 0.42), dark),
        rod((0, 0.63, 0.68), 0.014, width - 0.16, paint.metal()),
        *rings,
    )
    return Item("other furniture", parts)
