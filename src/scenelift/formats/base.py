"""What a format is: told of frames, then of the cloud, scene by scene; it writes what it likes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from scenelift.classes import ClassTable
from scenelift.config import Config
from scenelift.predict import Predictor
from scenelift.scenes import SceneSource
from scenelift.types import Frame, Prediction, Scene


@dataclass(frozen=True)
class Target:
    """What is exported, and where to.

    Attributes:
        out: folder of all files.
        source: of the scenes.
        names: of the scenes, in order.
        classes: names and colours.
        predictor: answers for scenes.
    """

    out: Path
    source: SceneSource
    names: tuple[str, ...]
    classes: ClassTable
    predictor: Predictor


class Format:
    """One format; a method that is not overridden writes nothing.

    A scene that is exported again, as after a kill, replaces its own files.

    Args:
        target: what is exported.
    """

    wants_frames: ClassVar[bool] = False
    """Whether it has to be told of frames; networks answer only what a format asks for."""
    wants_points: ClassVar[bool] = False

    def __init__(self, target: Target) -> None:
        self.target = target

    @classmethod
    def check(cls, source: SceneSource, classes: ClassTable, config: Config) -> None:
        """Raise `ConfigError` if this run cannot be written so; called before any work."""

    def places(self, scene: str) -> tuple[Path, ...]:
        """Files, and folders of nothing else, that hold a scene; none is there if it had nothing to write."""
        raise NotImplementedError

    def frame(self, scene: Scene, frame: Frame, prediction: Prediction) -> None:
        """Write what is said of a frame; frames come in order, before the cloud."""

    def points(self, scene: Scene, prediction: Prediction) -> None:
        """Write what is said of the cloud; not called for scenes without one."""

    def end(self, scene: Scene) -> None:
        """Write what had to wait for the whole scene."""

    def finish(self) -> None:
        """Write what had to wait for all scenes."""
