"""Colour against depth and poses: shuffled images, and intrinsics of colour that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scenelift.check import mends
from scenelift.check.color import AS_GIVEN, ColorView, Fit, Match, Zoom, by_chance, fit, matches
from scenelift.check.looks import Look
from scenelift.check.report import Notes, spread
from scenelift.config import DataConfig
from scenelift.scenes.agreement import PAIR_OFFSETS
from scenelift.scenes.folders import some

NO_FIT = 0.06
"""`Fit.fine` of images of other frames stays below (measured: up to 0.03)."""

GOOD_FIT = 0.2
"""Another reading has to fit this well to be believed."""

FAR_BETTER, BETTER = 0.3, 0.7
"""What the given reading reaches of the best one's `Fit.fine`: below the first it is wrong, below the second
it is worth a warning."""

NOMINAL = (0.85, 1.18)
"""Focal lengths given for a kind of camera are off by this much at most: worth a warning, and usable. On
7-Scenes, whose colour comes with the depth camera's nominal intrinsics, 0.9 times them fits."""

ABOVE_CHANCE = 0.2
"""Images of the right frames correlate better than images dealt out anew by at least this much."""

_ZOOMS = (0.5, 0.6, 0.67, 0.75, 0.8, 0.86, 0.9, 0.95, 1.05, 1.1, 1.17, 1.25, 1.33, 1.5, 1.67, 2.0)
_FITS_WELL = 0.5
_SHIFTS = (-2, -1, 1, 2)
_MIN_PAIRS = 3
_MAX_PAIRS = 20


@dataclass(frozen=True, eq=False)
class _Scene:
    colors: dict[int, ColorView]
    found: list[Match]


def compare_colors(notes: Notes, looks: Sequence[Look], data: DataConfig, where: str) -> None:
    """Hold colours of frames against each other; only sensible where depth and poses agree."""
    scenes = [_scene(look, max(4, _MAX_PAIRS // len(looks))) for look in looks if look.depths]
    now = _fit(scenes)
    if now is None or sum(len(scene.found) for scene in scenes) < _MIN_PAIRS:
        return
    notes.facts["color_agreement"] = now.coarse
    notes.facts["color_detail_agreement"] = now.fine
    sizes = _ZOOMS if now.fine < _FITS_WELL else [size for size in _ZOOMS if 0.85 < size < 1.15]
    zooms = {zoom: _fit(scenes, zoom) for size in sizes for zoom in (Zoom(size), Zoom(size, size))}
    zoom, zoomed = max(
        ((z, f) for z, f in zooms.items() if f), key=lambda zf: zf[1].fine, default=(AS_GIVEN, now)
    )
    shifts = {shift: _fit(scenes, shift=shift) for shift in _SHIFTS if now.fine < GOOD_FIT}
    shift, shifted = max(
        ((s, f) for s, f in shifts.items() if f), key=lambda sf: sf[1].fine, default=(0, now)
    )
    if shifted.fine > max(GOOD_FIT, zoomed.fine) and now.fine < FAR_BETTER * shifted.fine:
        frames = f"{abs(shift)} frame{'s' if abs(shift) > 1 else ''} {'later' if shift > 0 else 'earlier'}"
        what = f"colour images look shifted against depth and poses: those {frames} fit"
        _tell(notes, "error", what, now, shifted, where, mends.order(data, "colour images"))
    elif zoomed.fine > GOOD_FIT and now.fine < BETTER * zoomed.fine:
        whole = zoom.center != 1.0
        size = "intrinsics of images of another size" if whole else "another focal length"
        what = f"colour looks taken with {size}: {zoom.focal:g} times the given one{'s' if whole else ''}"
        mend = "give the colour camera's own intrinsics, or register colour to depth"
        far = now.fine < FAR_BETTER * zoomed.fine and not NOMINAL[0] <= zoom.focal <= NOMINAL[1]
        _tell(
            notes,
            "error" if far else "warning",
            what,
            now,
            zoomed,
            where,
            mend,
        )
    elif now.fine < NO_FIT:
        chance = max((by_chance(scene.colors, scene.found) for scene in scenes if scene.found), default=0.0)
        if now.coarse < chance + ABOVE_CHANCE:
            notes.add(
                "error",
                f"colours do not fit depth and poses: where frames overlap they correlate {now.coarse:.2f}, "
                f"as of other frames ({chance:.2f}), and not at all in detail ({now.fine:.2f})",
                where,
                mends.order(data, "colour images"),
            )
        else:
            notes.add(
                "warning",
                f"colour and depth fit only roughly: brightness correlates {now.coarse:.2f} where frames "
                f"overlap, details {now.fine:.2f}",
                where,
                "check that colour is registered to depth; blurred or plain images look so too",
            )
    else:
        _tell_of_strays(notes, looks, scenes, now, where)


def _tell_of_strays(
    notes: Notes, looks: Sequence[Look], scenes: Sequence[_Scene], now: Fit, where: str
) -> None:
    """Single frames with another frame's image."""
    strays = []
    for scene in scenes:
        own = fit(scene.colors, scene.found)
        if own is not None and own.fine > GOOD_FIT:
            strays += [scene.colors[index].key for index, fine in own.by_frame.items() if fine < NO_FIT]
    total = sum(len(look.depths) for look in looks)
    if strays:
        notes.add(
            "warning",
            f"colours of {len(strays)} of {total} frames do not fit their neighbours: {some(strays)}",
            where,
            "look at these images; delete frames with another frame's image",
        )


def _scene(look: Look, most: int) -> _Scene:
    """Matches of one scene, nearest neighbours first where there are many."""
    pairs = [
        (i, i + offset) for offset in PAIR_OFFSETS for i in sorted(look.depths) if i + offset in look.depths
    ]
    return _Scene(look.colors, matches(look.depths, spread(pairs, most)))


def _fit(scenes: Sequence[_Scene], zoom: Zoom = AS_GIVEN, shift: int = 0) -> Fit | None:
    """The mean over scenes."""
    first = zoom == AS_GIVEN and shift == 0
    tried = [fit(scene.colors, scene.found, zoom, shift, coarsely=first) for scene in scenes]
    fits = [found for found in tried if found is not None]
    if not fits:
        return None
    return Fit(float(np.mean([f.coarse for f in fits])), float(np.mean([f.fine for f in fits])), {})


def _tell(notes: Notes, severity: str, what: str, now: Fit, then: Fit, where: str, mend: str) -> None:
    agrees = f"details correlate {now.fine:.2f} between frames, {then.fine:.2f} then"
    notes.add("error" if severity == "error" else "warning", f"{what}: {agrees}", where, mend)
