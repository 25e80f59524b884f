"""The arrays of a scene, computed when they are first asked for and kept while the scene is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from threading import RLock
from typing import TypeVar

import numpy as np
import torch

from scenelift.classes import ClassTable
from scenelift.config import PredictConfig
from scenelift.errors import ConfigError
from scenelift.evaluate import run_ids
from scenelift.labels import vote_points
from scenelift.opened import Opened
from scenelift.pairing import pair_points
from scenelift.predict import NetworkPair, Predictor, teacher_config
from scenelift.query import Asker, Instance, Query, instances
from scenelift.query.things import edge_m
from scenelift.types import F32, I32, IGNORE, U8, Pairs, Prediction, Scene
from scenelift.viewer.state import COLORINGS, LABELS, Cloud, View

T = TypeVar("T")


class Layers:
    """One scene of a run, or of data alone. Its methods may be called from several threads.

    Args:
        opened: where it comes from.
        name: of the scene.

    Attributes:
        scene: the scene.
        classes: names and colours of all labels; no class where nothing has labels.
        origin: (3,) float64, the middle of the cloud, which is shown at 0: browsers compute in float32.
    """

    def __init__(self, opened: Opened, name: str) -> None:
        self._opened, self._lock = opened, RLock()
        self._kept: dict[str, object] = {}
        self._answer: tuple[int, Query, F32] | None = None
        self.scene: Scene = opened.source.scene(name)
        truth = opened.source.truth
        table = opened.classes if opened.classes is not None else None if truth is None else truth.classes
        self.classes = ClassTable((), (), np.zeros((0, 3), np.uint8)) if table is None else table
        points = self.scene.points_world
        self.origin = (points.min(0) + points.max(0)).astype(np.float64) / 2 if len(points) else np.zeros(3)

    @cached_property
    def colorings(self) -> tuple[str, ...]:
        """Keys of `COLORINGS` that exist here, in their order; none without a cloud."""
        if not len(self.scene.points_world):
            return ()
        trained = self._opened.trained
        has = {"color"}
        if trained is not None:
            has |= {"points", "confidence"} if trained.pair.knows_points else set()
            has |= {"lifted"} if len(self.scene.frames) else set()
        if self._annotated:
            has |= {"teacher", "refined"}
        if self._truth_labels is not None:
            has |= {"truth"}
            has |= {"error"} if has & set(LABELS) - {"truth"} else set()
        return tuple(key for key in COLORINGS if key in has)

    @property
    def judged(self) -> str | None:
        """The labels that the others are judged beside: the most telling ones there are."""
        return next((key for key in LABELS if key in self.colorings), None)

    @property
    def can_ask(self) -> bool:
        """Whether there are features to hold a phrase against."""
        return self._opened.trained is not None or self._annotated

    def labels(self, kind: str) -> U8:
        """(N,) uint8 labels of one of `LABELS`."""
        if kind == "truth":
            assert self._truth_labels is not None  # `colorings` says so
            return self._truth_labels
        if kind == "points":
            return self._points.labels
        if kind == "lifted":
            return self._once("lifted", self._lift)
        return self._once(kind, lambda: self._teacher(refined=kind == "refined").points(self.scene).labels)

    def cloud(self, view: View, similarity: F32 | None = None) -> Cloud:
        """What `state.paint` needs for a view."""
        labels = {kind: self.labels(kind) for kind in view.needed()}
        confidence = self._points.confidence if view.coloring == "confidence" else None
        return Cloud(self.points, self.height_m, self.scene.rgb, labels, confidence, similarity)

    @cached_property
    def points(self) -> F32:
        """(N, 3) float32 around `origin`."""
        return np.asarray(self.scene.points_world - self.origin, dtype=np.float32)

    @cached_property
    def height_m(self) -> F32:
        """(N,) float32 above the lowest point."""
        height = self.points @ self.scene.up_world.astype(np.float32)
        return np.asarray(height - height.min(initial=np.inf), dtype=np.float32)

    def ask_points(self, query: Query) -> F32 | None:
        """(N, Q + C) similarities of the points to `Query.asked`; ``None`` where there are none to ask."""
        return self._asker.points(self.scene, query.asked) if self._asker.can_ask_points(self.scene) else None

    def ask_frame(self, index: int, query: Query) -> F32:
        """(H, W, Q + C) similarities of the pixels of a frame to `Query.asked`; the last answer is kept."""
        with self._lock:
            known = self._answer
            if known is None or known[0] != index or known[1] is not query:
                known = index, query, self._asker.frame(self.scene.frames[index], query.asked)
                self._answer = known
            return known[2]

    def things(self, similarity: F32, threshold: float) -> tuple[I32, list[Instance]]:
        """What `scenelift.query.instances` finds in the cloud."""
        return instances(self.scene.points_world, similarity, threshold, edge=self._edge_m)

    @cached_property
    def _edge_m(self) -> float:
        return edge_m(self.scene.points_world)

    def frame_labels(self, index: int) -> dict[str, U8]:
        """By name, (H, W) labels of a frame: prediction, or what stands for it, and ground truth."""
        name, found = self.scene.frames.names[index], {}
        only = replace(self.scene, frames=self.scene.frames.only([name]))
        if self._opened.trained is not None:
            found["2D network"] = next(self._networks.frames(only))[1].labels
        elif self._annotated:
            found["refined labels"] = next(self._teacher(refined=True).frames(only))[1].labels
        truth = self._opened.source.truth
        known = None if truth is None or self._to_run is None else truth.frame(self.scene.name, name)
        if known is not None and self._to_run is not None:
            found["ground truth"] = self._to_run[known.labels]
        return found

    # --- where they come from ------------------------------------------------------------------------

    def _once(self, key: str, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            return self._kept[key]  # type: ignore[return-value]

    @property
    def _annotated(self) -> bool:
        annotations = self._opened.annotations
        return annotations is not None and self.scene.name in annotations.scenes

    @property
    def _pair(self) -> NetworkPair:
        assert self._opened.trained is not None  # `colorings` says so
        return self._opened.trained.pair

    @property
    def _asker(self) -> Asker:
        return self._opened.asker()

    @property
    def _points(self) -> Prediction:
        """Of the 3D network."""
        return self._once("points", lambda: self._networks.points(self.scene))

    @property
    def _networks(self) -> Predictor:
        config = self._opened.config.model_copy(update={"predict": PredictConfig()})
        return Predictor(config, self._pair, None)

    def _teacher(self, refined: bool) -> Predictor:
        return Predictor(teacher_config(self._opened.config, refined), None, self._opened.annotations)

    def _pairs(self) -> Pairs:
        annotations = self._opened.annotations
        if annotations is not None and self._annotated:
            return annotations.pairs(self.scene.name)
        config = self._opened.config.pairing
        return pair_points(self.scene.points_world, self.scene.frames, config, self._opened.device)

    def _lift(self) -> U8:
        """The 2D network's labels, carried to the points along the pairs; most views decide."""
        pairs = self._pairs()
        row, col = pairs.rowcol()
        seen = np.full(len(pairs), IGNORE, np.uint8)
        for index, (_, prediction) in enumerate(self._networks.frames(self.scene)):
            rows = pairs.of_frame(index)
            seen[rows] = prediction.labels[row[rows], col[rows]]
        index_of = torch.from_numpy(pairs.point_index)
        voted = vote_points(torch.from_numpy(seen), index_of, len(self.scene.points_world), len(self.classes))
        return np.asarray(voted.to(torch.uint8).numpy())

    @cached_property
    def _to_run(self) -> U8 | None:
        """Table from the ground truth's ids to those of the classes shown; ``None`` if they share none."""
        truth = self._opened.source.truth
        if truth is None or not len(self.classes):
            return None
        try:
            return run_ids(truth, self.classes)
        except ConfigError:
            return None

    @cached_property
    def _truth_labels(self) -> U8 | None:
        truth = self._opened.source.truth
        known = None if truth is None or self._to_run is None else truth.scene(self.scene.name)
        return None if known is None or self._to_run is None else self._to_run[known.labels]
