import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from scenelift import files, image_files
from scenelift.errors import DataError, OutputError
from scenelift.files import (
    atomic_path,
    atomic_write,
    is_temp,
    read_json,
    read_ply_points,
    safe_name,
    sweep_temp_files,
    write_json,
    write_ply_points,
)
from scenelift.image_files import read_depth_png, read_rgb, write_jpeg, write_png


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)


@pytest.fixture
def depth() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (13, 17), dtype=np.uint16)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# --- atomic writing ------------------------------------------------------------------------------------


def test_a_file_appears_whole_under_its_name(tmp_path):
    path = tmp_path / "new" / "folder" / "a.bin"
    with atomic_path(path) as temp:
        assert (temp.parent, temp.suffix) == (path.parent, path.suffix)
        assert is_temp(temp)
        temp.write_bytes(b"half")
        assert not path.exists()
    assert names(path.parent) == ["a.bin"]
    atomic_write(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_path(path) as temp:
            temp.write_text("new")
            raise error

    with pytest.raises(error):
        interrupted()
    assert names(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_says_what_is_needed_and_free(tmp_path, monkeypatch, number):
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000))
    with pytest.raises(OutputError, match="needs 12,345 bytes, free 5,000 bytes; make room") as error:
        atomic_write(tmp_path / "a.bin", bytes(12_345))
    assert str(tmp_path / "a.bin") in str(error.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.EROFS, "read-only"), (errno.EACCES, "no permission"), (errno.EIO, os.strerror(errno.EIO))],
)
def test_other_failures_say_why(tmp_path, monkeypatch, number, message):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match=message):
        atomic_write(tmp_path / "a.bin", b"")
    assert names(tmp_path) == []


def test_something_else_in_its_place(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("I am a file")
    with pytest.raises(OutputError, match="a folder stands in its place"):
        atomic_write(tmp_path / "folder", b"x")
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "a"):
        with pytest.raises(OutputError, match="a file stands where a folder is needed"):
            atomic_write(path, b"x")
    with pytest.raises(OutputError, match="too long"):
        atomic_write(tmp_path / ("a." + 300 * "b"), b"x")
    assert names(tmp_path) == ["file", "folder"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(OutputError, match=r"a\.bin"), atomic_path(tmp_path / "a.bin"):
        pass


def test_sweeping_takes_only_what_dead_processes_left(tmp_path):
    code = "import os, sys; from scenelift.files import *\n"
    code += "with atomic_path(Path(sys.argv[1])) as temp:\n temp.write_text('half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], check=False)
    (dead,) = tmp_path.iterdir()
    other_machine = tmp_path / re.sub(r"tmp\.\w+", "tmp.00000000", dead.name)
    abandoned = tmp_path / re.sub(r"tmp\.\w+", "tmp.11111111", dead.name)
    unknown = tmp_path / ".scenelift-tmp.x"
    for path in (other_machine, abandoned, unknown, tmp_path / "result.txt"):
        path.write_text("x")
    two_days_ago = time.time() - 2 * 86400
    os.utime(abandoned, (two_days_ago, two_days_ago))
    os.utime(tmp_path / "result.txt", (two_days_ago, two_days_ago))
    with atomic_path(tmp_path / "b.txt") as alive:
        alive.write_text("x")
        assert set(sweep_temp_files(tmp_path)) == {dead, abandoned}
    assert set(names(tmp_path)) == {other_machine.name, unknown.name, "b.txt", "result.txt"}
    assert sweep_temp_files(tmp_path / "missing") == []


# --- JSON ----------------------------------------------------------------------------------------------


def test_json_round_trip_keeps_order(tmp_path):
    path, value = tmp_path / "a.json", {"b": [1, 2.5, None, True], "a": {"é": "\ud800 \u4e2d"}}
    write_json(path, value)
    assert read_json(path) == value
    assert list(read_json(path)) == ["b", "a"]
    assert path.read_text().endswith("}\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_json(path) == value


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": -float("inf")}])
def test_json_has_no_nan(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"{", b'{"a": 1', b"\xff\xfe", b"[" * 100_000, b"nothing"])
def test_damaged_json_names_the_file(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"expected JSON in .*a\.json, found"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("read", [read_json, read_rgb, read_depth_png, read_ply_points])
def test_missing_empty_and_folder(tmp_path, read):
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    for name, message in [
        ("missing", "no such file"),
        ("empty", "an empty file"),
        ("folder", "cannot be read"),
    ]:
        with pytest.raises(DataError, match=f"{name}.*{message}"):
            read(tmp_path / name)


# --- images --------------------------------------------------------------------------------------------


def test_png_round_trips(tmp_path, rgb, depth):
    path = tmp_path / "a.png"
    write_png(path, rgb)
    assert np.array_equal(read_rgb(path), rgb)
    assert read_rgb(path).flags.writeable
    write_png(path, depth[:, ::2])
    found = read_depth_png(path)
    assert found.dtype == np.uint16
    assert np.array_equal(found, depth[:, ::2])
    write_png(path, rgb[..., 0])
    assert np.array_equal(read_rgb(path), np.repeat(rgb[..., :1], 3, axis=2))
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("colours", [1, 2, 3, 16, 17, 255, 256])
def test_palette_keeps_every_label_and_shows_its_colour(tmp_path, colours):
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    palette = np.random.default_rng(0).integers(1, 256, (colours, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", labels, palette)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.array(image), labels)
    shown = np.zeros((256, 3), np.uint8)
    shown[:colours] = palette
    assert np.array_equal(read_rgb(tmp_path / "a.png"), shown[labels])


def test_jpeg_is_close(tmp_path):
    ramp = np.stack([*np.meshgrid(np.arange(64), np.arange(48)), np.full((48, 64), 90)], axis=2) * 2
    write_jpeg(tmp_path / "a.jpg", ramp.astype(np.uint8))
    found = read_rgb(tmp_path / "a.jpg")
    assert found.shape == (48, 64, 3)
    assert np.abs(found.astype(int) - ramp).mean() < 3
    write_jpeg(tmp_path / "b.jpg", ramp.astype(np.uint8), quality=20)
    assert (tmp_path / "b.jpg").stat().st_size < (tmp_path / "a.jpg").stat().st_size


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_grey_palette_and_alpha_become_rgb_without_a_warning(tmp_path, rgb, mode):
    image = Image.fromarray(rgb).convert(mode)
    image.save(tmp_path / "a.png", **({"transparency": b"\x00\x80"} if mode == "P" else {}))
    expected = np.array(image.convert("RGB"))
    assert np.array_equal(read_rgb(tmp_path / "a.png"), expected)


def test_exif_orientation_is_not_applied(tmp_path, rgb):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=exif)
    assert read_rgb(tmp_path / "a.jpg").shape == rgb.shape


@pytest.mark.parametrize(("suffix", "idle_end"), [("jpg", 2), ("png", 4)])
def test_truncated_images_are_errors_never_grey(tmp_path, rgb, suffix, idle_end):
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    path = tmp_path / f"a.{suffix}"
    (write_jpeg if suffix == "jpg" else write_png)(path, rgb)
    content = path.read_bytes()
    needed = len(content) - idle_end  # the rest is an end mark without pixels
    for length in [*range(0, needed, 7), *range(needed - 30, needed)]:
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=rf"a\.{suffix}"):
            read_rgb(path)


def test_every_flipped_bit_of_a_depth_png_is_found(tmp_path, depth):
    path = tmp_path / "a.png"
    write_png(path, depth)
    content = path.read_bytes()
    end_chunk = len(content) - 12  # holds nothing
    for position in range(end_chunk):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.png"):
            read_depth_png(path)


def test_what_is_no_image(tmp_path, rgb):
    (tmp_path / "a.png").write_text("<html>not found</html>")
    Image.fromarray(rgb).save(tmp_path / "b.png", format="BMP")
    for name in ("a.png", "b.png"):
        with pytest.raises(DataError, match="found a file that begins with"):
            read_rgb(tmp_path / name)


def test_wrong_kinds_of_image_say_what_was_found(tmp_path, rgb, depth):
    write_png(tmp_path / "depth.png", depth)
    with pytest.raises(DataError, match=r"8-bit colour.*16-bit grey, as in depth"):
        read_rgb(tmp_path / "depth.png")
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.jpg")
    with pytest.raises(DataError, match="mode CMYK"):
        read_rgb(tmp_path / "cmyk.jpg")
    write_png(tmp_path / "rgb.png", rgb)
    write_png(tmp_path / "grey.png", rgb[..., 0])
    write_png(tmp_path / "palette.png", rgb[..., 0], rgb[0])
    write_jpeg(tmp_path / "a.jpg", rgb)
    for name, found in [
        ("rgb.png", "8-bit RGB"),
        ("grey.png", "8-bit grey"),
        ("palette.png", "8-bit palette"),
    ]:
        with pytest.raises(DataError, match=f"16-bit grey PNG.*{name}, found {found}"):
            read_depth_png(tmp_path / name)
    with pytest.raises(DataError, match="found a JPEG"):
        read_depth_png(tmp_path / "a.jpg")


def test_images_that_unpack_to_gigabytes_are_refused_unopened(tmp_path, monkeypatch, rgb):
    write_png(tmp_path / "a.png", rgb)
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = (50_000).to_bytes(4, "big") * 2
    content[29:33] = zlib_crc(content[12:29])
    (tmp_path / "a.png").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="found 50000 × 50000; scale it down"):
            read_rgb(tmp_path / "a.png")
    write_png(tmp_path / "b.png", rgb)
    monkeypatch.setattr(image_files, "MAX_PIXELS", 13 * 17 - 1)
    with pytest.raises(DataError, match="at most 220 pixels"):
        read_rgb(tmp_path / "b.png")


def zlib_crc(data: bytes) -> bytes:
    import zlib

    return zlib.crc32(data).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("array", "palette"),
    [
        (np.zeros((2, 2), np.float32), None),
        (np.zeros((2, 2), np.int64), None),
        (np.zeros((2, 2, 4), np.uint8), None),
        (np.zeros((2, 2, 3), np.uint16), None),
        (np.zeros((0, 2), np.uint8), None),
        (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3), np.uint8)),
        (np.zeros((2, 2), np.uint16), np.zeros((2, 3), np.uint8)),
        (np.zeros((2, 2), np.uint8), np.zeros((257, 3), np.uint8)),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 4), np.uint8)),
    ],
)
def test_arrays_that_are_no_images_are_value_errors(tmp_path, array, palette):
    with pytest.raises(ValueError, match="found"):
        write_png(tmp_path / "a.png", array, palette)
    with pytest.raises(ValueError, match="found"):
        write_jpeg(tmp_path / "a.jpg", array if array.shape != (2, 2, 3) else array.astype(np.int32))
    assert names(tmp_path) == []


# --- point clouds --------------------------------------------------------------------------------------


def test_point_cloud_round_trip_and_damage(tmp_path, rgb):
    path, colours = tmp_path / "a.ply", rgb.reshape(-1, 3)
    points = np.random.default_rng(0).normal(size=colours.shape).astype(np.float32)
    write_ply_points(path, points, colours, {"label": colours[:, 0]})
    found_points, found_rgb = read_ply_points(path)
    assert np.array_equal(found_points, points)
    assert np.array_equal(found_rgb, colours)
    write_ply_points(path, points, None)
    assert read_ply_points(path)[1] is None
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"a\.ply.*truncated"):
        read_ply_points(path)
    assert names(tmp_path) == ["a.ply"]


# --- names ---------------------------------------------------------------------------------------------

any_text = (
    st.text(max_size=200) | st.text(alphabet="ab./\\ -_\x00\n", max_size=6) | st.text("ab/", max_size=3)
)


@settings(deadline=None, max_examples=50)
@given(st.lists(any_text, unique=True, max_size=20))
def test_safe_names_are_safe_stable_and_distinct(texts):
    safe = [safe_name(text) for text in texts]
    assert len(set(safe)) == len(safe)
    for name in safe:
        assert 0 < len(name.encode()) <= 120
        assert not re.search(r"[/\\\x00-\x1f\x7f:*?\"<>| ]", name)
        assert name[0] not in ".-"
        assert name[-1] != "."
        assert safe_name(name) == name


def test_safe_names_stay_readable(tmp_path):
    for text in ("frame-000012.color", "scene0000_00", "küche", "部屋"):
        assert safe_name(text) == text
    assert safe_name("living room").startswith("living_room-")
    assert safe_name("..").startswith("unnamed-")
    assert safe_name("").startswith("unnamed-")
    assert safe_name("../etc/passwd").startswith("_etc_passwd-")
    assert (
        len({safe_name(text) for text in ("a b", "a/b", "a_b", "a\\b", "\udc80", 130 * "a", 131 * "a")}) == 7
    )
    for text in ("x" * 1000, "\u4e2d" * 1000, "a\x00b", "\udc80"):
        atomic_write(tmp_path / (safe_name(text) + ".safetensors"), json.dumps(text).encode())
    assert len(names(tmp_path)) == 4


def test_a_note_that_is_damaged_counts_as_none_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "note.json"
    assert files.read_note(path, "it is made again") == {}
    files.write_sealed(path, {"digest": "d", "iou": 0.3})
    assert files.read_note(path, "it is made again") == {"digest": "d", "iou": 0.3}
    assert not caplog.records
    path.write_text(path.read_text().replace("0.3", "0.4"))
    assert files.read_note(path, "it is made again") == {}
    assert "it is made again" in caplog.text
    assert str(path) in caplog.text
