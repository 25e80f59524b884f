"""Other votes in a mask than the majority's, tried and found worse: docs/log.md has what they gave.

::

    python benchmarks/votes.py drawn OUT --recipe wo_sct          # every vote: one voter's label, drawn anew
    python benchmarks/votes.py shares OUT --recipe wo_sct         # the teacher's: the share of each class
    python benchmarks/votes.py probabilities OUT --recipe cns     # the networks': their mean probabilities
    python benchmarks/votes.py sure OUT --recipe cns              # the networks': only four fifths decide

A majority makes a mask's rare labels vanish; each of these keeps them, *drawn* in the mean over steps, the
next two in every step, where the loss becomes the cross-entropy with a distribution. With *sure* a mask that
four fifths do not agree on, as one over two objects, leaves its pixels as they are. With the last two the
teacher's labels keep their majority. Trains and evaluates on generated rooms (``--data-recipe``); one device.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from scenelift import cotrain, labels, pipeline, switching
from scenelift.batches import Batch
from scenelift.models.networks import Networks
from scenelift.models.voxels import scatter_mean
from scenelift.options import Choices, open_session
from scenelift.switching import Sources, Targets
from scenelift.types import IGNORE

Patches = list[Any]


def groups_of(mask_ids: Tensor) -> tuple[Tensor, int]:
    """(B, H, W) int64 numbers of masks across images, and how many there are."""
    first, per_image = labels._number_masks(mask_ids.long())
    return mask_ids.long() + first[:, None, None], len(mask_ids) * per_image


# --- drawn -----------------------------------------------------------------------------------------------


def drawn() -> Patches:
    """Every vote becomes the label of one voter, drawn at random."""
    rng = torch.Generator().manual_seed(0)

    def draw(groups: Tensor, given: Tensor, size: int) -> Tensor:
        votes = given != IGNORE
        groups, given = groups[votes], given[votes].long()
        order = torch.randperm(len(groups), generator=rng)
        won = torch.full((size,), IGNORE)
        won[groups[order]] = given[order]
        return won

    def refine(given: Tensor, mask_ids: Tensor, classes: int) -> Tensor:
        groups, size = groups_of(mask_ids)
        won = draw(groups.reshape(-1), given.reshape(-1), size)
        return labels._spread(won.reshape(len(given), -1), mask_ids.long(), given.long())

    def refine_sparse(
        given: Tensor,
        image: Tensor,
        row: Tensor,
        col: Tensor,
        mask_ids: Tensor,
        otherwise: Tensor,
        classes: int,
    ) -> Tensor:
        groups, size = groups_of(mask_ids)
        won = draw(groups[image, row, col], given, size)
        painted = labels.paint(given, image, row, col, otherwise, classes)
        return labels._spread(won.reshape(len(otherwise), -1), mask_ids.long(), painted)

    return [
        mock.patch.object(switching, "refine", refine),
        mock.patch.object(switching, "refine_sparse", refine_sparse),
    ]


# --- distributions for labels ----------------------------------------------------------------------------


class Soft:
    """What a step's networks learn from: (B, H, W, C) and (P, C); ``None`` where that is the hard label."""

    def __init__(self) -> None:
        self.image: Tensor | None = None
        self.pairs: Tensor | None = None

    def patches(
        self, of: Callable[[Sources, Batch, Targets], tuple[Tensor | None, Tensor | None]]
    ) -> Patches:
        """Let ``of`` choose the distributions over the images for 2D and for 3D, and the losses use them."""
        draw = cotrain.draw_targets
        hard_image, hard_pairs = cotrain.image_cross_entropy, cotrain.pair_cross_entropy

        def draw_targets(sources: Sources, batch: Batch, *rest: Any) -> Targets:
            targets = draw(sources, batch, *rest)
            self.image, for_pairs = of(sources, batch, targets)
            where = batch.pair_image, batch.pair_row, batch.pair_col
            self.pairs = None if for_pairs is None else for_pairs[where]
            return targets

        def image_loss(logits: Tensor, given: Tensor, count: Tensor | None = None) -> Tensor:
            if self.image is None:
                return hard_image(logits, given, count)
            return -(self.image * logits.log_softmax(1).permute(0, 2, 3, 1)).sum() / given.numel()

        def pair_loss(logits: Tensor, voxel: Tensor, given: Tensor, count: Tensor | None = None) -> Tensor:
            if self.pairs is None:
                return hard_pairs(logits, voxel, given, count)
            weight = torch.zeros_like(logits).index_add_(0, voxel, self.pairs)
            return -(weight * logits.log_softmax(1)).sum() / max(1, len(voxel))

        return [
            mock.patch.object(cotrain, "draw_targets", draw_targets),
            mock.patch.object(cotrain, "image_cross_entropy", image_loss),
            mock.patch.object(cotrain, "pair_cross_entropy", pair_loss),
        ]


def one_hot(given: Tensor, classes: int) -> Tensor:
    """(..., C) float32; zeros for `IGNORE`."""
    return F.one_hot(torch.where(given == IGNORE, classes, given.long()), classes + 1)[..., :classes].float()


def shares() -> Patches:
    """A mask's pixels learn from the share of each class among the teacher's labels in it."""

    def of(sources: Sources, batch: Batch, targets: Targets) -> tuple[Tensor, Tensor]:
        plain = one_hot(batch.labels, sources._num_classes)
        groups, size = groups_of(batch.mask_ids)
        means = scatter_mean(plain.flatten(0, 2), groups.reshape(-1), size)
        soft = torch.where((batch.mask_ids == 0)[..., None], plain, means[groups])
        return soft, soft

    return Soft().patches(of)


def probabilities() -> Patches:
    """Where labels are a network's own, they are its mean probabilities in a mask, not a vote."""
    shown: dict[str, Tensor] = {}

    def watched(name: str) -> Any:
        run = getattr(Networks, name)

        def watch(*args: Any) -> Any:
            output = run(*args)
            shown[name] = output.logits.detach()
            return output

        return mock.patch.object(Networks, name, watch)

    def on_image(batch: Batch) -> Tensor:
        size = batch.labels.shape[1:]
        full = F.interpolate(shown["run_images"], size=size, mode="bilinear", align_corners=False)
        own = full.softmax(1).permute(0, 2, 3, 1)
        groups, number = groups_of(batch.mask_ids)
        means = scatter_mean(own.flatten(0, 2), groups.reshape(-1), number)
        return torch.where((batch.mask_ids == 0)[..., None], own, means[groups])

    def on_points(batch: Batch, clip: Tensor) -> Tensor:
        own = shown["run_points"].softmax(1)[batch.pair_voxel]
        teacher = one_hot(clip, own.shape[1])
        where = batch.pair_image, batch.pair_row, batch.pair_col
        groups, number = groups_of(batch.mask_ids)
        pixels = torch.arange(clip.numel()).reshape(clip.shape)
        outside = spread_mean(own, pixels, clip.numel(), where, teacher)
        inside = spread_mean(own, groups, number, where, teacher)
        return torch.where((batch.mask_ids == 0)[..., None], outside, inside)

    def spread_mean(
        own: Tensor, groups: Tensor, number: int, where: tuple[Tensor, ...], otherwise: Tensor
    ) -> Tensor:
        voters = groups[where]
        voted = torch.bincount(voters, minlength=number)[groups] > 0
        return torch.where(voted[..., None], scatter_mean(own, voters, number)[groups], otherwise)

    def of(sources: Sources, batch: Batch, targets: Targets) -> tuple[Tensor | None, Tensor | None]:
        found: dict[str, Tensor | None] = {"clip": None}
        drawn = [
            max(share, key=lambda name: share[name]) for share in (targets.share_image, targets.share_points)
        ]
        for name in drawn:  # one source a step, which is how often the paper draws as we read it
            if name not in found:
                found[name] = (
                    on_image(batch) if name == "image" else on_points(batch, sources.on_image("clip"))
                )
        return found[drawn[0]], found[drawn[1]]

    return [watched("run_images"), watched("run_points"), *Soft().patches(of)]


# --- where masks agree -----------------------------------------------------------------------------------


def sure(least: float = 0.8) -> Patches:
    """A network's own labels are voted on only in masks where the majority has a share of ``least``."""
    majority = Sources._make

    def winners(groups: Tensor, given: Tensor, size: int, classes: int) -> Tensor:
        votes = given != IGNORE
        ballots = groups[votes] * classes + given[votes].long()
        counts = torch.bincount(ballots, minlength=size * classes).reshape(size, classes)
        most, won = counts.max(1)
        return torch.where(most >= least * counts.sum(1).clamp(min=1), won, IGNORE)

    def make(self: Sources, source: str) -> Tensor:
        if source == "clip":
            return majority(self, source)
        batch, classes = self._batch, self._num_classes
        groups, size = groups_of(batch.mask_ids)
        if source == "image":
            otherwise = self._image_labels.long()
            won = winners(groups.reshape(-1), otherwise.reshape(-1), size, classes)
        else:
            where = batch.pair_image, batch.pair_row, batch.pair_col
            given = self._voxel_labels[batch.pair_voxel]
            otherwise = labels.paint(given, *where, self.on_image("clip"), classes)
            won = winners(groups[where], given, size, classes)
        return labels._spread(won.reshape(len(otherwise), -1), batch.mask_ids.long(), otherwise)

    return [mock.patch.object(Sources, "_make", make)]


def main() -> None:
    ways = {"drawn": drawn, "shares": shares, "probabilities": probabilities, "sure": sure}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("way", choices=ways)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", default="wo_sct")
    parser.add_argument("--data-recipe", default="bench")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--cache",
        type=Path,
        help="of a table, for `probabilities` and `sure` alone: stage 1 is kept there under the\n"
        "key of a majority's, and theirs is the same",
    )
    args = parser.parse_args()
    choices = Choices(
        "synthetic", args.recipe, args.data_recipe, overrides=args.overrides, seed=args.seed, device="cpu"
    )
    if args.cache and args.way in ("drawn", "shares"):
        parser.error("--cache: expected `probabilities` or `sure`, which train stage 1 as a majority does")
    session = open_session(choices, args.out, args.cache, False)
    annotations = pipeline.annotate(session)
    with ExitStack() as stack:
        for patch in ways[args.way]():
            stack.enter_context(patch)
        networks = pipeline.train(session, annotations)
    found = pipeline.evaluate(session, annotations, networks)
    in_2d, in_3d = found.confusion_2d.compute(), found.confusion_3d.compute()
    print(f"{args.recipe}, {args.way}: 2D {100 * in_2d.miou:.1f}   3D {100 * in_3d.miou:.1f}")


if __name__ == "__main__":
    main()
