"""Teachers by kind. A simulated one is handed the ground truth's door; the others never see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scenelift.config import TeachersConfig
from scenelift.errors import ConfigError
from scenelift.scenes import TruthSource
from scenelift.teachers import LabelTeacher, MaskTeacher


def _truth_for_simulation(truth: TruthSource | None) -> TruthSource:
    if truth is None:
        raise ConfigError(
            "teachers: the simulated teachers are made from ground truth, and this data set has none; "
            "choose others, for instance --teacher embedded"
        )
    return truth


def _simulated_labels(config: Any, truth: TruthSource | None, device: str) -> LabelTeacher:
    from scenelift.teachers.simulated import SimulatedLabelTeacher

    return SimulatedLabelTeacher(config, _truth_for_simulation(truth))


def _simulated_masks(config: Any, truth: TruthSource | None, device: str) -> MaskTeacher:
    from scenelift.teachers.simulated import SimulatedMaskTeacher

    return SimulatedMaskTeacher(config, _truth_for_simulation(truth))


def _embedded_labels(config: Any, truth: TruthSource | None, device: str) -> LabelTeacher:
    from scenelift.teachers.embedded import EmbeddedLabelTeacher

    return EmbeddedLabelTeacher(config, device)


def _embedded_masks(config: Any, truth: TruthSource | None, device: str) -> MaskTeacher:
    from scenelift.teachers.embedded import EmbeddedMaskTeacher

    return EmbeddedMaskTeacher(config, device)


LABEL_TEACHERS: dict[str, Callable[[Any, TruthSource | None, str], LabelTeacher]] = {
    "simulated": _simulated_labels,
    "embedded": _embedded_labels,
}
MASK_TEACHERS: dict[str, Callable[[Any, TruthSource | None, str], MaskTeacher]] = {
    "simulated": _simulated_masks,
    "embedded": _embedded_masks,
}


def open_teachers(
    config: TeachersConfig, truth: TruthSource | None, device: str
) -> tuple[LabelTeacher, MaskTeacher]:
    """Both teachers of a configuration.

    Args:
        config: which teachers.
        truth: of the data set; only the simulated teachers are handed it.
        device: where the networks of real teachers compute.

    Raises:
        ConfigError: a simulated teacher for a data set without ground truth.
        WeightsError: a teacher's weights or packages are missing.
    """
    labels = LABEL_TEACHERS[config.labels.kind](config.labels, truth, device)
    return labels, MASK_TEACHERS[config.masks.kind](config.masks, truth, device)
