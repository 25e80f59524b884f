"""The 3D network: the MinkUNet family (Choy et al., CVPR 2019), a sparse residual U-Net.

``minkunet34`` is the Res16UNet34C that the paper calls MinkowskiNet34: a stem, four stride-2 stages down,
four up with skip connections, residual blocks on every level. It ends with features per voxel; what turns
these into class scores lives elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenelift.errors import ConfigError
from scenelift.models.kernel_maps import VoxelPyramid
from scenelift.models.sparse import SparseTensor, StridedConv, SubmanifoldConv, TransposedConv

BATCH_NORM_MOMENTUM = 0.05
"""Weight of the newest batch in running statistics; half of PyTorch's default, as the 34C recipe has it."""


@dataclass(frozen=True)
class MinkUNetSpec:
    """Shape of a MinkUNet.

    Attributes:
        stem: channels of the stem.
        planes: channels of the four encoder and then the four decoder stages.
        layers: residual blocks of the same eight stages.
    """

    stem: int
    planes: tuple[int, int, int, int, int, int, int, int]
    layers: tuple[int, int, int, int, int, int, int, int]


VARIANTS: dict[str, MinkUNetSpec] = {
    "minkunet34": MinkUNetSpec(32, (32, 64, 128, 256, 256, 128, 96, 96), (2, 3, 4, 6, 2, 2, 2, 2)),
    "minkunet18": MinkUNetSpec(32, (32, 64, 128, 256, 128, 128, 96, 96), (2, 2, 2, 2, 2, 2, 2, 2)),
    "minkunet14": MinkUNetSpec(32, (32, 64, 128, 256, 128, 128, 96, 96), (1, 1, 1, 1, 1, 1, 1, 1)),
    "narrow": MinkUNetSpec(32, (32, 32, 64, 96, 64, 48, 32, 32), (1, 1, 1, 1, 1, 1, 1, 1)),
}
"""34 is Res16UNet34C; 18 and 14 carry the planes of the public 18A and 14A; narrow is ours, for CPUs."""


class MinkUNet(nn.Module):
    """Features of voxels from features of voxels.

    Args:
        spec: planes and layers, see `VARIANTS`.
        in_channels: channels of the input features.
        stem_kernel: kernel size of the stem, 3 (the paper) or 5 (the public Res16UNet).

    Attributes:
        out_channels: channels of the result.
    """

    def __init__(self, spec: MinkUNetSpec, in_channels: int, stem_kernel: int = 3) -> None:
        super().__init__()
        self.out_channels: int = spec.planes[-1]
        self.stem = SubmanifoldConv(in_channels, spec.stem, stem_kernel)
        self.stem_norm = VoxelBatchNorm(spec.stem)
        width = spec.stem
        skips = [width]
        self.encoder = nn.ModuleList()
        for planes, layers in zip(spec.planes[:4], spec.layers[:4], strict=True):
            self.encoder.append(EncoderStage(width, planes, layers))
            width = planes
            skips.append(width)
        skips.pop()  # the coarsest level has no stage to skip to
        self.decoder = nn.ModuleList()
        for planes, layers in zip(spec.planes[4:], spec.layers[4:], strict=True):
            self.decoder.append(DecoderStage(width, skips.pop(), planes, layers))
            width = planes

    def forward(self, coords: Tensor, features: Tensor) -> Tensor:
        """Run the network on a batch of clouds.

        Args:
            coords: (V, 4) int32 ``[batch, x, y, z]`` voxels, unique, in any order; see `voxels.voxelize`.
            features: (V, in_channels) floating point, a row for each voxel.

        Returns:
            (V, out_channels), rows in the order of ``coords``.

        Raises:
            ValueError: a voxel that occurs twice, or arguments of another shape or dtype.
            DataError: coordinates out of range.
        """
        pyramid = VoxelPyramid(coords)
        x = SparseTensor(features.index_select(0, pyramid.order), pyramid)
        x = _norm_relu(self.stem_norm, self.stem(x))
        skips = [x]
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for stage in self.decoder:
            x = stage(x, skips.pop())
        return x.features.index_select(0, pyramid.inverse_order())


def build_point_network(name: str, in_channels: int, stem_kernel: int = 3) -> MinkUNet:
    """The variant of this name with fresh weights, drawn from torch's global generator.

    Raises:
        ConfigError: no such variant.
    """
    if name not in VARIANTS:
        raise ConfigError(f"3D network: expected one of {', '.join(VARIANTS)}, found {name!r}")
    return MinkUNet(VARIANTS[name], in_channels, stem_kernel)


class VoxelBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over voxels that bears clouds of none or one.

    A single row has no variance, and a small cloud may well shrink to one voxel at the coarsest level.
    Such a batch is normalised by the running statistics and leaves them as they are.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=BATCH_NORM_MOMENTUM)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (V, C) features."""
        if self.training and len(features) < 2:
            return F.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(features)


class ResidualBlock(nn.Module):
    """Two 3³ convolutions and a shortcut (He et al. 2016), which is projected when widths differ."""

    def __init__(self, in_channels: int, planes: int) -> None:
        super().__init__()
        self.conv1 = SubmanifoldConv(in_channels, planes)
        self.norm1 = VoxelBatchNorm(planes)
        self.conv2 = SubmanifoldConv(planes, planes)
        self.norm2 = VoxelBatchNorm(planes)
        self.project = None if in_channels == planes else Projection(in_channels, planes)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(V, in_channels) to (V, planes), on the same voxels."""
        y = self.conv2(_norm_relu(self.norm1, self.conv1(x)))
        shortcut = x.features if self.project is None else self.project(x.features)
        # In place: neither batch norm nor addition needs its result in the backward pass.
        return x.with_features(self.norm2(y.features).add_(shortcut).relu_())


class Projection(nn.Sequential):
    """The shortcut of a block that changes width: a linear map per voxel, normalised."""

    def __init__(self, in_channels: int, planes: int) -> None:
        linear = nn.Linear(in_channels, planes, bias=False)
        nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(linear, VoxelBatchNorm(planes))


class EncoderStage(nn.Module):
    """One level coarser, then residual blocks."""

    def __init__(self, in_channels: int, planes: int, layers: int) -> None:
        super().__init__()
        self.down = StridedConv(in_channels, in_channels)
        self.norm = VoxelBatchNorm(in_channels)
        self.blocks = _blocks(in_channels, planes, layers)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(V, in_channels) to (V_coarser, planes)."""
        y: SparseTensor = self.blocks(_norm_relu(self.norm, self.down(x)))
        return y


class DecoderStage(nn.Module):
    """One level finer, joined by the encoder's features of that level, then residual blocks."""

    def __init__(self, in_channels: int, skip_channels: int, planes: int, layers: int) -> None:
        super().__init__()
        self.up = TransposedConv(in_channels, planes)
        self.norm = VoxelBatchNorm(planes)
        self.blocks = _blocks(planes + skip_channels, planes, layers)

    def forward(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        """(V, in_channels) and (V_finer, skip_channels) to (V_finer, planes)."""
        x = _norm_relu(self.norm, self.up(x))
        y: SparseTensor = self.blocks(x.with_features(torch.cat([x.features, skip.features], dim=1)))
        return y


def _blocks(in_channels: int, planes: int, layers: int) -> nn.Sequential:
    widths = [in_channels] + [planes] * (layers - 1)
    return nn.Sequential(*(ResidualBlock(width, planes) for width in widths))


def _norm_relu(norm: VoxelBatchNorm, x: SparseTensor) -> SparseTensor:
    return x.with_features(F.relu(norm(x.features), inplace=True))
