"""A stage for the simulated teachers: a painted wall, `Mural`, seen by cameras that slide along it.

It is a flat grid of instances, and the cameras move by whole pixels: which pixel of one view shows the same
spot as a pixel of another is known exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from scenelift.classes import SCANNET20, ClassTable
from scenelift.config import SimulatedLabels
from scenelift.labels import pseudo_labels
from scenelift.teachers.simulated import SimulatedLabelTeacher
from scenelift.types import I64, U8, U16, Frame, FrameTruth, SceneTruth

HEIGHT, WIDTH, STEP_PX = 120, 160, 16


class Mural:
    """A wall of rectangles, ``cell_px`` wide and high; frame "k" is shifted by k * STEP_PX pixels.

    Classes are drawn per instance by seed; scenes differ in nothing but their names.
    """

    classes: ClassTable = SCANNET20

    def __init__(self, cell_px: int = 24, views: int = 4, with_instances: bool = True, seed: int = 0) -> None:
        rows, columns = -(-HEIGHT // cell_px), -(-(WIDTH + views * STEP_PX) // cell_px)
        ids = np.arange(1, rows * columns + 1, dtype=np.uint16).reshape(rows, columns)
        self.class_of = np.random.default_rng(seed).permutation(rows * columns + 1).astype(np.uint8) % 20
        self.instances: U16 = ids.repeat(cell_px, 0).repeat(cell_px, 1)[:HEIGHT]
        self.labels: U8 = self.class_of[self.instances]
        self.with_instances = with_instances

    def window(self, frame: str) -> tuple[slice, slice]:
        return slice(None), slice(int(frame) * STEP_PX, int(frame) * STEP_PX + WIDTH)

    def frame(self, scene: str, frame: str) -> FrameTruth | None:
        if not frame.isdigit():
            return None
        view = self.window(frame)
        return FrameTruth(self.labels[view], self.instances[view] if self.with_instances else None)

    def scene(self, scene: str) -> SceneTruth | None:
        return None


def look(k: int, scene: str = "room", depth: bool = True) -> Frame:
    """Frame k of the mural: depth 2 m, one pixel = 2 cm, so the camera moves STEP_PX * 2 cm each time."""
    cam_from_world = np.eye(4)
    cam_from_world[0, 3] = -k * STEP_PX * 0.02
    intrinsics = np.array([[100.0, 0, WIDTH / 2], [0, 100.0, HEIGHT / 2], [0, 0, 1]])
    image = np.random.default_rng(k).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    depth_m = np.full((HEIGHT, WIDTH), 2.0, dtype=np.float32) if depth else None
    return Frame(scene, str(k), image, intrinsics, cam_from_world, depth_m)


def labels_of(config: SimulatedLabels, mural: Mural, frames: Sequence[Frame]) -> I64:
    """(B, H, W) labels by eq. 1, with the mural's own class names."""
    teacher = SimulatedLabelTeacher(config, mural)
    features = torch.from_numpy(np.stack(teacher.image_features(frames)))
    text = torch.from_numpy(teacher.text_features(mural.classes.prompts))
    return pseudo_labels(features, text, (HEIGHT, WIDTH)).numpy()


def accuracy(labels: I64, mural: Mural, frames: Sequence[Frame]) -> float:
    return float(np.mean(labels == np.stack([mural.labels[mural.window(f.name)] for f in frames])))
