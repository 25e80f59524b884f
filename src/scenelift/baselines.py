"""What a run is compared with: the teacher's own labels, raw and refined; without truth, who agrees."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scenelift.annotations import Annotations
from scenelift.classes import ClassTable
from scenelift.config import Config
from scenelift.evaluate import Evaluation, evaluate
from scenelift.files import read_bytes, read_note, safe_name, write_sealed
from scenelift.ply import decode_scalars
from scenelift.predict import Predictor, teacher_config
from scenelift.progress import Progress, silent
from scenelift.report import ReportRow
from scenelift.report.data import Role
from scenelift.scenes import SceneSource
from scenelift.scenes.label_images import read_label_png
from scenelift.summary import report_row
from scenelift.types import I64, IGNORE, U8

_VERSION = 1

TEACHER_ROWS: dict[Role, str] = {"teacher": "teacher labels", "refined": "refined labels"}
"""What its rows are called."""


def teacher_rows(
    source: SceneSource,
    names: Sequence[str],
    classes: ClassTable,
    config: Config,
    annotations: Annotations,
    known: Container[Role],
    file: Path,
    digest: str,
    progress: Progress = silent,
) -> list[ReportRow]:
    """Rows of the teacher's labels against ground truth, as they are and refined by masks.

    Args:
        source: scenes with ground truth.
        names: of the scenes.
        classes: of the run.
        config: of the run.
        annotations: of the scenes.
        known: rows that there are already.
        file: where both evaluations are kept, and read back from if they are of the same labels.
        digest: of what they depend on.
        progress: told after each scene.
    """
    tree = read_note(file, "the teacher's rows are measured again")
    if (tree.get("digest"), tree.get("version")) != (digest, _VERSION):
        tree = {"version": _VERSION, "digest": digest}
    rows = []
    for role, name in TEACHER_ROWS.items():
        if role in known:
            continue
        if role not in tree:
            teacher = Predictor(teacher_config(config, refined=role == "refined"), None, annotations)
            tree[role] = evaluate(source, names, classes, teacher, progress=progress).to_json()
            write_sealed(file, tree)
        found = Evaluation.from_json(tree[role])
        rows.append(report_row(name, found, classes, found.seconds, [], role))
    return rows


class Agreement(NamedTuple):
    """What can be said without ground truth; no measure of quality.

    Attributes:
        alike: who is compared, and the share of places that both label and label alike.
        teacher: the share of each class in the teacher's labels of pixels, raw and refined, by caption.
    """

    alike: dict[str, float]
    teacher: dict[str, dict[str, float]]


def agreement(
    names: Sequence[str], classes: ClassTable, config: Config, annotations: Annotations, predictions: Path
) -> Agreement:
    """Compare both networks with each other and with the teacher, from what was written of them.

    Pixels against pixels of the teacher's refined labels; points where a pixel sees them.

    Args:
        names: of the scenes.
        classes: of the run.
        config: of the run.
        annotations: of the scenes.
        predictions: folder that `scenelift.predictions.write_predictions` wrote.
    """
    raw, refined = (Predictor(teacher_config(config, refined=on), None, annotations) for on in (False, True))
    alike = {
        f"{one} and {other}": np.zeros(2, np.int64)
        for one, other in (
            ("2D network", "3D network"),
            ("2D network", "refined labels"),
            ("3D network", "refined labels"),
        )
    }
    both, of_2d, of_3d = alike.values()
    given = {"teacher labels, 2D": np.zeros(256, np.int64), "refined labels, 2D": np.zeros(256, np.int64)}
    for name in names:
        folder = predictions / safe_name(name)
        cloud = folder / "points.ply"
        points = _point_labels(cloud) if cloud.is_file() else None
        pairs = annotations.pairs(name)
        row, col = pairs.rowcol()
        for index, frame in enumerate(annotations.scenes[name].frames):
            pixels = read_label_png(folder / "labels" / f"{safe_name(frame)}.png")
            taught = refined.teacher_labels(name, frame)
            for labels, counts in zip((raw.teacher_labels(name, frame), taught), given.values(), strict=True):
                counts += np.bincount(labels.reshape(-1), minlength=256)
            of_2d += _alike(pixels, taught)
            if points is not None:
                at = pairs.of_frame(index)
                seen, place = points[pairs.point_index[at]], (row[at], col[at])
                both += _alike(pixels[place], seen)
                of_3d += _alike(taught[place], seen)
    shares = {
        caption: dict(zip(classes.names, (counts / max(counts[:-1].sum(), 1)).tolist(), strict=False))
        for caption, counts in given.items()
    }
    return Agreement({who: int(same) / int(of) for who, (same, of) in alike.items() if of}, shares)


def _point_labels(path: Path) -> U8:
    labels: U8 = decode_scalars(read_bytes(path, "a labelled cloud"), str(path), ["label"])["label"]
    return labels


def _alike(one: U8, other: U8) -> I64:
    """(2,) how many of two label arrays are alike, and how many are labels in both."""
    known = (one != IGNORE) & (other != IGNORE)
    return np.array([(one == other)[known].sum(), known.sum()], dtype=np.int64)
