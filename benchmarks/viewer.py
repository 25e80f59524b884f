"""What a colour switch costs in the viewer: seconds and bytes, for clouds of up to 2 million points.

python benchmarks/viewer.py [--points 2000000]

A headless Chromium opens the page and counts what arrives on its socket. WebGL runs on the processor there,
so drawing costs more than anywhere else; told are the times until the coarse cloud and the last byte came.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fixtures_browser import ARGUMENTS
from fixtures_scenes import CLASSES, TinySource, TinyTruth
from scenelift.config import Config
from scenelift.opened import Opened
from scenelift.types import Frames, Scene, SceneTruth
from scenelift.viewer.app import Viewer
from scenelift.viewer.state import COLORINGS


def room(count: int) -> Opened:
    """A box room with noise on its walls, coloured and labelled at random in patches."""
    draw = np.random.default_rng(0)
    points = draw.uniform([-6, -4, 0], [6, 4, 3], (count, 3))
    side, axis = draw.integers(0, 2, count), draw.integers(0, 3, count)
    edges = np.array([[-6, -4, 0], [6, 4, 3]], float)
    points[np.arange(count), axis] = edges[side, axis] + draw.normal(0, 0.01, count)
    truth = TinyTruth()
    labels = (np.floor(points).astype(int).sum(1) % len(CLASSES)).astype(np.uint8)
    truth.scenes["room"] = SceneTruth(labels)
    rgb = draw.integers(60, 220, (count, 3), dtype=np.uint8)
    scene = Scene("room", points.astype(np.float32), rgb, Frames.of([]))
    return Opened("bench", Config(), TinySource([scene], truth), CLASSES)


class Socket:
    """What a page received: bytes, and when the last came."""

    def __init__(self) -> None:
        self.frames: list[tuple[float, int]] = []

    def listen(self, socket) -> None:  # type: ignore[no-untyped-def]
        socket.on("framereceived", lambda data: self.frames.append((time.perf_counter(), len(data))))

    def quiet(self, page, after_s: float = 3.0) -> None:  # type: ignore[no-untyped-def]
        """Wait until nothing has come for a while."""
        last = -1
        while last != len(self.frames):
            last = len(self.frames)
            page.wait_for_timeout(1000 * after_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=2_000_000)
    asked = parser.parse_args()
    import shutil

    from playwright.sync_api import sync_playwright

    opened = room(asked.points)
    start = time.perf_counter()
    viewer = Viewer(opened, "room", host="127.0.0.1", port=0, budget=asked.points)
    viewer.sender.wait()
    sizes = [len(part) for part in viewer._parts]
    print(f"{asked.points:,} points opened, ordered and queued in {time.perf_counter() - start:.2f} s")
    print(f"parts: {len(sizes)}, the first of {sizes[0]:,} points")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        page, socket = browser.new_page(), Socket()
        page.on("websocket", socket.listen)
        begin = time.perf_counter()
        page.goto(viewer.url)
        page.get_by_text("Colour by").wait_for(timeout=300_000)
        socket.quiet(page)
        print(_told("page opened", begin, socket, sizes))
        for name in ("truth", "color", "truth"):
            socket.frames.clear()
            begin = time.perf_counter()
            viewer._color_box.value = COLORINGS[name]
            viewer._coloring_chosen()
            viewer.sender.wait()
            made = time.perf_counter() - begin
            socket.quiet(page)
            print(
                _told(f"switch to {COLORINGS[name]} ({made:.2f} s to paint and queue)", begin, socket, sizes)
            )
        socket.frames.clear()
        begin = time.perf_counter()
        viewer._change(hidden=frozenset({0}))
        viewer.sender.wait()
        socket.quiet(page)
        print(_told("one class of four hidden", begin, socket, sizes))
        browser.close()
    viewer.close()


def _told(what: str, begin: float, socket: Socket, sizes: list[int]) -> str:
    total, coarse = 0, None
    for when, size in socket.frames:
        total += size
        if coarse is None and total >= 3 * sizes[0]:
            coarse = when - begin
    last = socket.frames[-1][0] - begin if socket.frames else 0.0
    return f"{what}: {total / 1e6:.1f} MB, coarse cloud after {coarse or 0:.2f} s, all after {last:.2f} s"


if __name__ == "__main__":
    main()
