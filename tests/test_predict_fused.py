"""OpenScene's answers: fused features, and the surer of features and networks, against loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fixtures_scenes import TinySource, annotated, tiny_config
from scenelift.annotations import Annotations
from scenelift.errors import RunError
from scenelift.fusion import fused_features
from scenelift.predict import NetworkPair, Predictor
from scenelift.types import F32, IGNORE, U8, Scene
from test_predict import new_pair, predictor, slow_refine

FUSION = {"predict": {"source": "fusion"}, "refine": {"clip": False}}
BOTH = {"predict": {"source": "fusion+networks"}, "refine": {"clip": False}}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinySource, Annotations]:
    source, annotations = annotated(tmp_path_factory.mktemp("fused"), points=150)
    scene = source.scenes["scene0"]
    pairs = annotations.pairs("scene0")
    assert len(np.unique(pairs.point_index)) == len(scene.points_world)
    return source, annotations


@pytest.fixture
def scene(known: tuple[TinySource, Annotations]) -> Scene:
    return known[0].scenes["scene0"]


@pytest.fixture
def fused(known: tuple[TinySource, Annotations], monkeypatch: pytest.MonkeyPatch) -> F32:
    """The fused features of the scene, as if no view saw the first ten points."""
    features = fused_features(known[1], "scene0", 150)
    features[:10] = 0
    monkeypatch.setattr("scenelift.predict.fused_features", lambda *args: features)
    return features.astype(np.float32)


@pytest.fixture(scope="module")
def pair() -> NetworkPair:
    return new_pair()


def softmax(scores: torch.Tensor) -> F32:
    return (100.0 * scores).softmax(-1).amax(-1).numpy()


def surer(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Row by row the scores whose best is higher."""
    return torch.stack([a if a.max() > b.max() else b for a, b in zip(one, other, strict=True)])


def test_fusion(known: tuple[TinySource, Annotations], scene: Scene, fused: F32) -> None:
    asked = predictor(None, known[1], **FUSION)
    have = asked.points(scene)
    cosines = torch.from_numpy(fused @ known[1].text.T)
    want = np.where(np.arange(150) < 10, IGNORE, cosines.argmax(1).numpy())
    np.testing.assert_array_equal(have.labels, want)
    np.testing.assert_allclose(have.confidence[10:], softmax(cosines)[10:], atol=1e-4)
    assert (have.confidence[:10] == 0).all()
    assert asked.can_label(scene)
    for name, prediction in asked.frames(scene):
        np.testing.assert_array_equal(prediction.labels, known[1].labels("scene0", name))


def test_points_follow_whichever_is_surer(
    known: tuple[TinySource, Annotations], scene: Scene, fused: F32, pair: NetworkPair
) -> None:
    embedded: list[torch.Tensor] = []

    def listen(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        embedded.append(output)

    hook = pair.networks.points_head.linear.register_forward_hook(listen)
    own = pair.point_cosines(scene.points_world, scene.rgb)
    hook.remove()
    of_voxels = F.normalize(embedded[-1], dim=1) @ pair.text.T
    assert {tuple(row) for row in own.tolist()} <= {tuple(row) for row in of_voxels.tolist()}
    assert own.abs().max() <= 1 + 1e-6
    cosines = torch.from_numpy(fused @ known[1].text.T)
    cosines[:10] = -1
    want = surer(cosines, own)
    have = predictor(pair, known[1], **BOTH).points(scene)
    np.testing.assert_array_equal(have.labels, want.argmax(1))
    np.testing.assert_allclose(have.confidence, softmax(want), atol=1e-3)
    np.testing.assert_array_equal(have.labels[:10], own[:10].argmax(1))


def test_pixels_follow_whichever_is_surer(known: tuple[TinySource, Annotations], scene: Scene) -> None:
    """A text at an angle to the teacher's features, so that the teacher is not always the surer one."""
    pair = new_pair()
    with torch.no_grad():
        pair.networks.image_head.linear.bias[:4] = torch.tensor([6.0, 0.0, 0.0, 0.0])
    own = pair.image_cosines(np.stack([frame.image for frame in scene.frames]))
    used = set()
    for index, (name, have) in enumerate(predictor(pair, known[1], **BOTH).frames(scene)):
        grid = torch.from_numpy(known[1].features("scene0", name).astype(np.float32))
        coarse = torch.einsum("dhw,cd->chw", F.normalize(grid, dim=0), torch.from_numpy(known[1].text))
        said = F.interpolate(coarse[None], size=(24, 32), mode="bilinear", align_corners=False)[0]
        rows = said.flatten(1).T, own[index].flatten(1).T
        want = surer(*rows)
        used |= set((rows[0].amax(1) > rows[1].amax(1)).tolist())
        np.testing.assert_array_equal(have.labels.reshape(-1), want.argmax(1))
        np.testing.assert_allclose(have.confidence.reshape(-1), softmax(want), atol=1e-3)
    assert used == {True, False}


def test_probabilities_are_those_of_the_logits(pair: NetworkPair, scene: Scene) -> None:
    """Cosines and probabilities come from one pass of the same embedding."""
    unit = new_pair(networks={"head": {"normalize": True, "logit_scale": 3.0}})
    cosines = unit.point_cosines(scene.points_world, scene.rgb)
    want = (3.0 * cosines).softmax(1)
    torch.testing.assert_close(unit.point_probabilities(scene.points_world, scene.rgb), want)
    images = np.stack([frame.image for frame in scene.frames])
    torch.testing.assert_close(
        unit.image_probabilities(images), (3.0 * unit.image_cosines(images)).softmax(1)
    )


@pytest.mark.parametrize("source", ["fusion", "fusion+networks", "teacher"])
def test_post_refine_refines_these_answers_too(
    source: str, known: tuple[TinySource, Annotations], scene: Scene, pair: NetworkPair
) -> None:
    keys: dict[str, Any] = {"refine": {"clip": False}}
    used = None if source != "fusion+networks" else pair
    plain = predictor(used, known[1], predict={"source": source}, **keys)
    asked = predictor(used, known[1], predict={"source": source, "post_refine": True}, **keys)
    for (name, own), (_, have) in zip(plain.frames(scene), asked.frames(scene), strict=True):
        ids: U8 = known[1].mask_ids("scene0", name)
        np.testing.assert_array_equal(have.labels, slow_refine(own.labels, ids))
    assert (asked.points(scene).labels != IGNORE).all()


def test_what_is_missing_is_told(known: tuple[TinySource, Annotations], pair: NetworkPair) -> None:
    with pytest.raises(RunError, match="no trained networks"):
        Predictor(tiny_config(**BOTH), None, known[1])
    for keys in (FUSION, BOTH):
        with pytest.raises(RunError, match="run `scenelift annotate` first"):
            Predictor(tiny_config(**keys), pair, None)


def test_a_run_on_images_alone_labels_no_points(known: tuple[TinySource, Annotations], scene: Scene) -> None:
    blind = new_pair()
    blind.knows_points = False
    assert not predictor(blind, known[1], **BOTH).can_label(scene)
    assert predictor(blind, known[1], **FUSION).can_label(scene)
