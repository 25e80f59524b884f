import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenelift.errors import DataError
from scenelift.models.kernel_maps import KernelMap, TiledPairs, VoxelPyramid, tile_pairs
from scenelift.models.voxels import AXIS_LIMIT

voxel = st.tuples(st.integers(0, 2), *[st.integers(-5, 5)] * 3)
voxel_sets = st.lists(voxel, unique=True, max_size=60)


def as_coords(voxels) -> torch.Tensor:
    return torch.tensor(list(voxels), dtype=torch.int32).view(-1, 4)


def pairs_of(pairs: TiledPairs) -> set[tuple[int, int, int]]:
    """(target, source, kernel) of every pair, after checking that the layout is consistent."""
    found = set()
    bag = pairs.bag_index.tolist()
    starts = pairs.bag_start.tolist()
    next_row = next_pair = 0
    for tile in pairs.tiles:
        assert (tile.rows.start, tile.pairs.start) == (next_row, next_pair)
        next_row, next_pair = tile.rows.stop, tile.pairs.stop
        length = next_pair - tile.pairs.start
        assert sum(tile.runs) == length <= pairs.widest_tile
        kernels = [k for k, size in zip(tile.kernels, tile.runs, strict=True) for _ in range(size)]
        target, source = pairs.target[tile.pairs].tolist(), pairs.source[tile.pairs].tolist()
        found |= set(zip(target, source, kernels, strict=True))
        ends = [*starts[tile.rows][1:], length]
        for row, start, end in zip(range(tile.rows.start, next_row), starts[tile.rows], ends, strict=True):
            fed_by = bag[tile.pairs][start:end]
            assert [target[i] for i in fed_by] == [row] * len(fed_by)
        assert sorted(bag[tile.pairs]) == list(range(length))
    assert next_row == pairs.rows
    assert next_pair == len(pairs.source) == len(found)
    return found


def turned(pairs: set[tuple[int, int, int]]) -> set[tuple[int, int, int]]:
    return {(source, target, kernel) for target, source, kernel in pairs}


def submanifold_by_dictionary(coords: list[list[int]], kernel_size: int) -> set[tuple[int, int, int]]:
    row_of = {tuple(c): row for row, c in enumerate(coords)}
    reach = kernel_size // 2
    offsets = list(itertools.product(range(-reach, reach + 1), repeat=3))
    return {
        (row, row_of[b, x + dx, y + dy, z + dz], kernel)
        for row, (b, x, y, z) in enumerate(coords)
        for kernel, (dx, dy, dz) in enumerate(offsets)
        if (b, x + dx, y + dy, z + dz) in row_of
    }


def strided_by_dictionary(fine: list[list[int]], coarse: list[list[int]]) -> set[tuple[int, int, int]]:
    row_of = {tuple(c): row for row, c in enumerate(coarse)}
    return {
        (row_of[b, x // 2, y // 2, z // 2], row, 4 * (x % 2) + 2 * (y % 2) + z % 2)
        for row, (b, x, y, z) in enumerate(fine)
    }


@settings(deadline=None, max_examples=50)
@given(voxel_sets, st.sampled_from([3, 5]))
def test_submanifold_map_equals_a_dictionary(voxels, kernel_size):
    pyramid = VoxelPyramid(as_coords(voxels))
    expected = submanifold_by_dictionary(pyramid.coords(0).tolist(), kernel_size)
    kernel_map = pyramid.submanifold(0, kernel_size)
    assert pairs_of(kernel_map.into_output) == expected
    assert pairs_of(kernel_map.into_input) == turned(expected)


@settings(deadline=None, max_examples=50)
@given(voxel_sets)
def test_strided_maps_equal_a_dictionary(voxels):
    pyramid = VoxelPyramid(as_coords(voxels))
    for level in range(3):
        fine, coarse = pyramid.coords(level).tolist(), pyramid.coords(level + 1).tolist()
        assert coarse == sorted(map(list, {(b, x // 2, y // 2, z // 2) for b, x, y, z in fine}))
        expected = strided_by_dictionary(fine, coarse)
        down, up = pyramid.down(level), pyramid.up(level + 1)
        assert pairs_of(down.into_output) == pairs_of(up.into_input) == expected
        assert pairs_of(down.into_input) == pairs_of(up.into_output) == turned(expected)


def test_many_tiles_hold_the_same_pairs_as_one():
    generator = torch.Generator().manual_seed(0)
    coords = torch.randint(-6, 6, (900, 4), generator=generator)
    coords[:, 0] = coords[:, 0].remainder(2)
    pyramid = VoxelPyramid(torch.unique(coords, dim=0).int())
    expected = submanifold_by_dictionary(pyramid.coords(0).tolist(), 3)
    by_kernel = [sorted((t, s) for t, s, k in expected if k == kernel) for kernel in range(27)]
    lists = [torch.tensor(pairs, dtype=torch.int32).view(-1, 2).t().contiguous() for pairs in by_kernel]
    targets, sources = map(list, zip(*lists, strict=True))
    tiled = tile_pairs(targets, sources, pyramid.size(0), run_rows=7)
    assert len(tiled.tiles) > 5
    assert pairs_of(tiled) == expected


def test_order_leads_to_sorted_rows_and_back():
    coords = as_coords([(1, 0, 0, 0), (0, 3, -2, 1), (0, -3, 2, 1), (0, 3, -2, -1)])
    pyramid = VoxelPyramid(coords)
    assert torch.equal(pyramid.coords(0), coords[pyramid.order])
    assert torch.equal(pyramid.coords(0)[pyramid.inverse_order()], coords)


def test_maps_are_made_once():
    pyramid = VoxelPyramid(as_coords([(0, 0, 0, 0), (0, 0, 0, 1)]))
    assert pyramid.submanifold(0, 3) is pyramid.submanifold(0, 3)
    assert pyramid.submanifold(0, 3) is not pyramid.submanifold(1, 3)
    assert pyramid.down(0) is pyramid.down(0)
    assert pyramid.up(1).into_output is pyramid.down(0).into_input


def test_neighbours_at_the_edge_of_the_range_do_not_wrap():
    edge = AXIS_LIMIT - 1
    rows = [
        (0, 0, 0, edge),
        (0, 0, 1, -AXIS_LIMIT),
        (0, 0, edge, 0),
        (0, 1, -AXIS_LIMIT, 0),
        (1, 0, 0, -edge),
    ]
    pyramid = VoxelPyramid(as_coords(rows))
    kernel_map = pyramid.submanifold(0, 5)
    assert pairs_of(kernel_map.into_output) == {(i, i, 62) for i in range(5)}


def test_no_voxels_at_all():
    pyramid = VoxelPyramid(as_coords([]))
    for kernel_map in (pyramid.submanifold(0, 3), pyramid.down(0), pyramid.up(1), pyramid.submanifold(2, 5)):
        assert isinstance(kernel_map, KernelMap)
        assert kernel_map.into_output.tiles == ()
        assert kernel_map.into_output.rows == 0
    assert pyramid.size(4) == 0


def test_a_repeated_voxel_is_named():
    with pytest.raises(ValueError, match=r"1 repeated rows, the first .* = \[0, -1, 2, 3\].*voxelize"):
        VoxelPyramid(as_coords([(0, -1, 2, 3), (0, 0, 0, 0), (0, -1, 2, 3)]))


def test_out_of_range_and_unsupported_kernels():
    with pytest.raises(DataError, match="voxel coordinates"):
        VoxelPyramid(as_coords([(0, 1 << 20, 0, 0)]))
    with pytest.raises(ValueError, match="expected 3 or 5, found 4"):
        VoxelPyramid(as_coords([(0, 0, 0, 0)])).submanifold(0, 4)
