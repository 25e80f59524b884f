import pytest
import torch
from torch import Tensor

from scenelift.errors import ConfigError, DataError
from scenelift.models.points import VARIANTS, MinkUNet, VoxelBatchNorm, build_point_network
from scenelift.models.voxels import scatter_mean, voxelize


def cloud(count: int, seed: int = 0, batches: int = 1, side: int = 24) -> Tensor:
    """About ``count`` unique voxels, some of them negative, in no order."""
    generator = torch.Generator().manual_seed(seed)
    coords = torch.randint(-side, side, (count, 4), generator=generator, dtype=torch.int32)
    coords[:, 0].remainder_(batches)
    coords = torch.unique(coords, dim=0)
    return coords[torch.randperm(len(coords), generator=generator)]


def network(**kwargs) -> MinkUNet:
    torch.manual_seed(0)
    return build_point_network("narrow", in_channels=3, **kwargs)


def parameters_by_hand(stem, planes, layers, in_channels, stem_kernel) -> int:
    """Weights of the architecture, counted from its description alone.

    Stem; per encoder stage a 2³ convolution that keeps the width; per decoder stage a 2³ transposed one to
    the stage's planes and a skip of the level's encoder width; two numbers per channel of each batch norm;
    blocks of two 3³ convolutions, the first one with a 1³ projection where widths differ. No biases.
    """

    def block(wide, narrow):
        own = 27 * (wide + narrow) * narrow + 4 * narrow
        return own + (wide * narrow + 2 * narrow if wide != narrow else 0)

    total = stem_kernel**3 * in_channels * stem + 2 * stem
    width = stem
    for p, n in zip(planes[:4], layers[:4], strict=True):
        total += 8 * width * width + 2 * width + block(width, p) + (n - 1) * block(p, p)
        width = p
    skips = [stem, *planes[:3]]
    for p, n in zip(planes[4:], layers[4:], strict=True):
        total += 8 * width * p + 2 * p + block(p + skips.pop(), p) + (n - 1) * block(p, p)
        width = p
    return total


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("stem_kernel", [3, 5])
def test_parameter_counts(name, stem_kernel):
    spec = VARIANTS[name]
    found = sum(p.numel() for p in build_point_network(name, 3, stem_kernel).parameters())
    assert found == parameters_by_hand(spec.stem, spec.planes, spec.layers, 3, stem_kernel)


def test_minkunet34_is_res16unet34c():
    """37.85 M with the public 5³ stem; its classifier (96 x 20 + 20) is not part of this network."""
    count = sum(p.numel() for p in build_point_network("minkunet34", 3, stem_kernel=5).parameters())
    assert count == 37_854_112
    paper = build_point_network("minkunet34", 3)
    assert sum(p.numel() for p in paper.parameters()) == 37_854_112 - (125 - 27) * 3 * 32
    assert paper.out_channels == 96
    assert [len(stage.blocks) for stage in [*paper.encoder, *paper.decoder]] == [2, 3, 4, 6, 2, 2, 2, 2]
    assert {m.momentum for m in paper.modules() if isinstance(m, VoxelBatchNorm)} == {0.05}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_learns_from_every_parameter(name):
    torch.manual_seed(1)
    net = build_point_network(name, in_channels=4)
    coords = cloud(60, batches=2, side=16)
    y = net(coords, torch.randn(len(coords), 4))
    assert y.shape == (len(coords), net.out_channels)
    (y * torch.randn_like(y)).sum().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    assert all(p.grad.any() for p in net.stem.parameters())


def test_rows_follow_the_callers_order():
    net, coords = network().double(), cloud(400)
    features = torch.randn(len(coords), 3, dtype=torch.float64)
    shuffle = torch.randperm(len(coords))
    torch.testing.assert_close(net(coords[shuffle], features[shuffle]), net(coords, features)[shuffle])


def test_a_cloud_may_lie_anywhere():
    """Shifts by the coarsest stride commute with the whole network."""
    net, coords = network().double(), cloud(400)
    features = torch.randn(len(coords), 3, dtype=torch.float64)
    shift = torch.tensor([0, -16 * 1000, 16 * 7, -16], dtype=torch.int32)
    torch.testing.assert_close(net(coords + shift, features), net(coords, features))


def test_clouds_of_a_batch_do_not_mix():
    net, coords = network().double().eval(), cloud(600, batches=3)
    features = torch.randn(len(coords), 3, dtype=torch.float64)
    together = net(coords, features)
    for batch in range(3):
        rows = coords[:, 0] == batch
        alone = coords[rows].clone()
        alone[:, 0] = 0
        torch.testing.assert_close(together[rows], net(alone, features[rows]))


def test_far_voxels_see_each_other_through_the_coarse_levels():
    """The receptive field is much wider than the stem's: the network is a U, not a stack of small kernels."""
    net = network().double().eval()
    x = torch.arange(40, dtype=torch.int32)
    coords = torch.stack([0 * x, x, 0 * x, 0 * x], dim=1)
    features = torch.randn(40, 3, dtype=torch.float64, requires_grad=True)
    net(coords, features)[0].sum().backward()
    assert features.grad[25].any()


def test_no_voxels_and_one_voxel():
    net = network()
    nothing = net(torch.zeros(0, 4, dtype=torch.int32), torch.zeros(0, 3))
    assert nothing.shape == (0, net.out_channels)
    nothing.sum().backward()
    one = net(torch.tensor([[0, -5, 5, 0]], dtype=torch.int32), torch.randn(1, 3))
    assert one.isfinite().all()
    one.sum().backward()
    assert all(not m.num_batches_tracked for m in net.modules() if isinstance(m, VoxelBatchNorm))


def test_batch_norm_of_two_rows_is_the_ordinary_one():
    norm, ordinary = VoxelBatchNorm(3), torch.nn.BatchNorm1d(3, momentum=0.05)
    features = torch.randn(2, 3)
    assert torch.equal(norm(features), ordinary(features))
    assert torch.equal(norm.running_var, ordinary.running_var)
    expected = ordinary.eval()(features[:1])
    assert torch.equal(norm(features[:1]), expected)


def test_duplicate_points_go_through_voxelize():
    points = torch.tensor([[0.01, 0.0, 0.0], [0.04, 0.0, 0.0], [0.01, 0.0, 0.0], [-0.3, 0.0, 0.2]])
    coords, inverse = voxelize(points, torch.zeros(4, dtype=torch.int64), 0.05)
    features = scatter_mean(torch.randn(4, 3), inverse, len(coords))
    per_point = network()(coords, features)[inverse]
    assert len(coords) == 2
    assert torch.equal(per_point[0], per_point[1])
    assert torch.equal(per_point[0], per_point[2])
    assert not torch.equal(per_point[0], per_point[3])


def test_bad_coordinates_are_refused():
    net = network()
    with pytest.raises(ValueError, match="repeated rows"):
        net(torch.zeros(2, 4, dtype=torch.int32), torch.zeros(2, 3))
    with pytest.raises(DataError, match="voxel coordinates"):
        net(torch.tensor([[0, 1 << 19, 0, 0]], dtype=torch.int32), torch.zeros(1, 3))


def test_autocast_runs_in_bfloat16_and_trains_in_float32():
    net, coords = network(), cloud(300)
    features = torch.randn(len(coords), 3)
    exact = net(coords, features)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net(coords, features)
    rounded.float().square().sum().backward()
    assert {p.grad.dtype for p in net.parameters()} == {torch.float32}
    assert torch.nn.functional.cosine_similarity(exact, rounded.float()).mean() > 0.98


def test_weights_follow_the_seed():
    first, second = network().state_dict(), network().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_two_hundred_thousand_voxels():
    """A sheet of 200,000 voxels, bent so that all three axes are in use."""
    side = torch.arange(-224, 224, dtype=torch.int32)
    x, y = torch.meshgrid(side, side, indexing="ij")
    coords = torch.stack([0 * x, x, y, (x + y).div(4, rounding_mode="floor")], dim=-1).view(-1, 4)[:200_000]
    with torch.no_grad():
        y = network().eval()(coords, torch.randn(len(coords), 3))
    assert y.shape == (200_000, 32)
    assert y.isfinite().all()


def test_an_unknown_variant_names_the_known_ones():
    with pytest.raises(ConfigError, match="minkunet34, minkunet18, minkunet14, narrow, found 'minkunet43'"):
        build_point_network("minkunet43", 3)
