"""Other readings of intrinsics, and whether the files of two cameras were exchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from scenelift.config import CaptureData, DataConfig
from scenelift.errors import DataError
from scenelift.scenes.agreement import DepthView
from scenelift.scenes.matrices import read_intrinsics
from scenelift.scenes.rgbd import camera_fault
from scenelift.types import F64, Frame

_FOLDERS = ("intrinsic", "intrinsics", ".")
_STEMS = ("intrinsic", "intrinsics")


def zoomed(view: DepthView, factor: float, whole: bool) -> DepthView:
    """A view with its focal lengths times ``factor``, and, if ``whole``, the optical axis too.

    ``whole`` is what intrinsics of another image size do.
    """
    intrinsics = view.intrinsics.clone()
    if whole:
        intrinsics[:2] *= factor
    else:
        intrinsics[0, 0] *= factor
        intrinsics[1, 1] *= factor
    return replace(view, intrinsics=intrinsics)


def exchanged_depth_intrinsics(data: DataConfig) -> Callable[[Tensor], Tensor] | None:
    """The true intrinsics of a frame's depth, (3, 3), given those it was read with, had files been exchanged.

    Frames carry depth from its own pixels to those of colour, through both intrinsics. With them exchanged
    the pixel (u − c)/f·f' + c' of the depth image was taken, and stands for the ray of that pixel under f, c.

    Returns:
        ``None`` unless this is a capture with a file for each camera that differ.
    """
    both = _color_and_depth(data)
    if both is None:
        return None
    (fx, _, cx), (_, fy, cy), _ = both[0]
    (other_fx, _, other_cx), (_, other_fy, other_cy), _ = both[1]

    def reread(intrinsics: Tensor) -> Tensor:
        true = intrinsics.clone()
        size = float(intrinsics[0, 0]) / fx
        true[0, 0] = size * fx * fx / other_fx
        true[1, 1] = size * fy * fy / other_fy
        true[0, 2] = intrinsics[0, 2] - size * (other_cx - cx) * fx / other_fx
        true[1, 2] = intrinsics[1, 2] - size * (other_cy - cy) * fy / other_fy
        return true

    return reread


def fault_of_frame(frame: Frame, data: DataConfig) -> tuple[str, str | None] | None:
    """What is wrong with a frame's intrinsics for its image's size, and the mend if files look exchanged."""
    shape = (frame.height, frame.width)
    fault = camera_fault(frame.intrinsics, shape)
    if fault is None:
        return None
    both = _color_and_depth(data)
    if both is not None:
        size = frame.intrinsics[0, 0] / both[0][0, 0]
        other = np.diag([size, size, 1.0]) @ both[1]
        if camera_fault(other, shape) is None:
            return (
                f"{fault}, as the depth camera's intrinsics do",
                "exchange intrinsic_color.txt and intrinsic_depth.txt",
            )
    return fault, None


def _color_and_depth(data: DataConfig) -> tuple[F64, F64] | None:
    """Both intrinsics as a capture's files hold them, if there are two and they differ."""
    if not isinstance(data, CaptureData):
        return None
    found = []
    for camera in ("color", "depth"):
        paths = [Path(data.path) / folder / f"{stem}_{camera}.txt" for stem in _STEMS for folder in _FOLDERS]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return None
        try:
            found.append(read_intrinsics(path))
        except DataError:  # told where frames are read
            return None
    return None if np.allclose(found[0], found[1], rtol=1e-3) else (found[0], found[1])
