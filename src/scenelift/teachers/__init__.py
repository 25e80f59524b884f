"""Frozen foundation models behind two Protocols.

A label teacher embeds pixels and words into one space; a mask teacher cuts an image into masks and
describes it by features. Both are asked for batches of frames, answer with arrays that can be cached
as they are, and carry an `identity` that names everything their answer depends on beside the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from scenelift.types import F16, F32, Frame, Masks


class TextEncoder(Protocol):
    """The text side of a label teacher: words to the space that pixels share with them."""

    @property
    def text_identity(self) -> str:
        """Kind, weights and settings: part of the cache key of text embeddings."""
        ...

    @property
    def weights(self) -> str:
        """Where the weights came from, for the cache's manifests: for people, and part of no key."""
        ...

    @property
    def dim(self) -> int:
        """Length of the shared embedding."""
        ...

    def text_features(self, prompts: Sequence[Sequence[str]]) -> F32:
        """Embeddings of classes.

        Args:
            prompts: for each class its phrases; their embeddings are averaged.

        Returns:
            (C, dim) float32, unit length.
        """
        ...


class LabelTeacher(TextEncoder, Protocol):
    """Dense image–text features, as CLIP gives them (method steps 1 and 2)."""

    @property
    def identity(self) -> str:
        """Kind, weights and settings of the image side: part of the cache key of its features."""
        ...

    def image_features(self, frames: Sequence[Frame]) -> list[F16]:
        """Dense features: for each frame (dim, h, w) float16, a coarse grid that covers the image."""
        ...


class MaskTeacher(Protocol):
    """Masks and features, as SAM gives them (method step 5)."""

    @property
    def identity(self) -> str:
        """Kind, weights and settings: part of the cache key of its masks."""
        ...

    @property
    def weights(self) -> str:
        """Where the weights came from, for the cache's manifests: for people, and part of no key."""
        ...

    @property
    def summary(self) -> str:
        """One line about the work done so far that is worth telling, or an empty string."""
        ...

    def masks(self, frames: Sequence[Frame]) -> list[Masks]:
        """For each frame one mask id per pixel and a coarse feature grid."""
        ...
