"""Two processes on one tiny step; run as a script in each of them."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fixtures_scenes import CLASSES, annotated, tiny_config
from scenelift.batches import Batch
from scenelift.config import Config
from scenelift.cotrain import Trainer, cotrain
from scenelift.evaluate import Evaluation, evaluate
from scenelift.models.networks import Networks
from scenelift.predict import NetworkPair, Predictor
from scenelift.shares import share_of, shared_batches
from scenelift.store import SceneStore
from scenelift.world import ALONE, World, join

STEPS = 4
"""Two of stage 1, two of stage 2."""

KEYS: dict[str, Any] = {
    "train": {"scenes_per_step": 2, "epochs": 4, "switch_after": 2, "clip_norm": 1.0, "max_points": 60},
    "switch": {"granularity": "pixel"},
    "distill": {"weight": 0.5},
    "latent": {"target": "masks+labels", "group_m": 0.5, "max_pairs": 40},
}
"""Everything that looks beyond a single scene."""


def double(batch: Batch) -> Batch:
    """In float64, whatever is a number; feature grids are brought to the text's dtype by the losses."""

    def widen(value: Any) -> Any:
        return value.double() if isinstance(value, Tensor) and value.dtype == torch.float32 else value

    return Batch(**{item.name: widen(getattr(batch, item.name)) for item in fields(batch)})


def train(
    config: Config, folder: Path, world: World = ALONE, names: tuple[str, ...] = ("scene0", "scene1")
) -> tuple[dict[str, Tensor], list[Any], Any]:
    """A few steps in float64; gradients of the last one, all state, and what was told."""
    source, annotations = annotated(folder, points=200)
    store = SceneStore(source, names, annotations, config.latent.target, distill=True)
    networks = Networks(config.networks, config.latent, 8, store.target_dim(), config.seed).double()
    text = torch.eye(4, 8, dtype=torch.float64)
    trainer = Trainer(networks, config, text, 1, "cpu", world)
    drawn = shared_batches(store, config, share_of(config, world), 0, STEPS, 0)
    records, tensors = [], {}
    for result in cotrain(trainer, ([double(part) for part in parts] for parts in drawn)):
        records.append({key: v for key, v in result.record().items() if not key.endswith("seconds")})
        if trainer.step in (1, STEPS):
            for name, parameter in networks.named_parameters():
                if parameter.grad is not None:
                    tensors[f"grad {trainer.step} {name}"] = parameter.grad.clone()
    tensors.update({f"state {name}": value.clone() for name, value in networks.state_dict().items()})
    return tensors, records, (source, annotations)


def judge(config: Config, data: Any, world: World = ALONE) -> Evaluation:
    """Untrained networks on all scenes."""
    source, annotations = data
    networks = Networks(config.networks, config.latent, 8, 11, config.seed)
    pair = NetworkPair(networks, torch.eye(4, 8), config, "cpu", "digest", True)
    predictor = Predictor(config, pair, annotations)
    return evaluate(source, source.names("train"), CLASSES, predictor, world=world)


def as_plain(evaluation: Evaluation) -> dict[str, Any]:
    return {key: value for key, value in evaluation.to_json().items() if key != "seconds"}


def main(out: Path) -> None:
    world = join(2, 1, "cpu")
    own = out / str(world.rank)
    config = tiny_config(**KEYS)
    for what, names in (("one", ("scene0",)), ("both", ("scene0", "scene1"))):
        tensors, records, data = train(config, own / what, world, names)
        tensors = {key: value.contiguous() for key, value in tensors.items()}
        save_file(tensors, out / f"{what}{world.rank}.safetensors")
        (out / f"{what}{world.rank}.json").write_text(json.dumps(records))
    evaluation = as_plain(judge(config, data, world))
    told = {"evaluation": evaluation, "gathered": world.gather({"ä": world.rank})}
    (out / f"{world.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
