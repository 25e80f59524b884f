"""How near features are to phrases, and when that is too far."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scenelift.similarity import NOTHING, Refusal, common_direction, rivals, similarities


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _names(count: int, dim: int = 24) -> torch.Tensor:
    """Class names as CLIP embeds them: cosines of 0.6 and more."""
    draw = np.random.default_rng(3)
    return torch.from_numpy(_unit(_unit(draw.normal(size=(count, dim))) + 1.2 * np.eye(dim)[0])).float()


def test_a_cosine_without_the_common_part() -> None:
    text, features = _names(5), np.random.default_rng(0).normal(size=(40, 24))
    shared = _unit(text.numpy().astype(np.float64).mean(0))
    found = similarities(torch.from_numpy(features), text[:2], common_direction(text))
    for row, feature in zip(found, features, strict=True):
        for value, phrase in zip(row, text[:2].numpy(), strict=True):
            one, two = (vector - (vector @ shared) * shared for vector in (feature, phrase))
            assert float(value) == pytest.approx(
                one @ two / np.linalg.norm(one) / np.linalg.norm(two), abs=1e-5
            )


def test_what_all_names_share_makes_no_difference() -> None:
    text, features = _names(5), torch.randn(30, 24, generator=torch.Generator().manual_seed(0))
    common = common_direction(text)
    shifted = features + 7.0 * common
    torch.testing.assert_close(similarities(features, text, common), similarities(shifted, text, common))
    assert not torch.allclose(
        F.normalize(features, dim=1) @ text.T, F.normalize(shifted, dim=1) @ text.T, atol=0.1
    )


def test_no_feature_is_similar_to_nothing() -> None:
    text = _names(3)
    found = similarities(torch.zeros(2, 24), text, common_direction(text))
    assert (found == NOTHING).all()


def test_a_phrase_does_not_compete_with_what_it_may_mean() -> None:
    text = _names(6)
    compete = rivals(text[:3], text)
    np.testing.assert_array_equal(compete, ~np.eye(6, dtype=bool)[:3])
    both = F.normalize(text[0] + text[4], dim=0)[None]
    np.testing.assert_array_equal(rivals(both, text)[0], [False, True, True, True, False, True])


def test_two_equally_far_names_both_compete() -> None:
    own = torch.eye(4)[:2]
    assert rivals(torch.eye(4)[2:3], own).all()


def test_refused_is_what_a_rival_wins_or_what_is_too_far() -> None:
    own = _names(5)
    refusal = Refusal.of(own[:2], own, 0.9, 0.2)
    assert len(refusal.rivals) == 3
    centred = own - torch.outer(own @ refusal.common, refusal.common)
    features = torch.stack([centred[0], centred[3], centred[0] + centred[3] * 1.5, centred[1]])
    lead = refusal.lead(features, own[:2], 0.2)[:, 0]
    assert (lead >= 0).tolist() == [True, False, False, True]
    lonely = Refusal.of(own, own, -1.0, -1.0)
    assert len(lonely.rivals) == 0
    assert (lonely.lead(features, own, -1.0) >= 0).all()
