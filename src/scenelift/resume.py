"""Where an earlier start of a run, or a run with the same stage 1, has come to."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import torch

from scenelift import checkpoint
from scenelift.cache import Cache, Key
from scenelift.cotrain import Trainer
from scenelift.errors import CacheError
from scenelift.runfolder import RunFolder

_log = logging.getLogger(__name__)


def share_stage1(cache: Cache, stage1: Key, trainer: Trainer, records: Sequence[dict[str, Any]]) -> None:
    """Keep the end of stage 1 for runs that share it; a cache that is read-only or full does without."""
    arrays = {key: value.numpy() for key, value in checkpoint.pack(trainer).items()}
    try:
        cache.put(stage1, arrays, {"log": json.dumps(records)})
    except CacheError as error:
        _log.warning("the end of stage 1 cannot be kept for other runs: %s", error)


def resume(
    folder: RunFolder, cache: Cache, trainer: Trainer, digest: str, stage1: Key
) -> list[dict[str, Any]]:
    """Put the trainer there, and the log in order.

    Args:
        folder: of the run.
        cache: where ends of stage 1 are.
        trainer: a fresh one, changed in place.
        digest: of the training.
        stage1: of its stage 1.

    Returns:
        The records of the steps behind it.

    Raises:
        RunError: see `checkpoint.restore_training`.
        ConfigError: processes that train together find different states.
    """
    records: list[dict[str, Any]] = []
    restored = checkpoint.restore_training(folder.checkpoint, trainer, digest)
    if restored is not None:
        records = folder.read_log_until(trainer.step, checkpoint.log_of(restored))
    elif trainer.stage1_steps < trainer.total_steps and (entry := cache.get(stage1)) is not None:
        tensors = {key: torch.from_numpy(value) for key, value in entry.arrays.items()}
        checkpoint.unpack(trainer, tensors, f"cache entry {stage1}")
        records = json.loads(str(entry.meta["log"]))
    state = checkpoint.fingerprint(trainer.networks.state_dict())
    trainer.world.expect_same(f"{digest} {trainer.step} {state}", "training")
    if trainer.world.first:
        if restored is not None and restored != folder.checkpoint and folder.checkpoint.is_file():
            # or the next checkpoint would keep the damaged file in place of the good one
            os.replace(folder.checkpoint, folder.checkpoint.with_name("damaged.safetensors"))
        folder.write_log(records)
    return records
