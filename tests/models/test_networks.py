"""Both networks in one module."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fixtures_scenes import tiny_config
from scenelift.models.heads import FrozenMap
from scenelift.models.networks import Networks


def build(seed: int = 0, target_dim: int = 3, **overrides: Any) -> Networks:
    config = tiny_config(**overrides)
    return Networks(config.networks, config.latent, text_dim=8, target_dim=target_dim, seed=seed)


def test_outputs_have_features_and_logits() -> None:
    networks, text = build().eval(), torch.randn(5, 8)
    with torch.no_grad():
        image = networks.run_images(torch.rand(2, 3, 24, 32), text)
        coords = torch.tensor([[0, 0, 0, 0], [0, 1, 0, -2], [1, 5, 5, 5]], dtype=torch.int32)
        points = networks.run_points(coords, torch.rand(3, 3), text)
    assert image.features.shape == (2, 64, 6, 8)
    assert image.logits.shape == (2, 5, 6, 8)
    assert points.features.shape == (3, 32)
    assert points.logits.shape == (3, 5)
    torch.testing.assert_close(points.logits, networks.points_head(points.features, text))
    torch.testing.assert_close(image.logits, networks.image_head.forward_map(image.features, text))


def test_the_seed_alone_decides_the_weights() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = build(seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's generator is left alone
    torch.manual_seed(2)
    again, other = build(seed=3).state_dict(), build(seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["image_head.linear.weight"], other["image_head.linear.weight"])
    assert not torch.equal(first["points_head.linear.weight"], other["points_head.linear.weight"])
    assert torch.equal(first["target_latent.weight"], other["target_latent.weight"])


@pytest.mark.parametrize(("weight", "target_dim"), [(0.0, 3), (1.0, 0)])
def test_no_latent_heads_without_latent_loss(weight: float, target_dim: int) -> None:
    assert not any(
        "latent" in key for key in build(target_dim=target_dim, latent={"weight": weight}).state_dict()
    )


def test_the_target_map_is_frozen_unless_asked() -> None:
    frozen = build()
    assert isinstance(frozen.target_latent, FrozenMap)
    assert not any(name.startswith("target_latent") for name, _ in frozen.named_parameters())
    trainable = build(latent={"target_map": "trainable"})
    assert isinstance(trainable.target_latent, torch.nn.Linear)
    assert trainable.target_latent.weight.shape == (8, 3)
    assert trainable.target_latent.weight.requires_grad


def test_geometry_alone_needs_one_input_channel() -> None:
    networks = build(networks={"points": {"inputs": "constant"}}).eval()
    coords = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.int32)
    with torch.no_grad():
        assert networks.run_points(coords, torch.ones(2, 1), torch.randn(4, 8)).logits.shape == (2, 4)
