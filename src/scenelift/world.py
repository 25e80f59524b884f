"""The processes that train one pair of networks together, and what they tell each other.

Every process holds whole networks and a part of each step's scenes. What they exchange are sums: of
gradients, of statistics, of counts, so that results are those of one process up to rounding. A process alone
(`ALONE`) exchanges nothing and computes as if none of this were here.

Gradients are summed here and not by torch's ``DistributedDataParallel``: losses are divided by counts over
all processes, so a sum is what is wanted, and which parameters a step reaches may differ between processes.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from scenelift.errors import ConfigError, PeerError, one_line

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others before it takes one of them to be lost."""

_BUCKET_BYTES = 64 << 20
"""Gradients are summed in pieces of about this size."""


@dataclass(frozen=True)
class World:
    """All processes of a run, seen from one of them.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        device: where this one computes.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def alone(self) -> bool:
        """Whether there is nobody to talk to."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes, of its shape and dtype; not differentiable."""
        if self.alone:
            return values
        total = values.detach().to(self.device).clone()
        with _contact():
            dist.all_reduce(total)
        return total.to(values.device)

    def all(self, values: Tensor) -> Tensor:
        """(size, ...) the tensors of all processes, by rank; they have one shape and dtype."""
        if self.alone:
            return values[None]
        own = values.detach().to(self.device).contiguous()
        found = [torch.empty_like(own) for _ in range(self.size)]
        with _contact():
            dist.all_gather(found, own)
        return torch.stack(found).to(values.device)

    def gather(self, value: T) -> list[T]:
        """What each process has, by rank: anything that JSON can carry."""
        if self.alone:
            return [value]
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = self.all(torch.tensor([len(own)])).reshape(-1).tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(own)] = own
        rows = self.all(padded).cpu()
        return [json.loads(bytes(row[:size].tolist())) for row, size in zip(rows, sizes, strict=True)]

    def first_does(self, action: Callable[[], None]) -> None:
        """Let the first process do something while the others wait.

        Raises:
            PeerError: it failed, and this is another one; the first raises what it met.
        """
        try:
            if self.first:
                action()
        except Exception:
            with suppress(PeerError):
                self.gather(False)
            raise
        if not all(self.gather(True)):
            raise PeerError("the first process met an error")

    def expect_same(self, value: str, what: str) -> None:
        """Raise `ConfigError` if processes do not agree on a value."""
        found = self.gather(value)
        if len(set(found)) > 1:
            raise ConfigError(
                f"{what}: expected the same in all {self.size} processes, found {len(set(found))} different; "
                "give --out and --cache on storage that all hosts share, and the same data and versions"
            )

    def sum_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes; one that nobody has stays ``None``."""
        if self.alone:
            return
        have = torch.tensor([p.grad is not None for p in parameters]).long()
        somewhere = self.sum(have).tolist()
        bucket: list[torch.nn.Parameter] = []
        size = 0
        for parameter, count in zip(parameters, somewhere, strict=True):
            if not count:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if bucket and (size > _BUCKET_BYTES or bucket[0].dtype != parameter.dtype):
                self._sum_bucket(bucket)
                bucket, size = [], 0
            bucket.append(parameter)
            size += parameter.numel() * parameter.element_size()
        if bucket:
            self._sum_bucket(bucket)

    def _sum_bucket(self, parameters: list[torch.nn.Parameter]) -> None:
        grads = [p.grad for p in parameters if p.grad is not None]
        total = self.sum(torch.cat([grad.reshape(-1) for grad in grads]))
        for grad, part in zip(grads, torch.split(total, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))


ALONE = World()
"""One process."""


@contextmanager
def _contact() -> Iterator[None]:
    """What the communication library raises when a process is gone, as our own error."""
    try:
        yield
    except RuntimeError as error:  # gloo and NCCL have no narrower one
        raise PeerError(
            f"lost contact with another process of this run ({one_line(error)}); the same command goes on "
            "from the last checkpoint"
        ) from None


def join(devices: int, nodes: int, device: str, watched: bool = False) -> World:
    """Meet the other processes, through Lightning Fabric: those of torchrun, of SLURM, or of our own start.

    Args:
        devices: processes on this host.
        nodes: hosts.
        device: ``"cpu"`` or ``"cuda"``.
        watched: by a process of ours that started them: whatever launcher this may seem to run under.

    Raises:
        ConfigError: there are not as many as asked for.
        PeerError: they do not answer.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", os.environ.get("LOCAL_RANK", "0")))):
        logging.getLogger().setLevel(logging.ERROR)  # one process warns for all
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    kind: Any = "cuda" if device.startswith("cuda") else "cpu"
    if kind == "cuda" and torch.cuda.device_count() < devices:
        raise ConfigError(
            f"--devices {devices}: expected as many CUDA devices on this host, found "
            f"{torch.cuda.device_count()}; ask for fewer, or use --device cpu"
        )
    try:
        fabric = Fabric(
            accelerator=kind,
            devices=devices,
            num_nodes=nodes,
            strategy=DDPStrategy(timeout=TIMEOUT),
            plugins=[LightningEnvironment()] if watched else None,
        )
        with _contact():
            fabric.launch()
    except ValueError as error:
        raise ConfigError(f"--devices {devices} --nodes {nodes}: {one_line(error)}") from None
    if fabric.world_size != devices * nodes:
        raise ConfigError(
            f"--devices {devices} --nodes {nodes}: expected {devices * nodes} processes, found "
            f"{fabric.world_size}; give the launcher the same numbers"
        )
    return World(fabric.global_rank, fabric.world_size, str(fabric.device))
