"""The heads: dot with text, and the frozen map of eq. 7."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from scenelift.config import HeadConfig
from scenelift.models.heads import FrozenMap, TextHead


def slow_logits(head: TextHead, features: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """ψ(θ(x), t), one dot product at a time."""
    rows = []
    for feature in features.tolist():
        weight, bias = head.linear.weight.tolist(), head.linear.bias.tolist()
        embedding = [
            sum(w * x for w, x in zip(row, feature, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
        length = sum(value * value for value in embedding) ** 0.5 if head.normalize else 1.0
        rows.append(
            [
                head.logit_scale * sum(e / length * t for e, t in zip(embedding, word, strict=True))
                for word in text.tolist()
            ]
        )
    return torch.tensor(rows)


@pytest.mark.parametrize("normalize", [False, True])
def test_logits_are_dots_with_text(normalize: bool) -> None:
    torch.manual_seed(0)
    head = TextHead(5, 6, HeadConfig(normalize=normalize, logit_scale=7.0))
    features, text = torch.randn(4, 5), F.normalize(torch.randn(3, 6), dim=1)
    torch.testing.assert_close(head(features, text), slow_logits(head, features, text))


def test_normalised_logits_are_bounded_by_the_scale() -> None:
    head = TextHead(5, 6, HeadConfig(normalize=True, logit_scale=10.0))
    features = 1e3 * torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(head.embed(features).norm(dim=1), torch.ones(50))
    assert head(features, torch.eye(6)).abs().max() <= 10.0 + 1e-4


@pytest.mark.parametrize("normalize", [False, True])
def test_a_map_is_answered_pixel_by_pixel(normalize: bool) -> None:
    torch.manual_seed(2)
    head = TextHead(4, 6, HeadConfig(normalize=normalize))
    features, text = torch.randn(2, 4, 3, 5), torch.randn(7, 6)
    logits = head.forward_map(features, text)
    assert logits.shape == (2, 7, 3, 5)
    for b in range(2):
        for row in range(3):
            for col in range(5):
                one = head(features[b, :, row, col][None], text)[0]
                torch.testing.assert_close(logits[b, :, row, col], one)


def test_new_words_need_no_new_head() -> None:
    """Logits of known words stay what they are when the list of words changes."""
    torch.manual_seed(3)
    head, features, text = TextHead(4, 6, HeadConfig()), torch.randn(9, 4), torch.randn(5, 6)
    more = torch.cat([torch.randn(3, 6), text[[4, 0]]])
    torch.testing.assert_close(head(features, more)[:, 3:], head(features, text)[:, [4, 0]])


@pytest.mark.parametrize(("in_channels", "out_channels"), [(32, 8), (8, 32), (16, 16), (1, 4)])
def test_the_frozen_map_is_orthonormal(in_channels: int, out_channels: int) -> None:
    weight = FrozenMap(in_channels, out_channels).weight
    assert weight.shape == (out_channels, in_channels)
    short = weight @ weight.T if out_channels <= in_channels else weight.T @ weight
    torch.testing.assert_close(short, torch.eye(len(short)), atol=1e-5, rtol=0)


def test_the_frozen_map_keeps_angles_when_it_widens() -> None:
    features = torch.randn(20, 8, generator=torch.Generator().manual_seed(4))
    mapped = FrozenMap(8, 32)(features)
    cosines = [F.normalize(rows, dim=1) @ F.normalize(rows, dim=1).T for rows in (features, mapped)]
    torch.testing.assert_close(*cosines, atol=1e-5, rtol=0)


def test_the_frozen_map_is_the_same_in_every_run_and_never_learns() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = FrozenMap(16, 8)
    assert torch.equal(torch.random.get_rng_state(), before)  # it draws from its own generator
    torch.manual_seed(6)
    assert torch.equal(FrozenMap(16, 8).weight, first.weight)
    assert not torch.equal(FrozenMap(16, 8, seed=1).weight, first.weight)
    assert not list(first.parameters())
    assert not first(torch.randn(3, 16)).requires_grad


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("channels", "text_dim"), [(5, 12), (8, 8), (12, 5)])
def test_logits_and_gradients_are_those_of_embeddings(channels: int, text_dim: int, normalize: bool) -> None:
    torch.manual_seed(7)
    head = TextHead(channels, text_dim, HeadConfig(normalize=normalize, logit_scale=7.0)).double()
    text = F.normalize(torch.randn(3, text_dim).double(), dim=1)
    features = torch.randn(20, channels).double().requires_grad_()
    weights = torch.randn(20, 3).double()
    wanted = head.logit_scale * head.embed(features) @ text.T
    found = head(features, text)
    torch.testing.assert_close(found, wanted)
    learnt = (features, head.linear.weight, head.linear.bias)
    for one, other in zip(
        torch.autograd.grad((weights * found).sum(), learnt),
        torch.autograd.grad((weights * wanted).sum(), learnt),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_float32_is_as_close_to_the_truth_as_embeddings_are() -> None:
    """The length comes from a quadratic form, which could lose digits."""
    torch.manual_seed(8)
    head = TextHead(96, 512, HeadConfig(normalize=True, logit_scale=100.0))
    features, text = 10 * torch.randn(500, 96), F.normalize(torch.randn(20, 512), dim=1)
    found, embedded = head(features, text), head.logit_scale * head.embed(features) @ text.T
    exact = head.double()(features.double(), text.double())
    error = (found - exact).abs().max()
    assert error < 4 * (embedded - exact).abs().max() + 1e-6
    assert error < 1e-4


def test_an_embedding_of_length_zero_has_logits_of_zero() -> None:
    head = TextHead(4, 6, HeadConfig(normalize=True))
    torch.nn.init.zeros_(head.linear.bias)
    features = torch.zeros(3, 4, requires_grad=True)
    logits = head(features, torch.eye(6)[:2])
    assert torch.equal(logits, torch.zeros(3, 2))
    (gradient,) = torch.autograd.grad(logits.sum(), features)
    assert gradient.isfinite().all()


def test_bfloat16_features_are_weighed_in_float32() -> None:
    torch.manual_seed(9)
    head = TextHead(16, 64, HeadConfig(normalize=True, logit_scale=20.0))
    features, text = torch.randn(50, 16).bfloat16(), F.normalize(torch.randn(5, 64), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(features, text)
    torch.testing.assert_close(logits, head(features.float(), text))
