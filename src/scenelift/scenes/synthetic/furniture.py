"""Furniture of living rooms, bedrooms and offices. Sizes in metres; see `Item` for the local frame.

Every builder takes a random generator and returns an instance of its own size, shape and colours.
"""

from __future__ import annotations

from numpy.random import Generator

from scenelift.scenes.synthetic.shapes import Item, Part, box, cylinder, ellipsoid, rod
from scenelift.scenes.synthetic.textures import BOOKS, CHECKS, DOTS, FABRIC, STRIPES, WOOD, Material, Paint


def _legs(
    width: float, depth: float, height: float, thick: float, y: float, material: Material
) -> list[Part]:
    """Four legs at the corners of a rectangle that starts at ``y``."""
    inset = thick / 2 + 0.01
    return [
        box((x, at, 0), (thick, thick, height), material)
        for x in (-width / 2 + inset, width / 2 - inset)
        for at in (y + inset, y + depth - inset)
    ]


def chair(rng: Generator) -> Item:
    """A dining chair, an office chair or a stool with a low back; it looks along +y."""
    paint = Paint(rng, "chair")
    kind = rng.choice(["wooden", "office", "shell"])
    width, depth = rng.uniform(0.42, 0.5), rng.uniform(0.42, 0.5)
    seat, top = rng.uniform(0.42, 0.48), rng.uniform(0.82, 0.98)
    if kind == "office":
        fabric, dark = paint.main(FABRIC, 0.15), paint.dark()
        parts = [
            cylinder((0, depth / 2, 0.05), 0.03, seat - 0.05, dark),
            box((0, depth / 2, 0.03), (0.52, 0.07, 0.05), dark, yaw=0.5),
            box((0, depth / 2, 0.03), (0.52, 0.07, 0.05), dark, yaw=0.5 + 1.57),
            box((0, depth / 2, seat - 0.05), (width, depth, 0.1), fabric),
            box((0, 0.02, seat + 0.08), (width * 0.92, 0.08, top - seat), fabric, tilt=0.12),
        ]
        if rng.random() < 0.6:
            parts += [
                box((x, depth / 2, seat + 0.17), (0.05, depth * 0.6, 0.04), dark)
                for x in (-width / 2, width / 2)
            ]
        return Item("chair", tuple(parts))
    if kind == "shell":
        shell = paint.main()
        parts = _legs(width * 0.85, depth * 0.85, seat, 0.03, depth * 0.08, paint.metal())
        parts += [
            cylinder((0, depth / 2, seat - 0.02), width / 2, 0.06, shell),
            box((0, 0.03, seat + 0.02), (width * 0.85, 0.05, (top - seat) * 0.8), shell, tilt=0.2),
        ]
        return Item("chair", tuple(parts))
    wood = paint.main(WOOD, 0.08)
    parts = _legs(width, depth, seat, 0.045, 0, wood)
    parts += [
        box((0, depth / 2, seat - 0.02), (width, depth, 0.05), paint.main(FABRIC, 0.1)),
        *(
            box((x, 0.03, seat), (0.045, 0.045, top - seat), wood)
            for x in (-width / 2 + 0.03, width / 2 - 0.03)
        ),
        box((0, 0.03, top - 0.16), (width - 0.02, 0.035, 0.16), wood),
        box((0, 0.03, seat + 0.14), (width - 0.02, 0.03, 0.08), wood),
    ]
    return Item("chair", tuple(parts))


def sofa(rng: Generator) -> Item:
    """Two or three seats, arms, back, cushions."""
    paint = Paint(rng, "sofa")
    seats = int(rng.integers(2, 4))
    width, depth = seats * rng.uniform(0.55, 0.62) + 0.36, rng.uniform(0.8, 0.92)
    seat, back, arm = rng.uniform(0.36, 0.42), rng.uniform(0.72, 0.85), rng.uniform(0.55, 0.62)
    texture = int(rng.choice([FABRIC, FABRIC, STRIPES, CHECKS]))
    cloth, soft = paint.main(texture, 0.12), paint.main(FABRIC, 0.2, value=1.1)
    each = (width - 0.36) / seats
    parts = [
        box((0, depth / 2, 0.06), (width - 0.02, depth - 0.04, seat - 0.16), cloth),
        box((0, 0.12, 0.1), (width - 0.1, 0.22, back - 0.1), cloth),
        *(
            box((x, depth / 2, 0.06), (0.18, depth, arm - 0.06), cloth)
            for x in (-width / 2 + 0.09, width / 2 - 0.09)
        ),
        *_legs(width - 0.06, depth - 0.06, 0.07, 0.05, 0.03, paint.dark()),
    ]
    for i in range(seats):
        x = (i - (seats - 1) / 2) * each
        parts.append(box((x, depth / 2 + 0.1, seat - 0.1), (each - 0.02, depth - 0.26, 0.14), soft))
        parts.append(box((x, 0.24, seat + 0.03), (each - 0.04, 0.14, back - seat), soft, tilt=0.18))
    for _ in range(int(rng.integers(0, 3))):
        x = rng.uniform(-width / 2 + 0.4, width / 2 - 0.4)
        parts.append(
            ellipsoid((x, 0.42, seat + 0.2), (0.42, 0.18, 0.38), paint.accent(DOTS, 0.08), tilt=0.35)
        )
    return Item("sofa", tuple(parts))


def table(rng: Generator) -> Item:
    """A dining table: rectangular on four legs, or round on a column."""
    paint = Paint(rng, "table")
    height = rng.uniform(0.71, 0.77)
    if rng.random() < 0.4:
        radius = rng.uniform(0.42, 0.55)
        parts = [
            cylinder((0, radius, height - 0.04), radius, 0.04, paint.main(WOOD, 0.15)),
            cylinder((0, radius, 0.03), 0.06, height - 0.06, paint.main(value=0.8)),
            cylinder((0, radius, 0), 0.28, 0.04, paint.main(value=0.8), taper=-0.5),
        ]
        return Item("table", tuple(parts))
    width, depth = rng.uniform(0.95, 1.35), rng.uniform(0.65, 0.85)
    legs = paint.main(value=0.75)
    parts = [
        box((0, depth / 2, height - 0.04), (width, depth, 0.04), paint.main(WOOD, 0.15)),
        box((0, depth / 2, height - 0.12), (width - 0.12, depth - 0.12, 0.08), legs),
        *_legs(width - 0.04, depth - 0.04, height - 0.04, 0.06, 0.02, legs),
    ]
    return Item("table", tuple(parts))


def coffee_table(rng: Generator) -> Item:
    """Low, with a shelf or on a drum."""
    paint = Paint(rng, "table")
    height = rng.uniform(0.36, 0.46)
    if rng.random() < 0.35:
        radius = rng.uniform(0.3, 0.4)
        parts = [
            cylinder((0, radius, height - 0.04), radius, 0.04, paint.main(WOOD, 0.1)),
            cylinder((0, radius, 0), radius * 0.7, height - 0.04, paint.main(value=0.8), taper=0.2),
        ]
        return Item("table", tuple(parts))
    width, depth = rng.uniform(0.7, 1.05), rng.uniform(0.42, 0.55)
    parts = [
        box((0, depth / 2, height - 0.05), (width, depth, 0.05), paint.main(WOOD, 0.1)),
        box((0, depth / 2, 0.12), (width - 0.08, depth - 0.08, 0.03), paint.main(WOOD, 0.1, value=0.8)),
        *_legs(width, depth, height - 0.03, 0.06, 0, paint.main(value=0.75)),
    ]
    return Item("table", tuple(parts))


def desk(rng: Generator) -> Item:
    """A top on a side panel and a block of drawers, or on a steel frame."""
    paint = Paint(rng, "desk")
    width, depth, height = rng.uniform(1.05, 1.4), rng.uniform(0.55, 0.68), rng.uniform(0.72, 0.76)
    top = paint.main(WOOD, 0.12)
    parts = [box((0, depth / 2, height - 0.035), (width, depth, 0.035), top)]
    if rng.random() < 0.65:
        side = rng.choice([-1.0, 1.0])
        x = side * (width / 2 - 0.21)
        parts += [
            box((-side * (width / 2 - 0.025), depth / 2, 0), (0.04, depth - 0.04, height - 0.035), top),
            box((x, depth / 2, 0.05), (0.4, depth - 0.06, height - 0.085), paint.main(WOOD, 0.12, value=0.9)),
            box((0, 0.03, height - 0.4), (width - 0.08, 0.02, 0.36), paint.main(value=0.8)),
        ]
        face = paint.main(value=1.15)
        for i in range(3):
            parts.append(box((x, depth - 0.025, 0.08 + i * 0.2), (0.37, 0.03, 0.18), face))
            parts.append(rod((x, depth, 0.2 + i * 0.2), 0.01, 0.12, paint.metal()))
    else:
        parts += _legs(width, depth, height - 0.035, 0.05, 0, paint.metal())
        parts.append(box((0, 0.05, height - 0.3), (width - 0.1, 0.02, 0.24), paint.metal()))
    return Item("desk", tuple(parts))


def bed(rng: Generator) -> Item:
    """Frame, mattress, blanket, pillows, headboard; the head is at the wall."""
    paint = Paint(rng, "bed")
    double = rng.random() < 0.5
    width = rng.uniform(1.35, 1.6) if double else rng.uniform(0.9, 1.05)
    length, top = rng.uniform(1.9, 2.05), rng.uniform(0.45, 0.55)
    wood, linen = paint.main(WOOD, 0.15, value=0.75), paint.pale(FABRIC, 0.3)
    texture = int(rng.choice([FABRIC, STRIPES, CHECKS, DOTS]))
    fold = rng.uniform(0.5, 0.75)
    parts = [
        box((0, 0.03, 0), (width + 0.06, 0.06, rng.uniform(0.8, 1.05)), wood),
        box((0, length / 2, 0.1), (width + 0.02, length, 0.2), wood),
        *_legs(width, length - 0.04, 0.12, 0.07, 0.02, paint.dark()),
        box((0, length / 2 + 0.02, 0.28), (width - 0.04, length - 0.06, top - 0.28), linen),
        box(
            (0, (fold + length) / 2 + 0.01, 0.24),
            (width + 0.03, length - fold, top - 0.2),
            paint.main(texture, rng.uniform(0.12, 0.25)),
        ),
    ]
    for x in (-width / 4, width / 4) if double else (0.0,):
        parts.append(ellipsoid((x, 0.33, top + 0.06), (0.62, 0.42, 0.18), paint.pale(FABRIC, 0.2), tilt=0.2))
    return Item("bed", tuple(parts))


def bookshelf(rng: Generator) -> Item:
    """An open frame with shelves and rows of books."""
    paint = Paint(rng, "bookshelf")
    width, depth, height = rng.uniform(0.7, 1.1), rng.uniform(0.26, 0.34), rng.uniform(1.5, 2.05)
    shelves = round(height / 0.4)
    gap = (height - 0.06) / shelves
    wood = paint.main(WOOD, 0.1)
    parts = [
        *(
            box((x, depth / 2, 0), (0.03, depth, height), wood)
            for x in (-width / 2 + 0.015, width / 2 - 0.015)
        ),
        box((0, 0.01, 0), (width - 0.04, 0.02, height - 0.02), paint.main(value=0.75)),
        *(box((0, depth / 2, 0.03 + i * gap), (width - 0.04, depth, 0.03), wood) for i in range(shelves + 1)),
    ]
    for i in range(shelves):
        x, end = -width / 2 + 0.04, width / 2 - 0.04
        while True:
            block = rng.uniform(0.12, 0.38)
            if x + block > end:
                break
            if rng.random() < 0.85:
                books = paint.motley(BOOKS, rng.uniform(0.03, 0.05))
                size = (block, depth * rng.uniform(0.6, 0.8), gap * rng.uniform(0.55, 0.8))
                parts.append(box((x + block / 2, 0.02 + size[1] / 2, 0.06 + i * gap), size, books))
            x += block + rng.uniform(0.0, 0.04)
    return Item("bookshelf", tuple(parts))


def _fronts(
    paint: Paint, rng: Generator, width: float, depth: float, z: float, height: float, tall: bool
) -> list[Part]:
    """Doors side by side (``tall``) or drawers one above the other, with handles, on a carcass's front."""
    count = max(1, round(width / 0.5)) if tall else max(2, round(height / 0.25))
    face, grip = paint.main(value=1.12), paint.metal()
    parts: list[Part] = []
    for i in range(count):
        if tall:
            each = width / count
            x = -width / 2 + (i + 0.5) * each
            parts.append(box((x, depth - 0.005, z + 0.02), (each - 0.025, 0.03, height - 0.04), face))
            hinge = 1 if i % 2 == 0 else -1
            parts.append(
                box(
                    (x + hinge * (each / 2 - 0.06), depth + 0.015, z + height * 0.42),
                    (0.02, 0.025, 0.14),
                    grip,
                )
            )
        else:
            each = height / count
            at = z + i * each
            parts.append(box((0, depth - 0.005, at + 0.015), (width - 0.03, 0.03, each - 0.025), face))
            parts.append(rod((0, depth + 0.02, at + each / 2), 0.012, min(0.3, width * 0.4), grip))
    return parts


def cabinet(
    rng: Generator, width: float, depth: float, height: float, z: float = 0.0, tall: bool = True
) -> Item:
    """A carcass with doors (``tall``) or drawers that hangs or stands at height ``z``."""
    paint = Paint(rng, "cabinet")
    parts = [box((0, (depth - 0.02) / 2, z), (width, depth - 0.02, height), paint.main(WOOD, 0.2))]
    parts += _fronts(paint, rng, width, depth - 0.02, z, height, tall)
    return Item("cabinet", tuple(parts))


def wardrobe(rng: Generator) -> Item:
    """A tall cabinet."""
    return cabinet(rng, rng.uniform(0.8, 1.3), rng.uniform(0.5, 0.6), rng.uniform(1.75, 2.1))


def dresser(rng: Generator) -> Item:
    """A low cabinet with drawers."""
    return cabinet(rng, rng.uniform(0.7, 1.1), rng.uniform(0.4, 0.48), rng.uniform(0.7, 1.0), tall=False)


def nightstand(rng: Generator) -> Item:
    """A small cabinet beside the bed."""
    return cabinet(rng, rng.uniform(0.36, 0.46), rng.uniform(0.34, 0.42), rng.uniform(0.42, 0.56), tall=False)


def floor_lamp(rng: Generator) -> Item:
    """Foot, pole and shade."""
    paint, height = Paint(rng, "other furniture"), rng.uniform(1.35, 1.7)
    shade = paint.main(STRIPES, 0.05, value=1.4)
    parts = (
        cylinder((0, 0.2, 0), 0.14, 0.03, paint.dark()),
        cylinder((0, 0.2, 0.03), 0.018, height - 0.25, paint.metal()),
        cylinder((0, 0.2, height - 0.28), rng.uniform(0.16, 0.2), 0.28, shade, taper=-0.3),
    )
    return Item("other furniture", parts)


def plant(rng: Generator) -> Item:
    """A pot with foliage."""
    paint, top = Paint(rng, "other furniture"), rng.uniform(0.8, 1.3)
    parts = [
        cylinder((0, 0.22, 0), 0.17, 0.32, paint.accent(), taper=0.2),
        cylinder((0, 0.22, 0.3), 0.02, top - 0.5, paint.dark()),
    ]
    for _ in range(4):
        x, y = rng.uniform(-0.1, 0.1), 0.22 + rng.uniform(-0.06, 0.1)
        size = (rng.uniform(0.25, 0.4), rng.uniform(0.2, 0.3), rng.uniform(0.25, 0.4))
        parts.append(ellipsoid((x, y, rng.uniform(0.5, top)), size, paint.main(FABRIC, 0.06)))
    return Item("other furniture", tuple(parts))


def bin_or_stool(rng: Generator) -> Item:
    """A round bin or an upholstered stool."""
    paint, radius = Paint(rng, "other furniture"), rng.uniform(0.15, 0.24)
    height = rng.uniform(0.35, 0.5)
    parts = (
        cylinder((0, radius, 0), radius, height, paint.main(CHECKS, 0.06), taper=rng.uniform(-0.15, 0.2)),
        cylinder((0, radius, height - 0.02), radius * 0.9, 0.05, paint.accent(FABRIC, 0.1)),
    )
    return Item("other furniture", parts)


def rack(rng: Generator) -> Item:
    """An open metal rack with boxes."""
    paint = Paint(rng, "other furniture")
    width, depth, height = rng.uniform(0.5, 0.75), rng.uniform(0.3, 0.38), rng.uniform(0.9, 1.4)
    parts = _legs(width, depth, height, 0.03, 0, paint.metal())
    for z in (0.12, height / 2, height - 0.05):
        parts.append(box((0, depth / 2, z), (width, depth, 0.02), paint.metal()))
        size = (rng.uniform(0.2, width - 0.1), depth * 0.8, rng.uniform(0.12, 0.28))
        parts.append(box((rng.uniform(-0.05, 0.05), depth / 2, z + 0.02), size, paint.main(FABRIC, 0.1)))
    return Item("other furniture", tuple(parts))


def screen(rng: Generator, width: float, z: float, y: float) -> Item:
    """A monitor or television on its foot, standing at height ``z``."""
    paint = Paint(rng, "other furniture")
    parts = (
        box((0, y, z), (width * 0.4, 0.16, 0.02), paint.dark()),
        box((0, y, z + 0.02), (0.06, 0.04, 0.12), paint.dark()),
        box((0, y, z + 0.1), (width, 0.045, width * 0.58), paint.main(value=0.5)),
        box((0, y + 0.02, z + 0.12), (width - 0.05, 0.03, width * 0.58 - 0.05), paint.accent(FABRIC, 0.4)),
    )
    return Item("other furniture", parts)
