"""The annotations of a data set: an index into a cache, and how they are read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scenelift.cache import Cache, Key, cache_key
from scenelift.errors import CacheError, DataError, RunError
from scenelift.files import read_json, read_sealed, write_sealed
from scenelift.types import F16, F32, U8, U16, Masks, Pairs

FRAME_STAGES = ("label_features", "labels", "masks", "mask_features")
"""Stages of a frame, in the order of `FrameKeys`."""


@dataclass(frozen=True, slots=True)
class FrameKeys:
    """Where the cache holds what the teachers said of a frame."""

    features: Key
    labels: Key
    masks: Key
    mask_features: Key


@dataclass(frozen=True)
class SceneKeys:
    """Where the cache holds a scene's pairs, and the frames they refer to in order."""

    pairs: Key
    frames: Mapping[str, FrameKeys]


@dataclass(frozen=True)
class Annotations:
    """The annotations of a data set: an index into a cache, and the text embeddings.

    Attributes:
        cache: where the arrays lie.
        text: (C, dim) float32, unit length: the classes.
        scenes: keys by scene name.
        again: whether each entry is read many times, see `Cache.get`.
    """

    cache: Cache
    text: F32
    scenes: Mapping[str, SceneKeys] = field(default_factory=dict)
    again: bool = False

    def pairs(self, scene: str) -> Pairs:
        """The pixel–point pairs of a scene."""
        return read_pairs(self.cache, self._scene(scene).pairs, self.again)

    def labels(self, scene: str, frame: str) -> U8:
        """(H, W) uint8 pseudo labels of a frame, eq. 1, unrefined."""
        return read_arrays(self.cache, self._frame(scene, frame).labels, self.again)["labels"]

    def masks(self, scene: str, frame: str) -> Masks:
        """The mask teacher's whole answer for a frame; `mask_ids` alone reads a hundredth of it."""
        return Masks(self.mask_ids(scene, frame), self.mask_features(scene, frame))

    def mask_ids(self, scene: str, frame: str) -> U16:
        """(H, W) uint16 mask id of every pixel, 0 = uncovered."""
        return read_arrays(self.cache, self._frame(scene, frame).masks, self.again)["ids"]

    def mask_features(self, scene: str, frame: str) -> F16:
        """(F, h, w) float16 features from the mask teacher.

        With ``latent.features: paired``, cells that no pair of this frame can sample are 0.
        """
        return read_arrays(self.cache, self._frame(scene, frame).mask_features, self.again)["features"]

    def features(self, scene: str, frame: str) -> F16:
        """(dim, h, w) float16 dense features of a frame from the label teacher."""
        return read_arrays(self.cache, self._frame(scene, frame).features, self.again)["features"]

    def digest(self, names: Sequence[str]) -> str:
        """Hex digest of the text and of all that is known of these scenes.

        Mask features follow from what made the masks, and pairs read the same in them however they are kept.
        """
        keys = {
            name: [self._scene(name).pairs.digest, [[f.labels.digest, f.masks.digest] for f in frames]]
            for name in names
            if (frames := list(self._scene(name).frames.values()))
        }
        return cache_key("labels", text=self.text, scenes=keys).digest

    def _scene(self, scene: str) -> SceneKeys:
        if scene not in self.scenes:
            raise RunError(f"scene {scene} is not annotated; run `scenelift annotate` on this data set")
        return self.scenes[scene]

    def _frame(self, scene: str, frame: str) -> FrameKeys:
        return self._scene(scene).frames[frame]

    def save(self, path: Path) -> None:
        """Write the index as JSON."""
        scenes = {
            name: {
                "pairs": keys.pairs.digest,
                "frames": {frame: _digests(item) for frame, item in keys.frames.items()},
            }
            for name, keys in self.scenes.items()
        }
        write_sealed(path, {"schema": 3, "text": self.text.tolist(), "scenes": scenes})

    @classmethod
    def load(cls, path: Path, cache: Cache) -> Annotations:
        """Read an index written by `save`.

        Raises:
            DataError: missing or damaged.
            RunError: of another version.
        """
        tree: dict[str, Any] = read_json(path)
        schema = tree.get("schema") if isinstance(tree, dict) else None
        if schema not in (2, 3):
            raise RunError(f"{path}: expected schema 3, found {schema!r}; run annotate again")
        if schema == 3:  # 2 is the same without a checksum
            try:
                tree = read_sealed(path)
            except DataError as error:
                raise DataError(f"{error}; or run annotate again") from None
        scenes = {}
        for name, item in tree["scenes"].items():
            frames = {frame: FrameKeys(*map(Key, FRAME_STAGES, of)) for frame, of in item["frames"].items()}
            scenes[name] = SceneKeys(Key("pairs", item["pairs"]), frames)
        return cls(cache, np.array(tree["text"], dtype=np.float32), scenes)


def read_arrays(cache: Cache, key: Key, again: bool = False) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an entry that has to be there; ``again`` as for `Cache.get`.

    Raises:
        CacheError: it is not, or it was damaged.
    """
    entry = cache.get(key, again)
    if entry is None:
        raise CacheError(
            f"cache entry {cache.path(key)}: expected it as it was annotated, found it missing or damaged; "
            "run the same command again, or `annotate`, to make it again"
        )
    return entry.arrays


def read_pairs(cache: Cache, key: Key, again: bool = False) -> Pairs:
    """The pairs of a scene. Raises `CacheError` as `read_arrays` does."""
    arrays = read_arrays(cache, key, again)
    return Pairs(arrays["frame_index"], arrays["point_index"], arrays["pixel_uv"])


def _digests(keys: FrameKeys) -> list[str]:
    return [key.digest for key in (keys.features, keys.labels, keys.masks, keys.mask_features)]
