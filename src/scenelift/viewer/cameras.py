"""Where frames were taken from, as pyramids that can be clicked; and where the viewer stands at first."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import viser
import viser.transforms

from scenelift.orientation import z_up_from_world
from scenelift.render import AZIMUTH_DEG
from scenelift.types import F64, Frame
from scenelift.viewer.layers import Layers

MOST = 60
"""Cameras that are drawn of a scene, chosen evenly."""

_USUAL, _MARKED = (120, 120, 130), (240, 228, 66)
_THUMB_PX = 96


class Cameras:
    """The pyramids of a scene's frames.

    Args:
        server: of viser.
        layers: the scene; ``None`` = no camera yet.
        clicked: told the name of a frame that was clicked.
    """

    def __init__(
        self, server: viser.ViserServer, layers: Layers | None, clicked: Callable[[str], None]
    ) -> None:
        self._handles: dict[str, viser.CameraFrustumHandle] = {}
        if layers is None:
            return
        frames, points = layers.scene.frames, layers.points
        extent = float(np.ptp(points, axis=0).max()) if len(points) else 4.0
        for index in frames.evenly(MOST):
            frame = frames[index]
            self._handles[frame.name] = _add(server, frame, layers.origin, 0.03 * extent)
            self._handles[frame.name].on_click(_telling(clicked, frame.name))

    def show(self, visible: bool) -> None:
        """Draw them, or not."""
        for handle in self._handles.values():
            handle.visible = visible

    def mark(self, name: str) -> None:
        """Colour the one of this frame, if it is drawn."""
        for other, handle in self._handles.items():
            handle.color = _MARKED if other == name else _USUAL

    def remove(self) -> None:
        """Take all away."""
        for handle in self._handles.values():
            handle.remove()
        self._handles = {}


def _telling(clicked: Callable[[str], None], name: str) -> Callable[[Any], None]:
    return lambda event: clicked(name)


def _add(server: viser.ViserServer, frame: Frame, origin: F64, scale_m: float) -> viser.CameraFrustumHandle:
    rotation, position = world_from_camera(frame.cam_from_world)
    step = max(1, frame.width // _THUMB_PX)
    return server.scene.add_camera_frustum(
        f"/cameras/{frame.name}",
        fov=2 * math.atan2(frame.height / 2, float(frame.intrinsics[1, 1])),
        aspect=frame.width / frame.height,
        scale=scale_m,
        thickness=0.03 * scale_m,
        color=_USUAL,
        image=np.ascontiguousarray(frame.image[::step, ::step]),
        format="jpeg",
        wxyz=viser.transforms.SO3.from_matrix(rotation).wxyz,
        position=position - origin,
    )


def world_from_camera(cam_from_world: F64) -> tuple[F64, F64]:
    """Rotation (3, 3) and position (3,) of a camera, in metres, from its (4, 4) matrix."""
    rotation = cam_from_world[:3, :3].T
    return rotation, -rotation @ cam_from_world[:3, 3]


def overview(server: viser.ViserServer, layers: Layers) -> None:
    """Let every viewer stand above one corner of the cloud and look at its middle."""
    up = layers.scene.up_world
    server.scene.set_up_direction(tuple(up.tolist()))
    points = layers.points
    reach = 4.0
    if len(points):
        low, high = np.quantile(points[:: max(1, len(points) // 50_000)], (0.02, 0.98), axis=0)
        reach = float(np.linalg.norm(high - low))
    azimuth, elevation = math.radians(AZIMUTH_DEG), math.radians(45)
    stand = np.array(
        [
            math.cos(azimuth) * math.cos(elevation),
            math.sin(azimuth) * math.cos(elevation),
            math.sin(elevation),
        ]
    )
    position = tuple((0.95 * reach * (z_up_from_world(up).T @ stand)).tolist())
    server.initial_camera.position, server.initial_camera.look_at = position, (0.0, 0.0, 0.0)
    for client in server.get_clients().values():
        client.camera.position, client.camera.look_at = position, (0.0, 0.0, 0.0)
