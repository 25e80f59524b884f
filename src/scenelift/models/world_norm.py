"""Batch normalisation over the batches of all processes.

Ours, because torch's ``SyncBatchNorm`` refuses CPUs, where the equality of two processes with one can be
tested to 1e-9, and because a process may have no row of a step at all: a scene without frames, a cloud
without points. Statistics are merged from each process's count, mean and sum of squared deviations (Chan
et al. 1979), which loses no digits the way a difference of sums of squares does.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from scenelift.errors import ConfigError
from scenelift.models.points import VoxelBatchNorm
from scenelift.world import World


class WorldBatchNorm(_BatchNorm):
    """A batch normalisation, made to count the rows of all processes.

    Args:
        norm: whose parameters and running statistics it takes over, the same tensors.
        world: the processes.
    """

    def __init__(self, norm: _BatchNorm, world: World) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(norm, name))
        self.training = norm.training
        self._world = world
        self._bears_few = isinstance(norm, VoxelBatchNorm)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, ...) features; N may be 0.

        Raises:
            ConfigError: all processes together have one value a channel, which has no variance; voxels are
                then normalised by the running statistics instead, as by `VoxelBatchNorm`.
        """
        if not self.training:
            return self._by_running(x)
        count, mean, squares = _statistics(x, self._world)
        # whoever has two itself need not wait for the number, which on CUDA is still being computed
        if x.numel() // x.shape[1] < 2 and float(count) < 2:
            if self._bears_few:
                return self._by_running(x)
            raise ConfigError(
                "train: the 2D network expects at least 2 images in a step, found "
                f"{float(count):g} in all processes; raise train.scenes_per_step or train.frames_per_scene"
            )
        with torch.no_grad():
            running_mean, running_var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
            momentum = cast(float, self.momentum)
            cast(Tensor, self.num_batches_tracked).add_(1)
            running_mean.mul_(1 - momentum).add_(mean.to(running_mean.dtype), alpha=momentum)
            unbiased = squares / (count - 1)
            running_var.mul_(1 - momentum).add_(unbiased.to(running_var.dtype), alpha=momentum)
        inverse = (squares / count + self.eps).rsqrt()
        normal: Tensor = _Normalise.apply(x, self.weight, self.bias, mean, inverse, count, self._world)
        return normal

    def _by_running(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def synchronise(network: nn.Module, world: World) -> None:
    """Replace every batch normalisation in a network by a `WorldBatchNorm`; names and tensors stay."""
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm) and not isinstance(child, WorldBatchNorm):
            setattr(network, name, WorldBatchNorm(child, world))
        else:
            synchronise(child, world)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.to(_wide(x.dtype)).view(1, -1, *[1] * (x.ndim - 2))


@torch.no_grad()
def _statistics(x: Tensor, world: World) -> tuple[Tensor, Tensor, Tensor]:
    """Values a channel, their mean (C,) and their sum of squared deviations (C,), both float64, of all."""
    channels = x.shape[1]
    dims = [0, *range(2, x.ndim)]
    wide = x.to(_wide(x.dtype))
    count = x.numel() // channels
    mean = wide.sum(dims) / max(1, count)
    squares = (wide - _per_channel(mean, x)).square().sum(dims)
    own = torch.cat([mean.new_tensor([count], dtype=torch.float64), mean.double(), squares.double()])
    told = world.all(own)
    counts, means, deviations = torch.split(told, [1, channels, channels], dim=1)
    total = counts.sum()
    merged = (counts * means).sum(0) / total.clamp(min=1)
    return total, merged, (deviations + counts * (means - merged).square()).sum(0)


class _Normalise(torch.autograd.Function):
    """(x − mean) · inverse · weight + bias, where mean and inverse depend on the rows of all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse: Tensor,
        count: Tensor,
        world: World,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, inverse, count)
        ctx.world = world
        centred = x.to(_wide(x.dtype)) - _per_channel(mean, x)
        scaled = centred * (_per_channel(inverse, x) * _per_channel(weight, x))
        return (scaled + _per_channel(bias, x)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        dims = [0, *range(2, x.ndim)]
        wide = grad.to(_wide(grad.dtype))
        normal = (x.to(_wide(x.dtype)) - _per_channel(mean, x)) * _per_channel(inverse, x)
        grad_bias, grad_weight = wide.sum(dims), (wide * normal).sum(dims)
        # the loss is the sum of all processes' losses, each of which sees these statistics
        both = ctx.world.sum(torch.cat([grad_bias, grad_weight]).double()) / count
        on_mean, on_scale = (_per_channel(part, x) for part in both.chunk(2))
        grad_x = _per_channel(inverse, x) * _per_channel(weight, x) * (wide - on_mean - normal * on_scale)
        own = (grad_weight.to(weight.dtype), grad_bias.to(weight.dtype))
        return grad_x.to(x.dtype), *own, None, None, None, None
