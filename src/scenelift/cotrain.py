"""Two-stage co-training, eq. 5 to 7: the loop, in the open.

`cotrain` yields after every step; logging, checkpoints and progress live with whoever iterates. The model
to keep is the last one: choosing by a validation score would need labels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scenelift.balance import RunningShares, class_mass
from scenelift.batches import DROPOUT, SWITCH, Batch, stream
from scenelift.config import Config
from scenelift.distill import distill_distances
from scenelift.errors import ConfigError
from scenelift.latent import latent_consistency
from scenelift.losses import image_cross_entropy, pair_cross_entropy
from scenelift.models.memory import forget_activations
from scenelift.models.networks import Networks, Output
from scenelift.models.world_norm import synchronise
from scenelift.step_result import StepResult as StepResult
from scenelift.step_result import Tally
from scenelift.switching import CLIP_ONLY, Among, Sources, Targets, draw_targets
from scenelift.types import IGNORE
from scenelift.world import ALONE, World


class Trainer:
    """Networks, optimiser and schedule: everything a checkpoint holds.

    Args:
        networks: trained in place.
        config: the whole configuration.
        text: (C, dim) float32, unit length; on any device.
        steps_per_epoch: of the data set.
        device: where to compute.
        world: the processes that train together; each has a trainer.

    Raises:
        ConfigError: no loss has a weight.
    """

    def __init__(
        self,
        networks: Networks,
        config: Config,
        text: Tensor,
        steps_per_epoch: int,
        device: str = "cpu",
        world: World = ALONE,
    ) -> None:
        self.config = config
        self.networks = networks.to(device)
        self.text = text.to(device)
        self.device = device
        self.world = world
        self.steps_per_epoch = steps_per_epoch
        self.step = 0
        self.shares = RunningShares()
        if not world.alone:
            synchronise(networks, world)
        if config.train.activation_checkpointing:
            forget_activations(networks)
        if config.train.compile_image:
            networks.image.compile()
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

    @property
    def stage(self) -> int:
        """Of the next step: 1 (eq. 5) or 2 (eq. 6)."""
        return 1 if self.step < self.stage1_steps else 2

    def autocast(self) -> AbstractContextManager[Any]:
        """In which the networks run: half precision where ``train.precision`` asks for it."""
        if self.config.train.precision == "32-true":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)

    def lr(self, step: int) -> float:
        """Learning rate of a step."""
        train = self.config.train
        if train.schedule == "constant":
            return train.lr
        done = step // self.steps_per_epoch / train.epochs
        if train.schedule_step == "step":
            done = step / self.total_steps
        return train.lr * 0.5 * (1.0 + math.cos(math.pi * done))


def cotrain(trainer: Trainer, batches: Iterable[Batch | Sequence[Batch]]) -> Iterator[StepResult]:
    """Take one optimiser step per batch, from ``trainer.step`` on.

    Args:
        trainer: advanced in place; may be saved whenever this yields.
        batches: those of the steps from ``trainer.step`` on, in order: each whole, or in the parts that this
            process owns (`scenelift.shares`), whose gradients are summed.

    Yields:
        One result a step, the same in all processes.
    """
    trainer.networks.train()
    start = time.perf_counter()
    for batch in batches:
        waited = time.perf_counter() - start
        parts = [batch] if isinstance(batch, Batch) else list(batch)
        result = _train_step(trainer, [part.to(trainer.device) for part in parts], start, waited)
        trainer.step += 1
        yield result
        start = time.perf_counter()


@dataclass(frozen=True)
class _Scope:
    """What a part of a step has to know of the rest.

    Attributes:
        part: its number.
        among: where its images and pairs stand among all.
        labelled: (3,) int64 of the whole step: labelled pixels, labelled pairs, voxels that a view sees.
        no_images: no process has an image in its part of this turn.
        no_voxels: no process has a voxel in it.
    """

    part: int
    among: Among
    labelled: Tensor
    no_images: bool
    no_voxels: bool


def _scopes(trainer: Trainer, parts: Sequence[Batch]) -> Sequence[_Scope | None]:
    """One for each part; ``None`` for the only part of the only process, which is a step by itself.

    What losses are divided by is counted before anything is computed. That can be done because which pixels
    and pairs have a label depends on the draw of sources alone: a network's prediction has no gaps.
    """
    world = trainer.world
    if world.alone and len(parts) == 1:
        return [None]
    own = torch.tensor([[len(part.images), len(part.pair_image), len(part.coords)] for part in parts])
    sizes = world.all(own).reshape(-1, 3)
    before = sizes.cumsum(0) - sizes
    images, pairs, _ = sizes.sum(0).tolist()
    first = world.rank * len(parts)
    among = [
        Among(int(start[0]), images, int(start[1]), pairs) for start in before[first : first + len(parts)]
    ]
    labelled = own.new_zeros(3)
    for part, where in zip(parts, among, strict=True):
        predicted = torch.zeros_like(part.labels), part.coords.new_zeros(len(part.coords)).long()
        targets, _ = _targets(trainer, part, predicted, where)
        seen = part.distill[2].any(1).sum() if part.distill else own.new_zeros(())
        found = [(targets.image != IGNORE).sum(), (targets.pairs != IGNORE).sum(), seen]
        labelled += torch.stack([value.cpu() for value in found])
    labelled = world.sum(labelled).to(trainer.device)
    turns = sizes.view(world.size, len(parts), 3).sum(0) == 0
    return [
        _Scope(first + turn, where, labelled, bool(turns[turn, 0]), bool(turns[turn, 2]))
        for turn, where in enumerate(among)
    ]


def _train_step(trainer: Trainer, parts: Sequence[Batch], start: float, waited: float) -> StepResult:
    networks, step = trainer.networks, trainer.step
    trainer.optimizer.zero_grad(set_to_none=True)
    tally = Tally()
    for part, scope in zip(parts, _scopes(trainer, parts), strict=True):
        torch.autograd.backward(_loss(trainer, part, scope, tally))
    parameters = [p for p in networks.parameters() if p.requires_grad]
    trainer.world.sum_gradients(parameters)
    lr = trainer.lr(step)
    for group in trainer.optimizer.param_groups:
        group["lr"] = lr
    if trainer.config.train.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(networks.parameters(), trainer.config.train.clip_norm)
    trainer.optimizer.step()
    result = tally.result(
        trainer.world,
        step=step,
        epoch=step // trainer.steps_per_epoch,
        stage=trainer.stage,
        lr=lr,
        seconds=time.perf_counter() - start,
        wait_seconds=waited,
    )
    if _balances(trainer):
        trainer.shares.update(torch.stack([tally.total("mass_image"), tally.total("mass_points")]))
    return result


def _balances(trainer: Trainer) -> bool:
    return trainer.stage == 2 and trainer.config.switch.balance > 0


def _loss(trainer: Trainer, batch: Batch, scope: _Scope | None, tally: Tally) -> Tensor:
    """The loss of a batch; of a part of a step its share, all parts' adding up to that of the step."""
    config, networks, step = trainer.config, trainer.networks, trainer.step
    among, labelled = (None, None) if scope is None else (scope.among, scope.labelled)
    with _seeded(config.seed, step, trainer.device, 0 if scope is None else scope.part), trainer.autocast():
        image, points = _outputs(trainer, batch, scope)
    size = tuple(batch.labels.shape[1:])
    full = F.interpolate(image.logits, size=size, mode="bilinear", align_corners=False)
    with torch.no_grad():
        scores = full, points.logits
        if trainer.stage == 2 and config.switch.predictions == "eval":
            scores = _predict_as_tested(trainer, batch, scope)
        predicted = scores[0].argmax(1), scores[1].argmax(1)
        chosen = predicted
        if _balances(trainer):
            tally.add("mass_image", class_mass(scores[0]))
            tally.add("mass_points", class_mass(scores[1]))
            of = [trainer.shares.labels(one, i, config.switch.balance) for i, one in enumerate(scores)]
            chosen = of[0], of[1]
        targets, sources = _targets(trainer, batch, chosen, among)
    pixels, pairs, voxels = (None,) * 3 if labelled is None else labelled.unbind()
    with torch.set_grad_enabled(config.train.image_weight > 0):  # else it is only watched
        loss_image = image_cross_entropy(full, targets.image, pixels)
    with torch.set_grad_enabled(config.train.points_weight > 0):
        loss_points = pair_cross_entropy(points.logits, batch.pair_voxel, targets.pairs, pairs)
    loss = config.train.image_weight * loss_image + config.train.points_weight * loss_points
    latent = latent_consistency(networks, config, trainer.text, step, image, points, batch, among)
    if latent is not None:
        loss = loss + config.latent.weight * latent.loss
        tally.add("loss_latent", latent.loss)
        tally.add("latent_rows", latent.rows)
        for network, directions in zip(("image", "points", "target"), latent.directions, strict=True):
            tally.add(f"variance_{network}", directions)
    if batch.distill and config.distill.weight > 0:
        images = None if among is None else among.images
        distances = distill_distances(networks, image, points, batch, images, voxels)
        distilled = torch.stack(distances).sum()
        loss = loss + config.distill.weight * distilled
        tally.add("loss_distill", distilled)
    for name, value in (("loss", loss), ("loss_image", loss_image), ("loss_points", loss_points)):
        tally.add(name, value)
    tally.add_targets(targets)
    classes = len(trainer.text)
    tally.add_classes("classes_image", predicted[0], classes)
    tally.add_classes("classes_points", predicted[1][batch.pair_voxel], classes)
    tally.add_classes("labels_image", sources.on_image("clip"), classes)
    tally.add_classes("labels_points", sources.on_pairs("clip"), classes)
    return loss


def _outputs(trainer: Trainer, batch: Batch, scope: _Scope | None) -> tuple[Output, Output]:
    networks, text = trainer.networks, trainer.text
    no_images, no_voxels = (None, None) if scope is None else (scope.no_images, scope.no_voxels)
    image = networks.run_images(batch.images, text, no_images)
    return image, networks.run_points(batch.coords, batch.inputs, text, no_voxels)


def _targets(
    trainer: Trainer, batch: Batch, predicted: tuple[Tensor, Tensor], among: Among | None
) -> tuple[Targets, Sources]:
    """The labels of a step, given what the networks predict."""
    config, step = trainer.config, trainer.step
    switch = CLIP_ONLY if trainer.stage == 1 else config.switch
    sources = Sources(batch, *predicted, config.refine, len(trainer.text))
    return draw_targets(sources, batch, switch, stream(config.seed, SWITCH, step), among), sources


def _predict_as_tested(trainer: Trainer, batch: Batch, scope: _Scope | None) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) and (V, C) logits of the networks without dropout, on their running statistics."""
    trainer.networks.eval()
    with trainer.autocast():
        of_images, of_points = _outputs(trainer, batch, scope)
    size = tuple(batch.labels.shape[1:])
    image = F.interpolate(of_images.logits, size=size, mode="bilinear", align_corners=False)
    trainer.networks.train()
    return image, of_points.logits


@contextmanager
def _seeded(seed: int, step: int, device: str, part: int) -> Iterator[None]:
    """Dropout depends on seed, step and part alone; the caller's generator is left alone."""
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    rng = stream(seed, DROPOUT, step, part) if part else stream(seed, DROPOUT, step)
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(rng.integers(2**62)))
        yield
