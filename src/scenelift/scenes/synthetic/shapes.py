"""Solids that rooms are built from: boxes, cylinders (straight or tapered) and ellipsoids.

A piece of furniture is an `Item`: parts in one local frame whose origin lies on the floor, at the middle of
the item's back; x runs along the wall, y away from it into the room, z up. `Solids` is the packed form of a
whole room, in world coordinates, that the ray caster reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import cos, sin

import numpy as np

from scenelift.classes import SCANNET20
from scenelift.scenes.synthetic.textures import Material, Materials
from scenelift.types import F32, F64, I64, IGNORE, U8, U16

BOX, CYLINDER, ELLIPSOID = 0, 1, 2

CORNERS: F64 = np.array(list(product((-1.0, 1.0), repeat=3)))
"""(8, 3): the corners of the cube [-1, 1]³."""

_UPRIGHT: F64 = np.eye(3)
_ALONG_X: F64 = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


def yaw_matrix(angle: float) -> F64:
    """(3, 3) rotation by ``angle`` radians about z."""
    c, s = cos(angle), sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def tilt_matrix(angle: float) -> F64:
    """(3, 3) rotation by ``angle`` radians about x."""
    c, s = cos(angle), sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


@dataclass(frozen=True, eq=False)
class Part:
    """One solid.

    Attributes:
        shape: `BOX`, `CYLINDER` (axis = the part's own z) or `ELLIPSOID`.
        center: (3,) metres, in the item's frame.
        half: (3,) half extents in metres along the part's own axes, before rotation.
        rotation: (3, 3) item_from_part.
        material: what it looks like.
        taper: cylinders only, in [-1, 1]: the radius grows towards the top (> 0) or the bottom (< 0);
            ``half`` holds the larger radius.
    """

    shape: int
    center: F64
    half: F64
    rotation: F64
    material: Material
    taper: float = 0.0

    def moved(self, rotation: F64, offset: F64) -> Part:
        """The part in another frame: first rotated, then shifted."""
        return replace(self, center=rotation @ self.center + offset, rotation=rotation @ self.rotation)


Triple = tuple[float, float, float]


def _above(at: Triple, height: float) -> F64:
    return np.array((at[0], at[1], at[2] + height))


def box(at: Triple, size: Triple, material: Material, yaw: float = 0.0, tilt: float = 0.0) -> Part:
    """A box of ``size`` (width, depth, height) that stands with the middle of its bottom at ``at``."""
    half = np.array(size) / 2
    return Part(BOX, _above(at, half[2]), half, yaw_matrix(yaw) @ tilt_matrix(tilt), material)


def cylinder(at: Triple, radius: float, height: float, material: Material, taper: float = 0.0) -> Part:
    """An upright cylinder with the middle of its bottom at ``at``."""
    half = np.array((radius, radius, height / 2))
    return Part(CYLINDER, _above(at, height / 2), half, _UPRIGHT, material, taper)


def oval(at: Triple, size: Triple, material: Material, taper: float = 0.0) -> Part:
    """An upright cylinder of elliptic section: ``size`` is its width, depth and height."""
    half = np.array(size) / 2
    return Part(CYLINDER, _above(at, half[2]), half, _UPRIGHT, material, taper)


def rod(at: Triple, radius: float, length: float, material: Material) -> Part:
    """A lying cylinder along x, its middle at ``at``."""
    return Part(CYLINDER, np.array(at), np.array((radius, radius, length / 2)), _ALONG_X, material)


def ellipsoid(at: Triple, size: Triple, material: Material, tilt: float = 0.0) -> Part:
    """An ellipsoid of ``size`` (width, depth, height), its middle at ``at``."""
    return Part(ELLIPSOID, np.array(at), np.array(size) / 2, tilt_matrix(tilt), material)


@dataclass(frozen=True, eq=False)
class Item:
    """One instance: a class and its parts.

    Attributes:
        name: a name of `SCANNET20`, or ``"ceiling"``, which is labelled `IGNORE`.
        parts: at least one.
    """

    name: str
    parts: tuple[Part, ...]

    def moved(self, yaw: float = 0.0, offset: Sequence[float] = (0.0, 0.0, 0.0)) -> Item:
        """The item rotated about z by ``yaw`` radians, then shifted by ``offset`` metres."""
        rotation, shift = yaw_matrix(yaw), np.array(offset, dtype=np.float64)
        return Item(self.name, tuple(part.moved(rotation, shift) for part in self.parts))

    def bounds(self) -> F64:
        """(2, 3) lowest and highest coordinates, metres."""
        center = np.array([part.center for part in self.parts])
        reach = np.array([np.abs(part.rotation) @ part.half for part in self.parts])
        return np.stack([(center - reach).min(0), (center + reach).max(0)])


@dataclass(frozen=True, eq=False)
class Solids:
    """All parts of a room as arrays of P rows, in world coordinates (metres, z up).

    Attributes:
        shape: (P,) `BOX`, `CYLINDER` or `ELLIPSOID`.
        center: (P, 3) float32.
        half: (P, 3) float32 half extents along the part's own axes.
        world_from_part: (P, 3, 3) float32 rotations.
        taper: (P,) float32.
        labels: (P,) uint8 class ids of `SCANNET20`, or `IGNORE`.
        instances: (P,) uint16, from 1: the parts of an item share one.
        materials: P rows.
    """

    shape: I64
    center: F32
    half: F32
    world_from_part: F32
    taper: F32
    labels: U8
    instances: U16
    materials: Materials

    @classmethod
    def pack(cls, items: Sequence[Item]) -> Solids:
        """The solids of items that stand in the world already; item ``i`` is instance ``i + 1``."""
        parts = [part for item in items for part in item.parts]
        sizes = [len(item.parts) for item in items]
        labels = np.array([class_id(item.name) for item in items], dtype=np.uint8)
        return cls(
            shape=np.array([part.shape for part in parts]),
            center=np.array([part.center for part in parts], dtype=np.float32),
            half=np.array([part.half for part in parts], dtype=np.float32),
            world_from_part=np.array([part.rotation for part in parts], dtype=np.float32),
            taper=np.array([part.taper for part in parts], dtype=np.float32),
            labels=np.repeat(labels, sizes),
            instances=np.repeat(np.arange(1, len(items) + 1, dtype=np.uint16), sizes),
            materials=Materials.pack([part.material for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.shape)


def class_id(name: str) -> int:
    """The id of a `SCANNET20` name; the ceiling has none, as in ScanNet."""
    return IGNORE if name == "ceiling" else SCANNET20.names.index(name)
