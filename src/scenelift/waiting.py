"""How much of a training's time went by waiting for data, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WINDOW = 50
"""Steps that the share shown during training is taken over."""

LEAST_STEPS = 10
"""Steps before anything is advised."""

HIGH = 0.2
"""Share of waiting from which more workers are worth their memory."""


def waiting_share(log: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of these steps' time that went by waiting for batches; ``None`` if the log does not say."""
    known = [record for record in log if record.get("wait_seconds") is not None and record.get("seconds")]
    if not known:
        return None
    return float(sum(r["wait_seconds"] for r in known) / sum(r["seconds"] for r in known))


def waiting_advice(log: Sequence[Mapping[str, Any]]) -> str | None:
    """A sentence on what to change, if waiting is a large part of these steps; else ``None``."""
    share = waiting_share(log)
    if share is None or len(log) < LEAST_STEPS or share < HIGH:
        return None
    return (
        f"training waited {100 * share:.0f} % of its time for data: raise train.workers while there are idle "
        "cores, and keep data and cache on a fast local disk"
    )
