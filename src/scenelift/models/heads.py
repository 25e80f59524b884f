"""Heads: features to classes by their dot with text, and features to the common latent space.

Nothing here knows the number of classes: a trained network answers new words (method step 7).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scenelift.config import HeadConfig

_LEAST_SQUARE = 1e-24
"""Of an embedding's length, as `torch.nn.functional.normalize` has it."""


class TextHead(nn.Module):
    """θ_s or φ_s: a linear map into the text space, then ψ, the dot product with each class's embedding.

    Args:
        in_channels: channels of the network's features.
        text_dim: length of the text embeddings.
        config: normalisation and logit scale.
    """

    def __init__(self, in_channels: int, text_dim: int, config: HeadConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, text_dim)
        self.normalize = config.normalize
        self.logit_scale = config.logit_scale

    def embed(self, features: Tensor) -> Tensor:
        """(N, in_channels) features to (N, text_dim) embeddings, unit length if so configured."""
        embedding = cast(Tensor, self.linear(features))
        return F.normalize(embedding, dim=1) if self.normalize else embedding

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """Logits.

        Where the text space is the wider one, no embedding is made: (W x + b) · t = x · (Wᵀ t) + b · t, and
        ‖W x + b‖² is a quadratic form of x. That is less work and memory for each of a million voxels.

        Args:
            features: (N, in_channels).
            text: (C, text_dim), unit length.

        Returns:
            (N, C) float.
        """
        weight, bias = self.linear.weight, self.linear.bias
        if weight.shape[0] <= weight.shape[1]:
            return self.logit_scale * self.embed(features) @ text.T
        with torch.autocast(features.device.type, enabled=False):  # squares lose half of the digits
            features = features.to(weight.dtype)
            dots = F.linear(features, text @ weight, text @ bias)
            if self.normalize:
                squares = (F.linear(features, weight.T @ weight, 2 * (bias @ weight)) * features).sum(1)
                dots = dots * (squares + bias @ bias).clamp(min=_LEAST_SQUARE).rsqrt()[:, None]
            return self.logit_scale * dots

    def forward_map(self, features: Tensor, text: Tensor) -> Tensor:
        """Logits of a feature map: (B, in_channels, h, w) to (B, C, h, w)."""
        batch, channels, height, width = features.shape
        rows = features.permute(0, 2, 3, 1).reshape(-1, channels)
        logits: Tensor = self(rows, text)
        return logits.view(batch, height, width, logits.shape[1]).permute(0, 3, 1, 2)


class FrozenMap(nn.Module):
    """A fixed random linear map that keeps angles as well as one can: orthonormal rows (or columns).

    Its matrix is drawn from its own seed, so that the target of eq. 7 is the same in every run.
    """

    def __init__(self, in_channels: int, out_channels: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shape = (max(in_channels, out_channels), min(in_channels, out_channels))
        basis, _ = torch.linalg.qr(torch.randn(shape, generator=generator))
        weight = basis if out_channels > in_channels else basis.T
        self.register_buffer("weight", weight.contiguous())

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels) to (N, out_channels)."""
        return F.linear(features, cast(Tensor, self.weight))
