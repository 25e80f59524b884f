from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest

from scenelift.errors import DataError
from scenelift.scenes.undistort import Undistorter
from scenelift.types import F64, U8

SHAPE = (120, 160)
K = np.array([[110.0, 0.0, 81.5], [0.0, 112.0, 57.0], [0.0, 0.0, 1.0]])
LENSES = [
    ("opencv", (-0.28, 0.09, 0.001, -0.002)),
    ("opencv", (0.2, -0.05, 0.001, 0.0005, 0.01)),
    ("opencv", (0.6, 0.1, -0.0005, 0.0007, 0.02, 0.9, 0.2, 0.01)),
    ("fisheye", (0.08, -0.03, 0.01, -0.002)),
    ("fisheye", (0.0, 0.0, 0.0, 0.0)),
]


def smooth_image(shape: tuple[int, int] = SHAPE) -> U8:
    row, column = np.mgrid[: shape[0], : shape[1]]
    waves = [np.sin(column / 17) + np.cos(row / 23), np.cos((row + column) / 19), row / shape[0] - 0.5]
    return (128 + 60 * np.stack(waves, axis=-1)).astype(np.uint8)


def reference(image: np.ndarray, k: F64, model: str, coefficients: tuple[float, ...]) -> np.ndarray:
    if model == "fisheye":
        return cv2.fisheye.undistortImage(image, k, np.array(coefficients), Knew=k)
    return cv2.undistort(image, k, np.array(coefficients))


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_images_equal_opencv(model: str, coefficients: tuple[float, ...]) -> None:
    image = smooth_image()
    lens = Undistorter(K, SHAPE, model, coefficients)
    ours, theirs = lens.image(image).astype(int), reference(image, K, model, coefficients).astype(int)
    # at the rim of the lens' picture OpenCV blends with black
    inner = cv2.erode(lens.valid.astype(np.uint8), np.ones((5, 5)), borderValue=0).astype(bool)
    assert inner.mean() > 0.5
    assert np.abs(ours - theirs)[inner].max() <= 2
    assert np.abs(ours - theirs)[inner].mean() < 0.5
    assert np.abs(ours - image)[inner].max() > 20  # the lens does something


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_labels_are_taken_from_where_opencv_takes_them(model: str, coefficients: tuple[float, ...]) -> None:
    row, column = np.mgrid[: SHAPE[0], : SHAPE[1]]
    labels = ((row // 12 + column // 16) % 7).astype(np.uint8)
    lens = Undistorter(K, SHAPE, model, coefficients)
    if model == "fisheye":
        maps = cv2.fisheye.initUndistortRectifyMap(
            K, np.array(coefficients), np.eye(3), K, SHAPE[::-1], cv2.CV_32FC1
        )
    else:
        maps = cv2.initUndistortRectifyMap(K, np.array(coefficients), None, K, SHAPE[::-1], cv2.CV_32FC1)
    theirs = cv2.remap(labels, *maps, cv2.INTER_NEAREST, borderValue=255)
    assert (lens.nearest(labels) == theirs).mean() > 0.99
    assert (lens.nearest(labels)[~lens.valid] == 255).all()
    assert (lens.nearest(labels.astype(np.uint16), outside=0)[~lens.valid] == 0).all()


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_a_projected_point_falls_on_its_spot(model: str, coefficients: tuple[float, ...]) -> None:
    """A white dot where the distorted camera sees a point is found where the pinhole projects it."""
    point = np.array([[0.31, -0.22, 1.0]])
    if model == "fisheye":
        seen = cv2.fisheye.distortPoints(point[None, :, :2], K, np.array(coefficients))[0, 0]
    else:
        seen = cv2.projectPoints(point, np.zeros(3), np.zeros(3), K, np.array(coefficients))[0][0, 0]
    row, column = np.mgrid[: SHAPE[0], : SHAPE[1]]
    dot = 255 * np.exp(-((column - seen[0]) ** 2 + (row - seen[1]) ** 2) / 8)
    image = np.repeat(dot.astype(np.uint8)[..., None], 3, axis=-1)
    weight = Undistorter(K, SHAPE, model, coefficients).image(image)[..., 0].astype(float)
    found = [(weight * axis).sum() / weight.sum() for axis in (column, row)]
    np.testing.assert_allclose(found, (K @ point[0])[:2], atol=0.15)


def test_without_distortion_nothing_changes() -> None:
    image = smooth_image()
    for model, coefficients in (("none", ()), ("opencv", (0, 0, 0, 0))):
        assert Undistorter(K, SHAPE, model, coefficients).image(image) is image


def test_beyond_the_turn_of_the_polynomial_there_is_nothing() -> None:
    """k1 = -1 turns back at r = 1/sqrt(3); OpenCV would show the middle again at the corners."""
    wide = np.array([[60.0, 0, 79.5], [0, 60.0, 59.5], [0, 0, 1]])
    lens = Undistorter(wide, SHAPE, "opencv", (-1.0, 0, 0, 0))
    row, column = np.mgrid[: SHAPE[0], : SHAPE[1]]
    radius = np.hypot((column - 79.5) / 60, (row - 59.5) / 60)
    np.testing.assert_array_equal(
        lens.valid[np.abs(radius - 3**-0.5) > 0.01], (radius < 3**-0.5)[np.abs(radius - 3**-0.5) > 0.01]
    )


def test_it_can_be_pickled_and_says_what_is_wrong() -> None:
    lens = pickle.loads(pickle.dumps(Undistorter(K, SHAPE, *LENSES[0])))  # noqa: S301
    np.testing.assert_array_equal(
        lens.image(smooth_image()), Undistorter(K, SHAPE, *LENSES[0]).image(smooth_image())
    )
    with pytest.raises(DataError, match="160 × 120 pixels as its calibration says, found 80 × 60"):
        lens.image(smooth_image((60, 80)))
    for model, coefficients in (("opencv", (1.0, 2.0)), ("fish", (0,)), ("fisheye", (0, 0, 0, np.nan))):
        with pytest.raises(DataError, match="expected a distortion model"):
            Undistorter(K, SHAPE, model, coefficients)
