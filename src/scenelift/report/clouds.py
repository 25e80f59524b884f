"""Point clouds for the page's own viewer: thinned, quantised, embedded as base64."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scenelift.classes import ClassTable
from scenelift.render import core, plan_axes, splat_radius
from scenelift.report.data import Cloud
from scenelift.report.markup import Markup, data_block, join, tag
from scenelift.report.pictures import data_uri
from scenelift.report.shell import hex_color
from scenelift.types import F64, I64

MOST_POINTS = 60_000
"""Of one scene; the rest is left out evenly, by chance."""

CLOUD_BYTES = 2_000_000
"""Of all clouds of a page together, as base64."""

_SHELL = (0.005, 0.995)
"""Quantiles between which the room lies: strays do not move its walls."""


def cloud_viewer(clouds: Sequence[Cloud], classes: ClassTable, budget_bytes: int = CLOUD_BYTES) -> Markup:
    """The viewer with its data; a still picture and a sentence where a browser has no WebGL or no scripts.

    Args:
        clouds: at least one.
        classes: names and colours.
        budget_bytes: most bytes of all clouds together, as base64.
    """
    blocks = [
        data_block(f"cloud-{number}", encode_cloud(cloud, budget_bytes // len(clouds)))
        for number, cloud in enumerate(clouds)
    ]
    known = {
        "names": list(classes.names),
        "colors": [hex_color(color) for color in classes.colors],
        "scenes": [cloud.name for cloud in clouds],
    }
    first = clouds[0]
    still = tag(
        "img",
        src=data_uri(first.still, 480, 85),
        alt=f"point cloud {first.name}, seen from above one corner",
        width=first.still.shape[1],
        height=first.still.shape[0],
    )
    sentence = "This is a still picture: turning the cloud needs scripts and WebGL."
    view = tag("div", still, tag("p", sentence, class_="muted small"), class_="still")
    viewer = tag("div", view, class_="cloud")
    return join(data_block("cloud-classes", known), *blocks, viewer)


def encode_cloud(cloud: Cloud, budget_bytes: int) -> dict[str, Any]:
    """A cloud as plain JSON.

    Positions are 16 bit along each axis in units of the longest side, in axes along the room's walls, so that
    the viewer can cut walls away; ``low`` and ``high`` are the walls. Labels and confidence take a byte a
    point, the latter in 1/255.
    """
    arrays = [*cloud.labels.values(), *(one for one in (cloud.truth, cloud.confidence) if one is not None)]
    per_point = 6 + (0 if cloud.rgb is None else 3) + len(arrays)
    kept = _thinned(np.flatnonzero(core(cloud.points)), min(MOST_POINTS, budget_bytes * 3 // 4 // per_point))
    axes = plan_axes(cloud.points[kept, :2]) if len(kept) else np.eye(2)
    turned: F64 = cloud.points[kept].astype(np.float64)
    turned[:, :2] = turned[:, :2] @ axes.T
    low = turned.min(0) if len(kept) else np.zeros(3)
    extent = max(float(np.ptp(turned, axis=0).max()) if len(kept) else 0.0, 1e-6)
    unit = (turned - low) / extent
    walls = np.quantile(unit, _SHELL, axis=0) if len(kept) else np.zeros((2, 3))
    confidence = None if cloud.confidence is None else np.round(255 * np.clip(cloud.confidence[kept], 0, 1))
    return {
        "name": cloud.name,
        "count": len(kept),
        "of": len(cloud.points),
        "metres": extent,
        "radius": splat_radius(cloud.points[kept]) / extent,
        "low": walls[0].tolist(),
        "high": walls[1].tolist(),
        "azimuth": math.radians(cloud.azimuth_deg) - math.atan2(axes[0, 1], axes[0, 0]),
        "positions": _base64(np.round(65535 * unit).astype("<u2")),
        "rgb": None if cloud.rgb is None else _base64(cloud.rgb[kept]),
        "labels": [
            {"name": caption, "data": _base64(labels[kept])} for caption, labels in cloud.labels.items()
        ],
        "runs": cloud.runs,
        "truth": None if cloud.truth is None else _base64(cloud.truth[kept]),
        "confidence": None if confidence is None else _base64(confidence.astype(np.uint8)),
    }


def _thinned(places: I64, most: int) -> I64:
    if len(places) <= most:
        return places
    return np.sort(np.random.default_rng(0).choice(places, most, replace=False))


def _base64(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
