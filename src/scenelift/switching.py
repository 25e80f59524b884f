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


class Among(NamedTuple):
    """Where a part of a step's batch stands among all of it; draws are made for all.

    Attributes:
        first_image: number of its first image.
        images: of the whole step.
        first_pair: number of its first pair.
        pairs: of the whole step.
    """

    first_image: int
    images: int
    first_pair: int
    pairs: int


class Targets(NamedTuple):
    """Labels of one step.

    Attributes:
        image: (B, H, W) int64, for the 2D network.
        pairs: (P,) int64, for the 3D network, one a pair.
        drawn_image: (3,) int64, pixels whose label came from each source.
        drawn_points: the same for pairs.
        changed_image: (2,) int64: pixels with two labels to compare, and those whose label differs from the
            refined teacher's.
        changed_points: the same for pairs.
    """

    image: Tensor
    pairs: Tensor
    drawn_image: Tensor
    drawn_points: Tensor
    changed_image: Tensor
    changed_points: Tensor

    @property
    def share_image(self) -> dict[str, float]:
        """Share of the pixels whose label came from each source."""
        return shares(self.drawn_image)

    @property
    def share_points(self) -> dict[str, float]:
        """The same for pairs."""
        return shares(self.drawn_points)

    @property
    def churn_image(self) -> float:
        """Share of the labelled pixels whose label differs from the refined teacher's."""
        return churn(self.changed_image)

    @property
    def churn_points(self) -> float:
        """The same for pairs."""
        return churn(self.changed_points)


def shares(drawn: Tensor) -> dict[str, float]:
    """Of (3,) int64 counts by source."""
    counts = drawn.tolist()
    total = max(1, sum(counts))
    return {source: count / total for source, count in zip(SOURCES, counts, strict=True)}


def churn(changed: Tensor) -> float:
    """Of `Targets.changed_image`."""
    return float(changed[1] / changed[0].clamp(min=1))


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
        if not len(batch.images):
            return batch.labels
        if source == "clip":
            return refine(batch.labels, batch.mask_ids, classes) if self._config.clip else batch.labels
        if source == "image":
            raw = self._image_labels
            return refine(raw, batch.mask_ids, classes) if self._config.image else raw
        where = (self._voxel_labels[batch.pair_voxel], batch.pair_image, batch.pair_row, batch.pair_col)
        if self._config.points:
            return refine_sparse(*where, batch.mask_ids, self.on_image("clip"), classes)
        return paint(*where, self.on_image("clip"), classes)


def draw_targets(
    sources: Sources,
    batch: Batch,
    config: SwitchConfig,
    rng: np.random.Generator,
    among: Among | None = None,
) -> Targets:
    """Draw the target of each network at random from the three sources, eq. 6.

    Both networks draw on their own. ``config.granularity`` says whether once a step, once an image (the
    pairs of an image together), or for each pixel and pair. Of a part of a step (``among``) the draws are
    those that the whole step would make for it.
    """
    own_images, own_pairs = len(batch.images), len(batch.pair_image)
    whole = among or Among(0, own_images, 0, own_pairs)
    of_images = slice(whole.first_image, whole.first_image + own_images)
    draws = {}
    for network, pixels, of_pixels in (
        ("image", (whole.images, *batch.labels.shape[1:]), of_images),
        ("points", (whole.pairs,), slice(whole.first_pair, whole.first_pair + own_pairs)),
    ):
        weights = _probabilities(config, network)
        size = {"step": (), "image": (whole.images,), "pixel": pixels}[config.granularity]
        drawn = np.asarray(rng.choice(len(SOURCES), size=size, p=weights), dtype=np.int64)
        own = {"step": None, "image": of_images, "pixel": of_pixels}[config.granularity]
        draws[network] = drawn if own is None else drawn[own]
    image_choice = torch.from_numpy(draws["image"]).to(batch.labels.device)
    pair_choice = torch.from_numpy(draws["points"]).to(batch.labels.device)
    if config.granularity == "image":
        image_choice = image_choice.view(-1, 1, 1)
        pair_choice = pair_choice[batch.pair_image]
    image, drawn_image = _mix(sources.on_image, image_choice, batch.labels.shape)
    on_pairs, drawn_points = _mix(sources.on_pairs, pair_choice, batch.pair_image.shape)
    return Targets(
        image,
        on_pairs,
        drawn_image,
        drawn_points,
        _changed(image, sources.on_image("clip")),
        _changed(on_pairs, sources.on_pairs("clip")),
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


def _mix(labels_of: Callable[[str], Tensor], choice: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Labels by the drawn source; a source that was not drawn is never computed."""
    choice = choice.expand(shape)
    drawn = torch.bincount(choice.reshape(-1), minlength=len(SOURCES)).cpu()
    mixed = torch.full(shape, IGNORE, dtype=torch.int64, device=choice.device)
    for index, source in enumerate(SOURCES):
        if drawn[index]:
            mixed = torch.where(choice == index, labels_of(source), mixed)
    return mixed, drawn


def _changed(labels: Tensor, reference: Tensor) -> Tensor:
    labelled = (labels != IGNORE) & (reference != IGNORE)
    changed = (labels != reference) & labelled
    return torch.stack([labelled.sum(), changed.sum()])
