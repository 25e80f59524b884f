"""ScanNet's ground truth: nyu40, ScanNet200, objects, over-segments; and damaged files of all kinds."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from plyfile import PlyData, PlyElement

import layouts_scannet as layouts
from fuzzing import MANY, QUICK, only_data_errors
from layouts_scannet import KINDS, TEST, TRAIN, mesh_bytes, nyu40_of, png, room_mesh, write_frames, write_scan
from scenelift.classes import SCANNET20, scannet20_from_nyu40
from scenelift.config import ScanNetData
from scenelift.errors import DataError
from scenelift.ply import decode_scalars, vertex_count
from scenelift.scenes.matrices import read_intrinsics, read_pose
from scenelift.scenes.scannet import ScanNet, labels
from scenelift.scenes.scannet.frames import read_axis_alignment
from scenelift.types import IGNORE


@pytest.fixture(autouse=True)
def index_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENELIFT_INDEX", str(tmp_path / "index"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_scan(tmp_path)
    write_frames(tmp_path, count=1)
    return tmp_path


def opened(root: Path, **keys: Any) -> ScanNet:
    return ScanNet(ScanNetData(path=str(root), **({"image_size": (48, 64)} | keys)))


def file(root: Path, ending: str, scan: str = TRAIN) -> Path:
    return root / "scans" / scan / f"{scan}{ending}"


# --- 20 classes ----------------------------------------------------------------------------------------

METHOD_NYU40 = [*range(1, 13), 14, 16, 24, 28, 33, 34, 36, 39]


def test_points_have_the_labels_of_the_list_of_the_method(root: Path) -> None:
    truth = opened(root).truth.scene(TRAIN)
    assert truth is not None
    ids = PlyData.read(str(file(root, "_vh_clean_2.labels.ply")))["vertex"]["label"]
    expected = [METHOD_NYU40.index(i) if i in METHOD_NYU40 else IGNORE for i in ids.tolist()]
    assert truth.labels.tolist() == expected
    assert set(expected) == {0, 1, 12, IGNORE}
    assert [SCANNET20.names[i] for i in (0, 1, 12)] == ["wall", "floor", "desk"]


def test_pixels_have_labels_in_the_size_of_the_frame(root: Path) -> None:
    source = opened(root, image_size=None)
    truth = source.truth.frame(TRAIN, "000000")
    assert truth is not None
    assert truth.instances is None
    expected = scannet20_from_nyu40()[layouts.views(1)[0][3]]
    assert np.array_equal(truth.labels, expected)
    small = opened(root, image_size=(24, 32)).truth.frame(TRAIN, "000000")
    assert small is not None
    assert np.array_equal(small.labels, expected[2::4, 2::4])
    assert source.truth.frame(TRAIN, "000100") is None


def write_labels(root: Path, scan: str, ids: np.ndarray) -> None:
    room = room_mesh()
    file(root, "_vh_clean_2.labels.ply", scan).write_bytes(mesh_bytes(room.points_world, room.rgb, ids))


def test_ids_that_nyu40_does_not_have_are_refused_with_file_and_ids(root: Path) -> None:
    ids = nyu40_of(room_mesh().kinds).astype(np.uint16)
    ids[:3] = 1163, 50, 41
    write_labels(root, TRAIN, ids)
    with pytest.raises(DataError, match=r"\(0-40\) in .*labels.ply, found 41, 50, 1163; raw category ids"):
        opened(root).truth.scene(TRAIN)
    path = root / "scannet_frames_25k" / TRAIN / "label" / "000000.png"
    Image.fromarray(np.full((96, 128), 77, np.uint8)).save(path)
    with pytest.raises(DataError, match=r"000000.png, found 77; raw"):
        opened(root).truth.frame(TRAIN, "000000")


@pytest.mark.parametrize(("scan", "stray"), [("scene0270_00", 50), ("scene0384_00", 149)])
def test_the_stray_ids_of_the_release_are_unlabelled(tmp_path: Path, scan: str, stray: int) -> None:
    write_scan(tmp_path, scan)
    write_frames(tmp_path, scan, count=1)
    ids = nyu40_of(room_mesh().kinds).astype(np.uint16)
    ids[:5] = stray
    write_labels(tmp_path, scan, ids)
    truth = opened(tmp_path).truth.scene(scan)
    assert truth is not None
    assert (truth.labels[:5] == IGNORE).all()
    ids[0] = 51
    write_labels(tmp_path, scan, ids)
    with pytest.raises(DataError, match="found 51;"):
        opened(tmp_path).truth.scene(scan)


def test_labels_of_another_mesh_are_refused(root: Path) -> None:
    room = room_mesh()
    data = mesh_bytes(room.points_world[:-1], room.rgb[:-1], nyu40_of(room.kinds[:-1]))
    file(root, "_vh_clean_2.labels.ply").write_bytes(data)
    count = len(room.points_world)
    with pytest.raises(DataError, match=f"expected {count:,} entries.*found {count - 1:,}; take both files"):
        opened(root).truth.scene(TRAIN)
    file(root, "_vh_clean_2.labels.ply").write_bytes(mesh_bytes(room.points_world, room.rgb))
    with pytest.raises(DataError, match="no label; take the file that has it"):
        opened(root).truth.scene(TRAIN)


def test_a_scan_without_annotation_has_no_truth(tmp_path: Path) -> None:
    write_scan(tmp_path, TEST, annotated=False, folder="scans_test")
    write_frames(tmp_path, TEST, labels=False)
    for kind in ("scannet20", "scannet200"):
        source = opened(tmp_path, labels=kind)
        assert source.truth.scene(TEST) is None
        assert source.truth.frame(TEST, "000000") is None


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (128, 96)), "found mode RGB"),
        (Image.fromarray(np.zeros((96, 128), np.uint16)), "found mode I"),
    ],
)
def test_label_images_of_another_kind(root: Path, image: Image.Image, message: str) -> None:
    image.save(root / "scannet_frames_25k" / TRAIN / "label" / "000000.png")
    with pytest.raises(DataError, match=message):
        opened(root).truth.frame(TRAIN, "000000")


def test_a_label_image_without_image_data(root: Path) -> None:
    data = png(np.zeros((4, 4), np.uint8))
    at = data.index(b"IDAT") - 4
    size = 12 + int.from_bytes(data[at : at + 4], "big")
    path = root / "scannet_frames_25k" / TRAIN / "label" / "000000.png"
    path.write_bytes(data[:at] + data[at + size :])
    with pytest.raises(DataError, match="truncated or damaged"):
        opened(root).truth.frame(TRAIN, "000000")


# --- objects, segments, 200 classes --------------------------------------------------------------------


def test_objects_and_segments(root: Path) -> None:
    source, room = opened(root), room_mesh()
    truth = source.truth.scene(TRAIN)
    assert truth is not None
    assert truth.instances is not None
    assert np.array_equal(truth.instances, room.kinds + 1)
    segments = source.superpoints(TRAIN)
    assert segments.dtype == np.int32
    assert np.array_equal(segments, room.segments)
    file(root, ".aggregation.json").unlink()
    truth = opened(root).truth.scene(TRAIN)
    assert truth is not None
    assert truth.instances is None
    assert opened(root, labels="scannet200").truth.scene(TRAIN) is None


def test_200_classes_of_points(root: Path) -> None:
    source = opened(root, labels="scannet200")
    truth = source.truth.scene(TRAIN)
    assert truth is not None
    names = np.array([*source.classes.names])[truth.labels]
    assert names.tolist() == [KINDS[kind] for kind in room_mesh().kinds]
    assert source.truth.frame(TRAIN, "000000") is None
    assert len(source.classes) == 200


def test_the_users_own_table_of_categories_goes_before_ours(root: Path) -> None:
    rows = ["id\traw_category\tcategory\tcount\tnyu40id", "2\tdesk\tchair\t1\t5", "9999\tfloor\tx\t1\t40"]
    (root / labels.TSV).write_text("\n".join(rows) + "\n")
    truth = opened(root, labels="scannet200").truth.scene(TRAIN)
    assert truth is not None
    kinds = room_mesh().kinds
    assert set(truth.labels[kinds == KINDS.index("desk")]) == {1}  # chair
    assert set(truth.labels[kinds == KINDS.index("floor")]) == {IGNORE}
    (root / labels.TSV).write_text("a\tb\n")
    with pytest.raises(DataError, match="columns id and raw_category"):
        opened(root, labels="scannet200").truth.scene(TRAIN)
    (root / labels.TSV).write_text("id\traw_category\nx\ty\n")
    with pytest.raises(DataError, match="line 2"):
        opened(root, labels="scannet200").truth.scene(TRAIN)


def objects_slowly(
    groups: list[dict[str, Any]], segments: list[int], ids: dict[str, int]
) -> tuple[list[int], ...]:
    """As ScanNet's own preprocessing goes about it: group after group over all vertices."""
    found, instances = [IGNORE] * len(segments), [0] * len(segments)
    for group in groups:
        for vertex, segment in enumerate(segments):
            if segment in group["segments"]:
                found[vertex] = ids.get(group["label"], IGNORE)
                instances[vertex] = group["objectId"] + 1
    return found, instances


@given(
    segments=st.lists(st.integers(0, 12), min_size=1, max_size=30),
    groups=st.lists(
        st.fixed_dictionaries(
            {
                "objectId": st.integers(0, 65534),
                "label": st.sampled_from(["chair", "no such thing", "books", "mattress"]),
                "segments": st.lists(st.integers(0, 12), max_size=5),
            }
        ),
        max_size=6,
    ),
)
def test_objects_are_those_of_the_official_loop(
    tmp_path_factory: pytest.TempPathFactory, segments: list[int], groups: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("objects") / "x.aggregation.json"
    path.write_text(json.dumps({"segGroups": groups}))
    wanted = [segment for group in groups for segment in group["segments"]]
    if 2 * sum(segment not in segments for segment in wanted) > len(wanted):
        with pytest.raises(
            DataError, match=r"take x.aggregation.json and the x_vh_clean_2.0.010000.segs.json"
        ):
            labels.read_objects(path, np.array(segments, np.int32))
        return
    group, instances, categories = labels.read_objects(path, np.array(segments, np.int32))
    ids = labels.train_ids_200(None)
    expected = objects_slowly(groups, segments, ids)
    assert labels.labels_200(group, categories, ids).tolist() == expected[0]
    assert instances.tolist() == expected[1]


def test_segments_of_another_mesh_are_refused(root: Path) -> None:
    file(root, "_vh_clean_2.0.010000.segs.json").write_text('{"segIndices": [1, 2, 3]}')
    with pytest.raises(DataError, match="found 3; take both files of one release"):
        opened(root).superpoints(TRAIN)


@pytest.mark.parametrize("text", ["[]", "{}", '{"segIndices": [-1]}', '{"segIndices": [1.5]}', "{", "\xff"])
def test_what_is_no_file_of_segments(root: Path, text: str) -> None:
    path = file(root, "_vh_clean_2.0.010000.segs.json")
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"expected a JSON file with segIndices at .*; download it again"):
        labels.read_segments(path)


def test_the_table_of_200_classes() -> None:
    table, ids = labels.scannet200(), labels.train_ids_200(None)
    assert len(table) == len(set(table.names)) == 200
    assert table.colors.shape == (200, 3)
    assert table.names[:4] == ("wall", "chair", "floor", "table")
    assert table.names[-2:] == ("luggage", "mattress")
    assert len(np.unique(table.colors, axis=0)) == 200
    assert table.names[ids["books"]] == "book"
    assert table.names[ids["stack of chairs"]] == "chair"
    # The benchmarks of 20 and 200 classes share colours where they share classes.
    for name in ("wall", "floor", "door", "window", "bathtub", "toilet", "shower curtain"):
        assert (table.colors[table.names.index(name)] == SCANNET20.colors[SCANNET20.names.index(name)]).all()


@pytest.mark.skipif(
    not os.environ.get("SCENELIFT_SCANNET_TSV"),
    reason="needs ScanNet's scannetv2-labels.combined.tsv, given by SCENELIFT_SCANNET_TSV",
)
def test_the_table_of_200_classes_against_the_official_table() -> None:
    path = Path(os.environ["SCENELIFT_SCANNET_TSV"])
    assert labels.train_ids_200(path) == labels.train_ids_200(None)
    lines = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    category = {row[1]: row[2] for row in lines}
    names = labels.scannet200().names
    differing = {raw: names[i] for raw, i in labels.train_ids_200(path).items() if category[raw] != names[i]}
    assert differing == {"create": "crate", "stick": "object"}  # the first is a slip of the table


# --- PLY properties ------------------------------------------------------------------------------------


@given(
    kind=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"]),
    order=st.sampled_from(["<", ">"]),
    text=st.booleans(),
    values=st.lists(st.integers(0, 100), max_size=10),
)
def test_scalars_are_those_that_plyfile_reads(kind: str, order: str, text: bool, values: list[int]) -> None:
    vertex = np.zeros(len(values), [(name, "f4") for name in "xyz"] + [("label", kind), ("id", "i4")])
    vertex["label"] = values
    vertex["id"] = np.arange(len(values))
    stream = io.BytesIO()
    PlyData([PlyElement.describe(vertex, "vertex")], text=text, byte_order=order).write(stream)
    found = decode_scalars(stream.getvalue(), "here", ["label", "id"])
    again = PlyData.read(io.BytesIO(stream.getvalue()))["vertex"]
    for name in ("label", "id"):
        assert found[name].dtype == np.dtype(vertex.dtype[name])
        assert np.array_equal(found[name], again[name])
    assert vertex_count(stream.getvalue()[:300], "here") == len(values)


def test_scalars_and_counts_that_are_not_there() -> None:
    data = mesh_bytes(np.zeros((3, 3), np.float32), np.zeros((3, 3), np.uint8))
    with pytest.raises(DataError, match=r"at here, found vertex properties x y z .* no label, id; take"):
        decode_scalars(data, "here", ["label", "id"])
    for header in (b"ply\nformat ascii 1.0\nend_header\n", b"no", data[:40]):
        with pytest.raises(DataError, match="at here, found no"):
            vertex_count(header, "here")


# --- damaged files -------------------------------------------------------------------------------------


def small_scan() -> dict[str, bytes]:
    points = np.arange(30, dtype=np.float32).reshape(10, 3)
    groups = [{"id": 0, "objectId": 0, "segments": [3, 4], "label": "chair"}]
    matrix = "\n".join(" ".join(f"{x:.6f}" for x in row) for row in layouts.ALIGNMENT)
    return {
        "labels": mesh_bytes(points, points.astype(np.uint8), np.arange(10)),
        "segments": json.dumps({"sceneId": "x", "segIndices": [3, 3, 4, 4, 5, 6, 7, 8, 9, 9]}).encode(),
        "objects": json.dumps({"segGroups": groups}).encode(),
        "pose": matrix.encode(),
        "intrinsics": b"577.9 0 319.5 0\n0 578.7 239.5 0\n0 0 1 0\n0 0 0 1\n",
        "alignment": f"axisAlignment = {' '.join(matrix.split())}\nsceneType = Office\n".encode(),
        "image": png(np.arange(20, dtype=np.uint8).reshape(4, 5)),
        "tsv": b"id\traw_category\tcategory\n1\twall\twall\n2\tchair\tchair\n22\tbooks\tbook\n",
    }


READERS: dict[str, Callable[[Path], object]] = {
    "labels": lambda path: labels.read_nyu40_points(path, "x"),
    "segments": labels.read_segments,
    "objects": lambda path: labels.read_objects(path, np.array([3, 4, 5], np.int32)),
    "pose": read_pose,
    "intrinsics": read_intrinsics,
    "alignment": read_axis_alignment,
    "image": lambda path: labels.read_nyu40_image(path, "x"),
    "tsv": labels.train_ids_200,
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("count", [QUICK, pytest.param(MANY, marks=pytest.mark.slow)])
def test_damaged_files(tmp_path: Path, what: str, count: int) -> None:
    path = tmp_path / "damaged"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        READERS[what](path)

    only_data_errors(read, small_scan()[what], count)
