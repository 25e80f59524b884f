import io
import tracemalloc

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement

from scenelift.errors import DataError
from scenelift.ply import decode_points, encode_points

coordinates = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 20), st.just(3)), elements=st.floats(-1e6, 1e6, width=32)
)


def mesh(
    text: bool = False, byte_order: str = "<", sizes: tuple[int, ...] = (3, 3, 4), faces_first: bool = False
):
    """Points, colours and bytes of a mesh as others write it: doubles, normals, faces of various lengths."""
    rng = np.random.default_rng(0)
    kinds = [("nx", "f4"), ("x", "f8"), ("y", "f8"), ("z", "f8"), ("label", "u2")]
    vertex = np.zeros(7, kinds + [(name, "u1") for name in ("red", "green", "blue", "alpha")])
    for name in vertex.dtype.names:
        vertex[name] = rng.integers(0, 255, 7) if vertex[name].dtype.kind == "u" else rng.normal(size=7)
    face = np.empty(len(sizes), [("vertex_indices", "O"), ("quality", "f4")])
    face["vertex_indices"] = [np.arange(size, dtype=np.int32) for size in sizes]
    face["quality"] = 1
    elements = [PlyElement.describe(vertex, "vertex"), PlyElement.describe(face, "face")]
    stream = io.BytesIO()
    comments = ["made by hand", "element vertex 3"]
    PlyData(elements[:: -1 if faces_first else 1], text, byte_order, comments=comments).write(stream)
    points = np.stack([vertex[axis] for axis in "xyz"], 1).astype(np.float32)
    return points, np.stack([vertex[c] for c in ("red", "green", "blue")], 1), stream.getvalue()


def header(*lines: str, kind: str = "binary_little_endian") -> bytes:
    return "\n".join(["ply", f"format {kind} 1.0", *lines, "end_header", ""]).encode()


XYZ = ("property float x", "property float y", "property float z")


@settings(deadline=None, max_examples=50)
@given(points=coordinates, coloured=st.booleans(), seed=st.integers(0, 9))
def test_round_trip_and_agreement_with_plyfile(points, coloured, seed):
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, points.shape, dtype=np.uint8) if coloured else None
    extra = {"label": np.arange(len(points), dtype=np.uint8), "confidence": np.float32(points[:, 0])}
    data = encode_points(points, rgb, extra)
    found_points, found_rgb = decode_points(data, "here")
    assert found_points.dtype == np.float32
    assert found_points.tobytes() == points.tobytes()
    assert (found_rgb is None) == (rgb is None)
    if rgb is not None:
        assert np.array_equal(found_rgb, rgb)
    vertex = PlyData.read(io.BytesIO(data))["vertex"]
    assert np.array_equal(vertex["x"], points[:, 0])
    assert np.array_equal(vertex["label"], extra["label"])
    assert np.array_equal(vertex["confidence"], extra["confidence"])
    assert vertex["label"].dtype == np.uint8


@pytest.mark.parametrize("faces_first", [False, True])
@pytest.mark.parametrize(("text", "byte_order"), [(True, "="), (False, "<"), (False, ">")])
def test_meshes_of_other_programs(text, byte_order, faces_first):
    points, rgb, data = mesh(text, byte_order, faces_first=faces_first)
    found_points, found_rgb = decode_points(data, "here")
    assert np.allclose(found_points, points, rtol=1e-6, atol=0)
    assert np.array_equal(found_rgb, rgb)
    assert found_points.flags.writeable


def test_windows_line_ends_and_no_points():
    data = header("element vertex 2", *XYZ, kind="ascii").replace(b"\n", b"\r\n") + b"1 2 3\r\n\r\n4 5 6"
    assert decode_points(data, "here")[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    for kind in ("ascii", "binary_little_endian", "binary_big_endian"):
        assert decode_points(header("element vertex 0", *XYZ, kind=kind), "here")[0].shape == (0, 3)


@pytest.mark.parametrize("faces_first", [False, True])
@pytest.mark.parametrize(("text", "byte_order"), [(True, "="), (False, "<"), (False, ">")])
def test_truncation_anywhere_is_found(text, byte_order, faces_first):
    _, _, data = mesh(text, byte_order, faces_first=faces_first)
    last_line = len(data.rstrip().rsplit(b"\n", 1)[0]) + 2 if text else len(data)
    for length in range(last_line):  # a cut within the last number of a text file cannot be seen
        with pytest.raises(DataError, match=r"at some/file\.ply, found"):
            decode_points(data[:length], "some/file.ply")


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize(
    "lines",
    [
        ("element vertex 1000000000", *XYZ),
        ("element vertex 1", *XYZ, "element face 1000000000", "property list uchar int vertex_indices"),
        ("element face 1000000000", "property list uchar int vertex_indices", "element vertex 1", *XYZ),
        ("element vertex 99999999999999999999999999", *XYZ),
    ],
)
def test_a_lying_header_is_found_without_allocating(kind, lines):
    data = header(*lines, kind=kind) + bytes(100)
    tracemalloc.start()
    with pytest.raises(DataError, match="100 bytes of data where the header claims"):
        decode_points(data, "here")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_list_that_claims_more_than_there_is():
    data = header("element vertex 1", *XYZ, "element face 1", "property list uint int vertex_indices")
    with pytest.raises(DataError, match="ends amid its face data"):
        decode_points(data + bytes(12) + b"\xff" * 4, "here")


def test_points_that_are_not_finite_are_counted():
    points = np.zeros((5, 3), np.float32)
    points[[1, 3], [0, 2]] = np.nan, np.inf
    points[3, 1] = np.nan
    with pytest.raises(DataError, match="2 of 5 points with NaN"):
        decode_points(encode_points(points, None, {}), "here")
    double = header("element vertex 1", *(line.replace("float", "double") for line in XYZ))
    with pytest.raises(DataError, match="1 of 1 points"):  # finite as float64, not as float32
        decode_points(double + np.array([1e39, 0, 0]).tobytes(), "here")
    with pytest.raises(DataError, match="1 of 1 points"):
        decode_points(header("element vertex 1", *XYZ, kind="ascii") + b"nan 1 2\n", "here")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no PLY header"),
        (b"PK\x03\x04" * 10, "no PLY header"),
        (b"plywood\nend_header\n", "no PLY header"),
        (b"ply\nformat ascii 1.0\n", "no PLY header"),
        (b"ply\nelement vertex 0\n" + "\n".join(XYZ).encode() + b"\nend_header\n", "no format line"),
        (header("element vertex 1", *XYZ[:2]) + bytes(8), "properties x y; x, y and z are needed"),
        (header("element point 1", *XYZ) + bytes(12), r"properties \(none\)"),
        (header("element vertex 1", *XYZ, "property float x") + bytes(16), "each property once"),
        (header("element vertex 1", *XYZ, "property list uchar int n") + bytes(13), "none of them a list"),
        (header("element vertex -1", *XYZ), "header line 'element vertex -1'"),
        (header("element vertex many", *XYZ), "header line"),
        (header("element vertex 1", "property float128 x"), "header line 'property float128 x'"),
        (header("property float x"), "header line"),
        (header("something else"), "header line"),
        (header("element vertex 1", *XYZ, kind="middle_endian"), "header line"),
        (header("element vertex 2", *XYZ, kind="ascii") + b"1 2 3\n1 2\n\n", "1|2 lines|cannot be read"),
        (header("element vertex 2", *XYZ, kind="ascii") + b"1 2 3\n1 2 x\n", "cannot be read"),
        (header("element vertex 2", *XYZ, kind="ascii") + b"1 2 3 4\n1 2 3 4\n", "cannot be read"),
        (header("element vertex 2", *XYZ, kind="ascii") + b"1 2 3 4 5 6\n", "1 lines of data"),
    ],
)
def test_what_is_no_point_cloud_says_why(data, message):
    with pytest.raises(DataError, match=message) as error:
        decode_points(data, "some/file.ply")
    assert "some/file.ply" in str(error.value)


def test_colours_of_another_type_are_refused_not_misread():
    colours = ("property float red", "property float green", "property float blue")
    with pytest.raises(DataError, match="colours of type float32"):
        decode_points(header("element vertex 1", *XYZ, *colours) + bytes(24), "here")
    two = tuple(line.replace("float", "uchar") for line in colours[:2])
    assert decode_points(header("element vertex 1", *XYZ, *two) + bytes(14), "here")[1] is None


@pytest.mark.parametrize(
    "extra",
    [
        {"x": np.zeros(2, np.float32)},
        {"red": np.zeros(2, np.uint8)},
        {"label": np.zeros(3, np.uint8)},
        {"label": np.zeros((2, 1), np.uint8)},
        {"label": np.zeros(2, np.int64)},
        {"label": np.zeros(2, np.float16)},
        {"label": np.zeros(2, bool)},
    ],
)
def test_what_ply_cannot_hold_is_a_value_error(extra):
    with pytest.raises(ValueError, match="found"):
        encode_points(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.uint8), extra)
    with pytest.raises(ValueError, match="found"):
        encode_points(np.zeros((2, 3), np.float32), np.zeros((1, 3), np.uint8), {})
