"""Where the weights of a teacher are, what they are, and how they are read.

A specification is a hub id (``org/name`` or ``org/name@revision``), a folder as `save_pretrained` writes it,
or a single foreign checkpoint file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Weights:
    """Weights that are on this machine.

    Attributes:
        path: the folder, or the file of a foreign checkpoint.
        origin: for people: the hub id with revision and commit, or the path.
        digest: hex digest of all that answers depend on: configuration, parameters, tokenizer.
        model_type: of ``config.json``, such as ``"clip"``, ``"sam"``; ``""`` for a foreign checkpoint.
    """

    path: Path
    origin: str
    digest: str
    model_type: str


def find_weights(spec: str, key: str, kinds: tuple[str, ...], download: bool = False) -> Weights:
    """Find the weights of a specification; nothing is fetched unless ``download`` allows it."""
    raise NotImplementedError


def load_model(load: Callable[..., Any], weights: Weights) -> Any:
    """A transformers model from these weights, in eval mode, without gradients, on the CPU."""
    import torch

    with torch.random.fork_rng(devices=[]):
        model = load(weights.path)
    return model.eval().requires_grad_(False)
