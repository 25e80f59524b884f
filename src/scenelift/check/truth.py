"""Ground truth: does it belong to these points and images, and is any of it there?

The check looks at labels for their validity alone; nothing of them leaves this file but counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from scenelift.check import mends
from scenelift.check.report import Notes
from scenelift.classes import ClassTable
from scenelift.config import DataConfig
from scenelift.errors import DataError
from scenelift.scenes import TruthSource
from scenelift.types import F32, F64, I32, IGNORE, U8, Frame

GROUND = ("road", "driveable", "drivable", "floor", "sidewalk", "parking", "flat", "lane marking", "ground")
"""Words of classes that are level where they are."""

LOW_AGREEMENT = 0.7
"""Below this share of pairs whose point and pixel have one label, one of the two belongs elsewhere."""

UNEVEN = 0.2
"""More than this share of ground points above the lowest point of their cell: it is not ground."""

_CELL_M = 1.0
_STEP_M = 0.5
_MIN_GROUND = 200
_MIN_PAIRS = 200


@dataclass(eq=False)
class TruthCheck:
    """Looks at the labels of scenes and frames, one after another, and judges them in the end."""

    notes: Notes
    truth: TruthSource
    data: DataConfig
    _known: int = 0
    _labelled: int = 0
    _annotated: int = 0
    _met: set[int] = field(default_factory=set)
    _pairs: int = 0
    _agreeing: int = 0
    _ground: int = 0
    _uneven: int = 0
    _last: str = ""

    def scene_labels(self, name: str, points_world: F32, up_world: F64) -> U8 | None:
        """Labels of a scene's points if they are there and sound; else ``None``, with what is wrong noted."""
        try:
            truth = self.truth.scene(name)
        except DataError as error:
            self.notes.add_error(error, name)
            return None
        if truth is None:
            return None
        if truth.labels.shape != (len(points_world),):
            self.notes.add(
                "error",
                f"expected a label for each of {len(points_world):,} points, found {truth.labels.size:,}",
                name,
                mends.labels(self.data),
            )
            return None
        if not self._sound(truth.labels, name):
            return None
        self._look_at_ground(points_world, up_world, truth.labels)
        return truth.labels

    def frame_labels(self, frame: Frame) -> U8 | None:
        """Labels of a frame if they are there and sound; else ``None``, and what is wrong is noted."""
        try:
            truth = self.truth.frame(frame.scene, frame.name)
        except DataError as error:
            self.notes.add_error(error, frame.key)
            return None
        if truth is None:
            return None
        if truth.labels.shape != frame.image.shape[:2]:
            height, width = truth.labels.shape
            self.notes.add(
                "error",
                f"expected labels of {frame.width} × {frame.height} pixels like the image, found "
                f"{width} × {height}",
                frame.key,
                "scale label images like the images, by nearest neighbour",
            )
            return None
        return truth.labels if self._sound(truth.labels, frame.key) else None

    def pair(self, point_labels: U8, pixel_labels: U8, point_index: I32, row: I32, column: I32) -> None:
        """Count points and the pixels they fall on that have one label; unlabelled ones do not count."""
        of_points, of_pixels = point_labels[point_index], pixel_labels[row, column]
        both = (of_points != IGNORE) & (of_pixels != IGNORE)
        self._pairs += int(both.sum())
        self._agreeing += int((of_points == of_pixels)[both].sum())

    def judge(self, compare: bool = True) -> None:
        """Facts and problems of all labels that were looked at; ``compare``: also points with pixels."""
        if not self._annotated:
            return
        self.notes.facts["labelled"] = self._labelled / max(1, self._known)
        self.notes.facts["classes_met"] = f"{len(self._met)} of {len(self.truth.classes)}"
        if not self._labelled:
            mend = "bring the labels of this data set, or leave them out: nothing can be evaluated"
            self.notes.add("warning", "ground truth is there, but all of it is unlabelled", self._last, mend)
        if compare and self._pairs >= _MIN_PAIRS:
            share = self._agreeing / self._pairs
            self.notes.facts["label_agreement_2d_3d"] = share
            if share < LOW_AGREEMENT:
                self.notes.add(
                    "warning",
                    f"labels of points and of the pixels they fall on are the same for {share:.0%} only",
                    self._last,
                    f"look at the poses and at which labels belong to which scan; {mends.labels(self.data)}",
                )
        if self._ground >= _MIN_GROUND:
            uneven = self._uneven / self._ground
            self.notes.facts["uneven_ground"] = uneven
            if uneven > UNEVEN:
                self.notes.add(
                    "error" if uneven > 2 * UNEVEN else "warning",
                    f"{uneven:.0%} of the points labelled as ground lie {_STEP_M:g} m or more above the "
                    "lowest point of their square metre: the labels belong to another scan, or up is wrong",
                    self._last,
                    mends.labels(self.data),
                )

    def _sound(self, labels: U8, where: str) -> bool:
        self._last = where.rpartition("/")[0] or where
        self._annotated += 1
        self._known += labels.size
        counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)
        classes = len(self.truth.classes)
        unknown = np.flatnonzero(counts[classes:IGNORE]) + classes
        if len(unknown):
            self.notes.add(
                "error",
                f"expected labels 0 to {classes - 1} or {IGNORE}, found {', '.join(map(str, unknown[:5]))}",
                where,
                "map the labels to the classes of this data set",
            )
            return False
        self._labelled += int(counts[:classes].sum())
        self._met.update(np.flatnonzero(counts[:classes]).tolist())
        return True

    def _look_at_ground(self, points_world: F32, up_world: F64, labels: U8) -> None:
        ids = ground_ids(self.truth.classes)
        finite = np.isfinite(points_world).all(1)
        ground = np.isin(labels, ids) & finite
        if ids and ground.sum() >= _MIN_GROUND:
            self._ground += int(ground.sum())
            self._uneven += int(_raised(points_world[finite], up_world)[ground[finite]].sum())


def ground_ids(classes: ClassTable) -> list[int]:
    """Classes that are level, by their names."""
    return [i for i, name in enumerate(classes.names) if any(word in name.casefold() for word in GROUND)]


def _raised(points_world: F32, up_world: F64) -> F64:
    """Which (N,) points lie clearly above the lowest of their square metre, bool."""
    points = points_world.astype(np.float64)
    height = points @ up_world
    side = np.cross(up_world, [1.0, 0.0, 0.0] if abs(up_world[0]) < 0.9 else [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    plan = np.stack([points @ side, points @ np.cross(up_world, side)], 1)
    _, cell = np.unique(np.floor(plan / _CELL_M).astype(np.int64), axis=0, return_inverse=True)
    cell = cell.ravel()
    lowest = np.full(cell.max() + 1, np.inf)
    np.minimum.at(lowest, cell, height)
    return np.asarray(height > lowest[cell] + _STEP_M)
