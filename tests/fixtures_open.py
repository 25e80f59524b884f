"""A small but whole run on one generated room, as `scenelift train` leaves it."""

from __future__ import annotations

from pathlib import Path

from scenelift import pipeline
from scenelift.recipes import load
from scenelift.runfolder import RunFolder

SMALL_ROOM = (
    "data.train_rooms=1",
    "data.val_rooms=1",
    "data.frames_per_room=3",
    "data.width=64",
    "data.height=48",
    "train.epochs=1",
    "train.switch_after=0",
    "train.scenes_per_step=1",
    "train.frames_per_scene=2",
)
"""Overrides of the data recipe ``synthetic_small``."""


def room_run(folder: Path, *overrides: str) -> RunFolder:
    """Annotate, take one training step, evaluate."""
    config = load("base_clip", (*SMALL_ROOM, *overrides), "synthetic_small")
    session = pipeline.Session(config, RunFolder(folder), folder / "cache")
    annotations = pipeline.annotate(session)
    pipeline.evaluate(session, annotations, pipeline.train(session, annotations))
    return session.folder
