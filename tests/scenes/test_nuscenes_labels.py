"""Classes and splits of nuScenes against the lists of its devkit and of the method's paper."""

from __future__ import annotations

import numpy as np
import pytest
from nuscenes.eval.lidarseg.utils import LidarsegClassMapper
from nuscenes.utils import splits
from nuscenes.utils.color_map import get_colormap

from scenelift.scenes.nuscenes.labels import (
    NUSCENES16,
    RAW_NAMES,
    category_fault,
    nuscenes16_from_raw,
    split_scenes,
)


def test_the_map_of_classes_is_that_of_the_benchmark() -> None:
    """The devkit maps 32 names to 16 challenge classes and 'ignore' (its index 0)."""
    mapper = LidarsegClassMapper.__new__(LidarsegClassMapper)
    mapper.ignore_class = {"name": "ignore", "index": 0}
    coarse = mapper.get_fine2coarse()
    index = mapper.get_coarse2idx()
    table = nuscenes16_from_raw()
    assert set(coarse) == set(RAW_NAMES)
    for raw, name in enumerate(RAW_NAMES):
        assert table[raw] == (index[coarse[name]] - 1 if index[coarse[name]] else 255), name
    assert (table[32:] == 255).all()
    names = [name.replace("_", " ") for name in sorted(index, key=index.__getitem__)][1:]
    assert [name.replace(" flat", "").replace("flat ", "") for name in names] == [
        name.replace(" flat", "") for name in NUSCENES16.names
    ]


def test_names_and_colours_are_the_devkits() -> None:
    colormap = get_colormap()
    assert tuple(colormap) == RAW_NAMES  # in the order of the raw ids
    table = nuscenes16_from_raw()
    for train in range(16):
        first = RAW_NAMES[int(np.flatnonzero(table == train)[0])]
        np.testing.assert_array_equal(NUSCENES16.colors[train], colormap[first])


def test_prompts_stand_once_and_name_things() -> None:
    phrases = [phrase for row in NUSCENES16.prompts for phrase in row]
    assert len(set(phrases)) == len(phrases)
    assert all(NUSCENES16.prompts)
    assert len(NUSCENES16) == len(NUSCENES16.colors) == 16


def test_official_splits_are_the_devkits() -> None:
    everything = splits.train + splits.val + splits.test
    large = split_scenes("v1.0-trainval", "official", splits.train + splits.val)
    assert large == {"train": frozenset(splits.train), "val": frozenset(splits.val)}
    assert (len(splits.train), len(splits.val)) == (700, 150)
    small = split_scenes("v1.0-mini", "official", splits.mini_train + splits.mini_val)
    assert small == {"train": frozenset(splits.mini_train), "val": frozenset(splits.mini_val)}
    test = split_scenes("v1.0-test", "official", splits.test)
    assert test == {"train": frozenset(), "val": frozenset(splits.test)}
    assert split_scenes("v1.0-trainval", "official", everything[:3]) == {
        "train": frozenset(everything[:3]),
        "val": frozenset(),
    }


def test_the_papers_split_parts_the_700() -> None:
    paper = split_scenes("v1.0-trainval", "paper", splits.train + splits.val)
    assert paper is not None
    assert (len(paper["train"]), len(paper["val"])) == (600, 100)
    assert paper["train"] | paper["val"] == set(splits.train)
    assert {"scene-0008", "scene-0687", "scene-1107"} <= paper["val"]
    mini = split_scenes("v1.0-mini", "paper", splits.mini_train + splits.mini_val)
    assert mini is not None
    assert mini["val"] == {"scene-1094"}
    assert mini["train"] == set(splits.mini_train) & set(splits.train) - {"scene-1094"}


def test_scenes_of_ones_own_have_no_split() -> None:
    assert split_scenes("v1.0-mini", "official", ["drive-1", "drive-2"]) is None
    assert split_scenes("v1.0-mini", "paper", []) is None
    some = split_scenes("v1.0-trainval", "official", ["drive-1", "scene-0061"])
    assert some == {"train": {"scene-0061"}, "val": frozenset()}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"vehicle.car": 16}, "category 'vehicle.car' has index 16, nuScenes-lidarseg has index 17"),
        ({"cat": 32}, "category 'cat' has index 32, nuScenes-lidarseg has no such category"),
    ],
)
def test_categories_are_held_to_the_official_ones(change: dict[str, int], fault: str | None) -> None:
    official = {name: index for index, name in enumerate(RAW_NAMES)}
    assert category_fault({**official, **change}) == fault
    assert category_fault({}) is None  # a table without indices, as it comes without lidarseg
    del official["noise"]
    assert category_fault(official) == "1 of the 32 categories are not there, among them 'noise'"
