"""What to do about a fault, in the words of the source that the data came through."""

from __future__ import annotations

from collections.abc import Mapping

from scenelift.config import (
    CaptureData,
    DataConfig,
    KittiData,
    LidarData,
    NuScenesData,
    ScanNetData,
    SyntheticData,
)

LIDAR_READINGS: Mapping[str, str] = {
    "inverse": "lidar_from_cam: invert it",
    "opengl": "a camera of y up and z backward (OpenGL): negate its second and third row",
    "inverse_opengl": "lidar_from_cam of a camera of y up and z backward (OpenGL): multiply its second and "
    "third column by -1, then invert it",
    "vehicle_axes": "a camera of x forward, y left and z up: put [[0,-1,0,0],[0,0,-1,0],[1,0,0,0],[0,0,0,1]] "
    "before it",
    "inverse_vehicle_axes": "lidar_from_cam of a camera of x forward, y left and z up: invert it, then put "
    "[[0,-1,0,0],[0,0,-1,0],[1,0,0,0],[0,0,0,1]] before it",
}
"""What a matrix that should be cam_from_lidar holds under each reading, and how to mend it."""


def depth_reading(data: DataConfig, settings: Mapping[str, str]) -> str:
    """How to have poses and depth read another way.

    Args:
        data: the configured source.
        settings: the capture source's options that would do it, by name.
    """
    if isinstance(data, CaptureData):
        chosen = " and ".join(f"data.{name}={value}" for name, value in settings.items())
        return f"set {chosen}, or convert the files"
    parts = []
    if "pose_convention" in settings:
        parts.append("pose files to camera-to-world of x right, y down, z forward")
    if "depth_scale" in settings:
        parts.append("depth files to 16-bit millimetres")
    return f"convert {' and '.join(parts)}; or {_again(data)}"


def intrinsics(data: DataConfig) -> str:
    """Where intrinsics have to be mended."""
    if getattr(data, "image_size", None) is not None:
        return (
            "choose data.image_size in the proportions of the images, or null for their own size; "
            f"if they are right, {_own_intrinsics(data)}"
        )
    return _own_intrinsics(data)


def _own_intrinsics(data: DataConfig) -> str:
    if isinstance(data, LidarData):
        return "calib.json: give cameras.<name>.intrinsics in pixels of the images as they are now"
    if isinstance(data, CaptureData):
        return "give intrinsics in pixels of this image size"
    return f"give intrinsics in pixels of this image size; or {_again(data)}"


def extrinsics(data: DataConfig, reading: str) -> str:
    """How to mend matrices between LiDAR and cameras that hold what ``reading`` names."""
    holds = LIDAR_READINGS[reading]
    if isinstance(data, LidarData):
        return f"calib.json: cameras.<name>.cam_from_lidar holds {holds}"
    if isinstance(data, KittiData):
        return f"the calib files' Tr_velo_to_cam (or Tr) holds {holds}; or {_again(data)}"
    if isinstance(data, NuScenesData):
        return f"calibrated_sensor.json is not as published (seems to hold {holds}); {_again(data)}"
    return f"cam_from_world holds {holds}"


def order(data: DataConfig, what: str) -> str:
    """What to do when files of one kind are in another order than the rest."""
    if isinstance(data, ScanNetData | NuScenesData | KittiData):
        return f"{what} of a scene seem to be another's: {_again(data)}"
    return f"number {what} as the other files of their frames"


def up_axis(data: DataConfig) -> str:
    """What to look at when cameras are not upright, and no reading explains it."""
    if isinstance(data, LidarData):
        return "look at cam_from_lidar in calib.json and at the LiDAR's up axis there"
    return "look at the cameras' extrinsics and at which axis of the cloud points up"


def labels(data: DataConfig) -> str:
    """What to do about labels that belong to something else."""
    if isinstance(data, NuScenesData):
        return "download nuScenes-lidarseg of this version again; files are named by the LiDAR's sample_data"
    if isinstance(data, LidarData):
        return "give labels/ the names of the lidar files they belong to, one label per point in file order"
    return f"bring labels and points of one scan together; or {_again(data)}"


def _again(data: DataConfig) -> str:
    if isinstance(data, SyntheticData):
        return "generate the data again"
    if isinstance(data, ScanNetData | NuScenesData | KittiData):
        return "download these files again"
    return "export the data again"
