"""Class lists as users write them, and the tables that are built in."""

from __future__ import annotations

import numpy as np
import pytest

from scenelift.classes import SCANNET20, ClassTable, scannet20_from_nyu40
from scenelift.errors import ConfigError
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
