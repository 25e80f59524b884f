"""Predictions against ground truth: the only place beside simulation that reads it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scenelift.classes import ClassTable
from scenelift.errors import ConfigError, DataError
from scenelift.files import read_json, read_sealed, write_sealed
from scenelift.metrics import Confusion
from scenelift.predict import Predictor
from scenelift.progress import Progress, silent
from scenelift.scenes import SceneSource, TruthSource
from scenelift.types import IGNORE, U8
from scenelift.world import ALONE, World

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a predictor is worth.

    Attributes:
        confusion_2d: over all annotated frames.
        confusion_3d: over all annotated points.
        seconds: time it took.
        scenes: both confusions of each scene, in the order they were evaluated in; they add up to the above.
    """

    confusion_2d: Confusion
    confusion_3d: Confusion
    seconds: float
    scenes: Mapping[str, tuple[Confusion, Confusion]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The counts as plain lists, those of the scenes without their zeros."""
        counts_2d, counts_3d = self.confusion_2d.counts, self.confusion_3d.counts
        scenes = {
            name: {"2d": _sparse(in_2d), "3d": _sparse(in_3d)} for name, (in_2d, in_3d) in self.scenes.items()
        }
        return {
            "2d": counts_2d.tolist(),
            "3d": counts_3d.tolist(),
            "seconds": self.seconds,
            "scenes": scenes,
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_json`."""
        in_2d, in_3d = (Confusion.from_counts(np.array(tree[key], dtype=np.int64)) for key in ("2d", "3d"))
        classes = in_2d.num_classes
        scenes = {
            name: (_dense(item["2d"], classes), _dense(item["3d"], classes))
            for name, item in tree.get("scenes", {}).items()
        }
        return cls(in_2d, in_3d, float(tree["seconds"]), scenes)


VERSION = 3
"""Of the file of `save_evaluation`; 1 had no counts of single scenes, 2 no checksum."""


def save_evaluation(
    path: Path, evaluation: Evaluation, digest: str, log: str, classes: Sequence[str]
) -> None:
    """Write an evaluation as sealed JSON.

    Args:
        path: of the file.
        evaluation: to be kept.
        digest: of all that it depends on.
        log: digest of the training log that goes with it, times included.
        classes: their names, for whoever shows it where the data are gone.
    """
    about = {"version": VERSION, "digest": digest, "log": log, "classes": list(classes)}
    write_sealed(path, {**about, **evaluation.to_json()})


class Saved(NamedTuple):
    """What `save_evaluation` wrote.

    Attributes:
        evaluation: what was kept.
        log: digest of the training log that goes with it, times included.
        classes: names; ``None`` in files that did not keep them.
    """

    evaluation: Evaluation
    log: str
    classes: list[str] | None


def saved_evaluation(path: Path, digest: str | None = None) -> Saved | None:
    """What `save_evaluation` wrote; ``None`` where it has to be made again.

    Args:
        path: of the file; a damaged one is told in the log, and counts as none.
        digest: of all that it has to depend on; ``None`` = the folder's configuration has been compared.
    """
    if not path.is_file():
        return None
    try:
        tree = read_json(path)
        if not isinstance(tree, dict) or tree.get("version", VERSION) < VERSION:
            return None
        tree = read_sealed(path)
    except (DataError, TypeError) as error:
        _log.warning("%s; the evaluation is made again", error)
        return None
    # one without a version is another file that was put in this one's place
    if tree.get("version") != VERSION or digest not in (None, tree["digest"]):
        return None
    return Saved(Evaluation.from_json(tree), str(tree["log"]), tree.get("classes"))


def _sparse(confusion: Confusion) -> list[list[int]]:
    """Places and counts of what is not 0: of 20 classes few meet in one scene, of 200 very few."""
    flat = confusion.counts.reshape(-1)
    places = np.flatnonzero(flat)
    return [places.tolist(), flat[places].tolist()]


def _dense(lists: Sequence[Sequence[int]], classes: int) -> Confusion:
    counts = np.zeros(classes * (classes + 1), dtype=np.int64)
    counts[np.array(lists[0], dtype=np.int64)] = lists[1]
    return Confusion.from_counts(counts.reshape(classes, classes + 1))


def evaluate(
    source: SceneSource,
    names: Sequence[str],
    classes: ClassTable,
    predictor: Predictor,
    *,
    progress: Progress = silent,
    world: World = ALONE,
) -> Evaluation:
    """Predict every annotated frame and point of these scenes, and count.

    Several processes share the scenes; each gets the whole result, which is that of one process, count for
    count.

    Args:
        source: scenes with ground truth.
        names: scenes to evaluate.
        classes: those the predictor knows; ground truth of other classes is ignored.
        predictor: answers for scenes.
        progress: told after each scene.
        world: the processes that evaluate together.

    Raises:
        DataError: there is no ground truth.
        ConfigError: it shares no class with the run.
    """
    start = time.perf_counter()
    truth = source.truth
    if truth is None:
        raise DataError("evaluate: there is no ground truth here to compare with; use `scenelift predict`")
    to_run = run_ids(truth, classes)
    scenes: dict[str, tuple[Confusion, Confusion]] = {}
    own = names[world.rank :: world.size]
    with progress("evaluate", len(own), 0) as advance:
        for name in own:
            in_2d, in_3d = scenes[name] = Confusion(len(classes)), Confusion(len(classes))
            scene = source.scene(name)
            if predictor.can_label(scene) and (points := truth.scene(name)) is not None:
                in_3d.update(predictor.points(scene).labels, to_run[points.labels])
            # Whoever has labels of points alone, as nuScenes has, shall not wait for images.
            pixels = {f: labels for f in scene.frames.names if (labels := truth.frame(name, f)) is not None}
            annotated = replace(scene, frames=scene.frames.only(list(pixels)))
            for frame, prediction in predictor.frames(annotated):
                in_2d.update(prediction.labels, to_run[pixels[frame].labels])
            advance(name)
    if not world.alone:
        scenes = _of_all(scenes, names, len(classes), world)
    total_2d, total_3d = Confusion(len(classes)), Confusion(len(classes))
    for in_2d, in_3d in scenes.values():
        total_2d, total_3d = total_2d.merge(in_2d), total_3d.merge(in_3d)
    return Evaluation(total_2d, total_3d, time.perf_counter() - start, scenes)


def _of_all(
    own: Mapping[str, tuple[Confusion, Confusion]], names: Sequence[str], classes: int, world: World
) -> dict[str, tuple[Confusion, Confusion]]:
    """The confusions of all processes' scenes, in the order of ``names``."""
    found: dict[str, list[list[list[int]]]] = {}
    for told in world.gather({name: [_sparse(one) for one in pair] for name, pair in own.items()}):
        found.update(told)
    dense = {name: [_dense(lists, classes) for lists in found[name]] for name in names}
    return {name: (in_2d, in_3d) for name, (in_2d, in_3d) in dense.items()}


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
