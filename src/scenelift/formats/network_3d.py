"""The 3D network with its classes as a program of `torch.export`: it runs without this library.

The library's own sparse convolution cannot be exported: how its loops are cut depends on the voxels
(`kernel_maps.tile_pairs`). Here the same network is written in operations of fixed number: a table names for
each voxel and kernel offset the row to read, a missing one reads zeros, and a convolution is a gather and a
matrix product. That takes more memory and more time, and the same weights.
"""

from __future__ import annotations

import io
import json
import warnings
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scenelift.classes import ClassTable
from scenelift.files import atomic_write
from scenelift.models.points import DecoderStage, EncoderStage, MinkUNet, ResidualBlock
from scenelift.models.voxels import AXIS_BITS, key_step, scatter_mean

if TYPE_CHECKING:
    from scenelift.predict import NetworkPair

FILE = "network_3d.pt2"
_SLAB = 9
"""Kernel offsets that are gathered at once: a third of a 3³ kernel, which bounds memory."""
_BIAS = 1 << (AXIS_BITS - 1)
_MASK = (1 << AXIS_BITS) - 1
_SHIFTS = (2 * AXIS_BITS, AXIS_BITS, 0)
_SAMPLE_POINTS = 4096
_ROOM_M = 4.0
"""Edge of the random cloud it is traced with; no number of it is left in the program."""


class Level(NamedTuple):
    """The voxels of one stride, V of them.

    Attributes:
        neighbours: (V, 27) int64, row of the neighbour at each offset, V where there is none.
        parent: (V,) int64, row of the voxel of the next coarser level that holds it.
        child: (V,) int64, which of the eight parts of its parent it is.
    """

    neighbours: Tensor
    parent: Tensor
    child: Tensor


class PointClassifier(nn.Module):
    """Points to class probabilities, as `NetworkPair.point_probabilities` gives them.

    Args:
        pair: trained networks, shared with it.
    """

    text: Tensor
    steps: Tensor

    def __init__(self, pair: NetworkPair) -> None:
        super().__init__()
        self.network: MinkUNet = pair.networks.points
        self.head = pair.networks.points_head
        self.voxel_m, self.inputs = pair.config.voxel_m, pair.config.inputs
        self.register_buffer("text", pair.text)
        reach = range(-1, 2)
        steps = [key_step(dx, dy, dz) for dx in reach for dy in reach for dz in reach]
        self.register_buffer("steps", torch.tensor(steps))

    def forward(self, xyz: Tensor, rgb: Tensor) -> Tensor:
        """Label a cloud.

        Args:
            xyz: (N, 3) float32, metres, z up; N at least 1.
            rgb: (N, 3) float32 in [0, 1]; 0.5 for a cloud without colours.

        Returns:
            (N, C) float32.
        """
        middle = (xyz.amin(0) + xyz.amax(0)) / 2
        keys, voxel = torch.unique(_pack(torch.floor((xyz - middle) / self.voxel_m)), return_inverse=True)
        if self.inputs == "constant":
            features = xyz.new_ones(keys.shape[0], 1)
        else:
            features = scatter_mean(rgb * 2 - 1, voxel, keys.shape[0])
        levels = []
        for _ in range(len(self.network.encoder) + 1):
            level, keys = self._level(keys)
            levels.append(level)
        features = self._unet(features, levels)
        logits: Tensor = self.head(features, self.text)
        return logits.softmax(1)[voxel]

    def _level(self, keys: Tensor) -> tuple[Level, Tensor]:
        """The tables of a level from its (V,) sorted keys, and the keys of the next coarser one."""
        count = keys.shape[0]
        torch._check(count > 0)  # the exporter cannot know
        wanted = keys[:, None] + self.steps
        place = torch.searchsorted(keys, wanted).clamp(max=count - 1)
        neighbours = torch.where(keys[place] == wanted, place, count)
        coords = torch.stack([(keys >> shift & _MASK) - _BIAS for shift in _SHIFTS], 1)
        coarse, parent = torch.unique(_pack(coords >> 1), return_inverse=True)
        dx, dy, dz = (coords & 1).unbind(1)
        return Level(neighbours, parent, 4 * dx + 2 * dy + dz), coarse

    def _unet(self, x: Tensor, levels: list[Level]) -> Tensor:
        network = self.network
        x = F.relu(network.stem_norm(_conv(x, network.stem.weight, levels[0].neighbours)))
        skips = []
        for fine, coarse, stage in zip(levels, levels[1:], network.encoder, strict=False):
            skips.append(x)
            stage = cast(EncoderStage, stage)
            x = F.relu(stage.norm(_down(x, stage.down.weight, fine, coarse)))
            x = _blocks(x, stage.blocks, coarse)
        for fine, stage in zip(levels[-2::-1], network.decoder, strict=True):
            stage = cast(DecoderStage, stage)
            x = F.relu(stage.norm(_up(x, stage.up.weight, fine)))
            x = _blocks(torch.cat([x, skips.pop()], 1), stage.blocks, fine)
        return x


def _pack(coords: Tensor) -> Tensor:
    """(V, 3) voxels of one cloud to (V,) int64 keys in the order of `voxels.pack`."""
    x, y, z = (coords.long() + _BIAS).unbind(1)
    return (((x << AXIS_BITS) + y) << AXIS_BITS) + z


def _conv(x: Tensor, weight: Tensor, table: Tensor) -> Tensor:
    """(V_in, C_in) rows along a (V_out, K) table with a (K, C_in, C_out) weight."""
    padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
    parts = []
    for start in range(0, weight.shape[0], _SLAB):
        part = weight[start : start + _SLAB]
        rows = padded[table[:, start : start + _SLAB].flatten()].view(-1, part.shape[0] * part.shape[1])
        parts.append(rows @ part.flatten(0, 1))
    return torch.stack(parts).sum(0)


def _down(x: Tensor, weight: Tensor, fine: Level, coarse: Level) -> Tensor:
    own = torch.arange(x.shape[0], device=x.device)
    table = coarse.parent.new_full((coarse.parent.shape[0], 8), 0) + x.shape[0]
    return _conv(x, weight, table.index_put((fine.parent, fine.child), own))


def _up(x: Tensor, weight: Tensor, fine: Level) -> Tensor:
    """Every coarse voxel's products with all eight weights, of which each fine voxel takes its own."""
    products = x @ weight.permute(1, 0, 2).flatten(1)
    return products.view(-1, weight.shape[2])[fine.parent * 8 + fine.child]


def _blocks(x: Tensor, blocks: nn.Sequential, level: Level) -> Tensor:
    for block in blocks:
        block = cast(ResidualBlock, block)
        y = F.relu(block.norm1(_conv(x, block.conv1.weight, level.neighbours)))
        y = block.norm2(_conv(y, block.conv2.weight, level.neighbours))
        x = F.relu(y + (x if block.project is None else block.project(x)))
    return x


def write_program(pair: NetworkPair, classes: ClassTable, out: Path) -> Path:
    """Write ``network_3d.pt2``, for `torch.export.load`: see `PointClassifier.forward` for what it takes.

    The names of the classes are its extra file ``classes.json``.

    Returns:
        The file.

    Raises:
        RunError: the 3D network was never trained.
        OutputError: it cannot be written.
    """
    pair.expect_points()
    model = deepcopy(PointClassifier(pair)).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    xyz, rgb = (torch.rand(_SAMPLE_POINTS, 3, generator=generator) for _ in range(2))
    points = torch.export.Dim("points", min=1)
    file = out / FILE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts; errors still come through
        program = torch.export.export(
            model, (xyz * _ROOM_M, rgb), dynamic_shapes=({0: points}, {0: points}), strict=False
        )
        names = json.dumps(classes.names, ensure_ascii=False)
        buffer = io.BytesIO()  # PyTorch's own writer tells of a full disk in another way than the system
        torch.export.save(program, buffer, extra_files={"classes.json": names})
    atomic_write(file, buffer.getvalue())
    return file
