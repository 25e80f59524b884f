"""Label collapse: networks that teach each other drift towards calling everything one class.

The variance of eq. 7 does not see it, for features may stay spread while all of them are called floor. What
shows it is the *effective number of classes*, the exponential of the entropy of the class shares (Hill 1973,
order 1): 20 equally frequent classes count 20, one class alone counts 1. It is compared with that of the
refined teacher's labels of the same pixels, so that a few dull rooms in a row are no alarm.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scenelift.types import F64

WINDOW = 20
"""Steps whose shares are averaged: one step shows few places, and so few of the classes."""

LEAST_STEPS = 5
"""Steps of a stage before anything is said about it."""

COLLAPSE_SHARE = 1 / 3
"""Alarm in stage 2 below this share of the richness that a network had at the end of stage 1. Richness is the
effective number of classes beyond the first, as a share of the labels'. On generated rooms of 80 × 60 pixels,
switched after 64 steps, w_2d, w_3d and cns fell through it 9 to 20 steps later and ended below 0.03 of the
labels' (from 0.3), one class taking 97 to 100 % of all pixels. A third leaves room for networks that sharpen
without losing classes, and is told well before the end: none that fell through it came back."""

LEAST_LEARNED = 0.1
"""Richness below which stage 1 counts as collapsed. It is judged at its end only: untrained networks predict
many classes at random, then for a while hardly any, and then learn them one by one."""

LEAST_LABELS = 1.5
"""Effective classes that the labels must have for a verdict: two classes at 86 : 14. Below, a network that
overlooks the rare class altogether is everyday, and looks the same as a collapse."""

NETWORKS = (("classes_image", "labels_image", "2D"), ("classes_points", "labels_points", "3D"))
"""Keys of a log's records: what a network predicts, what its teacher's labels say; and its name."""

_UNITS = {"2D": "pixels", "3D": "points"}


@dataclass(frozen=True)
class Collapse:
    """A network that has lost most of its classes.

    Attributes:
        network: ``"2D"`` or ``"3D"``.
        since: the step at which it fell below the limit; ``None`` if stage 1 taught it no more.
        step: the step up to which was looked.
        effective: effective number of classes it predicts now.
        labels: that of the teacher's labels of the same steps.
        before: that of the network at the end of stage 1, ``None`` without one.
        top_class: the class it predicts most often.
        top_share: share of that class among its predictions.
    """

    network: str
    since: int | None
    step: int
    effective: float
    labels: float
    before: float | None
    top_class: int
    top_share: float

    def words(self, names: Sequence[str]) -> str:
        """One sentence for people; ``names`` are those of the classes."""
        named = names[self.top_class] if self.top_class < len(names) else f"class {self.top_class}"
        says = (
            f"the {self.network} network calls {100 * self.top_share:.0f} % of all {_UNITS[self.network]} "
            f"{named}: {self.effective:.1f} classes' worth where the teacher's labels name {self.labels:.1f}"
        )
        if self.since is None:
            return f"stage 1 ended in label collapse: {says}. Use a smaller train.lr, or more train.epochs."
        before = "" if self.before is None else f" (it had {self.before:.1f} at the end of stage 1)"
        return (
            f"label collapse since step {self.since}: {says}{before}. "
            "Balance the labels that networks give (switch.balance=0.75), or keep more of the teacher's "
            "(switch.clip)."
        )


def effective_classes(shares: Iterable[float]) -> float:
    """exp of the entropy of class shares; they need not sum to 1.

    >>> round(effective_classes([0.25, 0.25, 0.25, 0.25]), 6)
    4.0
    """
    known = np.array([share for share in shares if share > 0], dtype=np.float64)
    if not len(known):
        return 0.0
    known = known / known.sum()
    return math.exp(-float((known * np.log(known)).sum()))


class Monitor:
    """Looks at the records of a training one by one, as they come or from a log."""

    def __init__(self) -> None:
        self._watched = {name: _Network(name, *keys) for *keys, name in NETWORKS}
        self._told: set[str] = set()

    def add(self, record: Mapping[str, Any]) -> list[Collapse]:
        """Take in the next step; returns what is to be told now, each network once.

        Records without class shares, as older logs hold them, are passed over.
        """
        for network in self._watched.values():
            network.add(record)
        return self._new()

    def end(self) -> list[Collapse]:
        """What is to be told when training is over, for stage 1 may have been all of it."""
        for network in self._watched.values():
            network.end()
        return self._new()

    def fallen(self) -> list[Collapse]:
        """The networks that are collapsed at the step that came last, told or not."""
        found = [network.fallen() for network in self._watched.values()]
        return [collapse for collapse in found if collapse is not None]

    def _new(self) -> list[Collapse]:
        new = [found for found in self.fallen() if found.network not in self._told]
        self._told.update(found.network for found in new)
        return new


def collapses(log: Iterable[Mapping[str, Any]]) -> list[Collapse]:
    """The networks that a whole log ends collapsed."""
    monitor = Monitor()
    for record in log:
        monitor.add(record)
    monitor.end()
    return monitor.fallen()


def effective_series(log: Iterable[Mapping[str, Any]], key: str) -> tuple[F64, F64]:
    """Steps and effective numbers of classes over the last `WINDOW` steps of a stage, (K,) float64 each.

    Args:
        log: records in order of steps.
        key: of a record's class shares, as in `NETWORKS`.
    """
    mean, steps, values = _Mean(), [], []
    for place, record in enumerate(log):
        shares = _shares(record.get(key))
        if shares is None:
            continue
        mean.add(shares, record.get("stage"))
        steps.append(float(record.get("step", place)))
        values.append(effective_classes(mean.shares))
    return np.array(steps), np.array(values)


class _Mean:
    """Mean class shares over the last steps of a stage."""

    def __init__(self) -> None:
        self.last: deque[F64] = deque(maxlen=WINDOW)
        self.stage: object = None

    def add(self, shares: F64, stage: object) -> None:
        if stage != self.stage or (self.last and len(self.last[-1]) != len(shares)):
            self.last.clear()
        self.stage = stage
        self.last.append(shares)

    @property
    def shares(self) -> F64:
        mean: F64 = np.mean(self.last, axis=0)
        return mean


class _Network:
    def __init__(self, name: str, classes_key: str, labels_key: str) -> None:
        self._name, self._keys = name, (classes_key, labels_key)
        self._own, self._labels = _Mean(), _Mean()
        self._step = -1
        self._level: float | None = None
        """Richness at the end of stage 1; where the log does not hold that, the first of stage 2."""
        self._before: float | None = None
        self._since: int | None = None
        self._poor = False
        """Stage 1 ended without classes, so there is nothing to lose in stage 2."""

    def add(self, record: Mapping[str, Any]) -> None:
        own, labels = (_shares(record.get(key)) for key in self._keys)
        if own is None or labels is None:
            return
        if self._own.stage == 1 and record.get("stage") == 2:
            self._end_of_stage1()
        self._own.add(own, record.get("stage"))
        self._labels.add(labels, record.get("stage"))
        self._step = int(record.get("step", self._step + 1))
        richness = self._richness()
        if self._own.stage == 1 or richness is None:
            return
        self._poor = self._poor and richness < LEAST_LEARNED
        if self._level is None:
            self._level = min(1.0, richness)
        if richness >= COLLAPSE_SHARE * self._level:
            self._since = None
        elif self._since is None:
            self._since = self._step

    def fallen(self) -> Collapse | None:
        if self._poor:
            return self._collapse(None)
        return None if self._since is None else self._collapse(self._since)

    def end(self) -> None:
        if self._own.stage == 1:
            self._end_of_stage1()

    def _end_of_stage1(self) -> None:
        richness = self._richness()
        if richness is not None and len(self._own.last) == WINDOW:
            self._poor = richness < LEAST_LEARNED
            self._level, self._before = min(1.0, richness), effective_classes(self._own.shares)

    def _richness(self) -> float | None:
        """Effective classes beyond the first, as a share of the labels'; ``None`` if too little is known."""
        if len(self._own.last) < LEAST_STEPS:
            return None
        labels = effective_classes(self._labels.shares)
        if labels < LEAST_LABELS:
            return None
        return (effective_classes(self._own.shares) - 1) / (labels - 1)

    def _collapse(self, since: int | None) -> Collapse:
        own = self._own.shares
        top = int(own.argmax())
        return Collapse(
            self._name,
            since,
            self._step,
            effective_classes(own),
            effective_classes(self._labels.shares),
            self._before,
            top,
            float(own[top] / own.sum()),
        )


def _shares(value: object) -> F64 | None:
    """Class shares of a record, ``None`` where it has none that are sound."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    try:
        shares = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    sound = shares.ndim == 1 and bool(np.isfinite(shares).all()) and shares.min() >= 0 and shares.sum() > 0
    return shares if sound else None
