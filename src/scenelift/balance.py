"""Balanced self-labels: what a network predicts, less what it predicts anyway.

A network trained on noisy labels gives the frequent class wherever it is unsure. Its own predictions, taken
for labels, make frequent classes more frequent, until little else is left. So the class shares that a network
has shown lately leave its scores before they become labels: argmax log p(c) − balance · log share(c), a logit
adjustment (https://arxiv.org/abs/2007.07314; the shares are the network's own, as in distribution
alignment, https://arxiv.org/abs/1911.09785, so no ground truth is needed). Not in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOMENTUM = 0.95
"""Of the running shares. They span some twenty steps: a class that one room lacks is not taken for dead."""
FLOOR = 1e-4
"""A share is taken for at least this: a class that has died comes back where it is likely, not everywhere."""


class RunningShares:
    """The mean probability of each class over the last steps, for the 2D and the 3D network.

    Attributes:
        shares: (2, C) float64 on the CPU, rows summing to 1; ``None`` before the first step.
    """

    def __init__(self) -> None:
        self.shares: Tensor | None = None

    def update(self, mass: Tensor) -> None:
        """Take in a step. ``mass``: (2, C) sums of probabilities; a row of zeros changes nothing."""
        total = mass.double().cpu().sum(1, keepdim=True)
        fresh = mass.double().cpu() / total.clamp(min=1e-12)
        if self.shares is None:
            even = torch.full_like(fresh, 1 / fresh.shape[1])
            self.shares = torch.where(total > 0, fresh, even)
        else:
            mixed = MOMENTUM * self.shares + (1 - MOMENTUM) * fresh
            self.shares = torch.where(total > 0, mixed, self.shares)

    def labels(self, logits: Tensor, network: int, balance: float) -> Tensor:
        """Labels of (n, C, ...) logits, (n, ...) int64; ``network``: 0 = 2D, 1 = 3D."""
        if self.shares is None or balance == 0:
            return logits.argmax(1)
        bias = balance * self.shares[network].clamp(min=FLOOR).log()
        shape = (1, -1) + (1,) * (logits.dim() - 2)
        return (logits.float() - bias.to(logits.device, torch.float32).view(shape)).argmax(1)


def class_mass(logits: Tensor) -> Tensor:
    """(C,) float64 sums of the probabilities of (n, C, ...) logits."""
    return logits.detach().float().softmax(1).transpose(0, 1).flatten(1).sum(1, dtype=torch.float64)
