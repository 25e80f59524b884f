"""Embeddings of points and pixels in the space of the text, as safetensors: for words that no run has asked.

Their dot product with the text embedding of a word, by the same label teacher, is that word's score.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from scenelift.classes import ClassTable
from scenelift.config import Config
from scenelift.errors import ConfigError
from scenelift.files import atomic_write, safe_name
from scenelift.formats.base import Format
from scenelift.scenes import SceneSource
from scenelift.types import Frame, Prediction, Scene


class _Embeddings(Format):
    @classmethod
    def check(cls, source: SceneSource, classes: ClassTable, config: Config) -> None:
        """Only networks embed."""
        if config.predict.source not in ("networks", "fusion+networks"):
            raise ConfigError(
                "--as embeddings: expected a run whose networks answer, found "
                f"predict.source={config.predict.source}; export a recipe that trains"
            )

    def _write(self, path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        text = self.target.predictor.text_embeddings()
        about = {"classes": json.dumps(self.target.classes.names, ensure_ascii=False)}
        whole = {name: np.ascontiguousarray(array) for name, array in {**arrays, "text": text}.items()}
        atomic_write(path, save(whole, about))


class PointEmbeddings(_Embeddings):
    """``<scene>/embeddings.safetensors``.

    ``embeddings`` (N, dim) float16, unit length; ``points`` (N, 3) float32, metres; ``text`` (C, dim)
    float32, those of the run's classes, whose names are the JSON list ``classes`` of the header.
    """

    wants_points = True

    def places(self, scene: str) -> tuple[Path, ...]:
        """The file."""
        return (self.target.out / safe_name(scene) / "embeddings.safetensors",)

    def points(self, scene: Scene, prediction: Prediction) -> None:
        """Write the cloud's embeddings."""
        found = self.target.predictor.point_embeddings(scene)
        self._write(
            self.places(scene.name)[0],
            {"embeddings": found.astype(np.float16), "points": scene.points_world},
        )


class PixelEmbeddings(_Embeddings):
    """``<scene>/embeddings/<frame>.safetensors``: as `PointEmbeddings`, without ``points``.

    ``embeddings`` (dim, h, w) float16, at the 2D network's own stride; cells cover the image evenly.
    """

    wants_frames = True

    def places(self, scene: str) -> tuple[Path, ...]:
        """The folder."""
        return (self.target.out / safe_name(scene) / "embeddings",)

    def frame(self, scene: Scene, frame: Frame, prediction: Prediction) -> None:
        """Write a frame's embeddings."""
        found = self.target.predictor.frame_embeddings(frame)
        path = self.places(scene.name)[0] / f"{safe_name(frame.name)}.safetensors"
        self._write(path, {"embeddings": found.astype(np.float16)})
