"""Eq. 5 to 7 as pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from scenelift.device import wide
from scenelift.types import IGNORE


def image_cross_entropy(logits: Tensor, labels: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of an image network, eq. 5 and 6.

    Args:
        logits: (B, C, h, w) at the network's stride; brought to the labels' size bilinearly.
        labels: (B, H, W) int64, `IGNORE` where there is none.
        count: what to divide by where these are a part of a step's images: the labelled pixels of all.

    Returns:
        Scalar; 0 when no pixel has a label.
    """
    if logits.shape[2:] != labels.shape[1:]:
        logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    # off the CPU the sum inside has no fixed order, and PyTorch refuses it where one is asked for
    fixed = torch.are_deterministic_algorithms_enabled() and not logits.is_cpu
    each = F.cross_entropy(wide(logits), labels, ignore_index=IGNORE, reduction="none" if fixed else "sum")
    total = each.sum() if fixed else each
    return total / ((labels != IGNORE).sum() if count is None else count).clamp(min=1)


def pair_cross_entropy(
    logits: Tensor, pair_voxel: Tensor, pair_labels: Tensor, count: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy of a point network over pairs, eq. 5 and 6.

    A point that several views see, or a voxel that holds several points, meets each label once. The sum
    over rows depends only on how often each (voxel, label) occurs, so those are counted first: the cost
    is that of the voxels, however many the pairs.

    Args:
        logits: (V, C).
        pair_voxel: (P,) int64, the voxel of each pair.
        pair_labels: (P,) int64, `IGNORE` where there is none.
        count: what to divide by where these are a part of a step's pairs: the labelled pairs of all.

    Returns:
        Scalar; 0 when no pair has a label.
    """
    voxels, classes = logits.shape
    valid = pair_labels != IGNORE
    cells = torch.where(valid, pair_voxel * classes + pair_labels, voxels * classes)
    counts = torch.bincount(cells, minlength=voxels * classes + 1)[:-1].view(voxels, classes)
    log_probability = F.log_softmax(wide(logits), dim=1)
    total = (counts.to(log_probability.dtype) * log_probability).sum()
    return -total / (counts.sum() if count is None else count).clamp(min=1)


def cosine_distance(features: Tensor, target: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean of 1 − cos over rows, one half of eq. 7; 0 for no rows. Both (P, K).

    ``count`` is what to divide by where these are a part of a step's rows: how many all are.
    """
    if not len(features):
        return features.sum()
    distance = 1.0 - F.cosine_similarity(wide(features), wide(target), dim=1)
    return distance.mean() if count is None else distance.sum() / count.clamp(min=1)


def fuse_cells(features: Tensor, scores: Tensor, cell: Tensor, num_cells: int) -> Tensor:
    """One feature for each cell: the mean of its rows, weighed by the softmax of their scores in the cell.

    Args:
        features: (R, K).
        scores: (R,) cosines; small enough for a plain exponential.
        cell: (R,) int64, the cell of each row.
        num_cells: G.

    Returns:
        (G, K); 0 for cells without rows. Differentiable in ``features`` and ``scores``.
    """
    weight = scores.exp()
    total = weight.new_zeros(num_cells).index_add(0, cell, weight)
    share = weight / total[cell]
    return features.new_zeros(num_cells, features.shape[1]).index_add(0, cell, share[:, None] * features)


def feature_variance(features: Tensor) -> Tensor:
    """How spread the directions of features are: 1 − ‖mean unit vector‖², in [0, 1].

    0 means that all rows point the same way: the constant solution that eq. 7 admits when its target
    can follow. It is the total variance of the unit vectors.

    Args:
        features: (P, K).
    """
    return variance_of(sum_of_directions(features), len(features))


def sum_of_directions(features: Tensor) -> Tensor:
    """(K,) float32 sum of the rows of (P, K) features, each brought to unit length; additive."""
    return F.normalize(features.detach().float(), dim=1).sum(0)


def variance_of(total: Tensor, rows: int) -> Tensor:
    """`feature_variance` of ``rows`` features from their `sum_of_directions`, (K,); 0 for none."""
    if not rows:
        return total.new_zeros(())
    return (1.0 - (total / rows).square().sum()).clamp(min=0.0)  # rounding may put it just below


def share_of_image(pixel_uv: Tensor, height: int, width: int) -> Tensor:
    """Where pixels lie, as shares of the image's width and height: (P, 2) float32 pixels -> (P, 2)."""
    return (pixel_uv + 0.5) / torch.tensor([width, height], device=pixel_uv.device)


def sample_maps(maps: Tensor, image: Tensor, position: Tensor) -> Tensor:
    """Bilinear samples of feature maps at pairs, with the border repeated outside cell centres.

    Args:
        maps: (B, F, h, w), each covering its image evenly (as ``align_corners=False``).
        image: (P,) int64, which map.
        position: (P, 2) float, (x, y) as shares of the image's width and height, in [0, 1].

    Returns:
        (P, F), dtype of ``maps``. Differentiable in ``maps``.
    """
    batch, channels, height, width = maps.shape
    rows = maps.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    cell = _cells(position, height, width)
    low = cell.floor()
    x1, y1 = (cell - low).to(maps.dtype).unsqueeze(2).unbind(1)
    (x, y) = low.long().unbind(1)
    right, below = (x + 1).clamp(max=width - 1), (y + 1).clamp(max=height - 1)
    start = image * (height * width)

    def take(row: Tensor, col: Tensor, weight: Tensor) -> Tensor:
        return rows.index_select(0, start + row * width + col) * weight

    return (
        take(y, x, (1 - x1) * (1 - y1))
        + take(y, right, x1 * (1 - y1))
        + take(below, x, (1 - x1) * y1)
        + take(below, right, x1 * y1)
    )


def sampled_cells(position: Tensor, height: int, width: int) -> Tensor:
    """Which cells of a map `sample_maps` may read for samples at these positions.

    A cell counts as read a thousandth of a cell beyond its reach too, so that a position that another device
    rounds otherwise still finds all four neighbours.

    Args:
        position: (P, 2) float, as for `sample_maps`.
        height: h of the map.
        width: w of the map.

    Returns:
        (h, w) bool.
    """
    cell = _cells(position, height, width)
    first = (cell - 1e-3).floor().long().clamp(min=0)
    last = (cell + 1e-3).floor().long() + 1
    limit = last.new_tensor([width - 1, height - 1])
    read = torch.zeros(height, width, dtype=torch.bool, device=position.device)
    for offset in range(3):  # the reach of first to last
        columns = (first[:, 0] + offset).minimum(last[:, 0]).minimum(limit[0])
        for row_offset in range(3):
            rows = (first[:, 1] + row_offset).minimum(last[:, 1]).minimum(limit[1])
            read[rows, columns] = True
    return read


def _cells(position: Tensor, height: int, width: int) -> Tensor:
    """(P, 2) positions in cells, (x, y), those beyond the outer cell centres moved onto them."""
    size = position.new_tensor([width, height])
    return (position * size - 0.5).clamp(min=0.0).minimum(size - 1)
