"""Class lists as users write them, and the tables that are built in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scenelift.classes import SCANNET20, ClassTable, scannet20_from_nyu40
from scenelift.errors import ConfigError
from scenelift.palette import as_seen, distinct_colors
from scenelift.types import IGNORE


class TestLists:
    def test_a_comma_separated_list(self) -> None:
        table = ClassTable.parse(" wall, floor ,,  office   chair,")
        assert table.names == ("wall", "floor", "office chair")
        assert table.prompts == (("wall",), ("floor",), ("office chair",))
        assert len(table) == len(table.colors) == 3

    def test_synonyms(self) -> None:
        table = ClassTable.parse("sofa / couch, chair/ /stool")
        assert table.names == ("sofa", "chair")
        assert table.prompts == (("sofa", "couch"), ("chair", "stool"))

    @pytest.mark.parametrize("text", ["", " ", ",,", " , "])
    def test_none(self, text: str) -> None:
        with pytest.raises(ConfigError, match='at least two names such as "wall, floor, chair", found none'):
            ClassTable.parse(text)

    def test_one(self) -> None:
        with pytest.raises(ConfigError, match=r"one class \(wall\) leaves nothing to tell apart; .*other"):
            ClassTable.parse("wall,")

    @pytest.mark.parametrize(
        ("text", "repeated"),
        [
            ("wall, floor, wall", "wall"),
            ("wall, Wall , floor", "wall"),
            ("a, b, b, a", "a, b"),
            ("sofa / couch, sofa", "sofa"),
            ("sofa / couch, couch / settee", "couch"),
            ("sofa / sofa, chair", "sofa"),
            ("wall, wall", "wall"),
        ],
    )
    def test_copies(self, text: str, repeated: str) -> None:
        with pytest.raises(ConfigError, match=f"each name may stand once, found {repeated} again; remove"):
            ClassTable.parse(text)

    def test_no_word(self) -> None:
        with pytest.raises(ConfigError, match="'/' holds no word"):
            ClassTable.parse("wall, /, floor")

    def test_as_many_as_fit_into_a_byte(self) -> None:
        assert len(ClassTable.from_names([f"c{i}" for i in range(IGNORE - 1)])) == 254
        with pytest.raises(ConfigError, match="at most 254 are supported, found 255"):
            ClassTable.from_names([f"c{i}" for i in range(IGNORE)])


class TestColors:
    @pytest.mark.parametrize("count", [0, 1, 20])
    def test_shape(self, count: int) -> None:
        colors = distinct_colors(count)
        assert colors.dtype == np.uint8
        assert colors.shape == (count, 3)

    def test_are_told_apart(self) -> None:
        colors = distinct_colors(20).astype(int)
        apart = [np.abs(a - b).max() for a, b in itertools.combinations(colors, 2)]
        assert min(apart) >= 16

    @pytest.mark.parametrize(("count", "least"), [(4, 60), (8, 30), (12, 22), (20, 15)])
    def test_are_told_apart_by_those_who_see_no_red_or_no_green(self, count: int, least: float) -> None:
        seen = as_seen(distinct_colors(count))
        for eye in seen:
            apart = np.linalg.norm(eye[:, None] - eye[None], axis=2)
            assert apart[~np.eye(count, dtype=bool)].min() >= least

    def test_are_all_different_and_kept_when_more_are_added(self) -> None:
        many = distinct_colors(IGNORE - 1)
        assert len(np.unique(many, axis=0)) == IGNORE - 1
        np.testing.assert_array_equal(distinct_colors(7), many[:7])

    def test_eyes_are_simulated_as_published(self) -> None:
        """scikit-image's CIELAB, and what the deutan matrix makes of pure red."""
        from skimage.color import rgb2lab

        rgb = np.random.default_rng(0).integers(0, 256, (50, 3), dtype=np.uint8)
        np.testing.assert_allclose(as_seen(rgb)[0], rgb2lab(rgb[None] / 255)[0], atol=0.05)
        red = as_seen(np.array([[255, 0, 0]], dtype=np.uint8))[1, 0]
        linear = np.array([0.367322, 0.280085, 0.0])  # the matrix's first column; below 0 is black
        encoded = 1.055 * linear ** (1 / 2.4) - 0.055
        encoded[2] = 0
        np.testing.assert_allclose(red, rgb2lab(encoded[None, None])[0, 0], atol=0.05)


class TestScanNet:
    def test_the_benchmarks_twenty(self) -> None:
        assert len(SCANNET20) == len(SCANNET20.prompts) == len(set(SCANNET20.names)) == 20
        assert (SCANNET20.names[0], SCANNET20.names[19]) == ("wall", "other furniture")
        assert SCANNET20.colors.shape == (20, 3)
        assert len(np.unique(SCANNET20.colors, axis=0)) == 20

    def test_nyu40(self) -> None:
        table = scannet20_from_nyu40()
        known = [*range(1, 13), 14, 16, 24, 28, 33, 34, 36, 39]
        assert (table.dtype, table.shape) == (np.uint8, (256,))
        assert [int(table[i]) for i in known] == list(range(20))
        assert (np.delete(table, known) == IGNORE).all()
