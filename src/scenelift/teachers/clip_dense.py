"""What is done to the last block of an image tower, so that every token keeps a meaning of its own.

x is the input of the last block, y = LN(x), q, k, v its projections by head, s = 1/√(head width):

==========  ==========================================================  ==================  ================
attention   what stands for the attention's output                      residual and MLP    source
==========  ==========================================================  ==================  ================
maskclip    v                                                           kept                MaskCLIP
sclip       softmax(s q qᵀ) v + softmax(s k kᵀ) v                       kept                SCLIP
naclip      softmax(s k kᵀ + ω) v, ω = exp(−d² / 2σ²), d in tokens      left out            NACLIP
==========  ==========================================================  ==================  ================

and the output projection follows in each. MaskCLIP: Zhou et al. 2022, https://arxiv.org/abs/2112.01071;
SCLIP: Wang et al. 2024, https://arxiv.org/abs/2312.01597; NACLIP: Hajimiri et al. 2025,
https://arxiv.org/abs/2404.08181. Each is followed as its authors' code has it: SCLIP's two softmaxes are
added, not averaged; NACLIP's ω is added after the scaling, is 0 where the class token is concerned, and its
"reduced" block is attention alone. The class token is attended to in both, and dropped afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scenelift.teachers.clip_towers import ImageTower

_BIAS_ELEMENTS = 1 << 24
"""Size of the largest piece of ω that is held at once: 64 MiB in float32."""


def dense_tokens(
    tower: ImageTower, pixels: Tensor, attention: str, neighbour_sigma: float, with_keys: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Features of every patch, and the keys of the last block if they are wanted.

    Args:
        tower: the network.
        pixels: (B, 3, H, W) normalised, sides multiples of a patch.
        attention: a name of `LAST_BLOCKS`.
        neighbour_sigma: standard deviation of NACLIP's Gaussian in tokens; others do not look at it.
        with_keys: return the keys too.

    Returns:
        (B, h · w, dim) features, not normalised, and (B, h · w, width) keys of all heads side by side; row
        by row from the upper left.
    """
    grid = (pixels.shape[-2] // tower.patch_px, pixels.shape[-1] // tower.patch_px)
    tokens = tower.embed(pixels)
    for block in tower.blocks[:-1]:
        tokens = block(tokens, attention_mask=None)
    last: Any = tower.blocks[-1]
    normed = last.layer_norm1(tokens)
    output = LAST_BLOCKS[attention](last, tokens, normed, tower.prefix, grid, neighbour_sigma)
    keys = last.self_attn.k_proj(normed[:, tower.prefix :]) if with_keys else None
    return tower.project(output), keys


def _maskclip(
    block: Any, tokens: Tensor, normed: Tensor, prefix: int, grid: tuple[int, int], sigma: float
) -> Tensor:
    attention = block.self_attn
    return _finished(block, tokens[:, prefix:], attention.out_proj(attention.v_proj(normed[:, prefix:])))


def _sclip(
    block: Any, tokens: Tensor, normed: Tensor, prefix: int, grid: tuple[int, int], sigma: float
) -> Tensor:
    q, k, v = (_by_head(block, name, normed) for name in ("q_proj", "k_proj", "v_proj"))
    # two fused attentions in place of a sum of two matrices: nothing of the size n × n is held
    attended = F.scaled_dot_product_attention(q[:, :, prefix:], q, v)
    attended = attended + F.scaled_dot_product_attention(k[:, :, prefix:], k, v)
    return _finished(block, tokens[:, prefix:], _heads_joined(block, attended))


def _naclip(
    block: Any, tokens: Tensor, normed: Tensor, prefix: int, grid: tuple[int, int], sigma: float
) -> Tensor:
    k, v = (_by_head(block, name, normed) for name in ("k_proj", "v_proj"))
    patches = grid[0] * grid[1]
    rows = max(1, _BIAS_ELEMENTS // k.shape[2])
    parts = []
    for start in range(0, patches, rows):
        bias = _neighbour_bias(grid, sigma, start, min(start + rows, patches), k.device)
        bias = F.pad(bias, (prefix, 0)).to(k.dtype)
        parts.append(F.scaled_dot_product_attention(k[:, :, prefix:][:, :, start : start + rows], k, v, bias))
    return _heads_joined(block, torch.cat(parts, dim=2))


LAST_BLOCKS: dict[str, Callable[[Any, Tensor, Tensor, int, tuple[int, int], float], Tensor]] = {
    "maskclip": _maskclip,
    "sclip": _sclip,
    "naclip": _naclip,
}
"""(block, its input, LN of it, prefix, grid, σ) → (B, h · w, width), what leaves the block; see above."""


def _by_head(block: Any, name: str, normed: Tensor) -> Tensor:
    """(B, heads, n, head width): q, k or v; the fused attention scales by 1/√(head width) itself."""
    attention = block.self_attn
    projected: Tensor = getattr(attention, name)(normed)
    return projected.view(*normed.shape[:2], attention.num_heads, attention.head_dim).transpose(1, 2)


def _heads_joined(block: Any, attended: Tensor) -> Tensor:
    joined: Tensor = block.self_attn.out_proj(attended.transpose(1, 2).flatten(2))
    return joined


def _finished(block: Any, tokens: Tensor, attended: Tensor) -> Tensor:
    """The rest of the block: residual, then MLP with its own."""
    tokens = tokens + attended
    finished: Tensor = tokens + block.mlp(block.layer_norm2(tokens))
    return finished


def _neighbour_bias(
    grid: tuple[int, int], sigma: float, start: int, stop: int, device: torch.device
) -> Tensor:
    """(stop − start, h · w) float32: exp(−d² / 2σ²) from some tokens to all, d their distance in tokens."""
    index = torch.arange(grid[0] * grid[1], device=device)
    place = torch.stack((index // grid[1], index % grid[1]), dim=1).float()
    square = (place[start:stop, None] - place[None]).square().sum(-1)
    return torch.exp(-square / (2 * sigma**2))


def smooth_by_keys(features: Tensor, keys: Tensor) -> Tensor:
    """Key smoothing, of MaskCLIP: each token's feature becomes Σⱼ cos(kᵢ, kⱼ) fⱼ / n.

    The paper applies it to the scores, which are linear in the features, so that this is the same before the
    text is known. Negative cosines count, as there; 1/n, which no argmax sees, keeps lengths bounded. The
    authors' code smooths probabilities in place of scores, uses keys that went through the output projection,
    and divides keys by their length along the tokens instead of the channels; the equation is followed here.

    Args:
        features: (B, n, dim) float32.
        keys: (B, n, width).

    Returns:
        (B, n, dim) float32, at a cost linear in n.
    """
    unit = F.normalize(keys.float(), dim=-1)
    return unit @ (unit.transpose(1, 2) @ features) / features.shape[1]


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """First tokens of the windows along one side; the last window ends with the image.

    Args:
        size: tokens along the side.
        window: tokens of a window, at most ``size``.
        stride: tokens from window to window, at least 1.
    """
    return [*range(0, size - window, stride), size - window]
