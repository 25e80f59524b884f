"""ScanNet's recordings, against a slow reader written from the description of the format."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fuzzing import MANY, QUICK, only_data_errors
from layouts_scannet import COLOR_SHAPE, DEPTH_SHAPE, sens_bytes
from scenelift.errors import DataError
from scenelift.scenes.index import index_folder
from scenelift.scenes.scannet import sens


@pytest.fixture(autouse=True)
def index_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENELIFT_INDEX", str(tmp_path / "index"))


def read_slowly(data: bytes) -> dict[str, Any]:
    """The whole file, field by field."""
    stream = io.BytesIO(data)

    def take(kind: str) -> Any:
        return struct.unpack("<" + kind, stream.read(struct.calcsize("<" + kind)))

    (version,), (length,) = take("I"), take("Q")
    name = stream.read(length)
    matrices = [np.array(take("16f")).reshape(4, 4) for _ in range(4)]
    kinds, sizes, (units,), (count,) = take("2i"), take("4I"), take("f"), take("Q")
    frames = []
    for _ in range(count):
        pose = np.array(take("16f")).reshape(4, 4)
        _, _, color_bytes, depth_bytes = take("4Q")
        color, depth = stream.read(color_bytes), stream.read(depth_bytes)
        frames.append((pose, color, depth))
    assert take("Q") == (0,)
    assert stream.read() == b""
    return {
        "version": version,
        "name": name,
        "matrices": matrices,
        "kinds": kinds,
        "sizes": sizes,
        "units": units,
        "frames": frames,
    }


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.sens"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("color", "depth"), [(2, 1), (1, 1), (0, 0), (2, 0)])
def test_frames_are_those_of_a_straightforward_reader(tmp_path: Path, color: int, depth: int) -> None:
    data = sens_bytes(3, color=color, depth=depth, lost=[1])
    slow, path = read_slowly(data), write(tmp_path, data)
    header, table = sens.read_header(path), sens.find_frames(path)
    assert header.color_shape == COLOR_SHAPE == slow["sizes"][1::-1]
    assert header.depth_shape == DEPTH_SHAPE == slow["sizes"][:1:-1]
    assert np.array_equal(header.color_intrinsics, slow["matrices"][0][:3, :3])
    assert np.array_equal(header.depth_intrinsics, slow["matrices"][2][:3, :3])
    assert header.units_per_metre == slow["units"] == 1000.0
    assert table.lost.tolist() == [False, True, False]
    assert len(table.offsets) == header.frames == 3
    for offset, (pose, color_data, depth_data) in zip(table.offsets, slow["frames"], strict=True):
        frame = sens.read_frame(header, int(offset))
        assert np.array_equal(frame.world_from_cam, pose)
        if color == 0:
            expected = np.frombuffer(color_data, "u1").reshape(*COLOR_SHAPE, 3)
        else:
            expected = np.array(Image.open(io.BytesIO(color_data)))
        assert np.array_equal(frame.color, expected)
        raw = zlib.decompress(depth_data) if depth == 1 else depth_data
        assert np.array_equal(frame.depth_units, np.frombuffer(raw, "<u2").reshape(DEPTH_SHAPE))
        assert frame.color.flags.writeable
        assert frame.depth_units.dtype == np.uint16


@settings(max_examples=20)
@given(places=st.permutations(list(range(6))), scale=st.sampled_from([1, 2]))
def test_any_frame_can_be_read_without_the_others(
    tmp_path_factory: pytest.TempPathFactory, places: list[int], scale: int
) -> None:
    data = sens_bytes(6, scale=scale)
    path = write(tmp_path_factory.mktemp("sens"), data)
    slow, header, table = read_slowly(data), sens.read_header(path), sens.find_frames(path)
    for place in places:
        frame = sens.read_frame(header, int(table.offsets[place]))
        assert np.array_equal(frame.world_from_cam, slow["frames"][place][0])


def test_the_walk_reads_little_and_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, sens_bytes(4, repeat=10))
    first = sens.find_frames(path)
    kept = list(index_folder().iterdir())
    assert len(kept) == 1
    assert kept[0].stat().st_size == 16 + 32 + 9 * 40
    with monkeypatch.context() as patch:
        patch.setattr(sens, "_walk", None)  # would fail if it were called
        again = sens.find_frames(path)
    assert np.array_equal(first.offsets, again.offsets)
    assert np.array_equal(first.lost, again.lost)


def test_a_changed_file_is_walked_again(tmp_path: Path) -> None:
    path = write(tmp_path, sens_bytes(2))
    assert len(sens.find_frames(path).offsets) == 2
    write(tmp_path, sens_bytes(3))
    assert len(sens.find_frames(path).offsets) == 3


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    path = write(tmp_path, sens_bytes(2))
    expected = sens.find_frames(path).offsets
    (kept,) = index_folder().iterdir()
    for damage in (kept.read_bytes()[:-3], b"", kept.read_bytes()[:60] + b"\xff" + kept.read_bytes()[61:]):
        kept.write_bytes(damage)
        assert np.array_equal(sens.find_frames(path).offsets, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: b"\x03" + d[1:], "version 4"),
        (lambda d: d[:5], "found 5 bytes"),
        (lambda d: d[:60], "header cut off"),
        (lambda d: d[:4] + b"\xff" * 8 + d[12:], "version 4"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        sens.read_header(write(tmp_path, change(sens_bytes(2))))


def test_occi_depth_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 \(occi\); export frames"):
        sens.read_header(write(tmp_path, sens_bytes(1, depth=2)))


def test_more_frames_than_the_file_can_hold_are_refused_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, sens_bytes(2, frames=1 << 60))
    with pytest.raises(DataError, match="too few for them; download it again"):
        sens.read_header(path)


def test_an_interrupted_download_is_told_with_the_frame_it_ends_in(tmp_path: Path) -> None:
    data = sens_bytes(4)
    path = write(tmp_path, data[: len(data) * 7 // 10])
    with pytest.raises(DataError, match=r"frame 2 of 4.*ends before it does; download it again"):
        sens.find_frames(path)


def test_depth_that_unpacks_to_more_is_not_unpacked(tmp_path: Path) -> None:
    data = bytearray(sens_bytes(1, depth=0, color=0))
    bomb = zlib.compress(bytes(50 << 20), 9)
    start = len(data) - 8 - 2 * DEPTH_SHAPE[0] * DEPTH_SHAPE[1]
    color_bytes = 3 * COLOR_SHAPE[0] * COLOR_SHAPE[1]
    struct.pack_into("<Q", data, start - color_bytes - 8, len(bomb))
    data[start:] = bomb + bytes(8)
    struct.pack_into("<i", data, 12 + 15 + 256 + 4, 1)  # zlib
    path = write(tmp_path, bytes(data))
    header, table = sens.read_header(path), sens.find_frames(path)
    with pytest.raises(DataError, match=r"bytes of depth in .*found more"):
        sens.read_frame(header, int(table.offsets[0]))


def test_colour_of_another_size_is_refused(tmp_path: Path) -> None:
    data = bytearray(sens_bytes(1))
    struct.pack_into("<I", data, 12 + 15 + 256 + 8, 64)
    path = write(tmp_path, bytes(data))
    with pytest.raises(DataError, match=r"64 × 96 pixels .* found 128 × 96"):
        sens.read_frame(sens.read_header(path), int(sens.find_frames(path).offsets[0]))


def test_missing_files_and_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; check the path"):
        sens.read_header(tmp_path / "none.sens")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        sens.read_header(tmp_path)


def read_all(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    header = sens.read_header(path)
    for offset in sens.find_frames(path).offsets:
        sens.read_frame(header, int(offset))


@pytest.mark.parametrize("count", [QUICK, pytest.param(MANY, marks=pytest.mark.slow)])
def test_damaged_recordings(tmp_path: Path, count: int) -> None:
    path = tmp_path / "x.sens"
    sample = sens_bytes(2, scale=4)
    assert only_data_errors(lambda data: read_all(path, data), sample, count) > count // 3


@pytest.mark.parametrize("count", [QUICK, pytest.param(MANY, marks=pytest.mark.slow)])
def test_damaged_recordings_of_raw_and_png(tmp_path: Path, count: int) -> None:
    path = tmp_path / "x.sens"
    only_data_errors(lambda data: read_all(path, data), sens_bytes(2, scale=4, color=1, depth=0), count)
