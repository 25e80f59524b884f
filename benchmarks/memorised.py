"""How far networks repeat the teacher's labels in scenes they learnt from, and in others; no ground truth.

    python benchmarks/memorised.py RUN [RUN ...] [--cache CACHE] [--scenes 12]

RUN is a folder of a finished run with its data and cache in place. Printed: the share of pixels and of points
whose label is the (refined) teacher's, in scenes of training and of validation, and the difference of both.
What a network repeats in the scenes it learnt from alone is noise it knows by heart.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scenelift import pipeline
from scenelift.options import reopen_session
from scenelift.predict import Predictor, teacher_config
from scenelift.types import IGNORE, U8


class Agreement:
    """Counts of labels, and of those said by both."""

    def __init__(self) -> None:
        self.same = self.total = 0

    def add(self, said: U8, taught: U8) -> None:
        known = taught != IGNORE
        self.same += int((said == taught)[known].sum())
        self.total += int(known.sum())

    @property
    def percent(self) -> float:
        return 100 * self.same / max(self.total, 1)


def agreement(
    session: pipeline.Session, names: Sequence[str], networks: Predictor, teacher: Predictor
) -> tuple[float, float]:
    """Percent of pixels, and of points that the teacher labels."""
    pixels, points = Agreement(), Agreement()
    for scene in map(session.source.scene, names):
        for (_, said), (_, taught) in zip(networks.frames(scene), teacher.frames(scene), strict=True):
            pixels.add(said.labels, taught.labels)
        if networks.can_label(scene):
            points.add(networks.points(scene).labels, teacher.points(scene).labels)
    return pixels.percent, points.percent


def measure(path: Path, cache: Path | None, scenes: int) -> None:
    """Print the lines of one run."""
    session = reopen_session(path, "auto", cache, download=False)
    annotations = pipeline.annotate(session)
    networks = Predictor(session.config, pipeline.train(session, annotations), annotations)
    teacher = Predictor(teacher_config(session.config, session.config.refine.clip), None, annotations)
    learnt, unseen = (
        np.array(agreement(session, session.names(split)[:scenes], networks, teacher))
        for split in ("train", "val")
    )
    print(path)
    for where, shares in (("learnt from", learnt), ("others", unseen), ("difference", learnt - unseen)):
        print(f"  {where:<12} pixels {shares[0]:5.1f}   points {shares[1]:5.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--scenes", type=int, default=12, help="of each split")
    asked = parser.parse_args()
    for path in asked.runs:
        measure(path, asked.cache, asked.scenes)


if __name__ == "__main__":
    main()
