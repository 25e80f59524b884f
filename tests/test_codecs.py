"""Packing: bit for bit, small where it has to be, and never more memory than declared."""

from __future__ import annotations

import zlib

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenelift.codecs import PackedError, pack, unpack

DTYPES = [np.dtype(name) for name in ["bool", *(f"<{k}{s}" for k in "iuf" for s in (2, 4, 8)), "i1", "u1"]]
any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
codecs = st.sampled_from(["map", "grid"])


@settings(deadline=None, max_examples=60)
@given(any_array, codecs)
def test_round_trip_is_bit_exact(array, codec):
    packed = pack(array, codec)
    assert packed.dtype == np.uint8
    assert packed.ndim == 1
    found = unpack(packed, codec, array.dtype.str, list(array.shape))
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()  # in C order, however it lies in memory
    assert found.flags.writeable


@pytest.mark.parametrize("codec", ["map", "grid"])
def test_arrays_that_are_not_contiguous(codec):
    base = np.arange(2 * 6 * 8, dtype=np.float16).reshape(2, 6, 8)
    for view in (base[:, ::2, ::-1], base.transpose(2, 0, 1)):
        np.testing.assert_array_equal(unpack(pack(view, codec), codec, "<f2", view.shape), view)


def test_features_of_a_frame_fit_their_budget():
    """(256, 48, 64) float16 is exactly 1.5 MiB as it is, and noise in its low bytes."""
    features = np.random.default_rng(0).normal(size=(256, 48, 64)).astype(np.float16)
    assert features.nbytes == 3 << 19
    assert pack(features, "grid").nbytes < 1.3 * 2**20


def test_empty_cells_cost_next_to_nothing():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(256, 48, 64)).astype(np.float16)
    whole = pack(features, "grid").nbytes
    sampled = rng.random((48, 64)) < 0.1
    thinned = pack(np.where(sampled, features, np.float16(0)), "grid").nbytes
    assert thinned < (sampled.mean() + 0.05) * whole


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=200), codecs, st.lists(st.integers(0, 50), max_size=3))
def test_any_bytes_are_an_array_or_an_error(data, codec, shape):
    packed = np.frombuffer(data, np.uint8)
    with pytest.raises(PackedError):
        unpack(packed, codec, "<u2", shape)


def test_a_bomb_is_refused():
    bomb = np.frombuffer(zlib.compress(bytes(50_000_000), 9), np.uint8)
    with pytest.raises(PackedError, match="do not unpack to the 100 bytes declared"):
        unpack(bomb, "map", "|u1", [100])
    with pytest.raises(PackedError, match="cannot hold the 1000000000000 declared"):
        unpack(bomb, "map", "|u1", [10**12])


@pytest.mark.parametrize("extra", [b"x", zlib.compress(b"more")])
def test_bytes_after_the_end_are_refused(extra):
    data = zlib.compress(bytes(10)) + extra
    with pytest.raises(PackedError, match="do not unpack"):
        unpack(np.frombuffer(data, np.uint8), "map", "|u1", [10])


@pytest.mark.parametrize(
    ("codec", "dtype", "shape"),
    [("zip", "|u1", [3]), ("map", "|O", [3]), ("map", ">u2", [3]), ("map", 7, [3]), ("map", "|u1", [-3]),
     ("map", "|u1", [1.5]), ("map", None, [3])],
)  # fmt: skip
def test_what_is_not_known_is_refused(codec, dtype, shape):
    with pytest.raises(PackedError):
        unpack(pack(np.zeros(3, np.uint8), "map"), codec, dtype, shape)
