"""Which scenes of a step a process draws, where several train together or gradients are accumulated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from scenelift.batches import Batch, draw_parts, drawn_ahead
from scenelift.config import Config
from scenelift.errors import ConfigError
from scenelift.store import SceneStore
from scenelift.world import World


class Share(NamedTuple):
    """The parts of each step that one process draws.

    Attributes:
        parts: of a step.
        own: numbers of those to draw.
    """

    parts: int
    own: range


def share_of(config: Config, world: World) -> Share:
    """What a process draws: ``train.accumulate`` consecutive parts of each step.

    Raises:
        ConfigError: the scenes of a step cannot be dealt to so many evenly.
    """
    train = config.train
    parts = world.size * train.accumulate
    if train.scenes_per_step % parts:
        raise ConfigError(
            f"train.scenes_per_step: expected a multiple of {parts} ({world.size} devices x train.accumulate="
            f"{train.accumulate}), found {train.scenes_per_step}; it counts those of all devices"
        )
    return Share(parts, range(world.rank * train.accumulate, (world.rank + 1) * train.accumulate))


def workers_of(config: Config, device: str) -> int:
    """How many threads draw batches, see `TrainConfig.workers`."""
    chosen = config.train.workers
    return (0 if device == "cpu" else 1) if chosen is None else chosen


def shared_batches(
    store: SceneStore, config: Config, share: Share, first: int, last: int, workers: int = 0
) -> Iterator[list[Batch]]:
    """As `batches`: the parts of each step that ``share`` names."""
    yield from drawn_ahead(lambda step: draw_parts(store, config, step, *share), first, last, workers)
