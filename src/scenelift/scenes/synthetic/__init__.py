"""Generated rooms with ground truth: the 20 ScanNet classes, posed RGB-D frames and a point cloud.

Everything follows from a seed and the number of the room, so nothing is stored on disk: bathrooms,
bedrooms, living rooms and kitchens are furnished (`layout`), seen by a ray caster (`render`) from a walk
(`cameras`), and coloured (`shading`, `textures`).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from threading import Lock

from scenelift.classes import SCANNET20, ClassTable
from scenelift.config import SyntheticData
from scenelift.errors import DataError
from scenelift.scenes import Findings
from scenelift.scenes.synthetic.room import Room, render_room
from scenelift.types import Frame, Frames, FrameTruth, Scene, SceneTruth

__all__ = ["Room", "SyntheticRooms", "SyntheticTruth", "render_room"]

_PREFIX = {"train": "room_", "val": "room_v"}
_KEEP_BYTES = 512 * 2**20
"""Rendered rooms are kept up to this size in total: about 200 of the default size."""


class SyntheticRooms:
    """The `synthetic` scene source.

    A room is rendered when its scene, one of its frames or its ground truth is first asked for; the rooms
    used last stay in memory.

    Attributes:
        config: seed, number of rooms, number and size of frames.
        classes: `SCANNET20`.
        truth: the other door.
    """

    classes: ClassTable = SCANNET20

    def __init__(self, config: SyntheticData) -> None:
        self.config = config
        self._rooms = _RoomStore(config)
        self.truth = SyntheticTruth(self._rooms)

    def names(self, split: str) -> tuple[str, ...]:
        """Names of the rooms of ``"train"`` or ``"val"``.

        Raises:
            DataError: no such split.
        """
        return self._rooms.names(split)

    def frame_count(self, name: str) -> int:
        """Frames of a room, without rendering it."""
        return self.config.frames_per_room

    def findings(self) -> Findings:
        """Nothing: there are no files."""
        return Findings()

    def scene(self, name: str) -> Scene:
        """One room, without labels.

        Raises:
            DataError: no such room.
        """
        room = self._rooms[name]

        def read(frame: str) -> Frame:
            return self._rooms[name].frames[frame]

        return Scene(name, room.points_world, room.rgb, Frames(tuple(room.frames), read))


class SyntheticTruth:
    """Ground truth of generated rooms; every pixel and point has a label, save for the ceiling's pixels.

    Instance ids are those of the room's objects, walls and floor among them, in frames and cloud alike.
    """

    classes: ClassTable = SCANNET20

    def __init__(self, rooms: _RoomStore) -> None:
        self._rooms = rooms

    def frame(self, scene: str, frame: str) -> FrameTruth:
        """Labels and instances of a frame.

        Raises:
            DataError: no such room or frame.
        """
        truths = self._rooms[scene].frame_truth
        if frame not in truths:
            known = f"{next(iter(truths))} to {next(reversed(truths))}"
            raise DataError(f"synthetic room {scene}: expected a frame from {known}, found {frame!r}")
        return truths[frame]

    def scene(self, scene: str) -> SceneTruth:
        """Labels and instances of a room's points.

        Raises:
            DataError: no such room.
        """
        return self._rooms[scene].scene_truth


class _RoomStore:
    """Rooms by name, rendered on demand; those used last are kept, up to `_KEEP_BYTES`.

    Threads may share it: a room is rendered by the first that asks, and the others wait.
    """

    def __init__(self, config: SyntheticData) -> None:
        self._config = config
        self._counts = {"train": config.train_rooms, "val": config.val_rooms}
        self._kept: OrderedDict[str, Room] = OrderedDict()
        self._lock = Lock()

    def names(self, split: str) -> tuple[str, ...]:
        if split not in self._counts:
            raise DataError(f"synthetic rooms: expected split 'train' or 'val', found {split!r}")
        return tuple(f"{_PREFIX[split]}{i:04d}" for i in range(self._counts[split]))

    def __getitem__(self, name: str) -> Room:
        with self._lock:
            if name not in self._kept:
                self._kept[name] = render_room(self._config, *self._parse(name), name)
            self._kept.move_to_end(name)
            while len(self._kept) > 1 and sum(room.nbytes for room in self._kept.values()) > _KEEP_BYTES:
                self._kept.popitem(last=False)
            return self._kept[name]

    def _parse(self, name: str) -> tuple[str, int]:
        """Split and number of a room."""
        match = re.fullmatch(r"room_(v?)(\d{4,})", name)
        split = "val" if match and match[1] else "train"
        if (
            match is None
            or int(match[2]) >= self._counts[split]
            or name != f"{_PREFIX[split]}{int(match[2]):04d}"
        ):
            known = ", ".join(f"{names[0]} to {names[-1]}" for s in _PREFIX if (names := self.names(s)))
            raise DataError(f"synthetic rooms: there is no room {name!r}; there are {known}")
        return split, int(match[2])
