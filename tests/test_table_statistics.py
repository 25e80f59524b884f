"""Intervals of differences, against loops, theory and cases that are known."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from scenelift.metrics import Confusion
from scenelift.tables.statistics import Bootstrap, draws, miou, resampled_miou, spearman


def random_counts(seed: int, rows: int = 2, seeds: int = 3, scenes: int = 5, classes: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 50, (rows, seeds, scenes, classes, classes + 1))
    absent = rng.random((scenes, classes)) < 0.4  # as in rooms: no scene has every class
    counts[:, :, absent] = 0
    return counts


def slow_miou(counts: np.ndarray) -> float:
    return Confusion.from_counts(counts).compute().miou


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_resampled_miou_is_that_of_the_summed_matrices(seed: int) -> None:
    counts = random_counts(seed)[0]
    scene_draws = draws(counts.shape[1], 6, seed)
    found = resampled_miou(counts, scene_draws)
    for b, drawn in enumerate(scene_draws):
        chosen = [place for place, times in enumerate(drawn) for _ in range(times)]
        for s in range(counts.shape[0]):
            np.testing.assert_allclose(found[b, s], slow_miou(counts[s, chosen].sum(0)), equal_nan=True)
    np.testing.assert_allclose(miou(counts), [[slow_miou(one) for one in of] for of in counts])


def test_the_interval_is_that_of_a_slow_loop() -> None:
    counts = random_counts(3)
    boot = Bootstrap(counts, resamples=400)
    kept = [n for n in range(counts.shape[2]) if counts[:, :, n].any()]
    scene_draws, seed_draws = draws(len(kept), 400, 0), draws(3, 400, 1)
    gaps = []
    for of_scenes, of_seeds in zip(scene_draws, seed_draws, strict=True):
        scenes = [kept[n] for n, times in enumerate(of_scenes) for _ in range(times)]
        by_seed = [
            slow_miou(counts[0, s, scenes].sum(0)) - 0.5 * slow_miou(counts[1, s, scenes].sum(0))
            for s, times in enumerate(of_seeds)
            for _ in range(times)
        ]
        gaps.append(np.mean(by_seed))
    found = boot.difference(0, 1, factor=0.5)
    low, high = np.quantile(gaps, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=1e-12)
    assert found.high == pytest.approx(high, abs=1e-12)
    fewer = min(np.sum(np.array(gaps) <= 0), np.sum(np.array(gaps) >= 0))
    assert found.p == pytest.approx(min(1.0, 2 * (fewer + 1) / 401))
    totals = [[slow_miou(counts[r, s].sum(0)) for s in range(3)] for r in range(2)]
    assert found.mean == pytest.approx(np.mean(totals[0]) - 0.5 * np.mean(totals[1]))


def one_class(accuracies: np.ndarray) -> np.ndarray:
    """(R, S, N, 1, 2) counts of 1,000 pixels each of one class: mIoU is then the mean accuracy."""
    right = np.round(1000 * accuracies).astype(np.int64)
    return np.stack([right, 1000 - right], axis=-1)[..., None, :]


def test_spread_over_scenes_is_the_standard_error_of_the_mean() -> None:
    """With one seed and one class mIoU is a mean over scenes, whose standard error is known."""
    accuracies = np.random.default_rng(5).normal(0.5, 0.1, (2, 1, 40)).clip(0, 1)
    boot = Bootstrap(one_class(accuracies), resamples=20_000)
    gaps = (boot.samples[0] - boot.samples[1])[:, 0]
    per_scene = accuracies[0, 0] - accuracies[1, 0]
    assert gaps.std() == pytest.approx(per_scene.std(ddof=1) / np.sqrt(40), rel=0.03)
    found = boot.difference(0, 1)
    assert found.mean == pytest.approx(per_scene.mean(), abs=1e-3)
    assert found.high is not None
    assert found.low is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * gaps.std(), rel=0.05)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_spread_over_seeds_is_the_standard_error_of_the_mean(seeds: int) -> None:
    """Drawing n - 1 of n leaves the spread over few seeds as wide as it is."""
    values = np.random.default_rng(seeds).normal(0.3, 0.02, seeds)
    drawn = draws(seeds, 50_000, 1) @ values / (seeds - 1)
    assert drawn.std() == pytest.approx(values.std(ddof=1) / np.sqrt(seeds), rel=0.03)


def test_equal_rows_differ_by_nothing() -> None:
    counts = random_counts(1)
    counts[1] = counts[0]
    found = Bootstrap(counts, 200).difference(0, 1)
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert not found.significant


def test_a_constant_gap_is_certain_and_its_sign_is_that_of_left_less_right() -> None:
    accuracies = np.random.default_rng(0).uniform(0.3, 0.6, (2, 3, 10))
    accuracies[1] = accuracies[0] + 0.2
    found = Bootstrap(one_class(accuracies)).difference(0, 1)
    assert found.mean == pytest.approx(-0.2, abs=1e-3)
    assert found.low == pytest.approx(-0.2, abs=1e-3)
    assert found.high == pytest.approx(-0.2, abs=1e-3)
    assert found.p == pytest.approx(2 / 2001)
    assert found.significant


def test_pairing_takes_out_what_scenes_have_in_common() -> None:
    rng = np.random.default_rng(2)
    hard = rng.uniform(0.1, 0.9, (1, 1, 30))  # scenes differ much more than rows
    accuracies = np.concatenate([hard, hard - 0.01 + rng.normal(0, 0.005, hard.shape)])
    found = Bootstrap(one_class(accuracies)).difference(0, 1)
    assert found.significant
    assert found.low is not None
    assert found.low > 0


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Two rows that differ by chance alone, one seed, 40 scenes: about one interval in twenty misses 0."""
    rng = np.random.default_rng(7)
    alarms = sum(
        Bootstrap(one_class(rng.normal(0.5, 0.1, (2, 1, 40)).clip(0, 1)), 300).difference(0, 1).significant
        for _ in range(300)
    )
    assert 4 <= alarms <= 32  # 15 expected


def test_seeds_that_only_one_row_has_do_not_count() -> None:
    counts = random_counts(4)
    counts[1, 2] = 0
    found, of_two = Bootstrap(counts).difference(0, 1), Bootstrap(counts[:, :2]).difference(0, 1)
    assert found == of_two
    assert found.seeds == 2
    counts[1] = 0
    assert Bootstrap(counts).difference(0, 1).seeds == 0


def test_one_scene_and_one_seed_tell_no_interval() -> None:
    found = Bootstrap(random_counts(0, seeds=1, scenes=1)).difference(0, 1)
    assert (found.low, found.high, found.p, found.seeds, found.significant) == (None, None, None, 1, False)
    assert np.isfinite(found.mean)
    assert Bootstrap(random_counts(0, seeds=3, scenes=1)).difference(0, 1).low is not None


def test_scenes_without_ground_truth_change_nothing() -> None:
    counts = random_counts(6)
    more = np.concatenate([np.zeros_like(counts[:, :, :2]), counts], axis=2)
    assert Bootstrap(more).difference(0, 1) == Bootstrap(counts).difference(0, 1)
    nothing = Bootstrap(np.zeros((2, 3, 4, 2, 3), np.int64))
    assert nothing.difference(0, 1).seeds == 0


def test_the_same_counts_give_the_same_interval() -> None:
    counts = random_counts(8)
    assert Bootstrap(counts).difference(0, 1) == Bootstrap(counts.copy()).difference(0, 1)


@pytest.mark.slow
def test_a_whole_table_of_scannet_takes_seconds() -> None:
    counts = np.random.default_rng(0).poisson(30, (17, 3, 312, 20, 21)).astype(np.int64)
    start = time.perf_counter()
    boot = Bootstrap(counts)
    assert all(boot.difference(row, 16).low is not None for row in range(16))
    assert time.perf_counter() - start < 10


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=12))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    ours, paper = (list(map(float, side)) for side in zip(*pairs, strict=True))
    rho, rows = spearman(ours, paper)
    assert rows == len(pairs)
    if len(set(ours)) == 1 or len(set(paper)) == 1:
        assert rho is None
    else:
        assert rho == pytest.approx(spearmanr(ours, paper).statistic)


def test_spearman_leaves_out_rows_with_one_value() -> None:
    assert spearman([0.1, None, 0.2, 0.3], [1.0, 2.0, None, 3.0]) == (None, 2)
    assert spearman([0.1, 0.5, 0.2, 0.3], [1.0, None, 2.0, 3.0]) == (pytest.approx(1.0), 3)
