"""What the check keeps of a scene while it looks at it: small views of its frames, never the images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from scenelift import geometry
from scenelift.check.color import ColorView, edge_ratio
from scenelift.check.report import Notes
from scenelift.scenes.agreement import DepthView
from scenelift.scenes.rgbd import RIGID_TOLERANCE
from scenelift.types import Frame


@dataclass(eq=False)
class Look:
    """The frames of one scene that were read; dictionaries go by the frame's index in its scene.

    Attributes:
        scene: its name.
        names: of all its frames.
        read: indices of the frames that could be read.
        depths: thinned-out depth, of frames with a depth image.
        colors: thinned-out brightness, of the same frames.
        edges: `color.edge_ratio` of each of them that has depth edges.
    """

    scene: str
    names: tuple[str, ...]
    read: list[int] = field(default_factory=list)
    depths: dict[int, DepthView] = field(default_factory=dict)
    colors: dict[int, ColorView] = field(default_factory=dict)
    edges: dict[int, float] = field(default_factory=dict)

    @property
    def read_names(self) -> tuple[str, ...]:
        """Names of the frames that could be read."""
        return tuple(self.names[index] for index in self.read)

    def keep(self, index: int, frame: Frame) -> None:
        """Keep what later comparisons need of a frame."""
        self.read.append(index)
        view = DepthView.of(frame)
        if view is None:
            return
        self.depths[index] = view
        self.colors[index] = ColorView.of(frame, view)
        ratio = edge_ratio(self.colors[index], view)
        if ratio is not None:
            self.edges[index] = ratio


def look_at_pose(notes: Notes, frame: Frame) -> bool:
    """Note a pose that is no rigid motion; whether it can be used."""
    error = geometry.rigid_error(torch.from_numpy(frame.cam_from_world))
    if error <= RIGID_TOLERANCE:
        return True
    finite = bool(torch.isfinite(torch.from_numpy(frame.cam_from_world)).all())
    if not finite:
        what = "expected a finite camera pose, found NaN or infinity"
        notes.add(
            "error", f"{frame.key}: {what}", frame.key, "leave the frame out, or track the camera again"
        )
        return False
    found = "a mirrored one" if math.isinf(error) else f"one off by {error:.3g}"
    what = f"{frame.key}: expected a rigid camera pose (RᵀR = I, det R > 0), found {found}"
    notes.add("error", what, frame.key, "remove scale or mirroring from the pose")
    return False
