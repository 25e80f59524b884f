"""What is told of a training step, and how it is summed over parts of a batch and over processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from scenelift.losses import variance_of
from scenelift.switching import Targets, churn, shares
from scenelift.types import IGNORE
from scenelift.world import World


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
        wait_seconds: that wait alone.
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
    wait_seconds: float

    def record(self) -> dict[str, Any]:
        """As a plain dict, for a log."""
        return asdict(self)


class Tally:
    """Sums over what one process has seen of a step; every value is float64 and additive."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._totals: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor | int) -> None:
        """Add a number or vector to what has this name; every process has to use the same names in order."""
        value = torch.as_tensor(value).detach().double().cpu()
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def add_targets(self, targets: Targets) -> None:
        """Where labels came from, and how many differ from the refined teacher's."""
        self.add("pairs", (targets.pairs != IGNORE).sum())
        for name in ("drawn_image", "drawn_points", "changed_image", "changed_points"):
            self.add(name, getattr(targets, name))

    def add_classes(self, name: str, labels: Tensor, classes: int) -> None:
        """How often each class occurs among labels of any shape, `IGNORE` left out."""
        self.add(name, torch.bincount(labels.reshape(-1), minlength=IGNORE + 1)[:classes])

    def total(self, name: str) -> Tensor:
        """What all processes have added to a name, once `result` has been asked for; 1-D."""
        return self._totals[name]

    def result(
        self,
        world: World,
        *,
        step: int,
        epoch: int,
        stage: int,
        lr: float,
        seconds: float,
        wait_seconds: float,
    ) -> StepResult:
        """The sums of all processes, as what is told of the step."""
        names = list(self._sums)
        flat = world.sum(torch.cat([self._sums[name].reshape(-1) for name in names]))
        sizes = [self._sums[name].numel() for name in names]
        found: dict[str, Tensor] = dict(zip(names, torch.split(flat, sizes), strict=True))
        self._totals = found

        def number(name: str) -> float | None:
            return float(found[name]) if name in found else None

        def counts(name: str) -> Tensor:
            return found[name].long()

        def class_shares(name: str) -> tuple[float, ...] | None:
            each = counts(name).tolist()
            total = sum(each)
            return tuple(round(count / total, 4) for count in each) if total else None

        def variance(name: str) -> float | None:
            if name not in found:
                return None
            return float(variance_of(found[name].float(), int(found["latent_rows"])))

        return StepResult(
            step=step,
            epoch=epoch,
            stage=stage,
            lr=lr,
            loss=float(found["loss"]),
            loss_image=float(found["loss_image"]),
            loss_points=float(found["loss_points"]),
            pairs=int(found["pairs"]),
            loss_latent=number("loss_latent"),
            loss_distill=number("loss_distill"),
            source_image=shares(counts("drawn_image")),
            source_points=shares(counts("drawn_points")),
            churn_image=churn(counts("changed_image")),
            churn_points=churn(counts("changed_points")),
            variance_image=variance("variance_image"),
            variance_points=variance("variance_points"),
            variance_target=variance("variance_target"),
            classes_image=class_shares("classes_image"),
            classes_points=class_shares("classes_points"),
            labels_image=class_shares("labels_image"),
            labels_points=class_shares("labels_points"),
            seconds=seconds,
            wait_seconds=wait_seconds,
        )
