"""Teachers by kind. A simulated one is handed the ground truth's door; the others never see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from scenelift.config import ClipLabels, PythonTeacher, SamMasks, SimulatedLabels, TeachersConfig
from scenelift.errors import ConfigError
from scenelift.scenes import TruthSource
from scenelift.teachers import LabelTeacher, MaskTeacher, TextEncoder
from scenelift.teachers.weights import Weights, find_weights


def _truth_for_simulation(truth: TruthSource | None) -> TruthSource:
    if truth is None:
        raise ConfigError(
            "teachers: the simulated teachers are made from ground truth, and this data set has none; "
            "name real ones with --clip and --sam, or choose --teacher embedded"
        )
    return truth


def _simulated_labels(config: Any, truth: TruthSource | None, device: str, download: bool) -> LabelTeacher:
    from scenelift.teachers.simulated import SimulatedLabelTeacher

    return SimulatedLabelTeacher(config, _truth_for_simulation(truth))


def _simulated_masks(config: Any, truth: TruthSource | None, device: str, download: bool) -> MaskTeacher:
    from scenelift.teachers.simulated import SimulatedMaskTeacher

    return SimulatedMaskTeacher(config, _truth_for_simulation(truth))


def _embedded_labels(config: Any, truth: TruthSource | None, device: str, download: bool) -> LabelTeacher:
    from scenelift.teachers.embedded import EmbeddedLabelTeacher

    return EmbeddedLabelTeacher(config, device)


def _embedded_masks(config: Any, truth: TruthSource | None, device: str, download: bool) -> MaskTeacher:
    from scenelift.teachers.embedded import EmbeddedMaskTeacher

    return EmbeddedMaskTeacher(config, device)


def _clip(config: Any, truth: TruthSource | None, device: str, download: bool) -> LabelTeacher:
    weights = _clip_weights(config, download)
    from scenelift.teachers.clip import ClipLabelTeacher

    return ClipLabelTeacher(config, weights, device)


def _sam(config: Any, truth: TruthSource | None, device: str, download: bool) -> MaskTeacher:
    weights = _sam_weights(config, download)
    from scenelift.teachers.sam import SamMaskTeacher

    return SamMaskTeacher(config, weights, device)


def _clip_weights(config: ClipLabels, download: bool) -> Weights:
    from scenelift.teachers.clip_towers import FAMILIES

    return find_weights(config.weights, "teachers.labels.weights", tuple(FAMILIES), download)


def _sam_weights(config: SamMasks, download: bool) -> Weights:
    from scenelift.teachers.sam_models import MODELS

    return find_weights(config.weights, "teachers.masks.weights", (*MODELS, ""), download)


LABEL_TEACHERS: dict[str, Callable[[Any, TruthSource | None, str, bool], LabelTeacher]] = {
    "clip": _clip,
    "simulated": _simulated_labels,
    "embedded": _embedded_labels,
}
MASK_TEACHERS: dict[str, Callable[[Any, TruthSource | None, str, bool], MaskTeacher]] = {
    "sam": _sam,
    "simulated": _simulated_masks,
    "embedded": _embedded_masks,
}
WEIGHTS: dict[str, Callable[[Any, bool], Weights]] = {"clip": _clip_weights, "sam": _sam_weights}
"""How the kinds that need weights find them, from their section and whether they may be fetched."""


def open_teachers(
    config: TeachersConfig, truth: TruthSource | None, device: str, download: bool = False
) -> tuple[LabelTeacher, MaskTeacher]:
    """Both teachers of a configuration.

    Args:
        config: which teachers.
        truth: of the data set; only the simulated teachers are handed it.
        device: where the networks of real teachers compute.
        download: may weights be fetched that are not on this machine?

    Raises:
        ConfigError: a simulated teacher for a data set without ground truth, or a teacher that a Python
            program makes itself.
        WeightsError: a teacher's weights or packages are missing.
    """
    _expect_own(config.labels, config.masks)
    labels = LABEL_TEACHERS[config.labels.kind](config.labels, truth, device, download)
    return labels, MASK_TEACHERS[config.masks.kind](config.masks, truth, device, download)


def open_text_encoder(
    config: TeachersConfig, phrases: Iterable[str], device: str, download: bool = False
) -> TextEncoder:
    """What embeds a user's words in the space of the label teacher, without ground truth.

    Args:
        config: of the run whose networks are asked.
        phrases: of the classes it was trained for; the simulated teacher knows these words and few others.
        device: where the text network computes.
        download: may weights be fetched that are not on this machine?

    Raises:
        ConfigError: a Python program made the teacher.
        WeightsError: the teacher's weights or packages are missing.
    """
    if isinstance(config.labels, SimulatedLabels):
        from scenelift.teachers.simulated_words import QueryWords

        return QueryWords(config.labels.dim, phrases)
    _expect_own(config.labels)
    return LABEL_TEACHERS[config.labels.kind](config.labels, None, device, download)


def _expect_own(*asked: object) -> None:
    for teacher in asked:
        if isinstance(teacher, PythonTeacher):
            raise ConfigError(
                f"teachers: {teacher.name} was made by a Python program; expected both as Session.teachers, "
                "found none; run that program again"
            )
