"""Classes of SemanticKITTI and KITTI-360, and look-up tables from their raw ids.

SemanticKITTI: http://semantic-kitti.org/dataset.html, single scan benchmark of 19 classes (Behley et al.,
ICCV 2019). KITTI-360: https://www.cvlibs.net/datasets/kitti-360/, evaluated in the 19 classes of Cityscapes.
"""

from __future__ import annotations

import numpy as np

from scenelift.classes import ClassTable
from scenelift.types import I64, IGNORE

UNKNOWN = -1
"""In the look-up tables: an id that the data set does not have."""

_Row = tuple[str, tuple[str, ...], tuple[int, ...], tuple[int, int, int]]

_SEMANTIC_KITTI: tuple[_Row, ...] = (
    # name, prompts, raw ids (those above 250 are in motion), colour
    ("car", ("car",), (10, 252), (100, 150, 245)),
    ("bicycle", ("bicycle",), (11,), (100, 230, 245)),
    ("motorcycle", ("motorcycle",), (15,), (30, 60, 150)),
    ("truck", ("truck",), (18, 258), (80, 30, 180)),
    ("other-vehicle", ("bus", "train", "trailer", "vehicle"), (13, 16, 20, 256, 257, 259), (0, 0, 255)),
    ("person", ("person", "pedestrian"), (30, 254), (255, 30, 30)),
    ("bicyclist", ("bicyclist",), (31, 253), (255, 40, 200)),
    ("motorcyclist", ("motorcyclist",), (32, 255), (150, 30, 90)),
    ("road", ("road",), (40, 60), (255, 0, 255)),
    ("parking", ("parking lot",), (44,), (255, 150, 255)),
    ("sidewalk", ("sidewalk",), (48,), (75, 0, 75)),
    ("other-ground", ("traffic island", "ground"), (49,), (175, 0, 75)),
    ("building", ("building",), (50,), (255, 200, 0)),
    ("fence", ("fence",), (51,), (255, 120, 50)),
    ("vegetation", ("vegetation", "tree", "bush"), (70,), (0, 175, 0)),
    ("trunk", ("tree trunk",), (71,), (135, 60, 0)),
    ("terrain", ("terrain", "grass"), (72,), (150, 240, 80)),
    ("pole", ("pole",), (80,), (255, 240, 150)),
    ("traffic-sign", ("traffic sign",), (81,), (255, 0, 0)),
)
_SEMANTIC_KITTI_IGNORED = (0, 1, 52, 99)
"""unlabeled, outlier, other-structure, other-object"""

_CITYSCAPES: tuple[_Row, ...] = (
    # name, prompts, ids of KITTI-360, colour
    ("road", ("road",), (7,), (128, 64, 128)),
    ("sidewalk", ("sidewalk",), (8,), (244, 35, 232)),
    ("building", ("building",), (11, 34), (70, 70, 70)),  # 34: garage
    ("wall", ("wall",), (12,), (102, 102, 156)),
    ("fence", ("fence",), (13, 35), (190, 153, 153)),  # 35: gate
    ("pole", ("pole",), (17, 37), (153, 153, 153)),  # 37: small pole
    ("traffic light", ("traffic light",), (19,), (250, 170, 30)),
    ("traffic sign", ("traffic sign",), (20,), (220, 220, 0)),
    ("vegetation", ("vegetation", "tree", "bush"), (21,), (107, 142, 35)),
    ("terrain", ("terrain", "grass"), (22,), (152, 251, 152)),
    ("sky", ("sky",), (23,), (70, 130, 180)),
    ("person", ("person", "pedestrian"), (24,), (220, 20, 60)),
    ("rider", ("rider",), (25,), (255, 0, 0)),
    ("car", ("car",), (26,), (0, 0, 142)),
    ("truck", ("truck",), (27,), (0, 0, 70)),
    ("bus", ("bus",), (28,), (0, 60, 100)),
    ("train", ("train",), (31,), (0, 80, 100)),
    ("motorcycle", ("motorcycle",), (32,), (0, 0, 230)),
    ("bicycle", ("bicycle",), (33,), (119, 11, 32)),
)
_KITTI_360_IDS = range(45)


def _table(rows: tuple[_Row, ...]) -> ClassTable:
    colors = np.array([color for *_, color in rows], np.uint8)
    return ClassTable(tuple(row[0] for row in rows), tuple(row[1] for row in rows), colors)


def _look_up(rows: tuple[_Row, ...], ignored: tuple[int, ...]) -> I64:
    """(65536,) int64: class id, `IGNORE`, or `UNKNOWN`."""
    labels = np.full(1 << 16, UNKNOWN, np.int64)
    labels[list(ignored)] = IGNORE
    for label, (_, _, ids, _) in enumerate(rows):
        labels[list(ids)] = label
    return labels


SEMANTIC_KITTI = _table(_SEMANTIC_KITTI)
"""The 19 classes of SemanticKITTI."""

CITYSCAPES = _table(_CITYSCAPES)
"""The 19 classes of Cityscapes, in which KITTI-360 is evaluated."""

SEMANTIC_KITTI_LABELS = _look_up(_SEMANTIC_KITTI, _SEMANTIC_KITTI_IGNORED)
"""Class id by raw id of a .label file."""

SEMANTIC_KITTI_RAW = (10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81)
"""Raw id by class id, as the benchmark's servers want them (``learning_map_inv`` of semantic-kitti.yaml)."""

KITTI_360_LABELS = _look_up(_CITYSCAPES, (*_KITTI_360_IDS, IGNORE))
"""Class id by id in a semantic image; 0-44 that are in no class, and 255, are ignored."""

TRAIN_SEQUENCES = ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10")
VAL_SEQUENCES = ("08",)
TEST_SEQUENCES = tuple(f"{number:02d}" for number in range(11, 22))
