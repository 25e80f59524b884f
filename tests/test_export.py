"""Labels as pictures, palette PNG, PLY and legend, read back by other libraries."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

from scenelift.classes import SCANNET20, ClassTable
from scenelift.errors import ConfigError, DataError, OutputError
from scenelift.export import (
    NO_LABEL_COLOR,
    label_colors,
    overlay,
    write_label_png,
    write_labelled_ply,
    write_legend,
)
from scenelift.types import IGNORE

CLASSES = ClassTable.from_names(["wall", "Stühle", 'a <b> & "c"'])
LABELS = np.array([[0, 0, 1, 1], [2, 2, IGNORE, IGNORE]], np.uint8)


def test_every_label_has_the_colour_of_its_class() -> None:
    colors = label_colors(LABELS, CLASSES)
    assert colors.shape == (2, 4, 3)
    assert colors.dtype == np.uint8
    for row, column in np.ndindex(LABELS.shape):
        label = LABELS[row, column]
        expected = NO_LABEL_COLOR if label == IGNORE else CLASSES.colors[label]
        assert colors[row, column].tolist() == list(expected)


def test_an_id_of_no_class_is_an_error() -> None:
    with pytest.raises(DataError, match=r"expected uint8 ids 0 to 2 or 255 \(none\), found 3 \(1 times\)"):
        label_colors(np.array([0, 3], np.uint8), CLASSES)
    with pytest.raises(DataError, match="found dtype int64"):
        label_colors(np.array([0, 1]), CLASSES)


def test_overlay_mixes_and_leaves_pixels_without_label_alone() -> None:
    image = np.full((2, 4, 3), 100, np.uint8)
    mixed = overlay(image, LABELS, CLASSES, alpha=0.25, outlines=False)
    for row, column in np.ndindex(LABELS.shape):
        label = LABELS[row, column]
        expected = 100 if label == IGNORE else np.round(75 + 0.25 * CLASSES.colors[label])
        np.testing.assert_array_equal(mixed[row, column], expected)
    np.testing.assert_array_equal(
        overlay(image, LABELS, CLASSES, 1.0, False)[0], label_colors(LABELS, CLASSES)[0]
    )


def test_outlines_stand_where_labels_meet_and_nowhere_else() -> None:
    labels = np.zeros((6, 6), np.uint8)
    labels[:, 3:] = 1
    image = np.full((6, 6, 3), 200, np.uint8)
    with_lines, without = (overlay(image, labels, CLASSES, outlines=lines) for lines in (True, False))
    changed = (with_lines != without).any(-1)
    np.testing.assert_array_equal(np.flatnonzero(changed.any(0)), [2])
    assert changed[:, 2].all()
    assert (with_lines[changed].sum(-1) < without[changed].sum(-1)).all()
    whole = np.ones((6, 6), np.uint8)
    np.testing.assert_array_equal(
        overlay(image, whole, CLASSES), overlay(image, whole, CLASSES, outlines=False)
    )


def test_overlay_of_another_size_is_an_error() -> None:
    with pytest.raises(DataError, match=r"labels' size \(2, 4\), found shape \(4, 2, 3\)"):
        overlay(np.zeros((4, 2, 3), np.uint8), LABELS, CLASSES)


def test_a_labelled_ply_is_read_back_by_plyfile(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 3)).astype(np.float32)
    labels = rng.choice([0, 1, 2, IGNORE], 50).astype(np.uint8)
    confidence = rng.random(50).astype(np.float32)
    path = tmp_path / "deep" / "room.ply"
    write_labelled_ply(path, points, labels, confidence, CLASSES)
    ply = PlyData.read(path)
    vertex = ply["vertex"]
    np.testing.assert_array_equal(np.stack([vertex[axis] for axis in "xyz"], 1), points)
    np.testing.assert_array_equal(vertex["label"], labels)
    np.testing.assert_array_equal(vertex["confidence"], confidence)
    assert (vertex["label"].dtype, vertex["confidence"].dtype) == (np.uint8, np.float32)
    colors = np.stack([vertex[channel] for channel in ("red", "green", "blue")], 1)
    np.testing.assert_array_equal(colors, label_colors(labels, CLASSES))
    assert ply.comments == [
        "class 0 wall",
        "class 1 St\\xfchle",
        'class 2 a <b> & "c"',
        "class 255 (no label)",
    ]


def test_a_ply_may_keep_its_colours_and_lack_confidence(tmp_path: Path) -> None:
    rgb = np.arange(9, dtype=np.uint8).reshape(3, 3)
    labels = np.array([0, 1, 2], np.uint8)
    write_labelled_ply(tmp_path / "a.ply", np.zeros((3, 3), np.float32), labels, None, CLASSES, rgb)
    vertex = PlyData.read(tmp_path / "a.ply")["vertex"]
    np.testing.assert_array_equal(vertex["green"], rgb[:, 1])
    assert "confidence" not in vertex.data.dtype.names


def test_an_empty_cloud_can_be_written(tmp_path: Path) -> None:
    nothing = np.zeros(0, np.uint8)
    write_labelled_ply(tmp_path / "a.ply", np.zeros((0, 3), np.float32), nothing, None, CLASSES)
    assert PlyData.read(tmp_path / "a.ply")["vertex"].count == 0


def test_a_class_name_cannot_break_the_ply_header(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="visible characters"):
        dataclasses.replace(CLASSES, names=("a\nend_header", "b", "c"))
    sly = dataclasses.replace(CLASSES, names=("end_header", "b", "c"))
    write_labelled_ply(tmp_path / "a.ply", np.ones((1, 3), np.float32), np.zeros(1, np.uint8), None, sly)
    ply = PlyData.read(tmp_path / "a.ply")
    assert ply.comments[0] == "class 0 end_header"
    assert ply["vertex"]["x"].tolist() == [1.0]


def test_pixels_of_a_label_png_are_class_ids_in_class_colours(tmp_path: Path) -> None:
    write_label_png(tmp_path / "labels.png", LABELS, CLASSES)
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), LABELS)
        np.testing.assert_array_equal(np.array(image.convert("RGB")), label_colors(LABELS, CLASSES))


def test_a_label_png_of_foreign_ids_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found 7"):
        write_label_png(tmp_path / "labels.png", np.full((2, 2), 7, np.uint8), CLASSES)
    assert not list(tmp_path.iterdir())


def test_the_legend_names_every_class_with_its_colour(tmp_path: Path) -> None:
    write_legend(tmp_path / "legend.svg", CLASSES)
    svg = ElementTree.fromstring((tmp_path / "legend.svg").read_text(encoding="utf-8"))
    space = "{http://www.w3.org/2000/svg}"
    groups = svg.findall(f"{space}g")
    assert [[text.text for text in group.findall(f"{space}text")] for group in groups] == [
        ["0", "wall"],
        ["1", "Stühle"],
        ["2", 'a <b> & "c"'],
        ["255", "(no label)"],
    ]
    fills = [group.find(f"{space}rect").attrib["fill"] for group in groups]  # type: ignore[union-attr]
    assert fills == ["#" + bytes(color).hex() for color in [*CLASSES.colors.tolist(), NO_LABEL_COLOR]]


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        write_legend(tmp_path / "file" / "legend.svg", SCANNET20)
