"""Colours that all eyes tell apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scenelift.colors import OKABE_ITO, distinct_colors, heat, perceived
from scenelift.export import NO_LABEL_COLOR


@pytest.mark.parametrize("count", [0, 1, 20, 254])
def test_shape(count: int) -> None:
    colors = distinct_colors(count)
    assert colors.dtype == np.uint8
    assert colors.shape == (count, 3)
    assert len(np.unique(colors, axis=0)) == count


def test_the_first_ones_do_not_depend_on_how_many_there_are() -> None:
    np.testing.assert_array_equal(distinct_colors(30)[:12], distinct_colors(12))
    np.testing.assert_array_equal(distinct_colors(7), OKABE_ITO)


def test_are_told_apart() -> None:
    colors = distinct_colors(20).astype(int)
    apart = [np.abs(a - b).max() for a, b in itertools.combinations(colors, 2)]
    assert min(apart) >= 16


@pytest.mark.parametrize("eye", range(4), ids=["normal", "protan", "deutan", "tritan"])
def test_are_told_apart_by_every_eye_and_from_no_label(eye: int) -> None:
    looks = perceived(np.array([NO_LABEL_COLOR, *distinct_colors(20)], np.uint8))[eye]
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(looks, 2)]
    assert min(apart) > 0.05  # Oklab; 0.02 is just noticeable


def test_simulated_eyes() -> None:
    grey = perceived(np.array([[0, 0, 0], [128, 128, 128], [255, 255, 255]], np.uint8))
    np.testing.assert_allclose(grey, np.broadcast_to(grey[:1], grey.shape), atol=0.01)  # grey is grey to all
    assert grey[0, 2, 0] == pytest.approx(1.0, abs=1e-3)
    red_green = perceived(np.array([[200, 60, 0], [110, 125, 0]], np.uint8))
    apart = np.linalg.norm(red_green[:, 0] - red_green[:, 1], axis=-1)
    assert apart[2] < 0.4 * apart[0]


def test_heat_grows_brighter_and_stays_within_its_ends() -> None:
    colors = heat(np.array([-5, 0, 0.25, 0.5, 0.75, 1, 9], np.float32), 0.0, 1.0)
    np.testing.assert_array_equal(colors[[0, 5]], colors[[1, 6]])
    lightness = perceived(colors[1:6])[0, :, 0]
    assert (np.diff(lightness) > 0.1).all()
    assert heat(np.zeros((2, 3), np.float32), 1.0, 1.0).shape == (2, 3, 3)
