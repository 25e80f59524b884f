from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from fixtures_hub import no_network
from fixtures_scenes import tiny_source
from random_teachers import save_clip
from scenelift.config import (
    CaptureData,
    ClipLabels,
    EmbeddedLabels,
    EmbeddedMasks,
    PythonTeacher,
    SimulatedLabels,
    SimulatedMasks,
    SyntheticData,
    TeachersConfig,
)
from scenelift.errors import ConfigError, WeightsError
from scenelift.scenes.capture import Capture
from scenelift.scenes.registry import open_source
from scenelift.scenes.synthetic import SyntheticRooms
from scenelift.teachers.embedded import EmbeddedLabelTeacher, EmbeddedMaskTeacher
from scenelift.teachers.registry import LABEL_TEACHERS, MASK_TEACHERS, WEIGHTS, open_teachers
from scenelift.teachers.simulated import SimulatedLabelTeacher, SimulatedMaskTeacher
from scenelift.teachers.weights import quiet_transformers

SIMULATED = TeachersConfig(labels=SimulatedLabels(), masks=SimulatedMasks())


def test_simulated_teachers_are_handed_the_truth() -> None:
    labels, masks = open_teachers(SIMULATED, tiny_source(1).truth, "cpu")
    assert isinstance(labels, SimulatedLabelTeacher)
    assert isinstance(masks, SimulatedMaskTeacher)


def test_without_truth_nothing_is_simulated() -> None:
    with pytest.raises(ConfigError, match=r"--clip and --sam.*--teacher embedded"):
        open_teachers(SIMULATED, None, "cpu")


def test_every_kind_of_the_configuration_can_be_opened() -> None:
    fields = TeachersConfig.model_fields
    for teachers, name in ((LABEL_TEACHERS, "labels"), (MASK_TEACHERS, "masks")):
        sections = [s for s in get_args(fields[name].annotation) if s is not PythonTeacher]
        assert set(teachers) == {section.model_fields["kind"].default for section in sections}
        with_weights = {s.model_fields["kind"].default for s in sections if "weights" in s.model_fields}
        assert with_weights == set(WEIGHTS) & set(teachers)


def test_clip(tmp_path: Path) -> None:
    from scenelift.teachers.clip import ClipLabelTeacher

    with quiet_transformers():
        save_clip(tmp_path, seed=0, tiny=True)
    config = TeachersConfig(labels=ClipLabels(weights=str(tmp_path)), masks=EmbeddedMasks())
    labels, _ = open_teachers(config, None, "cpu")
    assert isinstance(labels, ClipLabelTeacher)
    assert labels.dim == 24


def test_weights_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    no_network(monkeypatch)
    with pytest.raises(WeightsError, match=r"teachers\.labels\.weights: .*scenelift weights --clip openai/"):
        open_teachers(TeachersConfig(masks=EmbeddedMasks()), None, "cpu")
    with pytest.raises(WeightsError, match=r"teachers\.masks\.weights: .*scenelift weights --sam facebook/"):
        open_teachers(TeachersConfig(labels=SimulatedLabels()), tiny_source(1).truth, "cpu")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="forbids fetching"):
        open_teachers(TeachersConfig(), None, "cpu", download=True)


def test_embedded_teachers() -> None:
    labels, masks = open_teachers(TeachersConfig(labels=EmbeddedLabels(), masks=EmbeddedMasks()), None, "cpu")
    assert isinstance(labels, EmbeddedLabelTeacher)
    assert isinstance(masks, EmbeddedMaskTeacher)


def test_sources(tmp_path: Path) -> None:
    assert isinstance(open_source(SyntheticData()), SyntheticRooms)
    assert isinstance(open_source(CaptureData(path=str(tmp_path))), Capture)
