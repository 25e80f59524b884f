"""Intrinsics and poses as text files hold them: for every source."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scenelift.errors import DataError
from scenelift.files import read_bytes
from scenelift.types import F64


def read_intrinsics(path: Path) -> F64:
    """Read pinhole intrinsics, 3×3 or 4×4.

    Returns:
        (3, 3) float64, pixels, without skew.

    Raises:
        DataError: not such a matrix.
    """
    return pinhole(_read_matrix(path, "camera intrinsics", (9, 16)), path)


def pinhole(matrix: F64, where: Path | str) -> F64:
    """A (3, 3) or (4, 4) matrix as exact pinhole intrinsics, (3, 3) without skew.

    Raises:
        DataError: it is none; ``where`` stands in the message.
    """
    matrix = matrix[:3, :3]
    fx, fy = matrix[0, 0], matrix[1, 1]
    # Depth is carried over to colour row by row and column by column, which a skew would not allow.
    pattern = np.array([[fx, 0.0, matrix[0, 2]], [0.0, fy, matrix[1, 2]], [0.0, 0.0, 1.0]])
    if not (
        np.isfinite(matrix).all() and min(fx, fy) > 0 and np.allclose(matrix, pattern, rtol=0, atol=1e-6)
    ):
        raise DataError(
            f"expected intrinsics [fx 0 cx; 0 fy cy; 0 0 1] in pixels at {where}, found {matrix.tolist()}; "
            "check the file's order of rows and its units"
        )
    return pattern


def read_pose(path: Path) -> F64:
    """Read a 4×4 matrix as it stands in the file; entries may be NaN or infinite. Raises `DataError`."""
    return _read_matrix(path, "a camera pose", (16,))


def _read_matrix(path: Path, what: str, sizes: tuple[int, ...]) -> F64:
    text = read_bytes(path, what).decode("utf-8-sig", errors="replace").replace(",", " ")
    try:
        numbers = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise DataError(
            f"expected {what} as plain numbers at {path}, found something else ({error}); "
            "export the file again"
        ) from None
    if len(numbers) not in sizes:
        shapes = " or ".join(f"{int(size**0.5)}×{int(size**0.5)}" for size in sizes)
        raise DataError(
            f"expected {what} of {shapes} numbers at {path}, found {len(numbers)} numbers; export it again"
        )
    edge = int(len(numbers) ** 0.5)
    return numbers.reshape(edge, edge)
