"""Does it leak? Ten thousand frames annotated and twenty thousand steps trained, memory and handles watched.

::

    nice -n 19 python benchmarks/soak.py OUT                     # all of it; the same command goes on
    python benchmarks/soak.py OUT --frames 200 --steps 100       # a look

The images are tiny and the networks narrow, so that hours of a real run's comings and goings (files, batches,
checkpoints, log lines, cache entries) pass in minutes. Two hundred times of each the process's resident
memory and open handles are noted. The slope of memory is a linear fit after the warm-up, its error from the
scatter of block means about the line, which are nearly independent where neighbouring samples are not. A
process that was stopped and started again has a warm-up of its own, and so has each stage of the training:
where labels begin to be switched, other buffers are made, once.

Writes OUT/samples.jsonl, OUT/soak.json, and prints lines for docs/reliability.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fixtures_capture import camera_path
from fixtures_scenes import TinySource, TinyTruth, _scene, tiny_config
from scenelift import pipeline
from scenelift.annotations import Annotations
from scenelift.files import write_json
from scenelift.pipeline import Session
from scenelift.progress import silent
from scenelift.runfolder import RunFolder
from scenelift.types import FrameTruth, Scene

SAMPLES = 200
"""At most so many of each kind of work; never more often than every unit."""
WARM_UP = 0.25
"""Share of a process's samples that is left out of the fit: caches fill and pools grow."""
BLOCKS = 20
EPOCHS, TRAINED = 4, 4
"""Epochs of the training, and the scenes that it reads."""
SIZE, POINTS, FRAMES_PER_SCENE = (16, 24), 60, 50
FLAT_MIB = 0.5
"""Growth per 1,000 units below which memory counts as flat, beyond two standard errors."""


class Slope(NamedTuple):
    """Of a linear fit: MiB per 1,000 units, and its standard error."""

    mib: float
    error: float


def open_handles() -> int:
    """Files, pipes and sockets that this process has open."""
    return len(os.listdir("/proc/self/fd"))


def slope(units: Sequence[float], mib: Sequence[float]) -> Slope:
    """Fit a line to memory over units, by means of `BLOCKS` blocks of neighbouring samples.

    Args:
        units: (n,) frames or steps.
        mib: (n,) resident memory.
    """
    pairs = np.array([units, mib], dtype=np.float64)
    blocks = np.array([block.mean(1) for block in np.array_split(pairs, min(BLOCKS, pairs.shape[1]), axis=1)])
    x, y = blocks.T
    away = x - x.mean()
    spread = float((away**2).sum())
    if len(x) < 3 or not spread:
        return Slope(float("nan"), float("nan"))
    rise = float((away * y).sum() / spread)
    rest = y - y.mean() - rise * away
    error = float(np.sqrt((rest**2).sum() / (len(x) - 2) / spread))
    return Slope(1000 * rise, 1000 * error)


class LastTruth(TinyTruth):
    """Ground truth of the scenes that were made last; that of others is made again when it is asked for."""

    def __init__(self, make: Callable[[str], Scene]) -> None:
        super().__init__()
        self._make = make

    def frame(self, scene: str, frame: str) -> FrameTruth | None:
        if (scene, frame) not in self.frames:
            self._make(scene)
        return super().frame(scene, frame)

    def keep_last(self, count: int) -> None:
        names = list(self.scenes)[-count:]
        self.scenes = {name: self.scenes[name] for name in names}
        self.frames = {key: truth for key, truth in self.frames.items() if key[0] in names}


class ManyScenes(TinySource):
    """As many tiny rooms as wanted; the last few are in memory, and others made when they are asked for."""

    def __init__(self, count: int) -> None:
        self._truth = LastTruth(self.scene)
        super().__init__([], self._truth)
        self._names = tuple(f"scene{number}" for number in range(count))
        self._poses = camera_path(count * FRAMES_PER_SCENE, step=0.01)

    def names(self, split: str) -> tuple[str, ...]:
        return self._names

    def frame_count(self, name: str) -> int:
        return FRAMES_PER_SCENE

    def scene(self, name: str) -> Scene:
        number = int(name.removeprefix("scene"))
        poses = self._poses[number * FRAMES_PER_SCENE : (number + 1) * FRAMES_PER_SCENE]
        self._truth.scenes.pop(name, None)  # it is the last one now
        made = _scene(number, poses, SIZE, POINTS, self._truth)
        self._truth.keep_last(4)
        return made


class Watch:
    """Notes memory and handles of this process as work goes on.

    Args:
        path: of the samples, one JSON record a line.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._process = path, f"{os.getpid()}-{time.time():.0f}"
        self._page = os.sysconf("SC_PAGE_SIZE")

    @contextmanager
    def progress(self, what: str, total: int, done: int = 0) -> Iterator[Callable[[str], None]]:
        at, start, every = done, time.monotonic(), max(1, total // SAMPLES)

        def advance(note: str) -> None:
            nonlocal at
            at += 1
            if at % every == 0:
                self._sample(what, at)
            if at % (10 * every) == 0:
                rate = (at - done) / (time.monotonic() - start)
                print(f"{what}: {at} of {total}, {(total - at) / rate:.0f} s left, {note}", flush=True)

        yield advance

    def _sample(self, what: str, at: int) -> None:
        gc.collect()  # or the fit would see when the collector happens to run
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        record = {
            "what": what,
            "at": at,
            "mib": pages * self._page / 2**20,
            "handles": open_handles(),
            "process": self._process,
        }
        with self._path.open("a") as stream:
            stream.write(json.dumps(record) + "\n")


def size_of_index(annotations: Annotations) -> int:
    """Bytes of what `annotate` returns: the one thing that grows with the frames, and is meant to."""
    total = 0
    for scene in annotations.scenes.values():
        total += sys.getsizeof(scene.frames)
        for name, keys in scene.frames.items():
            own = (keys.features, keys.labels, keys.masks, keys.mask_features)
            total += sys.getsizeof(name) + sys.getsizeof(keys)
            total += sum(sys.getsizeof(key) + sys.getsizeof(key.digest) for key in own)
    return total


def summary(
    samples: Sequence[dict[str, Any]], what: str, index_mib: float, first: int = 0, last: int = sys.maxsize
) -> dict[str, Any]:
    """The fit of the process that did most of it; ``index_mib`` per 1,000 units is meant to grow.

    ``first`` (left out) and ``last`` bound the units that are looked at.
    """
    of = [sample for sample in samples if sample["what"] == what and first < sample["at"] <= last]
    processes = [sample["process"] for sample in of]
    longest = max(set(processes), key=processes.count)
    own = [sample for sample in of if sample["process"] == longest]
    fitted = own[int(WARM_UP * len(own)) :]
    found = slope([sample["at"] for sample in fitted], [sample["mib"] for sample in fitted])
    handles = [sample["handles"] for sample in fitted]
    return {
        "units": own[-1]["at"] - first,
        "starts": len(set(processes)),
        "mib_per_1000": round(found.mib, 4),
        "error": round(found.error, 4),
        "index": round(index_mib, 4),
        "mib_first": round(fitted[0]["mib"], 1),
        "mib_last": round(fitted[-1]["mib"], 1),
        "handles_most": max(handles),
        "flat": bool(found.mib - index_mib - 2 * found.error < FLAT_MIB),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=20_000)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    watch = Watch(given.out / "samples.jsonl")
    many = ManyScenes(max(1, given.frames // FRAMES_PER_SCENE))
    per_epoch = max(1, given.steps // EPOCHS)
    config = tiny_config(
        teachers={"labels": {"kind": "simulated", "tokens": 6}, "masks": {"kind": "simulated"}},
        train={
            "epochs": EPOCHS,
            "switch_after": EPOCHS // 2,
            "steps_per_epoch": per_epoch,
            "frames_per_scene": 1,
            "checkpoint_every": 500,
        },
        latent={"dim": 4, "max_pairs": 16},
    )
    gc.freeze()  # what imports made is not looked at again by each collection
    start, handles = time.monotonic(), open_handles()
    cache = given.out / "cache"
    annotating = Session(config, RunFolder(given.out / "annotated"), cache, "cpu", watch.progress, many)
    index_mib = 1000 * size_of_index(pipeline.annotate(annotating)) / 2**20 / given.frames
    # few scenes: the store keeps what it has read, and shall be full before the fit begins
    few = ManyScenes(min(TRAINED, max(1, given.frames // FRAMES_PER_SCENE)))
    training = Session(config, RunFolder(given.out / "trained"), cache, "cpu", watch.progress, few)
    quiet = replace(training, progress=silent)
    pipeline.train(training, pipeline.annotate(quiet))
    samples = [json.loads(line) for line in (given.out / "samples.jsonl").read_text().splitlines()]
    del annotating, training, quiet
    gc.collect()
    left = open_handles() - handles
    switch = config.train.switch_after * per_epoch  # a step's sample is taken once its checkpoint is written
    found = {
        "frames": summary(samples, "annotate", index_mib),
        "steps of stage 1": summary(samples, "train", 0.0, last=switch - 1),
        "steps of stage 2": summary(samples, "train", 0.0, first=switch),
    }
    seconds = round(time.monotonic() - start)
    write_json(given.out / "soak.json", {"handles_left": left, "seconds": seconds, **found})
    for unit, of in found.items():
        print(
            f"| {of['units']:,} {unit} | {of['mib_first']} to {of['mib_last']} MiB | "
            f"{of['mib_per_1000']:.3f} ± {of['error']:.3f} MiB per 1,000, the index {of['index']:.3f} | "
            f"at most {of['handles_most']} handles |"
        )
    print(f"handles left open at the end: {left}")
    sys.exit(0 if left <= 0 and all(of["flat"] for of in found.values()) else 1)


if __name__ == "__main__":
    main()
