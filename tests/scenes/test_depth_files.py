from __future__ import annotations

import io
import sys
from pathlib import Path

import cv2
import numpy as np
import OpenEXR
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fixtures_capture import open_capture, room_frames, write_capture
from fuzzing import MANY, QUICK, only_data_errors
from scenelift.errors import DataError
from scenelift.scenes.depth_files import metres, read_depth, read_exr, read_npy

DEPTH_M = np.linspace(0.5, 4.0, 48 * 64, dtype=np.float32).reshape(48, 64)


def write_exr(
    path: Path, channels: dict[str, np.ndarray], compression: object = OpenEXR.ZIP_COMPRESSION
) -> Path:
    header = {"compression": compression, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, channels) as file:
        file.write(str(path))
    return path


def npy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".npy", ".exr"])
def test_captures_of_each_kind_of_depth_are_one(tmp_path, suffix):
    frames = room_frames(3)
    folder = write_capture(tmp_path / "room", frames)
    for frame in frames:
        path = folder / "depth" / f"{frame.name}.png"
        if suffix == ".npy":
            path.unlink()
            np.save(path.with_suffix(suffix), frame.depth_m)
        elif suffix == ".exr":
            path.unlink()
            write_exr(path.with_suffix(suffix), {"Z": frame.depth_m})
    source = open_capture(folder)
    assert source.units_per_metre == (1000.0 if suffix == ".png" else 1.0)
    assert source.doubtful_frames() == ()
    for have, want in zip(source.frames(), frames, strict=True):
        assert np.abs(have.depth_m - want.depth_m).max() <= (0.00051 if suffix == ".png" else 0)


def test_16_bit_png_as_opencv_writes_it(tmp_path):
    stored = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    assert np.allclose(read_depth(tmp_path / "a.png", 5000.0), stored / 5000.0)


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.uint16, np.int32, np.uint8, np.dtype(">f4")]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    ),
    st.booleans(),
)
def test_npy_as_numpy_writes_it(tmp_path_factory, array, fortran):
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    np.save(path, np.asfortranarray(array) if fortran else array[..., None])
    assert np.array_equal(read_npy(path), array, equal_nan=array.dtype.kind == "f")
    depth_m = read_depth(path, 1000.0)
    assert depth_m.dtype == np.float32
    assert (depth_m >= 0).all()
    assert np.isfinite(depth_m).all()


@pytest.mark.parametrize("compression", ["NO", "ZIPS", "ZIP", "PIZ", "RLE", "PXR24"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_exr_of_every_lossless_compression(tmp_path, compression, dtype):
    depth = DEPTH_M.astype(dtype)
    path = write_exr(tmp_path / "a.exr", {"Z": depth}, getattr(OpenEXR, f"{compression}_COMPRESSION"))
    tolerance = 1e-4 if compression == "PXR24" else 0  # which keeps 24 of 32 bits
    assert np.abs(read_exr(path) - depth.astype(np.float32)).max() <= tolerance


def test_exr_of_constant_depth_is_not_taken_for_a_bomb(tmp_path):
    path = write_exr(tmp_path / "a.exr", {"Z": np.full((1200, 1600), 2.5, np.float32)})
    assert (read_exr(path) == 2.5).all()


def test_the_channel_of_depth(tmp_path):
    other = np.zeros((48, 64), np.float32)
    path = write_exr(tmp_path / "a.exr", {"Layer.Depth.Z": DEPTH_M, "Layer.R": other, "Layer.A": other})
    assert np.array_equal(read_exr(path), DEPTH_M)
    path = write_exr(tmp_path / "b.exr", {"Layer.N": other, "Layer.A": other})
    with pytest.raises(DataError, match="one named Z"):
        read_exr(path)


def test_what_counts_as_no_measurement():
    stored = np.array([[np.nan, np.inf, -np.inf, -1.0, 0.0, 2.0]], np.float32)
    assert metres(stored, 1.0).tolist() == [[0, 0, 0, 0, 0, 2.0]]
    assert metres(np.array([[65535, 65534]], np.uint16), 1000.0).tolist() == [[0, pytest.approx(65.534)]]
    assert metres(np.array([[-5, 65535]], np.int32), 1000.0).tolist() == [[0, pytest.approx(65.535)]]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.npy", b"PK\x03\x04 and more bytes", "NumPy array"),
        ("a.npy", npy_bytes(DEPTH_M)[:-4], "cut off"),
        ("a.npy", npy_bytes(np.zeros((2, 3, 4))), r"\(height, width\) array of numbers"),
        ("a.npy", npy_bytes(np.zeros((2, 3), np.complex64)), r"\(height, width\) array of numbers"),
        ("a.npy", npy_bytes(np.zeros((0, 3))), "found 3 × 0"),
        ("a.exr", b"\x89PNG and more bytes", "plain OpenEXR image"),
        ("a.tiff", b"II", "save metres as float32 .npy"),
    ],
)
def test_damaged_files(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_depth(path, 1000.0)


def test_objects_in_npy_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[print, len]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="objects"):
        read_npy(tmp_path / "a.npy")


def test_exr_without_the_package(tmp_path, monkeypatch):
    path = write_exr(tmp_path / "a.exr", {"Z": DEPTH_M})
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(DataError, match=r'; pip install "scenelift\[formats\]"$'):
        read_exr(path)


def test_a_header_that_claims_too_much(tmp_path):
    path = write_exr(tmp_path / "a.exr", {"Z": DEPTH_M})
    data = bytearray(path.read_bytes())
    at = data.index(b"dataWindow\0box2i\0") + len(b"dataWindow\0box2i\0") + 4
    data[at + 8 : at + 16] = (9999).to_bytes(4, "little") * 2
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"expected at least .* bytes for 10000 × 10000 pixels"):
        read_exr(path)


def _fuzz(tmp_path: Path, count: int) -> list[int]:
    path = tmp_path / "file"

    def with_file(data: bytes, read: object) -> object:
        path.write_bytes(data)
        return read(path)  # type: ignore[operator]

    small = DEPTH_M[:16, :16]
    refused = [only_data_errors(lambda data: with_file(data, read_npy), npy_bytes(small), count)]
    for compression in ("ZIP", "PIZ", "NO"):
        exr = write_exr(tmp_path / "a.exr", {"Z": small}, getattr(OpenEXR, f"{compression}_COMPRESSION"))
        refused.append(only_data_errors(lambda data: with_file(data, read_exr), exr.read_bytes(), count))
    return refused


def test_damaged_bytes_are_a_data_error(tmp_path):
    assert min(_fuzz(tmp_path, QUICK)) > QUICK // 5


@pytest.mark.slow
def test_much_damaged_bytes_are_a_data_error(tmp_path):
    assert min(_fuzz(tmp_path, MANY)) > MANY // 5
