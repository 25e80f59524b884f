"""Labels: from the teacher's scores, along the pairs, through mask voting (eq. 1-4).

Tensors on any device. Labels are int64 class ids with `IGNORE` (255) where there is none; uint8 belongs to
files and numpy. All votes are majorities in which ties go to the lower class id, and `IGNORE` never votes.
Nothing here depends on a random number or on the order of rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scenelift.errors import DataError
from scenelift.types import IGNORE

_LABEL_SPAN = 256
"""A vote is one number, group · 256 + label: every label, `IGNORE` too, has its own place in a group."""

_DENSE_GROUPS = 1 << 14
"""Up to this many groups, votes are counted in a table (32 MiB); beyond, they are sorted."""

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
    denoise: float | None = None,
) -> Tensor:
    """The teacher's label of every pixel, eq. 1: the class of the highest upsampled score.

    Images are scored one at a time; memory holds the scores of one. A probability below is the softmax of
    ``logit_scale`` × cosine, whatever the lengths of the inputs.

    Args:
        features: (B, dim, h, w), any floating dtype.
        text: (C, dim), any floating dtype.
        size: (H, W) of the image.
        threshold: pixels whose label has a probability below this become `IGNORE`; ``None`` keeps all.
        logit_scale: only used with ``threshold`` and ``denoise``; 100 is CLIP's own.
        denoise: prompt denoising of MaskCLIP (Zhou et al. 2022, https://arxiv.org/abs/2112.01071): a class
            whose probability stays below this at every token of an image is no candidate there, neither
            for a label nor in the probabilities that ``threshold`` looks at. As in its code the highest
            probability is sought on the token grid, before upsampling. Where no class would be left, all
            are candidates. ``None``: all are.

    Returns:
        (B, H, W) int64. Ties go to the lower class id; pixels with NaN scores are `IGNORE`.
    """
    labels = torch.empty((len(features), *size), dtype=torch.int64, device=features.device)
    for i in range(len(features)):
        image = features[i : i + 1]
        scores = dense_scores(image, text, size)[0]
        excluded = None if denoise is None else _absent(image, text, logit_scale, denoise)
        if excluded is not None:
            scores[excluded] = -torch.inf
        labels[i] = _highest(scores)
        if threshold is not None:
            cosine = dense_scores(F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1), size)[
                0
            ]
            if excluded is not None:
                cosine[excluded] = -torch.inf
            probability = (logit_scale * cosine).softmax(dim=0)
            chosen = probability.gather(0, labels[i].clamp(max=len(text) - 1).unsqueeze(0))[0]
            labels[i][chosen < threshold] = IGNORE
    return labels


def _absent(image: Tensor, text: Tensor, logit_scale: float, denoise: float) -> Tensor:
    """(C,) bool: classes that reach the probability ``denoise`` at no token of a (1, dim, h, w) image.

    Tokens with NaN say nothing. False for all where it would be true for all.
    """
    grid = (image.shape[2], image.shape[3])
    cosine = dense_scores(F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1), grid)[0]
    highest = (logit_scale * cosine).softmax(dim=0).nan_to_num(0.0).flatten(1).amax(1)
    absent = highest < denoise
    return absent & ~absent.all()


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
    if groups.numel() and int(groups.amax()) >= num_groups:
        raise DataError(f"vote: expected groups below {num_groups}, found {int(groups.amax())}")
    _expect_labels(labels)
    votes = torch.add(labels, groups, alpha=_LABEL_SPAN)
    return _majority(votes[votes >= 0], num_groups, num_classes)


def _expect_labels(labels: Tensor) -> None:
    """Labels outside a byte would be counted in another group, and spread as other labels."""
    if labels.numel():
        lowest, highest = (int(bound) for bound in torch.aminmax(labels))
        if lowest < 0 or highest > IGNORE:
            raise DataError(f"labels: expected 0 to {IGNORE}, found {lowest} to {highest}")


def _majority(votes: Tensor, num_groups: int, num_classes: int) -> Tensor:
    """The majority label of each group, (M,) int64, from (P,) votes = group · 256 + label, all >= 0."""
    if num_groups > _DENSE_GROUPS:
        return _majority_sorted(votes, num_groups, num_classes)
    table = torch.bincount(votes, minlength=num_groups * _LABEL_SPAN).reshape(num_groups, _LABEL_SPAN)
    counts = table[:, :num_classes]
    _expect_all_counted(counts.sum() + table[:, IGNORE].sum(), votes, num_classes)
    classes = torch.arange(num_classes, device=votes.device)
    return _elect(_ballots(counts, classes, num_classes).amax(1), num_classes)


def _majority_sorted(votes: Tensor, num_groups: int, num_classes: int) -> Tensor:
    """`_majority` for many groups, most of which may be empty: work and memory follow the votes."""
    codes, counts = torch.unique(votes, return_counts=True)
    groups, slots = torch.unique_consecutive(codes // _LABEL_SPAN, return_inverse=True)
    labels = codes % _LABEL_SPAN
    is_class = labels < num_classes
    _expect_all_counted(counts[is_class | (labels == IGNORE)].sum(), votes, num_classes)
    ballots = torch.where(is_class, _ballots(counts, labels, num_classes), 0)
    best = torch.zeros_like(groups).scatter_reduce_(0, slots, ballots, "amax")
    winners = torch.full((num_groups,), IGNORE, device=votes.device)
    return winners.index_copy_(0, groups, _elect(best, num_classes))


def _ballots(counts: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count and class as one number: the largest has most votes and, among equals, the lowest class id.

    An argmax over counts would leave the order of equals to the device.
    """
    return counts * num_classes + (num_classes - 1 - labels)


def _elect(best: Tensor, num_classes: int) -> Tensor:
    """The class of each group's largest ballot; `IGNORE` where even that has no vote."""
    return torch.where(best >= num_classes, num_classes - 1 - best % num_classes, IGNORE)


def _expect_all_counted(counted: Tensor, votes: Tensor, num_classes: int) -> None:
    foreign = len(votes) - int(counted)
    if foreign:
        raise DataError(
            f"labels: expected class ids 0 to {num_classes - 1} or {IGNORE} (ignore), found {foreign} "
            "others; do labels and class list belong together?"
        )


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
    labels, mask_ids = labels.long(), mask_ids.long()
    _expect_labels(labels)
    first, per_image = _number_masks(mask_ids)
    # The same as `vote` on groups = first + mask_ids, without a pass over the pixels to make them.
    votes = torch.add(labels, mask_ids, alpha=_LABEL_SPAN)
    if len(labels) > 1:  # a pass over the pixels that one image alone can do without
        votes.add_(first[:, None, None] * _LABEL_SPAN)
    winners = _majority(votes.reshape(-1), len(labels) * per_image, num_classes)
    return _spread(winners.reshape(len(labels), per_image), mask_ids, labels)


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
    mask_ids = mask_ids.long()
    _expect_labels(fallback)
    first, per_image = _number_masks(mask_ids)
    pair_groups = first[image_index.long()] + lift(mask_ids, image_index, row, col)
    winners = vote(pair_groups, pair_labels, len(fallback) * per_image, num_classes)
    # A mask that has a painted pixel has a vote, so what paint writes into masks is always overwritten.
    painted = paint(pair_labels, image_index, row, col, fallback, num_classes)
    return _spread(winners.reshape(len(fallback), per_image), mask_ids, painted)


def _number_masks(mask_ids: Tensor) -> tuple[Tensor, int]:
    """Number the masks of (B, H, W) ids across images: each image's first group, (B,), and groups per image.

    What no mask covers is the first group of its image: it votes like a mask, and `_spread` leaves it out,
    which is cheaper than a condition at every pixel.
    """
    per_image = int(mask_ids.max()) + 1 if mask_ids.numel() else 1
    return torch.arange(len(mask_ids), device=mask_ids.device) * per_image, per_image


def _spread(winners: Tensor, mask_ids: Tensor, otherwise: Tensor) -> Tensor:
    """Give every pixel the winner of its mask, or ``otherwise`` where it has none.

    Args:
        winners: (B, groups per image); the first of each image is not used.
        mask_ids: (B, H, W) int64.
        otherwise: (B, H, W) int64 labels.
    """
    # Two cheap passes instead of a comparison and a selection: shifted below zero, a winner is the smaller
    # of the two; an absent one, 256, never is. The low byte is the label again.
    shifted = torch.where(winners == IGNORE, _LABEL_SPAN, winners - _LABEL_SPAN)
    shifted[:, 0] = _LABEL_SPAN
    won = shifted.gather(1, mask_ids.flatten(1)).reshape(mask_ids.shape)
    return torch.minimum(won, otherwise).bitwise_and_(_LABEL_SPAN - 1)
