"""Look at data before any work is spent on them: what is wrong, where, and how to mend it.

Some frames of some scenes are read completely. Each is looked at alone (image, camera, pose, labels);
then what belongs together is compared:

- posed depth images with each other, and with colour (`check.rgbd`, `check.rgbd_color`);
- a LiDAR's cloud with images (`check.lidar`);
- the cloud with all frames (`check.clouds`), and labels of points with labels of pixels (`check.truth`).

Where things do not agree, other readings of poses, units, intrinsics and clocks are tried, and the one that
fits is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scenelift.check import mends
from scenelift.check.clouds import CloudCheck, Seen, camera_shares, compare_rigs, without_depth, worst_covered
from scenelift.check.intrinsics import fault_of_frame
from scenelift.check.lidar import LidarCheck
from scenelift.check.looks import Look, look_at_pose
from scenelift.check.picture import write_check, write_check_picture
from scenelift.check.report import (
    CheckReport,
    FrameCoverage,
    Notes,
    raise_if_bad,
    spread,
    summary_lines,
    to_json,
)
from scenelift.check.rgbd import DepthCheck, look_at_depth
from scenelift.check.rgbd_color import compare_colors
from scenelift.check.truth import TruthCheck
from scenelift.config import Config
from scenelift.errors import DataError
from scenelift.scenes import Findings, SceneSource
from scenelift.scenes.agreement import sample_frames
from scenelift.scenes.capture import Capture
from scenelift.types import Frame, Frames, Scene

__all__ = [
    "CheckReport",
    "FrameCoverage",
    "check_source",
    "raise_if_bad",
    "summary_lines",
    "to_json",
    "write_check",
    "write_check_picture",
]

FRAMES_PER_SCENE = 8
"""A data set of many scenes is sampled: about this many frames of each scene that is looked at."""

_FEW_FRAMES = 4
_MAX_DOUBTFUL = 32
_MAX_DOUBTFUL_SCENES = 8


def check_source(source: SceneSource, config: Config, max_frames: int = 32) -> CheckReport:
    """Check a data set.

    Args:
        source: any source.
        config: its ``data`` section words the mends, its ``pairing`` section projects the cloud.
        max_frames: how many frames to read completely, spread over scenes and sequences.

    Returns:
        The report. Data that cannot be read are problems in it, never exceptions.
    """
    check = _Check(source, config)
    try:
        names = tuple(dict.fromkeys((*source.names("train"), *source.names("val"))))
    except DataError as error:
        check.notes.add_error(error, check.where)
        return check.notes.report()
    check.notes.counts["scenes"] = len(names)
    if not names:
        what = "expected at least one scene, found none"
        check.notes.add("error", what, check.where, "check the data section")
    findings = check.findings()
    looked_at = spread(names, check.scenes_to_read(names, max_frames))
    also = [name for name, frames in findings.doubtful.items() if frames and name not in looked_at]
    for name in [*looked_at, *spread(also, _MAX_DOUBTFUL_SCENES)]:
        share = max(1, max_frames // len(looked_at)) if name in looked_at else 0
        check.look_at_scene(name, share, findings.doubtful.get(name, ()))
    check.judge()
    return check.notes.report()


@dataclass(eq=False)
class _Opened:
    """A scene's frames, and the scene itself unless its cloud is better left for later."""

    frames: Frames
    scene: Scene | None


class _Check:
    """Goes through scenes and frames, and gives them to the parts of the check."""

    def __init__(self, source: SceneSource, config: Config) -> None:
        self.source = source
        self.config = config
        self.notes = Notes(dict.fromkeys(("scenes", "scenes_checked", "frames", "frames_read"), 0))
        self.where = getattr(config.data, "path", config.data.source)
        self.looks: list[Look] = []
        self.seen: list[Seen] = []
        self.depth = DepthCheck(self.notes, source, config, self.where)
        self.lidar = LidarCheck(self.notes, config.data, self.where)
        truth = source.truth
        self.truth = TruthCheck(self.notes, truth, config.data) if truth is not None else None

    def findings(self) -> Findings:
        """What the source itself found; problems and counts are taken over."""
        try:
            findings = self.source.findings()
        except DataError as error:
            self.notes.add_error(error, self.where)
            return Findings()
        for problem in findings.problems:
            self.notes.add(problem.severity, problem.what, problem.where, problem.mend)
        self.notes.counts.update(findings.counts)
        return findings

    def scenes_to_read(self, names: tuple[str, ...], max_frames: int) -> int:
        """How many scenes: fewer frames in each make more scenes."""
        try:
            frames = self.source.frame_count(names[0]) if names else 0
        except DataError:  # told when the scene is opened
            frames = 0
        few = 0 < frames < _FEW_FRAMES
        return max(1, max_frames // (frames if few else FRAMES_PER_SCENE))

    # --- single scenes -----------------------------------------------------------------------------

    def look_at_scene(self, name: str, max_frames: int, doubtful: tuple[str, ...]) -> None:
        """Read frames of a scene and look at each alone, and at its cloud where frames have no depth."""
        self.notes.count("scenes_checked", 1)
        try:
            opened = self._open(name)
        except DataError as error:
            self.notes.add_error(error, name)
            return
        frames = opened.frames
        self.notes.count("frames", len(frames))
        if not len(frames):
            mend = "check the path and the naming of files"
            self.notes.add("error", "expected frames, found none", name, mend)
        look = Look(name, frames.names)
        self.looks.append(look)
        sampled = set(sample_frames(len(frames), max_frames)) if max_frames else set()
        place = {frame: index for index, frame in enumerate(frames.names)}
        sampled.update(place[frame] for frame in spread(doubtful, _MAX_DOUBTFUL) if frame in place)
        alone = opened.scene is not None and not len(opened.scene.points_world)
        for index in sorted(sampled):
            frame = self._read(frames, name, index)
            if frame is not None and (alone or self._usable(frame)):
                look.keep(index, frame)
        look_at_depth(self.notes, look)
        if opened.scene is not None and not look.depths:
            self._guarded(look, self._look_at_cloud, opened.scene)

    def _open(self, name: str) -> _Opened:
        if isinstance(self.source, Capture):  # its cloud may have to be fused from all frames
            return _Opened(self.source.frames(), None)
        scene = self.source.scene(name)
        return _Opened(scene.frames, scene)

    def _read(self, frames: Frames, scene: str, index: int) -> Frame | None:
        try:
            frame = frames[index]
        except DataError as error:
            self.notes.add_error(error, f"{scene}/{frames.names[index]}")
            return None
        self.notes.count("frames_read", 1)
        self.notes.facts["image_size"] = f"{frame.width} × {frame.height}"
        return frame

    def _usable(self, frame: Frame) -> bool:
        fault = fault_of_frame(frame, self.config.data)
        if fault is not None:
            what, mend = fault
            self.notes.add("error", what, frame.key, mend or mends.intrinsics(self.config.data))
        return look_at_pose(self.notes, frame)

    # --- clouds ------------------------------------------------------------------------------------

    def _look_at_cloud(self, look: Look, scene: Scene) -> None:
        """Frames that were read against the cloud; they are read again, one at a time."""
        frames = scene.frames.only(look.read_names)
        pairing = self.config.pairing
        if not look.depths and len(scene.points_world):
            if pairing.depth_test not in ("none", "cloud"):
                what = f"frames have no depth images, but pairing.depth_test is {pairing.depth_test}"
                mend = "set pairing.depth_test=none (or cloud) for data without depth"
                self.notes.add("error", what, self.where, mend)
                pairing = without_depth(pairing)
            self.lidar.add(scene.points_world, scene.up_world, frames)
        cloud = CloudCheck(self.notes, scene, pairing, self.truth)
        for index in look.read:
            if not look.depths or index in look.depths:
                cloud.add(scene.frames[index])
        self.seen.append(cloud.seen())
        self.notes.coverage += self.seen[-1].rows

    def _look_at_labels(self, look: Look, scene: Scene) -> None:
        """Labels alone, where poses or depth are not to be trusted."""
        if self.truth is not None:
            self.truth.scene_labels(scene.name, scene.points_world, scene.up_world)
            for frame in scene.frames.only(look.read_names):
                self.truth.frame_labels(frame)

    # --- all of them -------------------------------------------------------------------------------

    def judge(self) -> None:
        """Compare frames with each other, and clouds with frames."""
        with_depth = [look for look in self.looks if look.depths]
        if with_depth:
            self.depth.compare(with_depth)
            if not self.notes.has_errors:
                compare_colors(self.notes, with_depth, self.config.data, self.where)
        else:
            self.lidar.judge()
            compare_rigs(self.notes, {look.scene: look.names for look in self.looks if look.names})
        if not self.notes.has_errors:
            self._for_scenes(with_depth, self._look_at_cloud)
        elif self.truth is not None:
            self._for_scenes(with_depth, self._look_at_labels)
        if not self.lidar.explained:  # wrong matrices are why the cloud is not seen, and labels do not meet
            for seen in self.seen:
                seen.tell(self.notes)
        if self.truth is not None:
            self.truth.judge(compare=not self.lidar.explained)
        shares = [seen.share for seen in self.seen if seen.share is not None]
        if shares:
            self.notes.facts["points_seen"] = float(np.mean(shares))
            if not with_depth:
                camera_shares(self.notes)
            worst_covered(self.notes)

    def _for_scenes(self, looks: Sequence[Look], look_at: Callable[[Look, Scene], None]) -> None:
        """Open scenes one after another; what cannot be read is a problem."""
        for look in looks:
            self._guarded(look, look_at)

    def _guarded(
        self, look: Look, look_at: Callable[[Look, Scene], None], scene: Scene | None = None
    ) -> None:
        try:
            look_at(look, self.source.scene(look.scene) if scene is None else scene)
        except DataError as error:
            self.notes.add_error(error, look.scene)
