"""Dense CLIP and SigLIP from the raw tensors of a checkpoint, in float64: slow, and written from the papers.

Nothing of transformers and nothing of the library is called; each layer is spelled out, whole n × n
attention matrices included.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def dense(
    folder: Path,
    image: Tensor,
    grid: tuple[int, int],
    attention: str = "maskclip",
    sigma: float = 5.0,
    smooth: bool = False,
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> Tensor:
    """(dim, h, w) float64, unit length, of an (H, W, 3) uint8 image."""
    net = Network(folder)
    pixels = resize(image.double(), (grid[0] * net.patch, grid[1] * net.patch)).clamp(0, 255) / 255
    x = net.tokens((pixels - torch.tensor(mean).double()) / torch.tensor(std).double(), grid)
    for layer in range(net.layers - 1):
        x = net.block(layer, x)
    last = net.layers - 1
    y = net.norm(f"encoder.layers.{last}.layer_norm1", x)
    q, k, v = (net.linear(f"encoder.layers.{last}.self_attn.{name}_proj", y) for name in "qkv")
    out = f"encoder.layers.{last}.self_attn.out_proj"
    if attention == "maskclip":
        z = net.mlp(last, x + net.linear(out, v))
    elif attention == "sclip":
        weights = [net.similarity(a, a).softmax(-1) for a in (q, k)]
        z = net.mlp(last, x + net.linear(out, net.attend(weights[0] + weights[1], v)))
    else:
        scores = net.similarity(k, k) + gaussian(grid, sigma, net.prefix)
        z = net.linear(out, net.attend(scores.softmax(-1), v))
    features = unit(net.project(z)[net.prefix :])
    if smooth:
        keys = unit(k[net.prefix :])
        features = unit((keys @ keys.T) @ features)
    return features.reshape(*grid, -1).permute(2, 0, 1)


class Network:
    """The vision half of a checkpoint."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.clip = config["model_type"] == "clip"
        vision = config["vision_config"]
        self.heads, self.layers = vision["num_attention_heads"], vision["num_hidden_layers"]
        self.patch = vision["patch_size"]
        self.eps = 1e-5 if self.clip else 1e-6
        self.prefix = 1 if self.clip else 0
        tensors = load_file(folder / "model.safetensors")
        self.t = {name.removeprefix("vision_model."): tensor.double() for name, tensor in tensors.items()}

    def tokens(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        p, weight = self.patch, self.t["embeddings.patch_embedding.weight"]
        patches = pixels.reshape(grid[0], p, grid[1], p, 3).permute(0, 2, 4, 1, 3).reshape(-1, 3 * p * p)
        x = patches @ weight.reshape(len(weight), -1).T
        positions = self.t["embeddings.position_embedding.weight"]
        side = math.isqrt(len(positions) - self.prefix)
        table = positions[self.prefix :].reshape(side, side, -1)
        x_positions = sample_bicubic(sample_bicubic(table, grid[0], 0), grid[1], 1).reshape(len(x), -1)
        if not self.clip:
            return x + self.t["embeddings.patch_embedding.bias"] + x_positions
        class_token = self.t["embeddings.class_embedding"][None] + positions[:1]
        return self.norm("pre_layrnorm", torch.cat((class_token, x + x_positions)))

    def block(self, layer: int, x: Tensor) -> Tensor:
        name = f"encoder.layers.{layer}"
        y = self.norm(f"{name}.layer_norm1", x)
        q, k, v = (self.linear(f"{name}.self_attn.{part}_proj", y) for part in "qkv")
        attended = self.attend(self.similarity(q, k).softmax(-1), v)
        return self.mlp(layer, x + self.linear(f"{name}.self_attn.out_proj", attended))

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name = f"encoder.layers.{layer}"
        return x + self.two_layers(f"{name}.mlp", self.norm(f"{name}.layer_norm2", x))

    def two_layers(self, name: str, x: Tensor) -> Tensor:
        h = self.linear(f"{name}.fc1", x)
        if self.clip:
            h = h / (1 + torch.exp(-1.702 * h))
        else:
            h = h / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        return self.linear(f"{name}.fc2", h)

    def project(self, x: Tensor) -> Tensor:
        x = self.norm("post_layernorm", x)
        if self.clip:
            return x @ self.t["visual_projection.weight"].T
        width = x.shape[1]
        in_weight, in_bias = (self.t[f"head.attention.in_proj_{part}"] for part in ("weight", "bias"))
        pooled = self.linear("head.attention.out_proj", x @ in_weight[-width:].T + in_bias[-width:])
        return pooled + self.two_layers("head.mlp", self.norm("head.layernorm", pooled))

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.t[f"{name}.weight"].T + self.t[f"{name}.bias"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return scaled * self.t[f"{name}.weight"] + self.t[f"{name}.bias"]

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """(heads, n, n): scaled dot products."""
        a, b = (part.reshape(len(part), self.heads, -1).transpose(0, 1) for part in (a, b))
        return a @ b.transpose(1, 2) / math.sqrt(a.shape[-1])

    def attend(self, weights: Tensor, v: Tensor) -> Tensor:
        values = v.reshape(len(v), self.heads, -1).transpose(0, 1)
        return (weights @ values).transpose(0, 1).reshape(len(v), -1)


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def gaussian(grid: tuple[int, int], sigma: float, prefix: int) -> Tensor:
    """(n, n): NACLIP's ω, with zeros for the class token."""
    n = grid[0] * grid[1]
    omega = torch.zeros(prefix + n, prefix + n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            d2 = (i // grid[1] - j // grid[1]) ** 2 + (i % grid[1] - j % grid[1]) ** 2
            omega[prefix + i, prefix + j] = math.exp(-d2 / (2 * sigma**2))
    return omega


def cubic(x: float, a: float) -> float:
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def sample_bicubic(table: Tensor, size: int, axis: int) -> Tensor:
    """Cubic convolution (a = −0.75, as PyTorch has it) along one axis, edges repeated."""
    have = table.shape[axis]
    matrix = torch.zeros(size, have, dtype=torch.float64)
    for i in range(size):
        centre = (i + 0.5) * have / size - 0.5
        for j in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[i, min(max(j, 0), have - 1)] += cubic(centre - j, -0.75)
    return torch.tensordot(matrix, table, dims=([1], [axis])).movedim(0, axis)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Pillow's bicubic resize (a = −0.5, the filter widened when it shrinks), without its rounding."""
    for axis, want in enumerate(size):
        have = image.shape[axis]
        scale = have / want
        wide = max(scale, 1.0)
        matrix = torch.zeros(want, have, dtype=torch.float64)
        for i in range(want):
            for j in range(have):
                matrix[i, j] = cubic((j + 0.5 - (i + 0.5) * scale) / wide, -0.5)
        if want != have:
            matrix /= matrix.sum(1, keepdim=True)
            image = torch.tensordot(matrix, image, dims=([1], [axis])).movedim(0, axis)
    return image
