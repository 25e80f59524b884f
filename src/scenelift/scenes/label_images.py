"""Label images: PNG files whose pixels are ids; and how large an image is without decoding it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from scenelift.errors import DataError, one_line
from scenelift.files import open_bytes, read_bytes
from scenelift.image_files import IMAGE_FAULTS, decode_image
from scenelift.types import U8


def read_label_png(path: Path) -> U8:
    """Read an 8-bit grey PNG, or one with a palette, as the ids it holds.

    Returns:
        (H, W) uint8.

    Raises:
        DataError: missing, truncated, damaged, or any other kind of image.
    """
    expected = "a label image (8-bit grey PNG)"
    data = read_bytes(path, expected)
    image = decode_image(data, path, expected)
    if not isinstance(image, PngImageFile):
        raise DataError(f"expected {expected} at {path}, found a JPEG; its loss would falsify labels")
    # Pillow stretches grey of 1, 2 or 4 bits to the range of 8, which would falsify ids; not so palettes.
    if image.mode not in ("L", "P") or (image.mode == "L" and data[24] != 8):
        kind = f"{data[24]}-bit grey" if image.mode in ("1", "L") else f"mode {image.mode}"
        raise DataError(f"expected {expected} at {path}, found {kind}; export ids of one byte, not colours")
    return np.array(image)


def read_image_shape(path: Path) -> tuple[int, int]:
    """(H, W) as the header of a PNG or JPEG file says, without decoding it.

    Raises:
        DataError: missing, or no such file.
    """
    try:
        with open_bytes(path) as stream:
            plugin = {b"\x89PN": PngImageFile, b"\xff\xd8\xff": JpegImageFile}.get(stream.read(3))
            stream.seek(0)
            if plugin is not None:
                with plugin(stream) as image:
                    return image.height, image.width
    except FileNotFoundError:
        raise DataError(f"expected an image at {path}, found no such file; check the path") from None
    except IMAGE_FAULTS as error:
        raise DataError(
            f"expected a PNG or JPEG image at {path}, found it truncated or damaged ({one_line(error)}); "
            "copy or export it again"
        ) from error
    raise DataError(f"expected a PNG or JPEG image at {path}, found another kind of file; convert it")
