"""Predictions against ground truth: the only place beside simulation that reads it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scenelift.classes import ClassTable
from scenelift.errors import ConfigError, DataError
from scenelift.metrics import Confusion
from scenelift.predict import Predictor
from scenelift.progress import Progress, silent
from scenelift.scenes import SceneSource, TruthSource
from scenelift.types import IGNORE, U8


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a predictor is worth.

    Attributes:
        confusion_2d: over all annotated frames.
        confusion_3d: over all annotated points.
        seconds: time it took.
    """

    confusion_2d: Confusion
    confusion_3d: Confusion
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The counts as plain lists."""
        counts_2d, counts_3d = self.confusion_2d.counts, self.confusion_3d.counts
        return {"2d": counts_2d.tolist(), "3d": counts_3d.tolist(), "seconds": self.seconds}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_json`."""
        in_2d, in_3d = (Confusion.from_counts(np.array(tree[key], dtype=np.int64)) for key in ("2d", "3d"))
        return cls(in_2d, in_3d, float(tree["seconds"]))


def evaluate(
    source: SceneSource,
    names: Sequence[str],
    classes: ClassTable,
    predictor: Predictor,
    *,
    progress: Progress = silent,
) -> Evaluation:
    """Predict every annotated frame and point of these scenes, and count.

    Args:
        source: scenes with ground truth.
        names: scenes to evaluate.
        classes: those the predictor knows; ground truth of other classes is ignored.
        predictor: answers for scenes.
        progress: told after each scene.

    Raises:
        DataError: there is no ground truth.
        ConfigError: it shares no class with the run.
    """
    start = time.perf_counter()
    truth = source.truth
    if truth is None:
        raise DataError("evaluate: there is no ground truth here to compare with; use `scenelift predict`")
    to_run = run_ids(truth, classes)
    in_2d, in_3d = Confusion(len(classes)), Confusion(len(classes))
    with progress("evaluate", len(names), 0) as advance:
        for name in names:
            scene = source.scene(name)
            if predictor.can_label(scene) and (points := truth.scene(name)) is not None:
                in_3d.update(predictor.points(scene).labels, to_run[points.labels])
            # Whoever has labels of points alone, as nuScenes has, shall not wait for images.
            pixels = {f: labels for f in scene.frames.names if (labels := truth.frame(name, f)) is not None}
            annotated = replace(scene, frames=scene.frames.only(list(pixels)))
            for frame, prediction in predictor.frames(annotated):
                in_2d.update(prediction.labels, to_run[pixels[frame].labels])
            advance(name)
    return Evaluation(in_2d, in_3d, time.perf_counter() - start)


def run_ids(truth: TruthSource, classes: ClassTable) -> U8:
    """(256,) uint8 table from the ground truth's class ids to the run's, by name; others to `IGNORE`.

    Raises:
        ConfigError: the two class lists share no name.
    """
    table = np.full(256, IGNORE, dtype=np.uint8)
    wanted = {name.casefold(): index for index, name in enumerate(classes.names)}
    for index, name in enumerate(truth.classes.names):
        table[index] = wanted.get(name.casefold(), IGNORE)
    if (table == IGNORE).all():
        raise ConfigError(
            f"evaluate: none of the classes {', '.join(classes.names)} occurs in the ground truth "
            f"({', '.join(truth.classes.names)}); name them as it does"
        )
    return table
