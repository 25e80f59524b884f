"""The page about a check: it is drawn for every kind of data, and points lie where they belong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from PIL import Image

from fixtures_capture import room_frames, write_capture
from fixtures_check import WITHOUT_DEPTH, room, street, with_matrices
from fixtures_scenes import TinySource
from scenelift.check import check_source, write_check, write_check_picture
from scenelift.check.report import CheckReport, FrameCoverage
from scenelift.config import CaptureData, Config
from scenelift.errors import DataError
from scenelift.scenes import Problem
from scenelift.scenes.capture import Capture
from scenelift.types import Frame, Frames, Scene


def page(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def count_near(picture, color, tolerance=40) -> int:
    return int((np.abs(picture - np.array(color)).max(-1) < tolerance).sum())


def test_json_and_page_of_a_street(tmp_path):
    source = street()
    report = check_source(source, WITHOUT_DEPTH)
    paths = write_check(tmp_path / "made" / "here", report, source, WITHOUT_DEPTH)
    tree = json.loads(paths[0].read_text())
    assert tree["ok"] is True
    assert len(tree["coverage"]) == 18
    assert set(tree["coverage"][0]) == {"scene", "frame", "points", "share"}
    assert [path.name for path in paths] == ["check.json", "check.jpg"]
    picture = page(paths[1])
    assert picture.shape[1] == 1320
    assert 500 < picture.shape[0] < 1500
    assert count_near(picture, (78, 121, 167)) > 5000  # the bars
    assert count_near(picture, (176, 32, 32)) > 500  # and the worst of them
    write_check_picture(tmp_path / "again.jpg", report, source, WITHOUT_DEPTH)
    assert (tmp_path / "again.jpg").read_bytes() == paths[1].read_bytes()


def test_points_are_drawn_where_they_fall(tmp_path):
    # A black image, one near point in its upper left quarter and two far ones: reddish dots there alone.
    intrinsics = np.array([[100.0, 0.0, 199.5], [0.0, 100.0, 149.5], [0.0, 0.0, 1.0]])
    frame = Frame("dark", "0", np.zeros((300, 400, 3), np.uint8), intrinsics, np.eye(4))
    points = np.float32([[-1.0, -0.75, 1.0], [10.0, 7.0, 10.0], [10.0, 7.0, 10.01]])
    source = TinySource([Scene("dark", points, None, Frames.of([frame]))], None)
    report = CheckReport({}, {}, (), (FrameCoverage("dark", "0", 3, 1.0),))
    write_check_picture(
        tmp_path / "page.jpg",
        report,
        source,
        WITHOUT_DEPTH.model_copy(
            update={"pairing": WITHOUT_DEPTH.pairing.model_copy(update={"min_depth_m": 0.1})}
        ),
    )
    picture = page(tmp_path / "page.jpg")
    dark = np.argwhere(picture.max(-1) < 12)
    (top, left), (bottom, right) = dark.min(0), dark.max(0)
    inside = picture[top : bottom + 1, left : right + 1]
    red = np.argwhere((inside[..., 0] > 90) & (inside[..., 2] < 70))
    scale = inside.shape[1] / 400
    assert len(red) > 0
    np.testing.assert_allclose(red.mean(0), np.array([74.5, 99.5]) * scale, atol=3)


def test_a_page_of_errors_says_what_to_do_and_shows_the_misfit(tmp_path):
    source = with_matrices(street(), np.linalg.inv)
    report = check_source(source, WITHOUT_DEPTH)
    assert not report.ok
    write_check(tmp_path, report, source, WITHOUT_DEPTH)
    assert count_near(page(tmp_path / "check.jpg"), (176, 32, 32)) > 1000
    assert json.loads((tmp_path / "check.json").read_text())["problems"][0]["severity"] == "error"


def test_rgbd_captures_and_generated_rooms(tmp_path):
    folder = write_capture(tmp_path / "room", room_frames(8))
    config = Config(data=CaptureData(path=str(folder), cloud_voxel_m=0.05))
    source = Capture(config.data)
    write_check(tmp_path / "out", check_source(source, config), source, config)
    assert page(tmp_path / "out" / "check.jpg").shape[0] > 700
    rooms = TinySource([room(0)], None)
    write_check(tmp_path / "rooms", check_source(rooms, Config()), rooms, Config())
    assert page(tmp_path / "rooms" / "check.jpg").shape[0] > 700
    assert {path.name for path in folder.iterdir()} == {"color", "depth", "pose", "intrinsics.txt"}


def test_images_alone_and_upright_ones(tmp_path):
    nothing = np.zeros((0, 3), np.float32)
    frames = [
        Frame(f"i{i}", "image", np.full((400, 90, 3), 20 * i, np.uint8), np.eye(3), np.eye(4))
        for i in range(8)
    ]
    source = TinySource([Scene(frame.scene, nothing, None, Frames.of([frame])) for frame in frames], None)
    write_check(tmp_path, check_source(source, WITHOUT_DEPTH), source, WITHOUT_DEPTH)
    assert 700 < page(tmp_path / "check.jpg").shape[0] < 900


def test_what_cannot_be_read_is_told_on_the_page(tmp_path):
    whole = next(iter(street(1).scenes.values()))

    def read(name):
        raise DataError(f"{name}: truncated or damaged; download it again")

    broken = TinySource([replace(whole, frames=Frames(whole.frames.names, read))], None)
    report = check_source(broken, WITHOUT_DEPTH)
    assert len(report.errors) == 6
    write_check(tmp_path / "a", report, broken, WITHOUT_DEPTH)

    config = Config(data=CaptureData(path=str(tmp_path / "nowhere")))
    source = Capture(config.data)
    write_check(tmp_path / "b", check_source(source, config), source, config)
    assert (tmp_path / "b" / "check.jpg").stat().st_size > 2000


def test_long_and_foreign_words_fit_on_the_page(tmp_path):
    problems = tuple(
        Problem("warning", "w" * 900 + f" {i} " + "日本語 × RᵀR " * 80, "x/" * 200, "m " * 900)
        for i in range(30)
    )
    report = CheckReport({"frames": 3}, {"fact": "f" * 3000}, problems)
    write_check_picture(tmp_path / "page.jpg", report, TinySource([], None), WITHOUT_DEPTH)
    assert page(tmp_path / "page.jpg").shape[0] < 2000
