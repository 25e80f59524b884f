"""Frames in the panoptic format of COCO: a PNG of segment ids beside an image, and one JSON of all.

Format: https://cocodataset.org/#format-data, panoptic segmentation. A network of this library knows classes
and no objects, so a segment is a connected region of one class (neighbours over corners too), and two chairs
that touch are one.
"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from scenelift.classes import ClassTable
from scenelift.files import read_json, safe_name, write_json
from scenelift.formats.base import Format, Target
from scenelift.image_files import write_jpeg, write_png
from scenelift.types import I64, IGNORE, U8, Frame, Prediction, Scene


class Coco(Format):
    """``coco/panoptic.json``, ``coco/panoptic/<scene>/<frame>.png`` and ``coco/images/<scene>/<frame>.jpg``.

    ``coco/scenes/<scene>.json`` is the same for one scene alone.
    """

    wants_frames = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._folder = target.out / "coco"
        counts = [target.source.frame_count(name) for name in target.names]
        self._first_id = dict(zip(target.names, accumulate([1, *counts]), strict=False))
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def places(self, scene: str) -> tuple[Path, ...]:
        """The scene's own JSON, and its folders."""
        name = safe_name(scene)
        return (self._json(scene), self._folder / "panoptic" / name, self._folder / "images" / name)

    def _json(self, scene: str) -> Path:
        return self._folder / "scenes" / f"{safe_name(scene)}.json"

    def frame(self, scene: Scene, frame: Frame, prediction: Prediction) -> None:
        """Write the image, and its segments as a PNG."""
        stem = f"{safe_name(scene.name)}/{safe_name(frame.name)}"
        ids, segments = segments_of(prediction.labels)
        write_png(self._folder / "panoptic" / f"{stem}.png", as_rgb(ids))
        write_jpeg(self._folder / "images" / f"{stem}.jpg", frame.image, quality=95)
        number = self._first_id[scene.name] + len(self._images)
        size = {"height": frame.height, "width": frame.width}
        self._images.append({"id": number, "file_name": f"{stem}.jpg", **size})
        self._annotations.append({"image_id": number, "file_name": f"{stem}.png", "segments_info": segments})

    def end(self, scene: Scene) -> None:
        """Write the scene's JSON."""
        if self._images:
            write_json(self._json(scene.name), self._tree(self._images, self._annotations))
        self._images, self._annotations = [], []

    def finish(self) -> None:
        """Write the JSON of all scenes."""
        parts = [read_json(place) for place in map(self._json, self.target.names) if place.is_file()]
        merged = [[row for part in parts for row in part[key]] for key in ("images", "annotations")]
        write_json(self._folder / "panoptic.json", self._tree(*merged))

    def _tree(self, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "info": {"description": "labels predicted by scenelift; a segment is a region of one class"},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": _categories(self.target.classes),
        }


def segments_of(labels: U8) -> tuple[I64, list[dict[str, Any]]]:
    """Connected regions of one class, 8-connected.

    Args:
        labels: (H, W) uint8 class ids, `IGNORE` where there is none.

    Returns:
        ids: (H, W) int64 segment ids from 1 on, 0 = no label.
        segments: one for each id in turn, with ``category_id`` (class id + 1), ``area`` in pixels and
            ``bbox`` ``[x, y, width, height]`` in pixels.
    """
    from skimage.measure import label as connected

    found = connected(labels.astype(np.int32), background=IGNORE, connectivity=2)  # type: ignore[no-untyped-call]
    ids: I64 = found.astype(np.int64)
    areas = np.bincount(ids.reshape(-1))
    segments = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(ids), start=1):
        inside = ids[rows, columns] == number
        box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
        category = int(labels[rows, columns][inside][0]) + 1
        about = {"id": number, "category_id": category, "area": int(areas[number]), "bbox": box}
        segments.append({**about, "iscrowd": 0})
    return ids, segments


def as_rgb(ids: I64) -> U8:
    """(H, W) ids below 2²⁴ as (H, W, 3) uint8: id = R + 256 G + 65536 B."""
    return np.stack([ids >> shift & 0xFF for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def _categories(classes: ClassTable) -> list[dict[str, Any]]:
    """All count as things: of a class that does not, COCO allows one segment an image."""
    rows = zip(classes.names, classes.colors.tolist(), strict=True)
    return [
        {"id": number, "name": name, "supercategory": name, "isthing": 1, "color": color}
        for number, (name, color) in enumerate(rows, start=1)
    ]
