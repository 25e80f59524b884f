"""Depth images as files: 16-bit PNG, NumPy arrays, OpenEXR.

Formats: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html and
https://openexr.com/en/latest/OpenEXRFileLayout.html. Whole numbers are in a unit the caller knows; floats are
metres unless the caller knows better. Claims of a header are checked against the bytes that are there before
anything is allocated.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scenelift.errors import DataError, one_line
from scenelift.files import read_bytes
from scenelift.image_files import MAX_PIXELS, read_depth_png
from scenelift.scenes.clouds import decode_npy
from scenelift.types import F32

DEPTH_SUFFIXES = (".png", ".npy", ".exr")
REFUSED_SUFFIXES = (".npz", ".tif", ".tiff", ".pfm", ".jpg", ".jpeg")
"""What others store depth in: to tell it from a frame without depth."""

_NO_DEPTH = 65535

_EXR_MAGIC = b"\x76\x2f\x31\x01"
_EXR_UNUSUAL = 0x200 | 0x800 | 0x1000  # tiles, deep data, several parts
_EXR_ROWS = {0: 1, 1: 1, 2: 1, 3: 16, 4: 32, 5: 16, 6: 32, 7: 32, 8: 32, 9: 256}
"""Rows of a chunk by compression: none, RLE, ZIPS, ZIP, PIZ, PXR24, B44, B44A, DWAA, DWAB."""
_EXR_RATIO = 2048
"""No chunk unpacks to more than this many times its size (zlib's limit is 1032)."""
_EXR_DEPTH_NAMES = ("Z", "depth", "Depth", "D", "Y", "V", "R")


def read_depth(path: Path, units_per_metre: float, float_units_per_metre: float = 1.0) -> F32:
    """Read a depth image.

    Args:
        path: ``.png`` (16-bit grey), ``.npy`` (floats or whole numbers) or ``.exr``; told by suffix.
        units_per_metre: of whole numbers.
        float_units_per_metre: of floats.

    Returns:
        (H, W) float32 metres, 0 = no measurement: what was 0, negative, NaN, infinite, or 65535 in 16 bits.

    Raises:
        DataError: missing, truncated, damaged, too large, no depth, or another format.
    """
    stored = _READERS.get(path.suffix.lower(), _refuse)(path)
    return metres(stored, units_per_metre if stored.dtype.kind in "iu" else float_units_per_metre)


def metres(stored: npt.NDArray[Any], units_per_metre: float) -> F32:
    """Depth as stored, (H, W) of any number type, to metres, (H, W) float32; "no measurement" becomes 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        depth_m = stored.astype(np.float32) / np.float32(units_per_metre)
        nothing = ~(np.isfinite(depth_m) & (depth_m > 0))
    if stored.dtype == np.uint16:
        nothing |= stored == _NO_DEPTH
    depth_m[nothing] = 0.0
    return depth_m


def refuse_unknown(paths: Sequence[Path]) -> None:
    """Raise `DataError` that counts depth files of formats that are not read, if there are any."""
    unknown = [path for path in paths if path.suffix.lower() not in DEPTH_SUFFIXES]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(
            f"expected depth as 16-bit PNG, .npy or .exr in {unknown[0].parent}, found "
            f"{unknown[0].name}{more}, which hold floats in another form; save metres as float32 .npy, or "
            "multiply metres by 1000, round, and save as 16-bit grey PNG"
        )


def _refuse(path: Path) -> npt.NDArray[Any]:
    refuse_unknown([path])
    raise AssertionError(path)


# --- NumPy --------------------------------------------------------------------------------------------


def read_npy(path: Path) -> npt.NDArray[Any]:
    """Read a two-dimensional array of numbers, (H, W) or (H, W, 1), without running anything it may hold.

    Returns:
        (H, W) of the file's type.

    Raises:
        DataError: missing, truncated, no .npy, of more pixels than `MAX_PIXELS`, or of another kind.
    """
    array = decode_npy(read_bytes(path, "a depth image (.npy)"), path)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(
            f"expected a (height, width) array of numbers at {path}, found {str(array.dtype)[:40]} of shape "
            f"{array.shape}; save one depth image per file, in float32 metres or whole millimetres"
        )
    _check_size(path, *array.shape)
    return array


# --- OpenEXR ------------------------------------------------------------------------------------------


def read_exr(path: Path) -> F32:
    """Read the depth channel of an OpenEXR image: its only one, or Z, depth, D, Y, V, or R.

    Returns:
        (H, W) float32 as stored.

    Raises:
        DataError: missing, damaged, larger than its bytes can hold, tiled, deep or of several parts, without
            such a channel, or the package OpenEXR is not installed.
    """
    data = read_bytes(path, "a depth image (.exr)")
    try:
        import OpenEXR
    except ImportError:
        raise DataError(
            f'expected the package OpenEXR to read {path}, found none; pip install "scenelift[formats]"'
        ) from None
    shape = _exr_shape(data, path)
    try:
        with OpenEXR.File(io.BytesIO(data), separate_channels=True) as file:
            pixels = {name: channel.pixels for name, channel in file.channels().items()}
    except Exception as error:  # the package raises what it likes: RuntimeError, ValueError, TypeError, ...
        raise DataError(
            f"expected an OpenEXR image at {path}, found it damaged ({one_line(error)}); export it again"
        ) from None
    name = next(iter(pixels)) if len(pixels) == 1 else _depth_channel(list(pixels))
    if (
        name is None
        or pixels[name] is None
        or pixels[name].shape != shape
        or pixels[name].dtype.kind not in "fu"
    ):
        raise DataError(
            f"expected one channel of depth, or one named Z, at {path}, found {', '.join(pixels)[:80]} "
            f"for {shape[1]} × {shape[0]}; export depth alone"
        )
    return np.asarray(pixels[name], dtype=np.float32)


def _depth_channel(names: list[str]) -> str | None:
    """The channel that holds depth; renderers may put a layer's name before it: ``ViewLayer.Depth.Z``."""
    for wanted in _EXR_DEPTH_NAMES:
        for name in names:
            if name == wanted or name.endswith(f".{wanted}"):
                return name
    return None


def _exr_shape(data: bytes, path: Path) -> tuple[int, int]:
    """(H, W) as the header claims, if the file can hold so much; the package would allocate it unseen."""
    attributes = _exr_attributes(data)
    flags = int.from_bytes(data[4:8], "little")
    window = attributes.get(b"dataWindow", (b"", 0))[0]
    compression = attributes.get(b"compression", (b"", 0))[0]
    channels = attributes.get(b"channels", (b"", 0))[0]
    if len(window) != 16 or len(compression) != 1 or not channels or flags & _EXR_UNUSUAL:
        what = (
            "tiles, deep data or several parts"
            if flags & _EXR_UNUSUAL
            else f"{data[:8]!r} and no such header"
        )
        raise DataError(
            f"expected a plain OpenEXR image (one part, scan lines) at {path}, found {what}; export it again"
        )
    x0, y0, x1, y1 = struct.unpack("<4i", window)
    width, height = x1 - x0 + 1, y1 - y0 + 1
    _check_size(path, height, width)
    rows = _EXR_ROWS.get(compression[0], 1)
    # One channel of half floats at least: two bytes per pixel, packed as well as can be; a table of offsets.
    chunks = math.ceil(height / rows)
    least = chunks * 16 + (width * height * 2 // (1 if compression[0] == 0 else _EXR_RATIO))
    if least > len(data):
        raise DataError(
            f"expected at least {least:,} bytes for {width} × {height} pixels at {path}, "
            f"found {len(data):,}; the file is cut off or damaged: export it again"
        )
    return height, width


def _exr_attributes(data: bytes) -> dict[bytes, tuple[bytes, int]]:
    """Attributes of the first header by name: value and where it begins."""
    attributes: dict[bytes, tuple[bytes, int]] = {}
    at = 8
    while data.startswith(_EXR_MAGIC) and at < len(data) and data[at] != 0:
        name_end = data.find(b"\0", at, at + 256)
        type_end = data.find(b"\0", name_end + 1, name_end + 257)
        if name_end < 0 or type_end < 0 or type_end + 5 > len(data):
            return {}
        size = int.from_bytes(data[type_end + 1 : type_end + 5], "little")
        start = type_end + 5
        if start + size > len(data):
            return {}
        attributes[data[at:name_end]] = data[start : start + size], start
        at = start + size
    return attributes


def _check_size(path: Path, height: int, width: int) -> None:
    if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
        raise DataError(
            f"expected a depth image of 1 to {MAX_PIXELS:,} pixels at {path}, found {width} × {height}; "
            "export it again"
        )


_READERS = {".png": read_depth_png, ".npy": read_npy, ".exr": read_exr}
