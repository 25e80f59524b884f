"""Data made to do harm: a billion points, names that lead elsewhere or command a terminal, links, pipes."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import struct
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import plyfile
import pytest
from PIL import Image

from fixtures_capture import room_frames, write_capture
from fixtures_cli import Command
from fixtures_faults import attempt
from layouts_capture import write_redwood, write_seven_scenes, write_transforms, write_tum
from layouts_kitti import write_object
from layouts_lidar import las_bytes, some_points, write_lidar
from layouts_nuimages import write_images
from layouts_scannet import write_scannet
from scenelift import cli
from scenelift.classes import ClassTable
from scenelift.errors import ConfigError, DataError, SceneLiftError, printable
from scenelift.export import write_labelled_ply, write_legend
from scenelift.files import read_bytes, read_json
from scenelift.image_files import read_depth_png, read_rgb
from scenelift.options import Choices, resolve_config
from scenelift.progress import bars
from scenelift.report.data import ReportRow, terminal_table
from scenelift.scenes import SceneSource
from scenelift.scenes.clouds import read_cloud
from scenelift.scenes.depth_files import read_exr, read_npy
from scenelift.scenes.folders import looks_whole
from scenelift.scenes.label_images import read_image_shape, read_label_png
from scenelift.scenes.registry import open_source
from scenelift.scenes.tables import read_row

BILLION = 10**9


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail rather than hang."""

    def hang(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- a billion points ----------------------------------------------------------------------------------


def billions() -> dict[str, bytes]:
    xyz = "property float x\nproperty float y\nproperty float z\n"
    ply = "ply\nformat {} 1.0\nelement vertex {}\n" + xyz + "end_header\n"
    pcd = "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n"
    pcd += "WIDTH {0}\nHEIGHT 1\nPOINTS {0}\nDATA {1}\n"
    las = bytearray(las_bytes(*some_points(40), packed=False))
    laz = bytearray(las_bytes(*some_points(40), packed=True))
    for data in (las, laz):
        data[107:111] = struct.pack("<I", BILLION)
        if data[25] >= 4:  # LAS 1.4 counts in 64 bits as well
            data[247:255] = struct.pack("<Q", BILLION)
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": (BILLION, 3)}
    )
    some = np.zeros((4, 3), "<f4").tobytes()
    return {
        "binary.ply": ply.format("binary_little_endian", BILLION).encode() + some,
        "ascii.ply": ply.format("ascii", BILLION).encode() + b"0 0 0\n" * 4,
        "lists.ply": ply.format("binary_little_endian", 4).replace(
            "element vertex", f"element face {BILLION}\nproperty list uchar int i\nelement vertex"
        ).encode() + some,
        "binary.pcd": pcd.format(BILLION, "binary").encode() + some,
        "ascii.pcd": pcd.format(BILLION, "ascii").encode() + b"0 0 0\n" * 4,
        "packed.pcd": pcd.format(BILLION, "binary_compressed").encode()
        + struct.pack("<II", 12, 12 * BILLION % 2**32) + bytes(12),
        "a.las": bytes(las),
        "a.laz": bytes(laz),
        "a.npy": stream.getvalue() + some,
    }  # fmt: skip


@pytest.mark.parametrize("name", billions())
def test_a_billion_points_are_claimed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(billions()[name])
    tracemalloc.start()
    try:
        with within(20):
            _, error = attempt(lambda: read_cloud(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in error
    assert peak < 32 << 20


def test_a_file_with_a_billion_points_in_a_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse: no block on the disk, and more than the machine can hold."""
    path = tmp_path / "a.bin"
    with path.open("wb") as stream:
        stream.truncate(16 * BILLION)
    memory = {"SC_PHYS_PAGES": 1 << 20, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", memory.__getitem__)
    with within(20), pytest.raises(DataError, match="that fits in memory, found 16,000,000,000 bytes; thin"):
        read_cloud(path)


# --- pipes, devices, links -----------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], object]] = {
    "a.bin": read_cloud, "a.ply": read_cloud, "a.pcd": read_cloud, "a.las": read_cloud, "a.npy": read_npy,
    "a.png": read_rgb, "b.png": read_depth_png, "c.png": read_label_png, "d.png": read_image_shape,
    "a.exr": read_exr, "a.json": read_json, "b.json": lambda path: list(read_row(path, Any, 0, 5)),
    "a.jpg": looks_whole,
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "dangling"])
def test_what_is_no_file(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path.name, "dangling": "nowhere"}[kind])
    with within(20):
        found, error = attempt(lambda: READERS[name](path))
    assert found is False or (found is None and str(path) in error)


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "export": lambda folder: write_capture(folder, room_frames(3)),
    "seven_scenes": lambda folder: write_seven_scenes(folder, room_frames(3)),
    "tum": lambda folder: write_tum(folder, room_frames(3)),
    "transforms": lambda folder: write_transforms(folder, room_frames(3)),
    "redwood": lambda folder: write_redwood(folder, room_frames(3)),
    "lidar": write_lidar,
    "scannet": write_scannet,
    "kitti_object": lambda folder: write_object(folder, count=2),
    "images": write_images,
}


def opened(folder: Path, *settings: str) -> SceneSource:
    return open_source(resolve_config(Choices(str(folder), overrides=settings, device="cpu")).data)


def content(source: SceneSource) -> list[Any]:
    found = []
    for name in dict.fromkeys((*source.names("train"), *source.names("val"))):
        scene = source.scene(name)
        found.append((name, scene.points_world.shape, [(f.name, int(f.image.sum())) for f in scene.frames]))
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_links_in_circles_do_no_harm(tmp_path: Path, layout: str) -> None:
    """In every folder one to itself, one to the folder above, and one to nothing."""
    data = tmp_path / "data"
    LAYOUTS[layout](data)
    before = content(opened(data))
    assert before
    for folder in [data, *(path for path in data.rglob("*") if path.is_dir())]:
        (folder / "zz_self").symlink_to("zz_self")
        (folder / "zz_above").symlink_to("..")
        (folder / "zz_nothing").symlink_to("nowhere")
    with within(120):
        found, error = attempt(lambda: content(opened(data)))
    assert found == before or str(data) in error


def test_a_folder_that_is_a_link_to_itself(tmp_path: Path, scenelift: Command) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    for words in (["check", loop], ["evaluate", loop], ["cache", "ls", loop]):
        assert str(loop) in scenelift(*words).error


def test_links_out_of_the_folder_are_followed(tmp_path: Path) -> None:
    """Whoever set them up owns the folder: parts of large data sets lie on other disks."""
    data, elsewhere = write_capture(tmp_path / "data", room_frames(3)), tmp_path / "elsewhere"
    before = content(opened(data))
    (data / "color").rename(elsewhere)
    (data / "color").symlink_to(elsewhere)
    assert content(opened(data)) == before


# --- names that lead elsewhere -------------------------------------------------------------------------

OUTSIDE = [
    "../secret.png",
    "/etc/passwd",
    "color/../../secret.png",
    "..\\secret.png",
    "C:\\secret.png",
    "a\0.png",
]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Beside the data: an image that would fit."""
    path = tmp_path / "secret.png"
    Image.fromarray(room_frames(1)[0].image).save(path)
    return path


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("key", ["file_path", "depth_file_path", "ply_file_path"])
def test_transforms_may_not_name_files_elsewhere(tmp_path: Path, secret: Path, name: str, key: str) -> None:
    data = tmp_path / "data"
    write_transforms(data, room_frames(3))
    path = data / "transforms.json"
    tree = json.loads(path.read_text())
    (tree if key == "ply_file_path" else tree["frames"][1])[key] = name
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"expected names of files below .* in .*transforms\.json, found"):
        content(opened(data))


@pytest.mark.parametrize("name", OUTSIDE[:3])
def test_tum_lists_may_not_name_files_elsewhere(tmp_path: Path, secret: Path, name: str) -> None:
    data = tmp_path / "data"
    write_tum(data, room_frames(3))
    for path in data.rglob("rgb.txt"):
        lines = path.read_text().splitlines()
        lines[-1] = f"{lines[-1].split()[0]} {name}"
        path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"expected names of files below .* in .*rgb\.txt, found"):
        content(opened(data))


def test_calibrations_may_not_name_folders_elsewhere(tmp_path: Path) -> None:
    """Cameras are looked for among the folders that are there; a name is never a path."""
    data = tmp_path / "data"
    write_lidar(data)
    outside = tmp_path / "front"
    path = data / "calib.json"
    tree = json.loads(path.read_text())
    camera = next(iter(tree["cameras"]))
    (data / "cameras" / camera).rename(outside)
    tree["cameras"] = {"../../front": tree["cameras"][camera]}
    path.write_text(json.dumps(tree))
    found, error = attempt(lambda: content(opened(data)))
    assert error or not [frame for _, _, frames in found or [] for frame in frames]


# --- names that command --------------------------------------------------------------------------------

SLY = "a\x1b[31m\x1b]0;owned\x07\r\nend_header\n<script>alert(1)</script>[red]&\x9b2J\u202e"


@pytest.mark.parametrize("char", ["\x00", "\x07", "\x1b", "\x7f", "\x9b", "\u202e", "\u2066", "\ud800"])
def test_class_names_hold_no_control_characters(char: str) -> None:
    with pytest.raises(ConfigError, match="expected names of visible characters") as caught:
        ClassTable.from_names(["wall", f"flo{char}or"])
    assert char not in str(caught.value)
    with pytest.raises(ConfigError):
        ClassTable(("wall", f"a{char}"), (("wall",), ("a",)), np.zeros((2, 3), np.uint8))


def test_class_names_of_any_script_are_welcome() -> None:
    names = ["Wände", "стена", "壁", "میز\u200cها", "<b>&\"'", "[red]x", "🛋"]
    assert ClassTable.from_names(names).names == tuple(names)


def test_names_in_files_stay_names(tmp_path: Path) -> None:
    classes = ClassTable.from_names(["<script>&\"'", "end_header", "[/] ]]>"])
    points, labels = np.zeros((3, 3), np.float32), np.arange(3, dtype=np.uint8)
    write_labelled_ply(tmp_path / "a.ply", points, labels, None, classes)
    read = plyfile.PlyData.read(tmp_path / "a.ply")
    assert read["vertex"]["label"].tolist() == [0, 1, 2]
    assert read.comments[:3] == [f"class {i} {name}" for i, name in enumerate(classes.names)]
    write_legend(tmp_path / "legend.svg", classes)
    texts = [
        node.text for node in ElementTree.parse(tmp_path / "legend.svg").iter() if node.tag.endswith("text")
    ]
    assert set(classes.names) < set(texts)
    assert "script" not in {
        node.tag.rpartition("}")[2] for node in ElementTree.parse(tmp_path / "legend.svg").iter()
    }


def commands_in(text: str) -> list[str]:
    return [char for char in text if char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Cs")]


def test_names_on_a_terminal_command_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with bars(f"predict {SLY}", 1, 0) as advance:
        advance(SLY)
    told = capsys.readouterr().err
    assert "owned" in told
    assert commands_in(told) == []

    from rich.console import Console

    row = ReportRow(SLY, 0.5, None, 1.0, None, {}, {}, 1.0, None, None, [], [])
    stream = io.StringIO()
    Console(file=stream, width=200).print(terminal_table([row]))
    assert commands_in(stream.getvalue()) == []


def test_names_of_stages_in_a_cache_command_nothing(tmp_path: Path, scenelift: Command) -> None:
    bad = tmp_path / "cache" / "\x1b[31mmasks" / "ab"
    bad.mkdir(parents=True)
    (bad / "abcd.safetensors").write_bytes(b"x")
    for words in (["ls"], ["verify"]):
        ended = scenelift("cache", *words, tmp_path / "cache")
        assert "masks" in ended.out
        assert commands_in(ended.out + ended.err) == []


def test_warnings_command_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("scenelift", logging.WARNING, "", 0, "entry %s is damaged", (SLY,), None)
    told = cli._Printable().format(record)
    assert told == f"entry {printable(SLY)} is damaged"
    assert commands_in(told) == []


def test_scenes_with_sly_names_are_checked_and_told_in_plain_text(tmp_path: Path, scenelift: Command) -> None:
    data = tmp_path / "scene\x1b[31m[red]<b>"
    write_capture(data, room_frames(3))
    ended = scenelift("check", data, "--out", tmp_path / "check")
    assert commands_in(ended.out + ended.err) == []
    assert "\x1b" not in (tmp_path / "check" / "check.json").read_text()


def test_a_message_is_one_line_whatever_it_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a\nb\x1b[31m.json"
    for read in (lambda: read_json(path), lambda: read_bytes(path, "a file")):
        with pytest.raises(SceneLiftError) as caught:
            read()
        assert commands_in(printable(str(caught.value))) == []
        assert "\n" not in printable(str(caught.value))
