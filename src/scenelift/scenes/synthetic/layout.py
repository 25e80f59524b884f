"""What stands where: rooms of four kinds, furnished along their walls and in the open.

Every kind has furniture it must hold, so that four rooms in a row show all 20 classes, and extras that are
placed when there is space for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import pi

import numpy as np
from numpy.random import Generator

from scenelift.scenes.synthetic import fixtures as fx
from scenelift.scenes.synthetic import furniture as fu
from scenelift.scenes.synthetic.shapes import Item, box, yaw_matrix
from scenelift.scenes.synthetic.textures import CHECKS, FABRIC, PLAIN, PLANKS, STRIPES, TILES, Material, Paint
from scenelift.types import F64

KINDS = ("bathroom", "bedroom", "living", "kitchen")

_SLACK = 0.01
"""Neighbours may touch, and sink into each other by this much (m)."""
_ATTEMPTS = 8
"""A room in which a required piece found no place is furnished anew, this often."""
_TRIES = 60
"""Places tried for one piece."""


@dataclass(frozen=True, eq=False)
class Layout:
    """A furnished room.

    Attributes:
        kind: one of `KINDS`.
        size: (width, depth, height) in metres; the floor is centred at the origin.
        shell: walls at -x, +x, -y, +y, then floor and ceiling.
        furniture: everything else, in world coordinates.
    """

    kind: str
    size: tuple[float, float, float]
    shell: tuple[Item, ...]
    furniture: tuple[Item, ...]


def make_layout(rng: Generator, kind: str) -> Layout:
    """A room of this kind with walls of 3.0 to 4.2 m; bathrooms are small."""
    longest = 3.5 if kind == "bathroom" else 4.2
    for _ in range(_ATTEMPTS):
        size = (rng.uniform(3.0, longest), rng.uniform(3.0, longest), rng.uniform(2.3, 2.6))
        plan = _Plan(rng, size)
        _FURNISH[kind](plan, rng)
        if plan.complete:
            break
    return Layout(kind, size, _shell(rng, kind, size), tuple(plan.items))


def _shell(rng: Generator, kind: str, size: tuple[float, float, float]) -> tuple[Item, ...]:
    width, depth, height = size
    wet = kind in ("bathroom", "kitchen")
    paint = Paint(rng, "wall")
    texture = int(rng.choice([PLAIN, TILES] if kind == "bathroom" else [PLAIN, PLAIN, FABRIC, STRIPES]))
    faint = 0.12 if texture in (STRIPES, TILES) else 0.06
    skirting = paint.pale()

    def wall(x: float, y: float, along_x: bool) -> Item:
        face = paint.main(texture, 0.25, value=rng.uniform(0.94, 1.04), contrast=faint)
        length, thick = (width if along_x else depth), 0.2
        inward = 0.1 - 0.015 / 2 + 0.015
        slab = (length, thick, height) if along_x else (thick, length, height)
        strip = (length, 0.015, 0.08) if along_x else (0.015, length, 0.08)
        at = (x - np.sign(x) * inward, y - np.sign(y) * inward, 0.0)
        return Item("wall", (box((x, y, 0), slab, face), box(at, strip, skirting)))

    ground = int(rng.choice([TILES, CHECKS] if wet else [PLANKS, PLANKS, FABRIC]))
    motif = {TILES: rng.uniform(0.3, 0.5), CHECKS: rng.uniform(0.5, 0.7), PLANKS: rng.uniform(0.12, 0.2)}
    floor = Paint(rng, "floor").main(ground, motif.get(ground, 0.3), contrast=rng.uniform(0.2, 0.4))
    return (
        wall(-width / 2 - 0.1, 0, False),
        wall(width / 2 + 0.1, 0, False),
        wall(0, -depth / 2 - 0.1, True),
        wall(0, depth / 2 + 0.1, True),
        Item("floor", (box((0, 0, -0.2), (width, depth, 0.2), floor),)),
        Item("ceiling", (box((0, 0, height), (width, depth, 0.2), Paint(rng, "ceiling").pale()),)),
    )


# --- placing --------------------------------------------------------------------------------------


@dataclass
class _Plan:
    """A room while it is being furnished.

    Attributes:
        rng: where to try.
        size: of the room, metres.
        items: placed so far, in world coordinates.
        taken: (2, 3) lowest and highest corners of boxes that are no longer free.
        complete: no required piece was left out.
    """

    rng: Generator
    size: tuple[float, float, float]
    items: list[Item] = field(default_factory=list)
    taken: list[F64] = field(default_factory=list)
    complete: bool = True

    def wall(self, *group: Item, required: bool = True, corner: bool = False, clear: float = 0.0) -> None:
        """Stand a group with its back against any wall.

        Args:
            group: items in one local frame.
            required: without it the room is not complete.
            corner: push it into a corner.
            clear: metres to keep free in front of it, for a door to open.
        """
        low, high = _bounds(group)
        for _ in range(_TRIES):
            side = int(self.rng.integers(4))
            length = self.size[side % 2]
            first, last = -length / 2 - low[0], length / 2 - high[0]
            if first <= last:
                along = self.rng.choice([first, last]) if corner else self.rng.uniform(first, last)
                yaw, back = side * pi / 2, self.size[1 - side % 2] / 2
                x, y, _ = yaw_matrix(yaw) @ (along, -back, 0.0)
                if self._put(group, yaw, x, y, clear):
                    return
        self.complete &= not required

    def amid(self, *group: Item, required: bool = True) -> None:
        """Stand a group somewhere in the middle of the room, turned a little."""
        center = _bounds(group).mean(0)
        for _ in range(_TRIES):
            yaw = int(self.rng.integers(4)) * pi / 2 + self.rng.normal(0, 0.08)
            x, y = (self.rng.uniform(-0.3, 0.3) * s for s in self.size[:2])
            x, y = (x, y) - yaw_matrix(yaw)[:2, :2] @ center[:2]
            if self._put(group, yaw, x, y, 0):
                return
        self.complete &= not required

    def _put(self, group: Sequence[Item], yaw: float, x: float, y: float, clear: float) -> bool:
        moved = [item.moved(yaw, (x, y, 0)) for item in group]
        boxes = [item.bounds() for item in moved]
        if clear:
            front = (box((0, clear / 2, 0), (_width(group), clear, 2.0), _INVISIBLE),)
            boxes.append(Item(group[0].name, front).moved(yaw, (x, y, 0)).bounds())
        if not all(self._free(low, high) for low, high in boxes):
            return False
        self.items += moved
        self.taken += boxes
        return True

    def _free(self, low: F64, high: F64) -> bool:
        room = np.array(self.size)
        floor = np.array((-room[0] / 2, -room[1] / 2, 0.0))
        if (low < floor - _SLACK).any() or (high > floor + room + _SLACK).any():
            return False
        if not self.taken:
            return True
        taken = np.stack(self.taken)
        apart = (high - _SLACK <= taken[:, 0]) | (low + _SLACK >= taken[:, 1])
        return bool(apart.any(1).all())


_INVISIBLE = Material((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


def _bounds(group: Sequence[Item]) -> F64:
    """(2, 3) lowest and highest corner of a group."""
    each = np.stack([item.bounds() for item in group])
    return np.stack([each[:, 0].min(0), each[:, 1].max(0)])


def _width(group: Sequence[Item]) -> float:
    low, high = _bounds(group)
    return float(high[0] - low[0])


# --- rooms ----------------------------------------------------------------------------------------


def _bathroom(plan: _Plan, rng: Generator) -> None:
    plan.wall(fx.door(rng), clear=0.6)
    tub = rng.uniform(1.45, 1.7)
    bathtub = fx.bathtub(rng, tub)
    plan.wall(bathtub, fx.shower_curtain(rng, tub, bathtub.bounds()[1, 1] - 0.04), corner=True)
    plan.wall(fx.toilet(rng))
    plan.wall(*(_vanity(rng) if rng.random() < 0.6 else (fx.washbasin(rng), _picture(rng, 0.5, 1.25))))
    plan.wall(fx.window(rng, rng.uniform(0.6, 0.9), 1.2, rng.uniform(0.6, 0.8)), required=False)
    plan.wall(fu.dresser(rng) if rng.random() < 0.5 else fu.wardrobe(rng), required=False)
    plan.wall(fx.laundry_basket(rng), corner=True, required=False)
    _extras(plan, rng, (fu.rack, fu.plant, fx.washbasin, fu.bin_or_stool, _any_picture), 2)


def _bedroom(plan: _Plan, rng: Generator) -> None:
    plan.wall(fx.door(rng), clear=0.6)
    plan.wall(*_window_with_curtain(rng))
    plan.wall(*_bed_group(rng))
    plan.wall(fu.wardrobe(rng), corner=True)
    plan.wall(*_desk_group(rng), required=False)
    plan.wall(_any_picture(rng))
    _extras(plan, rng, (fu.bookshelf, fu.dresser, fu.floor_lamp, fu.plant, fu.chair, _any_picture), 3)


def _living(plan: _Plan, rng: Generator) -> None:
    plan.wall(fx.door(rng), clear=0.6)
    plan.wall(*_window_with_curtain(rng))
    plan.wall(*_sofa_group(rng))
    plan.wall(fu.bookshelf(rng))
    plan.wall(*_desk_group(rng))
    plan.wall(_any_picture(rng))
    plan.wall(*_television(rng), required=False)
    _extras(plan, rng, (fu.bookshelf, fu.floor_lamp, fu.plant, fx.refrigerator, fu.chair, _any_picture), 3)


def _kitchen(plan: _Plan, rng: Generator) -> None:
    plan.wall(fx.door(rng), clear=0.6)
    plan.wall(*_kitchen_run(rng), corner=True)
    plan.wall(fx.refrigerator(rng), corner=True)
    sill = 1.05
    window = fx.window(rng, rng.uniform(0.8, 1.2), sill, rng.uniform(0.9, 1.1))
    drapes = (fx.curtain(rng, 0, window.bounds()[1, 0] * 2, 2.15, sill - 0.1),) if rng.random() < 0.4 else ()
    plan.wall(window, *drapes)
    plan.amid(*_dining_group(rng), required=False)
    plan.wall(_any_picture(rng), required=False)
    _extras(plan, rng, (fu.bin_or_stool, fx.breakfast_bar, fx.stove, fu.dresser, fu.chair, _any_picture), 3)


_FURNISH: dict[str, Callable[[_Plan, Generator], None]] = {
    "bathroom": _bathroom,
    "bedroom": _bedroom,
    "living": _living,
    "kitchen": _kitchen,
}


def _extras(plan: _Plan, rng: Generator, builders: Sequence[Callable[[Generator], Item]], count: int) -> None:
    for i in rng.permutation(len(builders))[:count]:
        plan.wall(builders[i](rng), required=False)


# --- groups ---------------------------------------------------------------------------------------


def _picture(rng: Generator, width: float, z: float) -> Item:
    return fx.picture(rng, width, width * rng.uniform(0.7, 1.3), z)


def _any_picture(rng: Generator) -> Item:
    return _picture(rng, rng.uniform(0.45, 0.8), rng.uniform(1.2, 1.45))


def _window_with_curtain(rng: Generator) -> tuple[Item, ...]:
    width, sill = rng.uniform(0.9, 1.3), rng.uniform(0.85, 1.0)
    height = rng.uniform(1.0, 2.08 - sill)
    low = 0.05 if rng.random() < 0.5 else sill - 0.15
    return fx.window(rng, width, sill, height), fx.curtain(rng, 0, width, sill + height + 0.06, low)


def _bed_group(rng: Generator) -> tuple[Item, ...]:
    bed = fu.bed(rng)
    items, edge = [bed], bed.bounds()[1, 0]
    for side in (-1, 1)[: int(rng.integers(1, 3))]:
        stand = fu.nightstand(rng)
        items.append(stand.moved(0, (side * (edge + 0.03 + _width([stand]) / 2), 0, 0)))
    return tuple(items)


def _facing(seat: Item, x: float, y: float, yaw: float) -> Item:
    """A chair whose seat centre is near (x, y); with ``yaw`` 0 it looks along +y."""
    return seat.moved(0, (0, -0.23, 0)).moved(yaw, (x, y, 0))


def _desk_group(rng: Generator) -> tuple[Item, ...]:
    desk = fu.desk(rng)
    _, high = desk.bounds()
    seat = _facing(fu.chair(rng), rng.uniform(-0.15, 0.15), high[1] + 0.12, pi + rng.normal(0, 0.3))
    items = [desk, seat]
    if rng.random() < 0.7:
        items.append(
            fu.screen(rng, rng.uniform(0.45, 0.6), high[2], 0.2).moved(0, (rng.uniform(-0.2, 0.2), 0, 0))
        )
    return tuple(items)


def _sofa_group(rng: Generator) -> tuple[Item, ...]:
    sofa, low = fu.sofa(rng), fu.coffee_table(rng)
    y = sofa.bounds()[1, 1] + rng.uniform(0.25, 0.4)
    items = [sofa, low.moved(rng.normal(0, 0.05), (rng.uniform(-0.2, 0.2), y, 0))]
    if rng.random() < 0.7:
        items.append(_picture(rng, rng.uniform(0.6, 0.9), 1.2))
    return tuple(items)


def _television(rng: Generator) -> tuple[Item, ...]:
    stand = fu.cabinet(rng, rng.uniform(1.0, 1.4), 0.42, rng.uniform(0.42, 0.55))
    return stand, fu.screen(rng, rng.uniform(0.8, 1.0), stand.bounds()[1, 2], 0.2)


def _dining_group(rng: Generator) -> tuple[Item, ...]:
    table = fu.table(rng)
    low, high = table.bounds()
    places = [
        ((low[0] + high[0]) / 2 + rng.uniform(-0.1, 0.1), low[1] - 0.08, 0.0),
        ((low[0] + high[0]) / 2 + rng.uniform(-0.1, 0.1), high[1] + 0.08, pi),
        (low[0] - 0.08, (low[1] + high[1]) / 2, -pi / 2),
        (high[0] + 0.08, (low[1] + high[1]) / 2, pi / 2),
    ]
    count = int(rng.integers(2, 4))
    style = rng.integers(1 << 32)
    # the same generator state for each: chairs of one table are of one kind
    chairs = [fu.chair(np.random.default_rng(style)) for _ in range(count)]
    return table, *(
        _facing(seat, x, y, yaw + rng.normal(0, 0.15))
        for seat, (x, y, yaw) in zip(chairs, places, strict=False)
    )


def _vanity(rng: Generator) -> tuple[Item, ...]:
    width, depth, top = rng.uniform(0.75, 1.0), rng.uniform(0.46, 0.52), rng.uniform(0.8, 0.86)
    below = fu.cabinet(rng, width - 0.04, depth - 0.03, top - 0.06)
    return (
        below,
        fx.counter(rng, width, depth, top),
        fx.sink_in_top(rng, 0, depth / 2 + 0.02, top),
        _picture(rng, min(width, 0.7), 1.4),
    )


def _kitchen_run(rng: Generator) -> tuple[Item, ...]:
    width, depth, top = rng.uniform(1.6, 2.3), rng.uniform(0.58, 0.63), rng.uniform(0.86, 0.92)
    place = rng.uniform(-0.25, 0.25) * width
    items = [
        fx.counter(rng, width, depth, top),
        fu.cabinet(rng, width - 0.02, depth - 0.03, top - 0.06, tall=rng.random() < 0.7),
        fx.sink_in_top(rng, place, depth / 2, top),
    ]
    if rng.random() < 0.75:
        items.append(fu.cabinet(rng, width * rng.uniform(0.6, 1.0), 0.34, rng.uniform(0.6, 0.7), z=1.45))
    return tuple(items)
