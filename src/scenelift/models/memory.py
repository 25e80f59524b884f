"""Activation checkpointing: residual blocks of both networks forget what is inside, and compute it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torchvision.models.mobilenetv3 import InvertedResidual
from torchvision.models.resnet import Bottleneck

from scenelift.models.image import ImageResidual
from scenelift.models.points import ResidualBlock

_BLOCKS = (ImageResidual, Bottleneck, InvertedResidual, ResidualBlock)
"""What is computed again as one: of all our networks these hold most activations."""


def forget_activations(network: nn.Module) -> None:
    """Let every residual block keep its input alone for the backward pass (Chen et al. 2016).

    Gradients and running statistics stay what they were; a step takes about a forward pass longer.
    """
    for module in network.modules():
        if isinstance(module, _BLOCKS):
            module.forward = _forgetful(module)  # type: ignore[method-assign]


def _forgetful(block: nn.Module) -> Any:
    plain = block.forward

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(block)

    def forward(*args: Any) -> Any:
        if not (block.training and torch.is_grad_enabled()):
            return plain(*args)
        return checkpoint(plain, *args, use_reentrant=False, context_fn=contexts)

    return forward


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """The second forward pass sees the same batch: running statistics must not count it twice."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = (
            None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
        )
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked
