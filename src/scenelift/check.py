"""Look at data before any work is spent on them: what is wrong, where, and how to mend it.

Some frames of some scenes are read completely. Each is looked at alone (image, camera, depth), then
against its neighbours: depth of one frame, lifted and projected into another, has to meet the depth
measured there (`scenelift.scenes.agreement`). Where it does not, other readings of poses and depth units
are tried, and the one that fits is named. Last, the cloud is projected into the frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from scenelift.config import CaptureData, Config, PoseConvention
from scenelift.errors import DataError
from scenelift.pairing import coverage, pair_points
from scenelift.scenes import Problem, SceneSource
from scenelift.scenes.agreement import (
    Agreement,
    DepthView,
    Reading,
    best_agreement,
    compare_readings,
    median_depth_m,
    pairs_of,
    sample_frames,
)
from scenelift.scenes.capture import UNITS_PER_METRE, Capture
from scenelift.scenes.capture_files import some
from scenelift.scenes.rgbd import camera_fault
from scenelift.types import Frames

T = TypeVar("T")

FRAMES_PER_SCENE = 8
"""A data set of many scenes is sampled: about this many frames of each scene that is looked at."""

DEPTH_UNITS = (100.0, 1000.0, 5000.0, 10000.0)
"""Units per metre that occur: centimetres, millimetres, TUM RGB-D, tenths of millimetres. Whole metres do
too, but no setting mends those: they are too coarse."""

PLAUSIBLE_DEPTH_M = (0.1, 50.0)
"""The median depth of a capture of rooms, objects or streets lies in between."""

MIN_ACCURACY = 0.5
"""Below this share of confirmed pixels, poses, depth and intrinsics do not belong together (measured on
7-Scenes: 0.94 right, 0.16 with inverted poses)."""

BETTER = 1.15
"""Another reading has to be this many times as accurate to be believed over the configured one."""

_MIN_DEPTH_SHARE = 0.05
_MIN_POINTS_SEEN = 0.01
_MIN_LANDED = 0.05
_LARGEST_DEPTH_IN_METRES = 65
_MAX_PAIRS_REREAD = 24
_MAX_POINTS = 100_000


@dataclass(frozen=True)
class CheckReport:
    """What `check_source` found.

    Attributes:
        counts: scenes, scenes_checked, frames (of the checked scenes), frames_read, lost_frames, points.
        facts: measured properties by name, numbers or text; those that could not be measured are absent.
        problems: errors first.
    """

    counts: dict[str, int]
    facts: dict[str, float | str]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that forbid to go on."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def check_source(source: SceneSource, config: Config, max_frames: int = 32) -> CheckReport:
    """Check a data set.

    Args:
        source: any source; a `Capture` is looked at more closely.
        config: its ``data`` section words the hints, its ``pairing`` section projects the cloud.
        max_frames: how many frames to read completely, spread over scenes and sequences.

    Returns:
        The report. Data that cannot be read are problems in it, never exceptions.
    """
    check = _Check(source, config)
    try:
        names = tuple(dict.fromkeys((*source.names("train"), *source.names("val"))))
    except DataError as error:
        check.add_error(error, check.where)
        return check.report()
    check.counts["scenes"] = len(names)
    if not names:
        check.add("error", "expected at least one scene, found none", check.where, "check the data section")
    looked_at = _spread(names, max(1, max_frames // FRAMES_PER_SCENE))
    for name in looked_at:
        check.look_at_scene(name, max_frames // len(looked_at))
    check.compare_frames()
    if not any(problem.severity == "error" for problem in check.problems):
        check.project_clouds()
    return check.report()


def raise_if_bad(report: CheckReport) -> None:
    """Raise one `DataError` with the first error and the number of others, if there are errors."""
    if report.errors:
        first, *others = report.errors
        more = f" (and {len(others)} more; `scenelift check` lists them)" if others else ""
        raise DataError(f"{first.where}: {first.what}; {first.mend}{more}")


def summary_lines(report: CheckReport, max_problems: int = 12) -> list[str]:
    """The report for a terminal: counts, facts, problems with their mends, verdict."""
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in report.counts.items())
    lines = [counts]
    for name, value in report.facts.items():
        lines.append(f"{name.replace('_', ' ')}: {value if isinstance(value, str) else f'{value:.3g}'}")
    for problem in report.problems[:max_problems]:
        lines.append(f"{problem.severity}: {problem.where}: {problem.what}")
        lines.append(f"    -> {problem.mend}")
    if len(report.problems) > max_problems:
        lines.append(f"... and {len(report.problems) - max_problems} more")
    warnings = len(report.problems) - len(report.errors)
    verdict = "ok" if report.ok else f"{len(report.errors)} error(s)"
    return [*lines, f"{verdict}, {warnings} warning(s)" if warnings else verdict]


def to_json(report: CheckReport) -> dict[str, Any]:
    """The report as a plain tree for ``json.dumps``."""
    return {"ok": report.ok, **asdict(report)}


def _spread(items: Sequence[T], limit: int) -> list[T]:
    """At most ``limit`` items, evenly spread, the first one always among them."""
    return [items[i * len(items) // min(limit, len(items))] for i in range(min(limit, len(items)))]


@dataclass(eq=False)
class _Look:
    """What is kept of the frames of one scene that were read: names and thinned-out depth, by index."""

    scene: str
    frames: Frames
    read: list[int] = field(default_factory=list)
    views: dict[int, DepthView] = field(default_factory=dict)

    def read_frames(self) -> Frames:
        """The frames that were read before, to be read again."""
        index = {self.frames.names[i]: i for i in self.read}
        return Frames(tuple(index), lambda name: self.frames[index[name]])


class _Check:
    """Collects problems, counts and facts; each method is one part of the check."""

    def __init__(self, source: SceneSource, config: Config) -> None:
        self.source = source
        self.config = config
        self.problems: list[Problem] = []
        self.counts = dict.fromkeys(("scenes", "scenes_checked", "frames", "frames_read"), 0)
        self.facts: dict[str, float | str] = {}
        self.looks: list[_Look] = []
        capture = config.data if isinstance(config.data, CaptureData) else None
        self.where = capture.path if capture else config.data.source
        self.convention: PoseConvention = source.convention if isinstance(source, Capture) else "cam_to_world"
        self.units_per_metre = (capture and capture.depth_scale) or UNITS_PER_METRE
        self.min_coverage = capture.min_coverage if capture else 0.0

    def add(self, severity: Literal["error", "warning"], what: str, where: str, mend: str) -> None:
        """Note a problem unless it is noted already: a bad file of intrinsics is told once, not per frame."""
        if not any((problem.severity, problem.what) == (severity, what) for problem in self.problems):
            self.problems.append(Problem(severity, what, where, mend))

    def add_error(self, error: DataError, where: str) -> None:
        """A `DataError` as a problem: its last clause, after a semicolon, says what to do."""
        what, _, mend = str(error).rpartition("; ")
        self.add("error", what or mend, where, mend if what else "see docs of this data source")

    def report(self) -> CheckReport:
        ranked = sorted(self.problems, key=lambda problem: problem.severity != "error")
        return CheckReport(self.counts, self.facts, tuple(ranked))

    # --- single frames ---------------------------------------------------------------------------

    def look_at_scene(self, name: str, max_frames: int) -> None:
        """Read frames of a scene and look at each alone."""
        self.counts["scenes_checked"] += 1
        try:
            frames, doubtful = self._frames(name)
        except DataError as error:
            self.add_error(error, name)
            return
        self.counts["frames"] += len(frames)
        if not len(frames):
            self.add("error", "expected frames, found none", name, "check the path and the naming of files")
        look = _Look(name, frames)
        self.looks.append(look)
        for index in sorted({*sample_frames(len(frames), max_frames), *doubtful}):
            try:
                frame = frames[index]
            except DataError as error:
                self.add_error(error, f"{name}/{frames.names[index]}")
                continue
            self.counts["frames_read"] += 1
            look.read.append(index)
            self.facts["image_size"] = f"{frame.width} × {frame.height}"
            fault = camera_fault(frame.intrinsics, (frame.height, frame.width))
            if fault:
                self.add("error", fault, frame.key, "give intrinsics in pixels of this image size")
            view = DepthView.of(frame)
            if view is not None:
                look.views[index] = view
        self._look_at_depth(look)

    def _frames(self, name: str) -> tuple[Frames, list[int]]:
        """The frames of a scene, and the indices of those that must be read."""
        if not isinstance(self.source, Capture):
            return self.source.scene(name).frames, []
        frames, lost = self.source.frames(), self.source.lost_frames
        self.counts["lost_frames"] = len(lost)
        if lost:
            what = f"{len(lost)} frames without a finite pose are left out: {some(lost)}"
            self.add("warning", what, name, "nothing to do if tracking was lost; else export poses again")
        return frames, [frames.names.index(frame) for frame in self.source.doubtful_frames()]

    def _look_at_depth(self, look: _Look) -> None:
        share = {view.key: float((view.depth_m > 0).double().mean()) for view in look.views.values()}
        if not share:
            return
        self.facts["measured_depth"] = float(np.median(list(share.values())))
        empty = [key for key, measured in share.items() if measured < _MIN_DEPTH_SHARE]
        if empty:
            self.add(
                "error" if len(empty) > len(share) / 2 else "warning",
                f"depth covers less than {_MIN_DEPTH_SHARE:.0%} of the image in {len(empty)} of {len(share)} "
                f"frames: {some(empty)}",
                look.scene,
                "check that depth was recorded and that both cameras' intrinsics fit their images",
            )

    # --- frames against frames -------------------------------------------------------------------

    def compare_frames(self) -> None:
        """Depth of frames against their neighbours; where it does not agree, find out why."""
        median = median_depth_m(view for look in self.looks for view in look.views.values())
        pairs = [pair for look in self.looks for pair in pairs_of(look.views)]
        if not pairs or np.isnan(median):
            return
        best = best_agreement(pairs)
        seen_again = {key: found.seen_again for key, found in best.items()}
        worst = sorted(seen_again, key=seen_again.__getitem__)[:3]
        self.facts["median_depth_m"] = median
        self.facts["depth_accuracy"] = sum(best.values(), Agreement()).accuracy
        self.facts["depth_seen_again"] = float(np.median(list(seen_again.values())))
        self.facts["worst_frames"] = ", ".join(f"{key} {seen_again[key]:.0%}" for key in worst)
        if not self._another_reading_fits(_spread(pairs, _MAX_PAIRS_REREAD), median):
            self._judge(best, median)

    def _another_reading_fits(self, pairs: list[tuple[DepthView, DepthView]], median_m: float) -> bool:
        """Try other pose conventions and depth units; report the one that fits clearly better, if any."""
        low, high = PLAUSIBLE_DEPTH_M
        units = {self.units_per_metre / unit: unit for unit in DEPTH_UNITS}
        factors = {1.0, *(factor for factor in units if low < factor * median_m < high)}
        now = Reading(self.convention, 1.0)
        totals = compare_readings(pairs, self.convention, sorted(factors))
        overlapping = [r for r, found in totals.items() if found.landed > _MIN_LANDED * found.measured]
        best = max(overlapping, key=lambda reading: totals[reading].accuracy, default=now)
        accuracy = totals[best].accuracy
        if accuracy < max(MIN_ACCURACY, BETTER * totals[now].accuracy):
            return False
        looks_like, settings = [], []
        if best.convention != now.convention:
            looks_like.append(f"poses look like {best.convention}, expected {now.convention}")
            settings.append(f"data.pose_convention={best.convention}")
        if best.depth_factor != 1.0:
            unit = units[best.depth_factor]
            looks_like.append(f"depth looks like {unit:g} units per metre, expected {self.units_per_metre:g}")
            settings.append(f"data.depth_scale={unit:g}")
        self.add(
            "error",
            f"{' and '.join(looks_like)}: {totals[now].accuracy:.0%} of the depth agrees between frames, "
            f"{accuracy:.0%} would",
            self.where,
            f"set {' and '.join(settings)}, or convert the files",
        )
        return True

    def _judge(self, best: Mapping[str, Agreement], median_m: float) -> None:
        """Whether depth is plausible and frames agree as they are read."""
        low, high = PLAUSIBLE_DEPTH_M
        total = sum(best.values(), Agreement())
        seen_again = float(np.median([found.seen_again for found in best.values()]))
        apart = [key for key, found in best.items() if found.accuracy < MIN_ACCURACY]
        if not low < median_m < high:
            stored = median_m * self.units_per_metre
            self.add(
                "error",
                f"expected a median depth of {low} to {high} m, found {median_m:.3g} m (stored {stored:.4g}, "
                f"at {self.units_per_metre:g} per metre): the unit of depth is another"
                f"{', perhaps whole metres' if stored < _LARGEST_DEPTH_IN_METRES else ''}",
                self.where,
                "set data.depth_scale to the units per metre, or store depth as 16-bit millimetres",
            )
        elif total.accuracy < MIN_ACCURACY:
            self.add(
                "error",
                f"only {total.accuracy:.0%} of the depth agrees between frames, and no other pose convention "
                "or depth unit fits: poses, depth and intrinsics do not belong together",
                self.where,
                "check that poses and images are numbered alike, and that intrinsics are these cameras'",
            )
        elif seen_again < self.min_coverage:
            self.add(
                "error",
                f"only {seen_again:.0%} of a frame's depth is seen again by its neighbours, expected "
                f"{self.min_coverage:.0%}",
                self.where,
                "use frames that overlap more (smaller data.stride), or lower data.min_coverage",
            )
        elif apart:
            self.add(
                "warning",
                f"{len(apart)} of {len(best)} frames disagree with their neighbours: {some(apart)}",
                self.where,
                "look at their poses and depth; delete frames with wrong poses",
            )

    # --- clouds against frames -------------------------------------------------------------------

    def project_clouds(self) -> None:
        """Project each scene's cloud into the frames that were read."""
        seen = []
        for look in self.looks:
            frames = look.read_frames()
            try:
                scene = self.source.scene(look.scene)
                step = -(-len(scene.points_world) // _MAX_POINTS) or 1
                points_world = scene.points_world[::step]
                pairs = pair_points(points_world, frames, self.config.pairing)
            except DataError as error:
                self.add_error(error, look.scene)
                continue
            found = coverage(pairs, len(frames), len(points_world))
            self.counts["points"] = self.counts.get("points", 0) + len(scene.points_world)
            seen.append(found.share_seen)
            blind = [frames.names[index] for index in np.flatnonzero(found.points_per_frame == 0)]
            if found.share_seen < _MIN_POINTS_SEEN:
                self.add(
                    "error",
                    f"{found.share_seen:.1%} of the cloud's points are seen by the {len(frames)} frames read",
                    look.scene,
                    "bring cloud and poses into one world, in metres; or remove the cloud to have it fused",
                )
            elif blind:
                self.add(
                    "warning",
                    f"{len(blind)} of {len(frames)} frames see no point of the cloud: {some(blind)}",
                    look.scene,
                    "check their poses; they add nothing to the points' labels",
                )
        if seen:
            self.facts["points_seen"] = float(np.mean(seen))
