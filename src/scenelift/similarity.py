"""How near features are to phrases, and when that is too far for any of them.

A similarity here is a cosine without what the names of the run's own classes have in common: nothing in
training fixes that part of an embedding, and as a plain cosine counts it, it hides the rest. The figures are
in ``docs/query.md``. Everything is a pure function of tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

NOTHING = -1.0
"""The similarity of what has no feature, as a point that no view sees."""


def common_direction(own_text: Tensor) -> Tensor:
    """(C, dim) unit embeddings of a run's classes to the direction they share, (dim,), unit length."""
    return F.normalize(own_text.mean(0), dim=0)


def similarities(features: Tensor, text: Tensor, common: Tensor) -> Tensor:
    """Cosines of features and text, both without their share of ``common``.

    Args:
        features: (n, dim) floats of any length; rows of 0 have no direction.
        text: (Q, dim) float32, unit length.
        common: (dim,), from `common_direction`.

    Returns:
        (n, Q) float32 in [-1, 1]; `NOTHING` for rows of 0.
    """
    features = features.float()
    cosines = (_without(features, common) @ _without(text.float(), common).T).clamp(-1.0, 1.0)
    return torch.where(features.any(1, keepdim=True), cosines, NOTHING)


def rivals(text: Tensor, own_text: Tensor) -> Tensor:
    """Which of a run's own classes a phrase competes with: all but those that it may mean itself.

    A class may be meant where its name is nearer to the phrase than midway between the nearest of the names
    and the median one. ``"chair"`` means the chair; ``"something to sit on"`` may mean chair and sofa alike.

    Args:
        text: (Q, dim), unit length.
        own_text: (C, dim), unit length.

    Returns:
        (Q, C) bool, True = competes.
    """
    cosines = text.float() @ own_text.float().T
    midway = (cosines.amax(1) + cosines.quantile(0.5, dim=1)) / 2
    return cosines <= midway[:, None]


@dataclass(frozen=True, eq=False)
class Refusal:
    """When something is none of the listed classes.

    Attributes:
        rivals: (R, dim) unit embeddings of the run's own classes that no listed one may mean; R may be 0.
        common: (dim,), from `common_direction` of the run's own classes.
        least_2d: similarity that the best listed class needs to be given to a pixel.
        least_3d: the same for a point.
    """

    rivals: Tensor
    common: Tensor
    least_2d: float
    least_3d: float

    @classmethod
    def of(cls, text: Tensor, own_text: Tensor, least_2d: float, least_3d: float) -> Refusal:
        """For the listed classes ``text`` (L, dim) of a run that was trained on ``own_text`` (C, dim)."""
        compete = rivals(text, own_text).all(0)
        return cls(own_text[compete], common_direction(own_text), least_2d, least_3d)

    def lead(self, features: Tensor, text: Tensor, least: float) -> Tensor:
        """By how much the best listed class is ahead of the best rival and of ``least``; below 0 = refused.

        Args:
            features: (n, dim).
            text: (L, dim), the listed classes.
            least: `least_2d` or `least_3d`.

        Returns:
            (n, 1) float32.
        """
        best = similarities(features, text, self.common).amax(1, keepdim=True)
        bar = torch.full_like(best, least)
        if len(self.rivals):
            against = similarities(features, self.rivals, self.common).amax(1, keepdim=True)
            bar = torch.maximum(bar, against)
        return best - bar


def _without(rows: Tensor, common: Tensor) -> Tensor:
    """Unit rows at right angles to ``common``."""
    return F.normalize(rows - (rows @ common)[:, None] * common, dim=1)
