"""OpenScene's loss: what the heads give follows the label teacher's features.

Peng et al., https://arxiv.org/abs/2211.15654, section 3.2, for the 3D network; the paper's Table 1 has a 2D
row as well, so the 2D network follows the teacher's features of its own pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scenelift.batches import Batch
from scenelift.losses import cosine_distance, sample_maps
from scenelift.models.networks import Networks, Output


def distill_distances(
    networks: Networks,
    image: Output,
    points: Output,
    batch: Batch,
    images: int | None = None,
    voxels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean of 1 − cos to the teacher's features, over pixels and over voxels.

    Pixels are those of the 2D network's own stride, all of them; each is compared with the teacher's grid
    sampled bilinearly at its place in the untransformed frame. Voxels are all that a view of the scene sees.

    Args:
        networks: whose text heads are trained.
        image: of the 2D network, features (B, F, h, w).
        points: of the 3D network, features (V, F).
        batch: with ``distill``.
        images: of the whole step, where this is a part of one: what is summed is divided by all.
        voxels: of the whole step, scalar int64: those that a view sees.

    Returns:
        Two scalars; 0 where there are no voxels.
    """
    grids, places, of_voxels = batch.distill
    count, channels, height, width = image.features.shape
    which, position = cell_places(places, height, width)
    wanted = sample_maps(grids.float(), which, position)
    rows = image.features.permute(0, 2, 3, 1).reshape(count * height * width, channels)
    seen = of_voxels.any(1)
    cells = None if images is None else places.new_tensor(images * height * width)
    return (
        cosine_distance(networks.image_head.embed(rows), wanted, cells),
        cosine_distance(networks.points_head.embed(points.features[seen]), of_voxels[seen], voxels),
    )


def cell_places(places: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the cells of the network's grids lie in the untransformed frames.

    Args:
        places: (B, 2, 2), of ``Batch.distill``.
        height: h of the grid.
        width: w of the grid.

    Returns:
        (B·h·w,) int64 image and (B·h·w, 2) float32 position of each cell, rows first, as `sample_maps` takes
        them.
    """
    x = (torch.arange(width, device=places.device) + 0.5) / width
    y = (torch.arange(height, device=places.device) + 0.5) / height
    here = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(1, -1, 2)
    there = here * places[:, None, :, 0] + places[:, None, :, 1]
    image = torch.arange(len(places), device=places.device).repeat_interleave(height * width)
    return image, there.view(-1, 2)
