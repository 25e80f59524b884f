"""A data set of your own, without a change to scenelift: scenes kept as .npz files.

    python examples/add_data_set.py SCENES OUT "wall, floor, chair" [KEY=VALUE ...]

A file holds what was measured at one place: image (F, H, W, 3) uint8, depth_m (F, H, W) float32, intrinsics
(3, 3), cam_from_world (F, 4, 4), points (N, 3) float32 metres, rgb (N, 3) uint8. Teachers are CLIP and SAM:
teachers.labels.weights=FOLDER and teachers.masks.weights=FOLDER say where they lie.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from scenelift import pipeline
from scenelift.pipeline import Session
from scenelift.progress import bars
from scenelift.recipes import load
from scenelift.runfolder import RunFolder
from scenelift.scenes import Findings
from scenelift.types import Frame, Frames, Scene


class NpzScenes:
    """The folder as a `SceneSource`; scenes have no labels and no split."""

    classes, truth = None, None

    def __init__(self, folder: Path) -> None:
        self.files = {path.stem: path for path in sorted(folder.glob("*.npz"))}

    def names(self, split: str) -> tuple[str, ...]:
        return tuple(self.files)

    def frame_count(self, name: str) -> int:
        return len(np.load(self.files[name])["cam_from_world"])

    def findings(self) -> Findings:
        return Findings()

    def scene(self, name: str) -> Scene:
        of = np.load(self.files[name])

        def read(frame: str) -> Frame:
            image, camera, depth_m = (of[key][int(frame)] for key in ("image", "cam_from_world", "depth_m"))
            return Frame(name, frame, image, of["intrinsics"], camera, depth_m)

        frames = Frames([str(i) for i in range(self.frame_count(name))], read)
        return Scene(name, of["points"], of["rgb"], frames)


if __name__ == "__main__":
    scenes, out, classes, *overrides = sys.argv[1:]
    own = {"data": {"source": "python", "name": "npz scenes"}, "classes": classes.split(",")}
    config, run = load("cns", overrides, data="cpu", options=own), RunFolder(Path(out))
    session = Session(config, run, run.cache, progress=bars, opened=NpzScenes(Path(scenes)))
    pipeline.fit(session, "python examples/add_data_set.py ...")
