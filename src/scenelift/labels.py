"""Labels: from the teacher's scores, along the pairs, through mask voting (eq. 1-4).

Tensors on any device. Labels are int64 class ids with `IGNORE` (255) where there is none; uint8 belongs to
files and numpy. All votes are majorities in which ties go to the lower class id, and `IGNORE` never votes.
Nothing here depends on a random number or on the order of rows.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from scenelift.errors import DataError
from scenelift.types import IGNORE

_DENSE_TABLE = 1 << 22
"""Up to this many (group, class) counters are kept as a table (32 MiB); beyond, votes are sorted."""

_MASK_CHUNK = 32
"""Masks flattened at a time."""


# --- eq. 1: pseudo labels ---------------------------------------------------------------------------


def dense_scores(features: Tensor, text: Tensor, size: tuple[int, int]) -> Tensor:
    """Score every class at every pixel: dot product ψ on the grid, then bilinear upsampling.

    Args:
        features: (B, dim, h, w), any floating dtype.
        text: (C, dim), any floating dtype.
        size: (H, W) of the image.

    Returns:
        (B, C, H, W), at least float32: half precision would create ties.
    """
    dtype = torch.promote_types(torch.promote_types(features.dtype, text.dtype), torch.float32)
    scores = torch.einsum("bdhw,cd->bchw", features.to(dtype), text.to(dtype))
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


def pseudo_labels(
    features: Tensor,
    text: Tensor,
    size: tuple[int, int],
    threshold: float | None = None,
    logit_scale: float = 100.0,
) -> Tensor:
    """The teacher's label of every pixel, eq. 1: the class of the highest upsampled score.

    Images are scored one at a time; memory holds the scores of one.

    Args:
        features: (B, dim, h, w), any floating dtype.
        text: (C, dim), any floating dtype.
        size: (H, W) of the image.
        threshold: pixels whose label has a probability below this become `IGNORE`; ``None`` keeps all.
            The probability is the softmax of ``logit_scale`` × cosine, whatever the lengths of the inputs.
        logit_scale: only used with ``threshold``; 100 is CLIP's own.

    Returns:
        (B, H, W) int64. Ties go to the lower class id; pixels with NaN scores are `IGNORE`.
    """
    labels = torch.empty((len(features), *size), dtype=torch.int64, device=features.device)
    for i, image in enumerate(torch.split(features, 1)):
        labels[i] = _highest(dense_scores(image, text, size)[0])
        if threshold is not None:
            cosine = dense_scores(F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1), size)[
                0
            ]
            probability = (logit_scale * cosine).softmax(dim=0)
            chosen = probability.gather(0, labels[i].clamp(max=len(text) - 1).unsqueeze(0))[0]
            labels[i][chosen < threshold] = IGNORE
    return labels


def _highest(scores: Tensor) -> Tensor:
    """Class of the highest of (C, ...) scores; the lowest class id among equals, `IGNORE` for NaN."""
    class_ids = torch.arange(len(scores), dtype=torch.uint8, device=scores.device)
    class_ids = class_ids.reshape(-1, *[1] * (scores.dim() - 1))
    return torch.where(scores == scores.amax(0), class_ids, IGNORE).amin(0).long()


# --- eq. 2-3: labels travel along the pairs ------------------------------------------------------------


def lift(label_maps: Tensor, image_index: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Read the label of each pair's pixel, eq. 2-3: (B, H, W) and three (P,) integer indices -> (P,)."""
    return label_maps[image_index.long(), row.long(), col.long()]


def vote_points(pair_labels: Tensor, point_index: Tensor, num_points: int, num_classes: int) -> Tensor:
    """The label most views give each point.

    Args:
        pair_labels: (P,) label of each pair.
        point_index: (P,) the point of each pair.
        num_points: N.
        num_classes: C.

    Returns:
        (N,) int64; `IGNORE` for points that no view labels.
    """
    return vote(point_index, pair_labels, num_points, num_classes)


# --- eq. 4: mask voting ----------------------------------------------------------------------------------


def vote(groups: Tensor, labels: Tensor, num_groups: int, num_classes: int) -> Tensor:
    """The majority label of each group.

    Memory is bounded by the votes or by a table of fixed size, whichever is larger.

    Args:
        groups: (P,) integer group of each vote, in [0, M); negative = belongs to none.
        labels: (P,) class id of each vote, in [0, C) or `IGNORE`, which does not vote.
        num_groups: M.
        num_classes: C.

    Returns:
        (M,) int64; ties go to the lower class id; `IGNORE` for groups without a vote.

    Raises:
        DataError: a group or label is out of range.
    """
    groups, labels = groups.long(), labels.long()
    valid = (groups >= 0) & (labels != IGNORE)
    _expect_below(groups, valid, num_groups, "groups")
    _expect_below(labels, valid, num_classes, "labels")
    size = num_groups * num_classes
    if size <= _DENSE_TABLE:
        votes = torch.where(valid, groups * num_classes + labels, size)
        counts = torch.bincount(votes, minlength=size + 1)[:size].reshape(num_groups, num_classes)
        classes = torch.arange(num_classes, device=groups.device)
        best = _ballot(counts, classes, num_classes).amax(1)
    else:
        votes, counts = torch.unique((groups * num_classes + labels)[valid], return_counts=True)
        ballots = _ballot(counts, votes % num_classes, num_classes)
        best = ballots.new_zeros(num_groups).scatter_reduce_(0, votes // num_classes, ballots, "amax")
    return torch.where(best >= num_classes, num_classes - 1 - best % num_classes, IGNORE)


def _ballot(counts: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Count and class in one number: the largest has most votes and, among equals, the lowest class id.

    With no vote it is below ``num_classes``. No argmax, so no order of equals that differs by device.
    """
    return counts * num_classes + (num_classes - 1 - classes)


def _expect_below(values: Tensor, valid: Tensor, limit: int, what: str) -> None:
    wrong = valid & ((values >= limit) | (values < 0))
    if bool(wrong.any()):
        raise DataError(
            f"vote: expected {what} below {limit}, found {int(values[wrong][0])}; "
            "do labels and class list belong together?"
        )


def flatten_masks(
    masks: Tensor, overlap: Literal["smallest_on_top", "largest_on_top"] = "smallest_on_top"
) -> Tensor:
    """Flatten overlapping masks to one id per pixel.

    Args:
        masks: (M, H, W) bool, M < 65,536.
        overlap: which mask is visible where several cover a pixel, by area; among equal areas the one that
            comes first in ``masks``.

    Returns:
        (H, W) uint16: 1 + the index of the visible mask in ``masks``, 0 where none covers the pixel.

    Raises:
        DataError: more masks than ids.
    """
    count = len(masks)
    if count >= 1 << 16:
        raise DataError(f"masks: expected fewer than 65536 in one image, found {count}")
    order = torch.argsort(masks.sum((1, 2)), stable=True, descending=overlap == "largest_on_top")
    rank = torch.full(masks.shape[1:], count, dtype=torch.int32, device=masks.device)
    for start in range(0, count, _MASK_CHUNK):
        part = order[start : start + _MASK_CHUNK]
        ranks = torch.arange(start, start + len(part), dtype=torch.int32, device=masks.device)
        rank = torch.minimum(rank, torch.where(masks[part], ranks[:, None, None], count).amin(0))
    id_of_rank = torch.cat((order + 1, order.new_zeros(1)))
    return id_of_rank[rank.long()].to(torch.uint16)


def refine(labels: Tensor, mask_ids: Tensor, num_classes: int) -> Tensor:
    """Mask voting, eq. 4: every pixel of a mask takes the majority label among the pixels of that mask.

    Votes are counted on the unrefined labels. Uncovered pixels and masks without any vote keep theirs.

    Args:
        labels: (B, H, W) class ids or `IGNORE`.
        mask_ids: (B, H, W) integer ids of each image's masks, 0 = uncovered; need not be consecutive.
        num_classes: C.

    Returns:
        (B, H, W) int64, a new tensor.
    """
    groups, stride = _mask_groups(mask_ids)
    winners = vote(groups.reshape(-1), labels.reshape(-1), len(labels) * stride, num_classes)
    return _spread(winners, stride, groups, labels)


def paint(
    pair_labels: Tensor, image_index: Tensor, row: Tensor, col: Tensor, fallback: Tensor, num_classes: int
) -> Tensor:
    """Write labels known only at pairs into images (method step 9 without refinement).

    Args:
        pair_labels: (P,) class ids or `IGNORE`.
        image_index: (P,) image of each pair, in [0, B).
        row: (P,) pixel row of each pair.
        col: (P,) pixel column of each pair.
        fallback: (B, H, W) labels of the pixels that no pair labels.
        num_classes: C.

    Returns:
        (B, H, W) int64; where several pairs fall into one pixel, their majority.
    """
    number = torch.arange(fallback.numel(), device=fallback.device).reshape(fallback.shape)
    pixel = lift(number, image_index, row, col)
    painted = vote(pixel, pair_labels, fallback.numel(), num_classes).reshape(fallback.shape)
    return torch.where(painted != IGNORE, painted, fallback.long())


def refine_sparse(
    pair_labels: Tensor,
    image_index: Tensor,
    row: Tensor,
    col: Tensor,
    mask_ids: Tensor,
    fallback: Tensor,
    num_classes: int,
) -> Tensor:
    """Mask voting where labels are known only at pairs (method step 9): 3D predictions seen in images.

    Every pixel of a mask takes the majority of the labels at the pairs that fall into the mask. Masks in
    which no pair votes keep ``fallback``. Uncovered pixels are as in `paint`.

    Args:
        pair_labels: (P,) class ids or `IGNORE`.
        image_index: (P,) image of each pair, in [0, B).
        row: (P,) pixel row of each pair.
        col: (P,) pixel column of each pair.
        mask_ids: (B, H, W) integer ids of each image's masks, 0 = uncovered; need not be consecutive.
        fallback: (B, H, W) labels where the pairs say nothing: the refined teacher labels.
        num_classes: C.

    Returns:
        (B, H, W) int64.
    """
    groups, stride = _mask_groups(mask_ids)
    pair_groups = lift(groups, image_index, row, col)
    winners = vote(pair_groups, pair_labels, len(fallback) * stride, num_classes)
    # A mask that has a painted pixel has a vote, so what paint writes into masks is always overwritten.
    return _spread(winners, stride, groups, paint(pair_labels, image_index, row, col, fallback, num_classes))


def _mask_groups(mask_ids: Tensor) -> tuple[Tensor, int]:
    """Number the masks of (B, H, W) ids across images, ``stride`` per image: group = image · stride + id.

    What no mask covers is a group as well, the first of each image, which `_spread` leaves out: cheaper
    than a condition at every pixel.
    """
    mask_ids = mask_ids.long()
    stride = int(mask_ids.max()) + 1 if mask_ids.numel() else 1
    first = torch.arange(len(mask_ids), device=mask_ids.device) * stride
    return mask_ids + first[:, None, None], stride


def _spread(winners: Tensor, stride: int, groups: Tensor, otherwise: Tensor) -> Tensor:
    """Give every pixel its mask's winner, or ``otherwise`` where no mask covers it or the mask has none."""
    winners[::stride] = IGNORE
    won = winners.index_select(0, groups.reshape(-1)).reshape(groups.shape)
    return torch.where(won != IGNORE, won, otherwise.long())
