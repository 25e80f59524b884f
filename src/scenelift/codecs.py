"""Lossless packing of arrays for storage: which order their bytes are in, and zlib.

Neighbouring values are alike in their high bytes and not in their low ones, so the bytes of a kind are
brought together first (one plane for all first bytes, one for all second ones). What else pays depends on
what an array is, so whoever stores it says so:

- ``map``: ids or labels of pixels, long runs and repeated rows: deflate as it is. A mask id map of
  640 × 480 with 100 masks takes 8 to 12 KiB; differences along rows or columns took half as much again,
  16-bit PNG a quarter more.
- ``grid``: (F, h, w) features, whose low bytes are noise: all channels of a cell side by side, so that empty
  cells are long runs, and run lengths with Huffman codes only, which is as small on full grids as any other
  strategy of zlib and four times faster.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scenelift.types import U8

_inflater: Any = zlib
with suppress(ImportError):  # the extra `fast`: unpacks Huffman codes in half the time, to the same bytes
    from isal import isal_zlib as _inflater

Codec = Literal["map", "grid"]
"""How an array is packed; see the module."""

_DTYPES = frozenset(["|b1", "|i1", "|u1", *(f"<{kind}{size}" for kind in "iuf" for size in (2, 4, 8))])
_STRATEGY = {"map": zlib.Z_DEFAULT_STRATEGY, "grid": zlib.Z_RLE}
_LEVEL = 6
_HIGHEST_RATIO = 1032
"""No deflate stream unpacks to more than this many times its size (https://zlib.net/zlib_tech.html)."""


class PackedError(Exception):
    """Bytes that are not what `pack` made of an array of this dtype and shape."""


def pack(array: npt.NDArray[Any], codec: Codec) -> U8:
    """Pack an array without loss.

    Args:
        array: of numbers or bool, little-endian, any shape.
        codec: what kind of array it is; any codec packs any array, only not to the same size.

    Returns:
        (n,) uint8.
    """
    ordered = np.ascontiguousarray(_channels_last(array) if codec == "grid" else array)
    values = ordered.reshape(-1).view(np.uint8).reshape(array.size, array.itemsize)
    planes = np.empty(values.shape[::-1], np.uint8)
    for byte in range(array.itemsize):  # numpy copies one strided plane much faster than a transposed array
        planes[byte] = values[:, byte]
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, strategy=_STRATEGY[codec])
    data = packer.compress(planes.data) + packer.flush()
    return np.frombuffer(data, np.uint8)


def unpack(packed: U8, codec: str, dtype: str, shape: Sequence[int]) -> npt.NDArray[Any]:
    """The array that `pack` was given, bit for bit.

    No more is ever unpacked than dtype and shape declare, and those are refused when so few bytes cannot hold
    them.

    Args:
        packed: (n,) uint8.
        codec: as packed.
        dtype: numpy's name of the dtype with its byte order, such as ``"<f2"``.
        shape: of the array.

    Returns:
        A writable array, its cells in memory as they are packed: channels of a ``grid`` side by side.

    Raises:
        PackedError: unknown codec or dtype, or the bytes hold anything else than such an array.
    """
    if codec not in _STRATEGY or dtype not in _DTYPES:
        raise PackedError(f"packed as {codec!r} of dtype {dtype!r}, which this version does not know")
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise PackedError(f"packed array of shape {shape!r}")
    kind, size = np.dtype(dtype), math.prod(shape)
    declared = size * kind.itemsize
    if declared > _HIGHEST_RATIO * max(packed.size, 1):
        raise PackedError(f"{packed.size} packed bytes cannot hold the {declared} declared")
    unpacker = _inflater.decompressobj()
    try:
        plain = unpacker.decompress(packed.data, declared + 1)  # one more, so that the end is reached too
    except (zlib.error, _inflater.error) as error:
        raise PackedError(f"packed bytes are damaged: {error}") from error
    if len(plain) != declared or not unpacker.eof or unpacker.unused_data:
        raise PackedError(f"packed bytes do not unpack to the {declared} bytes declared")
    planes = np.frombuffer(plain, np.uint8).reshape(kind.itemsize, size)
    values = planes[-1].astype(f"<u{kind.itemsize}")
    for plane in planes[-2::-1]:  # shifting whole numbers is much faster than writing every second byte
        values <<= 8
        values |= plane
    ordered: npt.NDArray[Any] = values.view(kind)
    if codec == "grid" and len(shape) > 1:
        return np.moveaxis(ordered.reshape(*shape[1:], shape[0]), -1, 0)
    return ordered.reshape(tuple(shape))


def _channels_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.moveaxis(array, 0, -1) if array.ndim > 1 else array
