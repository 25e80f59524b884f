"""Where scenes come from: one file per source behind one Protocol.

A source gives scenes without labels. Ground truth lives behind a second door, `TruthSource`, that only
evaluation and the simulated teachers open; nothing that trains a network ever holds one.
"""

from __future__ import annotations

from typing import Protocol

from scenelift.classes import ClassTable
from scenelift.types import FrameTruth, Scene, SceneTruth


class TruthSource(Protocol):
    """Ground truth of a data set."""

    classes: ClassTable

    def frame(self, scene: str, frame: str) -> FrameTruth | None:
        """Labels of a frame, ``None`` where it is not annotated."""
        ...

    def scene(self, scene: str) -> SceneTruth | None:
        """Labels of a scene's points in the order of `Scene.points_world`, ``None`` if not annotated."""
        ...


class SceneSource(Protocol):
    """A data set: names of its scenes by split, and the scenes."""

    @property
    def classes(self) -> ClassTable | None:
        """The data set's own classes; ``None`` when the user has to name them."""
        ...

    @property
    def truth(self) -> TruthSource | None:
        """The other door; ``None`` where there is no ground truth."""
        ...

    def names(self, split: str) -> tuple[str, ...]:
        """Scene names of ``"train"`` or ``"val"``; a source without a split gives all for both."""
        ...

    def frame_count(self, name: str) -> int:
        """Number of frames of a scene, without reading any of them or the cloud."""
        ...

    def scene(self, name: str) -> Scene:
        """One scene; its frames are read when they are used, maybe by several threads at once.

        Raises:
            DataError: it is missing or damaged.
        """
        ...
