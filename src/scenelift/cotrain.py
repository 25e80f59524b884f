"""Two-stage co-training, eq. 5 to 7: the loop, in the open.

`cotrain` yields after every step; logging, checkpoints and progress live with whoever iterates. The model
to keep is the last one: choosing by a validation score would need labels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scenelift.batches import DROPOUT, LATENT, SWITCH, Batch, stream
from scenelift.config import Config, LatentConfig
from scenelift.distill import distill_distances
from scenelift.errors import ConfigError
from scenelift.losses import (
    cosine_distance,
    feature_variance,
    fuse_cells,
    image_cross_entropy,
    pair_cross_entropy,
    sample_maps,
)
from scenelift.models.networks import Networks, Output
from scenelift.switching import CLIP_ONLY, Sources, draw_targets
from scenelift.types import IGNORE


@dataclass(frozen=True)
class StepResult:
    """What happened in a step.

    Attributes:
        step: its number, from 0.
        epoch: the epoch it belongs to, from 0.
        stage: 1 (eq. 5) or 2 (eq. 6).
        lr: learning rate it was taken with.
        loss: the sum that was minimised.
        loss_image: cross-entropy of the 2D network.
        loss_points: cross-entropy of the 3D network.
        pairs: how many pairs had a label to learn from; 0 throughout where there are images alone.
        loss_latent: eq. 7, ``None`` without latent consistency.
        loss_distill: distance of both networks to the label teacher's features, ``None`` where off.
        source_image: share of the 2D network's labels by source.
        source_points: share of the 3D network's labels by source.
        churn_image: share of the 2D labels that differ from the refined teacher's.
        churn_points: the same in 3D.
        variance_image: spread of the 2D latent features' directions; 0 = collapsed.
        variance_points: the same in 3D.
        variance_target: the same of the target they follow.
        classes_image: share of each class among what the 2D network predicts, over pixels; C numbers.
        classes_points: the same of the 3D network, over pairs; ``None`` where there are none.
        labels_image: share of each class among the refined teacher's labels of the same pixels.
        labels_points: the same of the same pairs. These four are rounded: a log holds one of each a step.
        seconds: time the step took, the wait for its batch included.
    """

    step: int
    epoch: int
    stage: int
    lr: float
    loss: float
    loss_image: float
    loss_points: float
    pairs: int
    loss_latent: float | None
    loss_distill: float | None
    source_image: dict[str, float]
    source_points: dict[str, float]
    churn_image: float
    churn_points: float
    variance_image: float | None
    variance_points: float | None
    variance_target: float | None
    classes_image: tuple[float, ...] | None
    classes_points: tuple[float, ...] | None
    labels_image: tuple[float, ...] | None
    labels_points: tuple[float, ...] | None
    seconds: float

    def record(self) -> dict[str, Any]:
        """As a plain dict, for a log."""
        return asdict(self)


class Trainer:
    """Networks, optimiser and schedule: everything a checkpoint holds.

    Args:
        networks: trained in place.
        config: the whole configuration.
        text: (C, dim) float32, unit length; on any device.
        steps_per_epoch: of the data set.
        device: where to compute.

    Raises:
        ConfigError: no loss has a weight.
    """

    def __init__(
        self, networks: Networks, config: Config, text: Tensor, steps_per_epoch: int, device: str = "cpu"
    ) -> None:
        self.config = config
        self.networks = networks.to(device)
        self.text = text.to(device)
        self.device = device
        self.steps_per_epoch = steps_per_epoch
        self.step = 0
        train = config.train
        if not train.image_weight + train.points_weight + config.latent.weight + config.distill.weight:
            raise ConfigError(
                "expected a loss with a weight above 0, found none; set one of train.image_weight, "
                "train.points_weight, latent.weight and distill.weight"
            )
        parameters = [p for p in self.networks.parameters() if p.requires_grad]
        self.optimizer: torch.optim.Optimizer
        if train.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(
                parameters,
                lr=train.lr,
                momentum=train.momentum,
                weight_decay=train.weight_decay,
                fused=True,
            )
        else:
            self.optimizer = torch.optim.AdamW(
                parameters, lr=train.lr, weight_decay=train.weight_decay, fused=True
            )

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.config.train.epochs * self.steps_per_epoch

    @property
    def stage1_steps(self) -> int:
        """Steps before labels begin to be switched."""
        return min(self.config.train.switch_after, self.config.train.epochs) * self.steps_per_epoch

    def lr(self, step: int) -> float:
        """Learning rate of a step."""
        train = self.config.train
        if train.schedule == "constant":
            return train.lr
        done = step // self.steps_per_epoch / train.epochs
        if train.schedule_step == "step":
            done = step / self.total_steps
        return train.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def cotrain(trainer: Trainer, batches: Iterable[Batch]) -> Iterator[StepResult]:
    """Take one optimiser step per batch, from ``trainer.step`` on.

    Args:
        trainer: advanced in place; may be saved whenever this yields.
        batches: those of the steps from ``trainer.step`` on, in order.

    Yields:
        One result a step.
    """
    trainer.networks.train()
    start = time.perf_counter()
    for batch in batches:
        result = _train_step(trainer, batch.to(trainer.device), start)
        trainer.step += 1
        yield result
        start = time.perf_counter()


def _train_step(trainer: Trainer, batch: Batch, start: float) -> StepResult:
    config, networks, step = trainer.config, trainer.networks, trainer.step
    stage = 1 if step < trainer.stage1_steps else 2
    with _seeded(config.seed, step, trainer.device):
        image = networks.run_images(batch.images, trainer.text)
        points = networks.run_points(batch.coords, batch.inputs, trainer.text)
    size = tuple(batch.labels.shape[1:])
    full = F.interpolate(image.logits, size=size, mode="bilinear", align_corners=False)

    switch = CLIP_ONLY if stage == 1 else config.switch
    with torch.no_grad():
        predicted = full.argmax(1), points.logits.argmax(1)
        if stage == 2 and switch.predictions == "eval":
            predicted = _predict_as_tested(trainer, batch)
        classes = len(trainer.text)
        sources = Sources(batch, *predicted, config.refine, classes)
        targets = draw_targets(sources, batch, switch, stream(config.seed, SWITCH, step))

    with torch.set_grad_enabled(config.train.image_weight > 0):  # else it is only watched
        loss_image = image_cross_entropy(full, targets.image)
    with torch.set_grad_enabled(config.train.points_weight > 0):
        loss_points = pair_cross_entropy(points.logits, batch.pair_voxel, targets.pairs)
    loss = config.train.image_weight * loss_image + config.train.points_weight * loss_points
    latent = _latent(trainer, image, points, batch)
    if latent is not None:
        loss = loss + config.latent.weight * latent.loss
    distilled = None
    if batch.distill and config.distill.weight > 0:
        distilled = torch.stack(distill_distances(networks, image, points, batch)).sum()
        loss = loss + config.distill.weight * distilled

    trainer.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    lr = trainer.lr(step)
    for group in trainer.optimizer.param_groups:
        group["lr"] = lr
    if config.train.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(networks.parameters(), config.train.clip_norm)
    trainer.optimizer.step()
    return StepResult(
        step=step,
        epoch=step // trainer.steps_per_epoch,
        stage=stage,
        lr=lr,
        loss=float(loss.detach()),
        loss_image=float(loss_image.detach()),
        loss_points=float(loss_points.detach()),
        pairs=int((targets.pairs != IGNORE).sum()),
        loss_latent=None if latent is None else float(latent.loss.detach()),
        loss_distill=None if distilled is None else float(distilled.detach()),
        source_image=targets.share_image,
        source_points=targets.share_points,
        churn_image=targets.churn_image,
        churn_points=targets.churn_points,
        variance_image=None if latent is None else float(latent.variance_image),
        variance_points=None if latent is None else float(latent.variance_points),
        variance_target=None if latent is None else float(latent.variance_target),
        classes_image=_class_shares(predicted[0], classes),
        classes_points=_class_shares(predicted[1][batch.pair_voxel], classes),
        labels_image=_class_shares(sources.on_image("clip"), classes),
        labels_points=_class_shares(sources.on_pairs("clip"), classes),
        seconds=time.perf_counter() - start,
    )


def _class_shares(labels: Tensor, classes: int) -> tuple[float, ...] | None:
    """Share of each class among labels of any shape, `IGNORE` left out; ``None`` if there are none."""
    counts = torch.bincount(labels.reshape(-1), minlength=IGNORE + 1)[:classes].tolist()
    total = sum(counts)
    return tuple(round(count / total, 4) for count in counts) if total else None


def _predict_as_tested(trainer: Trainer, batch: Batch) -> tuple[Tensor, Tensor]:
    """(B, H, W) and (V,) labels from the networks without dropout, on their running statistics."""
    networks = trainer.networks.eval()
    logits = networks.run_images(batch.images, trainer.text).logits
    size = tuple(batch.labels.shape[1:])
    image = F.interpolate(logits, size=size, mode="bilinear", align_corners=False).argmax(1)
    points = networks.run_points(batch.coords, batch.inputs, trainer.text).logits.argmax(1)
    networks.train()
    return image, points


@dataclass(frozen=True)
class _Latent:
    loss: Tensor
    variance_image: Tensor
    variance_points: Tensor
    variance_target: Tensor


def _latent(trainer: Trainer, image: Output, points: Output, batch: Batch) -> _Latent | None:
    """Eq. 7 over (a sample of) the pairs; ``None`` where it is switched off."""
    networks, config, step = trainer.networks, trainer.config, trainer.step
    if config.latent.weight == 0 or not batch.target_grids:
        return None
    rows = _some_pairs(len(batch.pair_image), config.latent, config.seed, step).to(batch.pair_image.device)
    which = batch.pair_image[rows]
    height, width = batch.labels.shape[1:]
    size = batch.pair_position.new_tensor([width, height])
    here = (torch.stack([batch.pair_col[rows], batch.pair_row[rows]], 1) + 0.5) / size
    of_image = networks.image_latent(sample_maps(image.features, which, here))
    of_points = networks.points_latent(points.features[batch.pair_voxel[rows]])
    there = batch.pair_position[rows]
    seen = [sample_maps(grid.float(), which, there) for grid in batch.target_grids]
    seen = [F.normalize(one, dim=1) for one in seen]
    if config.latent.group_m is not None:
        seen = _shared_in_cells(trainer, seen, points, batch, rows, config.latent.group_m)
    target = networks.target_latent(torch.cat(seen, dim=1))
    return _Latent(
        cosine_distance(of_image, target) + cosine_distance(of_points, target),
        feature_variance(of_image),
        feature_variance(of_points),
        feature_variance(target),
    )


def _shared_in_cells(
    trainer: Trainer, seen: list[Tensor], points: Output, batch: Batch, rows: Tensor, group_m: float
) -> list[Tensor]:
    """One target for all pairs of a cell: CLIP2Scene's spatio-temporal consistency.

    Chen et al., https://arxiv.org/abs/2301.04926, section 3.3: the features of a cell's pixels and points are
    fused by attention, the softmax of their cosine to the text of the pixel's label (at temperature 1, as in
    their code). Points have no mask features, so of those the pixels' are fused, with the same attention;
    without label features there is no cosine to text, and the mean remains. Cells are those of the voxel grid
    as it was rotated for this step, and hold the pairs that were drawn for this loss.

    Args:
        trainer: networks and text.
        seen: (R, F) unit features of the drawn pairs' pixels, of each target.
        points: of the 3D network.
        batch: of the pairs.
        rows: (R,) int64, which pairs.
        group_m: edge of a cell in metres.

    Returns:
        As ``seen``, unit length, equal for pairs of one cell.
    """
    config, voxel = trainer.config, batch.pair_voxel[rows]
    coords = batch.coords[voxel]
    xyz = ((coords[:, 1:] + 0.5) * (config.networks.points.voxel_m / group_m)).floor().long()
    cells, cell = torch.unique(torch.cat([coords[:, :1].long(), xyz], 1), dim=0, return_inverse=True)
    kinds = config.latent.target.split("+")
    score = torch.zeros(len(rows), device=rows.device)
    if "labels" in kinds:
        label = batch.labels[batch.pair_image[rows], batch.pair_row[rows], batch.pair_col[rows]]
        labelled = label != IGNORE
        text = trainer.text[torch.where(labelled, label, 0)] * labelled[:, None]
        of_points = F.normalize(trainer.networks.points_head.embed(points.features[voxel]), dim=1)
        if config.latent.target_map == "frozen":
            of_points = of_points.detach()  # as the whole target side
        score = (seen[kinds.index("labels")] * text).sum(1)
        score_points = (of_points * text).sum(1)
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


@contextmanager
def _seeded(seed: int, step: int, device: str) -> Iterator[None]:
    """Dropout of a step depends on the seed and the step alone, and leaves the caller's generator alone."""
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(stream(seed, DROPOUT, step).integers(2**62)))
        yield
