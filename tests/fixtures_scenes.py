"""Tiny scenes in memory, with ground truth, and teachers that answer at once: for tests of what comes after.

Each scene is the room of `fixtures_capture`, ray-cast in closed form from its own camera path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fixtures_capture import BOX, ROOM, camera_path, cast
from scenelift.annotate import annotate
from scenelift.annotations import Annotations
from scenelift.cache import Cache
from scenelift.checkpoint import save_networks
from scenelift.classes import ClassTable
from scenelift.config import Config, PairingConfig
from scenelift.models.networks import Networks
from scenelift.recipes import build, merge
from scenelift.scenes import Findings
from scenelift.types import F16, F32, F64, U8, U16, Frame, Frames, FrameTruth, Masks, Scene, SceneTruth

CLASSES = ClassTable.from_names(["wall", "floor", "ceiling", "box"])
"""The classes of the tiny scenes; ids 0 to 3."""

CELL = 4
"""Pixels along a cell of the fake teachers' feature grids."""


class TinyTruth:
    """Ground truth of the tiny scenes (a `TruthSource`)."""

    def __init__(self) -> None:
        self.classes = CLASSES
        self.frames: dict[tuple[str, str], FrameTruth] = {}
        self.scenes: dict[str, SceneTruth] = {}

    def frame(self, scene: str, frame: str) -> FrameTruth | None:
        return self.frames.get((scene, frame))

    def scene(self, scene: str) -> SceneTruth | None:
        return self.scenes.get(scene)


class TinySource:
    """Scenes in memory (a `SceneSource`); both splits are all of them.

    ``scenes`` may be edited to try other data; ``read`` lists the names of the scenes that were asked for.
    """

    def __init__(self, scenes: Sequence[Scene], truth: TinyTruth | None) -> None:
        self.classes: ClassTable | None = CLASSES
        self.truth = truth
        self.scenes = {scene.name: scene for scene in scenes}
        self.read: list[str] = []

    def names(self, split: str) -> tuple[str, ...]:
        return tuple(self.scenes)

    def frame_count(self, name: str) -> int:
        return len(self.scenes[name].frames)

    def findings(self) -> Findings:
        return Findings()

    def scene(self, name: str) -> Scene:
        self.read.append(name)
        return self.scenes[name]


def tiny_source(
    num_scenes: int = 2, frames: int = 4, size: tuple[int, int] = (24, 32), points: int = 400
) -> TinySource:
    """Scenes ``scene0`` ..., frames ``f0`` ..., images of (height, width) ``size``, clouds with colour."""
    truth = TinyTruth()
    poses = camera_path(num_scenes * frames)
    return TinySource(
        [_scene(i, poses[i * frames : (i + 1) * frames], size, points, truth) for i in range(num_scenes)],
        truth,
    )


def _scene(number: int, poses: Sequence[F64], size: tuple[int, int], points: int, truth: TinyTruth) -> Scene:
    name = f"scene{number}"
    height, width = size
    focal = 0.8 * width
    intrinsics = np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])
    frames, hits, colors, labels = [], [], [], []
    for index, pose in enumerate(poses):
        image, depth_m, hit = cast(pose, intrinsics, size)
        frames.append(Frame(name, f"f{index}", image, intrinsics, pose, depth_m))
        seen = _label(hit)
        truth.frames[name, f"f{index}"] = FrameTruth(seen, _instance(seen))
        hits.append(hit.reshape(-1, 3))
        colors.append(image.reshape(-1, 3))
        labels.append(seen.reshape(-1))
    chosen = np.random.default_rng(number).choice(len(poses) * height * width, points, replace=False)
    of_points = np.concatenate(labels)[chosen]
    truth.scenes[name] = SceneTruth(of_points, _instance(of_points))
    cloud = np.concatenate(hits)[chosen].astype(np.float32)
    return Scene(name, cloud, np.concatenate(colors)[chosen], Frames.of(frames))


def _label(points_world: F64) -> U8:
    """Classes of (..., 3) points on the surfaces of the room."""
    labels = np.zeros(points_world.shape[:-1], dtype=np.uint8)
    labels[points_world[..., 2] < 1e-6] = 1
    labels[points_world[..., 2] > ROOM[1, 2] - 1e-6] = 2
    labels[((points_world > BOX[0] - 1e-6) & (points_world < BOX[1] + 1e-6)).all(-1)] = 3
    return labels


def _instance(labels: U8) -> U16:
    return labels.astype(np.uint16) + np.uint16(1)


class FakeLabelTeacher:
    """The true class at the middle of each cell of 4×4 pixels, as a one-hot feature (a `LabelTeacher`).

    Args:
        truth: where the answers come from.
        identity: part of the cache keys.
        die_after: raise `KeyboardInterrupt` when asked for more frames than this.

    Attributes:
        asked: keys of the frames it was asked for.
        batches: how many frames came at a time.
        words: first phrases of the classes it was asked for.
    """

    dim = 8

    text_identity, weights = "fake text", "fake weights of the label teacher"

    def __init__(self, truth: TinyTruth, identity: str = "fake labels", die_after: int | None = None) -> None:
        self._truth, self.identity, self._die_after = truth, identity, die_after
        self.asked: list[str] = []
        self.batches: list[int] = []
        self.words: list[str] = []

    def text_features(self, prompts: Sequence[Sequence[str]]) -> F32:
        """The classes of the tiny scenes are axes of the embedding; other words point anywhere."""
        self.words += [phrases[0] for phrases in prompts]
        return np.stack([self._embed(phrases[0]) for phrases in prompts])

    def image_features(self, frames: Sequence[Frame]) -> list[F16]:
        """For each frame (8, H/4, W/4)."""
        _ask(self.asked, self.batches, frames, self._die_after)
        axes = np.eye(self.dim, dtype=np.float16)
        return [axes[:, self._middle(frame)] for frame in frames]

    def _middle(self, frame: Frame) -> U8:
        truth = self._truth.frame(frame.scene, frame.name)
        assert truth is not None
        return truth.labels[CELL // 2 :: CELL, CELL // 2 :: CELL]

    def _embed(self, word: str) -> F32:
        if word in CLASSES.names:
            return np.eye(self.dim, dtype=np.float32)[CLASSES.names.index(word)]
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "little")
        row = np.random.default_rng(seed).normal(size=self.dim)
        return (row / np.linalg.norm(row)).astype(np.float32)


class FakeMaskTeacher:
    """True instances as masks but for two columns; mean colours of cells as features (a `MaskTeacher`).

    Args and attributes as in `FakeLabelTeacher`.
    """

    weights, summary = "fake weights of the mask teacher", ""

    def __init__(self, truth: TinyTruth, identity: str = "fake masks", die_after: int | None = None) -> None:
        self._truth, self.identity, self._die_after = truth, identity, die_after
        self.asked: list[str] = []
        self.batches: list[int] = []

    def masks(self, frames: Sequence[Frame]) -> list[Masks]:
        """For each frame its masks, and (3, H/4, W/4) features."""
        _ask(self.asked, self.batches, frames, self._die_after)
        return [self._masks(frame) for frame in frames]

    def _masks(self, frame: Frame) -> Masks:
        truth = self._truth.frame(frame.scene, frame.name)
        assert truth is not None
        assert truth.instances is not None
        ids = truth.instances.copy()
        ids[:, :2] = 0
        cells = frame.image.reshape(frame.height // CELL, CELL, frame.width // CELL, CELL, 3).mean((1, 3))
        return Masks(ids, np.ascontiguousarray((cells / 255).transpose(2, 0, 1)).astype(np.float16))


def _ask(asked: list[str], batches: list[int], frames: Sequence[Frame], die_after: int | None) -> None:
    if die_after is not None and len(asked) + len(frames) > die_after:
        raise KeyboardInterrupt
    asked += [frame.key for frame in frames]
    batches.append(len(frames))


TINY: dict[str, Any] = {
    "recipe": "tiny",
    "pairing": {"depth_tolerance_m": 0.1},
    "networks": {"image": {"name": "small"}, "points": {"name": "narrow", "voxel_m": 0.2}},
    "train": {
        "epochs": 2,
        "switch_after": 1,
        "scenes_per_step": 1,
        "frames_per_scene": 2,
        "optimizer": "adamw",
        "lr": 0.005,
        "schedule_step": "step",
    },
    "latent": {"dim": 8, "max_pairs": 64},
}


def tiny_config(**overrides: Any) -> Config:
    """A configuration for the tiny scenes; ``tiny_config(seed=1, train={"epochs": 4})`` changes some keys."""
    tree = Config().model_dump(mode="json")
    merge(tree, TINY)
    merge(tree, overrides)
    return build(tree)


def annotated(folder: Path, **keys: Any) -> tuple[TinySource, Annotations]:
    """A tiny source (``keys`` go to `tiny_source`) and its annotations, in a cache below ``folder``."""
    source = tiny_source(**keys)
    assert source.truth is not None
    annotations = annotate(
        source,
        source.names("train"),
        CLASSES,
        FakeLabelTeacher(source.truth),
        FakeMaskTeacher(source.truth),
        PairingConfig(depth_tolerance_m=0.1),
        Cache(folder / "cache"),
    )
    return source, annotations


def save_untrained_run(folder: Path) -> None:
    """A run folder with fresh networks, as training leaves it but for the training."""
    config = tiny_config(networks={"image": {"name": "small"}})
    about = {
        "digest": "abc",
        "config": config.model_dump(mode="json"),
        "classes": list(CLASSES.names),
        "prompts": [list(phrases) for phrases in CLASSES.prompts],
        "colors": CLASSES.colors.tolist(),
        "target_dim": 3,
    }
    networks = Networks(config.networks, config.latent, 8, 3, seed=5)
    save_networks(folder / "networks.safetensors", networks, torch.eye(4, 8), about)
