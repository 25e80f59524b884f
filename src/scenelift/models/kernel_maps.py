"""Which voxel feeds which, through which weight: the index side of sparse convolution.

A convolution on sparse voxels is a list of *pairs* ``(input row, output row, kernel index)``; its result is
the sum, over the pairs of an output row, of ``input @ weight[kernel index]``. This file finds the pairs and
lays them out; `sparse` does the arithmetic.

Kernel indices are lexicographic in the offset ``(dx, dy, dz)``, dz fastest, and output ``p`` reads input
``p + offset``: a weight viewed as ``(k, k, k, in, out)`` is that of ``torch.nn.functional.conv3d`` over a
volume indexed ``[x, y, z]``.

Layout. The rows summed into are cut into *tiles* of about `RUN_ROWS` pairs per kernel offset. Within a tile
pairs are ordered by kernel index, so that each weight meets one contiguous *run* of gathered rows (a plain
matrix product), and ``bag_index`` lists, row by row of the tile, where its products lie (one segmented
sum). Every row is written once: no scatter, no atomics, the same sum in the same order each time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from scenelift.models.voxels import key_step, pack, unpack

RUN_ROWS = {"cpu": 1024, "cuda": 1 << 14}
"""Mean rows of a run. On a CPU the gathered rows and products of a tile should stay in cache, yet each
product be worth its call (tiny ones suffer most from busy neighbours); a GPU wants few, large launches."""

_NO_KEY = torch.iinfo(torch.int64).max


class Tile(NamedTuple):
    """``rows`` are fed by ``pairs``: first ``runs[0]`` pairs of kernel index ``kernels[0]``, and so on."""

    rows: slice
    pairs: slice
    kernels: tuple[int, ...]
    runs: list[int]


@dataclass(frozen=True, eq=False)
class TiledPairs:
    """The pairs of a map, laid out for summing into one of its two sides.

    Attributes:
        rows: number of rows summed into.
        target: (P,) int32, the row each pair is summed into.
        source: (P,) int32, the row on the other side that it reads.
        bag_index: (P,) int32, for each target row in turn its pairs, counted from the tile's first.
        bag_start: (rows,) int32, where each row begins in the tile's part of ``bag_index``.
        tiles: in order of rows.
    """

    rows: int
    target: Tensor
    source: Tensor
    bag_index: Tensor
    bag_start: Tensor
    tiles: tuple[Tile, ...]

    @property
    def widest_tile(self) -> int:
        """Pairs of the largest tile: how long the buffers must be."""
        return max((tile.pairs.stop - tile.pairs.start for tile in self.tiles), default=0)

    def mirrored(self, volume: int) -> TiledPairs:
        """The same pairs read backwards: offset ``d`` becomes ``-d``. Shares all tensors."""
        tiles = tuple(
            tile._replace(kernels=tuple(volume - 1 - kernel for kernel in tile.kernels))
            for tile in self.tiles
        )
        return replace(self, tiles=tiles)


@dataclass(frozen=True, eq=False)
class KernelMap:
    """The pairs of one convolution, laid out for its forward and for its backward pass.

    Attributes:
        volume: number of kernel offsets.
        into_output: targets are output rows, sources input rows.
        into_input: targets are input rows, sources output rows.
    """

    volume: int
    into_output: TiledPairs
    into_input: TiledPairs

    def transposed(self) -> KernelMap:
        """The map of the transposed convolution: inputs and outputs change places."""
        return KernelMap(self.volume, into_output=self.into_input, into_input=self.into_output)


class VoxelPyramid:
    """The voxels of a cloud at strides 1, 2, 4, ... and the kernel maps on and between them.

    Level ``l`` has stride ``2**l``; its voxel ``c`` covers voxels ``2c`` and ``2c + 1`` (per axis) of level
    ``l - 1``, rounded towards minus infinity. Rows of every level are in key order. Levels and maps are
    made when first asked for and kept: the layers of a network share them.

    Args:
        coords: (V, 4) int32 ``[batch, x, y, z]``, unique, in any order.

    Attributes:
        order: (V,) int64; row ``i`` of level 0 is row ``order[i]`` of ``coords``.

    Raises:
        ValueError: a voxel that occurs twice, or coords of another shape or dtype.
        DataError: coordinates out of range, see `voxels.pack`.
    """

    def __init__(self, coords: Tensor) -> None:
        keys, self.order = torch.sort(pack(coords))
        repeated = keys[1:] == keys[:-1]
        if bool(repeated.any()):
            first = unpack(keys[1:][repeated][:1])[0].tolist()
            raise ValueError(
                f"coords: expected unique voxels, found {int(repeated.sum())} repeated rows, the first "
                f"[batch, x, y, z] = {first}; merge points with voxelize() first"
            )
        self._keys = [keys]
        self._strided: list[KernelMap] = []
        self._maps: dict[tuple[int, int], KernelMap] = {}

    def size(self, level: int) -> int:
        """Number of voxels of a level."""
        return len(self._level(level))

    def coords(self, level: int) -> Tensor:
        """(V, 4) int32 voxels of a level, in key order, in units of its own stride."""
        return unpack(self._level(level))

    def inverse_order(self) -> Tensor:
        """(V,) int64; row ``i`` of the caller's coords is row ``inverse_order()[i]`` of level 0."""
        inverse = torch.empty_like(self.order)
        inverse[self.order] = torch.arange(len(inverse), device=inverse.device)
        return inverse

    def submanifold(self, level: int, kernel_size: int) -> KernelMap:
        """Map of a convolution with an odd kernel (3 or 5) from a level to itself."""
        if kernel_size not in (3, 5):
            raise ValueError(f"kernel_size: expected 3 or 5, found {kernel_size}")
        if (level, kernel_size) not in self._maps:
            self._maps[level, kernel_size] = _submanifold_map(self._level(level), kernel_size)
        return self._maps[level, kernel_size]

    def down(self, level: int) -> KernelMap:
        """Map of a convolution with kernel 2, stride 2 from a level to the next coarser one."""
        self._level(level + 1)
        return self._strided[level]

    def up(self, level: int) -> KernelMap:
        """Map of the transposed convolution, kernel 2, stride 2, from a level to the next finer one."""
        return self.down(level - 1).transposed()

    def _level(self, level: int) -> Tensor:
        while len(self._keys) <= level:
            keys, kernel_map = _coarsen(self._keys[-1])
            self._keys.append(keys)
            self._strided.append(kernel_map)
        return self._keys[level]


def _submanifold_map(keys: Tensor, kernel_size: int) -> KernelMap:
    """Pairs of voxels at most ``kernel_size // 2`` apart, from (V,) sorted keys.

    One binary search finds where the column of neighbours (dx, dy, -reach..reach) begins: its voxels follow
    each other in key order. The columns behind the centre are those ahead of it, read backwards.
    """
    reach, volume = kernel_size // 2, kernel_size**3
    own = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
    targets = [own] * volume
    sources = [own] * volume  # right for the centre; every other entry is replaced below
    padded = torch.cat([keys, keys.new_tensor([_NO_KEY])])
    ahead = [(dx, dy) for dx in range(reach + 1) for dy in range(-reach, reach + 1) if (dx, dy) >= (0, 0)]
    for dx, dy in ahead:
        first_dz = 1 if dx == dy == 0 else -reach
        position = torch.searchsorted(keys, keys + key_step(dx, dy, first_dz), out_int32=True)
        for dz in range(first_dz, reach + 1):
            found = padded.index_select(0, position) == keys + key_step(dx, dy, dz)
            here = found.nonzero().squeeze(1)
            there = position.index_select(0, here)
            kernel = ((dx + reach) * kernel_size + dy + reach) * kernel_size + dz + reach
            targets[kernel], sources[kernel] = here.int(), there
            targets[volume - 1 - kernel], sources[volume - 1 - kernel] = there, here.int()
            position += found
    into_output = tile_pairs(targets, sources, len(keys))
    return KernelMap(volume, into_output, into_output.mirrored(volume))


def _coarsen(keys: Tensor) -> tuple[Tensor, KernelMap]:
    """Keys of the next level, and the kernel-2, stride-2 map that leads there."""
    fine = unpack(keys)
    halved = torch.cat([fine[:, :1], fine[:, 1:] >> 1], dim=1)  # an arithmetic shift rounds down
    coarse_keys, parent = torch.unique(pack(halved), return_inverse=True)
    dx, dy, dz = (fine[:, 1:] & 1).unbind(1)
    kernel = 4 * dx + 2 * dy + dz
    children = [(kernel == k).nonzero().squeeze(1) for k in range(8)]
    fine_rows = [child.int() for child in children]
    coarse_rows = [parent.index_select(0, child).int() for child in children]
    return coarse_keys, KernelMap(
        volume=8,
        into_output=tile_pairs(coarse_rows, fine_rows, len(coarse_keys)),
        into_input=tile_pairs(fine_rows, coarse_rows, len(keys)),
    )


def tile_pairs(
    targets: list[Tensor], sources: list[Tensor], rows: int, run_rows: int | None = None
) -> TiledPairs:
    """Lay pairs out in tiles, see the head of this file.

    Args:
        targets: for each kernel index a (P_k,) int32 tensor of target rows, strictly increasing. Together
            they name every row at least once.
        sources: the source rows, in the same shape.
        rows: number of target rows.
        run_rows: mean rows of a run; by default what suits the device (`RUN_ROWS`).
    """
    device, volume = targets[0].device, len(targets)
    per_row = torch.zeros(rows, dtype=torch.int32, device=device)
    ranks = []
    for target in targets:
        rank = per_row.index_select(0, target)
        per_row[target.long()] = rank + 1
        ranks.append(rank)
    row_start = _starts(per_row)
    total = int(row_start[-1])

    # A tile ends at the first row past its share of pairs; no row has more than `volume` of them.
    share = volume * (run_rows or RUN_ROWS.get(device.type, RUN_ROWS["cuda"]))
    cuts = torch.searchsorted(row_start, torch.arange(0, total, share, device=device))
    bounds = torch.cat([cuts, cuts.new_tensor([rows])]) if total else cuts.new_zeros(1)
    bounds_i32 = bounds.int()
    counts = torch.stack([torch.searchsorted(t, bounds_i32).diff() for t in targets])  # (volume, tiles)

    # Pairs come ordered by (kernel, row); their places are ordered by (tile, kernel, row).
    tile_start = row_start[bounds]
    run_start = _starts(counts.t().flatten())[:-1].view(-1, volume)
    moved_by = run_start.t().flatten() - _starts(counts.flatten())[:-1]
    place = torch.arange(total, device=device) + moved_by.repeat_interleave(counts.flatten())
    target, source = torch.cat(targets), torch.cat(sources)
    in_tile = place - tile_start[:-1].repeat(volume).repeat_interleave(counts.flatten())
    slot = row_start.index_select(0, target) + torch.cat(ranks)
    return TiledPairs(
        rows=rows,
        target=_placed(target, place),
        source=_placed(source, place),
        bag_index=_placed(in_tile.int(), slot),
        bag_start=(row_start[:-1] - tile_start[:-1].repeat_interleave(bounds.diff())).int(),
        tiles=_tiles(bounds.tolist(), tile_start.tolist(), counts.t().tolist()),
    )


def _tiles(bounds: list[int], tile_start: list[int], counts: list[list[int]]) -> tuple[Tile, ...]:
    tiles = []
    for t, sizes in enumerate(counts):
        kernels = tuple(kernel for kernel, size in enumerate(sizes) if size)
        rows, pairs = slice(bounds[t], bounds[t + 1]), slice(tile_start[t], tile_start[t + 1])
        tiles.append(Tile(rows, pairs, kernels, runs=[sizes[kernel] for kernel in kernels]))
    return tuple(tiles)


def _starts(counts: Tensor) -> Tensor:
    """(n + 1,) int64: where each of n consecutive groups begins, and where the last one ends."""
    starts = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=starts[1:])
    return starts


def _placed(values: Tensor, place: Tensor) -> Tensor:
    placed = torch.empty_like(values)
    placed[place] = values
    return placed
