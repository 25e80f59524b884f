"""SAM as the mask teacher (method step 5): everything segmented, one mask a pixel, the image embedding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import islice

import torch

from scenelift.config import SamMasks
from scenelift.device import network_dtype
from scenelift.errors import DataError
from scenelift.teachers.mask_generation import MaskGenerator
from scenelift.teachers.mask_geometry import flatten_masks
from scenelift.teachers.sam_checkpoint import load_meta
from scenelift.teachers.sam_models import MODELS, Embedded, PromptableModel, Sam
from scenelift.teachers.weights import Weights
from scenelift.types import Frame, Masks


class SamMaskTeacher:
    """SAM or SAM 2 behind the `MaskTeacher` Protocol.

    The network is loaded when it is first asked: a start that finds all answers in the cache loads nothing.

    Args:
        config: weights, grid, thresholds, crops, overlap.
        weights: what ``config.weights`` stands for, a folder or Meta's own file.
        device: where the network computes.

    Attributes:
        prompts: points of all grids of all frames so far.
        decoded: how many of them were shown to the decoder; fewer with ``prompts="adaptive"``.
    """

    def __init__(self, config: SamMasks, weights: Weights, device: torch.device | str) -> None:
        self._config, self._weights, self._device = config, weights, torch.device(device)
        self._dtype = network_dtype(config.precision, self._device)
        self.prompts = self.decoded = 0

    @property
    def identity(self) -> str:
        """All that masks and features depend on: settings, precision, and the weights by content."""
        settings = self._config.model_dump(mode="json", exclude={"kind", "weights", "precision"})
        parts = {"settings": settings, "precision": str(self._dtype), "weights": self._weights.digest}
        return f"sam {json.dumps(parts, sort_keys=True)}"

    @property
    def weights(self) -> str:
        """Where the weights came from."""
        return self._weights.origin

    @property
    def summary(self) -> str:
        """What share of decoder calls the adaptive grid has saved so far; empty for the full grid."""
        if self._config.prompts == "grid" or not self.prompts:
            return ""
        return f"{1 - self.decoded / self.prompts:.0%} of prompts skipped"

    def masks(self, frames: Sequence[Frame]) -> list[Masks]:
        """Segment everything in each frame.

        Returns:
            for each frame `Masks`: ids 1 to n in the order of `GeneratedMasks`, 0 = uncovered, where masks
            overlap as ``overlap`` says; features (C, h, w), the image embedding over exactly the image.

        Raises:
            WeightsError: the network cannot be loaded.
            DataError: the network answers with NaN or infinity.
        """
        remaining, answers = iter(frames), []
        while batch := list(islice(remaining, _images_per_batch(self._device))):
            embedded = self._generator.model.embed([frame.image for frame in batch])
            answers += [self._answer(frame, image) for frame, image in zip(batch, embedded, strict=True)]
        return answers

    def _answer(self, frame: Frame, embedded: Embedded) -> Masks:
        features = embedded.features()
        if not torch.isfinite(embedded.embedding).all():
            raise DataError(
                f"frame {frame.key}: expected a finite image embedding, found infinity or NaN, computed in "
                f"{self._dtype}; set teachers.masks.precision=float32, and if that does not help fetch the "
                f"weights {self.weights} again"
            )
        found = self._generator.generate(frame.image, embedded)
        self.prompts, self.decoded = self.prompts + found.prompts, self.decoded + found.decoded
        ids = flatten_masks(found.masks, self._config.overlap)
        return Masks(ids.cpu().numpy(), features)

    @cached_property
    def _generator(self) -> MaskGenerator:
        return MaskGenerator(load_promptable(self._weights, self._device, self._dtype), self._config)


def load_promptable(weights: Weights, device: torch.device | str, dtype: torch.dtype) -> PromptableModel:
    """The model of these weights.

    Args:
        weights: of a kind in `MODELS`, or Meta's own file (``model_type`` empty).
        device: where it computes.
        dtype: of the image encoder.

    Raises:
        WeightsError: they cannot be loaded.
    """
    if not weights.model_type:
        return Sam(load_meta(weights.path), device, dtype)
    kind = MODELS[weights.model_type]
    return kind(kind.load(weights), device, dtype)


def _images_per_batch(device: torch.device) -> int:
    """Images that the encoder takes at a time: one fills a CPU, and two of ViT-H a GPU's memory soon."""
    return 1 if device.type == "cpu" else 2
