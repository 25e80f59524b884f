"""Prompt templates, and the average of embeddings over them (method step 2).

`CLIP_TEMPLATES` are the 80 sentences CLIP was evaluated with on ImageNet
(https://github.com/openai/CLIP/blob/main/notebooks/Prompt_Engineering_for_ImageNet.ipynb), in their
published order; `SCENE_TEMPLATES` are the five that ViLD (https://arxiv.org/abs/2104.13921) added for objects
inside a larger picture, and that MaskCLIP and CLIP2Scene took over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scenelift.errors import ConfigError, DataError
from scenelift.types import F32

CLIP_TEMPLATES: tuple[str, ...] = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)
"""CLIP's 80 ImageNet templates; "a origami" and "a embroidered" are spelled as published."""

SCENE_TEMPLATES: tuple[str, ...] = (
    "There is a {} in the scene.",
    "There is the {} in the scene.",
    "This is a {} in the scene.",
    "This is the {} in the scene.",
    "This is one {} in the scene.",
)

TEMPLATES: tuple[str, ...] = CLIP_TEMPLATES + SCENE_TEMPLATES
"""The 85 templates of the method."""


def expand(phrases: Sequence[str], templates: Sequence[str] = TEMPLATES) -> list[str]:
    """Every phrase in every template: all sentences of the first phrase, then those of the second."""
    return [template.format(phrase) for phrase in phrases for template in templates]


def check_templates(templates: Sequence[str], key: str) -> None:
    """Refuse templates in which a class name has no place of its own.

    Args:
        templates: sentences, each with exactly one ``{}`` and no other brace.
        key: of the configuration, for the message.

    Raises:
        ConfigError: there is none, or one is not of this form.
    """
    if not templates:
        raise ConfigError(f'{key}: expected at least one sentence such as "a photo of a {{}}.", found none')
    for template in templates:
        if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
            raise ConfigError(
                f"{key}: expected sentences with one {{}} where the class name goes and no other brace, "
                f'found {template!r}; write for instance "a photo of a {{}}."'
            )


def average(embeddings: npt.NDArray[np.floating]) -> F32:
    """The direction a set of embeddings has in common: normalise each, mean, normalise again.

    Args:
        embeddings: (n, dim) floats of any length; n at least 1.

    Returns:
        (dim,) float32, unit length.

    Raises:
        DataError: not of shape (n, dim) with n > 0, or no direction is left (a zero or NaN embedding,
            or embeddings that cancel).
    """
    if embeddings.ndim != 2 or embeddings.shape[0] == 0:
        raise DataError(
            f"embeddings to average: expected shape (n, dim) with n > 0, found {embeddings.shape}"
        )
    rows = embeddings.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise DataError(
            "embeddings to average: expected finite rows with a direction, found a zero or NaN row"
        )
    mean = (rows / lengths).mean(axis=0)
    length = float(np.linalg.norm(mean))
    if length < 1e-9:
        raise DataError("embeddings: they cancel each other, no common direction is left")
    direction: F32 = (mean / length).astype(np.float32)
    return direction
