"""Annotated scenes for training, the most recently used in memory; no ground truth."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Generic, TypeVar

from scenelift.annotations import Annotations
from scenelift.errors import DataError
from scenelift.fusion import fused_features
from scenelift.scenes import SceneSource
from scenelift.types import F16, F32, I32, U8, U16, Scene

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class View:
    """A frame and what the teachers said of it, as stored; no ground truth.

    Attributes:
        image: (H, W, 3) uint8.
        labels: (H, W) uint8 pseudo labels.
        mask_ids: (H, W) uint16.
        targets: the teachers' feature grids, each (F, h, w) float16: those for eq. 7, then the one to distil.
        point_index: (p,) int32, points this frame sees.
        pixel_uv: (p, 2) float32, where it sees them.
    """

    image: U8
    labels: U8
    mask_ids: U16
    targets: tuple[F16, ...]
    point_index: I32
    pixel_uv: F32

    @property
    def nbytes(self) -> int:
        """Memory the arrays take."""
        own = self.image.nbytes + self.labels.nbytes + self.mask_ids.nbytes
        return own + self.point_index.nbytes + self.pixel_uv.nbytes + sum(t.nbytes for t in self.targets)


class _Recent(Generic[T]):
    """The most recently used items, up to a number of bytes; for several threads."""

    def __init__(self, max_bytes: int) -> None:
        self._items: OrderedDict[object, tuple[T, int]] = OrderedDict()
        self._left = max_bytes
        self._lock = Lock()

    def get(self, key: object, make: Callable[[], tuple[T, int]]) -> T:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key][0]
        item, size = make()  # others need not wait; whoever makes the same meanwhile gets the first one made
        with self._lock:
            if key not in self._items:
                self._items[key] = (item, size)
                self._left -= size
            self._items.move_to_end(key)
            found = self._items[key][0]
            while self._left < 0 and len(self._items) > 1:
                _, (_, freed) = self._items.popitem(last=False)
                self._left += freed
        return found


class SceneStore:
    """Reads annotated scenes, keeping the most recently used in memory; several threads may ask at once.

    Args:
        source: the scenes.
        names: those to train on.
        annotations: the teachers' answers about them.
        target: `LatentConfig.target`, or ``None`` when no features are wanted for eq. 7.
        max_bytes: memory to keep views and clouds in.
        distill: whether the label teacher's features are to be distilled.
    """

    def __init__(
        self,
        source: SceneSource,
        names: Sequence[str],
        annotations: Annotations,
        target: str | None,
        max_bytes: int = 2 << 30,
        distill: bool = False,
    ) -> None:
        if not names:
            raise DataError("training: expected at least one scene, found none in this split")
        self.names = tuple(names)
        self.distill = distill
        self._source, self._annotations = source, replace(annotations, again=True)
        self._latent = () if target is None else tuple(target.split("+"))
        self._scenes: _Recent[Scene] = _Recent(max_bytes // 2)
        self._opening = (
            Lock()
        )  # a source reads frames for several threads at once, but opens scenes one by one
        self._pairs: _Recent[Any] = _Recent(max_bytes // 4)
        self._views: _Recent[View] = _Recent(max_bytes // 4)

    def scene(self, name: str) -> Scene:
        """A scene; its cloud may come from memory."""

        def make() -> tuple[Scene, int]:
            with self._opening:
                scene = self._source.scene(name)
            return scene, scene.points_world.nbytes + (0 if scene.rgb is None else scene.rgb.nbytes)

        return self._scenes.get(name, make)

    def view(self, name: str, index: int) -> View:
        """Frame ``index`` of a scene with its annotations."""
        return self._views.get((name, index), lambda: self._read_view(name, index))

    def target_dim(self) -> int:
        """Channels of all latent targets together; 0 when none are wanted."""
        grids = self.view(self.names[0], 0).targets[: len(self._latent)]
        return sum(grid.shape[0] for grid in grids)

    def fused(self, name: str) -> F16:
        """(N, dim) float16, see `fused_features`; with ``distill`` only."""

        def read() -> tuple[F16, int]:
            features = fused_features(self._annotations, name, len(self.scene(name).points_world))
            return features, features.nbytes

        fused: F16 = self._pairs.get(("fused", name), read)
        return fused

    def _read_view(self, name: str, index: int) -> tuple[View, int]:
        frames = self.scene(name).frames
        frame = frames.names[index]

        def read_pairs() -> tuple[Any, int]:
            pairs = self._annotations.pairs(name)
            return pairs, pairs.frame_index.nbytes + pairs.point_index.nbytes + pairs.pixel_uv.nbytes

        pairs = self._pairs.get(name, read_pairs)
        rows = pairs.of_frame(index)
        view = View(
            frames.image(frame),
            self._annotations.labels(name, frame),
            self._annotations.mask_ids(name, frame),
            self._targets(name, frame),
            pairs.point_index[rows].copy(),  # a slice would keep the pairs of all frames in memory
            pairs.pixel_uv[rows].copy(),
        )
        return view, view.nbytes

    def _targets(self, name: str, frame: str) -> tuple[F16, ...]:
        """Only what is wanted is read: features are the largest part of a frame's annotations."""
        read = {"masks": self._annotations.mask_features, "labels": self._annotations.features}
        wanted = (*self._latent, *(["labels"] if self.distill else []))
        return tuple(read[kind](name, frame) for kind in wanted)
