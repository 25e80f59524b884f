"""Logits of many voxels by their dot with text: the head against embeddings made one by one.

    OMP_NUM_THREADS=1 python benchmarks/text_head.py

Forward and backward together, best of five, in milliseconds; ``memory`` is the ratio of what autograd keeps
for the backward pass. The reference makes an embedding of each voxel, normalises it and multiplies it with
the words.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from scenelift.config import HeadConfig
from scenelift.models.heads import TextHead

CASES = {
    "noise bench, voxels": (30_000, 64, 256),
    "MinkUNet, CLIP ViT-B/16": (100_000, 96, 512),
    "DeepLabV3, CLIP ViT-B/16": (38_400, 256, 512),
}
WORDS = 20


def cost(logits: Callable[[Tensor, Tensor], Tensor], features: Tensor, text: Tensor) -> tuple[float, int]:
    """Milliseconds and bytes kept."""
    best = float("inf")
    for _ in range(5):
        kept: dict[int, int] = {}

        def note(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        start = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = logits(features, text).square().sum()
        torch.autograd.backward(loss)
        best = min(best, 1e3 * (time.perf_counter() - start))
    return best, sum(kept.values())


def main() -> None:
    torch.manual_seed(0)
    print(f"{'':26} {'voxels':>7} {'embedded ms':>11} {'head ms':>8} {'ratio':>6} {'memory':>6}")
    for name, (count, channels, text_dim) in CASES.items():
        head = TextHead(channels, text_dim, HeadConfig(normalize=True, logit_scale=20.0))
        features = torch.randn(count, channels, requires_grad=True)
        text = F.normalize(torch.randn(WORDS, text_dim), dim=1)

        def embedded(features: Tensor, text: Tensor, head: TextHead = head) -> Tensor:
            return head.logit_scale * head.embed(features) @ text.T

        slow, fat = cost(embedded, features, text)
        fast, lean = cost(head, features, text)
        print(f"{name:26} {count:7} {slow:11.1f} {fast:8.1f} {slow / fast:6.1f} {fat / lean:6.1f}")


if __name__ == "__main__":
    main()
