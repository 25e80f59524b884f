import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fixtures_capture import (
    INTRINSICS,
    SHAPE,
    open_capture,
    room_frames,
    write_capture,
)
from scenelift.errors import DataError
from scenelift.scenes.capture.layouts import find_layout
from scenelift.scenes.folders import looks_whole, natural_key
from scenelift.scenes.matrices import read_intrinsics


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_capture(tmp_path / "room", room_frames(5))


def test_natural_key():
    for ordered in (["9", "10", "11"], ["1.25", "1.5", "1.50001", "2"], ["a2b10", "a10b1"], ["5", "frame"]):
        shuffled = ordered[::-1]
        assert sorted(shuffled, key=natural_key) == ordered


@pytest.mark.parametrize("part", ["color", "depth", "pose"])
def test_incomplete_frames_are_named(folder, part):
    for name in ("1", "3"):
        next((folder / part).glob(f"{name}.*")).unlink()
    with pytest.raises(DataError, match=rf"2 of 5 without {part} \(1, 3\); add the missing files or delete"):
        find_layout(folder)


def test_missing_part_and_empty_folder(folder, tmp_path):
    shutil.rmtree(folder / "pose")
    with pytest.raises(DataError, match=r"found no pose/; export"):
        find_layout(folder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("hello")
    with pytest.raises(DataError, match=r"found none, but readme\.txt"):
        find_layout(tmp_path / "empty")
    with pytest.raises(DataError, match="found a file there"):
        find_layout(tmp_path / "empty" / "readme.txt")


def test_depth_stored_as_floats(folder):
    for path in (folder / "depth").glob("*.png"):
        path.with_suffix(".pfm").write_bytes(b"Pf")
        path.unlink()
    with pytest.raises(
        DataError, match=r"found 0\.pfm and 4 more, which hold floats in another form; save metres as .*npy"
    ):
        find_layout(folder)


def test_two_files_of_one_frame(folder):
    Image.fromarray(np.zeros((*SHAPE, 3), np.uint8)).save(folder / "color" / "1.jpg")
    with pytest.raises(DataError, match=r"found 1\.jpg and 1\.png"):
        find_layout(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "found 3 numbers"),
        ("a b c", "plain numbers"),
        ("50 0 31 0 50 23 0 0 0", "expected intrinsics"),
        ("50 3 31 0 50 23 0 0 1", "expected intrinsics"),
        ("-50 0 31 0 50 23 0 0 1", "expected intrinsics"),
        ("nan 0 31 0 50 23 0 0 1", "expected intrinsics"),
    ],
)
def test_bad_intrinsics(tmp_path, text, message):
    path = tmp_path / "intrinsics.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_intrinsics(path)


def test_commas_and_byte_order_mark_are_no_fault(tmp_path):
    path = tmp_path / "intrinsics.txt"
    path.write_bytes("\ufeff50,0,31.5\n0,50,23.5\n0,0,1\n".encode())
    assert np.array_equal(read_intrinsics(path), INTRINSICS)


def test_truncated_files_are_doubtful(folder):
    assert open_capture(folder).doubtful_frames() == ()
    path = folder / "depth" / "2.png"
    data = path.read_bytes()
    path.write_bytes(data + b"trailer")
    assert looks_whole(path)
    path.write_bytes(data[:-20])
    source = open_capture(folder)
    assert source.doubtful_frames() == ("2",)
    assert not looks_whole(folder / "color")
    with pytest.raises(DataError, match="truncated"):
        source.frames()[2]
