"""A contact sheet: what the teachers said of some frames, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from scenelift.annotations import Annotations
from scenelift.classes import ClassTable
from scenelift.export import NO_LABEL_COLOR, borders, overlay
from scenelift.image_files import write_jpeg
from scenelift.labels import refine
from scenelift.scenes import SceneSource
from scenelift.types import IGNORE, U8, U16

COLUMNS = ("image", "masks", "teacher labels", "refined labels")

_PANEL_WIDTH = 360
_TALLEST = 480
"""Panels of upright frames are narrowed to this height, in pixels."""
_GAP = 6
_TEXT_PX = 15
_LINE = 24
_PAPER, _INK, _FAINT = (250, 250, 248), (30, 30, 30), (110, 110, 110)
_MOST_ROWS = 40
"""More frames than this make a sheet that JPEG and viewers cannot hold."""


def spread_frames(counts: Sequence[int], number: int) -> list[tuple[int, int]]:
    """Choose frames evenly over scenes and frames.

    Args:
        counts: frames of each scene.
        number: how many to choose; all there are if those are fewer.

    Returns:
        (scene, frame) indices in order, each once.
    """
    total = sum(counts)
    # the middles of equal parts: neither the first nor the last frame, which are often blurred or dark
    places = [(2 * i + 1) * total // (2 * number) for i in range(number)] if number < total else range(total)
    ends = np.cumsum(counts)
    scenes = np.searchsorted(ends, places, side="right")
    return [(int(s), int(p - (ends[s] - counts[s]))) for s, p in zip(scenes, places, strict=True)]


def write_preview(
    path: Path,
    source: SceneSource,
    names: Sequence[str],
    classes: ClassTable,
    annotations: Annotations,
    number: int,
) -> int:
    """Draw a contact sheet as JPEG: for some frames the image, masks, labels, and refined labels.

    Everything comes from the cache; no teacher is asked. The same annotations give the same file.

    Args:
        path: where to; replaced if it exists.
        source: the data set.
        names: scenes to choose frames from.
        classes: names and colours of the labels.
        annotations: of these scenes.
        number: of frames, at least 1; at most 40 are shown.

    Returns:
        How many frames are shown.

    Raises:
        OutputError: it cannot be written.
        DataError: a frame cannot be read.
        CacheError: an annotation is missing.
    """
    chosen = spread_frames([source.frame_count(name) for name in names], min(number, _MOST_ROWS))
    rows: list[_Row] = []
    for scene_index in dict.fromkeys(scene for scene, _ in chosen):
        name = names[scene_index]
        frames = source.scene(name).frames
        for frame_index in (frame for scene, frame in chosen if scene == scene_index):
            frame = frames[frame_index]
            labels = annotations.labels(name, frame.name)
            ids = annotations.mask_ids(name, frame.name)
            refined = _refined(labels, ids, len(classes))
            panels = (
                frame.image,
                mask_colors(ids),
                overlay(frame.image, labels, classes),
                overlay(frame.image, refined, classes),
            )
            unlabelled = bool((labels == IGNORE).any())
            rows.append(_Row(frame.key, [_shrunk(panel) for panel in panels], unlabelled))
    write_jpeg(path, _sheet(rows, classes))
    return len(rows)


def mask_colors(ids: U16) -> U8:
    """(H, W, 3) uint8: a colour for each mask id, always the same; dark outlines; black where uncovered."""
    colors = np.random.default_rng(0).integers(64, 256, (1 << 16, 3), dtype=np.uint8)
    colors[0] = 0
    picture = colors[ids]
    picture[borders(ids)] = 0
    return picture


@dataclass(frozen=True, eq=False)
class _Row:
    name: str
    panels: list[Image.Image]
    has_unlabelled: bool


def _refined(labels: U8, ids: U16, num_classes: int) -> U8:
    voted = refine(torch.from_numpy(labels)[None], torch.from_numpy(ids.astype(np.int32))[None], num_classes)
    return voted[0].byte().numpy()


def _shrunk(picture: U8) -> Image.Image:
    """A panel; thin outlines and labels are averaged, which reads better than every n-th pixel."""
    height, width = picture.shape[:2]
    factor = min(_PANEL_WIDTH / width, _TALLEST / height)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)


def _sheet(rows: Sequence[_Row], classes: ClassTable) -> U8:
    """Title row, a row for each frame with its name above, and the legend."""
    font, small = ImageFont.load_default(_TEXT_PX), ImageFont.load_default(_TEXT_PX - 2)
    width = _GAP + len(COLUMNS) * (_PANEL_WIDTH + _GAP)
    entries = [
        *zip(classes.names, (tuple(map(int, color)) for color in classes.colors), strict=True),
        *([("no label", NO_LABEL_COLOR)] if any(row.has_unlabelled for row in rows) else []),
    ]
    legend = _legend_places([name for name, _ in entries], font, width)
    heights = [_LINE + max(panel.height for panel in row.panels) + _GAP for row in rows]
    legend_top = _GAP + _LINE + sum(heights) + _GAP
    height = legend_top + (legend[-1][1] + 1 if legend else 0) * _LINE + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(COLUMNS):
        draw.text((_left(column), _GAP), title, _INK, font)
    top = _GAP + _LINE
    for row, row_height in zip(rows, heights, strict=True):
        draw.text((_left(0), top + 5), _clipped(row.name, small, width - 2 * _GAP), _FAINT, small)
        for column, panel in enumerate(row.panels):
            sheet.paste(panel, (_left(column), top + _LINE))
        top += row_height
    for (name, color), (x, line) in zip(entries, legend, strict=True):
        y = legend_top + line * _LINE
        draw.rectangle((x, y + 3, x + 16, y + 19), fill=color, outline=_INK)
        draw.text((x + 23, y + 2), _clipped(name, font, width - x - 29), _INK, font)
    return np.asarray(sheet)


def _left(column: int) -> int:
    return _GAP + column * (_PANEL_WIDTH + _GAP)


def _legend_places(
    names: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[tuple[int, int]]:
    """(x in pixels, line) of each swatch, as many in a line as fit."""
    places: list[tuple[int, int]] = []
    x, line = _GAP, 0
    for name in names:
        needed = min(int(font.getlength(name)) + 23 + 20, width - 2 * _GAP)
        if x > _GAP and x + needed > width:
            x, line = _GAP, line + 1
        places.append((x, line))
        x += needed
    return places


def _clipped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int) -> str:
    """The text, its middle left out where it is wider than ``room`` pixels."""
    if font.getlength(text) <= room:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(_without_middle(text, keep)) > room:
        keep -= 1
    return _without_middle(text, keep)


def _without_middle(text: str, keep: int) -> str:
    return f"{text[: keep - keep // 2]}...{text[len(text) - keep // 2 :]}"
