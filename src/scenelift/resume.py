"""Where an earlier start of a run, or a run with the same stage 1, has come to."""

from __future__ import annotations

import json
import os
from typing import Any

import torch

from scenelift import checkpoint
from scenelift.cache import Cache, Key
from scenelift.cotrain import Trainer
from scenelift.runfolder import RunFolder


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
        records = folder.read_log()[: trainer.step]
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
