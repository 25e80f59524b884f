"""Images and label images in another size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scenelift.types import U8, U16


def resize_image(image: U8, shape: tuple[int, int]) -> U8:
    """An (H, W, 3) uint8 image in the size of (height, width); each pixel is the mean of its area."""
    if image.shape[:2] == shape:
        return image
    return np.array(Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BOX))


def resize_nearest(array: U8 | U16, shape: tuple[int, int]) -> U8 | U16:
    """Labels or ids, (H, W), in the size of (height, width): of each pixel the value under its centre."""
    if array.shape == shape:
        return array
    rows, columns = (
        np.floor((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for old, new in zip(array.shape, shape, strict=True)
    )
    resized: U8 | U16 = array[rows[:, None], columns]
    return resized
