"""The contact sheet: which frames, what of them, and the same file every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fixtures_scenes import CLASSES, TinySource, annotated
from scenelift import preview
from scenelift.annotations import Annotations
from scenelift.classes import ClassTable
from scenelift.export import overlay
from scenelift.labels import refine
from scenelift.preview import COLUMNS, mask_colors, spread_frames, write_preview

NAMES = ("scene0", "scene1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinySource, Annotations]:
    return annotated(tmp_path_factory.mktemp("annotated"), size=(48, 64))


def draw(data: tuple[TinySource, Annotations], path: Path, number: int, classes: ClassTable = CLASSES) -> int:
    return write_preview(path, data[0], NAMES, classes, data[1], number)


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=6), st.integers(1, 40))
def test_frames_are_spread_evenly(counts: list[int], number: int) -> None:
    chosen = spread_frames(counts, number)
    assert len(chosen) == min(number, sum(counts))
    assert chosen == sorted(set(chosen))
    assert all(0 <= frame < counts[scene] for scene, frame in chosen)
    places = [sum(counts[:scene]) + frame for scene, frame in chosen]
    gaps = np.diff(places)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_every_panel_is_what_its_title_says(
    data: tuple[TinySource, Annotations], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    source, known = data
    rows: list[preview._Row] = []
    sheet = preview._sheet
    monkeypatch.setattr(preview, "_shrunk", Image.fromarray)
    monkeypatch.setattr(preview, "_sheet", lambda given, classes: rows.extend(given) or sheet(given, classes))
    assert draw(data, tmp_path / "sheet.jpg", 2) == 2
    assert [row.name for row in rows] == ["scene0/f2", "scene1/f2"]
    assert len(COLUMNS) == 4
    for row, scene in zip(rows, NAMES, strict=True):
        image = source.scenes[scene].frames[2].image
        labels, ids = known.labels(scene, "f2"), known.mask_ids(scene, "f2")
        better = refine(torch.from_numpy(labels)[None], torch.from_numpy(ids.astype(np.int32))[None], 4)
        shown = [np.asarray(panel) for panel in row.panels]
        np.testing.assert_array_equal(shown[0], image)
        np.testing.assert_array_equal(shown[1], mask_colors(ids))
        np.testing.assert_array_equal(shown[2], overlay(image, labels, CLASSES))
        np.testing.assert_array_equal(shown[3], overlay(image, better[0].byte().numpy(), CLASSES))
        assert (shown[2] != shown[3]).any()


def test_mask_colours_are_stable_and_outlined() -> None:
    ids = np.zeros((8, 12), np.uint16)
    ids[:, 4:] = 7
    ids[4:, 4:] = 65_535
    colors = mask_colors(ids)
    assert not colors[:, :4].any()
    assert not colors[3, 4:].any()  # where two masks meet
    assert colors[0, 8].min() >= 64
    assert (colors[0, 8] != colors[7, 8]).any()
    np.testing.assert_array_equal(mask_colors(ids[4:])[-1], colors[-1])  # whatever else is in the picture


@pytest.mark.parametrize(("number", "shown"), [(1, 1), (3, 3), (8, 8), (500, 8)])
def test_the_sheet_is_as_wide_as_ever_and_grows_downwards(
    data: tuple[TinySource, Annotations], tmp_path: Path, number: int, shown: int
) -> None:
    path = tmp_path / "sheet.jpg"
    assert draw(data, path, number) == shown
    with Image.open(path) as sheet:
        assert (sheet.format, sheet.mode, sheet.width) == ("JPEG", "RGB", 1470)
        assert sheet.height == 66 + shown * (270 + 30)
    first = path.read_bytes()
    draw(data, path, number)
    assert path.read_bytes() == first


def test_the_legend_shows_every_class_and_breaks_its_lines() -> None:
    font = preview.ImageFont.load_default(15)
    names = [f"class {i}" for i in range(40)] + ["x" * 400]
    places = preview._legend_places(names, font, 1000)
    assert len(set(places)) == len(names)
    assert [line for _, line in places] == sorted(line for _, line in places)
    assert all(x + font.getlength(n) < 1000 for (x, _), n in zip(places[:-1], names[:-1], strict=True))
    sheet = preview._sheet([], ClassTable.from_names([f"thing {i}" for i in range(9)]))
    swatches = {tuple(pixel) for pixel in sheet.reshape(-1, 3).tolist()}
    colors = ClassTable.from_names([f"thing {i}" for i in range(9)]).colors.tolist()
    assert all(tuple(color) in swatches for color in colors)


def test_long_names_lose_their_middle() -> None:
    font = preview.ImageFont.load_default(13)
    name = "a_very_long_scene_name_" * 20 + "/frame_0042"
    clipped = preview._clipped(name, font, 300)
    assert font.getlength(clipped) <= 300
    assert clipped.startswith("a_very")
    assert clipped.endswith("0042")
    assert preview._clipped("short", font, 300) == "short"


def test_pixels_without_a_label_are_explained(
    data: tuple[TinySource, Annotations], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    text = preview.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        preview.ImageDraw.ImageDraw,
        "text",
        lambda self, xy, words, *rest: told.append(words) or text(self, xy, words, *rest),
    )
    draw(data, tmp_path / "a.jpg", 1)
    assert told == [*COLUMNS, "scene1/f0", *CLASSES.names]
    told.clear()
    empty = np.full((48, 64), 255, np.uint8)
    monkeypatch.setattr(Annotations, "labels", lambda self, scene, frame: empty)
    draw(data, tmp_path / "b.jpg", 1)
    assert told[-1] == "no label"
