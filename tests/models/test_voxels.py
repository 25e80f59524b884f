import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenelift.errors import DataError
from scenelift.models.voxels import (
    AXIS_LIMIT,
    BATCH_LIMIT,
    key_step,
    pack,
    scatter_mean,
    unpack,
    voxelize,
)

axis = st.one_of(st.integers(-4, 4), st.integers(-AXIS_LIMIT, AXIS_LIMIT - 1))
row = st.tuples(st.integers(0, BATCH_LIMIT - 1), axis, axis, axis)


@settings(deadline=None, max_examples=50)
@given(st.lists(row, min_size=1, max_size=30))
def test_keys_keep_the_order_of_rows_and_unpack_to_them(rows):
    keys = pack(torch.tensor(rows, dtype=torch.int32))
    assert unpack(keys).tolist() == [list(r) for r in rows]
    assert [rows[i] for i in keys.argsort(stable=True)] == sorted(rows)


@settings(deadline=None, max_examples=50)
@given(row, st.tuples(*[st.integers(-2, 2)] * 3))
def test_a_step_is_one_addition_even_at_the_limits(voxel, step):
    moved = unpack(pack(torch.tensor([voxel], dtype=torch.int32)) + key_step(*step))[0].tolist()
    assert moved == [voxel[0]] + [c + d for c, d in zip(voxel[1:], step, strict=True)]


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        ([0, AXIS_LIMIT, 0, 0], "voxel coordinates"),
        ([0, 0, 0, -AXIS_LIMIT - 1], "voxel coordinates"),
        ([-1, 0, 0, 0], "batch indices"),
        ([BATCH_LIMIT, 0, 0, 0], "batch indices"),
    ],
)
def test_coordinates_out_of_range(coords, message):
    with pytest.raises(DataError, match=message):
        pack(torch.tensor([coords], dtype=torch.int32))


@pytest.mark.parametrize("coords", [torch.zeros(3, 4), torch.zeros(3, 3, dtype=torch.int32)])
def test_coordinates_of_another_dtype_or_shape(coords):
    with pytest.raises(ValueError, match=r"expected int32 of shape \(V, 4\)"):
        pack(coords)


def test_voxelize_equals_a_loop_over_points():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(500, 3, generator=generator)
    batch = torch.randint(0, 3, (500,), generator=generator)
    coords, inverse = voxelize(points, batch, 0.4)
    expected = [
        [b, *(int(c // 0.4) for c in p)] for b, p in zip(batch.tolist(), points.tolist(), strict=True)
    ]
    assert coords.dtype == torch.int32
    assert inverse.dtype == torch.int64
    assert coords[inverse].tolist() == expected
    assert coords.tolist() == sorted(map(list, {tuple(e) for e in expected}))


def test_voxelize_rounds_towards_minus_infinity():
    points = torch.tensor([[-0.01, 0.0, 0.99], [-1.0, -1.01, 1.0]], dtype=torch.float64)
    coords, inverse = voxelize(points, torch.zeros(2, dtype=torch.int64), 1.0)
    assert coords[inverse].tolist() == [[0, -1, 0, 0], [0, -1, -2, 1]]


def test_voxelize_of_no_points():
    coords, inverse = voxelize(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 0.05)
    assert coords.shape == (0, 4)
    assert inverse.shape == (0,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e7, -1e12])
def test_voxelize_names_the_point_that_cannot_be_placed(bad):
    points = torch.zeros(4, 3)
    points[2, 1] = bad
    with pytest.raises(DataError, match=r"at point 2 and 1 such points"):
        voxelize(points, torch.zeros(4, dtype=torch.int64), 0.05)


@pytest.mark.parametrize("size", [0.0, -0.05, float("nan")])
def test_voxelize_needs_a_positive_size(size):
    with pytest.raises(ValueError, match="voxel_size_m"):
        voxelize(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64), size)


def test_scatter_mean_equals_a_loop_and_passes_gradients():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(40, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 9, (40,), generator=generator)
    index[index == 4] = 5  # row 4 stays empty
    means = scatter_mean(values, index, 10)
    for i in range(10):
        rows = values[index == i]
        expected = rows.mean(0) if len(rows) else torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(means[i], expected)
    assert torch.autograd.gradcheck(lambda v: scatter_mean(v, index, 10), values)
