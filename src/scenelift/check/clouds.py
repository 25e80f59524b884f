"""Clouds against frames: what each frame sees, and whether labels of points and pixels meet."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from scenelift.check.report import FrameCoverage, Notes
from scenelift.check.truth import TruthCheck
from scenelift.config import PairingConfig
from scenelift.pairing import pair_points
from scenelift.scenes.folders import some
from scenelift.types import U8, Bool, Frame, Scene

MIN_POINTS_SEEN = 0.01
"""Of a cloud, that the frames read must see together."""

_MAX_POINTS = 100_000


@dataclass(eq=False)
class CloudCheck:
    """The cloud of one scene, thinned out; frames are added one at a time."""

    notes: Notes
    scene: Scene
    pairing: PairingConfig
    truth: TruthCheck | None = None
    _seen: Bool = field(init=False)
    _labels: U8 | None = field(init=False, default=None)
    _rows: list[FrameCoverage] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        scene = self.scene
        self._step = -(-len(scene.points_world) // _MAX_POINTS) or 1
        self._points = scene.points_world[:: self._step]
        self._seen = np.zeros(len(self._points), dtype=np.bool_)
        self.notes.count("points", len(scene.points_world))
        if self.truth is not None:
            labels = self.truth.scene_labels(scene.name, scene.points_world, scene.up_world)
            self._labels = None if labels is None else labels[:: self._step]

    def add(self, frame: Frame) -> None:
        """Pair one frame with the cloud, and its labels with those of the points.

        Raises:
            DataError: the pairing needs a depth image that is not there.
        """
        pixel_labels = None if self.truth is None else self.truth.frame_labels(frame)
        if not len(self._points):
            return
        pairs = pair_points(self._points, [frame], self.pairing)
        self._seen[pairs.point_index] = True
        share = len(pairs) / len(self._points)
        self._rows.append(FrameCoverage(frame.scene, frame.name, len(pairs), share))
        if self.truth is not None and self._labels is not None and pixel_labels is not None:
            self.truth.pair(self._labels, pixel_labels, pairs.point_index, *pairs.rowcol())

    def seen(self) -> Seen:
        """What the frames added so far see together."""
        share = float(self._seen.mean()) if self._rows and len(self._points) else None
        return Seen(self.scene.name, share, tuple(self._rows))


@dataclass(frozen=True)
class Seen:
    """What is kept of a scene's coverage.

    Attributes:
        scene: its name.
        share: of the cloud, that the frames see together; ``None`` without cloud or frames.
        rows: what each frame sees.
    """

    scene: str
    share: float | None
    rows: tuple[FrameCoverage, ...]

    def tell(self, notes: Notes) -> None:
        """Note clouds that are hardly seen, and frames that see nothing."""
        blind = [row.frame for row in self.rows if row.points == 0]
        if self.share is not None and self.share < MIN_POINTS_SEEN:
            notes.add(
                "error",
                f"{self.share:.1%} of the cloud's points are seen by the {len(self.rows)} frames read",
                self.scene,
                "bring cloud and poses into one world, in metres; or remove the cloud to have it fused",
            )
        elif self.share is not None and blind:
            notes.add(
                "warning",
                f"{len(blind)} of {len(self.rows)} frames see no point of the cloud: {some(blind)}",
                self.scene,
                "check their poses; they add nothing to the points' labels",
            )


def without_depth(pairing: PairingConfig) -> PairingConfig:
    """The same for frames without depth images."""
    return pairing.model_copy(update={"depth_test": "none"})


def compare_rigs(notes: Notes, frames_of: dict[str, tuple[str, ...]]) -> None:
    """Scenes of one rig have the same frames; note those that lack one.

    Args:
        notes: where to.
        frames_of: names of the frames by scene.
    """
    if len(frames_of) < 2:
        return
    met = [set(names) for names in frames_of.values()]
    everywhere = set.union(*met)
    # Frames are named after cameras only where most scenes share all names.
    if not everywhere or sum(names == everywhere for names in met) * 2 < len(met):
        return
    for camera in sorted(everywhere):
        without = [scene for scene, names in frames_of.items() if camera not in names]
        if without:
            notes.add(
                "warning",
                f"{len(without)} of {len(frames_of)} scenes looked at have no image of {camera}: "
                f"{some(without)}",
                without[0],
                f"download or copy the images of {camera}, or leave that camera out",
            )


def camera_shares(notes: Notes) -> None:
    """The mean share of the cloud that each camera sees, as a fact, where frames are named after cameras."""
    shares: dict[str, list[float]] = {}
    for row in notes.coverage:
        shares.setdefault(row.frame, []).append(row.share)
    if 1 <= len(shares) <= 12:
        parts = [f"{name} {np.mean(found):.1%}" for name, found in shares.items()]
        notes.facts["points_per_camera"] = ", ".join(parts)


def worst_covered(notes: Notes) -> None:
    """The frames that see the least of their clouds, as a fact."""
    worst = sorted(notes.coverage, key=lambda row: row.share)[:3]
    if worst:
        notes.facts["least_covered"] = ", ".join(f"{row.key} {row.share:.1%}" for row in worst)
