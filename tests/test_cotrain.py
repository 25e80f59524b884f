"""The training loop against a slow reference, and its behaviour on problems small enough to judge."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fixtures_scenes import annotated, tiny_config
from scenelift.batches import Batch, SceneStore, batches, steps_per_epoch
from scenelift.config import Config
from scenelift.cotrain import StepResult, Trainer, cotrain
from scenelift.models.networks import Networks
from scenelift.types import IGNORE

CLASSES, SIZE = 3, 24
TEXT = torch.eye(CLASSES, 8)
PAINT = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]])


def paint_batch(seed: int, images: int = 2, pairs: int = 80) -> Batch:
    """Stripes of three colours and a cloud of the same: every colour is a class, every stripe a mask."""
    random = torch.Generator().manual_seed(seed)
    width = int(torch.randint(4, 9, (), generator=random))
    stripe = torch.arange(SIZE) // width
    order = torch.stack([torch.randperm(CLASSES, generator=random) for _ in range(images)])
    labels = order[:, stripe % CLASSES][:, None, :].expand(images, SIZE, SIZE).contiguous()
    noise = 0.05 * torch.rand(images, 3, SIZE, SIZE, generator=random)
    pictures = PAINT[labels].permute(0, 3, 1, 2) + noise
    cells = torch.randperm(12**3, generator=random)[:240].sort().values
    xyz = torch.stack([cells // 144, cells // 12 % 12, cells % 12], 1)
    coords = torch.cat([torch.zeros(240, 1, dtype=torch.int64), xyz], 1).int()
    of_voxel = xyz[:, 0] // 4
    image = torch.randint(images, (pairs,), generator=random).sort().values
    row, col = torch.randint(SIZE, (2, pairs), generator=random)
    wanted = labels[image, row, col]
    offsets = torch.randint(80, (pairs,), generator=random)
    voxel = torch.stack(
        [
            (of_voxel == c).nonzero()[:, 0][o % (of_voxel == c).sum()]
            for c, o in zip(wanted, offsets, strict=True)
        ]
    )
    return Batch(
        images=pictures,
        labels=labels,
        mask_ids=(stripe + 1).int().expand(images, SIZE, SIZE).contiguous(),
        coords=coords,
        inputs=PAINT[of_voxel] * 2 - 1,
        pair_image=image,
        pair_row=row,
        pair_col=col,
        pair_voxel=voxel,
        pair_position=(torch.stack([col, row], 1) + 0.5) / SIZE,
        target_grids=(F.one_hot(labels[:, ::4, ::4], 5).permute(0, 3, 1, 2).half(),),
    )


def spoiled_batch() -> Batch:
    """Wrong labels inside masks, uncovered pixels, and pixels without a label."""
    batch = paint_batch(1)
    random = torch.Generator().manual_seed(2)
    labels, ids = batch.labels.clone(), batch.mask_ids.clone()
    wrong = torch.rand(labels.shape, generator=random) < 0.3
    labels[wrong] = torch.randint(CLASSES, (int(wrong.sum()),), generator=random)
    ids[:, :5] = 0
    labels[:, :2] = IGNORE
    fields = {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
    grids = (torch.rand(2, 2, 3, 4, generator=random).half(), torch.rand(2, 3, 5, 5, generator=random).half())
    return Batch(**{**fields, "labels": labels, "mask_ids": ids, "target_grids": grids})


def trainer_of(config: Config, steps: int = 10, target_dim: int = 5) -> Trainer:
    networks = Networks(config.networks, config.latent, TEXT.shape[1], target_dim, config.seed)
    return Trainer(networks, config, TEXT, steps)


def one_step(trainer: Trainer, batch: Batch) -> StepResult:
    (result,) = cotrain(trainer, [batch])
    return result


def parameters(trainer: Trainer) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in trainer.networks.state_dict().items()}


# --- the reference -----------------------------------------------------------------------------------


def slow_refine(labels: Tensor, ids: Tensor) -> Tensor:
    """Eq. 4, one mask at a time."""
    refined = labels.clone()
    for b in range(len(labels)):
        for mask in set(ids[b].flatten().tolist()) - {0}:
            inside = ids[b] == mask
            votes = Counter(x for x in labels[b][inside].tolist() if x != IGNORE)
            if votes:
                best = max(votes.values())
                refined[b][inside] = min(label for label, count in votes.items() if count == best)
    return refined


def slow_shares(labels: Tensor) -> tuple[float, ...]:
    """Share of each class among the labels there are."""
    known = [label for label in labels.flatten().tolist() if label != IGNORE]
    return tuple(round(known.count(c) / len(known), 4) for c in range(CLASSES))


def slow_cross_entropy(rows: list[tuple[Tensor, int]]) -> Tensor:
    """Mean of −log softmax over rows of (logits, label)."""
    losses = [logits.exp().sum().log() - logits[label] for logits, label in rows if label != IGNORE]
    return torch.stack(losses).mean()


def slow_sample(grid: Tensor, x: float, y: float) -> Tensor:
    """Bilinear sample of (F, h, w) at shares of width and height, cell centres at (i + ½) / n."""
    _, height, width = grid.shape
    u = min(max(x * width - 0.5, 0.0), width - 1.0)
    v = min(max(y * height - 0.5, 0.0), height - 1.0)
    left, top = math.floor(u), math.floor(v)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    a, b = u - left, v - top
    upper = (1 - a) * grid[:, top, left] + a * grid[:, top, right]
    lower = (1 - a) * grid[:, bottom, left] + a * grid[:, bottom, right]
    return (1 - b) * upper + b * lower


def slow_loss(networks: Networks, batch: Batch, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 5 and 7 of stage 1, term by term: cross-entropy in 2D, in 3D, latent distance."""
    image = networks.run_images(batch.images, TEXT)
    points = networks.run_points(batch.coords, batch.inputs, TEXT)
    labels = slow_refine(batch.labels, batch.mask_ids)
    full = F.interpolate(image.logits, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    pixels = itertools.product(range(len(labels)), range(SIZE), range(SIZE))
    in_2d = slow_cross_entropy([(full[b, :, r, c], int(labels[b, r, c])) for b, r, c in pixels])
    in_3d, latent = [], []
    for p in range(len(batch.pair_image)):
        b, r, c, v = (int(t[p]) for t in (batch.pair_image, batch.pair_row, batch.pair_col, batch.pair_voxel))
        in_3d.append((points.logits[v], int(labels[b, r, c])))
        x, y = batch.pair_position[p].tolist()
        seen = [slow_sample(grid[b].float(), x, y) for grid in batch.target_grids]
        target = networks.target_latent.weight @ torch.cat([one / one.norm() for one in seen])
        here = slow_sample(image.features[b], (c + 0.5) / SIZE, (r + 0.5) / SIZE)
        pair = (networks.image_latent(here), networks.points_latent(points.features[v]))
        latent.append(sum(1 - (z @ target) / (z.norm() * target.norm()) for z in pair))
    return in_2d, slow_cross_entropy(in_3d), torch.stack(latent).mean()


def test_a_step_minimises_eq_5_and_7() -> None:
    config = tiny_config(
        train={
            "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 0.1,
            "image_weight": 0.7, "points_weight": 1.3,
        },
        latent={"weight": 0.5, "max_pairs": None},
    )  # fmt: skip
    trainer, batch = trainer_of(config), spoiled_batch()
    reference = copy.deepcopy(trainer.networks).train()
    in_2d, in_3d, latent = slow_loss(reference, batch, config)
    total = 0.7 * in_2d + 1.3 * in_3d + 0.5 * latent
    total.backward()

    result = one_step(trainer, batch)
    for have, want in [
        (result.loss_image, in_2d),
        (result.loss_points, in_3d),
        (result.loss_latent, latent),
        (result.loss, total),
    ]:
        assert have == pytest.approx(float(want.detach()), rel=1e-4)
    for (name, have), before in zip(trainer.networks.named_parameters(), reference.parameters(), strict=True):
        assert before.grad is not None, name
        want = before.detach() - 0.1 * before.grad
        scale = float(before.grad.abs().max()) + 1e-3
        torch.testing.assert_close(have.detach(), want, atol=1e-3 * scale, rtol=1e-4, msg=name)


def test_eq_6_trains_on_what_the_networks_say() -> None:
    """Own unrefined predictions as labels: the loss is that of each network's best class."""
    config = tiny_config(
        train={"switch_after": 0},
        switch={"clip": 0.0, "image": 0.5, "points": 0.5, "own_only": True},
        refine={"image": False, "points": False},
        latent={"weight": 0.0},
    )
    trainer, batch = trainer_of(config), spoiled_batch()
    reference = copy.deepcopy(trainer.networks).train()
    with torch.no_grad():
        logits = reference.run_images(batch.images, TEXT).logits
        full = F.interpolate(logits, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        of_points = reference.run_points(batch.coords, batch.inputs, TEXT).logits[batch.pair_voxel]
    result = one_step(trainer, batch)
    assert result.stage == 2
    assert result.source_image == {"clip": 0.0, "image": 1.0, "points": 0.0}
    assert result.source_points == {"clip": 0.0, "image": 0.0, "points": 1.0}
    best_2d, best_3d = full.log_softmax(1).amax(1), of_points.log_softmax(1).amax(1)
    assert result.loss_image == pytest.approx(float(-best_2d.mean()), rel=1e-4)
    assert result.loss_points == pytest.approx(float(-best_3d.mean()), rel=1e-4)
    clip = slow_refine(batch.labels, batch.mask_ids)
    known = clip != IGNORE
    churn = (full.argmax(1) != clip)[known].float().mean()
    assert result.churn_image == pytest.approx(float(churn), rel=1e-5)
    on_pairs = clip[batch.pair_image, batch.pair_row, batch.pair_col]
    assert result.classes_image == slow_shares(full.argmax(1))
    assert result.classes_points == slow_shares(of_points.argmax(1))
    assert (result.labels_image, result.labels_points) == (slow_shares(clip), slow_shares(on_pairs))


def test_refined_predictions_are_voted_in_masks() -> None:
    """The 2D network learns from the 3D network's labels: spread over masks, the teacher's elsewhere."""
    config = tiny_config(train={"switch_after": 0}, switch={"clip": 0.0, "image": 0.0, "points": 1.0})
    trainer, batch = trainer_of(config), spoiled_batch()
    reference = copy.deepcopy(trainer.networks).train()
    with torch.no_grad():
        logits = reference.run_images(batch.images, TEXT).logits
        full = F.interpolate(logits, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        said = reference.run_points(batch.coords, batch.inputs, TEXT).logits.argmax(1)
    votes: dict[Any, Counter[int]] = {}
    for b, r, c, v in zip(
        batch.pair_image.tolist(),
        batch.pair_row.tolist(),
        batch.pair_col.tolist(),
        batch.pair_voxel.tolist(),
        strict=True,
    ):
        mask = int(batch.mask_ids[b, r, c])
        votes.setdefault((b, mask) if mask else (b, r, c), Counter())[int(said[v])] += 1
    target = slow_refine(batch.labels, batch.mask_ids)
    for b, r, c in itertools.product(range(2), range(SIZE), range(SIZE)):
        mask = int(batch.mask_ids[b, r, c])
        count = votes.get((b, mask) if mask else (b, r, c))
        if count:
            best = max(count.values())
            target[b, r, c] = min(label for label, n in count.items() if n == best)
    expected = F.cross_entropy(full, target, ignore_index=IGNORE)
    assert one_step(trainer, batch).loss_image == pytest.approx(float(expected), rel=1e-4)


# --- stages and schedules ----------------------------------------------------------------------------


def test_the_stage_changes_after_its_epochs() -> None:
    config = tiny_config(train={"epochs": 3, "switch_after": 2}, switch={"clip": 0, "image": 1, "points": 0})
    trainer = trainer_of(config, steps=2)
    assert (trainer.stage1_steps, trainer.total_steps) == (4, 6)
    results = list(cotrain(trainer, [paint_batch(0)] * 6))
    assert [r.step for r in results] == [0, 1, 2, 3, 4, 5]
    assert [r.epoch for r in results] == [0, 0, 1, 1, 2, 2]
    assert [r.stage for r in results] == [1, 1, 1, 1, 2, 2]
    assert [r.source_image["clip"] for r in results] == [1, 1, 1, 1, 0, 0]
    assert [r.source_points["image"] for r in results] == [0, 0, 0, 0, 1, 1]
    assert all(r.churn_image == r.churn_points == 0 for r in results[:4])
    assert trainer.step == 6
    json.dumps([r.record() for r in results], allow_nan=False)


@pytest.mark.parametrize(("switch_after", "expected"), [(0, 0), (1, 5), (99, 10)])
def test_stage_1_is_no_longer_than_the_training(switch_after: int, expected: int) -> None:
    config = tiny_config(train={"epochs": 2, "switch_after": switch_after})
    assert trainer_of(config, steps=5).stage1_steps == expected


def test_learning_rates() -> None:
    def rates(**train: Any) -> list[float]:
        trainer = trainer_of(tiny_config(train={"epochs": 4, "lr": 0.2, **train}), steps=3)
        return [trainer.lr(step) for step in range(12)]

    assert rates(schedule="constant") == [0.2] * 12
    by_epoch = [0.1 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4) for _ in range(3)]
    assert rates(schedule_step="epoch") == pytest.approx(by_epoch)
    by_step = [0.1 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]
    assert rates(schedule_step="step") == pytest.approx(by_step)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_optimiser_is_torchs_with_the_scheduled_rate(name: str) -> None:
    config = tiny_config(
        train={"optimizer": name, "lr": 0.02, "momentum": 0.8, "weight_decay": 0.1, "epochs": 1},
        latent={"weight": 0.0},
    )
    trainer = trainer_of(config, steps=3)
    reference = copy.deepcopy(trainer.networks).train()
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(reference.parameters(), lr=0.02, momentum=0.8, weight_decay=0.1)
        if name == "sgd"
        else torch.optim.AdamW(reference.parameters(), lr=0.02, weight_decay=0.1)
    )
    batch = paint_batch(4)
    for step in range(3):
        image = reference.run_images(batch.images, TEXT).logits
        full = F.interpolate(image, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        points = reference.run_points(batch.coords, batch.inputs, TEXT).logits[batch.pair_voxel]
        paired = batch.labels[batch.pair_image, batch.pair_row, batch.pair_col]
        optimizer.zero_grad()
        (F.cross_entropy(full, batch.labels) + F.cross_entropy(points, paired)).backward()
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * step / 3))
        optimizer.step()
    results = list(cotrain(trainer, [batch] * 3))
    assert [r.lr for r in results] == pytest.approx([0.02, 0.015, 0.005])
    # Adam divides by gradients near zero, so that rounding grows: compare what the networks compute
    for network in (trainer.networks, reference):
        network.eval()
    with torch.no_grad():
        have = trainer.networks.run_images(batch.images, TEXT).logits
        want = reference.run_images(batch.images, TEXT).logits
    torch.testing.assert_close(have, want, rtol=0.05, atol=0.05)


def test_gradients_are_clipped() -> None:
    keys = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0}
    moves = {}
    for limit in (None, 0.01):
        trainer = trainer_of(tiny_config(train={**keys, "clip_norm": limit}))
        before = [p.detach().clone() for p in trainer.networks.parameters()]
        one_step(trainer, paint_batch(0))
        steps = [(p - q).norm() for p, q in zip(trainer.networks.parameters(), before, strict=True)]
        moves[limit] = float(torch.stack(steps).norm().detach())
    assert moves[0.01] == pytest.approx(0.01, rel=1e-3)
    assert moves[None] > 0.1


# --- latent consistency --------------------------------------------------------------------------------


def test_the_monitor_sees_a_collapse() -> None:
    trainer = trainer_of(tiny_config())
    healthy = one_step(trainer, paint_batch(0))
    assert healthy.variance_image is not None
    assert healthy.variance_points is not None
    assert healthy.variance_target is not None
    assert min(healthy.variance_image, healthy.variance_points, healthy.variance_target) > 0.05
    with torch.no_grad():
        trainer.networks.image_latent.weight.zero_()
        trainer.networks.image_latent.bias.fill_(1.0)
    collapsed = one_step(trainer, paint_batch(0))
    assert collapsed.variance_image == pytest.approx(0.0, abs=1e-5)
    assert collapsed.variance_points is not None
    assert collapsed.variance_points > 0.05


def test_only_a_trainable_target_map_learns() -> None:
    for kind in ("frozen", "trainable"):
        trainer = trainer_of(tiny_config(latent={"target_map": kind}))
        before = trainer.networks.target_latent.weight.clone()
        one_step(trainer, paint_batch(0))
        after = trainer.networks.target_latent.weight
        assert torch.equal(after, before) == (kind == "frozen")
        if kind == "trainable":
            assert after.grad is not None
            assert after.grad.abs().max() > 0


def grouped_batch() -> Batch:
    """Pairs in several scenes and cells, label and mask features, some pixels without a label."""
    batch = spoiled_batch()
    random = torch.Generator().manual_seed(5)
    fields = {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
    coords = batch.coords.clone()
    coords[:, 1:] -= 5  # cells on both sides of 0
    coords[::2, 0] = 1
    grids = (
        torch.randn(2, 3, 4, 4, generator=random).half(),
        torch.randn(2, 8, 4, 5, generator=random).half(),
    )
    return Batch(**{**fields, "coords": coords, "target_grids": grids})


def slow_cells(networks: Networks, batch: Batch, target: str, cell_voxels: int) -> dict[str, list[Tensor]]:
    """What each pair follows, of each target: the fused feature of its cell, pair by pair."""
    features = networks.run_points(batch.coords, batch.inputs, TEXT).features.detach()
    kinds = target.split("+")
    members: dict[tuple[int, ...], list[int]] = {}
    pixel: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    score, of_point, score_point = [], [], []
    for p in range(len(batch.pair_image)):
        b, r, c, v = (int(t[p]) for t in (batch.pair_image, batch.pair_row, batch.pair_col, batch.pair_voxel))
        scene, *xyz = batch.coords[v].tolist()
        members.setdefault((scene, *(axis // cell_voxels for axis in xyz)), []).append(p)
        for kind, grid in zip(kinds, batch.target_grids, strict=True):
            seen = slow_sample(grid[b].float(), *batch.pair_position[p].tolist())
            pixel[kind].append(seen / seen.norm())
        point = networks.points_head.linear(features[v]).detach()
        of_point.append(point / point.norm())
        label = int(batch.labels[b, r, c])
        text = torch.zeros(8) if label == IGNORE else TEXT[label]
        score.append(float(pixel["labels"][-1] @ text) if "labels" in kinds else 0.0)
        score_point.append(float(of_point[-1] @ text))
    shared: dict[str, list[Tensor]] = {kind: [torch.empty(0)] * len(score) for kind in kinds}
    for inside in members.values():
        for kind in kinds:
            weights, values = [score[p] for p in inside], [pixel[kind][p] for p in inside]
            if kind == "labels":
                weights += [score_point[p] for p in inside]
                values += [of_point[p] for p in inside]
            attention = torch.tensor(weights).softmax(0)
            fused = (attention[:, None] * torch.stack(values)).sum(0)
            for p in inside:
                shared[kind][p] = fused / fused.norm()
    assert max(map(len, members.values())) > 2
    return shared


@pytest.mark.parametrize("target", ["labels", "masks+labels", "masks"])
def test_pairs_of_a_cell_share_their_target(target: str) -> None:
    config = tiny_config(
        latent={"target": target, "group_m": 0.8, "max_pairs": None},
        networks={"points": {"voxel_m": 0.2}},
    )
    kinds, whole = target.split("+"), grouped_batch()
    grids = dict(zip(("masks", "labels"), whole.target_grids, strict=True))
    fields = {name: getattr(whole, name) for name in Batch.__dataclass_fields__}
    batch = Batch(**{**fields, "target_grids": tuple(grids[kind] for kind in kinds)})
    trainer = trainer_of(config, target_dim=sum(grids[kind].shape[1] for kind in kinds))
    reference = copy.deepcopy(trainer.networks).train()
    shared = slow_cells(reference, batch, target, cell_voxels=4)
    image = reference.run_images(batch.images, TEXT).features
    points = reference.run_points(batch.coords, batch.inputs, TEXT).features
    latent = []
    for p in range(len(batch.pair_image)):
        b, r, c, v = (int(t[p]) for t in (batch.pair_image, batch.pair_row, batch.pair_col, batch.pair_voxel))
        wanted = reference.target_latent.weight @ torch.cat([shared[kind][p] for kind in kinds])
        here = slow_sample(image[b], (c + 0.5) / SIZE, (r + 0.5) / SIZE)
        pair = (reference.image_latent(here), reference.points_latent(points[v]))
        latent.append(sum(1 - (z @ wanted) / (z.norm() * wanted.norm()) for z in pair))
    want = float(torch.stack(latent).mean().detach())
    assert one_step(trainer, batch).loss_latent == pytest.approx(want, rel=1e-3)
    plain = tiny_config(latent={"target": target, "max_pairs": None})
    alone = trainer_of(plain, target_dim=trainer.networks.target_latent.weight.shape[1])
    assert one_step(alone, batch).loss_latent != pytest.approx(want, rel=1e-3)


@pytest.mark.parametrize("target_map", ["frozen", "trainable"])
def test_points_learn_through_a_shared_target_only_if_it_is_trainable(target_map: str) -> None:
    """With a frozen map the target side is detached, the points' part in it as well."""
    config = tiny_config(
        latent={"target": "labels", "group_m": 0.8, "target_map": target_map},
        train={"image_weight": 0.0, "points_weight": 0.0, "weight_decay": 0.0},
    )
    batch = grouped_batch()
    fields = {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
    trainer = trainer_of(config, target_dim=8)
    one_step(trainer, Batch(**{**fields, "target_grids": batch.target_grids[1:]}))
    gradient = trainer.networks.points_head.linear.weight.grad
    assert (gradient is not None and bool(gradient.any())) == (target_map == "trainable")


def test_cells_without_any_pair() -> None:
    batch = grouped_batch()
    fields = {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
    for name in ("pair_image", "pair_row", "pair_col", "pair_voxel", "pair_position"):
        fields[name] = fields[name][:0]
    config = tiny_config(latent={"target": "masks+labels", "group_m": 0.5})
    assert one_step(trainer_of(config, target_dim=11), Batch(**fields)).loss_latent == 0


@pytest.mark.parametrize("without", ["weight", "grids"])
def test_no_latent_loss_where_it_is_off(without: str) -> None:
    batch = paint_batch(0)
    fields = {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
    if without == "grids":
        batch = Batch(**{**fields, "target_grids": ()})
    trainer = trainer_of(tiny_config(latent={"weight": 0.0 if without == "weight" else 1.0}))
    result = one_step(trainer, batch)
    assert result.loss_latent is None
    assert result.variance_image is result.variance_points is result.variance_target is None
    assert result.loss == pytest.approx(result.loss_image + result.loss_points, rel=1e-5)


def test_a_sample_of_the_pairs_is_drawn_by_step() -> None:
    config = tiny_config(latent={"max_pairs": 10})
    first, again = (one_step(trainer_of(config), paint_batch(0)) for _ in range(2))
    assert first.loss_latent == again.loss_latent
    every = one_step(trainer_of(tiny_config(latent={"max_pairs": None})), paint_batch(0))
    assert first.loss_latent != every.loss_latent
    later = trainer_of(config)
    later.step = 1
    assert one_step(later, paint_batch(0)).loss_latent != first.loss_latent


def test_a_batch_without_pairs_trains_the_images_alone() -> None:
    batch = paint_batch(0)
    fields = {name: getattr(batch, name) for name in Batch.__dataclass_fields__}
    for name in ("pair_image", "pair_row", "pair_col", "pair_voxel", "pair_position"):
        fields[name] = fields[name][:0]
    trainer = trainer_of(tiny_config())
    before = parameters(trainer)
    result = one_step(trainer, Batch(**fields))
    assert result.loss_points == result.loss_latent == 0
    assert result.loss_image > 0
    after = parameters(trainer)
    assert all(value.isfinite().all() for value in after.values())
    assert not torch.equal(after["image_head.linear.weight"], before["image_head.linear.weight"])


# --- learning ------------------------------------------------------------------------------------------


def test_the_loss_falls_on_one_batch() -> None:
    trainer = trainer_of(tiny_config(train={"schedule": "constant", "switch_after": 9, "epochs": 9}))
    results = list(cotrain(trainer, [paint_batch(0)] * 20))
    for name in ("loss", "loss_image", "loss_points", "loss_latent"):
        first, last = getattr(results[0], name), getattr(results[-1], name)
        assert last < 0.5 * first, name


def test_both_networks_learn_what_can_be_learned() -> None:
    trainer = trainer_of(tiny_config(train={"epochs": 1}), steps=40)
    list(cotrain(trainer, (paint_batch(seed) for seed in range(40))))
    networks, unseen = trainer.networks.eval(), paint_batch(1000, images=4)
    with torch.no_grad():
        logits = networks.run_images(unseen.images, TEXT).logits
        full = F.interpolate(logits, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        said = networks.run_points(unseen.coords, unseen.inputs, TEXT).logits.argmax(1)
    assert (full.argmax(1) == unseen.labels).float().mean() > 0.9
    assert (said == unseen.coords[:, 1] // 4).float().mean() > 0.9


# --- determinism ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SceneStore:
    source, annotations = annotated(tmp_path_factory.mktemp("cotrain"))
    return SceneStore(source, source.names("train"), annotations, "masks")


def run(store: SceneStore, config: Config) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    steps = steps_per_epoch(config, len(store.names))
    trainer = Trainer(
        Networks(config.networks, config.latent, 8, store.target_dim(), config.seed),
        config,
        torch.eye(4, 8),
        steps,
    )
    for result in cotrain(trainer, batches(store, config, 0, trainer.total_steps)):
        record = result.record()
        assert record.pop("wait_seconds") < record.pop("seconds")
        yield record, parameters(trainer)


def test_two_runs_are_bit_equal_and_the_callers_generator_is_untouched(store: SceneStore) -> None:
    config = tiny_config(switch={"granularity": "pixel"})
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first = list(run(store, config))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(12)
    for (record, state), (record_2, state_2) in zip(first, run(store, config), strict=True):
        assert record == record_2
        assert all(torch.equal(state[key], state_2[key]) for key in state)
    assert first[-1][0]["stage"] == 2
    assert 0 < first[-1][0]["source_image"]["clip"] < 1
    (other, _), *_ = run(store, tiny_config(seed=1))
    assert other["loss"] != first[0][0]["loss"]


def test_balanced_labels_train_otherwise_once_there_are_shares(store: SceneStore) -> None:
    own, longer = {"clip": 0.0, "image": 1.0, "points": 1.0}, {"epochs": 6, "switch_after": 2}
    plain = [record["loss"] for record, _ in run(store, tiny_config(switch=own, train=longer))]
    settings = tiny_config(switch={**own, "balance": 1.0}, train=longer)
    balanced = [(record["loss"], record["stage"]) for record, _ in run(store, settings)]
    first = [stage for _, stage in balanced].index(2)
    assert [loss for loss, _ in balanced[: first + 1]] == plain[: first + 1]
    assert [loss for loss, _ in balanced] != plain


def test_dropout_depends_on_seed_and_step_alone() -> None:
    config = tiny_config(
        networks={"image": {"name": "deeplabv3_mobilenet_v3_large", "weights": "none"}},
        latent={"weight": 0.0},
    )
    losses = []
    for caller_seed, step in ((1, 0), (2, 0), (2, 1)):
        trainer = trainer_of(config)
        trainer.step = step
        torch.manual_seed(caller_seed)
        losses.append(one_step(trainer, paint_batch(0)).loss_image)
    assert losses[0] == losses[1]
    assert losses[1] != losses[2]


def test_the_iterator_yields_before_the_next_batch_is_wanted(store: SceneStore) -> None:
    """Whoever iterates may stop after any step, and the trainer then stands between two steps."""
    trainer = trainer_of(tiny_config())

    def two_then_fail() -> Iterator[Batch]:
        yield paint_batch(0)
        yield paint_batch(1)
        raise AssertionError("asked for more than was used")

    loop = cotrain(trainer, two_then_fail())
    assert [next(loop).step, next(loop).step] == [0, 1]
    assert trainer.step == 2
