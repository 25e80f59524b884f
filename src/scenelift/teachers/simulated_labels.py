"""A CLIP-like teacher made from ground truth: right on the whole, wrong in CLIP's ways.

From one pixel's class to the feature of its token:

1. the class it is taken for: an *instance error* (this chair is a sofa in every view), a *patch error*
   (this piece of wall looks like a curtain, and the further away the likelier) and a *view error* (from
   here it looks like a bed) replace the true class by another, often a related one;
2. a token is the mixture of the classes in it, *bleeding* into its neighbours;
3. the mixture's text embeddings are summed, and *token noise* added.

Errors 1 and 3 are drawn at random and 2 is local, so no permutation of classes underlies the noise: over
all views the true class is the most frequent label of nearly every class, though not from afar, and a
network that sees many rooms can rise above its labels. Views outvote view errors and token noise, but
neither instance nor patch errors; masks outvote token noise, patch errors and bleeding, but no instance
errors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from scenelift.config import SimulatedLabels
from scenelift.geometry import unproject
from scenelift.scenes import TruthSource
from scenelift.teachers.simulated_draws import (
    cell_shares,
    frame_truth,
    generator,
    grid_cells,
    grid_size,
    hash_key,
    hashed_uniform,
)
from scenelift.teachers.simulated_words import FAMILIES, SimulatedWords, unit
from scenelift.types import F16, F32, F64, I64, IGNORE, Frame

_PATCH_RATE_AT_M = 2.0
"""Distance at which the share of mistaken patches is the knob's."""
_MAX_PATCH_RATE = 0.85
"""However far, some patches are still named right."""


class SimulatedLabelTeacher:
    """Implements `scenelift.teachers.LabelTeacher` from ground truth.

    Args:
        config: the knobs.
        truth: labels, and instance ids where there are any, of the frames that will be asked for. Patch
            errors need frames with depth; without depth there are none.
    """

    def __init__(self, config: SimulatedLabels, truth: TruthSource) -> None:
        self._config = config
        self._source = truth
        self._words = SimulatedWords(config.dim)
        prompts = truth.classes.prompts
        self._class_features = self.text_features(prompts)
        self._confusion = _confusion(prompts, config.related).cumsum(axis=1)
        self._classes_digest = hashlib.blake2b(repr(prompts).encode(), digest_size=8).hexdigest()

    @property
    def identity(self) -> str:
        """Every knob, and the classes of the ground truth."""
        return f"simulated-labels/1 {self._config.model_dump_json()} classes={self._classes_digest}"

    @property
    def text_identity(self) -> str:
        """The knobs that words depend on."""
        return self._words.text_identity

    @property
    def weights(self) -> str:
        """There are none."""
        return self._words.weights

    @property
    def dim(self) -> int:
        """Length of the shared embedding."""
        return self._config.dim

    def text_features(self, prompts: Sequence[Sequence[str]]) -> F32:
        """Embeddings of classes, see `SimulatedWords.text_features`."""
        return self._words.text_features(prompts)

    def image_features(self, frames: Sequence[Frame]) -> list[F16]:
        """Dense features: for each frame (dim, h, w) float16, unit length per cell.

        Raises:
            DataError: a frame has no ground truth.
        """
        return [self._frame_features(frame) for frame in frames]

    def _frame_features(self, frame: Frame) -> F16:
        config = self._config
        grid = grid_size(frame.height, frame.width, config.tokens)
        cells = grid_cells(frame.height, frame.width, grid)
        shares = cell_shares(self._taken_for(frame), len(self._class_features), cells, grid)
        shares = gaussian_filter(shares, sigma=(0, config.bleed, config.bleed), mode="nearest")
        clean = unit(np.einsum("cd,chw->dhw", self._class_features, shares))
        noise = generator(config.seed, "token", frame.scene, frame.name).standard_normal(clean.shape)
        return unit(clean + config.token_noise / np.sqrt(self.dim) * noise).astype(np.float16)

    def _taken_for(self, frame: Frame) -> I64:
        """(H, W) int64: the class each pixel is taken for."""
        config, scene = self._config, frame.scene
        truth, instances = frame_truth(self._source, frame)
        packed, segment = np.unique(instances.astype(np.int64) << 8 | truth.labels, return_inverse=True)
        segment = segment.reshape(truth.labels.shape)
        true = packed & 0xFF
        # What has no name in the class list is taken for some class all the same.
        anything = hashed_uniform(hash_key(config.seed, "unknown", scene), packed) * len(self._class_features)
        true = np.where(true == IGNORE, anything.astype(np.int64), true)

        seen = self._mistake(config.instance_error, true, true, ("instance", scene), packed)[segment]
        if frame.depth_m is not None and config.patch_error > 0:
            cubes = self._cubes(frame)
            # Solid angle: of a patch twice as far the image shows a quarter as much.
            rate = config.patch_error * (frame.depth_m.astype(np.float64) / _PATCH_RATE_AT_M) ** 2
            rate = np.minimum(rate, _MAX_PATCH_RATE)
            seen = self._mistake(rate, seen, true[segment], ("patch", scene), packed[segment], *cubes)
        nothing = np.full_like(true, -1)
        view = self._mistake(config.view_error, nothing, true, ("view", scene, frame.name), packed)[segment]
        return np.where(view >= 0, view, seen)

    def _mistake(self, rate: float | F64, seen: I64, true: I64, what: tuple[str, ...], *ids: I64) -> I64:
        """``seen``, but for this share of the ids a class that ``true`` is mistaken for."""
        key = hash_key(self._config.seed, *what)
        which = hashed_uniform(hash_key(key, "class"), *ids)
        wrong = (self._confusion[true] < which[..., None]).sum(axis=-1)
        return np.where(hashed_uniform(key, *ids) < rate, wrong, seen)

    def _cubes(self, frame: Frame) -> tuple[I64, I64, I64]:
        """The cube of the world, edge ``patch_m``, each pixel's surface lies in: x, y, z, each (H, W)."""
        camera = (frame.depth_m, frame.intrinsics, frame.cam_from_world)
        points = unproject(*(torch.from_numpy(array) for array in camera)).numpy()
        # Walls like to stand at round coordinates: a random origin keeps them off the sides of the cubes.
        origin = generator(self._config.seed, "origin", frame.scene).random(3)
        cubes = np.nan_to_num(np.floor(points / self._config.patch_m + origin)).astype(np.int64)
        return cubes[..., 0], cubes[..., 1], cubes[..., 2]


def _confusion(prompts: Sequence[Sequence[str]], related: float) -> F64:
    """(C, C) float64: the probability that a mistaken row class is taken for the column class.

    ``related`` of it goes to the classes that share a family, the rest to all others alike.
    """
    words = [
        frozenset(word for phrase in of_class for word in phrase.casefold().split()) for of_class in prompts
    ]
    member = np.array([[not family.isdisjoint(of_class) for family in FAMILIES] for of_class in words])
    other = ~np.eye(len(prompts), dtype=bool)
    kin = (member.astype(int) @ member.T.astype(int) > 0) & other
    has_kin = kin.any(axis=1, keepdims=True)
    to_kin = np.where(has_kin, kin, other)
    table: F64 = related * to_kin / to_kin.sum(1, keepdims=True) + (1 - related) * other / other.sum(
        1, keepdims=True
    )
    return table
