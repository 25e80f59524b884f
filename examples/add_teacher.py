"""A label teacher of your own, without a change to scenelift: one that knows colours by name.

    python examples/add_teacher.py OUT [KEY=VALUE ...]

It is asked for pixels and for words and answers in one space, here RGB less grey. Masks come from a teacher
that scenelift has.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from scenelift import pipeline
from scenelift.pipeline import Session
from scenelift.progress import bars
from scenelift.recipes import load
from scenelift.runfolder import RunFolder
from scenelift.scenes.registry import open_source
from scenelift.teachers.registry import MASK_TEACHERS
from scenelift.types import F16, F32, Frame

CELL = 8  # pixels along a cell of the answer


class ColourTeacher:
    """A `LabelTeacher`. Change an identity whenever its answers change: the cache keeps them under it."""

    identity, text_identity, weights, dim = f"colours in cells of {CELL}", "colour words", "none", 3

    def text_features(self, prompts: Sequence[Sequence[str]]) -> F32:
        colours = [np.mean([ImageColor.getrgb(phrase) for phrase in phrases], 0) for phrases in prompts]
        away = np.float32(colours) - 127.5
        return away / np.linalg.norm(away, axis=1, keepdims=True)

    def image_features(self, frames: Sequence[Frame]) -> list[F16]:
        return [self._cells(frame).astype(np.float16).transpose(2, 0, 1) for frame in frames]

    def _cells(self, frame: Frame) -> F32:
        grid = (frame.width // CELL, frame.height // CELL)
        return np.float32(Image.fromarray(frame.image).resize(grid, Image.Resampling.BOX)) / 127.5 - 1


if __name__ == "__main__":
    out, *overrides = sys.argv[1:]
    kind = {"labels": {"kind": "python", "name": "colours"}}
    own = {"teachers": kind, "classes": ["white", "black", "saddlebrown", "steelblue"]}
    config = load("cns", overrides, data="synthetic_small", options=own)
    source = open_source(config.data)
    masks = MASK_TEACHERS["simulated"](config.teachers.masks, source.truth, "cpu", False)
    run = RunFolder(Path(out))
    session = Session(config, run, run.cache, progress=bars, opened=source, teachers=(ColourTeacher(), masks))
    annotations = pipeline.annotate(session)
    pair = pipeline.train(session, annotations)
    print(pipeline.predict(session, annotations, pair, run.predictions)["3D"])
