"""Labelled clouds as LAS 1.4 and LAZ, which surveyors' and GIS programs open.

Format: ASPRS LAS 1.4 specification, https://www.asprs.org/wp-content/uploads/2019/07/LAS_1_4_r15.pdf.
"""

from __future__ import annotations

import io
import math
import unicodedata
from pathlib import Path
from typing import ClassVar

import numpy as np

from scenelift.classes import ClassTable
from scenelift.files import atomic_write, safe_name
from scenelift.formats.base import Format
from scenelift.types import F32, IGNORE, U8, Prediction, Scene

SCALE_M = 1e-4
"""What a coordinate is rounded to: half of it, 0.05 mm, is lost at most."""
_REACH = 2**30
"""Steps on either side of the offset; int32 would hold twice as many."""
_SHORT_NAME = 15  # bytes the specification has for a class
_LOOKUP, _TEXT = 0, 3  # record ids of LASF_Spec


class Las(Format):
    """``<scene>/points.las``."""

    wants_points = True
    suffix: ClassVar[str] = ".las"

    def places(self, scene: str) -> tuple[Path, ...]:
        """The cloud."""
        return (self.target.out / safe_name(scene) / f"points{self.suffix}",)

    def points(self, scene: Scene, prediction: Prediction) -> None:
        """Write the cloud."""
        said = prediction.labels, prediction.confidence
        data = encode_las(
            scene.points_world, scene.rgb, *said, self.target.classes, packed=self.suffix == ".laz"
        )
        atomic_write(self.places(scene.name)[0], data)


class Laz(Las):
    """``<scene>/points.laz``."""

    suffix = ".laz"


def encode_las(
    points_world: F32, rgb: U8 | None, labels: U8, confidence: F32, classes: ClassTable, *, packed: bool
) -> bytes:
    """A whole LAS 1.4 file, point format 7 (with colour) or 6.

    ``classification`` holds the class id, 255 for none: ids of this run, not the codes of ASPRS. The extra
    dimension ``label`` holds the same, ``confidence`` what its name says. The names stand in two records
    of the header: cut to the 15 ASCII characters of the specification's look-up table, and in full as text.

    Args:
        points_world: (N, 3) float32, metres.
        rgb: (N, 3) uint8, or ``None``.
        labels: (N,) uint8 class ids, `IGNORE` where there is none.
        confidence: (N,) float32 in [0, 1].
        classes: names.
        packed: LAZ (needs lazrs).
    """
    import laspy

    header = laspy.LasHeader(point_format=6 if rgb is None else 7, version="1.4")
    header.generating_software = "scenelift"
    header.scales, header.offsets = _grid(points_world)
    header.add_extra_dims(
        [
            laspy.ExtraBytesParams("label", "u1", "class id, 255 = none"),
            laspy.ExtraBytesParams("confidence", "f4", "probability of the class"),
        ]
    )
    header.vlrs.extend(
        [
            laspy.VLR("LASF_Spec", _LOOKUP, "Classification", _lookup(classes)),
            laspy.VLR("LASF_Spec", _TEXT, "Class names", _text(classes)),
        ]
    )
    cloud = laspy.LasData(header)
    if len(points_world):
        cloud.xyz = points_world.astype(np.float64)
        cloud.classification = labels
        cloud["label"], cloud["confidence"] = labels, confidence
        if rgb is not None:  # 16 bits a channel, of which the specification wants all used
            cloud.red, cloud.green, cloud.blue = (rgb.astype(np.uint16) * 257).T
    buffer = io.BytesIO()
    backend = laspy.LazBackend.Lazrs if packed else None
    cloud.write(buffer, do_compress=packed, laz_backend=backend)
    return buffer.getvalue()


def _grid(points_world: F32) -> tuple[list[float], list[float]]:
    """Scale and offset by axis: `SCALE_M` about the middle; coarser for clouds that int32 cannot hold."""
    if not len(points_world):
        return [SCALE_M] * 3, [0.0] * 3
    low, high = points_world.min(0).astype(np.float64), points_world.max(0).astype(np.float64)
    coarse = [
        SCALE_M * 10 ** max(0, math.ceil(math.log10(w / 2 / _REACH / SCALE_M))) for w in high - low if w
    ]
    return [max([SCALE_M, *coarse])] * 3, np.round((low + high) / 2).tolist()


def _lookup(classes: ClassTable) -> bytes:
    """256 rows of a class number and its description, as the specification lays them out."""
    names = {**dict(enumerate(classes.names)), IGNORE: "(no label)"}
    rows = []
    for number in range(256):
        plain = unicodedata.normalize("NFKD", names.get(number, "")).encode("ascii", "ignore")
        rows.append(bytes([number]) + plain[:_SHORT_NAME].ljust(_SHORT_NAME, b"\0"))
    return b"".join(rows)


def _text(classes: ClassTable) -> bytes:
    lines = [f"class {i} {name}" for i, name in enumerate(classes.names)] + [f"class {IGNORE} (no label)"]
    return "\n".join(lines).encode()[: 2**16 - 1]
