"""Posed depth images: do frames agree with each other, and if not, which other reading of them would?

Readings that are tried, each against the configured one: pose conventions and depth units together,
intrinsics of colour and depth exchanged, intrinsics of another image size, another focal length, poses
looked up at other times. Then colour is held against depth and poses (`scenelift.check.color`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from scenelift.check import mends
from scenelift.check.intrinsics import exchanged_depth_intrinsics, zoomed
from scenelift.check.looks import Look
from scenelift.check.offsets import offset_poses
from scenelift.check.report import Notes, spread
from scenelift.config import CaptureData, Config, PoseConvention
from scenelift.scenes import SceneSource
from scenelift.scenes.agreement import (
    Agreement,
    DepthView,
    agreement,
    best_agreement,
    compare_readings,
    median_depth_m,
    pairs_of,
)
from scenelift.scenes.capture import Capture
from scenelift.scenes.folders import some

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

HINT = 1.03
"""From here on a better reading is worth a warning, if it also leaves less than `HINT_LEFT` of the misses."""

HINT_LEFT = 0.6

_MILLIMETRES = 1000.0
_MIN_DEPTH_SHARE = 0.05
_MIN_LANDED = 0.05
_LARGEST_DEPTH_IN_METRES = 65
_MAX_PAIRS_REREAD = 24
_ZOOMS = (
    0.4,
    0.45,
    0.5,
    0.57,
    0.67,
    0.75,
    0.8,
    0.87,
    0.93,
    1.07,
    1.15,
    1.25,
    1.33,
    1.5,
    1.75,
    2.0,
    2.25,
    2.5,
)
_NEARLY_ALL = 0.85
_SAME = 0.03
_EXCHANGED = "intrinsics of colour and depth look exchanged"
_REFINE = (0.96, 0.98, 1.02, 1.04)

Pairs = Sequence[tuple[DepthView, DepthView]]


@dataclass(frozen=True)
class _Guess:
    """Another way to read the data: how well frames would agree and do now, what it is, and the mend."""

    found: Agreement
    now: Agreement
    what: str
    mend: str


def look_at_depth(notes: Notes, look: Look) -> None:
    """Whether the depth images of a scene hold measurements at all."""
    share = {view.key: float((view.depth_m > 0).double().mean()) for view in look.depths.values()}
    if not share:
        return
    notes.facts["measured_depth"] = float(np.median(list(share.values())))
    empty = [key for key, measured in share.items() if measured < _MIN_DEPTH_SHARE]
    if empty:
        notes.add(
            "error" if len(empty) > len(share) / 2 else "warning",
            f"depth covers less than {_MIN_DEPTH_SHARE:.0%} of the image in {len(empty)} of {len(share)} "
            f"frames: {some(empty)}",
            look.scene,
            "check that depth was recorded and that both cameras' intrinsics fit their images",
        )


class DepthCheck:
    """Depth of frames against their neighbours'; where it does not agree, finds out why."""

    def __init__(self, notes: Notes, source: SceneSource, config: Config, where: str) -> None:
        self.notes, self.source, self.data, self.where = notes, source, config.data, where
        capture = config.data if isinstance(config.data, CaptureData) else None
        self.convention: PoseConvention = source.convention if isinstance(source, Capture) else "cam_to_world"
        self.min_coverage = capture.min_coverage if capture else 0.0

    @cached_property
    def units_per_metre(self) -> float:
        """Of depth as it is stored; frames have been read by the time it is asked for."""
        return self.source.units_per_metre if isinstance(self.source, Capture) else _MILLIMETRES

    def compare(self, looks: Sequence[Look]) -> None:
        """Compare frames within scenes, over all scenes at once."""
        median_m = median_depth_m(view for look in looks for view in look.depths.values())
        pairs = [pair for look in looks for pair in pairs_of(look.depths)]
        if not pairs or np.isnan(median_m):
            return
        best = best_agreement(pairs)
        seen_again = {key: found.seen_again for key, found in best.items()}
        worst = sorted(seen_again, key=seen_again.__getitem__)[:3]
        self.notes.facts["median_depth_m"] = median_m
        self.notes.facts["depth_accuracy"] = sum(best.values(), Agreement()).accuracy
        self.notes.facts["depth_seen_again"] = float(np.median(list(seen_again.values())))
        self.notes.facts["worst_frames"] = ", ".join(f"{key} {seen_again[key]:.0%}" for key in worst)
        edges = [ratio for look in looks for ratio in look.edges.values()]
        if edges:
            self.notes.facts["color_at_depth_edges"] = float(np.median(edges))
        some_pairs = spread(pairs, _MAX_PAIRS_REREAD)
        if not self._another_reading_fits(some_pairs, looks, median_m):
            self._judge(best, median_m)

    def _another_reading_fits(self, pairs: Pairs, looks: Sequence[Look], median_m: float) -> bool:
        """Try other readings; report the one that fits clearly better, if any. Whether it is an error."""
        now = total(pairs)
        guesses: list[_Guess] = []
        if now.accuracy * BETTER < 1:  # else none can be better enough
            guesses += [*self._conventions_and_units(pairs, now, median_m), *self._offsets(looks)]
        if now.accuracy * HINT < 1 and not self.notes.has_errors:  # faults of intrinsics are told already
            guesses += [*self._exchanged(pairs, now), *self._zooms(pairs, now)]
        overlapping = [guess for guess in guesses if guess.found.landed > _MIN_LANDED * guess.found.measured]
        best = max(overlapping, key=lambda guess: guess.found.accuracy, default=None)
        if best is None:
            return False
        # Exchanged files are close to another focal length, and the better thing to say.
        close = [guess for guess in overlapping if best.found.accuracy - guess.found.accuracy < _SAME]
        best = next((guess for guess in close if guess.what == _EXCHANGED), best)
        accuracy, now = best.found.accuracy, best.now
        agrees = f"{now.accuracy:.0%} of the depth agrees between frames, {accuracy:.0%} would"
        if accuracy >= max(MIN_ACCURACY, BETTER * now.accuracy):
            self.notes.add("error", f"{best.what}: {agrees}", self.where, best.mend)
            return True
        fewer_misses = 1 - accuracy < HINT_LEFT * (1 - now.accuracy)
        if now.accuracy >= MIN_ACCURACY and accuracy >= HINT * now.accuracy and fewer_misses:
            self.notes.add("warning", f"{best.what}: {agrees}", self.where, best.mend)
        return False

    def _conventions_and_units(self, pairs: Pairs, now: Agreement, median_m: float) -> list[_Guess]:
        low, high = PLAUSIBLE_DEPTH_M
        units = {self.units_per_metre / unit: unit for unit in DEPTH_UNITS}
        factors = {1.0, *(factor for factor in units if low < factor * median_m < high)}
        totals = compare_readings(pairs, self.convention, sorted(factors))
        guesses = []
        for reading, found in totals.items():
            looks_like: list[str] = []
            settings: dict[str, str] = {}
            if reading.convention != self.convention:
                looks_like.append(f"poses look like {reading.convention}, expected {self.convention}")
                settings["pose_convention"] = reading.convention
            if reading.depth_factor != 1.0:
                unit = units[reading.depth_factor]
                looks_like.append(
                    f"depth looks like {unit:g} units per metre, expected {self.units_per_metre:g}"
                )
                settings["depth_scale"] = f"{unit:g}"
            if settings:
                mend = mends.depth_reading(self.data, settings)
                guesses.append(_Guess(found, now, " and ".join(looks_like), mend))
        return guesses

    def _exchanged(self, pairs: Pairs, now: Agreement) -> list[_Guess]:
        reread = exchanged_depth_intrinsics(self.data)
        if reread is None:
            return []
        found = _total(pairs, lambda view: replace(view, intrinsics=reread(view.intrinsics)))
        return [_Guess(found, now, _EXCHANGED, "exchange intrinsic_color.txt and intrinsic_depth.txt")]

    def _zooms(self, pairs: Pairs, now: Agreement) -> list[_Guess]:
        """Intrinsics of another image size, and other focal lengths."""
        # Far readings are out of question where nearly all agrees: at 0.8 or 1.25 times it falls below 0.8.
        zooms = _ZOOMS if now.accuracy < _NEARLY_ALL else [zoom for zoom in _ZOOMS if 0.85 < zoom < 1.2]
        guesses = []
        for whole in (True, False):
            at: dict[float, Agreement] = {}
            for zoom in zooms:
                at[zoom] = _total(pairs, partial(zoomed, factor=zoom, whole=whole))
            coarse = max(at, key=lambda zoom: at[zoom].accuracy)
            for zoom in (coarse * step for step in _REFINE):
                at[zoom] = _total(pairs, partial(zoomed, factor=zoom, whole=whole))
            best = max(at, key=lambda zoom: at[zoom].accuracy)
            focal = "intrinsics of images of another size" if whole else "another focal length"
            what = f"depth looks taken with {focal}: {best:.2f} times the given one{'s' if whole else ''}"
            mend = (
                f"{mends.intrinsics(self.data)} (now times {best:.2f}{'' if whole else ', the centre kept'})"
            )
            guesses.append(_Guess(at[best], now, what, mend))
        return guesses

    def _offsets(self, looks: Sequence[Look]) -> list[_Guess]:
        guesses = []
        for offset_s, pairs, pairs_now in offset_poses(self.source, looks):
            base = getattr(getattr(self.source, "config", None), "time_offset_s", 0.0)
            what = f"time stamps of poses look off by {abs(offset_s):g} s"
            guesses.append(
                _Guess(total(pairs), total(pairs_now), what, f"set data.time_offset_s={base + offset_s:g}")
            )
        return guesses

    def _judge(self, best: Mapping[str, Agreement], median_m: float) -> None:
        """Whether depth is plausible and frames agree as they are read."""
        low, high = PLAUSIBLE_DEPTH_M
        total = sum(best.values(), Agreement())
        seen_again = float(np.median([found.seen_again for found in best.values()]))
        apart = [key for key, found in best.items() if found.accuracy < MIN_ACCURACY]
        add = self.notes.add
        if not low < median_m < high:
            stored = median_m * self.units_per_metre
            add(
                "error",
                f"expected a median depth of {low} to {high} m, found {median_m:.3g} m (stored {stored:.4g}, "
                f"at {self.units_per_metre:g} per metre): the unit of depth is another"
                f"{', perhaps whole metres' if stored < _LARGEST_DEPTH_IN_METRES else ''}",
                self.where,
                "set data.depth_scale to the units per metre, or store depth as 16-bit millimetres",
            )
        elif total.accuracy < MIN_ACCURACY:
            edges = self.notes.facts.get("color_at_depth_edges", 0.0)
            together = isinstance(edges, float) and edges > _EDGES_COINCIDE
            add(
                "error",
                f"only {total.accuracy:.0%} of the depth agrees between frames and no other pose convention, "
                "depth unit or focal length fits: poses, depth and intrinsics do not belong together"
                + (" (colour and depth of each frame do: the poses are other frames')" if together else ""),
                self.where,
                "check that poses and images are numbered alike, and that intrinsics are these cameras'",
            )
        elif seen_again < self.min_coverage:
            add(
                "error",
                f"only {seen_again:.0%} of a frame's depth is seen again by its neighbours, expected "
                f"{self.min_coverage:.0%}",
                self.where,
                "use frames that overlap more (smaller data.stride), or lower data.min_coverage",
            )
        elif apart:
            add(
                "warning",
                f"{len(apart)} of {len(best)} frames disagree with their neighbours: {some(apart)}",
                self.where,
                "look at their poses and depth; delete frames with wrong poses",
            )


_EDGES_COINCIDE = 1.3


def total(pairs: Pairs) -> Agreement:
    """Agreement over pairs as they are."""
    return sum((agreement(a, b) for a, b in pairs), Agreement())


def _total(pairs: Pairs, reread: Callable[[DepthView], DepthView]) -> Agreement:
    """Agreement over pairs of views read another way; each view is reread once."""
    views = {view.key: view for pair in pairs for view in pair}
    other = {key: reread(view) for key, view in views.items()}
    return sum((agreement(other[a.key], other[b.key]) for a, b in pairs), Agreement())
