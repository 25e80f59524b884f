"""Noise of the simulated teachers as one quantity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures_scenes import tiny_source
from scenelift.config import EmbeddedMasks, SimulatedLabels, SimulatedMasks, TeachersConfig
from scenelift.errors import ConfigError
from scenelift.noise import KINDS, MOST, is_noise, scaled
from scenelift.teachers.simulated import SimulatedLabelTeacher, SimulatedMaskTeacher

TEACHERS = TeachersConfig(labels=SimulatedLabels(), masks=SimulatedMasks())
NO_NOISE = {"kind", "seed", "dim", "tokens", "patch_m", "related"}


def knobs(teachers: TeachersConfig) -> dict[tuple[str, str], float]:
    tree = teachers.model_dump()
    return {
        (which, knob): value
        for which in ("labels", "masks")
        for knob, value in tree[which].items()
        if knob not in NO_NOISE
    }


def test_noise_is_every_error_of_both_teachers() -> None:
    assert set(KINDS["noise"]) == set(knobs(TEACHERS))
    assert set(KINDS["noise"]) == set(KINDS["noise.labels"]) | set(KINDS["noise.masks"])
    singles = [knobs[0] for knobs in KINDS.values() if len(knobs) == 1]
    assert sorted(singles) == sorted(KINDS["noise"])
    assert is_noise("noise")
    assert is_noise("noise.anything")
    assert not is_noise("noisy")


@given(st.sampled_from(sorted(KINDS)), st.floats(0, 6))
def test_knobs_of_the_kind_are_multiplied_and_others_stay(kind: str, factor: float) -> None:
    result, held = scaled(TEACHERS, kind, factor)
    TeachersConfig.model_validate(result.model_dump())  # every value is one that may be configured
    before, after = knobs(TEACHERS), knobs(result)
    for knob, value in before.items():
        wanted = factor * value if knob in KINDS[kind] else value
        most = MOST.get(knob[1], float("inf"))
        assert after[knob] == pytest.approx(min(wanted, most))
        assert (".".join(knob) in held) == (knob in KINDS[kind] and wanted > most)
    rest = {"seed", "dim", "tokens", "patch_m", "related"}
    assert result.labels.model_dump(include=rest) == TEACHERS.labels.model_dump(include=rest)


def test_factor_1_changes_no_digest() -> None:
    assert scaled(TEACHERS, "noise", 1)[0].model_dump_json() == TEACHERS.model_dump_json()


def test_no_noise_leaves_no_wrong_token() -> None:
    """Every pixel's nearest class is the true one where a token holds one class alone."""
    source = tiny_source(size=(32, 32))
    assert source.truth is not None
    clean, _ = scaled(TEACHERS, "noise", 0)
    assert isinstance(clean.labels, SimulatedLabels)
    assert isinstance(clean.masks, SimulatedMasks)
    teacher = SimulatedLabelTeacher(clean.labels.model_copy(update={"tokens": 32}), source.truth)
    frame = source.scene("scene0").frames[0]
    text = teacher.text_features(source.truth.classes.prompts)
    (feature,) = teacher.image_features([frame])
    labels = (text @ feature.reshape(len(feature), -1).astype("float32")).argmax(0).reshape(32, 32)
    truth = source.truth.frame(frame.scene, frame.name)
    assert truth is not None
    assert (labels == truth.labels).all()
    (masks,) = SimulatedMaskTeacher(clean.masks, source.truth).masks([frame])
    assert (masks.ids > 0).all()
    for mask in set(masks.ids.ravel().tolist()):
        assert len(set(truth.labels[masks.ids == mask].tolist())) == 1


def test_wrong_noise_is_told() -> None:
    with pytest.raises(
        ConfigError, match=r"did you mean 'noise\.token'\?; expected one of noise, noise\.labels"
    ):
        scaled(TEACHERS, "noise.tokens", 1)
    with pytest.raises(ConfigError, match="0 or more, found -1"):
        scaled(TEACHERS, "noise", -1)
    with pytest.raises(ConfigError, match="simulated teacher of labels, found clip"):
        scaled(TeachersConfig(), "noise.view", 1)
    half = TEACHERS.model_copy(update={"masks": EmbeddedMasks()})
    with pytest.raises(ConfigError, match="simulated teacher of masks, found embedded"):
        scaled(half, "noise", 1)
    assert scaled(half, "noise.labels", 2)[0].masks == EmbeddedMasks()
