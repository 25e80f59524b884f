"""Exported clouds of a run as a recording of the Rerun viewer (https://rerun.io).

    pip install rerun-sdk
    scenelift export RUN --to labelled
    python examples/to_rerun.py labelled --out run.rrd && rerun run.rrd

A scene becomes two entities: `SCENE/labels`, whose classes are named, and `SCENE/confidence`. Beside rerun it
needs plyfile, which scenelift brings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import rerun as rr
from plyfile import PlyData


def class_names(ply: PlyData) -> dict[int, str]:
    """Names by id, from the comments `class ID NAME` of the header."""
    rows = [comment.split(maxsplit=2) for comment in ply.comments if comment.startswith("class ")]
    return {int(number): name for _, number, name in rows}


def log_scene(path: Path, recording: rr.RecordingStream) -> None:
    """Log one points.ply."""
    ply = PlyData.read(path)
    vertex, scene = ply["vertex"], path.parent.name
    positions, colors = (np.stack([vertex[key] for key in keys], 1) for keys in (("x", "y", "z"), COLORS))
    labels = np.asarray(vertex["label"])
    used = {number: name for number, name in class_names(ply).items() if (labels == number).any()}
    context = [rr.AnnotationInfo(i, name, colors[labels == i][0].tolist()) for i, name in used.items()]
    recording.log(scene, rr.ViewCoordinates.RIGHT_HAND_Z_UP, rr.AnnotationContext(context), static=True)
    points = rr.Points3D(positions, class_ids=labels.astype(np.uint16), radii=0.01)
    recording.log(f"{scene}/labels", points, static=True)
    grey = np.repeat((255 * np.asarray(vertex["confidence"]))[:, None], 3, 1).astype(np.uint8)
    sure = rr.Points3D(positions, colors=grey, radii=0.01)
    recording.log(f"{scene}/confidence", sure, static=True)


COLORS = ("red", "green", "blue")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `scenelift export` wrote")
    parser.add_argument("--out", type=Path, default=Path("run.rrd"))
    args = parser.parse_args()
    files = sorted(args.folder.glob("*/points.ply"))
    if not files:
        raise SystemExit(
            f"{args.folder}: expected SCENE/points.ply below it, found none; export --as ply first"
        )
    stream = rr.RecordingStream("scenelift")
    stream.save(args.out)
    for file in files:
        log_scene(file, stream)
    stream.flush()
    print(f"{len(files)} scenes: {args.out}")
