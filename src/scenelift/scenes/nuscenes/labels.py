"""The classes of nuScenes-lidarseg: 32 raw ids, the 16 classes of its benchmark, and the official splits.

Sources: the category table and the benchmark's map of classes at https://www.nuscenes.org/lidar-segmentation,
the splits of https://github.com/nutonomy/nuscenes-devkit (``nuscenes/utils/splits.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

import numpy as np

from scenelift.classes import ClassTable
from scenelift.types import IGNORE, U8

RAW_NAMES = (
    "noise",
    "animal",
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.barrier",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "movable_object.trafficcone",
    "static_object.bicycle_rack",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.car",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.motorcycle",
    "vehicle.trailer",
    "vehicle.truck",
    "flat.driveable_surface",
    "flat.other",
    "flat.sidewalk",
    "flat.terrain",
    "static.manmade",
    "static.other",
    "static.vegetation",
    "vehicle.ego",
)
"""Names of the raw ids 0-31."""

_CLASSES: tuple[tuple[str, tuple[int, ...], tuple[str, ...], tuple[int, int, int]], ...] = (
    # name, raw ids, prompts where the name is not what one sees, colour of the devkit
    ("barrier", (9,), (), (112, 128, 144)),
    ("bicycle", (14,), (), (220, 20, 60)),
    ("bus", (15, 16), (), (255, 127, 80)),
    ("car", (17,), (), (255, 158, 0)),
    ("construction vehicle", (18,), (), (233, 150, 70)),
    ("motorcycle", (21,), (), (255, 61, 99)),
    ("pedestrian", (2, 3, 4, 6), ("pedestrian", "person"), (0, 0, 230)),
    ("traffic cone", (12,), (), (47, 79, 79)),
    ("trailer", (22,), (), (255, 140, 0)),
    ("truck", (23,), (), (255, 99, 71)),
    ("driveable surface", (24,), ("driveable surface", "road"), (0, 207, 191)),
    ("other flat", (25,), ("traffic island", "other flat ground"), (175, 0, 75)),
    ("sidewalk", (26,), (), (75, 0, 75)),
    ("terrain", (27,), ("terrain", "grass"), (112, 180, 60)),
    ("manmade", (28,), ("manmade structure", "building", "wall", "pole"), (222, 184, 135)),
    ("vegetation", (30,), ("vegetation", "tree", "bush"), (0, 175, 0)),
)

NUSCENES16 = ClassTable(
    names=tuple(name for name, *_ in _CLASSES),
    prompts=tuple(prompts or (name,) for name, _, prompts, _ in _CLASSES),
    colors=np.array([color for *_, color in _CLASSES], dtype=np.uint8),
)
"""The 16 classes of the lidarseg benchmark, in its order."""


def nuscenes16_from_raw() -> U8:
    """(256,) uint8 look-up table from raw lidarseg ids to the 16 training ids, `IGNORE` elsewhere."""
    table = np.full(256, IGNORE, dtype=np.uint8)
    for train_id, (_, raw_ids, *_) in enumerate(_CLASSES):
        table[list(raw_ids)] = train_id
    return table


def category_fault(index_by_name: Mapping[str, int]) -> str | None:
    """How a category table contradicts the official raw ids; ``None`` if it does not.

    Args:
        index_by_name: the ``index`` of each category that has one; nothing to judge if there is none.
    """
    official = {name: index for index, name in enumerate(RAW_NAMES)}
    for name, index in index_by_name.items():
        if official.get(name) != index:
            known = f"index {official[name]}" if name in official else "no such category"
            return f"category {name!r} has index {index}, nuScenes-lidarseg has {known}"
    lost = sorted(official.keys() - index_by_name.keys())
    if index_by_name and lost:
        return f"{len(lost)} of the {len(RAW_NAMES)} categories are not there, among them {lost[0]!r}"
    return None


@cache
def _splits() -> Mapping[str, frozenset[str]]:
    text = resources.files("scenelift.scenes").joinpath("data/nuscenes_splits.json").read_text("utf-8")
    return {name: frozenset(scenes) for name, scenes in json.loads(text).items()}


def split_scenes(version: str, split: str, scene_names: Sequence[str]) -> Mapping[str, frozenset[str]] | None:
    """Which of a version's scenes are to train and which to judge by.

    Args:
        version: a version with ``mini`` in its name has the mini splits, others the large ones.
        split: ``official``, or ``paper``: the official training scenes alone, 600 for ``train`` and 100 for
            ``val`` (the parametrizing and verifying scenes of SLidR, https://github.com/valeoai/SLidR).
        scene_names: the scenes of the tables.

    Returns:
        Scene names by ``train`` and ``val``; test scenes stand under ``val``, without labels. ``None`` when
        no scene is in any official list: then these are data of someone's own, without a split.
    """
    lists = _splits()
    if not any(name in lists[part] for part in ("train", "val", "test") for name in scene_names):
        return None
    if split == "paper":
        parts = {"train": lists["train"] - lists["paper_val"], "val": lists["paper_val"]}
    elif "mini" in version:
        parts = {"train": lists["mini_train"], "val": lists["mini_val"]}
    else:
        parts = {"train": lists["train"], "val": lists["val"] | lists["test"]}
    return {part: scenes.intersection(scene_names) for part, scenes in parts.items()}


def official_part(version: str, scene_name: str) -> str | None:
    """The official split that a scene is evaluated in: train, val or test; mini_train or mini_val.

    Args:
        version: of the tables; one with ``mini`` in its name has the mini splits.
        scene_name: of nuScenes, such as ``scene-0061``.

    Returns:
        ``None`` for a scene that is in none of them.
    """
    parts = ("mini_train", "mini_val") if "mini" in version else ("train", "val", "test")
    return next((part for part in parts if scene_name in _splits()[part]), None)
