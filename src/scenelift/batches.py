"""Scenes and annotations to training batches. No field of a batch can hold ground truth.

Randomness has no state: every draw of step t comes from a generator seeded with (seed, purpose, t), so a
run can go on at any step, in any process, and see what an uninterrupted one would have seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from scenelift.augment import PointTransform, draw_image_transform, draw_point_transform
from scenelift.config import AugmentConfig, Config
from scenelift.errors import ConfigError, DataError
from scenelift.frame_stream import prefetch
from scenelift.fusion import voxel_features
from scenelift.losses import share_of_image
from scenelift.models.voxels import scatter_mean, voxelize
from scenelift.orientation import upright
from scenelift.store import SceneStore, View
from scenelift.types import F16, U8, Scene

T = TypeVar("T")

# what a random stream is for; part of its seed
ORDER, VIEWS, SWITCH, LATENT, DROPOUT = range(5)


def stream(seed: int, purpose: int, *indices: int) -> np.random.Generator:
    """The random generator of one purpose and step."""
    return np.random.default_rng([seed, purpose, *indices])


@dataclass(frozen=True, eq=False)
class Batch:
    """One training step's data: B images, V voxels, P pairs. Labels are the label teacher's, unrefined.

    Attributes:
        images: (B, 3, H, W) float32 in [0, 1].
        labels: (B, H, W) int64 pseudo labels, eq. 1, following the images' transforms.
        mask_ids: (B, H, W) int32, 0 = uncovered; ids are per image.
        coords: (V, 4) int32 ``[scene of the batch, x, y, z]``.
        inputs: (V, C_in) float32.
        pair_image: (P,) int64, image of each pair.
        pair_row: (P,) int64, its pixel row.
        pair_col: (P,) int64, its pixel column.
        pair_voxel: (P,) int64, its voxel.
        pair_position: (P, 2) float32, where the pair lies in the *untransformed* frame, (x, y) as shares of
            its width and height: for `target_grids`.
        target_grids: each (B, F, h, w) float16, the teachers' features for eq. 7, of the whole frame.
        distill: empty, or what is distilled from the label teacher: its features (B, dim, h, w) float16 of
            the whole frames; (B, 2, 2) float32 from places in the images to those in the untransformed
            frames, as `ImageTransform.places`; (V, dim) float16, the unit feature of each voxel over all
            views of its points, 0 where no view sees any.
    """

    images: Tensor
    labels: Tensor
    mask_ids: Tensor
    coords: Tensor
    inputs: Tensor
    pair_image: Tensor
    pair_row: Tensor
    pair_col: Tensor
    pair_voxel: Tensor
    pair_position: Tensor
    target_grids: tuple[Tensor, ...]
    distill: tuple[Tensor, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            return tuple(move(item) for item in value)

        return Batch(**{item.name: move(getattr(self, item.name)) for item in fields(self)})


def steps_per_epoch(config: Config, num_scenes: int) -> int:
    """Steps of one epoch: the configured number, or one pass over the scenes."""
    return config.train.steps_per_epoch or max(1, -(-num_scenes // config.train.scenes_per_step))


def frames_a_scene(config: Config) -> int:
    """Frames drawn of each scene, where it has that many."""
    return max(1, round(config.train.frames_per_scene * config.train.frames_factor))


def draw_batch(store: SceneStore, config: Config, step: int) -> Batch:
    """The batch of a step: some scenes, some frames of each, each under its own random view.

    Raises:
        DataError: the scenes have no frame.
        ConfigError: frames differ in size and no common crop is configured, or their feature grids differ.
    """
    return draw_parts(store, config, step, 1, range(1))[0]


def draw_parts(store: SceneStore, config: Config, step: int, parts: int, own: range) -> list[Batch]:
    """Some parts of a step's batch, for devices that share it and for gradient accumulation.

    The scenes of the step are dealt to the parts in order. Everything random is drawn for all parts, whoever
    draws, so that together they hold what `draw_batch` gives; of the others' scenes nothing is read but the
    clouds, and these are voxelised only where ``train.max_points`` has to see them.

    Args:
        store: the scenes.
        config: the run.
        step: its number.
        parts: into how many the step is divided.
        own: numbers of the parts to return. A part may be without scenes, and without frames.

    Raises:
        DataError, ConfigError: as `draw_batch`.
    """
    rng = stream(config.seed, VIEWS, step)
    names = _scenes_of_step(store.names, config, step)
    clouds = [store.scene(name) for name in names]
    transforms = [draw_point_transform(config.augment, rng) for _ in clouds]
    dealt = [range(len(names))[of_part] for of_part in _deal(len(names), parts)]
    voxels = {}
    for number, members in enumerate(dealt):
        if number in own or config.train.max_points is not None:
            chosen = slice(members.start, members.stop)
            voxels[number] = _voxels(clouds[chosen], transforms[chosen], config, rng)
    views: list[list[tuple[Any, ...]]] = [[] for _ in dealt]
    total = 0
    firsts = []
    for number, members in enumerate(dealt):
        firsts.append(total)
        for place, scene in enumerate(members):
            frames = len(clouds[scene].frames)
            count = min(frames_a_scene(config), frames)
            for index in np.sort(rng.choice(frames, count, replace=False)):
                total += 1
                if number not in own:
                    draw_image_transform((1, 1), config.augment, rng)  # draws the same for every size
                    continue
                view = store.view(names[scene], int(index))
                _, _, voxel_of_point, starts = voxels[number]
                point = torch.from_numpy(view.point_index) + starts[place]
                voxel_of_pair = voxel_of_point.index_select(0, point)
                views[number].append(_transform(view, voxel_of_pair, config.augment, rng))
    if not total:
        raise DataError(f"training: expected frames in {', '.join(names)}, found none; leave such scenes out")
    factors = _jitter_factors(total, config.augment.color_jitter, rng)
    made = []
    for number in own:
        coords, inputs, voxel_of_point, _ = voxels[number]
        fused = [store.fused(names[scene]) for scene in dealt[number]] if store.distill else []
        cloud = (coords, inputs, voxel_of_point)
        here = None if factors is None else factors[:, firsts[number] : firsts[number] + len(views[number])]
        made.append(_assemble(store, config, views[number], cloud, fused, here))
    return made


def _deal(scenes: int, parts: int) -> list[slice]:
    """Consecutive scenes for each part, as evenly as can be."""
    edges = [scenes * part // parts for part in range(parts + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(edges)]


def _assemble(
    store: SceneStore,
    config: Config,
    views: Sequence[tuple[Any, ...]],
    cloud: tuple[Tensor, Tensor, Tensor],
    fused: Sequence[Any],
    jitter: Tensor | None,
) -> Batch:
    """One batch of transformed views and voxels."""
    coords, inputs, voxel_of_point = cloud
    if not views:
        return _without_frames(store, config, coords, inputs)
    images, labels, mask_ids, targets, row, column, voxel, position, places = zip(*views, strict=True)
    if len({picture.shape for picture in images}) > 1:
        raise ConfigError(
            "augment.crop: frames of different sizes cannot share a batch; set augment.crop=[height, width]"
        )
    if any(len({grid.shape for grid in grids}) > 1 for grids in zip(*targets, strict=True)):
        raise ConfigError(
            "latent.target: frames of different proportions have feature grids of different sizes, which "
            "cannot share a batch; set latent.weight=0 and distill.weight=0, or use one frame a step"
        )
    grids = [_stacked(of_frames) for of_frames in zip(*targets, strict=True)]
    distill: tuple[Tensor, ...] = ()
    if store.distill:
        of_voxels = voxel_features(fused, voxel_of_point, len(coords))
        distill = (grids.pop(), torch.from_numpy(np.stack(places)), of_voxels)
    return Batch(
        _pictures(images, jitter),
        torch.from_numpy(np.stack(labels)).long(),
        torch.from_numpy(np.stack(mask_ids).astype(np.int32)),
        coords,
        inputs,
        torch.arange(len(views)).repeat_interleave(torch.tensor([len(of_view) for of_view in voxel])),
        torch.cat(row).long(),
        torch.cat(column).long(),
        torch.cat(voxel),
        torch.cat(position),
        tuple(grids),
        distill,
    )


def _without_frames(store: SceneStore, config: Config, coords: Tensor, inputs: Tensor) -> Batch:
    """A batch of voxels alone: what a part of a step holds whose scenes have no frame, or that has none."""
    height, width = config.augment.crop or (32, 32)
    grids = [torch.zeros(0, *g.shape, dtype=torch.float16) for g in store.view(store.names[0], 0).targets]
    none, index = torch.zeros(0, height, width), torch.zeros(0, dtype=torch.int64)
    distill: tuple[Tensor, ...] = ()
    if store.distill:
        of_voxels = torch.zeros(len(coords), grids[-1].shape[1], dtype=torch.float16)
        distill = (grids.pop(), torch.zeros(0, 2, 2), of_voxels)
    return Batch(
        none[:, None].expand(0, 3, height, width),
        none.long(),
        none.int(),
        coords,
        inputs,
        index,
        index,
        index,
        index,
        torch.zeros(0, 2),
        tuple(grids),
        distill,
    )


def batches(store: SceneStore, config: Config, first: int, last: int, workers: int = 0) -> Iterator[Batch]:
    """Batches of steps ``first`` to ``last`` − 1.

    Args:
        store: the scenes.
        config: the run.
        first: first step.
        last: the step after the last one.
        workers: threads that draw while the networks compute; 0 = each batch is drawn when it is asked for.
    """
    yield from drawn_ahead(lambda step: draw_batch(store, config, step), first, last, workers)


def drawn_ahead(draw: Callable[[int], T], first: int, last: int, workers: int) -> Iterator[T]:
    """What ``draw`` gives for steps ``first`` to ``last`` − 1, in order; ``workers`` as for `batches`.

    Threads are enough: decoding, unpacking and resampling release the interpreter's lock, and what is in
    memory is there for all of them.
    """
    if workers == 0:
        yield from (draw(step) for step in range(first, last))
        return
    with closing(
        prefetch((partial(draw, step) for step in range(first, last)), workers, workers + 1)
    ) as drawn:
        yield from drawn


def _scenes_of_step(names: Sequence[str], config: Config, step: int) -> list[str]:
    """Scenes in an order shuffled anew for each pass over them."""
    chosen = []
    for position in range(step * config.train.scenes_per_step, (step + 1) * config.train.scenes_per_step):
        turn, index = divmod(position, len(names))
        chosen.append(names[stream(config.seed, ORDER, turn).permutation(len(names))[index]])
    return list(dict.fromkeys(chosen))


def _voxels(
    clouds: Sequence[Scene], transforms: Sequence[PointTransform], config: Config, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Transformed, voxelised clouds.

    Returns:
        coords (V, 4), inputs (V, C_in), the voxel of each point of all clouds (−1 = cut away), and where
        each cloud's points start.
    """
    if not clouds:
        empty = voxel_inputs(
            [torch.zeros(0, 3)], [0], torch.zeros(0, dtype=torch.int64), 0, config.networks.points.inputs
        )
        return torch.zeros(0, 4, dtype=torch.int32), empty, torch.zeros(0, dtype=torch.int64), []
    points = [
        t.points(upright(cloud.points_world, cloud.up_world))
        for t, cloud in zip(transforms, clouds, strict=True)
    ]
    sizes = [len(p) for p in points]
    batch = torch.repeat_interleave(torch.arange(len(clouds)), torch.tensor(sizes))
    coords, voxel = voxelize(torch.from_numpy(np.concatenate(points)), batch, config.networks.points.voxel_m)
    colors = [
        None if cloud.rgb is None else torch.from_numpy(t.colors(cloud.rgb))
        for t, cloud in zip(transforms, clouds, strict=True)
    ]
    inputs = voxel_inputs(colors, sizes, voxel, len(coords), config.networks.points.inputs)
    if config.train.max_points is not None:
        keep = _contiguous(coords, config.train.max_points, rng)
        renumber = torch.full((len(coords),), -1).masked_scatter(keep, torch.arange(int(keep.sum())))
        coords, inputs, voxel = coords[keep], inputs[keep], renumber[voxel]
    return coords, inputs, voxel, [int(start) for start in np.cumsum([0, *sizes[:-1]])]


def voxel_inputs(
    colors: Sequence[Tensor | None], sizes: Sequence[int], voxel: Tensor, num_voxels: int, kind: str
) -> Tensor:
    """What the 3D network sees of a voxel: (V, 3) mean colour in about [-1, 1], or (V, 1) ones.

    Args:
        colors: for each cloud (N, 3) float in [0, 1], or ``None``: such a cloud is grey.
        sizes: points of each cloud.
        voxel: (sum of sizes,) int64, the voxel of each point.
        num_voxels: V.
        kind: `PointNetworkConfig.inputs`.
    """
    if kind == "constant":
        return torch.ones(num_voxels, 1, device=voxel.device)
    grey = [torch.full((n, 3), 0.5) if c is None else c for c, n in zip(colors, sizes, strict=True)]
    return scatter_mean(torch.cat(grey).to(voxel.device) * 2 - 1, voxel, num_voxels)


def _contiguous(coords: Tensor, limit: int, rng: np.random.Generator) -> Tensor:
    """(V,) bool: for each cloud the ``limit`` voxels nearest to a random one, seen from above."""
    keep = torch.zeros(len(coords), dtype=torch.bool)
    for number in range(int(coords[:, 0].max()) + 1 if len(coords) else 0):
        rows = (coords[:, 0] == number).nonzero()[:, 0]
        if not len(rows):
            continue
        centre = coords[rows[int(rng.integers(len(rows)))], 1:3]
        distance = (coords[rows, 1:3] - centre).long().square().sum(1)
        keep[rows[torch.argsort(distance, stable=True)[:limit]]] = True
    return keep


def _transform(view: View, voxel: Tensor, config: AugmentConfig, rng: np.random.Generator) -> tuple[Any, ...]:
    """One view under a random transform; pairs that leave the image or lost their voxel are dropped."""
    height, width = view.labels.shape
    transform = draw_image_transform((height, width), config, rng)
    column, row, inside = transform.cells(view.pixel_uv)
    kept = (torch.from_numpy(inside) & (voxel >= 0)).nonzero()[:, 0]
    position = share_of_image(torch.from_numpy(view.pixel_uv).index_select(0, kept), height, width)
    return (
        transform.image(view.image),
        transform.nearest(view.labels),
        transform.nearest(view.mask_ids),
        view.targets,
        torch.from_numpy(row).index_select(0, kept),
        torch.from_numpy(column).index_select(0, kept),
        voxel.index_select(0, kept),
        position,
        transform.places(height),
    )


def _jitter_factors(images: int, strength: float, rng: np.random.Generator) -> Tensor | None:
    """(3, images) factors of brightness, contrast and saturation; ``None`` for no jitter."""
    if strength == 0:
        return None
    return 1 + torch.from_numpy(rng.uniform(-strength, strength, (3, images))).float()


def _pictures(images: Sequence[U8], factors: Tensor | None) -> Tensor:
    """(B, 3, H, W) float32 in [0, 1], channels last in memory, of B (H, W, 3) images.

    Each picture in turn, so that it stays in the processor's cache. ``factors``, from `_jitter_factors`,
    change brightness, contrast and saturation.
    """
    pictures = torch.empty(len(images), *images[0].shape)
    for number, (picture, image) in enumerate(zip(pictures, images, strict=True)):
        np.copyto(picture.numpy(), image)  # PyTorch wants no read-only arrays
        picture.div_(255)
        if factors is None:
            continue
        red, green, blue = picture.split(1, dim=2)  # three times as fast as a mean, and the same to the bit
        grey = (red + green).add_(blue).div_(3)
        brightness, contrast, saturation = factors[:, number].tolist()
        middle = float(grey.numpy().mean())  # PyTorch's sum would depend on the number of threads
        # saturation about each pixel's grey, contrast about the picture's, in two passes over the picture
        grey.mul_(contrast * (1 - saturation)).add_(middle * (brightness - contrast))
        picture.mul_(contrast * saturation).add_(grey).clamp_(0, 1)
    return pictures.permute(0, 3, 1, 2)


def _stacked(grids: Sequence[F16]) -> Tensor:
    """(B, F, h, w) of (F, h, w) grids; the channels of a cell side by side in memory, as they are sampled."""
    last = [torch.from_numpy(grid).permute(1, 2, 0) for grid in grids]
    return torch.stack(last).permute(0, 3, 1, 2)
