"""The errors of the simulated teachers as one quantity: all their knobs, or some, times a factor."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from scenelift.config_teachers import SimulatedLabels, SimulatedMasks, TeachersConfig
from scenelift.errors import ConfigError

_LABELS = {
    "instance": "instance_error",
    "patch": "patch_error",
    "view": "view_error",
    "token": "token_noise",
    "bleed": "bleed",
}
_MASKS = {
    "merge": "merge",
    "split": "split",
    "jitter": "jitter",
    "uncovered": "uncovered",
    "feature": "feature_noise",
}

KINDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "noise": (
        *(("labels", knob) for knob in _LABELS.values()),
        *(("masks", knob) for knob in _MASKS.values()),
    ),
    "noise.labels": tuple(("labels", knob) for knob in _LABELS.values()),
    "noise.masks": tuple(("masks", knob) for knob in _MASKS.values()),
    **{f"noise.{kind}": (("labels", knob),) for kind, knob in _LABELS.items()},
    **{f"noise.{kind}": (("masks", knob),) for kind, knob in _MASKS.items()},
}
"""The knobs of each kind: (teacher, key of its section). The feature's noise and where it bleeds to count,
the share of errors that stay among related classes does not: it says which errors, not how many."""

MOST = {
    **dict.fromkeys(("instance_error", "patch_error", "view_error", "merge", "split"), 1.0),
    "uncovered": 0.95,
}
"""Where a knob is a share, and stays when the factor would lift it beyond."""


def is_noise(key: str) -> bool:
    """Whether a key names noise rather than a key of the configuration."""
    return key == "noise" or key.startswith("noise.")


def scaled(teachers: TeachersConfig, kind: str, factor: float) -> tuple[TeachersConfig, list[str]]:
    """The teachers with all knobs of a kind multiplied.

    Args:
        teachers: those that ``kind`` concerns have to be simulated.
        kind: one of `KINDS`.
        factor: 0 = none of these errors, 1 = as they are.

    Returns:
        The teachers, and the knobs that are held at `MOST` instead.

    Raises:
        ConfigError: unknown kind, a factor below 0, or a teacher that is not simulated.
    """
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"{kind} is no kind of noise{hint}; expected one of {', '.join(KINDS)}")
    if not 0 <= factor < float("inf"):
        raise ConfigError(f"{kind}: expected a factor of 0 or more, found {factor:g}")
    sections = {"labels": teachers.labels, "masks": teachers.masks}
    for which in dict.fromkeys(teacher for teacher, _ in KINDS[kind]):
        section = sections[which]
        if not isinstance(section, SimulatedLabels | SimulatedMasks):
            raise ConfigError(
                f"{kind}: expected a simulated teacher of {which}, found {section.kind}, whose errors are "
                "its own; use --data synthetic, or --teacher simulated on data with ground truth"
            )
    held = []
    changes: dict[str, dict[str, float]] = {"labels": {}, "masks": {}}
    for which, knob in KINDS[kind]:
        wanted = factor * float(getattr(sections[which], knob))
        most = MOST.get(knob, float("inf"))
        if wanted > most:
            held.append(f"{which}.{knob}")
        changes[which][knob] = min(wanted, most)
    update = {which: sections[which].model_copy(update=changed) for which, changed in changes.items()}
    return teachers.model_copy(update=update), held
