"""The templates and the average over them."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenelift.errors import DataError
from scenelift.teachers.prompts import CLIP_TEMPLATES, SCENE_TEMPLATES, TEMPLATES, average, expand


def test_there_are_80_and_5_different_templates_with_one_slot() -> None:
    assert (len(CLIP_TEMPLATES), len(SCENE_TEMPLATES)) == (80, 5)
    assert len(set(TEMPLATES)) == 85
    assert all(template.count("{}") == 1 and template.endswith(".") for template in TEMPLATES)


def test_published_order_at_known_places() -> None:
    assert CLIP_TEMPLATES[0] == "a bad photo of a {}."
    assert CLIP_TEMPLATES[39] == "a photo of a {}."
    assert CLIP_TEMPLATES[79] == "a tattoo of the {}."


def test_templates_come_with_both_articles() -> None:
    """A slip of the pen in the long list would leave a sentence without its partner; four have none."""
    shapes = Counter(re.sub(r"\b(a|the)\b", "@", template) for template in CLIP_TEMPLATES)
    assert {shape for shape, count in shapes.items() if count != 2} == {
        "@ photo of many {}.",
        "@ photo of my {}.",
        "@ photo of one {}.",
        "itap of my {}.",
    }


def test_expand_keeps_phrases_together_and_braces_alone() -> None:
    assert expand(["cat", "{0}"], ["a {}.", "the {}."]) == ["a cat.", "the cat.", "a {0}.", "the {0}."]
    assert len(expand(["cat", "dog"])) == 170


def _reference(rows: list[list[float]]) -> list[float]:
    units = [[x / sum(y * y for y in row) ** 0.5 for x in row] for row in rows]
    mean = [sum(column) / len(units) for column in zip(*units, strict=True)]
    length = sum(x * x for x in mean) ** 0.5
    return [x / length for x in mean]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.floats(0.1, 5), min_size=4, max_size=4), min_size=1, max_size=6), st.floats(0.5, 9)
)
def test_average_matches_the_reference_and_ignores_lengths(rows: list[list[float]], factor: float) -> None:
    embeddings = np.array(rows, np.float32)
    result = average(embeddings)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, _reference(rows), atol=1e-5)
    embeddings[0] *= factor
    np.testing.assert_allclose(average(embeddings), result, atol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((0, 3)),
        np.ones(3),
        np.array([[1.0, 0.0], [0.0, 0.0]]),
        np.array([[1.0, 0.0], [-1.0, 0.0]]),
        np.array([[np.nan, 1.0]]),
    ],
)
def test_average_refuses_what_has_no_direction(bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="embeddings"):
        average(bad)
