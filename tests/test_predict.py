"""Answers of networks and teachers against slow references."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fixtures_scenes import TinySource, annotated, tiny_config
from scenelift import predict as predict_module
from scenelift.annotations import Annotations
from scenelift.errors import DataError, RunError
from scenelift.models.networks import Networks
from scenelift.predict import NetworkPair, Predictor, best_prediction
from scenelift.types import IGNORE, U8, Frames, Scene

TEXT = torch.eye(4, 8)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinySource, Annotations]:
    return annotated(tmp_path_factory.mktemp("predict"), points=300)


@pytest.fixture(scope="module")
def scene(known: tuple[TinySource, Annotations]) -> Scene:
    return known[0].scenes["scene0"]


@pytest.fixture(scope="module")
def annotations(known: tuple[TinySource, Annotations]) -> Annotations:
    return known[1]


def new_pair(text: torch.Tensor = TEXT, **overrides: Any) -> NetworkPair:
    """Untrained networks with strong heads, so that their answers vary from place to place."""
    config = tiny_config(**overrides)
    networks = Networks(config.networks, config.latent, 8, 3, seed=5)
    with torch.no_grad():
        for head in (networks.image_head, networks.points_head):
            head.linear.weight.mul_(3)
            head.linear.bias.zero_()
        random = torch.Generator().manual_seed(6)
        for name, buffer in networks.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=random)
    return NetworkPair(networks, text, config)


@pytest.fixture(scope="module")
def pair() -> NetworkPair:
    return new_pair()


def predictor(pair: NetworkPair | None, annotations: Annotations | None, **overrides: Any) -> Predictor:
    return Predictor(tiny_config(**overrides), pair, annotations)


def pairs_in(annotations: Annotations, scene: Scene) -> Iterator[tuple[str, int, int, int]]:
    """(frame name, row, column, point) of every pair, one by one."""
    pairs = annotations.pairs(scene.name)
    for index, point, (u, v) in zip(pairs.frame_index, pairs.point_index, pairs.pixel_uv, strict=True):
        yield scene.frames.names[index], int(np.floor(v + 0.5)), int(np.floor(u + 0.5)), int(point)


def majority(votes: Counter[int]) -> int:
    return min(votes, key=lambda label: (-votes[label], label)) if votes else IGNORE


def slow_refine(labels: U8, ids: np.ndarray[Any, Any]) -> U8:
    refined = labels.copy()
    for mask in set(ids.reshape(-1).tolist()) - {0}:
        refined[ids == mask] = majority(Counter(labels[ids == mask].tolist()))
    return refined


def slow_vote(annotations: Annotations, scene: Scene, label_maps: dict[str, U8]) -> U8:
    votes: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for frame, row, col, point in pairs_in(annotations, scene):
        votes[point][int(label_maps[frame][row, col])] += 1
    return np.array([majority(votes[i]) for i in range(len(scene.points_world))], dtype=np.uint8)


# --- networks alone ------------------------------------------------------------------------------------


def image_reference(pair: NetworkPair, image: U8) -> torch.Tensor:
    """(C, H, W) probabilities of one image."""
    unit = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]
    with torch.no_grad():
        features = pair.networks.image(unit)
        grid = torch.einsum("bfhw,df->bdhw", features, pair.networks.image_head.linear.weight)
        logits = 10.0 * torch.einsum("bdhw,cd->bchw", grid, pair.text)
    return F.interpolate(logits, size=image.shape[:2], mode="bilinear", align_corners=False)[0].softmax(0)


def test_the_2d_network_labels_every_pixel(
    pair: NetworkPair, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_module, "IMAGES_PER_PASS", 3)  # 4 frames: a full pass and a rest
    predictions = dict(predictor(pair, None).frames(scene))
    assert list(predictions) == list(scene.frames.names)
    for frame in scene.frames:
        probability = image_reference(pair, frame.image)
        have = predictions[frame.name]
        assert have.labels.dtype == np.uint8
        assert have.coverage == 1.0
        np.testing.assert_allclose(have.confidence, probability.amax(0), atol=1e-4)
        sure = torch.topk(probability, 2, dim=0).values.diff(dim=0)[0] < -1e-3
        np.testing.assert_array_equal(have.labels[sure], probability.argmax(0)[sure])
    assert len({int(x) for p in predictions.values() for x in np.unique(p.labels)}) > 1


def test_the_3d_network_labels_every_point(pair: NetworkPair, scene: Scene) -> None:
    assert scene.rgb is not None
    points = scene.points_world.astype(np.float32)
    middle = (points.min(0) + points.max(0)) / 2
    cells: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, point in enumerate(points):
        cells[tuple(np.floor((point - middle) / np.float32(0.2)).astype(int).tolist())].append(i)
    coords = torch.tensor([[0, *cell] for cell in cells], dtype=torch.int32)
    colors = [scene.rgb[rows].astype(np.float64).mean(0) / 127.5 - 1 for rows in cells.values()]
    with torch.no_grad():
        inputs = torch.tensor(np.array(colors), dtype=torch.float32)
        logits = pair.networks.run_points(coords, inputs, pair.text).logits
    expected = torch.empty(len(points), 4)
    for row, members in zip(logits.softmax(1), cells.values(), strict=True):
        expected[members] = row
    np.testing.assert_allclose(pair.point_probabilities(scene.points_world, scene.rgb), expected, atol=1e-4)
    have = predictor(pair, None).points(scene)
    assert have.coverage == 1.0
    assert have.labels.dtype == np.uint8
    np.testing.assert_array_equal(have.labels, expected.argmax(1))
    np.testing.assert_allclose(have.confidence, expected.amax(1), atol=1e-4)
    assert len(set(have.labels.tolist())) > 1


def test_a_far_origin_changes_nothing(pair: NetworkPair, scene: Scene) -> None:
    quantised = np.round(scene.points_world * 64) / 64  # exact in float32, here and there
    near = pair.point_probabilities(quantised.astype(np.float32), scene.rgb)
    far = pair.point_probabilities((quantised + 4096).astype(np.float32), scene.rgb)
    torch.testing.assert_close(far, near)


def test_a_cloud_without_colour_is_grey(pair: NetworkPair, scene: Scene) -> None:
    grey = np.full((len(scene.points_world), 3), 127.5)
    have = pair.point_probabilities(scene.points_world, None)
    low = pair.point_probabilities(scene.points_world, np.floor(grey).astype(np.uint8))
    high = pair.point_probabilities(scene.points_world, np.ceil(grey).astype(np.uint8))
    torch.testing.assert_close(have, (low + high) / 2, atol=0.05, rtol=0)
    assert have.std() > 0
    plain = replace(scene, rgb=None)
    assert predictor(pair, None).points(plain).coverage == 1.0


def test_geometry_alone_ignores_colour(scene: Scene) -> None:
    pair = new_pair(networks={"points": {"inputs": "constant"}})
    with_rgb = pair.point_probabilities(scene.points_world, scene.rgb)
    torch.testing.assert_close(with_rgb, pair.point_probabilities(scene.points_world, None))


def test_an_empty_cloud_and_no_frames(pair: NetworkPair) -> None:
    nothing = Scene("none", np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), Frames.of([]))
    assert pair.point_probabilities(nothing.points_world, nothing.rgb).shape == (0, 4)
    prediction = predictor(pair, None).points(nothing)
    assert prediction.labels.shape == prediction.confidence.shape == (0,)
    assert list(predictor(pair, None).frames(nothing)) == []


def test_frames_of_different_sizes_are_refused(pair: NetworkPair, scene: Scene) -> None:
    frames = list(scene.frames)
    frames[1] = replace(frames[1], image=frames[1].image[:20], depth_m=None)
    with pytest.raises(DataError, match="scene0: frames differ in size"):
        list(predictor(pair, None).frames(replace(scene, frames=Frames.of(frames))))


def test_no_class_wins_because_all_logits_are_negative(scene: Scene) -> None:
    """The code line put a row of zeros before the logits, which then won wherever all were negative."""
    text = torch.zeros(4, 8)
    text[:, 0] = torch.tensor([-3.0, -2.0, -0.5, -4.0])
    pair = new_pair(text)
    with torch.no_grad():
        for head in (pair.networks.image_head, pair.networks.points_head):
            head.linear.weight.zero_()
            head.linear.bias[0] = 1.0
    asked = predictor(pair, None)
    assert all((prediction.labels == 2).all() for _, prediction in asked.frames(scene))
    assert (asked.points(scene).labels == 2).all()


def test_ties_and_confidence_of_the_best() -> None:
    have = best_prediction(torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]), (1, 2))
    assert have.labels.tolist() == [[0, 2]]
    assert have.confidence.tolist() == [[0.5, pytest.approx(0.7)]]


# --- the teacher alone ---------------------------------------------------------------------------------


@pytest.mark.parametrize("refined", [False, True])
def test_the_teachers_labels_and_their_votes(refined: bool, scene: Scene, annotations: Annotations) -> None:
    asked = predictor(None, annotations, predict={"source": "teacher"}, refine={"clip": refined})
    maps = {}
    for name in scene.frames.names:
        labels = annotations.labels(scene.name, name)
        maps[name] = slow_refine(labels, annotations.masks(scene.name, name).ids) if refined else labels
    have = dict(asked.frames(scene))
    for name, labels in maps.items():
        np.testing.assert_array_equal(have[name].labels, labels)
        assert (have[name].confidence == 1).all()
    raw = {name: annotations.labels(scene.name, name) for name in scene.frames.names}
    assert refined == any((maps[name] != raw[name]).any() for name in maps)
    points = asked.points(scene)
    np.testing.assert_array_equal(points.labels, slow_vote(annotations, scene, maps))
    np.testing.assert_array_equal(points.confidence, points.labels != IGNORE)


def test_points_that_no_view_sees_have_no_label(scene: Scene, annotations: Annotations) -> None:
    seen = {point for *_, point in pairs_in(annotations, scene)}
    labels = predictor(None, annotations, predict={"source": "teacher"}).points(scene).labels
    unseen = np.array(sorted(set(range(len(labels))) - seen), dtype=int)
    assert (labels[unseen] == IGNORE).all()
    assert (np.delete(labels, unseen) != IGNORE).all()


# --- Post-Refine ---------------------------------------------------------------------------------------


def test_post_refine_votes_in_masks(pair: NetworkPair, scene: Scene, annotations: Annotations) -> None:
    plain = predictor(pair, annotations)
    asked = predictor(pair, annotations, predict={"post_refine": True})
    changed = 0
    for (name, own), (_, have) in zip(plain.frames(scene), asked.frames(scene), strict=True):
        want = slow_refine(own.labels, annotations.masks(scene.name, name).ids)
        np.testing.assert_array_equal(have.labels, want)
        np.testing.assert_array_equal(have.confidence, own.confidence)
        changed += int((own.labels != want).sum())
    assert changed

    own_labels = plain.points(scene).labels
    in_mask: defaultdict[tuple[str, int], Counter[int]] = defaultdict(Counter)
    in_pixel: defaultdict[tuple[str, int, int], Counter[int]] = defaultdict(Counter)
    ids = {name: annotations.masks(scene.name, name).ids for name in scene.frames.names}
    for frame, row, col, point in pairs_in(annotations, scene):
        label = int(own_labels[point])
        in_mask[frame, int(ids[frame][row, col])][label] += 1
        in_pixel[frame, row, col][label] += 1
    votes: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for frame, row, col, point in pairs_in(annotations, scene):
        mask = int(ids[frame][row, col])
        votes[point][majority(in_mask[frame, mask] if mask else in_pixel[frame, row, col])] += 1
    expected = [majority(votes[i]) if votes[i] else own for i, own in enumerate(own_labels.tolist())]
    have_points = asked.points(scene).labels
    np.testing.assert_array_equal(have_points, expected)
    assert (have_points != own_labels).any()


# --- the ensemble --------------------------------------------------------------------------------------


def test_the_ensemble_averages_where_a_pair_joins(
    pair: NetworkPair, scene: Scene, annotations: Annotations
) -> None:
    asked = predictor(pair, annotations, predict={"ensemble": True})
    of_points = pair.point_probabilities(scene.points_world, scene.rgb).numpy().astype(np.float64)
    of_pixels = {
        frame.name: pair.image_probabilities(frame.image[None])[0].numpy().astype(np.float64)
        for frame in scene.frames
    }
    seen_by_pixel: defaultdict[tuple[str, int, int], list[Any]] = defaultdict(list)
    seen_by_point: defaultdict[int, list[Any]] = defaultdict(list)
    for frame, row, col, point in pairs_in(annotations, scene):
        seen_by_pixel[frame, row, col].append(of_points[point])
        seen_by_point[point].append(of_pixels[frame][:, row, col])
    for name, have in asked.frames(scene):
        want = of_pixels[name].copy()
        for (frame, row, col), others in seen_by_pixel.items():
            if frame == name:
                want[:, row, col] = (want[:, row, col] + np.mean(others, 0)) / 2
        np.testing.assert_allclose(have.confidence, want.max(0), atol=1e-4)
        np.testing.assert_array_equal(have.labels, want.argmax(0))
    want = of_points.copy()
    for point, others in seen_by_point.items():
        want[point] = (want[point] + np.mean(others, 0)) / 2
    have = asked.points(scene)
    np.testing.assert_allclose(have.confidence, want.max(1), atol=1e-4)
    np.testing.assert_array_equal(have.labels, want.argmax(1))
    assert (want != of_points).any()


def test_the_ensemble_knows_frames_by_name(pair: NetworkPair, scene: Scene, annotations: Annotations) -> None:
    """A scene reduced to some frames gets for them what the whole scene gets."""
    asked = predictor(pair, annotations, predict={"ensemble": True})
    whole = dict(asked.frames(scene))
    for name, have in asked.frames(replace(scene, frames=scene.frames.only(["f3", "f1"]))):
        np.testing.assert_array_equal(have.labels, whole[name].labels)


# --- what is needed ------------------------------------------------------------------------------------


def test_networks_and_annotations_are_asked_for(pair: NetworkPair) -> None:
    with pytest.raises(RunError, match="scenelift train"):
        predictor(None, None)
    for wanted in ({"source": "teacher"}, {"post_refine": True}, {"ensemble": True}):
        with pytest.raises(RunError, match="scenelift annotate"):
            predictor(pair, None, predict=wanted)


def test_a_scene_that_is_not_annotated(annotations: Annotations, scene: Scene) -> None:
    asked = predictor(None, annotations, predict={"source": "teacher"})
    with pytest.raises(RunError, match="scene elsewhere is not annotated"):
        asked.points(replace(scene, name="elsewhere"))


def test_missing_cache_entries_are_told(scene: Scene, tmp_path: Path) -> None:
    _, fresh = annotated(tmp_path, num_scenes=1, frames=2)
    fresh.cache.prune(max_bytes=0)
    with pytest.raises(Exception, match="missing or damaged"):
        predictor(None, fresh, predict={"source": "teacher"}).points(scene)
