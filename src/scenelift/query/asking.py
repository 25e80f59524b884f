"""Who is asked: the trained networks, or the label teacher's own features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scenelift.annotations import Annotations
from scenelift.errors import ConfigError
from scenelift.fusion import fused_features
from scenelift.orientation import upright
from scenelift.predict import NetworkPair
from scenelift.similarity import NOTHING, common_direction, rivals, similarities
from scenelift.types import F32, Bool, Frame, Scene


@dataclass(frozen=True, eq=False)
class Query:
    """Phrases, and what they compete with.

    Attributes:
        phrases: as typed.
        text: (Q, dim) float32, unit length.
        own_text: (C, dim), the run's own classes.
    """

    phrases: tuple[str, ...]
    text: Tensor
    own_text: Tensor

    def __post_init__(self) -> None:
        if self.text.shape[1] != self.own_text.shape[1]:
            raise ConfigError(
                f"text: expected embeddings of length {self.own_text.shape[1]} as the run has, found "
                f"{self.text.shape[1]}; the text network is not that of the run's teacher"
            )

    @property
    def asked(self) -> Tensor:
        """(Q + C, dim): the phrases, then the classes."""
        return torch.cat([self.text, self.own_text])

    def wins(self, found: F32) -> Bool:
        """Where each phrase is nearer than all its rivals: (..., Q + C) similarities to (..., Q)."""
        count = len(self.text)
        compete = rivals(self.text, self.own_text).cpu().numpy()
        best = [
            found[..., count:][..., row].max(-1) if row.any() else np.full(found.shape[:-1], np.inf)
            for row in compete
        ]
        return (found[..., :count] > np.stack(best, -1)) & (found[..., :count] > NOTHING)


class Asker(Protocol):
    """Similarities of a scene's points and pixels to text."""

    def can_ask_points(self, scene: Scene) -> bool:
        """Whether there is a cloud, and anything that knows of clouds."""
        ...

    def points(self, scene: Scene, text: Tensor) -> F32:
        """(N, T) float32 similarities of the points, `NOTHING` where there is no feature."""
        ...

    def frame(self, frame: Frame, text: Tensor) -> F32:
        """(H, W, T) float32 similarities of the pixels."""
        ...


@dataclass(frozen=True, eq=False)
class NetworkAsker:
    """Both trained networks, each alone (an `Asker`)."""

    pair: NetworkPair

    def can_ask_points(self, scene: Scene) -> bool:
        """Not of images alone, nor by a run on images alone."""
        return len(scene.points_world) > 0 and self.pair.knows_points

    def points(self, scene: Scene, text: Tensor) -> F32:
        """By the 3D network."""
        found = self.pair.point_similarities(upright(scene.points_world, scene.up_world), scene.rgb, text)
        return np.asarray(found.cpu().numpy(), dtype=np.float32)

    def frame(self, frame: Frame, text: Tensor) -> F32:
        """By the 2D network."""
        found = self.pair.image_similarities(frame.image[None], text)[0].movedim(0, 2)
        return np.asarray(found.cpu().numpy(), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class TeacherAsker:
    """The label teacher's features from the cache, nothing learned (an `Asker`).

    Points get the mean over the pixels that see them (`scenelift.fusion`).
    """

    annotations: Annotations

    def can_ask_points(self, scene: Scene) -> bool:
        """Where there is a cloud."""
        return len(scene.points_world) > 0

    def points(self, scene: Scene, text: Tensor) -> F32:
        """Of the fused features; `NOTHING` for points that no view sees."""
        fused = torch.from_numpy(fused_features(self.annotations, scene.name, len(scene.points_world)))
        return np.asarray(similarities(fused, text.cpu(), self._common).numpy(), dtype=np.float32)

    def frame(self, frame: Frame, text: Tensor) -> F32:
        """On the teacher's grid, then upsampled as its labels are."""
        grid = torch.from_numpy(self.annotations.features(frame.scene, frame.name)).float()
        found = similarities(grid.flatten(1).T, text.cpu(), self._common).T.reshape(
            len(text), *grid.shape[1:]
        )
        large = F.interpolate(found[None], (frame.height, frame.width), mode="bilinear", align_corners=False)
        return np.asarray(large[0].movedim(0, 2).numpy(), dtype=np.float32)

    @property
    def _common(self) -> Tensor:
        return common_direction(torch.from_numpy(self.annotations.text))
