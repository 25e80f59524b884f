"""SAM's mask decoder for thousands of point prompts on one image: the same function, rearranged.

The decoder (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, appendix A; SAM 2:
https://arxiv.org/abs/2408.00714, appendix C) lets N tokens and T image positions attend to each other,
twice, then grows the image by four and takes a dot product with each mask's token. N is 7 or 8 and T is 4096,
yet the usual code projects all T positions, of every prompt, to keys, queries and values. Here:

- What no prompt changes is computed once: the first layer's keys, values and queries of the image once per
  image, those of the positional encodings once per model. All prompts read one copy.
- Projections of the image move to the tokens: q·(W x) = (Wᵀq)·x, and Σ p (W x) = W Σ p x. A head's d × C
  matrix then meets N tokens instead of T positions. Likewise for the output projection, whose bias rides on
  the softmax weights, which sum to one. Constants that a softmax cancels are left out.
- The predicted IoU needs tokens only, so `attend` gives it before `masks` grows anything; and only positions
  inside the image grow, not the padding.
- Channels stay last: a stride-2 transposed convolution is then a plain product, and its norm a layer norm.

Per prompt of SAM this leaves 1.5 of the usual 3.5 GFLOP. `tests/teachers/test_sam_decoder.py` compares with
transformers' own forward pass, and `benchmarks/mask_generation.py` measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class ImageState:
    """What all prompts of one image share.

    Attributes:
        keys: (T, C) the image embedding with the "no mask" prompt, T = h · w positions.
        first_keys: (heads, d, T) of the first token-to-image attention.
        first_values: (heads, T, d).
        first_queries: (heads, d, T) of the first image-to-token attention.
        grid: (h, w).
        grow_bias: what the two growing steps add, (1 or T, C) and (1 or 4T, C/2): biases, for SAM 2 with its
            high-resolution features.
    """

    keys: Tensor
    first_keys: Tensor
    first_values: Tensor
    first_queries: Tensor
    grid: tuple[int, int]
    grow_bias: tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Attended:
    """Prompts after the transformer.

    Attributes:
        iou: (B, M) predicted IoU of each prompt's M masks.
        hyper: (B, M, C/8) what each mask looks for in the grown image.
        keys: (B, T, C) the image as each prompt left it.
    """

    iou: Tensor
    hyper: Tensor
    keys: Tensor


class _Attention:
    """One attention module of the decoder, by its matrices: W (heads, d, C) and b."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.heads = int(module.num_attention_heads)
        self.out: nn.Linear = module.out_proj if hasattr(module, "out_proj") else module.o_proj
        self.wq, self.wk, self.wv = (
            torch.unflatten(linear.weight, 0, (self.heads, -1))
            for linear in (module.q_proj, module.k_proj, module.v_proj)
        )
        self.wo = torch.unflatten(self.out.weight, 1, (self.heads, -1))  # (C, heads, d)
        self.scale = self.wq.shape[1] ** -0.5

    def split(self, x: Tensor) -> Tensor:
        """(B, n, heads · d) -> (B, heads, n, d)."""
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(-2, -3)

    def among_tokens(self, q: Tensor, v: Tensor) -> Tensor:
        """Self-attention of (B, N, C) tokens: queries and keys from ``q``, values from ``v``."""
        m = self.module
        mixed = F.scaled_dot_product_attention(
            self.split(m.q_proj(q)), self.split(m.k_proj(q)), self.split(m.v_proj(v))
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def queries(self, q: Tensor) -> Tensor:
        """(B, heads, N, d) queries of tokens, scaled."""
        scaled: Tensor = self.split(self.module.q_proj(q)) * self.scale
        return scaled

    def scaled_keys(self, k: Tensor) -> Tensor:
        """(B, heads, N, d) keys of tokens, scaled."""
        scaled: Tensor = self.split(self.module.k_proj(k)) * self.scale
        return scaled

    def from_values(self, gathered: Tensor) -> Tensor:
        """(B, heads · N, C) sums of image positions -> (B, N, C) output."""
        per_head = torch.unflatten(gathered, 1, (self.heads, -1))
        values = torch.einsum("bhnc,hdc->bnhd", per_head, self.wv).flatten(2)
        out: Tensor = self.out(values + self.module.v_proj.bias)
        return out

    def token_values(self, v: Tensor) -> Tensor:
        """(B, heads · N, C): values of tokens behind the output projection, its bias spread over heads."""
        values = torch.einsum("bhnd,chd->bhnc", self.split(self.module.v_proj(v)), self.wo)
        return (values + self.out.bias / self.heads).flatten(1, 2)

    def image_keys(self, x: Tensor) -> Tensor:
        """(T, C) -> (heads, d, T) keys, without the bias, which the softmax over T cancels."""
        return torch.einsum("tc,hdc->hdt", x, self.wk).contiguous()

    def image_queries(self, x: Tensor, bias: bool) -> Tensor:
        """(T, C) -> (heads, d, T) queries."""
        projected = torch.einsum("tc,hdc->hdt", x, self.wq)
        if bias:
            projected = projected + self.module.q_proj.bias.view(self.heads, -1, 1)
        return projected.contiguous()


class _Layer:
    """A two-way block: its four attentions and norms."""

    def __init__(self, block: Any) -> None:
        self.block = block
        self.among = _Attention(block.self_attn)
        self.to_image = _Attention(block.cross_attn_token_to_image)
        self.to_tokens = _Attention(block.cross_attn_image_to_token)


class MaskDecoder:
    """The decoder of a SAM or SAM 2 model of transformers.

    Args:
        decoder: its ``mask_decoder``, on any device, in eval mode.
        positions: (C, h, w) positional encodings of the image.
        no_mask: (C,) embedding of "no mask prompt".
    """

    def __init__(self, decoder: Any, positions: Tensor, no_mask: Tensor) -> None:
        self._decoder = decoder
        self._no_mask = no_mask.reshape(1, -1)
        self._layers = [_Layer(block) for block in decoder.transformer.layers]
        self._final = _Attention(decoder.transformer.final_attn_token_to_image)
        flat = positions.flatten(1).t().contiguous()
        self._position_keys = [
            attention.image_keys(flat) for attention in [*(l.to_image for l in self._layers), self._final]
        ]
        self._position_queries = [l.to_tokens.image_queries(flat, bias=True) for l in self._layers]
        specials = [decoder.iou_token.weight, decoder.mask_tokens.weight]
        if hasattr(decoder, "obj_score_token"):  # SAM 2 asks first whether there is an object
            specials.insert(0, decoder.obj_score_token.weight)
        self._specials = torch.cat(specials)
        self._iou_index = len(specials) - 2
        self._grow = [
            conv.weight.permute(0, 2, 3, 1).flatten(1).contiguous()  # (C_in, 4 · C_out), sub-pixels first
            for conv in (decoder.upscale_conv1, decoder.upscale_conv2)
        ]

    @torch.no_grad()
    def image(self, embedding: Tensor, fine: tuple[Tensor, Tensor] | None = None) -> ImageState:
        """What the prompts of an image share.

        Args:
            embedding: (C, h, w) from the image encoder.
            fine: for SAM 2 its features at four and two times the resolution: (C/8, 4h, 4w), (C/4, 2h, 2w).
        """
        grid = (embedding.shape[1], embedding.shape[2])
        keys = embedding.flatten(1).t() + self._no_mask
        first = self._layers[0]
        return ImageState(
            keys.contiguous(),
            first.to_image.image_keys(keys) + self._position_keys[0],
            torch.einsum("tc,hdc->htd", keys, first.to_image.wv).contiguous(),
            first.to_tokens.image_queries(keys, bias=False) + self._position_queries[0],
            grid,
            self._grow_bias(fine),
        )

    def _grow_bias(self, fine: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        decoder = self._decoder
        first, second = (
            conv.bias.repeat(4).view(1, -1) for conv in (decoder.upscale_conv1, decoder.upscale_conv2)
        )
        if fine is None:
            return first, second
        four, two = (features.contiguous() for features in fine)
        height, width = two.shape[1] // 2, two.shape[2] // 2
        # pixels in the order in which growing makes them: position, its 2 × 2, and of each the 2 × 2 again
        split_two = two.view(-1, height, 2, width, 2).permute(1, 3, 2, 4, 0)
        split_four = four.view(-1, height, 2, 2, width, 2, 2).permute(1, 4, 2, 5, 3, 6, 0)
        return (
            first + split_two.reshape(-1, first.shape[1]),
            second + split_four.reshape(-1, second.shape[1]),
        )

    @torch.no_grad()
    def attend(self, image: ImageState, prompts: Tensor) -> Attended:
        """Let prompts and image attend to each other.

        Args:
            image: from `image`.
            prompts: (B, n, C) embedded point prompts, the padding point included.
        """
        start = torch.cat((self._specials.expand(len(prompts), -1, -1), prompts), dim=1)
        tokens, keys = start, image.keys
        for index, layer in enumerate(self._layers):
            block = layer.block
            if index == 0:
                tokens = layer.among.among_tokens(tokens, tokens)
            else:
                tokens = tokens + layer.among.among_tokens(tokens + start, tokens)
            tokens = block.layer_norm1(tokens)
            tokens = tokens + self._look_at_image(index, layer.to_image, tokens + start, keys, image)
            tokens = block.layer_norm2(tokens)
            tokens = block.layer_norm3(tokens + block.mlp(tokens))
            keys = self._look_at_tokens(index, layer.to_tokens, tokens, start, keys, image)
            keys = block.layer_norm4(keys)
        looked = self._look_at_image(len(self._layers), self._final, tokens + start, keys, image)
        tokens = self._decoder.transformer.layer_norm_final_attn(tokens + looked)
        first_mask = (
            self._iou_index + 2
        )  # the first mask token answers alone; the others are the three of multimask
        nets = list(self._decoder.output_hypernetworks_mlps)[1:]
        hyper = torch.stack([net(tokens[:, first_mask + i]) for i, net in enumerate(nets)], dim=1)
        return Attended(self._decoder.iou_prediction_head(tokens[:, self._iou_index])[:, 1:], hyper, keys)

    def _look_at_image(
        self, index: int, attention: _Attention, queries: Tensor, keys: Tensor, image: ImageState
    ) -> Tensor:
        """Token-to-image attention, (B, N, C); softmax over T."""
        q = attention.queries(queries)
        if index == 0:  # one image for all prompts: a plain product of all their tokens
            prompts, tokens = q.shape[0], q.shape[2]
            weights = torch.bmm(q.transpose(0, 1).flatten(1, 2), image.first_keys).softmax(-1)
            values = torch.bmm(weights, image.first_values).view(attention.heads, prompts, tokens, -1)
            out: Tensor = attention.out(values.permute(1, 2, 0, 3).flatten(2) + attention.module.v_proj.bias)
            return out
        absorbed = torch.einsum("bhnd,hdc->bhnc", q, attention.wk).flatten(1, 2)
        scores = torch.matmul(q, self._position_keys[index]).flatten(1, 2)
        weights = scores.baddbmm_(absorbed, keys.transpose(1, 2)).softmax(-1)
        return attention.from_values(torch.bmm(weights, keys))

    def _look_at_tokens(
        self,
        index: int,
        attention: _Attention,
        tokens: Tensor,
        start: Tensor,
        keys: Tensor,
        image: ImageState,
    ) -> Tensor:
        """Image-to-token attention with its residual, (B, T, C); softmax over N."""
        k = attention.scaled_keys(tokens + start)
        values = attention.token_values(tokens)
        if index == 0:
            weights = torch.matmul(k, image.first_queries).softmax(2).flatten(1, 2)
            return torch.baddbmm(keys.expand(len(k), -1, -1), weights.transpose(1, 2), values)
        absorbed = torch.einsum("bhnd,hdc->bhnc", k, attention.wq).flatten(1, 2)
        scores = torch.matmul(k, self._position_queries[index]).flatten(1, 2)
        scores = scores.baddbmm_(absorbed, keys.transpose(1, 2))
        weights = torch.unflatten(scores, 1, (attention.heads, -1)).softmax(2).flatten(1, 2)
        return keys.baddbmm_(weights.transpose(1, 2), values)  # ours alone since the first layer

    @torch.no_grad()
    def masks(self, image: ImageState, attended: Attended, chosen: Tensor, valid: tuple[int, int]) -> Tensor:
        """Logits of chosen masks.

        Args:
            image: from `image`.
            attended: from `attend`.
            chosen: (B, M) bool, which masks are wanted; the image grows only for prompts with one.
            valid: (rows, columns) of the image's grid to grow; the rest is padding.

        Returns:
            (n, 4 · rows, 4 · columns) float32 logits of the chosen masks, prompt by prompt.
        """
        (height, width), (rows, columns) = image.grid, valid
        wanted = chosen.any(1).nonzero()[:, 0]
        keys = torch.unflatten(attended.keys, 1, (height, width))[:, :rows, :columns]
        biases = [_crop(bias, image.grid, valid) for bias in image.grow_bias]
        step = prompts_grown_at_a_time(keys.device)
        parts = [keys.new_empty(0, 4 * rows, 4 * columns)]
        for prompts in torch.split(wanted, step) if len(wanted) else ():
            grown = self._grown(keys[prompts].flatten(1, 2), biases)
            looked_for = attended.hyper[prompts]
            logits = torch.bmm(looked_for, grown.transpose(1, 2))  # (p, M, rows · columns · 2 · 2 · 2 · 2)
            logits = logits.view(*logits.shape[:2], rows, columns, 2, 2, 2, 2)
            logits = logits[chosen[prompts]].permute(0, 1, 3, 5, 2, 4, 6)
            parts.append(logits.reshape(-1, 4 * rows, 4 * columns).float())
        return torch.cat(parts)

    def _grown(self, keys: Tensor, biases: list[Tensor]) -> Tensor:
        """(p, t, C) -> (p, 16 t, C/8): two stride-2 transposed convolutions, sub-pixels along axis 1."""
        count = len(keys)
        for index, (bias, weight) in enumerate(zip(biases, self._grow, strict=True)):
            keys = torch.baddbmm(
                bias.expand(count, -1, -1) if len(bias) > 1 else bias, keys, weight.expand(count, -1, -1)
            )
            keys = torch.unflatten(keys, 2, (4, -1)).flatten(1, 2)
            if index == 0:
                norm = self._decoder.upscale_layer_norm
                keys = F.layer_norm(keys, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            keys = F.gelu(keys)
        return keys


def _crop(bias: Tensor, grid: tuple[int, int], valid: tuple[int, int]) -> Tensor:
    """A bias of every position (or of its 2 × 2) of the grid, cropped; one for all stays as it is."""
    if len(bias) == 1:
        return bias
    cropped = bias.view(*grid, -1, bias.shape[1])[: valid[0], : valid[1]]
    return cropped.reshape(-1, bias.shape[1])


def prompts_per_batch(device: torch.device) -> int:
    """Prompts that attend at a time: on a CPU few, so that their images (4 MiB each) stay in cache."""
    return 2 if device.type == "cpu" else 64


def prompts_grown_at_a_time(device: torch.device) -> int:
    """Prompts whose image grows at a time, at about 16 MiB each."""
    return 1 if device.type == "cpu" else 16
