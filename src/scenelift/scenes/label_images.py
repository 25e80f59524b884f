"""Label images: PNG files whose pixels are ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from scenelift.errors import DataError
from scenelift.files import decode_image, read_bytes
from scenelift.types import U8


def read_label_png(path: Path) -> U8:
    """Read an 8-bit grey or palette PNG as the ids it holds.

    Returns:
        (H, W) uint8.

    Raises:
        DataError: missing, truncated, damaged, or any other kind of image.
    """
    expected = "a label image (8-bit grey PNG)"
    image = decode_image(read_bytes(path, expected), path, expected)
    if not isinstance(image, PngImageFile):
        raise DataError(f"expected {expected} at {path}, found a JPEG; its loss would falsify labels")
    if image.mode not in ("L", "P"):
        raise DataError(
            f"expected {expected} at {path}, found mode {image.mode}; export ids of one byte, not colours"
        )
    return np.array(image)
