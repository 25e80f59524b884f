"""Qualitative rows: pictures as data URIs, within a budget, in aligned columns."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from scenelift.report.data import Picture
from scenelift.report.markup import Markup, join, tag
from scenelift.types import U8

_LEVELS = ((480, 85), (400, 80), (320, 75), (240, 70), (160, 60))
"""(widest panel in pixels, JPEG quality), tried in turn until a group fits its budget."""


def picture_rows(pictures: Sequence[Picture], kind: str, budget_bytes: int) -> Markup:
    """A group of qualitative rows, panels of one caption in one column.

    Args:
        pictures: the rows.
        kind: for alternative texts, "image" or "point cloud".
        budget_bytes: most bytes of HTML for all pictures; they are made smaller to fit, and rows are left
            out, with a word about it, when even the smallest do not.
    """
    captions = list(dict.fromkeys(caption for picture in pictures for caption, _ in picture.panels))
    rows: list[Markup] = []
    for width, quality in _LEVELS:
        rows = [_row(picture, captions, kind, width, quality) for picture in pictures]
        if sum(map(len, rows)) <= budget_bytes:
            break
    sizes = np.cumsum([len(row) for row in rows])
    kept = int(np.searchsorted(sizes, budget_bytes, side="right"))
    head = [tag("div", caption, class_="caption") for caption in captions]
    grid = tag(
        "div",
        tag("div", *head, class_="panels head", aria_hidden="true"),
        *rows[:kept],
        class_="pictures",
        style=f"--columns:{len(captions)}",
    )
    left_out = tag("p", f"{len(rows) - kept} more rows are left out to keep this file small.", class_="muted")
    return join(grid, left_out if kept < len(rows) else "")


def data_uri(image: U8, widest: int, quality: int) -> str:
    """A picture as a ``data:`` URI, no wider than ``widest`` pixels.

    Pictures of few colours (label maps) become palette PNGs and keep their sharp edges, others JPEG.

    Args:
        image: (H, W, 3) uint8, RGB.
        widest: in pixels; smaller pictures keep their size.
        quality: of a JPEG.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    flat = picture.getcolors(maxcolors=256) is not None
    if picture.width > widest:
        height = max(1, round(picture.height * widest / picture.width))
        resample = Image.Resampling.NEAREST if flat else Image.Resampling.LANCZOS
        picture = picture.resize((widest, height), resample)
    buffer = io.BytesIO()
    if flat:
        _to_palette(picture).save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
    kind = "png" if flat else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _to_palette(picture: Image.Image) -> Image.Image:
    """A picture of at most 256 colours as a palette image, exactly."""
    pixels = np.asarray(picture)
    colors, index = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    indexed = Image.fromarray(index.reshape(pixels.shape[:2]).astype(np.uint8))
    indexed.putpalette(colors.tobytes())
    return indexed


def _row(picture: Picture, captions: Sequence[str], kind: str, width: int, quality: int) -> Markup:
    panels = dict(picture.panels)
    cells = [
        _panel(panels[caption], caption, picture.title, kind, width, quality)
        if caption in panels
        else tag("div", class_="empty")
        for caption in captions
    ]
    return tag("section", tag("h4", picture.title), tag("div", *cells, class_="panels"), class_="picture")


def _panel(image: U8, caption: str, title: str, kind: str, width: int, quality: int) -> Markup:
    shown = tag(
        "img",
        src=data_uri(image, width, quality),
        alt=f"{kind} {title}: {caption}",
        width=image.shape[1],
        height=image.shape[0],
        loading="lazy",
        decoding="async",
    )
    return tag("figure", shown, tag("figcaption", caption))
