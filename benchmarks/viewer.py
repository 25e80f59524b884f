"""What a colour switch costs in the viewer: seconds and bytes, for clouds of up to 2 million points.

python benchmarks/viewer.py [--points 2000000]

A client that draws nothing counts what a browser would get: told are bytes, and the times until the coarse
cloud and until the last byte came. What drawing costs is up to the graphics card.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import viser
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

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


class Client:
    """Connects as a page does, and counts.

    Attributes:
        frames: when each message came, and its bytes.
    """

    def __init__(self, viewer: Viewer) -> None:
        url = viewer.url.replace("http", "ws")
        protocol = Subprotocol(f"viser-v{viser.__version__}")
        self._socket = connect(url, subprotocols=[protocol], max_size=None, compression=None)
        self.frames: list[tuple[float, int]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(ConnectionClosed):
            for data in self._socket:
                self.frames.append((time.perf_counter(), len(data)))

    def quiet(self, after_s: float = 3.0) -> None:
        """Wait until nothing has come for a while."""
        last = -1
        while last != len(self.frames):
            last = len(self.frames)
            time.sleep(after_s)

    def close(self) -> None:
        """Say goodbye."""
        self._socket.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=2_000_000)
    asked = parser.parse_args()
    opened = room(asked.points)
    start = time.perf_counter()
    viewer = Viewer(opened, "room", host="127.0.0.1", port=0, budget=asked.points)
    viewer.sender.wait()
    sizes = [len(part) for part in viewer._parts]
    print(f"{asked.points:,} points opened, ordered and queued in {time.perf_counter() - start:.2f} s")
    print(f"parts: {len(sizes)}, the first of {sizes[0]:,} points")
    begin = time.perf_counter()
    client = Client(viewer)
    client.quiet()
    print(_told("page opened", begin, client, 15 * sizes[0]))
    for name in ("truth", "color", "truth"):
        client.frames.clear()
        begin = time.perf_counter()
        viewer._color_box.value = COLORINGS[name]
        viewer._coloring_chosen()
        viewer.sender.wait()
        made = time.perf_counter() - begin
        client.quiet()
        print(_told(f"switch to {COLORINGS[name]} ({made:.2f} s to paint)", begin, client, 3 * sizes[0]))
    client.frames.clear()
    begin = time.perf_counter()
    viewer._change(hidden=frozenset({0}))
    client.quiet()
    print(_told("one class of four hidden", begin, client, 10 * sizes[0]))
    client.close()
    viewer.close()


def _told(what: str, begin: float, client: Client, coarse_bytes: int) -> str:
    total, coarse = 0, math.nan
    for when, size in client.frames:
        total += size
        if math.isnan(coarse) and total >= coarse_bytes:
            coarse = when - begin
    last = client.frames[-1][0] - begin if client.frames else math.nan
    return f"{what}: {total / 1e6:.1f} MB, coarse cloud after {coarse:.2f} s, all after {last:.2f} s"


if __name__ == "__main__":
    main()
