"""COCO's compressed run lengths: masks as short strings, in which nuImages stores its annotations.

A mask is read column by column (Fortran order) as runs of 0, 1, 0, 1, ... pixels, the first maybe empty. From
the fourth on a run is written as its difference to the run two before. Each number is cut into groups of five
bits, lowest first; a group is one character, 48 + bits, plus 32 where more groups follow; the highest bit of
the last group is the sign. The format is defined by its code:
https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c (rleToString, rleFrString).

That code trusts its input. Here every claim is checked before memory is taken for it.
"""

from __future__ import annotations

import numpy as np

from scenelift import image_files
from scenelift.errors import DataError
from scenelift.types import I64, U8, U16, Bool

_FIRST, _LAST = 48, 48 + 63
_MORE, _SIGN, _BITS = 0x20, 0x10, 5
_MOST_GROUPS = 7
"""Of one number: 35 bits, so that no sum of any number of them that fits into memory leaves 64 bits."""


def decode_runs(text: bytes, shape: tuple[int, int], where: str) -> I64:
    """The runs of a compressed mask.

    Args:
        text: COCO's compressed string (not base64).
        shape: (H, W) of the mask.
        where: for messages.

    Returns:
        (R,) int64, lengths of runs of 0, 1, 0, 1, ...; none negative, together H·W.

    Raises:
        DataError: no such string, or of a mask of another size.
    """
    height, width = shape
    if not (height > 0 and width > 0 and height * width <= image_files.MAX_PIXELS):
        raise _wrong(f"a mask of {width} × {height} pixels", where)
    codes = np.frombuffer(text, np.uint8)
    if not len(codes):
        raise _wrong("an empty string", where)
    bad = (codes < _FIRST) | (codes > _LAST)
    if bad.any():
        at = int(bad.argmax())
        raise _wrong(f"character {codes[at]} at place {at}", where)
    runs = _numbers(codes - np.uint8(_FIRST), where)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0:
        raise _wrong(f"a run of {int(runs.min())} pixels", where)
    # Runs may each be large enough for their sum to leave 64 bits, so the largest is looked at first.
    if runs.max() > height * width or int(runs.sum()) != height * width:
        found = "more" if runs.max() > height * width else f"{int(runs.sum()):,}"
        raise _wrong(f"runs of {found} pixels together, not {width} × {height}", where)
    return runs


def _numbers(groups: U8, where: str) -> I64:
    """The signed numbers that groups of five bits spell, (R,) int64."""
    last = (groups & _MORE) == 0
    if not last[-1]:
        raise _wrong("a string that is cut off", where)
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if int(lengths.max()) > _MOST_GROUPS:
        raise _wrong(f"a number of {int(lengths.max())} groups", where)
    numbers = np.zeros(len(ends), np.int64)
    for place in range(int(lengths.max())):
        has = lengths > place
        numbers[has] |= (groups[starts[has] + place].astype(np.int64) & 0x1F) << (_BITS * place)
    negative = (groups[ends] & _SIGN) != 0
    numbers[negative] -= np.int64(1) << (_BITS * lengths[negative])
    return numbers


def paint(image: U8 | U16 | Bool, runs: I64, value: int) -> None:
    """Set the pixels of a mask.

    Args:
        image: (H, W), changed in place; quick when it is in Fortran order (``np.full(..., order="F")``).
        runs: as `decode_runs` gives them for (H, W).
        value: for the pixels of runs of 1.
    """
    runs = runs[: len(runs) // 2 * 2]  # a last run of 0 sets nothing
    if not len(runs):
        return
    start = int(runs[0])
    inside = np.repeat(np.arange(1, len(runs)) % 2 == 1, runs[1:])
    # Only a view, of the pixels column by column, can be written through.
    flat = image.T.reshape(-1) if image.flags.f_contiguous else image.flatten(order="F")
    flat[start : start + len(inside)][inside] = value
    if not image.flags.f_contiguous:
        image[...] = flat.reshape(image.shape, order="F")


def decode_mask(text: bytes, shape: tuple[int, int], where: str) -> Bool:
    """The mask of a compressed string, (H, W) bool in Fortran order. Raises `DataError` as `decode_runs`."""
    runs = decode_runs(text, shape, where)
    mask = np.zeros(shape, bool, order="F")
    paint(mask, runs, 1)
    return mask


def encode_mask(mask: Bool) -> bytes:
    """The compressed string of an (H, W) mask of at least one pixel, as COCO's own code writes it."""
    flat = mask.astype(bool).flatten(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], [0] if flat[0] else [], changes, [flat.size]]).astype(np.int64)
    runs = np.diff(bounds)
    numbers = runs.copy()
    numbers[3:] -= runs[1:-2]
    text = bytearray()
    for number in numbers.tolist():
        more = True
        while more:
            group, number = number & 0x1F, number >> _BITS
            more = number != (-1 if group & _SIGN else 0)
            text.append(_FIRST + group + (_MORE if more else 0))
    return bytes(text)


def _wrong(found: str, where: str) -> DataError:
    return DataError(
        f"expected a mask in COCO's compressed run lengths in {where}, found {found}; "
        "copy or download the file again"
    )
