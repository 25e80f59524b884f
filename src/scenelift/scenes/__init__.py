"""Where scenes come from: one file per source behind one Protocol.

A source gives scenes without labels. Ground truth lives behind a second door, `TruthSource`, that only
evaluation and the simulated teachers open; nothing that trains a network ever holds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from scenelift.classes import ClassTable
from scenelift.types import FrameTruth, Scene, SceneTruth


class TruthSource(Protocol):
    """Ground truth of a data set."""

    classes: ClassTable

    def frame(self, scene: str, frame: str) -> FrameTruth | None:
        """Labels of a frame, ``None`` where it is not annotated. Raises `DataError` if they are damaged."""
        ...

    def scene(self, scene: str) -> SceneTruth | None:
        """Labels of a scene's points in the order of `Scene.points_world`, ``None`` if not annotated.

        Raises:
            DataError: they are damaged, belong to other points, or hold ids that the data set does not know.
        """
        ...


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with data.

    Attributes:
        severity: with an ``error`` no work should start; a ``warning`` is worth a look.
        what: what was expected and what was found.
        where: scene, frame or file it was found in.
        mend: what to do, one line.
    """

    severity: Literal["error", "warning"]
    what: str
    where: str
    mend: str


@dataclass(frozen=True)
class Findings:
    """What a source can tell of its files without decoding them: for `scenelift check`.

    Attributes:
        counts: by name, for instance ``lost_frames``.
        problems: what is missing or contradicts itself; a source reports it here rather than raising where
            the rest of the data set can be used without it.
        doubtful: by scene, names of frames that should be read to know whether they are whole.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    doubtful: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Reopened:
    """A source of which a copy in another process is made from its ``config`` again.

    What it has found meanwhile is not sent along: finding it again is quick from the index.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (vars(self)["config"],)


class SceneSource(Protocol):
    """A data set: names of its scenes by split, and the scenes.

    Sources can be pickled, so that worker processes may read from copies of one.
    """

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

        Nothing of it stays behind in the source but small things: a data set larger than memory is read scene
        by scene. A scene without points (images alone) has a cloud of 0 points.

        Raises:
            DataError: it is missing or damaged.
        """
        ...

    def findings(self) -> Findings:
        """What is wrong with the files as far as names, sizes and tables tell; raises nothing for it."""
        ...
