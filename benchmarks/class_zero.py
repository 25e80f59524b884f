"""What a row of zeros before the text embeddings does to trained networks.

    python benchmarks/class_zero.py RUN [RUN ...]

The code that the paper came with puts a row of zeros before the embeddings of the classes, as the class of
unlabelled pixels. Its logit is 0 everywhere, so it wins wherever all classes have negative ones (method
section 4, "known bug"). RUN is a folder of a finished run with its data and cache in place. Printed: mIoU and
coverage as scenelift predicts, and with that row, where a pixel or point that it wins has no prediction.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from scenelift import pipeline
from scenelift.evaluate import Evaluation, evaluate
from scenelift.options import reopen_session
from scenelift.predict import NetworkPair, Predictor
from scenelift.types import IGNORE, Prediction, Scene


class ZeroRowPredictor(Predictor):
    """Networks alone, with one class more in front; what that class wins has no prediction."""

    def __init__(self, session: pipeline.Session, pair: NetworkPair) -> None:
        zeros = torch.zeros_like(pair.text[:1])
        with_zeros = NetworkPair(
            pair.networks, torch.cat([zeros, pair.text]), session.config, pair.device, "", pair.knows_points
        )
        super().__init__(session.config, with_zeros, None)

    def frames(self, scene: Scene) -> Iterator[tuple[str, Prediction]]:
        for name, prediction in super().frames(scene):
            yield name, _shifted(prediction)

    def points(self, scene: Scene) -> Prediction:
        return _shifted(super().points(scene))


def _shifted(prediction: Prediction) -> Prediction:
    labels = np.where(prediction.labels == 0, IGNORE, prediction.labels - 1).astype(np.uint8)
    return replace(prediction, labels=labels)


def _line(what: str, evaluation: Evaluation) -> str:
    in_2d, in_3d = evaluation.confusion_2d.compute(), evaluation.confusion_3d.compute()
    return (
        f"{what:<16} 2D {100 * in_2d.miou:5.1f} (coverage {100 * in_2d.coverage:5.1f} %)   "
        f"3D {100 * in_3d.miou:5.1f} (coverage {100 * in_3d.coverage:5.1f} %)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    for path in asked.runs:
        session = reopen_session(path, "auto", asked.cache, download=False)
        annotations = pipeline.annotate(session)
        pair = pipeline.train(session, annotations)
        if pair is None:
            print(f"{path}: this recipe trains nothing")
            continue
        print(path)
        print(_line("  as it is", pipeline.evaluate(session, annotations, pair)))
        predictor = ZeroRowPredictor(session, pair)
        names = session.names("val")
        print(_line("  with zero row", evaluate(session.source, names, session.classes, predictor)))


if __name__ == "__main__":
    main()
