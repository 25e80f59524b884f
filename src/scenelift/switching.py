"""Eq. 6: where the labels of a step come from, and which of the sources each network is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scenelift.batches import Batch
from scenelift.config import RefineConfig, SwitchConfig
from scenelift.labels import lift, paint, refine, refine_sparse
from scenelift.types import IGNORE

SOURCES = ("clip", "image", "points")
"""The refined teacher labels P*, and the predictions P̂* of the 2D and of the 3D network."""

CLIP_ONLY = SwitchConfig(clip=1.0, image=0.0, points=0.0)
"""Stage 1, eq. 5."""


class Targets(NamedTuple):
    """Labels of one step.

    Attributes:
        image: (B, H, W) int64, for the 2D network.
        pairs: (P,) int64, for the 3D network, one a pair.
        share_image: share of the pixels whose label came from each source.
        share_points: the same for pairs.
        churn_image: share of the labelled pixels whose label differs from the refined teacher's.
        churn_points: the same for pairs.
    """

    image: Tensor
    pairs: Tensor
    share_image: dict[str, float]
    share_points: dict[str, float]
    churn_image: float
    churn_points: float


class Sources:
    """The labels each source would give in one step, made when first asked for.

    Args:
        batch: the step's data.
        image_labels: (B, H, W) int64, what the 2D network predicts.
        voxel_labels: (V,) int64, what the 3D network predicts.
        config: which sources are refined by mask voting.
        num_classes: C.
    """

    def __init__(
        self, batch: Batch, image_labels: Tensor, voxel_labels: Tensor, config: RefineConfig, num_classes: int
    ) -> None:
        self._batch, self._config, self._num_classes = batch, config, num_classes
        self._image_labels, self._voxel_labels = image_labels, voxel_labels
        self._maps: dict[str, Tensor] = {}

    def on_image(self, source: str) -> Tensor:
        """(B, H, W) int64 labels of the images from a source."""
        if source not in self._maps:
            self._maps[source] = self._make(source)
        return self._maps[source]

    def on_pairs(self, source: str) -> Tensor:
        """(P,) int64 labels of the pairs from a source: those of their pixels, eq. 2 and 3."""
        batch = self._batch
        if source == "points" and not self._config.points:
            return self._voxel_labels[batch.pair_voxel]  # unrefined, they never went through an image
        return lift(self.on_image(source), batch.pair_image, batch.pair_row, batch.pair_col)

    def _make(self, source: str) -> Tensor:
        batch, classes = self._batch, self._num_classes
        if source == "clip":
            return refine(batch.labels, batch.mask_ids, classes) if self._config.clip else batch.labels
        if source == "image":
            raw = self._image_labels
            return refine(raw, batch.mask_ids, classes) if self._config.image else raw
        where = (self._voxel_labels[batch.pair_voxel], batch.pair_image, batch.pair_row, batch.pair_col)
        if self._config.points:
            return refine_sparse(*where, batch.mask_ids, self.on_image("clip"), classes)
        return paint(*where, self.on_image("clip"), classes)


def draw_targets(sources: Sources, batch: Batch, config: SwitchConfig, rng: np.random.Generator) -> Targets:
    """Draw the target of each network at random from the three sources, eq. 6.

    Both networks draw on their own. ``config.granularity`` says whether once a step, once an image (the
    pairs of an image together), or for each pixel and pair.
    """
    images, pairs = len(batch.images), len(batch.pair_image)
    draws = {}
    for network, pixels in (("image", batch.labels.shape), ("points", (pairs,))):
        weights = _probabilities(config, network)
        size = {"step": (), "image": (images,), "pixel": tuple(pixels)}[config.granularity]
        draws[network] = np.asarray(rng.choice(len(SOURCES), size=size, p=weights), dtype=np.int64)
    image_choice = torch.from_numpy(draws["image"]).to(batch.labels.device)
    pair_choice = torch.from_numpy(draws["points"]).to(batch.labels.device)
    if config.granularity == "image":
        image_choice = image_choice.view(-1, 1, 1)
        pair_choice = pair_choice[batch.pair_image]
    image, share_image = _mix(sources.on_image, image_choice, batch.labels.shape)
    on_pairs, share_points = _mix(sources.on_pairs, pair_choice, batch.pair_image.shape)
    return Targets(
        image,
        on_pairs,
        share_image,
        share_points,
        _churn(image, sources.on_image("clip")),
        _churn(on_pairs, sources.on_pairs("clip")),
    )


def _probabilities(config: SwitchConfig, network: str) -> list[float]:
    weights = {"clip": config.clip, "image": config.image, "points": config.points}
    if config.networks not in ("both", network):
        weights = {"clip": 1.0, "image": 0.0, "points": 0.0}
    elif config.own_only:
        own = config.image + config.points
        weights = {"clip": config.clip, "image": 0.0, "points": 0.0, network: own}
    total = sum(weights.values())
    return [weights[source] / total for source in SOURCES]


def _mix(
    labels_of: Callable[[str], Tensor], choice: Tensor, shape: torch.Size
) -> tuple[Tensor, dict[str, float]]:
    """Labels by the drawn source; a source that was not drawn is never computed."""
    choice = choice.expand(shape)
    drawn = torch.bincount(choice.reshape(-1), minlength=len(SOURCES)).tolist()
    mixed = torch.full(shape, IGNORE, dtype=torch.int64, device=choice.device)
    for index, source in enumerate(SOURCES):
        if drawn[index]:
            mixed = torch.where(choice == index, labels_of(source), mixed)
    total = max(1, sum(drawn))
    return mixed, {source: drawn[index] / total for index, source in enumerate(SOURCES)}


def _churn(labels: Tensor, reference: Tensor) -> float:
    labelled = (labels != IGNORE) & (reference != IGNORE)
    changed = (labels != reference) & labelled
    return float(changed.sum() / labelled.sum().clamp(min=1))
