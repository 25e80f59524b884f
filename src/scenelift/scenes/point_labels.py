"""Files of one label per point: SemanticKITTI's .label, nuScenes-lidarseg's .bin, NumPy's .npy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scenelift.errors import DataError
from scenelift.files import read_bytes
from scenelift.scenes.clouds import decode_npy
from scenelift.types import I64, U16


def read_point_labels(path: Path, count: int) -> tuple[I64, U16 | None]:
    """Raw class ids of the points of a cloud.

    - ``.label``: little-endian uint32, class in the low 16 bits, instance in the high 16
      (http://semantic-kitti.org/dataset.html);
    - ``.bin``: uint8 or uint16 ids, or as ``.label``: whichever gives ``count`` labels;
    - ``.npy``: (N,) of any integer type.

    Args:
        path: the file.
        count: rows of the cloud's file, dropped ones too.

    Returns:
        ids: (count,) int64.
        instances: (count,) uint16, 0 = none; ``None`` where the file has none.

    Raises:
        DataError: missing, damaged, or another number of labels than ``count``.
    """
    data = read_bytes(path, "labels of points")
    if path.suffix.lower() == ".npy":
        array = decode_npy(data, path)
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise DataError(
                f"expected whole numbers of shape (N,) at {path}, found {array.dtype} of shape "
                f"{array.shape}; save one class id per point"
            )
        _expect_count(len(array), count, path)
        return array.astype(np.int64), None
    sizes = (4,) if path.suffix.lower() == ".label" else (1, 2, 4)
    size = next((size for size in sizes if len(data) == size * count), sizes[0])
    _expect_count(len(data) / size, count, path)
    numbers = np.frombuffer(data, f"<u{size}")
    if size < 4:
        return numbers.astype(np.int64), None
    instances = (numbers >> 16).astype(np.uint16)
    return (numbers & 0xFFFF).astype(np.int64), instances if instances.any() else None


def _expect_count(found: float, count: int, path: Path) -> None:
    if found != count:
        raise DataError(
            f"expected {count:,} labels at {path}, one for each point of its cloud, found {found:,.10g}; "
            "take the labels of this cloud, whole"
        )
