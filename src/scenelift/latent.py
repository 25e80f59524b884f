"""Eq. 7: both networks' features follow those of the teachers, over a sample of a step's pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from scenelift.batches import LATENT, Batch, stream
from scenelift.config import Config, LatentConfig
from scenelift.losses import cosine_distance, fuse_cells, sample_maps, sum_of_directions
from scenelift.models.networks import Networks, Output
from scenelift.switching import Among
from scenelift.types import IGNORE


class Latent(NamedTuple):
    """Latent consistency of a step, or of a part of one.

    Attributes:
        loss: scalar; of a part its share of the step's.
        rows: pairs that were drawn.
        directions: `sum_of_directions` of the 2D network's features, the 3D network's and their target's.
    """

    loss: Tensor
    rows: int
    directions: tuple[Tensor, Tensor, Tensor]


def latent_consistency(
    networks: Networks,
    config: Config,
    text: Tensor,
    step: int,
    image: Output,
    points: Output,
    batch: Batch,
    among: Among | None = None,
) -> Latent | None:
    """Eq. 7 over (a sample of) the pairs; ``None`` where it is switched off.

    Of a part of a step (``among``) the pairs are those that the whole step would draw in it, and the loss is
    divided by all that it draws.
    """
    if config.latent.weight == 0 or not batch.target_grids:
        return None
    own = len(batch.pair_image)
    rows = _some_pairs(own if among is None else among.pairs, config.latent, config.seed, step)
    count = None
    if among is not None:
        count = torch.tensor(len(rows), device=batch.pair_image.device)
        rows = rows[(rows >= among.first_pair) & (rows < among.first_pair + own)] - among.first_pair
    rows = rows.to(batch.pair_image.device)
    which = batch.pair_image[rows]
    height, width = batch.labels.shape[1:]
    size = batch.pair_position.new_tensor([width, height])
    here = (torch.stack([batch.pair_col[rows], batch.pair_row[rows]], 1) + 0.5) / size
    of_image = networks.image_latent(sample_maps(image.features, which, here))
    of_points = networks.points_latent(points.features[batch.pair_voxel[rows]])
    there = batch.pair_position[rows]
    seen = [sample_maps(grid.to(text.dtype), which, there) for grid in batch.target_grids]
    seen = [F.normalize(one, dim=1) for one in seen]
    if config.latent.group_m is not None and len(rows):
        seen = _shared_in_cells(networks, config, text, seen, points, batch, rows, config.latent.group_m)
    target = networks.target_latent(torch.cat(seen, dim=1))
    return Latent(
        cosine_distance(of_image, target, count) + cosine_distance(of_points, target, count),
        len(rows),
        (sum_of_directions(of_image), sum_of_directions(of_points), sum_of_directions(target)),
    )


def _shared_in_cells(
    networks: Networks,
    config: Config,
    text: Tensor,
    seen: list[Tensor],
    points: Output,
    batch: Batch,
    rows: Tensor,
    group_m: float,
) -> list[Tensor]:
    """One target for all pairs of a cell: CLIP2Scene's spatio-temporal consistency.

    Chen et al., https://arxiv.org/abs/2301.04926, section 3.3: the features of a cell's pixels and points are
    fused by attention, the softmax of their cosine to the text of the pixel's label (at temperature 1, as in
    their code). Points have no mask features, so of those the pixels' are fused, with the same attention;
    without label features there is no cosine to text, and the mean remains. Cells are those of the voxel grid
    as it was rotated for this step, and hold the pairs that were drawn for this loss.

    Args:
        networks: whose 3D text head embeds points.
        config: the run.
        text: (C, dim), of the classes.
        seen: (R, F) unit features of the drawn pairs' pixels, of each target.
        points: of the 3D network.
        batch: of the pairs.
        rows: (R,) int64, which pairs.
        group_m: edge of a cell in metres.

    Returns:
        As ``seen``, unit length, equal for pairs of one cell.
    """
    voxel = batch.pair_voxel[rows]
    coords = batch.coords[voxel]
    xyz = ((coords[:, 1:] + 0.5) * (config.networks.points.voxel_m / group_m)).floor().long()
    cells, cell = torch.unique(torch.cat([coords[:, :1].long(), xyz], 1), dim=0, return_inverse=True)
    kinds = config.latent.target.split("+")
    score = torch.zeros(len(rows), device=rows.device)
    if "labels" in kinds:
        label = batch.labels[batch.pair_image[rows], batch.pair_row[rows], batch.pair_col[rows]]
        labelled = label != IGNORE
        of_labels = text[torch.where(labelled, label, 0)] * labelled[:, None]
        of_points = F.normalize(networks.points_head.embed(points.features[voxel]), dim=1)
        if config.latent.target_map == "frozen":
            of_points = of_points.detach()  # as the whole target side
        score = (seen[kinds.index("labels")] * of_labels).sum(1)
        score_points = (of_points * of_labels).sum(1)
    shared = []
    for kind, features in zip(kinds, seen, strict=True):
        if kind == "labels":
            both, scores = torch.cat([features, of_points]), torch.cat([score, score_points])
            fused = fuse_cells(both, scores, cell.repeat(2), len(cells))
        else:
            fused = fuse_cells(features, score, cell, len(cells))
        shared.append(F.normalize(fused, dim=1)[cell])
    return shared


def _some_pairs(pairs: int, config: LatentConfig, seed: int, step: int) -> Tensor:
    if config.max_pairs is None or pairs <= config.max_pairs:
        return torch.arange(pairs)
    rng = stream(seed, LATENT, step)
    return torch.from_numpy(rng.choice(pairs, config.max_pairs, replace=False, shuffle=False))
