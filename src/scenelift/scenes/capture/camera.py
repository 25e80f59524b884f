"""The cameras of a capture's frames: from stated intrinsics and image sizes to images of pinhole cameras."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scenelift.errors import DataError
from scenelift.scenes.capture.files import Lens, Lenses
from scenelift.scenes.matrices import read_intrinsics
from scenelift.scenes.rgbd import RgbdCamera, complete_intrinsics
from scenelift.scenes.undistort import Undistorter
from scenelift.types import F32, F64, U8


@dataclass(frozen=True, eq=False)
class CaptureCamera:
    """What makes frames of images as they are stored.

    Attributes:
        rgbd: of both cameras without distortion.
        undistort_color: ``None`` for a pinhole.
        undistort_depth: ``None`` for a pinhole.
    """

    rgbd: RgbdCamera
    undistort_color: Undistorter | None = None
    undistort_depth: Undistorter | None = None

    @property
    def intrinsics(self) -> F64:
        """(3, 3) float64, of frames."""
        return self.rgbd.intrinsics

    def image(self, color: U8) -> U8:
        """A frame's image, (H, W, 3) uint8, from the stored one."""
        return self.rgbd.resize(color if self.undistort_color is None else self.undistort_color.image(color))

    def depth(self, depth_m: F32) -> F32:
        """A frame's depth, (H, W) float32 metres, from the stored image, (h, w)."""
        if self.undistort_depth is not None:
            depth_m = self.undistort_depth.nearest(depth_m, outside=0)
        return self.rgbd.register(depth_m)


def build_camera(
    lenses: Lenses,
    color_shape: tuple[int, int],
    depth_shape: tuple[int, int] | None,
    max_width: int | None,
    folder: Path,
) -> CaptureCamera:
    """The camera of frames.

    Args:
        lenses: what is known of it.
        color_shape: (H, W) of stored colour images.
        depth_shape: (H, W) of stored depth images, ``None`` without depth.
        max_width: of frames; ``None`` = as stored.
        folder: of the capture, for messages.

    Raises:
        DataError: intrinsics cannot be read, or are for images of another size.
    """
    shapes = {"color": color_shape, "depth": depth_shape or color_shape}
    given = {"color": lenses.color, "depth": lenses.depth}
    known: dict[str, F64] = {}
    for camera, lens in given.items():
        if isinstance(lens, Path):
            known[camera] = read_intrinsics(lens)
        elif lens is not None:
            known[camera] = lens.matrix(_fitting(lens, shapes[camera], folder))
    both = complete_intrinsics(known, shapes, folder)
    undistort: dict[str, Undistorter | None] = {}
    for camera, other in (("color", "depth"), ("depth", "color")):
        lens = given[camera] or given[other]
        undistort[camera] = None
        if isinstance(lens, Lens) and lens.model != "pinhole":
            undistort[camera] = Undistorter(both[camera], shapes[camera], lens.model, lens.coefficients)
    rgbd = RgbdCamera(shapes["color"], shapes["depth"], both["color"], both["depth"], max_width)
    return CaptureCamera(rgbd, undistort["color"], undistort["depth"])


def _fitting(lens: Lens, shape: tuple[int, int], folder: Path) -> tuple[int, int]:
    """``shape``, if the lens is for it."""
    if lens.size is not None and lens.size != shape:
        mend = (
            "write intrinsics.txt for these images"
            if lens.guessed
            else "scale the intrinsics, or use the images they were measured on"
        )
        raise DataError(
            f"expected images of {lens.size[1]} × {lens.size[0]}, which the intrinsics are for, in {folder}, "
            f"found {shape[1]} × {shape[0]}; {mend}"
        )
    return shape
