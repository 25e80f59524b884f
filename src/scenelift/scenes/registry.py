"""Data sources by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scenelift.config import (
    CaptureData,
    DataConfig,
    ImagesData,
    KittiData,
    LidarData,
    NuImagesData,
    NuScenesData,
    PythonData,
    ScanNetData,
    SyntheticData,
)
from scenelift.errors import ConfigError
from scenelift.scenes import SceneSource


def _synthetic(config: SyntheticData) -> SceneSource:
    from scenelift.scenes.synthetic import SyntheticRooms

    return SyntheticRooms(config)


def _capture(config: CaptureData) -> SceneSource:
    from scenelift.scenes.capture import Capture

    return Capture(config)


def _scannet(config: ScanNetData) -> SceneSource:
    from scenelift.scenes.scannet import ScanNet

    return ScanNet(config)


def _nuscenes(config: NuScenesData) -> SceneSource:
    from scenelift.scenes.nuscenes import NuScenes

    return NuScenes(config)


def _nuimages(config: NuImagesData) -> SceneSource:
    from scenelift.scenes.nuimages import NuImages

    return NuImages(config)


def _images(config: ImagesData) -> SceneSource:
    from scenelift.scenes.images import Images

    return Images(config)


def _lidar(config: LidarData) -> SceneSource:
    from scenelift.scenes.lidar import Lidar

    return Lidar(config)


def _kitti(config: KittiData) -> SceneSource:
    from scenelift.scenes.kitti import Kitti

    return Kitti(config)


SOURCES: dict[str, Callable[[Any], SceneSource]] = {
    "synthetic": _synthetic,
    "capture": _capture,
    "scannet": _scannet,
    "nuscenes": _nuscenes,
    "nuimages": _nuimages,
    "images": _images,
    "lidar": _lidar,
    "kitti": _kitti,
}


def open_source(config: DataConfig) -> SceneSource:
    """The data set a configuration describes.

    Raises:
        DataError: it is missing or damaged.
        ConfigError: it is one that a Python program opens itself.
    """
    if isinstance(config, PythonData):
        raise ConfigError(
            f"data: {config.name} was opened by a Python program; expected it as Session.opened, found none; "
            "run that program again"
        )
    return SOURCES[config.source](config)
