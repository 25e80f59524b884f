"""Eq. 5-7 against loops in float64, values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from scenelift.geometry import sample_grid
from scenelift.losses import (
    cosine_distance,
    feature_variance,
    fuse_cells,
    image_cross_entropy,
    pair_cross_entropy,
    sample_maps,
    sampled_cells,
)
from scenelift.types import IGNORE

CLASSES = 5
seeds = st.integers(0, 2**31 - 1)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_labels(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.3] = IGNORE
    return labels


def mean_cross_entropy(rows: Tensor, labels: Tensor) -> Tensor:
    """One row after another, in float64; 0 without labels."""
    total, count = rows.new_zeros(()).double(), 0
    for row, label in zip(rows.double(), labels.tolist(), strict=True):
        if label != IGNORE:
            total = total + row.exp().sum().log() - row[label]
            count += 1
    return total / max(count, 1)


def same_value_and_gradient(value: Tensor, reference: Tensor, at: Tensor) -> None:
    torch.testing.assert_close(value.double(), reference.double(), atol=1e-5, rtol=1e-5)
    (have,), (want,) = (torch.autograd.grad(loss, at, retain_graph=True) for loss in (value, reference))
    torch.testing.assert_close(have, want, atol=1e-5, rtol=1e-4)


class TestImageCrossEntropy:
    @given(seeds)
    @settings(deadline=None, max_examples=15)
    def test_is_the_mean_over_labelled_pixels(self, seed: int) -> None:
        logits = (3 * random(seed, 2, CLASSES, 4, 5)).requires_grad_()
        labels = some_labels(seed, 2, 4, 5)
        rows = logits.permute(0, 2, 3, 1).reshape(-1, CLASSES)
        same_value_and_gradient(
            image_cross_entropy(logits, labels), mean_cross_entropy(rows, labels.view(-1)), logits
        )

    def test_coarse_logits_are_brought_to_the_labels_size(self) -> None:
        logits = random(0, 2, CLASSES, 3, 4).requires_grad_()
        labels = some_labels(0, 2, 12, 16)
        full = F.interpolate(logits, (12, 16), mode="bilinear", align_corners=False)
        same_value_and_gradient(
            image_cross_entropy(logits, labels),
            mean_cross_entropy(full.permute(0, 2, 3, 1).reshape(-1, CLASSES), labels.view(-1)),
            logits,
        )

    def test_nothing_labelled_costs_nothing(self) -> None:
        logits = random(0, 1, CLASSES, 2, 2).requires_grad_()
        loss = image_cross_entropy(logits, torch.full((1, 2, 2), IGNORE))
        assert loss == 0
        assert torch.autograd.grad(loss, logits)[0].abs().max() == 0


class TestPairCrossEntropy:
    @given(seeds, st.integers(0, 60))
    @settings(deadline=None, max_examples=30)
    def test_is_the_mean_over_labelled_pairs(self, seed: int, pairs: int) -> None:
        logits = (3 * random(seed, 7, CLASSES)).requires_grad_()
        voxel = torch.randint(0, 7, (pairs,), generator=torch.Generator().manual_seed(seed))
        labels = some_labels(seed, pairs)
        reference = mean_cross_entropy(logits[voxel], labels) + 0 * logits.sum()
        same_value_and_gradient(pair_cross_entropy(logits, voxel, labels), reference, logits)

    def test_a_label_met_twice_counts_twice(self) -> None:
        logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        voxel, labels = torch.tensor([0, 0, 1]), torch.tensor([0, 0, 0])
        cost = F.cross_entropy(logits, torch.tensor([0, 0]), reduction="none")
        torch.testing.assert_close(pair_cross_entropy(logits, voxel, labels), (2 * cost[0] + cost[1]) / 3)

    @pytest.mark.parametrize("voxels", [0, 3])
    def test_no_pairs_cost_nothing(self, voxels: int) -> None:
        logits = random(0, voxels, CLASSES).requires_grad_()
        none = torch.zeros(0, dtype=torch.int64)
        loss = pair_cross_entropy(logits, none, none)
        assert loss == 0
        assert not torch.autograd.grad(loss, logits)[0].any()


class TestLatent:
    @given(seeds)
    @settings(deadline=None, max_examples=15)
    def test_cosine_distance_is_the_mean_over_rows(self, seed: int) -> None:
        features, target = random(seed, 6, 4).requires_grad_(), random(seed + 1, 6, 4)
        pairs = zip(features.double(), target.double(), strict=True)
        rows = [1 - (a @ b) / (a.norm() * b.norm()) for a, b in pairs]
        same_value_and_gradient(cosine_distance(features, target), torch.stack(rows).mean(), features)

    def test_no_rows_are_at_no_distance(self) -> None:
        features = torch.zeros(0, 4, requires_grad=True)
        loss = cosine_distance(features, torch.zeros(0, 4))
        assert loss == 0
        loss.backward()

    @given(seeds, st.integers(1, 50))
    @settings(deadline=None, max_examples=30)
    def test_variance_lies_between_0_and_1(self, seed: int, rows: int) -> None:
        features = random(seed, rows, 3)
        unit = F.normalize(features.double(), dim=1)
        total = ((unit - unit.mean(0)) ** 2).sum(1).mean()
        variance = feature_variance(features)
        assert 0 <= variance <= 1
        torch.testing.assert_close(variance.double(), total, atol=1e-6, rtol=1e-5)

    @given(seeds)
    @settings(deadline=None, max_examples=30)
    def test_variance_is_0_only_when_all_rows_point_one_way(self, seed: int) -> None:
        lengths = 0.1 + random(seed, 40, 1).abs()
        features = lengths * random(seed + 1, 1, 8)
        assert 0 <= feature_variance(features) < 1e-6
        features[3] = -features[3]
        assert feature_variance(features) > 0.01

    def test_variance_is_1_for_opposite_halves_and_0_for_no_rows(self) -> None:
        features = torch.tensor([[3.0, 0.0], [-1.0, 0.0]], requires_grad=True)
        assert feature_variance(features) == 1
        assert not feature_variance(features).requires_grad
        assert feature_variance(torch.zeros(0, 4)) == 0


class TestSampleMaps:
    @given(seeds, st.integers(0, 40), st.tuples(st.integers(1, 6), st.integers(1, 6)))
    @settings(deadline=None, max_examples=40)
    def test_equals_grid_sample_of_each_map(self, seed: int, pairs: int, size: tuple[int, int]) -> None:
        maps = random(seed, 3, 4, *size).double().requires_grad_()
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(0, 3, (pairs,), generator=generator)
        position = torch.rand(pairs, 2, generator=generator).double()
        sampled = sample_maps(maps, image, position)
        rows = [
            F.grid_sample(
                maps[b : b + 1], (2 * xy - 1).view(1, 1, 1, 2), padding_mode="border", align_corners=False
            ).view(-1)
            for b, xy in zip(image.tolist(), position, strict=True)
        ]
        reference = torch.stack(rows) if rows else maps.new_zeros(0, 4)
        torch.testing.assert_close(sampled, reference)
        weights = random(seed + 1, pairs, 4).double()
        have, want = (
            torch.autograd.grad((weights * values).sum() + 0 * maps.sum(), maps)[0]
            for values in (sampled, reference)
        )
        torch.testing.assert_close(have, want)

    def test_agrees_with_the_pixels_of_a_frame(self) -> None:
        """`geometry.sample_grid` takes pixels, this takes shares of the image: one convention."""
        grid = random(0, 4, 3, 5)
        uv = torch.rand(20, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([31.0, 23.0]) - 0.5
        position = (uv + 0.5) / torch.tensor([32.0, 24.0])
        none = torch.zeros(20, dtype=torch.int64)
        torch.testing.assert_close(sample_maps(grid[None], none, position), sample_grid(grid, uv, (24, 32)))

    def test_corners_are_the_outer_cells(self) -> None:
        maps = torch.arange(6.0).view(1, 1, 2, 3)
        corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        sampled = sample_maps(maps, torch.zeros(4, dtype=torch.int64), corners)
        assert sampled[:, 0].tolist() == [0, 2, 3, 5]
        assert sample_maps(maps.half(), torch.zeros(4, dtype=torch.int64), corners).dtype == torch.float16


class TestSampledCells:
    @given(seeds, st.integers(1, 6), st.integers(1, 6), st.integers(0, 12))
    @settings(deadline=None, max_examples=60)
    def test_the_other_cells_change_nothing(self, seed: int, height: int, width: int, pairs: int) -> None:
        """Values and gradients to the bit, whatever lies in the cells that are not sampled."""
        position = torch.rand(pairs, 2, generator=torch.Generator().manual_seed(seed))
        position[::3] = (position[::3] * 8).round() / 8  # on cell centres and borders too
        cells = sampled_cells(position, height, width)
        maps = random(seed, 1, 4, height, width)
        one, other = (torch.where(cells, maps, rest).requires_grad_() for rest in (0.0, 1e30))
        none = torch.zeros(pairs, dtype=torch.int64)
        have, want = sample_maps(one, none, position), sample_maps(other, none, position)
        assert torch.equal(have, want)
        gradients = [
            torch.autograd.grad(values.square().sum() + 0 * m.sum(), m)[0]
            for values, m in ((have, one), (want, other))
        ]
        assert torch.equal(torch.where(cells, gradients[0], 0), torch.where(cells, gradients[1], 0))

    @given(seeds, st.integers(2, 6), st.integers(2, 6))
    @settings(deadline=None, max_examples=40)
    def test_no_cell_is_kept_for_nothing(self, seed: int, height: int, width: int) -> None:
        """Each has a weight, or would have one a little way off."""
        size = torch.tensor([width, height])  # between the outer cell centres, where nothing is clamped
        position = 0.5 / size + torch.rand(1, 2, generator=torch.Generator().manual_seed(seed)) * (
            1 - 1 / size
        )
        maps = torch.eye(height * width).view(1, height * width, height, width)
        near = position + torch.tensor([[x, y] for x in (-1e-2, 0, 1e-2) for y in (-1e-2, 0, 1e-2)])
        weights = sample_maps(maps, torch.zeros(9, dtype=torch.int64), near.clamp(0, 1)).sum(0)
        cells = sampled_cells(position, height, width)
        assert 1 <= int(cells.sum()) <= 9
        assert bool((weights.view(height, width)[cells] > 0).all())

    def test_a_position_on_a_cell_centre_keeps_both_sides(self) -> None:
        """Another device may round it to either."""
        assert sampled_cells(torch.tensor([[0.5, 0.0]]), 2, 3).tolist() == [[True] * 3, [True] * 3]
        assert not sampled_cells(torch.zeros(0, 2), 2, 3).any()


# --- fused cells ---------------------------------------------------------------------------------------


@given(seed=seeds, rows=st.integers(0, 20), cells=st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_cells_against_a_loop(seed: int, rows: int, cells: int) -> None:
    features = random(seed, rows, 3).requires_grad_()
    scores = random(seed + 1, rows).tanh()
    cell = torch.randint(0, cells, (rows,), generator=torch.Generator().manual_seed(seed))
    want = torch.zeros(cells, 3, dtype=torch.float64)
    for index in range(cells):
        inside = (cell == index).nonzero()[:, 0].tolist()
        if inside:
            attention = torch.tensor([float(scores[i]) for i in inside], dtype=torch.float64).softmax(0)
            want[index] = sum(a * features[i].double() for a, i in zip(attention, inside, strict=True))
    have = fuse_cells(features, scores, cell, cells)
    torch.testing.assert_close(have.double(), want, atol=1e-5, rtol=1e-5)
    if rows:
        pull = random(seed + 2, cells, 3)
        same_value_and_gradient((have * pull).sum(), (want * pull.double()).sum(), features)
