"""Clouds as they are embedded: what is kept of them, and that it is right."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from report_samples import sample_cloud
from scenelift.report.clouds import encode_cloud
from scenelift.report.data import Cloud


def decoded(text: str, dtype: str = "u1") -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def positions(tree: dict[str, Any]) -> np.ndarray:
    """(N, 3) metres, in the axes and from the corner of the viewer."""
    return decoded(tree["positions"], "<u2").reshape(-1, 3) / 65535 * tree["metres"]


def test_a_small_cloud_is_kept_whole_in_order() -> None:
    cloud = sample_cloud(400)
    tree = encode_cloud(cloud, 100_000)
    assert tree["count"] == tree["of"] == 400
    # the viewer's axes are turned and shifted: distances between points stay
    np.testing.assert_allclose(pdist(positions(tree)), pdist(cloud.points), atol=4 * tree["metres"] / 65535)
    np.testing.assert_allclose(np.ptp(positions(tree)[:, 2]), np.ptp(cloud.points[:, 2]), atol=1e-3)
    np.testing.assert_array_equal(decoded(tree["rgb"]).reshape(-1, 3), cloud.rgb)
    np.testing.assert_array_equal(decoded(tree["truth"]), cloud.truth)
    assert [layer["name"] for layer in tree["labels"]] == ["teacher labels", "ours"]
    for layer in tree["labels"]:
        np.testing.assert_array_equal(decoded(layer["data"]), cloud.labels[layer["name"]])
    assert cloud.confidence is not None
    np.testing.assert_allclose(decoded(tree["confidence"]) / 255, cloud.confidence, atol=0.5 / 255 + 1e-6)


def test_a_large_cloud_is_thinned_to_its_share_of_the_page() -> None:
    cloud = sample_cloud(50_000)
    tree = encode_cloud(cloud, 300_000)
    size = sum(len(tree[key]) for key in ("positions", "rgb", "truth", "confidence"))
    size += sum(len(layer["data"]) for layer in tree["labels"])
    assert 0.97 * 300_000 < size <= 300_000
    assert 10_000 < tree["count"] < 50_000
    kept = decoded(tree["truth"])
    assert cloud.truth is not None
    for label in np.unique(cloud.truth):  # evenly: every class keeps its share
        assert (kept == label).mean() == pytest.approx((cloud.truth == label).mean(), abs=0.02)
    assert encode_cloud(cloud, 300_000) == tree


@pytest.mark.parametrize("angle", [0.0, 20.0, 130.0])
def test_walls_lie_along_the_axes_however_the_room_stands(angle: float) -> None:
    cloud = sample_cloud(4000)
    turn = np.radians(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = cloud.points.copy()
    points[:, :2] = points[:, :2] @ matrix.T
    turned = dataclasses.replace(cloud, points=points, azimuth_deg=45 + angle)
    tree = encode_cloud(turned, 1_000_000)
    extent = (np.array(tree["high"]) - tree["low"]) * tree["metres"]
    np.testing.assert_allclose(sorted(extent[:2]), [3, 4], atol=0.35)  # axes are known to 3 degrees
    # whoever looks along the diagonal of the room still does so in the viewer's axes
    assert np.degrees(tree["azimuth"]) % 90 == pytest.approx(45, abs=3.1)


@pytest.mark.parametrize("points", [0, 1])
def test_a_cloud_of_nearly_nothing(points: int) -> None:
    cloud = sample_cloud(4)
    few = Cloud(
        name="few",
        points=cloud.points[:points],
        rgb=None,
        labels={name: labels[:points] for name, labels in cloud.labels.items()},
        truth=None,
        confidence=None,
        azimuth_deg=0.0,
        still=cloud.still,
    )
    tree = encode_cloud(few, 10_000)
    assert tree["count"] == points
    assert tree["rgb"] is tree["truth"] is tree["confidence"] is None
    assert np.isfinite([tree["metres"], tree["radius"], *tree["low"], *tree["high"]]).all()
