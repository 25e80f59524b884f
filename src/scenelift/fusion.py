"""The label teacher's features fused over views, one a point: OpenScene's 2D fusion.

Peng et al., "OpenScene: 3D Scene Understanding with Open Vocabularies", CVPR 2023
(https://arxiv.org/abs/2211.15654), section 3.1: the mean over all views that see a point.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scenelift.annotations import Annotations
from scenelift.cache import Key, cache_key
from scenelift.losses import sample_maps, share_of_image
from scenelift.progress import Progress, silent
from scenelift.scenes import SceneSource
from scenelift.types import F16

CHUNK = 65_536
"""Rows of features in float32 at a time, beside the sums."""


def fuse(
    annotations: Annotations, source: SceneSource, names: Sequence[str], progress: Progress = silent
) -> None:
    """Put the fused features of these scenes into the cache, those that it does not have.

    Args:
        annotations: of the scenes.
        source: of their clouds.
        names: the scenes.
        progress: told of each scene that is finished.
    """
    left = [name for name in names if not annotations.cache.has(fused_key(annotations, name))]
    if not left:
        return
    with progress("fuse views", len(names), len(names) - len(left)) as advance:
        for name in left:
            fused_features(annotations, name, len(source.scene(name).points_world))
            advance(name)


def fused_key(annotations: Annotations, scene: str) -> Key:
    """Where the cache holds a scene's fused features."""
    keys = annotations.scenes[scene]
    frames = [frame.features.digest for frame in keys.frames.values()]
    return cache_key("fused", pairs=keys.pairs.digest, features=frames, dim=annotations.text.shape[1])


def fused_features(annotations: Annotations, scene: str, num_points: int) -> F16:
    """The mean of a point's features over the views that see it, from the cache or made now.

    A view's feature is sampled bilinearly at the pixel of the pair and brought to unit length; so is the
    mean. Frames are read one at a time: memory holds (N, dim) float32 and one frame.

    Args:
        annotations: of the scene.
        scene: its name.
        num_points: N.

    Returns:
        (N, dim) float16, unit length; 0 for points that no view sees.

    Raises:
        CacheError: features or pairs are missing or damaged, or the cache cannot be written.
    """
    key = fused_key(annotations, scene)
    entry = annotations.cache.get(key)
    if entry is None:
        fused = _fuse(annotations, scene, num_points)
        seen = np.any(fused != 0, axis=1)
        annotations.cache.put(key, {"features": fused[seen], "seen": seen}, {"scene": scene})
        return fused
    fused = np.zeros((num_points, annotations.text.shape[1]), np.float16)
    fused[entry.arrays["seen"]] = entry.arrays["features"]
    return fused


def _fuse(annotations: Annotations, scene: str, num_points: int) -> F16:
    pairs = annotations.pairs(scene)
    total = torch.zeros(num_points, annotations.text.shape[1])
    for index, frame in enumerate(annotations.scenes[scene].frames):
        rows = pairs.of_frame(index)
        if rows.start == rows.stop:
            continue
        grid = torch.from_numpy(annotations.features(scene, frame))[None].float()
        height, width = annotations.labels(scene, frame).shape
        position = share_of_image(torch.from_numpy(pairs.pixel_uv[rows]), height, width)
        point = torch.from_numpy(pairs.point_index[rows]).long()
        for here, there in zip(torch.split(point, CHUNK), torch.split(position, CHUNK), strict=True):
            seen = F.normalize(sample_maps(grid, torch.zeros_like(here), there), dim=1)
            total.index_add_(0, here, seen.nan_to_num(0.0))  # a teacher that says nothing has no voice
    fused: F16 = _unit(total).half().numpy()
    return fused


def voxel_features(fused: Sequence[F16], voxel: Tensor, num_voxels: int) -> Tensor:
    """The mean feature of the points of each voxel.

    Args:
        fused: of each cloud, (N, dim) from `fused_features`.
        voxel: (sum of N,) int64, the voxel of each point of all clouds; negative = cut away.
        num_voxels: V.

    Returns:
        (V, dim) float16, unit length; 0 for voxels of which no point is seen.
    """
    total = torch.zeros(num_voxels, fused[0].shape[1])
    for features, of_cloud in zip(fused, torch.split(voxel, [len(f) for f in fused]), strict=True):
        chunks = torch.split(torch.from_numpy(features), CHUNK), torch.split(of_cloud, CHUNK)
        for values, where in zip(*chunks, strict=True):
            kept = where >= 0
            total.index_add_(0, where[kept], values[kept].float())
    return _unit(total).half()


def _unit(rows: Tensor) -> Tensor:
    """Rows of unit length, in place; those that are 0 stay so."""
    return rows.div_(rows.norm(dim=1, keepdim=True).clamp_(min=1e-12))
