"""The networks of CLIP and SigLIP in the parts that the dense teacher uses.

An image tower is cut where the surgery happens: embeddings, blocks, and what turns a token of the last block
into the space of the text. `FAMILIES` says which classes of transformers a checkpoint's ``model_type`` means;
SigLIP 2 at a fixed resolution is of type ``siglip``
(https://huggingface.co/docs/transformers/model_doc/siglip2, "FixRes").

CLIP's class token passes through all blocks but the last as ever, and is dropped. SigLIP has none: its image
embedding comes from attention pooling (MAP). Dense features of SigLIP are ours [D], by the same thought as
MaskCLIP's: each token goes through the pooling's value and output projections as if attended to alone, then
through the residual MLP that the pooling ends with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenelift.errors import WeightsError
from scenelift.teachers.weights import Weights, load_model

SENTENCES_PER_BATCH = 256


class ImageTower(ABC):
    """An image network.

    Attributes:
        model: all of it, for moving between devices.
        blocks: its transformer blocks, first to last.
        patch_px: side of a patch in pixels.
        prefix: number of tokens that stand before those of the patches.
    """

    model: nn.Module
    blocks: Sequence[nn.Module]
    patch_px: int
    prefix: int

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) normalised pixels, sides multiples of a patch → (B, prefix + h · w, width) tokens.

        Positions are interpolated bicubically to any grid, both grids covering the same image, as MaskCLIP
        does. SCLIP and NACLIP take DINO's form of it, which moves samples by up to 0.1 of a token.
        """

    @abstractmethod
    def project(self, tokens: Tensor) -> Tensor:
        """(B, n, width) output of the last block → (B, n, dim), the space of the text."""


class ClipImageTower(ImageTower):
    """CLIP's vision transformer: post layer norm and projection apply to tokens as to the class token."""

    prefix = 1

    def __init__(self, model: Any) -> None:
        self.model = model
        self._vision: Any = model.vision_model
        self._projection: Any = model.visual_projection
        self.blocks = list(self._vision.encoder.layers)
        self.patch_px = int(self._vision.config.patch_size)

    def embed(self, pixels: Tensor) -> Tensor:
        """See `ImageTower.embed`."""
        tokens: Tensor = self._vision.embeddings(pixels, interpolate_pos_encoding=True)
        normed: Tensor = self._vision.pre_layrnorm(tokens)
        return normed

    def project(self, tokens: Tensor) -> Tensor:
        """See `ImageTower.project`."""
        projected: Tensor = self._projection(self._vision.post_layernorm(tokens))
        return projected


class SiglipImageTower(ImageTower):
    """SigLIP's vision transformer: the value path of its pooling head applies to every token [D]."""

    prefix = 0

    def __init__(self, model: Any) -> None:
        self.model = model
        self._vision: Any = model
        self._head: Any = model.head
        self.blocks = list(model.encoder.layers)
        self.patch_px = int(model.config.patch_size)

    def embed(self, pixels: Tensor) -> Tensor:
        """See `ImageTower.embed`."""
        tokens: Tensor = self._vision.embeddings(pixels, interpolate_pos_encoding=True)
        return tokens

    def project(self, tokens: Tensor) -> Tensor:
        """See `ImageTower.project`."""
        attention = self._head.attention
        width = attention.embed_dim
        # in_proj holds query, key and value projections, one above the other
        weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
        values = F.linear(self._vision.post_layernorm(tokens), weight, bias)
        attended = attention.out_proj(values)
        projected: Tensor = attended + self._head.mlp(self._head.layernorm(attended))
        return projected


@dataclass(frozen=True)
class TextTower:
    """A text network with its tokenizer.

    Attributes:
        model: the network.
        max_tokens: the longest sentence it can read, its marks of beginning and end counted.
    """

    model: Any
    max_tokens: int
    _weights: Weights
    _tokenizer: Any
    _read: Callable[[str], str]
    """What happens to a sentence before the tokenizer."""
    _padding: dict[str, Any]
    """How sentences are padded: arguments of the tokenizer."""
    _inputs: tuple[str, ...]
    """What the network takes of the tokenizer's answer."""
    _output: str
    """Where the embedding stands in the network's answer."""

    def lengths(self, sentences: Sequence[str]) -> list[int]:
        """The number of tokens of each sentence, its marks counted."""
        ids = self._tokenizer([self._read(sentence) for sentence in sentences])["input_ids"]
        return [len(row) for row in ids]

    @torch.inference_mode()
    def encode(self, sentences: Sequence[str]) -> Tensor:
        """(n, dim) float32, one row a sentence, not normalised; sentences must not exceed ``max_tokens``."""
        device = next(self.model.parameters()).device
        parts = []
        for start in range(0, len(sentences), SENTENCES_PER_BATCH):
            texts = [self._read(sentence) for sentence in sentences[start : start + SENTENCES_PER_BATCH]]
            tokens = self._tokenizer(texts, return_tensors="pt", **self._padding)
            highest, size = int(tokens["input_ids"].max()), int(self.model.config.vocab_size)
            if highest >= size:  # an index error otherwise, which kills a CUDA process
                raise _unreadable(self._weights, "a tokenizer", f"token {highest} of a vocabulary of {size}")
            answer = self.model(**{name: tokens[name].to(device) for name in self._inputs})
            parts.append(answer[self._output])
        return torch.cat(parts)


@dataclass(frozen=True)
class Family:
    """How a ``model_type`` is read. Both networks come on the CPU, in float32.

    Attributes:
        dim: length of the shared embedding, from ``config.json`` alone.
        image: loads the image network, and nothing of the text's.
        text: loads the text network and the tokenizer.
        mean, std: of RGB in [0, 1], for a checkpoint that does not say.
    """

    dim: Callable[[Weights], int]
    image: Callable[[Weights], ImageTower]
    text: Callable[[Weights], TextTower]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def _clip_dim(weights: Weights) -> int:
    return int(_config(weights).projection_dim)


def _clip_image(weights: Weights) -> ImageTower:
    from transformers import CLIPVisionModelWithProjection

    config = _config(weights)
    # CLIPModel never reads the size that stands in the part, which may be a mere default.
    config.vision_config.projection_dim = config.projection_dim
    return ClipImageTower(_load(CLIPVisionModelWithProjection, weights, config.vision_config))


def _clip_text(weights: Weights) -> TextTower:
    from transformers import CLIPTextModelWithProjection

    config = _config(weights)
    config.text_config.projection_dim = config.projection_dim  # as for the image
    model = _load(CLIPTextModelWithProjection, weights, config.text_config)
    # The mask is causal and the sentence read at its end: how far it is padded does not matter.
    return TextTower(
        model,
        int(model.config.max_position_embeddings),
        weights,
        _tokenizer(weights),
        str,
        {"padding": True},
        ("input_ids", "attention_mask"),
        "text_embeds",
    )


def _siglip_dim(weights: Weights) -> int:
    vision = _config(weights).vision_config
    if not vision.vision_use_head:
        raise WeightsError(
            f"weights {weights.origin}: expected a SigLIP with its pooling head, found one saved without "
            "(vision_use_head is false), which has no common space with text; use the full checkpoint"
        )
    return int(vision.hidden_size)


def _siglip_image(weights: Weights) -> ImageTower:
    from transformers import SiglipVisionModel

    return SiglipImageTower(_load(SiglipVisionModel, weights, _config(weights).vision_config))


def _siglip_text(weights: Weights) -> TextTower:
    from transformers import SiglipTextModel

    model = _load(SiglipTextModel, weights, _config(weights).text_config)
    length = int(model.config.max_position_embeddings)
    # Trained on lower case, and on padding to full length without a mask
    # (https://huggingface.co/docs/transformers/model_doc/siglip); not every tokenizer lowers by itself.
    return TextTower(
        model,
        length,
        weights,
        _tokenizer(weights),
        str.lower,
        {"padding": "max_length", "max_length": length},
        ("input_ids",),
        "pooler_output",
    )


FAMILIES: dict[str, Family] = {
    "clip": Family(
        _clip_dim,
        _clip_image,
        _clip_text,
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    "siglip": Family(_siglip_dim, _siglip_image, _siglip_text, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""The families by ``model_type`` of ``config.json``; means and deviations are those their authors trained
with (https://github.com/openai/CLIP/blob/main/clip/clip.py; SigLIP maps RGB to [-1, 1])."""


def _load(kind: Any, weights: Weights, config: Any) -> Any:
    # Checkpoints in half precision are computed with in float32; autocast decides what is halved again.
    return load_model(partial(kind.from_pretrained, config=config, dtype=torch.float32), weights)


def _config(weights: Weights) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(weights.path, local_files_only=True)
    except Exception as error:  # whatever a foreign file makes it raise
        raise _unreadable(weights, "config.json", str(error)) from error


def _tokenizer(weights: Weights) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(weights.path, local_files_only=True)
    except Exception as error:  # whatever a foreign file makes it raise, or a package it needs
        raise _unreadable(weights, "a tokenizer", str(error)) from error
    names = list(tokenizer.vocab_files_names.values())
    if not any((weights.path / name).is_file() for name in names):  # transformers makes an empty one up
        raise _unreadable(weights, "a tokenizer", f"none of {', '.join(names)}")
    return tokenizer


def _unreadable(weights: Weights, what: str, reason: str) -> WeightsError:
    reason = " ".join(reason.split())[:300]
    return WeightsError(
        f"weights {weights.origin}: expected {what} of a {weights.model_type} checkpoint in {weights.path}, "
        f"found none that fits ({reason}); fetch the checkpoint again, with its tokenizer"
    )
