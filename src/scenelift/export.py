"""Labels in the forms other programs open: coloured pictures, palette PNG, labelled PLY, a legend."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

from scenelift.classes import ClassTable
from scenelift.errors import DataError
from scenelift.files import atomic_write
from scenelift.image_files import write_png
from scenelift.ply import encode_points
from scenelift.types import F32, IGNORE, U8, U16, Bool

NO_LABEL_COLOR = (64, 64, 64)
"""RGB of pixels and points without a label."""


def label_colors(labels: U8, classes: ClassTable) -> U8:
    """The colour of every label.

    Args:
        labels: uint8 class ids of any shape (...).
        classes: names and colours.

    Returns:
        (..., 3) uint8, RGB; `NO_LABEL_COLOR` for `IGNORE`.

    Raises:
        DataError: an id that is neither a class nor `IGNORE`.
    """
    _expect_known(labels, classes)
    return _palette(classes)[labels]


def overlay(image: U8, labels: U8, classes: ClassTable, alpha: float = 0.55, outlines: bool = True) -> U8:
    """Paint labels over an image; pixels without a label stay as they are.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) uint8 class ids.
        classes: names and colours.
        alpha: share of the class colour, 0 to 1.
        outlines: draw a dark line, one pixel wide, where two labels meet.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataError: sizes differ, or an id that is neither a class nor `IGNORE`.
    """
    if image.shape != (*labels.shape, 3):
        raise DataError(
            f"overlay: expected an RGB image of the labels' size {labels.shape}, found shape {image.shape}"
        )
    colors = label_colors(labels, classes)
    labelled = (labels != IGNORE)[..., None]
    mixed = np.where(labelled, (1 - alpha) * image + alpha * colors, image)
    if outlines:
        mixed[borders(labels)] *= 0.35
    return np.round(mixed).astype(np.uint8)


def borders(ids: U8 | U16) -> Bool:
    """(H, W) bool: pixels whose right or lower neighbour has another id; lines one pixel wide."""
    border = np.zeros(ids.shape, dtype=bool)
    border[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    border[:-1] |= ids[:-1] != ids[1:]
    return border


def write_labelled_ply(
    path: Path,
    points_world: F32,
    labels: U8,
    confidence: F32 | None,
    classes: ClassTable,
    rgb: U8 | None = None,
) -> None:
    """Write a point cloud with a ``label`` per point, and ``confidence`` if there is one.

    The header's comments hold the class names, one ``comment class <id> <name>`` each (PLY headers are
    ASCII: other letters are written as ``\\u....``), so that the file can be read without this library.

    Args:
        path: where to; replaced if it exists.
        points_world: (N, 3) float32, metres.
        labels: (N,) uint8 class ids, `IGNORE` where there is none.
        confidence: (N,) float32 in [0, 1], or ``None``.
        classes: names and colours.
        rgb: (N, 3) uint8 colours to write; ``None`` = the colours of the classes.

    Raises:
        DataError: an id that is neither a class nor `IGNORE`.
        OutputError: the file cannot be written.
    """
    colors = label_colors(labels, classes)
    extra: dict[str, U8 | F32] = {"label": labels}
    if confidence is not None:
        extra["confidence"] = confidence
    data = encode_points(points_world, colors if rgb is None else rgb, extra)
    comments = [f"class {i} {name}" for i, name in enumerate(classes.names)] + [f"class {IGNORE} (no label)"]
    text = "".join(f"comment {' '.join(line.split())}\n" for line in comments)
    start = data.index(b"\n", data.index(b"format ")) + 1  # comments may stand anywhere below this line
    atomic_write(path, data[:start] + text.encode("ascii", "backslashreplace") + data[start:])


def write_label_png(path: Path, labels: U8, classes: ClassTable) -> None:
    """Write labels as a palette PNG: pixel values are class ids (`IGNORE` = none), viewers show the colours.

    Args:
        path: where to; replaced if it exists.
        labels: (H, W) uint8 class ids.
        classes: names and colours.

    Raises:
        DataError: an id that is neither a class nor `IGNORE`.
        OutputError: the file cannot be written.
    """
    _expect_known(labels, classes)
    write_png(path, labels, palette=_palette(classes))


def write_legend(path: Path, classes: ClassTable) -> None:
    """Write id, colour and name of every class as an SVG picture, which any browser opens.

    Raises:
        OutputError: the file cannot be written.
    """
    entries = [*enumerate(classes.names), (IGNORE, "(no label)")]
    palette = _palette(classes)
    rows = [
        f'<g transform="translate(12 {12 + 24 * row})">'
        f'<rect width="18" height="18" rx="3" fill="#{palette[i].tobytes().hex()}"/>'
        f'<text x="54" y="14" text-anchor="end">{i}</text><text x="66" y="14">{escape(name)}</text></g>'
        for row, (i, name) in enumerate(entries)
    ]
    width = 110 + 9 * max(len(name) for _, name in entries)
    height = 24 * len(entries) + 18
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="14" fill="#111">\n'
        '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(rows) + "\n</svg>\n"
    )
    atomic_write(path, svg.encode())


def _palette(classes: ClassTable) -> U8:
    """(256, 3) uint8: the colours of the classes, `NO_LABEL_COLOR` for everything else."""
    palette = np.empty((256, 3), np.uint8)
    palette[:] = NO_LABEL_COLOR
    palette[: len(classes)] = classes.colors
    return palette


def _expect_known(labels: U8, classes: ClassTable) -> None:
    foreign = labels[(labels >= len(classes)) & (labels != IGNORE)]
    if labels.dtype != np.uint8 or foreign.size:
        found = f"{foreign[0]} ({foreign.size:,} times)" if foreign.size else f"dtype {labels.dtype}"
        raise DataError(
            f"labels: expected uint8 ids 0 to {len(classes) - 1} or {IGNORE} (none), found {found}; "
            "do labels and class list belong together?"
        )
