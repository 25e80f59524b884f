"""Sparse convolution in plain PyTorch.

Per tile of target rows: gather the rows its pairs read, multiply each run by its weight, sum the products
of each row (``embedding_bag`` in sum mode is that segmented sum, vectorised and threaded, for every dtype
and device). Buffers are bounded by the tile, and only features, weight and the shared map are kept for the
backward pass. The float arithmetic is done in one fixed order, so results repeat exactly.

On a CPU about three quarters of a training pass are the matrix products themselves
(``benchmarks/sparse_conv.py``). The usual ``index_add_`` per kernel offset costs 30 to 40 ns for each pair,
the segmented sum over a tile 2 to 5 (32 to 128 channels, two cores).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from scenelift.models.kernel_maps import KernelMap, Tile, TiledPairs, VoxelPyramid

_SUM = 0  # torch.embedding_bag takes its mode as a number


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """Features of the voxels of one level of a pyramid.

    Attributes:
        features: (V, C) floating point, rows in key order (those of ``pyramid.coords(level)``).
        pyramid: voxels and the kernel maps made so far; shared by all tensors derived from a cloud.
        level: the stride of these voxels is ``2**level``.
    """

    features: Tensor
    pyramid: VoxelPyramid
    level: int = 0

    def __post_init__(self) -> None:
        voxels = self.pyramid.size(self.level)
        if self.features.ndim != 2 or len(self.features) != voxels:
            raise ValueError(
                f"features: expected shape ({voxels}, C), one row per voxel of level {self.level}, "
                f"found {tuple(self.features.shape)}"
            )

    @property
    def coords(self) -> Tensor:
        """(V, 4) int32 ``[batch, x, y, z]`` in units of this level's stride."""
        return self.pyramid.coords(self.level)

    def with_features(self, features: Tensor) -> SparseTensor:
        """Other features on the same voxels."""
        return replace(self, features=features)


def sparse_conv(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Convolve the rows of a voxel level along a kernel map.

    Args:
        features: (V_in, C_in) float32, float64, float16 or bfloat16.
        weight: (volume, C_in, C_out); cast with the features under autocast, else of their dtype.
        kernel_map: see `KernelMap`.

    Returns:
        (V_out, C_out) in the dtype of the features, or of autocast. Differentiable once.
    """
    device = features.device.type
    if torch.is_autocast_enabled(device) and features.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
    result: Tensor = _SparseConv.apply(features, weight, kernel_map)
    return result


class _SparseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        pairs = kernel_map.into_output
        matrices = weight.unbind()
        result = features.new_empty(pairs.rows, weight.shape[2])
        gathered = features.new_empty(pairs.widest_tile, weight.shape[1])
        products = features.new_empty(pairs.widest_tile, weight.shape[2])
        for tile in pairs.tiles:
            rows = _gather(features, pairs.source, tile, gathered)
            result[tile.rows] = _multiply_and_sum(rows, matrices, pairs, tile, products)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_result: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        pairs: TiledPairs = ctx.kernel_map.into_input
        grad_features = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        # Many small products are summed here: never in half precision.
        wide = torch.promote_types(weight.dtype, torch.float32)
        grad_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        matrices = weight.transpose(1, 2).unbind()
        gathered_grads = grad_result.new_empty(pairs.widest_tile, weight.shape[2])
        gathered = grad_result.new_empty(pairs.widest_tile, weight.shape[1])
        for tile in pairs.tiles:
            grads = _gather(grad_result, pairs.source, tile, gathered_grads)
            if grad_features is not None:
                grad_features[tile.rows] = _multiply_and_sum(grads, matrices, pairs, tile, gathered)
            if grad_weight is not None:
                inputs = _gather(features, pairs.target, tile, gathered)
                runs = zip(
                    tile.kernels, torch.split(inputs, tile.runs), torch.split(grads, tile.runs), strict=True
                )
                for kernel, x, grad in runs:
                    grad_weight[kernel] += x.t() @ grad
        return grad_features, None if grad_weight is None else grad_weight.to(weight.dtype), None


def _gather(rows: Tensor, index: Tensor, tile: Tile, buffer: Tensor) -> Tensor:
    """The rows that the pairs of a tile name, written to the head of ``buffer``."""
    index = index[tile.pairs]
    return torch.index_select(rows, 0, index, out=buffer[: len(index)])


def _multiply_and_sum(
    gathered: Tensor, matrices: tuple[Tensor, ...], pairs: TiledPairs, tile: Tile, buffer: Tensor
) -> Tensor:
    """For each row of a tile the sum over its pairs of ``gathered row @ matrices[kernel]``.

    ``buffer`` takes the products; what it held is lost.
    """
    products = buffer[: len(gathered)]
    runs = zip(tile.kernels, torch.split(gathered, tile.runs), torch.split(products, tile.runs), strict=True)
    for kernel, rows, product in runs:
        torch.mm(rows, matrices[kernel], out=product)
    summed: Tensor = torch.embedding_bag(
        products, pairs.bag_index[tile.pairs], pairs.bag_start[tile.rows], mode=_SUM
    )[0]
    return summed


class _Conv(nn.Module):
    """Weight of a bias-free sparse convolution; subclasses say along which map."""

    def __init__(self, in_channels: int, out_channels: int, volume: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(volume, in_channels, out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming normal for ReLU, fan-out = kernel volume x output channels (He et al. 2015)."""
        volume, _, out_channels = self.weight.shape
        nn.init.normal_(self.weight, std=(2 / (volume * out_channels)) ** 0.5)

    def extra_repr(self) -> str:
        volume, in_channels, out_channels = self.weight.shape
        return f"{in_channels}, {out_channels}, volume={volume}"


class SubmanifoldConv(_Conv):
    """Odd kernel, stride 1: output voxels are the input voxels (Graham et al., CVPR 2018).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel_size: 3 or 5.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel_size**3)
        self.kernel_size = kernel_size

    def forward(self, x: SparseTensor) -> SparseTensor:
        """The convolved features, on the same voxels."""
        kernel_map = x.pyramid.submanifold(x.level, self.kernel_size)
        return x.with_features(sparse_conv(x.features, self.weight, kernel_map))


class StridedConv(_Conv):
    """Kernel 2, stride 2: from a level to the next coarser one."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 8)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """The convolved features, one level up the pyramid."""
        features = sparse_conv(x.features, self.weight, x.pyramid.down(x.level))
        return SparseTensor(features, x.pyramid, x.level + 1)


class TransposedConv(_Conv):
    """Transposed convolution, kernel 2, stride 2: from a level back to the next finer one."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 8)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """The convolved features, one level down the pyramid."""
        if x.level == 0:
            raise ValueError("a transposed convolution needs voxels of level 1 or coarser, found level 0")
        features = sparse_conv(x.features, self.weight, x.pyramid.up(x.level))
        return SparseTensor(features, x.pyramid, x.level - 1)
