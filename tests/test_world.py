"""Training by two processes, or in parts, against one process: the same gradients, figures and files."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fixtures_world
from fixtures_scenes import annotated, tiny_config
from fixtures_world import KEYS, as_plain, judge, train
from scenelift.batches import Batch, draw_batch, draw_parts
from scenelift.cotrain import Trainer, cotrain
from scenelift.errors import ConfigError
from scenelift.models.networks import Networks
from scenelift.models.points import VoxelBatchNorm
from scenelift.models.world_norm import WorldBatchNorm, synchronise
from scenelift.shares import share_of, shared_batches
from scenelift.store import SceneStore
from scenelift.world import ALONE, World


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    source, annotations = annotated(tmp_path_factory.mktemp("world"), points=200)
    return SceneStore(source, source.names("train"), annotations, "masks", distill=True)


# --- two processes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have left."""
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, fixtures_world.__file__, str(out)],
            env={**os.environ, **places, "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return out


def assert_same_training(two: Path, what: str, want: dict[str, Tensor], records: list[Any]) -> None:
    first, second = (load_file(two / f"{what}{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys() == want.keys()
    assert sum(key.startswith("grad 1 ") for key in want) > 100
    assert [key for key in want if not torch.equal(first[key], second[key])] == []
    told = [json.loads((two / f"{what}{rank}.json").read_text()) for rank in range(2)]
    assert told[0] == told[1]
    for key, value in want.items():
        assert torch.allclose(first[key], value, rtol=1e-9, atol=1e-9), key
    for have, record in zip(told[0], json.loads(json.dumps(records)), strict=True):
        assert have.keys() == record.keys()
        for key, value in record.items():
            assert have[key] == pytest.approx(value, rel=1e-6, abs=1e-6), key


def test_two_processes_train_as_one(two: Path, tmp_path: Path) -> None:
    """All losses, both stages, draws for each pixel, a crop of points, pairs of a sample, clipped norms."""
    want, records, data = train(tiny_config(**KEYS), tmp_path)
    assert_same_training(two, "both", want, records)
    told = [json.loads((two / f"{rank}.json").read_text()) for rank in range(2)]
    assert told[0]["evaluation"] == told[1]["evaluation"]
    alone = json.loads(json.dumps(as_plain(judge(tiny_config(**KEYS), data))))
    assert told[0]["evaluation"] == alone
    assert list(told[0]["evaluation"]["scenes"]) == list(alone["scenes"])
    assert told[0]["gathered"] == told[1]["gathered"] == [{"ä": 0}, {"ä": 1}]


def test_a_process_without_a_scene_takes_part(two: Path, tmp_path: Path) -> None:
    """One scene for two: the first process has no image and no voxel, in no step."""
    want, records, _ = train(tiny_config(**KEYS), tmp_path, names=("scene0",))
    assert_same_training(two, "one", want, records)


# --- batch normalisation -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 5, 2)])
def test_alone_it_is_torchs(shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=random, dtype=torch.float64) * 3 + 5
    plain: Any = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(3, momentum=0.3).double()
    nn.init.normal_(plain.weight, generator=random)
    ours = WorldBatchNorm(copy.deepcopy(plain), ALONE)
    results = []
    for norm in (plain, ours):
        given = x.clone().requires_grad_()
        y = norm(given)
        (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(shape)).sum().backward()
        results.append([y, given.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()])
        norm.eval()
        results[-1].append(norm(x))
    for have, want in zip(*results, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-11, atol=1e-11)


def test_few_rows() -> None:
    voxels = WorldBatchNorm(VoxelBatchNorm(3), ALONE)
    for rows in (0, 1):
        x = torch.ones(rows, 3)
        assert torch.equal(voxels(x), VoxelBatchNorm(3)(x))
    assert int(voxels.num_batches_tracked) == 0
    with pytest.raises(ConfigError, match="at least 2 images in a step, found 1"):
        WorldBatchNorm(nn.BatchNorm2d(3), ALONE)(torch.ones(1, 3, 1, 1))


def test_names_and_tensors_stay() -> None:
    config = tiny_config()
    networks = Networks(config.networks, config.latent, 8, 3)
    before = {key: value.data_ptr() for key, value in networks.state_dict().items()}
    synchronise(networks, ALONE)
    assert {key: value.data_ptr() for key, value in networks.state_dict().items()} == before
    assert not any(type(m) in (nn.BatchNorm2d, VoxelBatchNorm) for m in networks.modules())


# --- parts of a step -----------------------------------------------------------------------------------


def assert_parts_are_the_whole(parts: list[Batch], whole: Batch) -> None:
    seen = [part for part in parts if len(part.images)]
    for name in ("images", "labels", "mask_ids"):
        assert torch.equal(torch.cat([getattr(part, name) for part in seen]), getattr(whole, name)), name
    for name in ("inputs", "pair_row", "pair_col", "pair_position"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name
    for index in range(3):
        assert torch.equal(torch.cat([part.distill[index] for part in parts]), whole.distill[index])
    assert torch.equal(torch.cat([part.coords[:, 1:] for part in parts]), whole.coords[:, 1:])
    for name, counted in (("pair_image", "images"), ("pair_voxel", "coords")):
        before, found = 0, []
        for part in parts:
            found.append(getattr(part, name) + before)
            before += len(getattr(part, counted))
        assert torch.equal(torch.cat(found), getattr(whole, name)), name


@pytest.mark.parametrize("max_points", [None, 40])
def test_parts_are_the_whole(store: SceneStore, max_points: int | None) -> None:
    config = tiny_config(train={"scenes_per_step": 2, "max_points": max_points})
    whole = draw_batch(store, config, 3)
    one_each = [draw_parts(store, config, 3, 2, range(rank, rank + 1))[0] for rank in range(2)]
    assert all(len(part.images) for part in one_each)
    assert_parts_are_the_whole(one_each, whole)
    with_nothing = draw_parts(store, config, 3, 3, range(3))  # two scenes for three
    assert sorted(len(part.images) for part in with_nothing)[0] == 0
    assert_parts_are_the_whole(with_nothing, whole)


def test_scenes_have_to_be_dealt_evenly() -> None:
    config = tiny_config(train={"scenes_per_step": 6, "accumulate": 2})
    assert share_of(config, World(1, 3)) == (6, range(2, 4))
    with pytest.raises(ConfigError, match=r"a multiple of 4 \(2 devices x train.accumulate=2\), found 6"):
        share_of(config, World(1, 2))


# --- accumulation, memory, precision -------------------------------------------------------------------


def gradients(
    store: SceneStore, fixed_norms: bool = False, **keys: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Of the third step, in stage 2; running statistics; the loss."""
    config = tiny_config(**{**KEYS, "latent": {"target": "masks"}, "train": {**KEYS["train"], **keys}})
    networks = Networks(config.networks, config.latent, 8, store.target_dim(), config.seed)
    if fixed_norms:
        for norm in networks.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.eval()
                norm.train = lambda mode=True, norm=norm: norm  # type: ignore[method-assign]
    trainer = Trainer(networks, config, torch.eye(4, 8), 1)
    trainer.step = 2
    (result,) = cotrain(trainer, shared_batches(store, config, share_of(config, ALONE), 2, 3, 0))
    grads = {name: p.grad for name, p in networks.named_parameters() if p.grad is not None}
    return grads, dict(networks.named_buffers()), result.loss


def test_accumulated_gradients_are_those_of_the_whole_step(store: SceneStore) -> None:
    whole, _, loss = gradients(store, fixed_norms=True)
    parts, _, loss_of_parts = gradients(store, fixed_norms=True, accumulate=2)
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    assert parts.keys() == whole.keys()
    for name, grad in whole.items():
        torch.testing.assert_close(parts[name], grad, rtol=1e-3, atol=1e-6)


def test_forgotten_activations_change_nothing(store: SceneStore) -> None:
    want, statistics, _ = gradients(store)
    have, statistics_too, _ = gradients(store, activation_checkpointing=True)
    assert [name for name in want if not torch.equal(have[name], want[name])] == []
    assert [name for name in statistics if not torch.equal(statistics_too[name], statistics[name])] == []


def test_forgotten_activations_are_not_kept(store: SceneStore) -> None:
    """Fewer bytes wait for the backward pass."""

    def kept(forget: bool) -> int:
        config = tiny_config(train={"activation_checkpointing": forget})
        networks = Networks(config.networks, config.latent, 8, 3)
        Trainer(networks, config, torch.eye(4, 8), 1)
        batch, total = draw_batch(store, config, 0), 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            networks.run_images(batch.images, torch.eye(4, 8))
            networks.run_points(batch.coords, batch.inputs, torch.eye(4, 8))
        return total

    assert kept(True) < 0.7 * kept(False)


def test_half_precision(store: SceneStore) -> None:
    want, _, loss = gradients(store)
    have, _, loss_in_half = gradients(store, precision="bf16-mixed")
    assert loss_in_half == pytest.approx(loss, rel=0.05)
    assert loss_in_half != loss
    assert all(grad.dtype == torch.float32 and bool(grad.isfinite().all()) for grad in have.values())
    flat = [torch.cat([grad.reshape(-1) for grad in grads.values()]) for grads in (have, want)]
    assert float(nn.functional.cosine_similarity(*flat, dim=0)) > 0.95


def test_what_changes_results_is_in_the_digest() -> None:
    plain = tiny_config().digest("train")
    for key, value in (("precision", "bf16-mixed"), ("accumulate", 2), ("compile_image", True)):
        assert tiny_config(train={key: value}).digest("train") != plain


def test_the_image_network_is_compiled_when_asked() -> None:
    config = tiny_config(train={"compile_image": True})
    networks = Networks(config.networks, config.latent, 8, 3)
    names = list(networks.state_dict())
    Trainer(networks, config, torch.eye(4, 8), 1)
    assert networks.image._compiled_call_impl is not None
    assert list(networks.state_dict()) == names
