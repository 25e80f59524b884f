"""SAM's mask decoder for thousands of point prompts on one image: the same function, rearranged.

The decoder (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643, appendix A; SAM 2:
https://arxiv.org/abs/2408.00714, appendix C) lets N tokens and T image positions attend to each other,
twice, then grows the image by four and takes a dot product with each mask's token. N is 7 or 8 and T is 4096,
yet the usual code projects all T positions, of every prompt, to keys, queries and values. Here:

- What no prompt changes is computed once an image: the first layer's keys, values and queries. All prompts
  read one copy.
- Projections of the image move to the tokens: q·(W x) = (Wᵀq)·x, and Σ p (W x) = W Σ p x. A head's d × C
  matrix then meets N tokens instead of T positions. Likewise for the output projection, whose bias rides on
  the softmax weights, which sum to one. A key's bias, which the softmax over T cancels, is left out.
- The predicted IoU needs tokens only, so `attend` gives it before `masks` grows anything; and only positions
  inside the image grow, not the padding.
- Channels stay last: a stride-2 transposed convolution is then a plain product, and its norm a layer norm.

Per prompt of SAM this leaves 1.4 of the usual 3.5 GFLOP. `tests/teachers/test_sam_decoder.py`
compares with transformers' own forward pass, and `benchmarks/mask_generation.py` measures.
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
        grow_bias: what the two growing steps add to 4 and to 16 pixels of each position, (h, w, 1, C) and
            (h, w, 4, C/2): biases, for SAM 2 with its high-resolution features; h = w = 1 if all are alike.
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

    def gathered(self, sums: Tensor) -> Tensor:
        """(B, heads · N, C) weighted sums of image positions -> (B, N, C) output."""
        per_head = torch.unflatten(sums, 1, (self.heads, -1))
        values = torch.einsum("bhnc,hdc->bnhd", per_head, self.wv).flatten(2)
        out: Tensor = self.out(values + self.module.v_proj.bias)
        return out

    def token_values(self, v: Tensor) -> Tensor:
        """(B, heads, N, C): values of tokens behind the output projection, its bias spread over the heads."""
        values = torch.einsum("bhnd,chd->bhnc", self.split(self.module.v_proj(v)), self.wo)
        return values + self.out.bias / self.heads


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
        self._positions = positions.flatten(1).t().contiguous()
        self._layers = [_Layer(block) for block in decoder.transformer.layers]
        self._final = _Attention(decoder.transformer.final_attn_token_to_image)
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
        keys = (embedding.flatten(1).t() + self._no_mask).contiguous()
        placed = keys + self._positions
        first = self._layers[0]
        queries = torch.einsum("tc,hdc->hdt", placed, first.to_tokens.wq)
        bias = first.to_tokens.module.q_proj.bias.view(first.to_tokens.heads, -1, 1)
        return ImageState(
            keys,
            torch.einsum("tc,hdc->hdt", placed, first.to_image.wk).contiguous(),
            torch.einsum("tc,hdc->htd", keys, first.to_image.wv).contiguous(),
            (queries + bias).contiguous(),
            (embedding.shape[1], embedding.shape[2]),
            self._grow_bias(fine),
        )

    def _grow_bias(self, fine: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        decoder = self._decoder
        first, second = (
            conv.bias.repeat(4).view(1, 1, 1, -1) for conv in (decoder.upscale_conv1, decoder.upscale_conv2)
        )
        if fine is None:
            return first, second
        four, two = (features.contiguous() for features in fine)
        height, width = two.shape[1] // 2, two.shape[2] // 2
        # in the order in which growing makes pixels: position, its 2 × 2, and of each the 2 × 2 again
        split_two = two.view(-1, height, 2, width, 2).permute(1, 3, 2, 4, 0)
        split_four = four.view(-1, height, 2, 2, width, 2, 2).permute(1, 4, 2, 5, 3, 6, 0)
        return (
            first + split_two.reshape(height, width, 1, -1),
            second + split_four.reshape(height, width, 4, -1),
        )

    @torch.no_grad()
    def attend(self, image: ImageState, prompts: Tensor) -> Attended:
        """Let prompts and image attend to each other.

        Args:
            image: from `image`.
            prompts: (B, n, C) embedded point prompts, the padding point included.
        """
        start = torch.cat((self._specials.expand(len(prompts), -1, -1), prompts), dim=1)
        tokens, keys, placed = start, image.keys, image.keys
        for index, layer in enumerate(self._layers):
            block = layer.block
            if index == 0:
                tokens = layer.among.among_tokens(tokens, tokens)
            else:
                tokens = tokens + layer.among.among_tokens(tokens + start, tokens)
                placed = keys + self._positions
            tokens = block.layer_norm1(tokens)
            if index == 0:
                tokens = tokens + self._look_at_shared_image(layer.to_image, tokens + start, image)
            else:
                tokens = tokens + self._look_at_image(layer.to_image, tokens + start, keys, placed)
            tokens = block.layer_norm2(tokens)
            tokens = block.layer_norm3(tokens + block.mlp(tokens))
            if index == 0:
                keys = self._shared_image_looks(layer.to_tokens, tokens + start, tokens, image)
            else:
                keys = self._image_looks(layer.to_tokens, tokens + start, tokens, keys, placed)
            keys = block.layer_norm4(keys)
        looked = self._look_at_image(self._final, tokens + start, keys, keys + self._positions)
        tokens = self._decoder.transformer.layer_norm_final_attn(tokens + looked)
        first_mask = self._iou_index + 2  # past the token that answers with one mask alone
        nets = list(self._decoder.output_hypernetworks_mlps)[1:]
        hyper = torch.stack([net(tokens[:, first_mask + i]) for i, net in enumerate(nets)], dim=1)
        return Attended(self._decoder.iou_prediction_head(tokens[:, self._iou_index])[:, 1:], hyper, keys)

    @staticmethod
    def _look_at_shared_image(attention: _Attention, queries: Tensor, image: ImageState) -> Tensor:
        """The first token-to-image attention, (B, N, C): one image, so a plain product of all tokens."""
        q = attention.queries(queries)
        prompts, tokens = q.shape[0], q.shape[2]
        weights = torch.bmm(q.transpose(0, 1).flatten(1, 2), image.first_keys).softmax(-1)
        values = torch.bmm(weights, image.first_values).view(attention.heads, prompts, tokens, -1)
        out: Tensor = attention.out(values.permute(1, 2, 0, 3).flatten(2) + attention.module.v_proj.bias)
        return out

    @staticmethod
    def _look_at_image(attention: _Attention, queries: Tensor, keys: Tensor, placed: Tensor) -> Tensor:
        """Token-to-image attention, (B, N, C); ``placed`` are the keys with their positions."""
        absorbed = torch.einsum("bhnd,hdc->bhnc", attention.queries(queries), attention.wk).flatten(1, 2)
        weights = torch.bmm(placed, absorbed.transpose(1, 2)).softmax(1)  # (B, T, heads · N)
        return attention.gathered(torch.bmm(weights.transpose(1, 2), keys))

    @staticmethod
    def _shared_image_looks(
        attention: _Attention, placed_tokens: Tensor, tokens: Tensor, image: ImageState
    ) -> Tensor:
        """The first image-to-token attention with its residual, (B, T, C)."""
        k = attention.scaled_keys(placed_tokens)
        weights = torch.matmul(k, image.first_queries).softmax(2).flatten(1, 2)  # (B, heads · N, T)
        values = attention.token_values(tokens).flatten(1, 2)
        return torch.baddbmm(image.keys.expand(len(k), -1, -1), weights.transpose(1, 2), values)

    @staticmethod
    def _image_looks(
        attention: _Attention, placed_tokens: Tensor, tokens: Tensor, keys: Tensor, placed: Tensor
    ) -> Tensor:
        """Image-to-token attention with its residual, (B, T, C), written over ``keys``."""
        k = attention.scaled_keys(placed_tokens)
        # tokens before heads: the softmax over tokens then runs along memory, all heads at a time
        absorbed = torch.einsum("bhnd,hdc->bnhc", k, attention.wq).flatten(1, 2)
        bias = attention.module.q_proj.bias.view(attention.heads, -1)
        shift = torch.einsum("bhnd,hd->bnh", k, bias).flatten(1).unsqueeze(1)
        scores = torch.baddbmm(shift, placed, absorbed.transpose(1, 2))
        weights = torch.unflatten(scores, 2, (-1, attention.heads)).softmax(2).flatten(2)
        return keys.baddbmm_(weights, attention.token_values(tokens).transpose(1, 2).flatten(1, 2))

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
        rows, columns = valid
        keys = torch.unflatten(attended.keys, 1, image.grid)[:, :rows, :columns]
        biases = [bias if len(bias) == 1 else bias[:rows, :columns] for bias in image.grow_bias]
        wanted = chosen.any(1).nonzero()[:, 0]
        parts = [keys.new_empty(0, 4 * rows, 4 * columns)]
        for prompts in torch.split(wanted, prompts_grown_at_a_time(keys.device)) if len(wanted) else ():
            logits = self._looked_for(attended.hyper[prompts], self._grown(keys[prompts], biases), valid)
            parts.append(
                logits[chosen[prompts]].permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * rows, 4 * columns)
            )
        return torch.cat(parts).float()

    @staticmethod
    def _looked_for(hyper: Tensor, grown: Tensor, valid: tuple[int, int]) -> Tensor:
        """(p, M, rows, columns, 2, 2, 2, 2) logits: sub-pixels of the two steps, rows before columns."""
        return torch.bmm(hyper, grown.transpose(1, 2)).view(*hyper.shape[:2], *valid, 2, 2, 2, 2)

    def _grown(self, keys: Tensor, biases: list[Tensor]) -> Tensor:
        """(p, r, c, C) -> (p, 16 · r · c, C/8): two stride-2 transposed convolutions."""
        grown = keys.flatten(1, 2)
        for index, (bias, weight) in enumerate(zip(biases, self._grow, strict=True)):
            grown = torch.baddbmm(
                bias.reshape(1, -1, bias.shape[-1]).expand(len(keys), -1, -1),
                grown,
                weight.expand(len(keys), -1, -1),
            )
            grown = torch.unflatten(grown, 2, (4, -1)).flatten(1, 2)
            if index == 0:
                norm = self._decoder.upscale_layer_norm
                grown = F.layer_norm(grown, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            grown = F.gelu(grown)
        return grown


def prompts_per_batch(device: torch.device) -> int:
    """Prompts that attend at a time: on a CPU few, so that their images (4 MiB each) stay in cache."""
    return 2 if device.type == "cpu" else 64


def prompts_grown_at_a_time(device: torch.device) -> int:
    """Prompts whose image grows at a time, at about 16 MiB each."""
    return 1 if device.type == "cpu" else 16
