"""Reading and writing images, with nothing taken on trust and nothing lost silently.

Formats are PNG and JPEG alone. What a header claims is held against the bytes that are there before anything
is decoded; a damaged file is a `DataError` that names it, never a grey image.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from scenelift.errors import DataError, one_line
from scenelift.files import atomic_write, read_bytes
from scenelift.types import U8, U16

_IMAGE = "a PNG or JPEG image"

MAX_PIXELS = 1 << 27
"""Images that claim more pixels than this (134 million) are refused before anything is decoded."""

_MOST_PACKED = 1032
"""Bytes that one byte unpacks to at most: deflate's limit. JPEG spends a bit or more on 64 pixels: 512."""

# Warnings, of damaged EXIF data, are raised where a program makes them errors.
IMAGE_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    OverflowError,
    struct.error,
    zlib.error,
    Warning,
)
"""What Pillow's readers raise on damaged files."""


def read_rgb(path: Path, size: tuple[int, int] | None = None) -> U8:
    """Read a PNG or JPEG image as RGB, if asked to scaled to ``size`` (H, W), a pixel its area's mean.

    Grey and palette images are expanded, an alpha channel is dropped. An EXIF orientation is *not* applied:
    camera intrinsics refer to the pixels as they are stored.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: missing, truncated, damaged, larger than `MAX_PIXELS`, not 8-bit, or no PNG or JPEG.
    """
    return decode_rgb(read_bytes(path, _IMAGE), str(path), size=size)


def decode_rgb(
    data: bytes, where: str, shape: tuple[int, int] | None = None, size: tuple[int, int] | None = None
) -> U8:
    """The same for an image that lies in memory or inside another file.

    Args:
        data: a whole PNG or JPEG file.
        where: for messages.
        shape: (H, W) it has to have, if that is known; another one is refused before it is decoded.
        size: as for `read_rgb`.
    """
    image = decode_image(data, where, _IMAGE, shape)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise DataError(
            f"expected an 8-bit colour or grey image at {where}, found mode {image.mode}"
            f"{' (16-bit grey, as in depth images)' if image.mode.startswith('I') else ''}; "
            "check the folder or convert it to RGB"
        )
    image.info.pop("transparency", None)  # Pillow would warn that it is lost; here that is what is wanted
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if size is not None and size != (rgb.height, rgb.width):
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BOX)
    return np.array(rgb)


def read_depth_png(path: Path) -> U16:
    """Read a 16-bit grey PNG as it is; its unit (often millimetres) is the caller's to know.

    Returns:
        (H, W) uint16.

    Raises:
        DataError: missing, truncated, damaged, or any other kind of image.
    """
    expected = "a depth image (16-bit grey PNG)"
    data = read_bytes(path, expected)
    image = decode_image(data, path, expected)
    if not isinstance(image, PngImageFile):
        raise DataError(f"expected {expected} at {path}, found a JPEG; its loss would falsify depth")
    # Bit depth and colour type stand at fixed places; Pillow's names for 16-bit modes vary by version.
    bits, colour = data[24:26]
    if (bits, colour) != (16, 0):
        kind = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}.get(colour, "?")
        raise DataError(
            f"expected {expected} at {path}, found {bits}-bit {kind}; "
            "export depth as 16-bit integers (for example millimetres), not as a picture of depth"
        )
    return np.array(image).astype(np.uint16)


def decode_image(
    data: bytes, where: Path | str, what: str, shape: tuple[int, int] | None = None
) -> Image.Image:
    """Decode a whole PNG or JPEG, or raise `DataError` that says ``where`` and ``what`` was expected.

    The plugins are called directly and not through ``Image.open``, which would also accept other formats
    and only warn of images that unpack to gigabytes.
    """
    plugin = {b"\x89PN": PngImageFile, b"\xff\xd8\xff": JpegImageFile}.get(data[:3])
    if plugin is None:
        raise DataError(f"expected {what} at {where}, found a file that begins with {data[:8]!r}; convert it")
    # IndexError: Pillow's, for a PNG without image data.
    try:
        if plugin is PngImageFile:
            PngImageFile(io.BytesIO(data)).verify()  # checksums: load() alone overlooks flipped bits
        image = plugin(io.BytesIO(data))
        if image.width * image.height <= MAX_PIXELS and shape in (None, (image.height, image.width)):
            least_bits = {"1": 1, "P": 1, "L": 2}.get(image.mode, 8) if plugin is PngImageFile else 8
            if image.width * image.height * least_bits <= 8 * _MOST_PACKED * len(data):
                image.load()
                return image
            raise ValueError(f"{image.width} × {image.height} pixels cannot be in {len(data):,} bytes")
    except IMAGE_FAULTS as error:
        raise DataError(
            f"expected {what} at {where}, found it truncated or damaged ({one_line(error)}); "
            "copy or export it again"
        ) from error
    if shape is not None and image.width * image.height <= MAX_PIXELS:
        raise DataError(
            f"expected {what} of {shape[1]} × {shape[0]} pixels at {where}, "
            f"found {image.width} × {image.height}; export it again in its own size"
        )
    raise DataError(
        f"expected {what} of at most {MAX_PIXELS:,} pixels at {where}, "
        f"found {image.width} × {image.height}; scale it down"
    )


def write_png(path: Path, array: U8 | U16, palette: U8 | None = None) -> None:
    """Write a PNG without loss.

    Args:
        path: where to; replaced if it exists.
        array: (H, W) uint8 or uint16 for grey, (H, W, 3) uint8 for RGB.
        palette: (C, 3) uint8 colours, C <= 256, for (H, W) uint8 arrays: pixel values are kept as they
            are and shown in these colours; values from C on (`IGNORE`) are shown black.

    Raises:
        OutputError: it cannot be written.
        ValueError: an array of another kind.
    """
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    rgb = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    if not (grey or rgb) or array.size == 0:
        raise ValueError(f"expected a grey or RGB image, found {array.dtype} of shape {array.shape}")
    image = Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        if array.ndim != 2 or array.dtype != np.uint8 or palette.shape[1:] != (3,) or len(palette) > 256:
            raise ValueError(
                f"expected (H, W) uint8 with a palette of (C <= 256, 3), "
                f"found {array.dtype} of shape {array.shape} with {palette.shape}"
            )
        full = np.zeros((256, 3), np.uint8)  # a shorter one would make Pillow write fewer bits per pixel
        full[: len(palette)] = palette
        image.putpalette(full.tobytes())
    _write_image(path, image, "PNG")


def write_jpeg(path: Path, rgb: U8, quality: int = 92) -> None:
    """Write (H, W, 3) uint8 as JPEG. Raises `OutputError` if it cannot be written."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"expected (H, W, 3) uint8, found {rgb.dtype} of shape {rgb.shape}")
    _write_image(path, Image.fromarray(np.ascontiguousarray(rgb)), "JPEG", quality=quality)


def _write_image(path: Path, image: Image.Image, file_format: str, **options: int) -> None:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    atomic_write(path, buffer.getvalue())
