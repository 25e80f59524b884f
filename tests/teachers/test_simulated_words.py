"""What the simulated teacher makes of phrases."""

from __future__ import annotations

import numpy as np
import pytest

from scenelift.classes import SCANNET20
from scenelift.config import ClipLabels, SimulatedLabels, TeachersConfig
from scenelift.errors import ConfigError, WeightsError
from scenelift.teachers.registry import open_text_encoder
from scenelift.teachers.simulated_words import QueryWords, SimulatedWords


@pytest.fixture(scope="module")
def words() -> QueryWords:
    return QueryWords(64, SCANNET20.names)


@pytest.mark.parametrize("phrase", ["chair", "a red chair", "Two chairs!", "the CHAIR over there"])
def test_known_words_count_and_others_are_passed_over(words: QueryWords, phrase: str) -> None:
    np.testing.assert_array_equal(words.text_features([[phrase]]), words.text_features([["chair"]]))


def test_classes_are_what_they_are_in_training(words: QueryWords) -> None:
    plain = SimulatedWords(64).text_features(SCANNET20.prompts)
    np.testing.assert_array_equal(words.text_features(SCANNET20.prompts), plain)
    assert words.text_identity == SimulatedWords(64).text_identity


def test_kin_are_nearer(words: QueryWords) -> None:
    chair, sofa, floor = words.text_features([["chair"], ["sofa"], ["floor"]])
    assert chair @ sofa > 0.7 > chair @ floor


def test_a_phrase_without_a_known_word(words: QueryWords) -> None:
    with pytest.raises(
        ConfigError, match=r"found 'something to sit on'; it has no language, only these words: "
    ):
        words.text_features([["chair"], ["something to sit on"]])


def test_words_of_the_runs_own_classes_are_known() -> None:
    with pytest.raises(ConfigError):
        QueryWords(64, []).text_features([["piano"]])
    QueryWords(64, ["grand piano"]).text_features([["a piano"]])


def test_the_text_side_opens_without_ground_truth(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    config = TeachersConfig(labels=SimulatedLabels(dim=32))
    assert open_text_encoder(config, ["wall"], "cpu").text_features([["wall"]]).shape == (1, 32)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError):
        open_text_encoder(TeachersConfig(labels=ClipLabels()), ["wall"], "cpu")
