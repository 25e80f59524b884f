"""The picture in the README: ``python benchmarks/readme_picture.py demo/seed0/cns docs/demo.jpg``.

The run's annotations are expected in ``demo/cache``; name another cache as the third argument.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from scenelift import pipeline
from scenelift.image_files import write_jpeg
from scenelift.options import reopen_session
from scenelift.qualitative import gallery, predictors_of
from scenelift.report import Picture

GAP = 6
HEADER = 16


def _row(picture: Picture, columns: list[str], size: tuple[int, int]) -> np.ndarray:
    panels = dict(picture.panels)
    blank = np.full((*size, 3), 255, np.uint8)
    cells = []
    for column in columns:
        panel = panels.get(column)
        image = blank if panel is None else np.asarray(Image.fromarray(panel).resize(size[::-1]))
        cells += [image, np.full((size[0], GAP, 3), 255, np.uint8)]
    return np.concatenate(cells[:-1], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("cache", type=Path, nargs="?")
    args = parser.parse_args()
    session = reopen_session(args.run, "cpu", args.cache or args.run.parent.parent / "cache")
    annotations = pipeline.annotate(session)
    pair = pipeline.train(session, annotations)
    names = session.names("val")
    predictors = predictors_of(session.config, annotations, pair)
    shown = gallery(session.source, names, session.classes, predictors, annotations, frames=3, scenes=2)
    columns = [caption for caption, _ in shown.images[0].panels]
    rows = [_row(picture, columns, (120, 160)) for picture in [*shown.images, *shown.overviews]]
    header = Image.new("RGB", (rows[0].shape[1], HEADER), "white")
    for place, caption in enumerate(columns):
        ImageDraw.Draw(header).text((place * (160 + GAP), 2), caption, fill="black")
    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    stacked = [np.asarray(header)]
    for row in rows:
        stacked += [row, gap]
    write_jpeg(args.out, np.concatenate(stacked[:-1]), quality=88)


if __name__ == "__main__":
    main()
