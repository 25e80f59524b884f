from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures_capture import level_cameras
from scenelift.orientation import up_from_cameras, upright


@settings(deadline=None, max_examples=30)
@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1))
def test_upright_turns_and_keeps_lengths(up: tuple[float, float, float]) -> None:
    direction = np.array(up) / np.linalg.norm(up)
    cloud = np.concatenate([direction[None], np.eye(3)]).astype(np.float32)
    turned = upright(cloud, np.array(up))
    np.testing.assert_allclose(turned[0], (0, 0, 1), atol=1e-6)
    np.testing.assert_allclose(turned[1:] @ turned[1:].T, np.eye(3), atol=1e-6)
    assert np.linalg.det(turned[1:]) > 0


def test_a_cloud_with_z_up_stays_as_it_is() -> None:
    cloud = np.random.default_rng(0).random((100, 3)).astype(np.float32)
    np.testing.assert_array_equal(upright(cloud, np.array([0.0, 0.0, 2.0])), cloud)


@pytest.mark.parametrize(
    "forwards",
    [
        [(0, 0.5, 1)],
        [(0.3, 0.5, 1), (-0.3, 0.5, 1)],
        [(1, 0.4, 0), (0, 0.4, 1), (-1, 0.4, 0.1), (0, 0.4, -1)],
    ],
)
def test_up_is_found_though_all_cameras_look_down(forwards: list[tuple[float, float, float]]) -> None:
    up_world = up_from_cameras(level_cameras(forwards))
    tolerance = 0.06 if len(forwards) > 1 else 0.5  # one camera knows its own up side only
    np.testing.assert_allclose(up_world, (0, -1, 0), atol=tolerance)
