from __future__ import annotations

import builtins
import io
import math
import struct
import sys
from pathlib import Path

import numpy as np
import plyfile
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import MANY, QUICK, only_data_errors
from layouts_lidar import (
    PCD_KINDS,
    las_bytes,
    lzf_compress,
    npy_bytes,
    pcd_bytes,
    some_points,
    write,
)
from scenelift.errors import DataError
from scenelift.files import write_ply_points
from scenelift.scenes.clouds import read_cloud
from scenelift.scenes.clouds.pcd import lzf_decompress

POINTS, RGB = some_points()


def packed_float(rgb: np.ndarray) -> np.ndarray:
    r, g, b = rgb.astype(np.uint32).T
    return (r << 16 | g << 8 | b).astype("<u4").view("<f4")


def slow_pcd(data: bytes) -> list[dict[str, float]]:
    """A parser of ascii and binary PCD that shares nothing with the one under test."""
    head, _, rest = data.partition(b"\nDATA ")
    kind, _, body = rest.partition(b"\n")
    entries = dict(line.split(" ", 1) for line in head.decode().splitlines() if line[0] != "#")
    names, types = entries["FIELDS"].split(), entries["TYPE"].split()
    sizes, counts = ([int(w) for w in entries[key].split()] for key in ("SIZE", "COUNT"))
    codes = {("F", 4): "f", ("F", 8): "d", ("U", 1): "B", ("U", 2): "H", ("U", 4): "I", ("I", 4): "i"}
    row_format = "<" + "".join(codes[t, s] * c for t, s, c in zip(types, sizes, counts, strict=True))
    rows = []
    for number in range(int(entries["POINTS"])):
        if kind == b"ascii":
            values = [float(w) for w in body.splitlines()[number].split()]
        else:
            values = list(struct.unpack_from(row_format, body, number * struct.calcsize(row_format)))
        row = {}
        for name, count in zip(names, counts, strict=True):
            row[name], values = values[0], values[count:]
        rows.append(row)
    return rows


@pytest.mark.parametrize("kind", PCD_KINDS)
def test_pcd_of_every_kind_reads_the_same(tmp_path: Path, kind: str) -> None:
    columns = {
        "intensity": np.arange(len(POINTS), dtype=np.float32),
        "_": np.zeros((len(POINTS), 3), np.uint8),
        "x": POINTS[:, 0],
        "y": POINTS[:, 1],
        "normal": np.ones((len(POINTS), 3), np.float32),
        "z": POINTS[:, 2],
        "rgb": packed_float(RGB),
        "ring": np.arange(len(POINTS), dtype=np.uint16) % 64,
        "t": np.arange(len(POINTS), dtype=np.float64) * 1e-5,
    }
    data = pcd_bytes(columns, kind, height=2)
    cloud = read_cloud(write(tmp_path / "a.pcd", data))
    np.testing.assert_array_equal(cloud.points, POINTS)
    np.testing.assert_array_equal(cloud.rgb, RGB)
    np.testing.assert_array_equal(cloud.intensity, columns["intensity"])
    assert cloud.kept is None
    assert cloud.rows == len(POINTS)
    if kind != "binary_compressed":
        np.testing.assert_array_equal([[r["x"], r["y"], r["z"]] for r in slow_pcd(data)], cloud.points)


def test_pcd_colours_as_integers_and_coordinates_as_doubles(tmp_path: Path) -> None:
    xyz = POINTS.astype(np.float64) + np.array([500_000.25, 5_400_000.5, 300])
    columns = dict(zip("xyz", xyz.T, strict=True)) | {"rgba": packed_float(RGB).view("<u4") | 0xFF000000}
    for kind in PCD_KINDS:
        cloud = read_cloud(write(tmp_path / "a.pcd", pcd_bytes(columns, kind)))
        np.testing.assert_array_equal(cloud.rgb, RGB)
        np.testing.assert_array_equal(cloud.origin_world, np.round(cloud.origin_world))
        np.testing.assert_allclose(cloud.points + cloud.origin_world, xyz, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", PCD_KINDS)
def test_points_without_a_return_are_dropped_and_counted(tmp_path: Path, kind: str) -> None:
    xyz = POINTS.copy()
    xyz[3], xyz[7, 2], xyz[9, 0] = math.nan, math.inf, -math.inf
    columns = dict(zip("xyz", xyz.T, strict=True)) | {"rgb": packed_float(RGB)}
    cloud = read_cloud(write(tmp_path / "a.pcd", pcd_bytes(columns, kind, height=10)))
    kept = np.ones(len(xyz), bool)
    kept[[3, 7, 9]] = False
    assert cloud.rows == len(xyz)
    np.testing.assert_array_equal(cloud.kept, kept)
    np.testing.assert_array_equal(cloud.points, POINTS[kept])
    np.testing.assert_array_equal(cloud.rgb, RGB[kept])


@given(st.lists(st.sampled_from([b"\0\0\0\x80", b"abc", b"abcabc", b"\xff", b"0123456789" * 40])))
def test_lzf_comes_back(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    assert lzf_decompress(lzf_compress(data), len(data)) == data


def test_lzf_by_hand() -> None:
    """Four literals, then seven bytes from four back (runs into itself), then 9 + 3 bytes from one back."""
    packed = bytes([3]) + b"wxyz" + bytes([5 << 5, 3]) + bytes([7 << 5, 3, 0])
    assert lzf_decompress(packed, 4 + 7 + 12) == b"wxyz" + b"wxyzwxy" + b"y" * 12


def test_ply_as_plyfile_writes_it(tmp_path: Path) -> None:
    write_ply_points(tmp_path / "a.ply", POINTS, RGB)
    cloud = read_cloud(tmp_path / "a.ply")
    np.testing.assert_array_equal(cloud.points, POINTS)
    np.testing.assert_array_equal(cloud.rgb, RGB)

    vertex = np.zeros(len(POINTS), [("x", ">f8"), ("y", ">f8"), ("z", ">f8"), ("intensity", ">f4")])
    for axis, offset, column in zip("xyz", (4e5, 5e6, 0), POINTS.T, strict=True):
        vertex[axis] = column.astype(np.float64) + offset
    vertex["intensity"] = np.arange(len(POINTS))
    element = plyfile.PlyElement.describe(vertex, "vertex")
    plyfile.PlyData([element], byte_order=">").write(str(tmp_path / "b.ply"))
    cloud = read_cloud(tmp_path / "b.ply")
    assert cloud.rgb is None
    np.testing.assert_allclose(cloud.points + cloud.origin_world - [4e5, 5e6, 0], POINTS, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(cloud.intensity, np.arange(len(POINTS)))


def test_ply_with_nan_is_refused_as_elsewhere(tmp_path: Path) -> None:
    points = POINTS.copy()
    points[5, 1] = math.nan
    write_ply_points(tmp_path / "a.ply", points, None)
    with pytest.raises(DataError, match="1 of 200 points with NaN"):
        read_cloud(tmp_path / "a.ply")


@pytest.mark.parametrize("packed", [False, True], ids=["las", "laz"])
@pytest.mark.parametrize("coloured", [False, True])
def test_las_as_laspy_writes_it(tmp_path: Path, packed: bool, coloured: bool) -> None:
    xyz = np.round(POINTS.astype(np.float64) + np.array([690_000, 5_330_000, 500]), 3)
    data = las_bytes(xyz, RGB if coloured else None, packed=packed, offset=(690_000, 5_330_000, 0))
    cloud = read_cloud(write(tmp_path / ("a.laz" if packed else "a.las"), data))
    np.testing.assert_allclose(cloud.points + cloud.origin_world, xyz, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(cloud.intensity, np.arange(len(xyz)))
    if coloured:
        np.testing.assert_array_equal(cloud.rgb, RGB)
    else:
        assert cloud.rgb is None


def test_las_without_laspy_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.las", las_bytes(POINTS, None, packed=False))
    real = builtins.__import__

    def refuse(name: str, *args: object, **keys: object) -> object:
        if name == "laspy":
            raise ImportError(name)
        return real(name, *args, **keys)  # type: ignore[arg-type]

    monkeypatch.delitem(sys.modules, "laspy", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError, match=r'; pip install "scenelift\[formats\]"$'):
        read_cloud(path)


def test_bin_tells_kitti_from_nuscenes(tmp_path: Path) -> None:
    """200 rows: both numbers of columns fit the size, and the ring decides."""
    intensity = np.linspace(0.01, 0.99, len(POINTS), dtype=np.float32)
    ring = np.arange(len(POINTS), dtype=np.float32) % 32
    kitti = np.column_stack([POINTS, intensity]).astype("<f4")
    nuscenes = np.column_stack([POINTS, intensity * 255, ring]).astype("<f4")
    for rows in (kitti, nuscenes, kitti[:199], nuscenes[:199]):
        cloud = read_cloud(write(tmp_path / "a.bin", rows.tobytes()))
        np.testing.assert_array_equal(cloud.points, rows[:, :3])
        np.testing.assert_array_equal(cloud.intensity, rows[:, 3])
    six = np.column_stack([nuscenes, ring])
    cloud = read_cloud(write(tmp_path / "a.pcd.bin", six.tobytes()), columns=6)
    np.testing.assert_array_equal(cloud.points, POINTS)
    three = read_cloud(write(tmp_path / "a.bin", POINTS.tobytes()), columns=3)
    np.testing.assert_array_equal(three.points, POINTS)
    assert three.points.flags.writeable
    with pytest.raises(DataError, match=r"rows of 7 float32 .* found 2,400 bytes"):
        read_cloud(tmp_path / "a.bin", columns=7)


def test_npy(tmp_path: Path) -> None:
    plain = read_cloud(write(tmp_path / "a.npy", npy_bytes(np.asfortranarray(POINTS))))
    np.testing.assert_array_equal(plain.points, POINTS)
    big = read_cloud(write(tmp_path / "a.npy", npy_bytes((POINTS + np.array([1e6, 0, 0])).astype(">f8"))))
    np.testing.assert_allclose(big.points + big.origin_world - [1e6, 0, 0], POINTS, atol=1e-5)
    half = read_cloud(write(tmp_path / "a.npy", npy_bytes(POINTS.astype(np.float16))))
    np.testing.assert_array_equal(half.points, POINTS.astype(np.float16).astype(np.float32))

    fields = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    table = np.zeros(len(POINTS), fields)
    for name, column in zip(table.dtype.names, (*POINTS.T, *RGB.T), strict=True):
        table[name] = column
    named = read_cloud(write(tmp_path / "a.npy", npy_bytes(table)))
    np.testing.assert_array_equal(named.points, POINTS)
    np.testing.assert_array_equal(named.rgb, RGB)


def test_npy_never_unpickles_and_never_trusts_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"x": 1}], dtype=object))
    with pytest.raises(DataError, match="holds objects"):
        read_cloud(path)
    data = npy_bytes(POINTS).replace(b"(200, 3)", b"(9999999999, 3)"[:8].ljust(8))
    with pytest.raises(DataError, match=r"NumPy array|as its header claims"):
        read_cloud(write(path, data))
    data = npy_bytes(POINTS).replace(b"(200, 3), }     ", b"(9999999999, 3), }"[:16].ljust(16))
    with pytest.raises(DataError, match=r"NumPy array|as its header claims"):
        read_cloud(write(path, data))


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.xyz", b"1 2 3", r"found the ending '\.xyz'; convert it"),
        ("a.pcd", b"ply\nnot this", "found no PCD header"),
        ("a.pcd", pcd_bytes({"x": POINTS[:, 0]}, "binary"), "x, y and z are needed"),
        ("a.pcd", pcd_bytes(dict(zip("xyz", POINTS.T, strict=True)), "binary")[:-1], "is truncated"),
        ("a.pcd", pcd_bytes(dict(zip("xyz", POINTS.T, strict=True)), "ascii")[:-900], "is truncated"),
        ("a.pcd", pcd_bytes(dict(zip("xyz", POINTS.T, strict=True)), "binary_compressed")[:-1], "truncated"),
        ("a.bin", b"\0" * 18, "18 bytes, which is neither"),
        ("a.bin", np.full((4, 4), 1e30, "<f4").tobytes(), r"found up to 1e\+30; check the number of columns"),
        ("a.npy", npy_bytes(np.zeros((4, 2), np.float32)), r"shape \(N, 3\)"),
        ("a.npy", npy_bytes(np.zeros((4, 3), np.int32)), "floats of shape"),
        ("a.npy", npy_bytes(np.zeros(4, [("x", "f4"), ("y", "f4")])), "numbers x, y, z"),
        ("a.las", b"LASF", "truncated or damaged"),
        ("a.laz", las_bytes(POINTS, RGB, packed=True)[:-40], "truncated|damaged"),
        ("a.las", las_bytes(POINTS, RGB, packed=False)[:-40], "are claimed"),
    ],
)
def test_faults_are_said_in_one_line(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read_cloud(write(tmp_path / name, data))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def _samples() -> dict[str, tuple[str, bytes]]:
    points, rgb = some_points(40)
    columns = dict(zip("xyz", points.T, strict=True)) | {"rgb": packed_float(rgb)}
    ply = plyfile.PlyElement.describe(
        np.array([tuple(p) for p in points], [("x", "f4"), ("y", "f4"), ("z", "f4")]), "vertex"
    )
    stream = io.BytesIO()
    plyfile.PlyData([ply]).write(stream)
    return {
        "ply": ("a.ply", stream.getvalue()),
        "pcd_ascii": ("a.pcd", pcd_bytes(columns, "ascii")),
        "pcd_binary": ("a.pcd", pcd_bytes(columns, "binary")),
        "pcd_packed": ("a.pcd", pcd_bytes(columns, "binary_compressed")),
        "bin": ("a.bin", np.column_stack([points, points[:, 0]]).astype("<f4").tobytes()),
        "npy": ("a.npy", npy_bytes(points)),
        "las": ("a.las", las_bytes(points, rgb, packed=False)),
        "laz": ("a.laz", las_bytes(points, rgb, packed=True)),
    }


SAMPLES = _samples()


def _fuzz(folder: Path, kind: str, count: int) -> None:
    name, sample = SAMPLES[kind]
    path = folder / name

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return read_cloud(path)

    assert only_data_errors(read, sample, count) > count // 20


@pytest.mark.parametrize("kind", SAMPLES)
def test_damaged_clouds(tmp_path: Path, kind: str) -> None:
    _fuzz(tmp_path, kind, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAMPLES)
def test_many_damaged_clouds(tmp_path: Path, kind: str) -> None:
    _fuzz(tmp_path, kind, MANY)
