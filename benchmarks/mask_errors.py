"""Which errors of masks hurt, and whose labels: the teacher's, or those of trained networks.

    python benchmarks/mask_errors.py RUN [--cache CACHE]

RUN is the folder of a finished run on generated rooms, with its data and cache in place. The simulated mask
teacher errs in four ways; each is taken from it alone, and all together. Printed: 2D mIoU, %, of the labels
after mask voting, eq. 4, on the validation rooms: of the label teacher, of the networks at the end of
stage 1, and at the end.

The last two rows are of masks that overlap, as SAM's do: parts of things, whole things, and things joined to
neighbours as often as in RUN, all at once; they differ in which are visible (``teachers.masks.overlap``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from before_switch import at_switch
from scenelift import pipeline
from scenelift.config import SimulatedMasks
from scenelift.labels import refine
from scenelift.metrics import Confusion
from scenelift.options import reopen_session
from scenelift.predict import NetworkPair
from scenelift.scenes import SceneSource, TruthSource
from scenelift.teachers.mask_geometry import flatten_masks
from scenelift.teachers.simulated import SimulatedMaskTeacher
from scenelift.types import Frame

WITHOUT = ("merge", "split", "jitter", "uncovered")
OVERLAPS: tuple[Literal["smallest_on_top", "largest_on_top"], ...] = ("smallest_on_top", "largest_on_top")


def mask_teachers(config: SimulatedMasks, truth: TruthSource) -> dict[str, SimulatedMaskTeacher]:
    """By what is taken from them."""
    ways: dict[str, dict[str, float]] = {"as they are": {}}
    ways |= {f"{error}=0": {error: 0.0} for error in WITHOUT}
    ways["all 0"] = dict.fromkeys(WITHOUT, 0.0)
    return {
        way: SimulatedMaskTeacher(config.model_copy(update=update), truth) for way, update in ways.items()
    }


def mask_ids(teacher: SimulatedMaskTeacher, frames: list[Frame]) -> Tensor:
    """(B, H, W) int64."""
    return torch.from_numpy(np.stack([mask.ids.astype(np.int64) for mask in teacher.masks(frames)]))


def overlapping(config: SimulatedMasks, truth: TruthSource, frames: list[Frame]) -> dict[str, Tensor]:
    """By which masks are visible: (B, H, W) int64 of parts, things and groups of things."""
    levels = ({"merge": 0.0, "split": 1.0}, {"merge": 0.0, "split": 0.0}, {"split": 0.0})
    ids = [mask_ids(SimulatedMaskTeacher(config.model_copy(update=level), truth), frames) for level in levels]
    visible: dict[str, list[Tensor]] = {way: [] for way in OVERLAPS}
    for maps in zip(*ids, strict=True):
        masks = torch.cat([one[None] == torch.arange(1, int(one.max()) + 1)[:, None, None] for one in maps])
        for way in OVERLAPS:
            visible[way].append(flatten_masks(masks, way).long())
    return {way: torch.stack(flat) for way, flat in visible.items()}


def measure(path: Path, cache: Path | None) -> None:
    """Print the table of one run."""
    session = reopen_session(path, "auto", cache, download=False)
    annotations = pipeline.annotate(session)
    source: SceneSource = session.source
    truth, config = source.truth, session.config.teachers.masks
    if truth is None or not isinstance(config, SimulatedMasks):
        raise SystemExit(f"{path}: expected a run on generated rooms with simulated masks")
    pairs: dict[str, NetworkPair | None] = {
        "switch": at_switch(session, annotations),
        "end": pipeline.train(session, annotations),
    }
    teachers, classes = mask_teachers(config, truth), len(session.classes)
    whose = ["teacher", *(name for name, pair in pairs.items() if pair is not None)]
    ways = ("no masks", *teachers, *OVERLAPS)
    scores = {(way, name): Confusion(classes) for way in ways for name in whose}
    for scene in map(source.scene, session.names("val")):
        frames = list(scene.frames)
        known = [truth.frame(scene.name, frame.name) for frame in frames]
        wanted = np.stack([one.labels for one in known if one is not None])
        said = {"teacher": np.stack([annotations.labels(scene.name, frame.name) for frame in frames])}
        images = np.stack([frame.image for frame in frames])
        for name, pair in pairs.items():
            if pair is not None:
                said[name] = pair.image_probabilities(images).argmax(1).cpu().numpy()
        masks = {way: mask_ids(teacher, frames) for way, teacher in teachers.items()}
        masks |= overlapping(config, truth, frames)
        for name, labels in said.items():
            scores["no masks", name].update(labels.astype(np.uint8), wanted)
            for way, ids in masks.items():
                after = refine(torch.from_numpy(labels), ids, classes)
                scores[way, name].update(after.numpy().astype(np.uint8), wanted)
    print(f"{path}\n{'masks':<16}" + "".join(f"{name:>10}" for name in whose))
    for way in ways:
        print(f"{way:<16}" + "".join(f"{100 * scores[way, name].compute().miou:10.1f}" for name in whose))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    measure(asked.run, asked.cache)


if __name__ == "__main__":
    main()
