"""Compressed run lengths against COCO's own code, and damaged ones, which that code must never be given."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nuimages.utils.utils import mask_decode
from pycocotools import mask as coco

import fuzzing
from scenelift import image_files
from scenelift.errors import DataError
from scenelift.scenes.nuimages.rle import decode_mask, decode_runs, encode_mask, paint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
"""pycocotools hands NumPy its arrays in a way that NumPy is about to give up."""

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)
MASKS = hnp.arrays(bool, SHAPES) | SHAPES.flatmap(
    # Sparse and full masks have long runs, whose differences take several groups.
    lambda shape: st.tuples(st.integers(0, 2**31), st.sampled_from([0.0, 0.01, 0.2, 0.99, 1.0])).map(
        lambda seed_share: np.random.default_rng(seed_share[0]).random(shape) < seed_share[1]
    )
)


def blobs(shape: tuple[int, int] = (90, 160), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, bool)
    for _ in range(6):
        r, c, size = rng.random(3) * (shape[0], shape[1], 0.3 * shape[0])
        mask |= (row - r) ** 2 + (column - c) ** 2 < size**2
    return mask


@given(MASKS)
def test_what_coco_encodes_is_decoded(mask):
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(decode_mask(encoded["counts"], mask.shape, "here"), mask)
    assert encode_mask(mask) == encoded["counts"]


@given(MASKS)
def test_the_devkit_decodes_what_is_encoded_here(mask):
    counts = base64.b64encode(encode_mask(mask)).decode()
    assert np.array_equal(mask_decode({"size": list(mask.shape), "counts": counts}), mask)


def test_large_masks_and_runs_of_every_size():
    for seed in range(3):
        mask = blobs((900, 1600), seed)
        encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        assert np.array_equal(decode_mask(encoded, mask.shape, "here"), mask)
    for number in (0, 1, 14, 15, 16, 17, 31, 32, 511, 512, 513, 16_383, 16_384, 16_385, 600_000):
        mask = np.zeros((1000, 1000), bool, order="F")
        mask.T.reshape(-1)[number : 2 * number + 5] = True
        encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        assert np.array_equal(decode_mask(encoded, mask.shape, "here"), mask)


@given(MASKS, st.sampled_from("CF"), st.sampled_from([np.uint8, np.uint16]))
def test_painting_changes_the_pixels_of_the_mask_alone(mask, order, dtype):
    image = np.asarray(np.arange(mask.size).reshape(mask.shape) % 200, dtype, order=order)
    expected = np.where(mask, dtype(222), image)
    paint(image, decode_runs(encode_mask(mask), mask.shape, "here"), 222)
    assert np.array_equal(image, expected)


def test_a_slice_of_an_image_can_be_painted():
    image = np.zeros((20, 30), np.uint8)
    part = image[3:12, 5:17]
    mask = blobs(part.shape)
    paint(part, decode_runs(encode_mask(mask), part.shape, "here"), 7)
    assert np.array_equal(image[3:12, 5:17] == 7, mask)
    assert image.sum() == 7 * mask.sum()


@pytest.mark.parametrize(
    ("text", "shape", "found"),
    [
        (b"", (2, 2), "an empty string"),
        (b"4", (2, 3), "runs of 4 pixels together, not 3 × 2"),
        (b"7", (2, 3), "runs of more pixels together"),
        (b"42", (2, 2), "runs of 6 pixels together"),
        (b"4 ", (2, 2), "character 32 at place 1"),
        (b"4\xff", (2, 2), "character 255 at place 1"),
        (b"T", (2, 2), "cut off"),
        (b"O", (2, 2), "a run of -1 pixels"),
        (b"121M4", (2, 2), "a run of -1 pixels"),
        (b"o" * 7 + b"0", (2, 2), "a number of 8 groups"),
        (b"o" * 6 + b"?", (2, 2), "more pixels"),
        (b"o" * 6 + b"?" + b"o" * 6 + b"?", (2, 2), "more pixels"),
        (b"4", (0, 2), "a mask of 2 × 0 pixels"),
        (b"4", (-2, -2), "a mask of -2 × -2 pixels"),
        (b"4", (1 << 40, 1 << 40), "a mask of"),
        (b"4", (100_000, 100_000), "a mask of 100000 × 100000 pixels"),
    ],
)
def test_what_is_no_mask(text, shape, found):
    for read in (decode_runs, decode_mask):
        with pytest.raises(DataError, match=found) as error:
            read(text, shape, "row 7 of object_ann.json")
        assert "row 7 of object_ann.json" in str(error.value)
        assert "; copy or download the file again" in str(error.value)


def test_numbers_that_would_overflow_are_refused():
    """Millions of the largest differences: each sum stays within 64 bits, so no run wraps around to fit."""
    with pytest.raises(DataError, match="more pixels"):
        decode_runs((b"o" * 6 + b"?") * 100_000, (1000, 1000), "here")
    with pytest.raises(DataError, match="a run of -"):
        decode_runs((b"o" * 6 + b"@") * 100_000, (1000, 1000), "here")


def test_the_largest_mask_is_that_of_the_largest_image(monkeypatch):
    monkeypatch.setattr(image_files, "MAX_PIXELS", 99)
    with pytest.raises(DataError, match="a mask of 10 × 10 pixels"):
        decode_mask(encode_mask(np.ones((10, 10), bool)), (10, 10), "here")


def test_damaged_strings():
    text, shape = encode_mask(blobs()), blobs().shape
    refused = fuzzing.only_data_errors(lambda data: decode_mask(data, shape, "here"), text, fuzzing.QUICK)
    assert refused > 0.6 * fuzzing.QUICK


@pytest.mark.slow
def test_many_damaged_strings():
    text, shape = encode_mask(blobs()), blobs().shape
    assert fuzzing.only_data_errors(lambda data: decode_mask(data, shape, "here"), text, fuzzing.MANY) > 7000
