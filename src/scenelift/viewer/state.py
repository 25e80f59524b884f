"""What is shown, as plain data: no browser, no viser, nothing that waits.

`View` is what the user chose, `Cloud` the arrays at hand, `paint` the colours that follow from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from scenelift.colors import heat
from scenelift.export import NO_LABEL_COLOR
from scenelift.metrics import Confusion, Scores
from scenelift.query.files import cloud_colors, heat_range
from scenelift.types import F32, IGNORE, U8, Bool

COLORINGS = {
    "color": "colour",
    "points": "3D network",
    "lifted": "2D network on points",
    "refined": "refined labels",
    "teacher": "teacher labels",
    "truth": "ground truth",
    "error": "right or wrong",
    "confidence": "confidence",
}
"""Ways to colour a cloud, and their names."""

LABELS = ("points", "lifted", "refined", "teacher", "truth")
"""Those that are labels, the most telling one first."""

RIGHT, WRONG = (0, 114, 178), (213, 94, 0)
"""RGB, told apart by all eyes."""


@dataclass(frozen=True)
class View:
    """What the user chose.

    Attributes:
        scene: its name.
        coloring: a key of `COLORINGS`.
        judged: which labels ``error`` is about, and hide points where the colouring is no labels.
        hidden: class ids whose points are not drawn; `IGNORE` for points without a label.
        phrase: a query that lights up the cloud in place of the colouring; empty = none.
        threshold: similarity from which points are selected.
        pixel_offset: threshold of pixels minus that of points: each network has a scale of its own.
        cut: share of the height up to which points are drawn; 1 = all.
    """

    scene: str
    coloring: str = "color"
    judged: str | None = None
    hidden: frozenset[int] = frozenset()
    phrase: str = ""
    threshold: float = 0.0
    pixel_offset: float = 0.0
    cut: float = 1.0

    @property
    def hiding(self) -> str | None:
        """The labels by which classes are hidden."""
        return self.coloring if self.coloring in LABELS else self.judged

    def needed(self) -> tuple[str, ...]:
        """Which labels `paint` will look at."""
        wanted = [self.coloring] if self.coloring in LABELS else []
        if self.hidden and self.hiding:
            wanted.append(self.hiding)
        if self.coloring == "error" and self.judged:
            wanted += [self.judged, "truth"]
        return tuple(dict.fromkeys(wanted))


@dataclass(frozen=True, eq=False)
class Cloud:
    """The arrays of a scene that are at hand.

    Attributes:
        points: (N, 3) float32, metres, in the frame that is shown.
        height_m: (N,) float32 above the lowest point, along the world's up.
        rgb: (N, 3) uint8 or ``None``.
        labels: by kind, (N,) uint8.
        confidence: (N,) float32 in [0, 1] or ``None``.
        similarity: (N,) float32 or ``None``: of the view's phrase.
    """

    points: F32
    height_m: F32
    rgb: U8 | None
    labels: Mapping[str, U8] = field(default_factory=dict)
    confidence: F32 | None = None
    similarity: F32 | None = None


def paint(view: View, cloud: Cloud, palette: U8) -> tuple[U8, Bool]:
    """Colours, and which points are drawn.

    Args:
        view: what was chosen; `View.needed` says which labels ``cloud`` has to hold.
        cloud: the arrays.
        palette: (256, 3) uint8 colour of every label.

    Returns:
        colors: (N, 3) uint8 RGB.
        drawn: (N,) bool.
    """
    return _colors(view, cloud, palette), _drawn(view, cloud)


def _colors(view: View, cloud: Cloud, palette: U8) -> U8:
    if view.phrase and cloud.similarity is not None:
        scale = heat_range(cloud.similarity, view.threshold)
        return cloud_colors(cloud.similarity, cloud.similarity >= view.threshold, scale)
    if view.coloring in LABELS:
        return palette[cloud.labels[view.coloring]]
    if view.coloring == "error" and view.judged:
        return palette_of_errors()[errors(cloud.labels[view.judged], cloud.labels["truth"])]
    if view.coloring == "confidence" and cloud.confidence is not None:
        return heat(cloud.confidence, 0.0, 1.0)
    if cloud.rgb is not None:
        return cloud.rgb
    return heat(cloud.height_m, 0.0, float(cloud.height_m.max(initial=0.0)))


def _drawn(view: View, cloud: Cloud) -> Bool:
    drawn = np.ones(len(cloud.points), np.bool_)
    if view.hidden and view.hiding:
        shown = np.ones(256, np.bool_)
        shown[list(view.hidden)] = False
        drawn &= shown[cloud.labels[view.hiding]]
    if view.cut < 1.0:
        drawn &= cloud.height_m <= view.cut * float(cloud.height_m.max(initial=0.0))
    return drawn


def errors(labels: U8, truth: U8) -> U8:
    """(N,) uint8: 0 = right, 1 = wrong or without a label, 2 = no truth to compare with."""
    return np.where(truth == IGNORE, 2, labels != truth).astype(np.uint8)


def palette_of_errors() -> U8:
    """(3, 3) uint8 colours of `errors`."""
    return np.array([RIGHT, WRONG, NO_LABEL_COLOR], np.uint8)


def palette_of(colors: U8) -> U8:
    """(C, 3) colours of classes to (256, 3) of every label; without a label dark grey."""
    palette = np.empty((256, 3), np.uint8)
    palette[:] = NO_LABEL_COLOR
    palette[: len(colors)] = colors
    return palette


@dataclass(frozen=True)
class Row:
    """A line of the legend: class id, share of the points with its label, IoU in this scene or ``None``."""

    label: int
    share: float
    iou: float | None


def legend(labels: U8, truth: U8 | None, num_classes: int) -> tuple[list[Row], Scores | None]:
    """Lines for the classes that occur, in order of their ids, and the scores of the scene.

    Args:
        labels: (N,) uint8.
        truth: (N,) uint8, the ids of the same classes, or ``None``.
        num_classes: C.
    """
    count = np.bincount(labels, minlength=256)
    scores = None
    occurs = count > 0
    if truth is not None:
        confusion = Confusion(num_classes)
        confusion.update(labels, truth)
        scores = confusion.compute()
        occurs = occurs | (np.bincount(truth, minlength=256) > 0)
    rows = []
    for label in range(num_classes):
        if occurs[label]:
            iou = None if scores is None or np.isnan(scores.iou[label]) else float(scores.iou[label])
            rows.append(Row(label, float(count[label]) / max(len(labels), 1), iou))
    if count[IGNORE]:
        rows.append(Row(IGNORE, float(count[IGNORE]) / len(labels), None))
    return rows, scores
