"""Sends clouds to the browser: coarse first, and a newer wish at once ends the sending of an older one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np
import viser

from scenelift.errors import SceneLiftError
from scenelift.types import F32, I64, U8, Bool

_log = logging.getLogger(__name__)

Painted = tuple[U8, Bool]
"""Colours of all points, and which are drawn."""


class CloudSender:
    """The cloud in the browser, in parts (`scenelift.viewer.detail`). One thread of its own does the sending.

    A part whose points stay is sent as colours alone, 3 bytes a point; one of which other points are drawn is
    sent anew, 15 bytes a point.

    Args:
        server: of viser.
        failed: told why a picture could not be made; empty when the next one could.
    """

    def __init__(self, server: viser.ViserServer, failed: Callable[[str], None]) -> None:
        self._server, self._failed = server, failed
        self._changed = threading.Condition()
        self._wish: tuple[F32, Sequence[I64], float, Callable[[], Painted]] | None = None
        self._busy = self._ended = False
        self._cloud: F32 | None = None
        self._sent: list[tuple[viser.PointCloudHandle | None, Bool]] = []
        self._thread = threading.Thread(target=self._run, name="cloud sender", daemon=True)
        self._thread.start()

    def show(self, points: F32, parts: Sequence[I64], size_m: float, paint: Callable[[], Painted]) -> None:
        """Wish for a picture; returns at once.

        Args:
            points: (N, 3) float32.
            parts: indices of the points of each part.
            size_m: of a point.
            paint: gives the colours; called in the sender's thread, and may take its time.
        """
        with self._changed:
            self._wish = points, parts, size_m, paint
            self._changed.notify_all()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until everything wished for is sent; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._wish is None and not self._busy, timeout_s)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._wish is not None or self._ended)
                if self._ended:
                    return
                assert self._wish is not None
                wish, self._wish, self._busy = self._wish, None, True
            try:
                self._send(*wish)
                self._failed("")
            except SceneLiftError as error:
                self._failed(str(error))
            except Exception as error:  # the thread has to live on, and the user to know
                _log.exception("the picture could not be made")
                self._failed(f"{type(error).__name__}: {error}")

    def _send(self, points: F32, parts: Sequence[I64], size_m: float, paint: Callable[[], Painted]) -> None:
        colors, drawn = paint()
        if points is not self._cloud:
            for number in range(len(self._sent)):
                self._drop(number)
            self._sent, self._cloud = [], points
        for number, part in enumerate(parts):
            if self._wish is not None or self._ended:  # someone wants to see something else
                return
            kept = drawn[part]
            if number == len(self._sent):
                self._sent.append((None, kept))
            handle, known = self._sent[number]
            if not kept.any():  # browsers do not take clouds of no points
                self._drop(number)
            elif handle is not None and np.array_equal(known, kept):
                handle.colors, handle.point_size = colors[part[kept]], size_m
            else:
                added = self._server.scene.add_point_cloud(
                    f"/cloud/{number}",
                    points[part[kept]],
                    colors[part[kept]],
                    point_size=size_m,
                    point_shape="rounded",
                    point_shading="flat",
                    precision="float32",
                )
                self._sent[number] = added, kept
            self._server.flush()

    def _drop(self, number: int) -> None:
        handle, kept = self._sent[number]
        if handle is not None:
            handle.remove()
        self._sent[number] = None, kept
