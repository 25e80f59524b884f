"""Distillation of the label teacher's features: places, losses against loops, and learning."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures_scenes import TinySource, annotated, tiny_config
from scenelift.annotations import Annotations
from scenelift.augment import draw_image_transform
from scenelift.batches import Batch, SceneStore, batches, draw_batch
from scenelift.config import AugmentConfig, Config
from scenelift.cotrain import Trainer, cotrain
from scenelift.distill import cell_places, distill_distances
from scenelift.errors import ConfigError
from scenelift.models.networks import Networks
from test_cotrain import slow_sample

OFF = {"latent": {"weight": 0.0}, "train": {"image_weight": 0.0, "points_weight": 0.0}}
HEAD = {"networks": {"head": {"normalize": True}}}
NAMES = ("scene0", "scene1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinySource, Annotations]:
    return annotated(tmp_path_factory.mktemp("distill"), points=200)


@pytest.fixture
def store(data: tuple[TinySource, Annotations]) -> SceneStore:
    return SceneStore(data[0], NAMES, data[1], None, distill=True)


def config(**overrides: Any) -> Config:
    keys = {"distill": {"weight": 1.0}, **OFF, **HEAD, **overrides}
    keys["train"] = {**OFF["train"], "scenes_per_step": 2, **overrides.get("train", {})}
    return tiny_config(**keys)


def trainer_of(config: Config, steps: int = 10) -> Trainer:
    return Trainer(
        Networks(config.networks, config.latent, 8, 0, config.seed), config, torch.eye(4, 8), steps
    )


# --- places ----------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=60, deadline=None)
def test_places_lead_back_where_pixels_came_from(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(8, 60, 2))
    crop = (int(rng.integers(8, 70)), int(rng.integers(8, 70))) if rng.random() < 0.5 else None
    transform = draw_image_transform((height, width), AugmentConfig(scale=(1.0, 2.0), crop=crop), rng)
    uv = (rng.random((20, 2)) * [width, height] - 0.5).astype(np.float32)
    share = (np.stack(transform.pixels(uv), 1) + 0.5) / [transform.width, transform.height]
    places = transform.places(height)
    back = (share * places[:, 0] + places[:, 1]) * [width, height] - 0.5
    np.testing.assert_allclose(back, uv, atol=2e-3)


def test_cells_lie_evenly_and_row_by_row() -> None:
    plain = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    mirrored = torch.tensor([[-0.5, 1.0], [0.5, 0.25]])
    image, position = cell_places(torch.stack([plain, mirrored]), 2, 4)
    assert image.tolist() == [0] * 8 + [1] * 8
    want = [[(x + 0.5) / 4, (y + 0.5) / 2] for y in range(2) for x in range(4)]
    assert position[:8].tolist() == want
    assert position[8:].tolist() == [[1 - x / 2, y / 2 + 0.25] for x, y in want]


# --- batches ---------------------------------------------------------------------------------------------


def test_a_batch_without_distillation_is_as_ever(
    data: tuple[TinySource, Annotations], store: SceneStore
) -> None:
    plain = draw_batch(SceneStore(data[0], NAMES, data[1], "masks"), config(), 3)
    assert plain.distill == ()
    more = draw_batch(SceneStore(data[0], NAMES, data[1], "masks", distill=True), config(), 3)
    for name in Batch.__dataclass_fields__:
        if name not in ("distill", "target_grids"):
            assert torch.equal(getattr(plain, name), getattr(more, name)), name
    assert len(plain.target_grids) == len(more.target_grids) == 1
    assert torch.equal(plain.target_grids[0], more.target_grids[0])
    assert store.target_dim() == 0
    assert draw_batch(store, config(), 3).target_grids == ()


def test_both_uses_of_label_features_go_together(data: tuple[TinySource, Annotations]) -> None:
    store = SceneStore(data[0], NAMES, data[1], "masks+labels", distill=True)
    batch = draw_batch(store, config(), 0)
    assert store.target_dim() == 3 + 8
    assert [grid.shape[1] for grid in batch.target_grids] == [3, 8]
    assert torch.equal(batch.distill[0], batch.target_grids[1])


def test_grids_and_voxels_of_a_batch(data: tuple[TinySource, Annotations], store: SceneStore) -> None:
    settings = config(train={"frames_per_scene": 4})
    batch = draw_batch(store, settings, 1)
    grids, places, of_voxels = batch.distill
    assert (grids.dtype, places.dtype, of_voxels.dtype) == (torch.float16, torch.float32, torch.float16)
    assert len(grids) == len(places) == len(batch.images) == 8
    assert of_voxels.shape == (len(batch.coords), 8)
    length = of_voxels.float().norm(dim=1)
    torch.testing.assert_close(length, torch.ones(len(length)), atol=2e-3, rtol=0)  # all points are seen here
    # Voxels and pairs belong together: the pixels' labels are those their voxels' features are nearest to.
    at_pixel = batch.labels[batch.pair_image, batch.pair_row, batch.pair_col]
    assert (of_voxels[batch.pair_voxel, :4].argmax(1) == at_pixel).float().mean() > 0.8


def test_cut_away_points_are_left_out(store: SceneStore) -> None:
    batch = draw_batch(store, config(train={"max_points": 20}), 0)
    assert len(batch.distill[2]) == len(batch.coords) <= 40


# --- the loss --------------------------------------------------------------------------------------------


def test_distances_against_loops(store: SceneStore) -> None:
    settings = config(augment={"scale": [1.0, 1.6]}, train={"frames_per_scene": 2})
    trainer, batch = trainer_of(settings), draw_batch(store, settings, 5)
    networks = trainer.networks.eval()
    image = networks.run_images(batch.images, trainer.text)
    points = networks.run_points(batch.coords, batch.inputs, trainer.text)
    in_2d, in_3d = distill_distances(networks, image, points, batch)
    grids, places, of_voxels = batch.distill
    _, _, h, w = image.features.shape
    rows = []
    for b in range(len(grids)):
        for r in range(h):
            for c in range(w):
                x = float((c + 0.5) / w * places[b, 0, 0] + places[b, 0, 1])
                y = float((r + 0.5) / h * places[b, 1, 0] + places[b, 1, 1])
                wanted = slow_sample(grids[b].double(), x, y)
                own = networks.image_head.linear(image.features[b, :, r, c]).double()
                rows.append(1 - own @ wanted / own.norm() / wanted.norm())
    assert float(in_2d.detach()) == pytest.approx(float(torch.stack(rows).mean().detach()), abs=1e-4)
    rows = []
    for own, wanted in zip(
        networks.points_head.linear(points.features).double(), of_voxels.double(), strict=True
    ):
        if wanted.any():
            rows.append(1 - own @ wanted / own.norm() / wanted.norm())
    assert float(in_3d.detach()) == pytest.approx(float(torch.stack(rows).mean().detach()), abs=1e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_length_does_not_matter(normalize: bool, store: SceneStore) -> None:
    settings = config(networks={"head": {"normalize": normalize}})
    trainer, batch = trainer_of(settings), draw_batch(store, settings, 0)
    networks = trainer.networks.eval()
    image = networks.run_images(batch.images, trainer.text)
    points = networks.run_points(batch.coords, batch.inputs, trainer.text)
    before = distill_distances(networks, image, points, batch)
    with torch.no_grad():
        for head in (networks.image_head, networks.points_head):
            head.linear.weight.mul_(7)
            head.linear.bias.mul_(7)
    for have, want in zip(distill_distances(networks, image, points, batch), before, strict=True):
        assert float(have.detach()) == pytest.approx(float(want.detach()), abs=1e-5)


def test_images_alone_have_no_voxels_to_distil(store: SceneStore) -> None:
    batch = draw_batch(store, config(), 0)
    fields = {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
    fields["coords"], fields["inputs"] = batch.coords[:0], batch.inputs[:0]
    for name in ("pair_image", "pair_row", "pair_col", "pair_voxel", "pair_position"):
        fields[name] = fields[name][:0]
    fields["distill"] = (*batch.distill[:2], batch.distill[2][:0])
    trainer = trainer_of(config(train={"weight_decay": 0.0}))
    before = copy.deepcopy(trainer.networks.state_dict())
    (result,) = cotrain(trainer, [Batch(**fields)])
    assert result.loss_distill is not None
    assert 0 < result.loss_distill == pytest.approx(result.loss)
    after = trainer.networks.state_dict()
    assert not torch.equal(after["image_head.linear.weight"], before["image_head.linear.weight"])
    assert torch.equal(after["points_head.linear.weight"], before["points_head.linear.weight"])


def test_only_the_distance_is_minimised_where_the_others_have_no_weight(store: SceneStore) -> None:
    """Cross-entropies are watched, and pull at nothing."""
    settings = config(distill={"weight": 0.5}, train={"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0})
    trainer, batch = trainer_of(settings), draw_batch(store, settings, 0)
    reference = copy.deepcopy(trainer.networks).train()
    image = reference.run_images(batch.images, trainer.text)
    points = reference.run_points(batch.coords, batch.inputs, trainer.text)
    loss = 0.5 * sum(distill_distances(reference, image, points, batch), torch.zeros(()))
    loss.backward()
    (result,) = cotrain(trainer, [batch])
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-4)
    assert result.loss_image > 0
    assert result.loss_points > 0
    for (name, have), before in zip(trainer.networks.named_parameters(), reference.parameters(), strict=True):
        if before.grad is not None:
            torch.testing.assert_close(
                have.detach(), before.detach() - 0.1 * before.grad, atol=1e-4, rtol=1e-3
            )
        else:
            assert torch.equal(have, before), name


def test_embeddings_move_towards_the_teachers(store: SceneStore) -> None:
    settings = config(train={"epochs": 1, "switch_after": 1, "scenes_per_step": 1, "lr": 0.01})
    trainer = trainer_of(settings, steps=10)
    results = list(cotrain(trainer, batches(store, settings, 0, 10)))
    losses = [result.loss_distill for result in results]
    assert losses[0] is not None
    assert losses[-1] is not None
    assert losses[-1] < 0.7 * losses[0]


def test_nothing_to_learn_is_told() -> None:
    with pytest.raises(ConfigError, match=r"expected a loss with a weight above 0.*distill\.weight"):
        trainer_of(config(distill={"weight": 0.0}))


def test_off_means_off(data: tuple[TinySource, Annotations], tmp_path: Path) -> None:
    settings = tiny_config(latent={"weight": 0.0})
    store = SceneStore(data[0], NAMES, data[1], None)
    trainer = trainer_of(settings)
    (result,) = cotrain(trainer, [draw_batch(store, settings, 0)])
    assert result.loss_distill is None
