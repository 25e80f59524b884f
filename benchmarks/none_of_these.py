"""How well "none of these" tells listed from left-out classes, on data with ground truth.

python benchmarks/none_of_these.py RUN [--leave-out "sofa, desk"] [--scenes 6]

Of a run's classes some are left out of the list it is asked for; what the run was not trained for counts as
left out too. Of the points and pixels of validation scenes this prints, for several shares, how many of the
left-out classes are refused, how many of the listed ones, and how many of the listed ones named right.
"""

from __future__ import annotations

import argparse

import numpy as np

import scenelift
from scenelift.orientation import upright
from scenelift.progress import bars
from scenelift.scenes.registry import open_source
from scenelift.types import IGNORE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--leave-out", default="")
    parser.add_argument("--scenes", type=int, default=6)
    asked = parser.parse_args()
    run = scenelift.load(asked.run)
    source = open_source(run.config.data)
    assert source.truth is not None, "this needs data with ground truth"
    left_out = {name.strip() for name in asked.leave_out.split(",")}
    listed = [name for name in run.classes.names if name not in left_out]
    id_of = {name: index for index, name in enumerate(listed)}
    table = np.full(256, IGNORE, np.uint8)  # unknown truth counts as neither
    for index, name in enumerate(source.truth.classes.names):
        table[index] = id_of.get(name, len(listed))
    never = [name for name in source.truth.classes.names if name not in run.classes.names]
    print(
        f"listed: {len(listed)}; left out at the query: {sorted(left_out - {''})}; never trained for: {never}"
    )
    print("| share | 2D left out refused | 2D listed refused | of those named right | 3D ... | 3D | 3D |")
    print("|---|---|---|---|---|---|---|")
    for share in (0.0, 0.02, 0.05, 0.1, 0.2):
        able = run.with_classes(listed, share, bars)
        plain = run.with_classes(listed)
        cells = []
        for measure in (_pixels, _points):
            truth, said, forced = [], [], []
            for name in source.names("val")[: asked.scenes]:
                scene = source.scene(name)
                for one in measure(scene, source.truth, able, plain):
                    truth.append(table[one[0]].reshape(-1))
                    said.append(one[1].reshape(-1))
                    forced.append(one[2].reshape(-1))
            true, labels, any_label = (np.concatenate(rows) for rows in (truth, said, forced))
            refused, inside = labels == IGNORE, true < len(listed)
            right = inside & (any_label == true)
            cells += [refused[true == len(listed)].mean(), refused[inside].mean(), refused[right].mean()]
        print(f"| {share} | " + " | ".join(f"{100 * cell:.1f} %" for cell in cells) + " |", flush=True)


def _pixels(scene, truth, able, plain):  # type: ignore[no-untyped-def]
    for frame in list(scene.frames)[::4]:
        labels = truth.frame(scene.name, frame.name).labels
        yield labels, able.segment_image(frame.image).labels, plain.segment_image(frame.image).labels


def _points(scene, truth, able, plain):  # type: ignore[no-untyped-def]
    points = upright(scene.points_world, scene.up_world)
    labels = truth.scene(scene.name).labels
    asked = (run.segment_points(points, scene.rgb).labels for run in (able, plain))
    yield labels, *asked


if __name__ == "__main__":
    main()
