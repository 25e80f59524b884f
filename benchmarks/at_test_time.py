"""What finished networks gain after training: both of them averaged, mask voting, or both.

    python benchmarks/at_test_time.py RUN [RUN ...] [--cache CACHE]

RUN is a folder of a finished run with its data and cache in place. Printed: 2D and 3D mIoU in percent as the
networks answer alone, with ``predict.ensemble`` (class probabilities averaged wherever a pair joins
them), with ``predict.post_refine`` (mask voting on what they say), and with both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scenelift import pipeline
from scenelift.evaluate import evaluate
from scenelift.options import reopen_session
from scenelift.predict import Predictor

WAYS = {
    "alone": {"ensemble": False, "post_refine": False},
    "averaged": {"ensemble": True, "post_refine": False},
    "voted": {"ensemble": False, "post_refine": True},
    "both": {"ensemble": True, "post_refine": True},
}


def measure(path: Path, cache: Path | None) -> None:
    """Print the line of one run."""
    session = reopen_session(path, "auto", cache, download=False)
    annotations = pipeline.annotate(session)
    pair = pipeline.train(session, annotations)
    cells = []
    for way in WAYS.values():
        update = {"predict": session.config.predict.model_copy(update=way)}
        predictor = Predictor(session.config.model_copy(update=update), pair, annotations)
        found = evaluate(session.source, session.names("val"), session.classes, predictor)
        in_2d, in_3d = found.confusion_2d.compute().miou, found.confusion_3d.compute().miou
        cells.append(f"{100 * in_2d:.1f}/{100 * in_3d:.1f}")
    print(f"{path!s:<40}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    print(f"{'2D/3D mIoU, %':<40}" + "".join(f"{way:>12}" for way in WAYS))
    for path in asked.runs:
        measure(path, asked.cache)


if __name__ == "__main__":
    main()
