"""Data sources by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scenelift.config import CaptureData, SyntheticData
from scenelift.scenes import SceneSource


def _synthetic(config: SyntheticData) -> SceneSource:
    from scenelift.scenes.synthetic import SyntheticRooms

    return SyntheticRooms(config)


def _capture(config: CaptureData) -> SceneSource:
    from scenelift.scenes.capture import Capture

    return Capture(config)


SOURCES: dict[str, Callable[[Any], SceneSource]] = {
    "synthetic": _synthetic,
    "capture": _capture,
}


def open_source(config: SyntheticData | CaptureData) -> SceneSource:
    """The data set a configuration describes.

    Raises:
        DataError: it is missing or damaged.
    """
    return SOURCES[config.source](config)
