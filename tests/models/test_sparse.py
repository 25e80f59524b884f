import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scenelift.models import kernel_maps
from scenelift.models.kernel_maps import KernelMap, VoxelPyramid
from scenelift.models.sparse import (
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
    TransposedConv,
    sparse_conv,
)

SIDE = 6


def random_voxels(count: int, seed: int = 0, side: int = SIDE, batches: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(batches * side**3, generator=generator)[:count]
    x, y, z = cells // side**2 % side, cells // side % side, cells % side
    return torch.stack([cells // side**3, x, y, z], dim=1).int()


def dense(coords: Tensor, features: Tensor, side: int, batches: int = 2) -> Tensor:
    """(batches, C, side, side, side) volume, zero where there is no voxel. Differentiable."""
    volume = features.new_zeros(batches, side, side, side, features.shape[1])
    volume = volume.index_put(tuple(coords.long().unbind(1)), features)
    return volume.permute(0, 4, 1, 2, 3)


def at_voxels(volume: Tensor, coords: Tensor) -> Tensor:
    batch, x, y, z = coords.long().unbind(1)
    return volume.permute(0, 2, 3, 4, 1)[batch, x, y, z]


def as_dense_weight(weight: Tensor) -> Tensor:
    """(C_out, C_in, k, k, k) from (k³, C_in, C_out)."""
    k = round(len(weight) ** (1 / 3))
    return weight.view(k, k, k, *weight.shape[1:]).permute(4, 3, 0, 1, 2)


def by_single_pairs(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """The definition, pair by pair in the order of `into_input`: the slow reference of `sparse_conv`."""
    result = features.new_zeros(kernel_map.into_output.rows, weight.shape[2])
    pairs = kernel_map.into_input
    for tile in pairs.tiles:
        kernels = [k for k, size in zip(tile.kernels, tile.runs, strict=True) for _ in range(size)]
        inputs, outputs = pairs.target[tile.pairs].tolist(), pairs.source[tile.pairs].tolist()
        for i, o, k in zip(inputs, outputs, kernels, strict=True):
            result = result.index_add(0, torch.tensor([o]), features[i : i + 1] @ weight[k])
    return result


def assert_same_with_gradients(ours: Tensor, reference: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)
    direction = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, direction),
        torch.autograd.grad(reference, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.fixture(params=[None, 4], ids=["one tile", "many tiles"])
def _tiles(request, monkeypatch):
    if request.param:
        monkeypatch.setitem(kernel_maps.RUN_ROWS, "cpu", request.param)


def features_of(coords: Tensor, channels: int) -> Tensor:
    return torch.randn(len(coords), channels, dtype=torch.float64, requires_grad=True)


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_submanifold_equals_dense_conv3d(kernel_size):
    torch.manual_seed(0)
    pyramid = VoxelPyramid(random_voxels(150))
    coords = pyramid.coords(0)
    features = features_of(coords, 3)
    conv = SubmanifoldConv(3, 4, kernel_size).double()
    ours = conv(SparseTensor(features, pyramid)).features
    volume = F.conv3d(dense(coords, features, SIDE), as_dense_weight(conv.weight), padding=kernel_size // 2)
    assert_same_with_gradients(ours, at_voxels(volume, coords), [features, conv.weight])


@pytest.mark.usefixtures("_tiles")
def test_strided_equals_dense_conv3d():
    torch.manual_seed(1)
    pyramid = VoxelPyramid(random_voxels(60))
    features = features_of(pyramid.coords(0), 3)
    conv = StridedConv(3, 4).double()
    y = conv(SparseTensor(features, pyramid))
    volume = F.conv3d(dense(pyramid.coords(0), features, SIDE), as_dense_weight(conv.weight), stride=2)
    assert y.level == 1
    assert_same_with_gradients(y.features, at_voxels(volume, y.coords), [features, conv.weight])


@pytest.mark.usefixtures("_tiles")
def test_transposed_equals_dense_conv_transpose3d():
    torch.manual_seed(2)
    pyramid = VoxelPyramid(random_voxels(60))
    features = features_of(pyramid.coords(1), 3)
    conv = TransposedConv(3, 4).double()
    y = conv(SparseTensor(features, pyramid, level=1))
    dense_weight = as_dense_weight(conv.weight).transpose(0, 1)
    volume = F.conv_transpose3d(dense(pyramid.coords(1), features, SIDE // 2), dense_weight, stride=2)
    assert y.level == 0
    assert_same_with_gradients(y.features, at_voxels(volume, y.coords), [features, conv.weight])


@pytest.mark.filterwarnings("ignore")
def test_submanifold_equals_ocnn():
    from ocnn.nn import OctreeConv
    from ocnn.octree import Octree, Points, merge_octrees

    torch.manual_seed(3)
    depth, side = 4, 16
    coords = random_voxels(400, side=side)
    octrees = []
    for batch in range(2):
        centres = (coords[coords[:, 0] == batch][:, 1:] + 0.5) / (side / 2) - 1
        octree = Octree(depth, full_depth=2)
        octree.build_octree(Points(points=centres))
        octrees.append(octree)
    octree = merge_octrees(octrees)
    octree.construct_all_neigh()
    x, y, z, batch = octree.xyzb(depth, nempty=True)
    rows = torch.stack([batch, x, y, z], dim=1).int()
    assert sorted(rows.tolist()) == sorted(coords.tolist())

    features = features_of(rows, 5)
    theirs = OctreeConv(5, 7, kernel_size=[3], nempty=True).double()
    pyramid = VoxelPyramid(rows)
    ours = sparse_conv(features[pyramid.order], theirs.weights, pyramid.submanifold(0, 3))[
        pyramid.inverse_order()
    ]
    assert_same_with_gradients(ours, theirs(features, octree, depth), [features, theirs.weights])


def test_negative_coordinates_are_a_mere_shift():
    torch.manual_seed(4)
    coords = random_voxels(120)
    shift = torch.tensor([0, -8, -64, -2], dtype=torch.int32)  # even, so that coarse voxels move along
    features = features_of(coords, 3)
    down, up, conv = StridedConv(3, 4).double(), TransposedConv(4, 3).double(), SubmanifoldConv(3, 3).double()

    def run(voxels: Tensor) -> Tensor:
        pyramid = VoxelPyramid(voxels)
        x = conv(up(down(SparseTensor(features[pyramid.order], pyramid))))
        return x.features[pyramid.inverse_order()]

    torch.testing.assert_close(run(coords + shift), run(coords), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(0, 1000), st.sampled_from(["submanifold", "down", "up"]))
def test_any_cloud_equals_single_pairs(count, seed, kind):
    torch.manual_seed(seed)
    pyramid = VoxelPyramid(random_voxels(count, seed, side=4))
    level = 1 if kind == "up" else 0
    maps = {"submanifold": lambda: pyramid.submanifold(0, 3), "down": lambda: pyramid.down(0)}
    kernel_map = maps.get(kind, lambda: pyramid.up(1))()
    features = features_of(pyramid.coords(level), 2)
    weight = torch.randn(kernel_map.volume, 2, 3, dtype=torch.float64, requires_grad=True)
    ours = sparse_conv(features, weight, kernel_map)
    assert_same_with_gradients(ours, by_single_pairs(features, weight, kernel_map), [features, weight])


@pytest.mark.parametrize("kind", ["submanifold", "down", "up"])
def test_gradcheck(kind):
    torch.manual_seed(5)
    pyramid = VoxelPyramid(random_voxels(12, side=3))
    level = 1 if kind == "up" else 0
    maps = {"submanifold": lambda: pyramid.submanifold(0, 3), "down": lambda: pyramid.down(0)}
    kernel_map = maps.get(kind, lambda: pyramid.up(1))()
    features = features_of(pyramid.coords(level), 2)
    weight = torch.randn(kernel_map.volume, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, w: sparse_conv(f, w, kernel_map), (features, weight))


def test_a_map_may_be_used_twice():
    torch.manual_seed(6)
    pyramid = VoxelPyramid(random_voxels(80))
    coords = pyramid.coords(0)
    features = features_of(coords, 3)
    conv = SubmanifoldConv(3, 3).double()
    ours = conv(conv(SparseTensor(features, pyramid))).features
    weight = as_dense_weight(conv.weight)
    inner = at_voxels(F.conv3d(dense(coords, features, SIDE), weight, padding=1), coords)
    outer = at_voxels(F.conv3d(dense(coords, inner, SIDE), weight, padding=1), coords)
    assert_same_with_gradients(ours, outer, [features, conv.weight])


@pytest.mark.parametrize("wants", [(True, False), (False, True)])
def test_only_the_wanted_gradient_is_made(wants):
    torch.manual_seed(7)
    pyramid = VoxelPyramid(random_voxels(50))
    features = torch.randn(50, 3).requires_grad_(wants[0])
    weight = torch.randn(27, 3, 4).requires_grad_(wants[1])
    sparse_conv(features, weight, pyramid.submanifold(0, 3)).sum().backward()
    assert (features.grad is not None, weight.grad is not None) == wants


def test_an_expanded_gradient_is_understood():
    """``sum()`` sends back a gradient of stride 0."""
    torch.manual_seed(8)
    pyramid = VoxelPyramid(random_voxels(50))
    features, weight = features_of(pyramid.coords(0), 3), torch.randn(27, 3, 4, dtype=torch.float64)
    result = sparse_conv(features, weight, pyramid.submanifold(0, 3))
    (summed,) = torch.autograd.grad(result.sum(), features, retain_graph=True)
    (explicit,) = torch.autograd.grad(result, features, torch.ones_like(result))
    assert torch.equal(summed, explicit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_precisions_are_near_float64(dtype):
    torch.manual_seed(9)
    pyramid = VoxelPyramid(random_voxels(100))
    features, weight = torch.randn(100, 16), torch.randn(27, 16, 8) / 10
    kernel_map = pyramid.submanifold(0, 3)
    results = []
    for kind in (torch.float64, dtype):
        x, w = features.to(kind).requires_grad_(), weight.to(kind).requires_grad_()
        y = sparse_conv(x, w, kernel_map)
        y.backward(torch.ones_like(y))
        assert y.dtype == x.grad.dtype == w.grad.dtype == kind
        results.append([t.double() for t in (y.detach(), x.grad, w.grad)])
    tolerance = 20 * torch.finfo(dtype).eps
    for exact, rounded in zip(*results, strict=True):
        assert (exact - rounded).abs().max() <= tolerance * exact.abs().max()


def test_autocast_casts_features_and_weight_alike():
    torch.manual_seed(10)
    pyramid = VoxelPyramid(random_voxels(60))
    conv = SubmanifoldConv(4, 4)
    x = SparseTensor(torch.randn(60, 4, requires_grad=True), pyramid)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
        again = conv(y)  # bfloat16 features meet a float32 weight
    assert y.features.dtype == again.features.dtype == torch.bfloat16
    again.features.float().sum().backward()
    assert x.features.grad.dtype == conv.weight.grad.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert (
            SubmanifoldConv(4, 4).double()(x.with_features(x.features.double())).features.dtype
            == torch.float64
        )


@pytest.mark.usefixtures("_tiles")
def test_float32_repeats_bit_by_bit():
    torch.manual_seed(11)
    coords = random_voxels(300)
    features, weight = torch.randn(300, 8, requires_grad=True), torch.randn(27, 8, 8, requires_grad=True)

    def run() -> list[Tensor]:
        y = sparse_conv(features, weight, VoxelPyramid(coords).submanifold(0, 3))
        return [y, *torch.autograd.grad(y, [features, weight], torch.ones_like(y))]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_no_voxels():
    pyramid = VoxelPyramid(torch.zeros(0, 4, dtype=torch.int32))
    x = SparseTensor(torch.zeros(0, 3, requires_grad=True), pyramid)
    conv, down, up = SubmanifoldConv(3, 4), StridedConv(4, 5), TransposedConv(5, 6)
    y = up(down(conv(x)))
    assert y.features.shape == (0, 6)
    y.features.sum().backward()
    assert conv.weight.grad.shape == conv.weight.shape
    assert not conv.weight.grad.any()


def test_one_voxel_meets_only_the_centre():
    pyramid = VoxelPyramid(torch.tensor([[3, -1, 5, 7]], dtype=torch.int32))
    x = SparseTensor(torch.randn(1, 3), pyramid)
    conv, down = SubmanifoldConv(3, 4), StridedConv(3, 4)
    torch.testing.assert_close(conv(x).features, x.features @ conv.weight[13])
    torch.testing.assert_close(down(x).features, x.features @ down.weight[4 + 2 + 1])  # all odd
    assert down(x).coords.tolist() == [[3, -1, 2, 3]]


def test_initial_weights_follow_the_seed_and_kaiming():
    torch.manual_seed(12)
    first = SubmanifoldConv(64, 64).weight
    torch.manual_seed(12)
    assert torch.equal(SubmanifoldConv(64, 64).weight, first)
    assert first.std().item() == pytest.approx((2 / (27 * 64)) ** 0.5, rel=0.02)


def test_features_must_fit_the_voxels():
    pyramid = VoxelPyramid(random_voxels(10))
    with pytest.raises(ValueError, match=r"expected shape \(10, C\).*found \(9, 3\)"):
        SparseTensor(torch.zeros(9, 3), pyramid)


def test_nothing_lies_below_level_zero():
    x = SparseTensor(torch.zeros(10, 3), VoxelPyramid(random_voxels(10)))
    with pytest.raises(ValueError, match="level 0"):
        TransposedConv(3, 3)(x)


def test_repr_shows_the_shape():
    assert repr(SubmanifoldConv(3, 4)) == "SubmanifoldConv(3, 4, volume=27)"
