"""Run the teachers and the pairing over a data set, into the cache; and read the answers back.

Everything is content-addressed: the key of a result names the frame's bytes, the teacher's identity
and the settings. Work that was done is found again after a crash, in another run and by another user
of the same cache, and a new class list re-runs only the text side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scenelift.cache import Cache, Entry, Key, array_digest, cache_key
from scenelift.classes import ClassTable
from scenelift.config import PairingConfig
from scenelift.errors import CacheError, RunError
from scenelift.files import read_json, write_json
from scenelift.labels import pseudo_labels
from scenelift.pairing import pair_points
from scenelift.progress import Advance, Progress, silent
from scenelift.scenes import SceneSource
from scenelift.teachers import LabelTeacher, MaskTeacher
from scenelift.types import F16, F32, U8, Frame, Masks, Pairs, Scene

FRAMES_PER_BATCH = 8


@dataclass(frozen=True)
class FrameKeys:
    """Where the cache holds what the teachers said of a frame."""

    features: Key
    labels: Key
    masks: Key


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
    """

    cache: Cache
    text: F32
    scenes: Mapping[str, SceneKeys] = field(default_factory=dict)

    def pairs(self, scene: str) -> Pairs:
        """The pixel–point pairs of a scene."""
        arrays = self._entry(self._scene(scene).pairs).arrays
        return Pairs(arrays["frame_index"], arrays["point_index"], arrays["pixel_uv"])

    def labels(self, scene: str, frame: str) -> U8:
        """(H, W) uint8 pseudo labels of a frame, eq. 1, unrefined."""
        return self._entry(self._scene(scene).frames[frame].labels).arrays["labels"]

    def masks(self, scene: str, frame: str) -> Masks:
        """The mask teacher's answer for a frame."""
        arrays = self._entry(self._scene(scene).frames[frame].masks).arrays
        return Masks(arrays["ids"], arrays["features"])

    def features(self, scene: str, frame: str) -> F16:
        """(dim, h, w) float16 dense features of a frame from the label teacher."""
        return self._entry(self._scene(scene).frames[frame].features).arrays["features"]

    def digest(self, names: Sequence[str]) -> str:
        """Hex digest of the text and of all that is known of these scenes."""
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

    def _entry(self, key: Key) -> Entry:
        entry = self.cache.get(key)
        if entry is None:
            raise CacheError(
                f"cache {self.cache.root}: {key.stage} {key.digest} is missing or was damaged; "
                "run the same command with `annotate` to make it again"
            )
        return entry

    def save(self, path: Path) -> None:
        """Write the index as JSON."""
        scenes = {
            name: {
                "pairs": keys.pairs.digest,
                "frames": {
                    frame: [item.features.digest, item.labels.digest, item.masks.digest]
                    for frame, item in keys.frames.items()
                },
            }
            for name, keys in self.scenes.items()
        }
        write_json(path, {"schema": 1, "text": self.text.tolist(), "scenes": scenes})

    @classmethod
    def load(cls, path: Path, cache: Cache) -> Annotations:
        """Read an index written by `save`."""
        tree: dict[str, Any] = read_json(path)
        if tree.get("schema") != 1:
            raise RunError(f"{path}: expected schema 1, found {tree.get('schema')}; run annotate again")
        scenes = {
            name: SceneKeys(
                Key("pairs", item["pairs"]),
                {
                    frame: FrameKeys(Key("label_features", f), Key("labels", p), Key("masks", m))
                    for frame, (f, p, m) in item["frames"].items()
                },
            )
            for name, item in tree["scenes"].items()
        }
        return cls(cache, np.array(tree["text"], dtype=np.float32), scenes)


def annotate(
    source: SceneSource,
    names: Sequence[str],
    classes: ClassTable,
    label_teacher: LabelTeacher,
    mask_teacher: MaskTeacher,
    pairing: PairingConfig,
    cache: Cache,
    *,
    device: str = "cpu",
    progress: Progress = silent,
) -> Annotations:
    """Ask the teachers about every frame of these scenes, and pair pixels with points.

    What the cache holds already is not done again. Stopping loses at most the frames in flight.

    Args:
        source: where the scenes come from.
        names: the scenes.
        classes: what to segment.
        label_teacher: CLIP or its like.
        mask_teacher: SAM or its like.
        pairing: method step 4.
        cache: where results go.
        device: for the projection of points.
        progress: told after each scene, or after each frame where there is one scene only.

    Raises:
        DataError: a scene cannot be read, or a teacher cannot answer for it.
        CacheError: the cache cannot be written.
    """
    annotator = _Annotator(classes, label_teacher, mask_teacher, pairing, cache, device)
    if len(names) == 1:  # a capture: its frames are the units of work
        scene = source.scene(names[0])
        with progress("annotate", len(scene.frames), 0) as advance:
            return Annotations(cache, annotator.text, {scene.name: annotator.scene(scene, advance)})
    done: dict[str, SceneKeys] = {}
    with progress("annotate", len(names), 0) as advance:
        for name in names:
            done[name] = annotator.scene(source.scene(name))
            advance(name)
    return Annotations(cache, annotator.text, done)


class _Annotator:
    """The stages of one scene; holds what all scenes share."""

    def __init__(
        self,
        classes: ClassTable,
        label_teacher: LabelTeacher,
        mask_teacher: MaskTeacher,
        pairing: PairingConfig,
        cache: Cache,
        device: str,
    ) -> None:
        self.label_teacher, self.mask_teacher = label_teacher, mask_teacher
        self.pairing, self.cache, self.device = pairing, cache, device
        self.text = label_teacher.text_features(classes.prompts)
        self._text_digest = array_digest(self.text)

    def scene(self, scene: Scene, advance: Advance = lambda note: None) -> SceneKeys:
        """Everything about one scene: first its frames, then its pairs."""
        frames: dict[str, FrameKeys] = {}
        views: list[str] = []
        for batch in _batched(scene.frames):
            images = [array_digest(frame.image) for frame in batch]
            keys = [self._frame_keys(image, frame) for image, frame in zip(images, batch, strict=True)]
            self._label_features(batch, keys)
            self._labels(batch, keys)
            self._masks(batch, keys)
            frames.update((frame.name, key) for frame, key in zip(batch, keys, strict=True))
            views += [_view_digest(frame) for frame in batch]
            for frame in batch:
                advance(frame.name)
        return SceneKeys(self._pairs(scene, views), frames)

    def _frame_keys(self, image: str, frame: Frame) -> FrameKeys:
        features = cache_key("label_features", image=image, teacher=self.label_teacher.identity)
        size = [frame.height, frame.width]
        return FrameKeys(
            features,
            cache_key("labels", features=features.digest, text=self._text_digest, size=size),
            cache_key("masks", image=image, teacher=self.mask_teacher.identity),
        )

    def _label_features(self, batch: Sequence[Frame], keys: Sequence[FrameKeys]) -> None:
        missing = [i for i, key in enumerate(keys) if not self.cache.has(key.features)]
        answers = self.label_teacher.image_features([batch[i] for i in missing]) if missing else []
        for i, features in zip(missing, answers, strict=True):
            self.cache.put(keys[i].features, {"features": features}, {"frame": batch[i].key})

    def _labels(self, batch: Sequence[Frame], keys: Sequence[FrameKeys]) -> None:
        text = torch.from_numpy(self.text)
        for frame, key in zip(batch, keys, strict=True):
            if self.cache.has(key.labels):
                continue
            entry = self.cache.get(key.features)
            if entry is None:
                raise CacheError(
                    f"cache {self.cache.root}: {key.features} was damaged, or removed while it was used; "
                    "run the same command again to make it again"
                )
            features = torch.from_numpy(entry.arrays["features"])[None]
            labels = pseudo_labels(features, text, (frame.height, frame.width))[0]
            self.cache.put(key.labels, {"labels": labels.numpy().astype(np.uint8)}, {"frame": frame.key})

    def _masks(self, batch: Sequence[Frame], keys: Sequence[FrameKeys]) -> None:
        missing = [i for i, key in enumerate(keys) if not self.cache.has(key.masks)]
        answers = self.mask_teacher.masks([batch[i] for i in missing]) if missing else []
        for i, masks in zip(missing, answers, strict=True):
            arrays = {"ids": masks.ids, "features": masks.features}
            self.cache.put(keys[i].masks, arrays, {"frame": batch[i].key})

    def _pairs(self, scene: Scene, views: Sequence[str]) -> Key:
        # the colours as well: pairs do not depend on them, but what is trained from this scene does
        cloud = array_digest(scene.points_world, *([] if scene.rgb is None else [scene.rgb]))
        key = cache_key("pairs", cloud=cloud, views=list(views), config=self.pairing.model_dump())
        if not self.cache.has(key):
            pairs = pair_points(scene.points_world, scene.frames, self.pairing, self.device)
            arrays = {
                "frame_index": pairs.frame_index,
                "point_index": pairs.point_index,
                "pixel_uv": pairs.pixel_uv,
            }
            self.cache.put(key, arrays, {"scene": scene.name})
        return key


def _batched(frames: Sequence[Frame]) -> Iterator[list[Frame]]:
    for start in range(0, len(frames), FRAMES_PER_BATCH):
        yield list(frames[start : start + FRAMES_PER_BATCH])


def _view_digest(frame: Frame) -> str:
    """What pairing depends on: the camera, the depth, the size; not the colours."""
    camera = [frame.intrinsics, frame.cam_from_world, np.array([frame.height, frame.width])]
    return array_digest(*camera, *([] if frame.depth_m is None else [frame.depth_m]))
