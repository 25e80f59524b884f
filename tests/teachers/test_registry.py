from __future__ import annotations

from pathlib import Path

import pytest

from fixtures_scenes import tiny_source
from scenelift.config import CaptureData, EmbeddedLabels, EmbeddedMasks, SyntheticData, TeachersConfig
from scenelift.errors import ConfigError
from scenelift.scenes.capture import Capture
from scenelift.scenes.registry import open_source
from scenelift.scenes.synthetic import SyntheticRooms
from scenelift.teachers.embedded import EmbeddedLabelTeacher, EmbeddedMaskTeacher
from scenelift.teachers.registry import open_teachers
from scenelift.teachers.simulated import SimulatedLabelTeacher, SimulatedMaskTeacher


def test_simulated_teachers_are_handed_the_truth() -> None:
    labels, masks = open_teachers(TeachersConfig(), tiny_source(1).truth, "cpu")
    assert isinstance(labels, SimulatedLabelTeacher)
    assert isinstance(masks, SimulatedMaskTeacher)


def test_without_truth_nothing_is_simulated() -> None:
    with pytest.raises(ConfigError, match="--teacher embedded"):
        open_teachers(TeachersConfig(), None, "cpu")


def test_embedded_teachers() -> None:
    labels, masks = open_teachers(TeachersConfig(labels=EmbeddedLabels(), masks=EmbeddedMasks()), None, "cpu")
    assert isinstance(labels, EmbeddedLabelTeacher)
    assert isinstance(masks, EmbeddedMaskTeacher)


def test_sources(tmp_path: Path) -> None:
    assert isinstance(open_source(SyntheticData()), SyntheticRooms)
    assert isinstance(open_source(CaptureData(path=str(tmp_path))), Capture)
