"""What is kept of a frame and of a scene: under which key, computed how, packed how.

A key names all that a result depends on and nothing else: the bytes of the image, a teacher's identity, and
the settings. When and in which process something is computed is `annotate`'s to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scenelift.annotations import FrameKeys, read_arrays, read_pairs
from scenelift.cache import JSON, Cache, Key, array_digest, cache_key
from scenelift.classes import ClassTable
from scenelift.config import PairingConfig, PseudoLabelConfig
from scenelift.labels import pseudo_labels
from scenelift.losses import sampled_cells, share_of_image
from scenelift.pairing import pair_points
from scenelift.teachers import LabelTeacher, MaskTeacher
from scenelift.types import F16, F32, Frame, Masks, Pairs, Scene

_FIELDS = ("features", "labels", "masks", "mask_features")
"""Of `FrameKeys`."""


@dataclass(eq=False)
class Job:
    """A frame on its way through `annotate`.

    Attributes:
        name: ``scene/frame``.
        image: digest of the pixels.
        size: (H, W) in pixels.
        keys: where its answers go.
        whole: where mask features are kept as the teacher gave them; ``keys.mask_features`` unless paired.
        pairs: key of its scene's pairs and the frame's index in it, where features are kept for those only.
        missing: fields of ``keys`` that the cache does not have.
        read: reads the frame.
        frame: its pixels, as long as they are needed.
        pixel_uv: (p, 2) float32 pixels of its pairs, as long as they are needed.
        asked: whether a teacher was asked about it.
    """

    name: str
    image: str
    size: tuple[int, int]
    keys: FrameKeys
    whole: Key
    pairs: tuple[Key, int] | None
    missing: frozenset[str]
    read: Callable[[], Frame]
    frame: Frame | None
    pixel_uv: F32 | None
    asked: bool = False

    def pixels(self) -> Frame:
        """The frame, read again if it had to wait."""
        if self.frame is None:
            self.frame = self.read()
        return self.frame

    def rest(self) -> None:
        """Hold nothing large while it waits."""
        self.frame = self.pixel_uv = None


@dataclass(frozen=True, eq=False)
class Answers:
    """Keys and contents of all that is annotated. Its methods may be called from several threads.

    Attributes:
        cache: where results go.
        label_teacher: CLIP or its like; asked about words only.
        mask_teacher: SAM or its like; only its identity is used.
        text: (C, dim) float32 embeddings of the classes, from `text_embeddings`.
        pairing: method step 4.
        pseudo: from scores to labels.
        device: for the projection of points.
    """

    cache: Cache
    label_teacher: LabelTeacher
    mask_teacher: MaskTeacher
    text: F32
    pairing: PairingConfig
    pseudo: PseudoLabelConfig
    device: str

    def frame_keys(self, image: str, size: tuple[int, int], pixel_uv: F32 | None) -> tuple[FrameKeys, Key]:
        """Keys of a frame, and that of its whole mask features.

        Args:
            image: digest of its pixels.
            size: (H, W) in pixels.
            pixel_uv: (p, 2) its pairs, if mask features are kept for those only.
        """
        features = cache_key("label_features", image=image, teacher=self.label_teacher.identity)
        labels = cache_key(
            "labels",
            features=features.digest,
            text=array_digest(self.text),
            size=size,
            pseudo=self.pseudo.model_dump(),
        )
        of_masks = {"image": image, "teacher": self.mask_teacher.identity}
        whole = kept = cache_key("mask_features", **of_masks)
        if pixel_uv is not None:
            kept = cache_key("mask_features", sampled=pixel_uv, **of_masks)
        return FrameKeys(features, labels, cache_key("masks", **of_masks), kept), whole

    def missing(self, keys: FrameKeys) -> frozenset[str]:
        """Fields of the keys that the cache does not have."""
        return frozenset(name for name in _FIELDS if not self.cache.has(getattr(keys, name)))

    def needs_mask_teacher(self, job: Job) -> bool:
        """Whether the mask teacher has to be asked; not where its features only have to be thinned."""
        if "masks" in job.missing:
            return True
        return "mask_features" in job.missing and not self.cache.has(job.whole)

    def keep_labels(self, job: Job, features: F16 | None) -> None:
        """Keep the label teacher's answer if there is one, and make the labels of eq. 1 from it."""
        meta = {"frame": job.name, **_meta(self.label_teacher.identity, self.label_teacher.weights)}
        if features is not None:
            self.cache.put(job.keys.features, {"features": features}, meta, {"features": "grid"})
        if "labels" not in job.missing:
            return
        grid = features if features is not None else read_arrays(self.cache, job.keys.features)["features"]
        labels = pseudo_labels(
            torch.from_numpy(grid)[None],
            torch.from_numpy(self.text),
            job.size,
            threshold=self.pseudo.threshold,
            logit_scale=self.pseudo.logit_scale,
            denoise=self.pseudo.denoise,
        )[0]
        self.cache.put(job.keys.labels, {"labels": labels.byte().numpy()}, meta, {"labels": "map"})

    def keep_masks(self, job: Job, masks: Masks | None) -> None:
        """Keep the mask teacher's answer; without one, thin the features that are kept already."""
        meta = {"frame": job.name, **_meta(self.mask_teacher.identity, self.mask_teacher.weights)}
        if masks is not None and "masks" in job.missing:
            self.cache.put(job.keys.masks, {"ids": masks.ids}, meta, {"ids": "map"})
        if "mask_features" not in job.missing:
            return
        features = read_arrays(self.cache, job.whole)["features"] if masks is None else masks.features
        if job.pixel_uv is not None:
            features = keep_paired(features, job.pixel_uv, *job.size)
        self.cache.put(job.keys.mask_features, {"features": features}, meta, {"features": "grid"})

    def pair(self, scene: Scene, views: Sequence[str]) -> Key:
        """Pair a scene, unless the cache has it. ``views``: `view_digest` of its frames, in order."""
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

    def pairs(self, key: Key) -> Pairs:
        """Read the pairs of a scene."""
        return read_pairs(self.cache, key)


def text_embeddings(cache: Cache, teacher: LabelTeacher, classes: ClassTable) -> F32:
    """(C, dim) float32, unit length: the embedding of each class, from the cache where it has it.

    Classes are asked for one by one, so that an embedding does not depend on its neighbours in a batch.
    """
    rows = []
    for name, phrases in zip(classes.names, classes.prompts, strict=True):
        key = cache_key("text", teacher=teacher.text_identity, phrases=list(phrases))
        entry = cache.get(key)
        if entry is None:
            row = teacher.text_features([phrases])[0]
            meta = _meta(teacher.text_identity, teacher.weights)
            cache.put(key, {"text": row}, {"class": name, "phrases": list(phrases), **meta})
        else:
            row = entry.arrays["text"]
        rows.append(row)
    return np.stack(rows) if rows else np.zeros((0, teacher.dim), np.float32)


def keep_paired(features: F16, pixel_uv: F32, height: int, width: int) -> F16:
    """A feature grid in which only cells that pairs can sample are left; the others are 0.

    Args:
        features: (F, h, w) float16.
        pixel_uv: (p, 2) float32, where the frame sees points, in pixels.
        height: of the frame in pixels.
        width: of the frame in pixels.
    """
    position = share_of_image(torch.from_numpy(pixel_uv), height, width)
    sampled = sampled_cells(position, *features.shape[1:]).numpy()
    return np.where(sampled, features, np.float16(0))


def view_digest(frame: Frame) -> str:
    """What pairing depends on: the camera, the depth, the size; not the colours."""
    camera = [frame.intrinsics, frame.cam_from_world, np.array([frame.height, frame.width])]
    return array_digest(*camera, *([] if frame.depth_m is None else [frame.depth_m]))


def _meta(identity: str, weights: str) -> dict[str, JSON]:
    """What a manifest says of a teacher."""
    return {"teacher": identity, "weights": weights}
