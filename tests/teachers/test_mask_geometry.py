"""Points, crops, boxes and small regions, against Meta's own functions and readable references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils import amg

from scenelift.errors import DataError
from scenelift.teachers.mask_geometry import (
    crop_boxes,
    cut_by_crop,
    flatten_masks,
    mask_boxes,
    point_grid,
    waves,
    without_small_regions,
)


@given(st.integers(1, 40))
def test_point_grid(side: int) -> None:
    np.testing.assert_allclose(point_grid(side), amg.build_point_grid(side), atol=1e-12)


@given(st.integers(1, 40))
def test_waves_hold_every_point_once(side: int) -> None:
    found = waves(side)
    assert sorted(np.concatenate(found).tolist()) == list(range(side * side))


def test_waves_of_the_default_grid() -> None:
    found = waves(32)
    assert [len(wave) for wave in found] == [64, 192, 768]
    coarse = point_grid(32)[found[0]]
    np.testing.assert_allclose(np.unique(np.diff(np.unique(coarse[:, 0]))), [0.125])


@given(
    st.integers(20, 900),
    st.integers(20, 900),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.2, 512 / 1500, 0.6]),
)
def test_crop_boxes(height: int, width: int, layers: int, overlap: float) -> None:
    found = crop_boxes((height, width), layers, overlap)
    boxes, numbers = amg.generate_crop_boxes((height, width), layers, overlap)
    want = [
        (tuple(box), n) for box, n in zip(boxes, numbers, strict=True) if box[0] < box[2] and box[1] < box[3]
    ]
    assert found == want
    assert found[0] == ((0, 0, width, height), 0)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 4))
def test_crops_of_tiny_images_hold_pixels(height: int, width: int, layers: int) -> None:
    for (left, top, right, bottom), _ in crop_boxes((height, width), layers, 0.3):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_mask_boxes(seed: int, share: float) -> None:
    chance = torch.Generator().manual_seed(seed)
    masks = torch.rand(6, 7, 9, generator=chance) < share**4
    masks[0] = False
    want = amg.batched_mask_to_box(masks)
    assert mask_boxes(masks).tolist() == want.tolist()
    assert mask_boxes(masks[:0]).shape == (0, 4)


@given(st.integers(0, 2**32 - 1))
def test_cut_by_crop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    crop = (50, 30, 250, 200)
    corners = np.sort(rng.integers(0, 200, (20, 2, 2)), axis=1).reshape(20, 4)
    inside = torch.from_numpy(corners)
    for frame in ([0, 0, 400, 300], [0, 0, 260, 210]):
        want = amg.is_box_near_crop_edge(inside, list(crop), frame)
        have = cut_by_crop(inside + torch.tensor([50, 30, 50, 30]), crop, (frame[3], frame[2]))
        assert have.tolist() == want.tolist()


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95), st.integers(1, 30))
def test_small_regions(seed: int, share: float, area: int) -> None:
    mask = np.random.default_rng(seed).random((14, 11)) < share
    if not mask.any():
        mask[3, 4] = True
    want, filled = amg.remove_small_regions(mask, area, "holes")
    want, dropped = amg.remove_small_regions(want, area, "islands")
    have, changed = without_small_regions(mask, area)
    assert changed == (filled or dropped)
    # of islands of one size, all too small, either library may keep another
    assert have.sum() == want.sum()
    if have.sum() >= area:
        np.testing.assert_array_equal(have, want)


@pytest.mark.parametrize("value", [False, True])
def test_small_regions_of_plain_masks(value: bool) -> None:
    mask = np.full((4, 5), value)
    have, changed = without_small_regions(mask, 3)
    np.testing.assert_array_equal(have, mask)
    assert not changed


def flatten_loop(masks: np.ndarray, smallest_on_top: bool) -> np.ndarray:
    """Paint masks bottom first, so that the top one is painted last."""
    flat = np.zeros(masks.shape[1:], np.uint16)
    area = masks.sum((1, 2))
    sign = 1 if smallest_on_top else -1
    top_first = sorted(range(len(masks)), key=lambda m: (sign * area[m], m))
    for m in reversed(top_first):
        flat[masks[m]] = m + 1
    return flat


class TestFlattenMasks:
    @given(st.integers(0, 2**32 - 1), st.integers(0, 80), st.booleans())
    @settings(max_examples=40)
    def test_matches_painting(self, seed: int, count: int, smallest: bool) -> None:
        rng = np.random.default_rng(seed)
        masks = rng.random((count, 5, 6)) < rng.uniform(0, 0.5, size=(count, 1, 1))
        overlap = "smallest_on_top" if smallest else "largest_on_top"
        flat = flatten_masks(torch.from_numpy(masks), overlap)
        assert flat.dtype == torch.uint16
        np.testing.assert_array_equal(flat.numpy(), flatten_loop(masks, smallest))

    def test_equal_areas_empty_masks_and_uncovered_pixels(self) -> None:
        masks = torch.zeros(3, 1, 4, dtype=torch.bool)
        masks[1, 0, :2] = True
        masks[2, 0, 1:3] = True
        assert flatten_masks(masks, "smallest_on_top").tolist() == [[2, 2, 3, 0]]
        assert flatten_masks(masks, "largest_on_top").tolist() == [[2, 2, 3, 0]]

    def test_more_masks_than_ids(self) -> None:
        with pytest.raises(DataError, match=r"fewer than 65536 .* found 65536"):
            flatten_masks(torch.zeros(65_536, 1, 1, dtype=torch.bool))
