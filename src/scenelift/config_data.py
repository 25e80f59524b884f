"""The ``data`` section of the configuration: one model per source."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from scenelift.config_teachers import Section

ImageSize = Annotated[tuple[int, int], Field(description="(height, width), pixels")]


class SyntheticData(Section):
    """Generated rooms with ground truth (`scenelift.scenes.synthetic`)."""

    source: Literal["synthetic"] = "synthetic"
    seed: int = Field(0, ge=0)
    """Of the rooms."""
    train_rooms: int = Field(48, ge=1)
    """Rooms to learn from."""
    val_rooms: int = Field(12, ge=0)
    """Rooms to judge by."""
    frames_per_room: int = Field(8, ge=1)
    """Frames on the walk through a room."""
    width: int = Field(160, ge=32)
    """Of a frame, pixels."""
    height: int = Field(120, ge=32)
    """Of a frame, pixels."""


PoseConvention = Literal["cam_to_world", "world_to_cam", "cam_to_world_opengl", "world_to_cam_opengl"]
CaptureLayout = Literal["scannet", "7scenes", "tum", "transforms", "redwood"]


class CaptureData(Section):
    """A folder of posed frames of one place (`scenelift.scenes.capture`)."""

    source: Literal["capture"] = "capture"
    path: str
    """Folder of the data; DATA on the command line."""
    layout: CaptureLayout | None = None
    """How the folder is laid out; None = told from what lies in it (`scenelift.scenes.capture.layouts`)."""
    stride: int = Field(1, ge=1)
    """Use every n-th frame."""
    max_width: int | None = Field(None, ge=32)
    """Scale wider images down to this width; None = as they are."""
    pose_convention: PoseConvention | None = None
    """What the pose files hold; None = what the layout says (``cam_to_world_opengl`` for transforms.json,
    else ``cam_to_world``). ``opengl`` = a camera frame of x right, y up, z backward."""
    skip_lost_frames: bool = False
    """Leave out frames whose pose is NaN or infinite (ScanNet's mark of lost tracking); else an error."""
    depth_scale: float | None = Field(None, gt=0)
    """Depth units per metre; None = what the layout says (TUM 5000, else 1000 for 16-bit PNG, 1 for floats),
    with a check of plausibility."""
    max_time_gap_s: float = Field(0.02, gt=0)
    """TUM: colour, depth and pose belong together when their time stamps differ by at most this."""
    time_offset_s: float = 0.0
    """TUM: added to the time stamps of the poses before they are looked up."""
    max_depth_m: float = Field(8.0, gt=0)
    """Depth beyond this is not fused into the cloud."""
    cloud_voxel_m: float = Field(0.02, gt=0)
    """Voxel edge at which depth is fused into a cloud when the capture brings none."""
    min_coverage: float = Field(0.15, ge=0, le=1)
    """`check` refuses a capture in which less of a frame's valid depth is seen again by its neighbours."""


class ScanNetData(Section):
    """ScanNet v2 as its download script leaves it (`scenelift.scenes.scannet`)."""

    source: Literal["scannet"] = "scannet"
    path: str
    """Folder of the data; DATA on the command line."""
    frames: Literal["auto", "25k", "sens"] = "auto"
    """``25k``: scannet_frames_25k; ``sens``: straight from the scans; ``auto``: 25k where it is there."""
    sens_stride: int = Field(100, ge=1)
    """Use every n-th frame of a .sens file (the 25k frames are every 100th)."""
    labels: Literal["scannet20", "scannet200"] = "scannet20"
    """Which classes ground truth has."""
    image_size: ImageSize | None = (240, 320)
    """Frames are resized to (height, width) [method: 320×240]; None = the colour images' own size."""
    axis_align: bool = False
    """Turn and move each scan as its <id>.txt says, so that walls lie along the axes."""


class NuScenesData(Section):
    """nuScenes with lidarseg, in the devkit's layout (`scenelift.scenes.nuscenes`)."""

    source: Literal["nuscenes"] = "nuscenes"
    path: str
    """Folder of the data; DATA on the command line."""
    version: str | None = None
    """Such as v1.0-trainval; None = the one that is there."""
    split: Literal["official", "paper"] = "official"
    """700/150, or 600/100 of the 700."""
    cameras: tuple[str, ...] = (
        "CAM_FRONT",
        "CAM_FRONT_RIGHT",
        "CAM_BACK_RIGHT",
        "CAM_BACK",
        "CAM_BACK_LEFT",
        "CAM_FRONT_LEFT",
    )
    """Whose images are used."""
    sweeps: int = Field(0, ge=0)
    """LiDAR sweeps before each key frame that are added to its cloud."""
    image_size: ImageSize | None = None
    """Frames are resized to this; None = as they are."""


class NuImagesData(Section):
    """nuImages, in the devkit's layout: images alone (`scenelift.scenes.nuimages`)."""

    source: Literal["nuimages"] = "nuimages"
    path: str
    """Folder of the data; DATA on the command line."""
    image_size: ImageSize | None = None
    """Frames are resized to this; None = as they are."""


class ImagesData(Section):
    """A folder of images without cameras, maybe with label images (`scenelift.scenes.images`)."""

    source: Literal["images"] = "images"
    path: str
    """Folder of the data; DATA on the command line."""
    image_size: ImageSize | None = None
    """Frames are resized to this; None = as they are."""


class LidarData(Section):
    """Clouds and cameras with a calib.json (`scenelift.scenes.lidar`)."""

    source: Literal["lidar"] = "lidar"
    path: str
    """Folder of the data; DATA on the command line."""
    max_time_gap_s: float = Field(0.05, gt=0)
    """Images and clouds named by time stamp belong together when they differ by at most this."""
    image_size: ImageSize | None = None
    """Frames are resized to this; None = as they are."""


class KittiData(Section):
    """KITTI, SemanticKITTI or KITTI-360 as they are downloaded (`scenelift.scenes.kitti`)."""

    source: Literal["kitti"] = "kitti"
    path: str
    """Folder of the data; DATA on the command line."""
    cameras: tuple[str, ...] | None = None
    """Such as image_2, image_3 (KITTI-360: image_00, image_01); None = the left colour camera alone."""
    image_size: ImageSize | None = None
    """Frames are resized to this; None = as they are."""


class PythonData(Section):
    """A data set that a Python program opens itself and gives to `Session.opened`."""

    source: Literal["python"] = "python"
    name: str
    """For reports; another name is another run."""


DataConfig = Annotated[
    SyntheticData
    | CaptureData
    | ScanNetData
    | NuScenesData
    | NuImagesData
    | ImagesData
    | LidarData
    | KittiData
    | PythonData,
    Field(discriminator="source"),
]
