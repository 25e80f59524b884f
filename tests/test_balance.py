"""Balanced self-labels: scores less the network's usual class shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scenelift.balance import FLOOR, MOMENTUM, RunningShares, class_mass


def mass(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_mass_is_the_sum_of_softmax_over_everything_but_classes() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype(np.float32)
    expected = np.zeros(5)
    for image in logits:
        for row in range(3):
            for col in range(4):
                scores = np.exp(image[:, row, col].astype(np.float64))
                expected += scores / scores.sum()
    np.testing.assert_allclose(class_mass(torch.from_numpy(logits)).numpy(), expected, rtol=1e-5)


def test_shares_run_with_momentum_from_the_first_step_on() -> None:
    shares = RunningShares()
    shares.update(mass([3, 1], [1, 1]))
    shares.update(mass([10, 30], [0, 0]))
    assert shares.shares is not None
    first = MOMENTUM * 0.75 + (1 - MOMENTUM) * 0.25
    np.testing.assert_allclose(shares.shares.numpy(), [[first, 1 - first], [0.5, 0.5]])


def test_without_points_their_shares_are_even() -> None:
    shares = RunningShares()
    shares.update(mass([3, 1], [0, 0]))
    assert shares.shares is not None
    assert shares.shares[1].tolist() == [0.5, 0.5]


def test_an_unsure_pixel_gets_the_rare_class_a_sure_one_keeps_its_own() -> None:
    shares = RunningShares()
    shares.update(mass([9, 1], [1, 1]))
    unsure, sure = [0.6, 0.4], [0.99, 0.01]
    logits = torch.tensor([unsure, sure]).log()
    assert logits.argmax(1).tolist() == [0, 0]
    assert shares.labels(logits, 0, 1.0).tolist() == [1, 0]  # 0.6 / 0.9 < 0.4 / 0.1; 0.99 / 0.9 > 0.01 / 0.1
    assert shares.labels(logits, 1, 1.0).tolist() == [0, 0]  # the other network's shares are even
    assert shares.labels(logits, 0, 0.0).tolist() == [0, 0]


def test_labels_equal_bayes_rule_written_out() -> None:
    rng = np.random.default_rng(1)
    probability = rng.dirichlet(np.ones(6), size=(4, 7))
    shares = RunningShares()
    shares.update(torch.from_numpy(rng.dirichlet(np.ones(6), size=2)))
    assert shares.shares is not None
    expected = (probability / shares.shares[0].numpy() ** 0.5).argmax(-1)
    logits = torch.from_numpy(probability).log().float().movedim(2, 1)
    assert shares.labels(logits, 0, 0.5).tolist() == expected.tolist()


def test_a_dead_class_is_not_given_everything() -> None:
    shares = RunningShares()
    shares.update(mass([1, 0], [1, 1]))
    logits = torch.tensor([[1 - FLOOR / 10, FLOOR / 10]]).log()
    assert shares.labels(logits, 0, 1.0).tolist() == [0]


@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_before_the_first_step_labels_are_the_likeliest(balance: float) -> None:
    assert RunningShares().labels(torch.tensor([[1.0, 2.0]]), 0, balance).tolist() == [1]
