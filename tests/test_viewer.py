"""``scenelift view`` in a real browser: what is drawn, and what it does when it is used."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

from fixtures_browser import PHONE, overflows
from fixtures_cli import Command
from fixtures_open import room_run
from scenelift.errors import ConfigError
from scenelift.opened import open_run
from scenelift.viewer import require_viser

viser = pytest.importorskip("viser", reason="needs the extra viewer")
from scenelift.viewer.app import Viewer  # noqa: E402

WINDOW = {"width": 760, "height": 480}
SCENE = {"x": 120, "y": 180, "width": 300, "height": 290}
"""Where the cloud is in it: left of the panel, below most of viser's notice, whose height varies.
Small, because the processor draws it."""
PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    run = room_run(tmp_path_factory.mktemp("viewer") / "run")
    shown = Viewer(open_run(run.path, "cpu"), "room_v0000", host="127.0.0.1", port=0, budget=4_000)
    yield shown
    shown.close()


def _pixels(page) -> np.ndarray:  # type: ignore[no-untyped-def]
    with Image.open(io.BytesIO(page.screenshot(clip=SCENE))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def _wait_for(page, wanted: Callable[[np.ndarray], bool]) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The first picture that is as wanted; software rendering on a busy machine takes its time."""
    end = time.monotonic() + PATIENCE_S
    while not wanted(pixels := _pixels(page)):
        assert time.monotonic() < end, "the picture never became as expected"
        page.wait_for_timeout(200)
    return pixels


def _drawn(pixels: np.ndarray) -> float:
    """Share of the pixels that are not background, which the lower left corner is."""
    return float((np.abs(pixels - pixels[-1, 0]).max(-1) > 8).mean())


def test_the_page_draws_the_cloud_and_does_what_it_is_told(viewer: Viewer, page, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    asked: list[str] = []
    page.set_default_timeout(1000 * PATIENCE_S)
    page.set_viewport_size(WINDOW)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(viewer.url)
    page.get_by_text("Colour by").wait_for()
    first = _wait_for(page, lambda pixels: _drawn(pixels) > 0.1)
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 100
    assert [url for url in asked if not url.startswith((viewer.url, "data:", "blob:"))] == []

    # another colouring, chosen on the page
    page.get_by_label("Colour by").click()
    page.get_by_role("option", name="3D network").click()
    wall = page.get_by_label("wall", exact=False).first
    wall.wait_for()
    labelled = _wait_for(page, lambda pixels: np.abs(pixels - first).max(-1).mean() > 5)
    assert page.get_by_text("mIoU in this scene").is_visible()
    assert viewer.view.coloring == "points"

    # no class, then all of them again
    page.get_by_role("button", name="none").click()
    empty = _wait_for(page, lambda pixels: _drawn(pixels) < 0.5 * _drawn(labelled))
    assert not page.get_by_label("floor", exact=False).first.is_checked()
    page.get_by_role("button", name="all").click()
    _wait_for(page, lambda pixels: _drawn(pixels) > 0.9 * _drawn(labelled) > _drawn(empty))

    # one class alone by its checkbox
    rows, _ = viewer.layers.classes.names, viewer.view
    present = [label for label in viewer._rows if label < len(rows)]
    box = page.get_by_label(rows[present[0]], exact=False).first
    box.click()
    page.wait_for_timeout(500)
    viewer.sender.wait(PATIENCE_S)
    assert viewer.view.hidden == {present[0]}
    box.click()

    # a query
    before = _pixels(page)
    text = page.get_by_text("Phrase").locator("xpath=following::input[1]")
    text.fill("the floor")
    text.press("Enter")
    page.get_by_text("the floor:").wait_for()
    _wait_for(page, lambda pixels: np.abs(pixels - before).max(-1).mean() > 5)
    assert viewer.view.phrase == "the floor"

    # its selection as a file
    viewer._threshold.value = viewer._threshold.min
    viewer._change(threshold=viewer._threshold.min)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save selection as PLY").click()
    download.value.save_as(tmp_path / "selection.ply")
    vertex = PlyData.read(str(tmp_path / "selection.ply"))["vertex"]
    assert len(vertex) == len(viewer.layers.points)
    assert "similarity" in vertex.data.dtype.names

    # words that mean nothing
    text.fill("gizmo")
    text.press("Enter")
    page.get_by_text("it has no language").wait_for()

    # the pictures of a frame, and a narrow window
    viewer._choose_frame("frame_001")
    page.get_by_text("similarity to").wait_for()
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    page.wait_for_timeout(500)
    assert not overflows(page)


def test_another_scene(viewer: Viewer) -> None:
    viewer._scene_box.value = "room_0000"
    viewer._scene_chosen()
    assert viewer.layers.scene.name == viewer.view.scene == "room_0000"
    assert viewer.view.phrase == ""
    assert viewer.sender.wait(PATIENCE_S)
    sent = sum(len(handle.points) for handle, _ in viewer.sender._sent if handle is not None)
    assert sent == min(len(viewer.layers.points), 4_000)


def test_a_newer_wish_ends_an_older_one(viewer: Viewer) -> None:
    sent: list[int] = []
    layers, parts = viewer.layers, [np.arange(start, start + 10) for start in range(0, 500, 10)]

    def paint(number: int) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        def painted() -> tuple[np.ndarray, np.ndarray]:
            sent.append(number)
            time.sleep(0.05)
            return np.full((len(layers.points), 3), number, np.uint8), np.ones(len(layers.points), bool)

        return painted

    for number in range(20):
        viewer.sender.show(layers.points, parts, 0.01, paint(number))
    assert viewer.sender.wait(PATIENCE_S)
    assert len(sent) < 20
    assert sent[-1] == 19
    assert {int(handle.colors[0, 0]) for handle, _ in viewer.sender._sent[:50] if handle is not None} == {19}
    viewer._repaint()


def test_a_picture_that_cannot_be_made_is_told(viewer: Viewer) -> None:
    def broken() -> tuple[np.ndarray, np.ndarray]:
        raise ConfigError("no such picture")

    viewer.sender.show(viewer.layers.points, [], 0.01, broken)
    assert viewer.sender.wait(PATIENCE_S)
    assert "no such picture" in viewer._note.content
    viewer._repaint()
    assert viewer.sender.wait(PATIENCE_S)
    assert viewer._note.content == ""


def test_it_listens_on_this_machine_alone(viewer: Viewer) -> None:
    psutil = pytest.importorskip("psutil")
    port = viewer.server.get_port()
    ours = psutil.Process().net_connections(kind="inet")
    assert {item.laddr.ip for item in ours if item.status == "LISTEN" and item.laddr.port == port} == {
        "127.0.0.1"
    }
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gone",), "gone"),
        (("synthetic", "--palette", "loud"), "--palette: expected safe or own, found 'loud'"),
        (("synthetic", "--scene", "attic"), "--scene: expected one of 60 scenes"),
        (("synthetic", "--host", "203.0.113.7"), "--host: expected an address of this machine"),
    ],
)
def test_wrong_use(scenelift: Command, arguments: tuple[str, ...], told: str) -> None:
    assert told in scenelift("view", *arguments).error


def test_without_viser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "scenelift\[viewer\]"'):
        require_viser()
