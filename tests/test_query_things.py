"""From a similarity per point to things."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import query_reference
from scenelift.query.things import NEVER, components, edge_m, instances, own_threshold


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 30))
def test_the_threshold_has_the_highest_f1(seed: int, count: int, values: int) -> None:
    draw = np.random.default_rng(seed)
    similarity = (draw.integers(0, values, count) / values).astype(np.float32)  # with ties
    wins = draw.random(count) < similarity
    threshold = own_threshold(similarity, wins)
    if not wins.any():
        assert threshold == NEVER
        return
    selected = similarity >= threshold
    f1 = 2 * (selected & wins).sum() / (selected.sum() + wins.sum())
    assert f1 == pytest.approx(query_reference.best_f1(similarity, wins))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 80), st.floats(0.05, 1.0))
def test_groups_are_those_of_a_walk(seed: int, count: int, edge: float) -> None:
    points = np.random.default_rng(seed).uniform(-2, 2, (count, 3)).astype(np.float32)
    found = components(points, edge)
    ours = {frozenset(np.flatnonzero(found == number).tolist()) for number in np.unique(found)}
    cells = np.float64(points)  # the same rounding as in the code under test
    assert ours == set(query_reference.groups(cells, edge))


def test_no_points() -> None:
    assert components(np.zeros((0, 3), np.float32), 0.1).shape == (0,)
    ids, things = instances(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), 0.5)
    assert (len(ids), things) == (0, [])
    assert edge_m(np.zeros((1, 3), np.float32)) > 0


def _two_boxes() -> tuple[np.ndarray, np.ndarray]:
    """A box of 1 m, one of 0.4 m two metres away, and crumbs; similarities 0.6, 0.9 and 0.7."""
    draw = np.random.default_rng(0)
    large = draw.uniform(0, 1, (600, 3))
    small = draw.uniform(0, 0.4, (200, 3)) + np.array([3.0, 0, 0])
    crumbs = draw.uniform(0, 0.1, (4, 3)) + np.array([0, 5.0, 0])
    points = np.concatenate([large, small, crumbs]).astype(np.float32)
    return points, np.repeat(np.float32([0.6, 0.9, 0.7]), [600, 200, 4])


def test_things_by_their_evidence() -> None:
    points, similarity = _two_boxes()
    ids, things = instances(points, similarity, 0.5)
    assert [thing.points for thing in things] == [200, 600]  # 200 × 0.4 is more than 600 × 0.1
    np.testing.assert_array_equal(np.unique(ids[:600]), [2])
    np.testing.assert_array_equal(np.unique(ids[600:800]), [1])
    assert (ids[800:] == 0).all()  # too few for a thing
    small = things[0]
    np.testing.assert_allclose(small.centroid_m, points[600:800].mean(0), atol=1e-5)
    np.testing.assert_allclose(small.extent_m, np.ptp(points[600:800], axis=0), atol=1e-5)
    assert small.similarity == pytest.approx(0.9)
    assert small.evidence == pytest.approx(80.0, rel=1e-4)
    assert instances(points, similarity, 0.8)[1][0].points == 200
    assert len(instances(points, similarity, 0.8)[1]) == 1


def test_what_has_no_feature_is_never_selected() -> None:
    points, _ = _two_boxes()
    ids, things = instances(points, np.full(len(points), -1.0, np.float32), -1.0)
    assert not ids.any()
    assert not things


def test_json_is_plain() -> None:
    import json

    points, similarity = _two_boxes()
    tree = json.loads(json.dumps(instances(points, similarity, 0.5)[1][0].to_json()))
    assert set(tree) == {"points", "centroid_m", "extent_m", "low_m", "high_m", "similarity"}
