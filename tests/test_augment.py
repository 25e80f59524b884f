"""Views of images and clouds against per-pixel loops; labels, ids and pairs against the image itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenelift.augment import (
    ImageTransform,
    PointTransform,
    draw_image_transform,
    draw_point_transform,
)
from scenelift.config import AugmentConfig
from scenelift.types import F32, F64, I64, U8, Bool

HEIGHT, WIDTH = 20, 30
STEP = 8
"""Grey levels between neighbouring pixels of `coordinates`."""

seeds = st.integers(0, 2**32 - 1)
configs = st.builds(
    AugmentConfig,
    hflip=st.sampled_from([0.0, 1.0]),
    scale=st.sampled_from([(1.0, 1.0), (1.0, 1.4), (0.7, 2.5), (0.3, 0.5)]),
    crop=st.sampled_from([(20, 30), (12, 16), (9, 40), (24, 10)]),
)


def coordinates() -> U8:
    """An image whose colours are 8 × (column, row) and a flag."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([column * STEP, row * STEP, np.full_like(row, 77)], axis=2).astype(np.uint8)


def drawn(config: AugmentConfig, seed: int) -> ImageTransform:
    return draw_image_transform((HEIGHT, WIDTH), config, np.random.default_rng(seed))


def input_of(transform: ImageTransform, row: int, column: int) -> tuple[float, float]:
    """Continuous input (x, y) under the centre of an output pixel, step by step."""
    x = (column + 0.5 + transform.offset_xy[0]) / transform.scale
    y = (row + 0.5 + transform.offset_xy[1]) / transform.scale
    return (WIDTH - x if transform.mirror else x), y


def bilinear(image: U8, x: float, y: float) -> F64:
    """One sample, the border repeated."""
    u, v = x - 0.5, y - 0.5
    left, top = int(np.floor(u)), int(np.floor(v))
    total = np.zeros(3)
    for i, weight_y in ((top, 1 - (v - top)), (top + 1, v - top)):
        for j, weight_x in ((left, 1 - (u - left)), (left + 1, u - left)):
            inside = image[min(max(i, 0), HEIGHT - 1), min(max(j, 0), WIDTH - 1)]
            total += weight_y * weight_x * inside
    return total


class TestImageTransform:
    @given(configs, seeds)
    @settings(deadline=None, max_examples=30)
    def test_image_is_the_per_pixel_resampling(self, config: AugmentConfig, seed: int) -> None:
        transform = drawn(config, seed)
        image = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        out = transform.image(image)
        assert out.shape == (transform.height, transform.width, 3)
        expected = [
            [bilinear(image, *input_of(transform, r, c)) for c in range(out.shape[1])]
            for r in range(out.shape[0])
        ]
        # each axis rounds once, by half a grey level, and weighs in fixed point
        assert np.abs(out - np.array(expected)).max() <= 1.01

    @given(configs, seeds)
    @settings(deadline=None, max_examples=30)
    def test_nearest_picks_the_pixel_under_each_centre(self, config: AugmentConfig, seed: int) -> None:
        transform = drawn(config, seed)
        ids = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
        picked = transform.nearest(ids)
        assert picked.shape == (transform.height, transform.width)
        assert picked.dtype == np.uint16
        for r in range(transform.height):
            for c in range(transform.width):
                x, y = input_of(transform, r, c)
                assert abs(picked[r, c] % WIDTH + 0.5 - x) <= 0.5 + 1e-9
                assert abs(picked[r, c] // WIDTH + 0.5 - y) <= 0.5 + 1e-9

    @given(configs, seeds)
    @settings(deadline=None, max_examples=50)
    def test_a_pair_keeps_looking_at_the_same_place(self, config: AugmentConfig, seed: int) -> None:
        transform = drawn(config, seed)
        uv = np.random.default_rng(seed).uniform(0, [WIDTH - 1, HEIGHT - 1], (300, 2)).astype(np.float32)
        col, row, inside = moved(transform, uv)
        seen = transform.image(coordinates())[row, col, :2] / STEP
        # half an output pixel from rounding, in input pixels, and the grey levels' own rounding
        assert np.abs(seen - uv[inside]).max(initial=0) <= 0.5 / transform.scale + 1.01 / STEP

    @given(configs, seeds)
    @settings(deadline=None, max_examples=50)
    def test_labels_at_pairs_stay_away_from_boundaries(self, config: AugmentConfig, seed: int) -> None:
        transform = drawn(config, seed)
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 9, (4, 5), dtype=np.uint8).repeat(5, 0).repeat(6, 1)
        uv = rng.uniform(-0.5, [WIDTH - 0.5, HEIGHT - 0.5], (300, 2)).astype(np.float32)
        col, row, inside = moved(transform, uv)
        picked = transform.nearest(labels)[row, col]
        reach = 0.5 / transform.scale + 1e-4
        compared = 0
        for (u, v), label in zip(uv[inside], picked, strict=True):
            corners = [(u + i * reach, v + j * reach) for i in (-1, 1) for j in (-1, 1)]
            near = {int(labels[clip(y, HEIGHT), clip(x, WIDTH)]) for x, y in corners}
            if len(near) == 1:
                compared += 1
                assert label == near.pop()
        assert compared > 0 or not len(picked) or transform.scale < 0.6

    @given(seeds)
    @settings(deadline=None, max_examples=30)
    def test_no_change_is_exact(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        transform = ImageTransform(False, WIDTH, 1.0, (0, 0), HEIGHT, WIDTH)
        image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        np.testing.assert_array_equal(transform.image(image), image)
        np.testing.assert_array_equal(transform.nearest(image[..., 0]), image[..., 0])
        uv = rng.uniform(-0.5, [WIDTH - 0.5, HEIGHT - 0.5], (200, 2)).astype(np.float32)
        np.testing.assert_array_equal(
            np.floor(np.stack(transform.pixels(uv), 1) + 0.5), np.floor(uv + np.float32(0.5))
        )

    def test_mirror_alone_is_exact(self) -> None:
        transform = ImageTransform(True, WIDTH, 1.0, (0, 0), HEIGHT, WIDTH)
        image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        np.testing.assert_array_equal(transform.image(image), image[:, ::-1])
        np.testing.assert_array_equal(transform.nearest(image[..., 0]), image[:, ::-1, 0])
        np.testing.assert_allclose(
            np.stack(transform.pixels(np.array([[0, 3], [29, 4]], np.float32)), 1), [[29, 3], [0, 4]]
        )

    def test_whole_pixel_crop_is_exact(self) -> None:
        transform = ImageTransform(False, WIDTH, 1.0, (7, 3), 10, 12)
        image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        np.testing.assert_array_equal(transform.image(image), image[3:13, 7:19])
        np.testing.assert_array_equal(transform.nearest(image[..., 1]), image[3:13, 7:19, 1])


class TestDrawImageTransform:
    @given(configs, seeds)
    @settings(deadline=None, max_examples=50)
    def test_output_lies_inside_the_scaled_image(self, config: AugmentConfig, seed: int) -> None:
        transform = drawn(config, seed)
        assert (transform.height, transform.width) == config.crop
        x, y = transform.offset_xy
        assert -1e-9 <= x <= WIDTH * transform.scale - transform.width + 1e-9
        assert -1e-9 <= y <= HEIGHT * transform.scale - transform.height + 1e-9
        assert transform.scale >= config.scale[0]
        fit = max(transform.height / HEIGHT, transform.width / WIDTH)
        assert transform.scale <= max(config.scale[1], fit) + 1e-9

    def test_without_a_crop_the_size_stays(self) -> None:
        transform = drawn(AugmentConfig(scale=(1.2, 1.3)), 0)
        assert (transform.height, transform.width) == (HEIGHT, WIDTH)
        assert 1.2 <= transform.scale <= 1.3

    def test_mirrors_as_often_as_asked(self) -> None:
        rng = np.random.default_rng(0)
        config = AugmentConfig(hflip=0.25)
        share = np.mean([draw_image_transform((20, 30), config, rng).mirror for _ in range(2000)])
        assert 0.2 < share < 0.3


class TestPointTransform:
    @given(seeds)
    @settings(deadline=None, max_examples=50)
    def test_keeps_shape_and_up(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        transform = draw_point_transform(AugmentConfig(), rng)
        scale = transform.linear[2, 2]
        assert 0.95 <= scale <= 1.05
        points = rng.normal(size=(40, 3)).astype(np.float32) * 3 + 5
        moved_points = transform.points(points)
        assert moved_points.dtype == np.float32
        np.testing.assert_allclose(distances(moved_points), scale * distances(points), atol=1e-4)
        rise = moved_points[:, 2] - moved_points[0, 2]
        np.testing.assert_allclose(rise, scale * (points[:, 2] - points[0, 2]), atol=1e-4)

    def test_flip_changes_handedness_and_rotation_does_not(self) -> None:
        still = AugmentConfig(rotate_z=False, point_flip=0.0, point_scale=(1.0, 1.0), point_color_jitter=0.0)
        rng = np.random.default_rng(0)
        np.testing.assert_array_equal(draw_point_transform(still, rng).linear, np.eye(3))
        turned = still.model_copy(update={"rotate_z": True})
        assert np.linalg.det(draw_point_transform(turned, rng).linear) == pytest.approx(1)
        flipped = still.model_copy(update={"point_flip": 1.0})
        np.testing.assert_array_equal(draw_point_transform(flipped, rng).linear, np.diag([-1.0, -1.0, 1.0]))

    def test_angles_cover_the_circle(self) -> None:
        rng = np.random.default_rng(0)
        config = AugmentConfig(point_flip=0.0)
        linear = [draw_point_transform(config, rng).linear for _ in range(400)]
        quarter = np.floor(np.degrees([np.arctan2(m[1, 0], m[0, 0]) for m in linear]) / 90)
        assert np.unique(quarter, return_counts=True)[1].min() > 60

    def test_colors_move_together(self) -> None:
        rng = np.random.default_rng(0)
        transform = draw_point_transform(AugmentConfig(point_color_jitter=0.2), rng)
        assert 0.8 <= transform.color_gain <= 1.2
        assert np.abs(transform.color_shift).max() <= 0.1
        rgb = rng.integers(0, 256, (9, 3), dtype=np.uint8)
        expected = rgb / 255 * transform.color_gain + transform.color_shift
        np.testing.assert_allclose(transform.colors(rgb), expected, atol=1e-6)

    def test_identity_only_moves_the_middle(self) -> None:
        points = np.array([[1, 2, 3], [3, 6, 9]], dtype=np.float32)
        transform = PointTransform(np.eye(3), 1.0, np.zeros(3))
        np.testing.assert_array_equal(transform.points(points), [[-1, -2, -3], [1, 2, 3]])
        rgb = np.array([[0, 51, 255]], dtype=np.uint8)
        np.testing.assert_allclose(transform.colors(rgb), [[0, 0.2, 1]], atol=1e-7)
        empty = np.zeros((0, 3), dtype=np.float32)
        assert transform.points(empty).shape == (0, 3)


def moved(transform: ImageTransform, uv: F32) -> tuple[I64, I64, Bool]:
    """Column and row of the pairs that stay inside, and which of all they are."""
    pixel = np.floor(np.stack(transform.pixels(uv), 1) + 0.5).astype(np.int64)
    inside = ((pixel >= 0) & (pixel < [transform.width, transform.height])).all(1)
    return pixel[inside, 0], pixel[inside, 1], inside


def clip(position: float, size: int) -> int:
    """The pixel a position falls into, the border repeated."""
    return int(min(max(np.floor(position + 0.5), 0), size - 1))


def distances(points: F32) -> F32:
    return np.linalg.norm(points[:, None] - points[None], axis=2)
