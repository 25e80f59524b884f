"""CLIP and SigLIP as a label teacher: an embedding for every patch of an image, and one for every class.

The image side is MaskCLIP's, or one of its successors (`scenelift.teachers.clip_dense`), on any image size:

    resize (bicubic, antialiased) → normalise → all blocks but the last → the changed last block → project
    → unit length → smooth by keys, if asked to → average over windows, if there are several

The text side averages the embeddings of every phrase of a class in every template. What is cached is the
features, not labels: another class list asks the text side alone. Each side loads its own network when it is
first asked; a start that finds everything in the cache loads neither.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scenelift.config import ClipLabels
from scenelift.device import network_dtype
from scenelift.errors import ConfigError, DataError, WeightsError
from scenelift.teachers.clip_dense import dense_tokens, smooth_by_keys, window_starts
from scenelift.teachers.clip_towers import FAMILIES, ImageTower, TextTower
from scenelift.teachers.prompts import TEMPLATES, average, check_templates, expand
from scenelift.teachers.weights import Weights
from scenelift.types import F16, F32, U8, Frame

CODE_VERSION = 1
"""Part of the identity; raised when the same settings come to mean other features."""

PASS_TOKENS = 16_384
"""Most patches that the network sees at once (2048 × 2048 pixels at patches of 16)."""
IMAGE_TOKENS = 131_072
"""Most patches of an image, however many windows they are seen in: 128 MiB of features at 512 channels."""

BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768}
"""Patches that go through the network together. On a CPU one image fills the cores already, and what it works
on had better stay in cache; a GPU wants more."""


class ClipLabelTeacher:
    """CLIP or SigLIP behind the `LabelTeacher` Protocol.

    Answers do not depend on the order of frames, and on how many are asked for together only as far as
    floating point sums do: features of unit length agree within 1e-3, two float16 steps, where the network
    computes in float32.

    Args:
        config: attention, input size, templates, precision.
        weights: a checkpoint of a `FAMILIES` type, found by `scenelift.teachers.weights.find_weights`.
        device: where both networks run.

    Raises:
        ConfigError: templates without a place for the class name, or a window and stride that leave gaps.
        WeightsError: a checkpoint of another kind.
    """

    def __init__(self, config: ClipLabels, weights: Weights, device: str) -> None:
        if weights.model_type not in FAMILIES:
            raise WeightsError(
                f"weights {weights.origin}: expected a checkpoint of type {' or '.join(FAMILIES)}, found "
                f"{weights.model_type or 'none'!r}; choose one such as openai/clip-vit-base-patch16"
            )
        self._templates = TEMPLATES if config.templates is None else config.templates
        check_templates(self._templates, "teachers.labels.templates")
        _check_windows(config)
        self._config, self._weights, self._device = config, weights, torch.device(device)
        self._family = FAMILIES[weights.model_type]
        self._dtype = network_dtype(config.precision, self._device)
        self._mean, self._std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if config.normalize:
            self._mean, self._std = _normalisation(weights)

    @property
    def weights(self) -> str:
        """The hub id with its commit, or the folder."""
        return self._weights.origin

    @cached_property
    def identity(self) -> str:
        """All that features depend on: settings, normalisation, precision, and the weights by content."""
        config = self._config
        settings = {
            "attention": config.attention,
            "neighbour_sigma": config.neighbour_sigma if config.attention == "naclip" else None,
            "key_smoothing": config.key_smoothing,
            "mean": self._mean,
            "std": self._std,
            "unit_length": config.unit_length,
            "short_side": config.short_side,
            "window": config.window,
            "window_stride": config.window_stride,
            "precision": str(self._dtype),
            "weights": self._weights.digest,
        }
        return f"clip-labels/{CODE_VERSION} {json.dumps(settings, sort_keys=True)}"

    @cached_property
    def text_identity(self) -> str:
        """Templates, and the weights by content. The text side computes in float32 everywhere."""
        settings = {"templates": self._templates, "weights": self._weights.digest}
        return f"clip-text/{CODE_VERSION} {json.dumps(settings, sort_keys=True)}"

    @cached_property
    def dim(self) -> int:
        """Length of the shared embedding."""
        return self._family.dim(self._weights)

    @cached_property
    def _image(self) -> ImageTower:
        tower = self._family.image(self._weights)
        tower.model.to(self._device)
        return tower

    @cached_property
    def _text(self) -> TextTower:
        tower = self._family.text(self._weights)
        tower.model.to(self._device)
        return tower

    # --- text -------------------------------------------------------------------------------------

    def text_features(self, prompts: Sequence[Sequence[str]]) -> F32:
        """Embeddings of classes, averaged over phrases and templates (method step 2).

        Args:
            prompts: for each class its phrases.

        Returns:
            (C, dim) float32, unit length.

        Raises:
            ConfigError: a class without a phrase, or a phrase too long for the network.
            WeightsError: the text network cannot be read.
        """
        for index, phrases in enumerate(prompts):
            if not phrases or not all(phrase.strip() for phrase in phrases):
                raise ConfigError(
                    f"classes: expected at least one word for every class, found {list(phrases)} "
                    f"for class {index}; give each class a name"
                )
        sentences = [expand(phrases, self._templates) for phrases in prompts]
        for phrases, expanded in zip(prompts, sentences, strict=True):
            self._check_length(phrases, expanded)
        rows = [average(self._text.encode(expanded).cpu().numpy()) for expanded in sentences]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)

    def _check_length(self, phrases: Sequence[str], sentences: Sequence[str]) -> None:
        lengths = self._text.lengths(sentences)
        longest = int(np.argmax(lengths))
        if lengths[longest] > self._text.max_tokens:
            phrase = phrases[longest // len(self._templates)]
            raise ConfigError(
                f"classes: expected sentences of at most {self._text.max_tokens} tokens, found "
                f"{lengths[longest]} in {sentences[longest]!r}, made of the class phrase {phrase!r}; "
                "shorten it (nothing is cut off in silence)"
            )

    # --- images -----------------------------------------------------------------------------------

    def image_features(self, frames: Sequence[Frame]) -> list[F16]:
        """Dense features (method step 1).

        Frames of one size go through the network together, as many as `BATCH_TOKENS` allows.

        Returns:
            for each frame (dim, h, w) float16, one cell per patch of the resized image; the cells cover the
            image exactly and evenly, whatever its size.

        Raises:
            DataError: a frame is empty or, resized, too large for the network; or features overflow.
            WeightsError: the image network cannot be read.
        """
        frames = list(frames)  # reads a lazy sequence once
        by_size: dict[tuple[int, int], list[int]] = {}
        for i, frame in enumerate(frames):
            by_size.setdefault((frame.height, frame.width), []).append(i)
        answers: dict[int, F16] = {}
        for indices in by_size.values():
            grid = self._grid(frames[indices[0]])
            together = max(1, self._batch_tokens // (grid[0] * grid[1]))
            for start in range(0, len(indices), together):
                batch = indices[start : start + together]
                grids = self._features(np.stack([frames[i].image for i in batch]), grid)
                for i, features in zip(batch, grids, strict=True):
                    if not np.isfinite(features).all():
                        raise _overflow(frames[i], self._dtype)
                    answers[i] = features
        return [answers[i] for i in range(len(frames))]

    @property
    def _batch_tokens(self) -> int:
        return BATCH_TOKENS.get(self._device.type, BATCH_TOKENS["cuda"])

    def _grid(self, frame: Frame) -> tuple[int, int]:
        """Rows and columns of patches in which this frame is seen."""
        height, width = frame.height, frame.width
        if min(height, width) == 0:
            raise DataError(f"frame {frame.key}: expected an image, found {height} × {width} pixels")
        patch = self._image.patch_px
        grid = input_grid(height, width, self._config.short_side, patch)
        window = self._window(grid)
        if grid[0] * grid[1] > IMAGE_TOKENS or window[0] * window[1] > PASS_TOKENS:
            fits = grid[0] * grid[1] <= IMAGE_TOKENS
            limit = f"{PASS_TOKENS} at once" if fits else f"{IMAGE_TOKENS} in all"
            advice = "set teachers.labels.window=448, or lower " if fits else "lower "
            raise DataError(
                f"frame {frame.key} of {height} × {width} pixels: expected at most {limit} patches of "
                f"{patch} pixels, found {grid[0]} × {grid[1]} at short_side={self._config.short_side}; "
                f"{advice}teachers.labels.short_side, or cut the image"
            )
        return grid

    def _window(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of a window, in tokens; the whole grid without windows."""
        if self._config.window is None:
            return grid
        side = max(1, self._config.window // self._image.patch_px)
        return min(side, grid[0]), min(side, grid[1])

    @torch.inference_mode()
    def _features(self, images: U8, grid: tuple[int, int]) -> F16:
        """(B, H, W, 3) images of one size → (B, dim, h, w), averaged over the windows they are seen in."""
        patch, (height, width) = self._image.patch_px, self._window(grid)
        pixels = self._pixels(images, (grid[0] * patch, grid[1] * patch))
        stride = self._stride_tokens
        places = [
            (row, column)
            for row in window_starts(grid[0], height, stride)
            for column in window_starts(grid[1], width, stride)
        ]
        total = pixels.new_zeros((len(images), *grid, self.dim))
        seen = pixels.new_zeros((*grid, 1))
        together = max(1, self._batch_tokens // (len(images) * height * width))
        for start in range(0, len(places), together):
            some = places[start : start + together]
            crops = [
                pixels[..., r * patch : (r + height) * patch, c * patch : (c + width) * patch]
                for r, c in some
            ]
            features = self._network(torch.cat(crops)).view(-1, height, width, self.dim)
            for (r, c), part in zip(some, torch.chunk(features, len(some)), strict=True):
                total[:, r : r + height, c : c + width] += part
                seen[r : r + height, c : c + width] += 1
        answer = self._scaled(total / seen).permute(0, 3, 1, 2).contiguous()
        return answer.half().cpu().numpy()

    @property
    def _stride_tokens(self) -> int:
        config, patch = self._config, self._image.patch_px
        stride = config.window_stride or (config.window or patch) // 2
        return max(1, stride // patch)

    def _pixels(self, images: U8, size: tuple[int, int]) -> Tensor:
        """(B, 3, *size) float32, normalised.

        CLIP's own preprocessing resizes with Pillow's bicubic filter, which is antialiased and clips to
        [0, 255]; here the result is not rounded to whole numbers.
        """
        pixels = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float()
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0.0, 255.0)
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (self._mean, self._std))
        return (pixels / 255.0 - mean) / std

    def _network(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) normalised → (B, h · w, dim) float32."""
        config, dtype = self._config, self._dtype
        with torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32):
            features, keys = dense_tokens(
                self._image, pixels, config.attention, config.neighbour_sigma, config.key_smoothing
            )
        features = self._scaled(features.float())
        if keys is not None:
            features = self._scaled(smooth_by_keys(features, keys))
        return features

    def _scaled(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1) if self._config.unit_length else features


def input_grid(height: int, width: int, short_side: int | None, patch: int) -> tuple[int, int]:
    """The grid of patches in which an image is seen.

    Both sides are scaled by the same factor and then each to the nearest multiple of a patch, at least one;
    the image fills the grid exactly, so cells are that little bit other than square.

    Args:
        height, width: of the image, pixels.
        short_side: wanted length of the shorter side, pixels; None = its own.
        patch: side of a patch, pixels.

    Returns:
        rows and columns.
    """
    factor = 1.0 if short_side is None else short_side / min(height, width)
    rows, columns = (max(1, int(side * factor / patch + 0.5)) for side in (height, width))
    return rows, columns


def _check_windows(config: ClipLabels) -> None:
    stride = config.window_stride
    if stride is not None and (config.window is None or stride > config.window):
        raise ConfigError(
            f"teachers.labels.window_stride: expected at most the window, found {stride} with window="
            f"{config.window}; set teachers.labels.window, or lower the stride"
        )


def _normalisation(weights: Weights) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation as the checkpoint says, or as its family has them."""
    family = FAMILIES[weights.model_type]
    found: dict[str, Any] = {}
    # newer checkpoints keep the settings of all processors in one file
    for name, part in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        path = weights.path / name
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                found.update(dict(content.get(part) or {} if part else content.items()))
            except (OSError, ValueError, AttributeError, TypeError) as error:
                raise WeightsError(
                    f"weights {weights.origin}: expected settings as JSON in {path}, found a file that "
                    f"cannot be read ({error}); fetch the checkpoint again"
                ) from error
    return (
        _rgb(found.get("image_mean", family.mean), "image_mean", weights),
        _rgb(found.get("image_std", family.std), "image_std", weights),
    )


def _rgb(values: Any, name: str, weights: Weights) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values)
        if np.isfinite((red, green, blue)).all() and (name == "image_mean" or min(red, green, blue) > 0):
            return red, green, blue
    except (TypeError, ValueError):
        pass
    raise WeightsError(
        f"weights {weights.origin}: expected three numbers for {name} in its preprocessor config, found "
        f"{values!r}; fetch the checkpoint again"
    )


def _overflow(frame: Frame, dtype: torch.dtype) -> DataError:
    return DataError(
        f"frame {frame.key}: expected finite features, found infinite ones or NaN, computed in {dtype}; "
        "set teachers.labels.precision=float32, and if that does not help fetch the weights again"
    )
