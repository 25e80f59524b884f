"""Features fused over views: against a slow reference, cached, gone on with, and per voxel."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures_scenes import CLASSES, FakeLabelTeacher, FakeMaskTeacher, TinySource, tiny_source
from scenelift import fusion
from scenelift.annotate import annotate
from scenelift.annotations import Annotations
from scenelift.cache import Cache
from scenelift.config import PairingConfig
from scenelift.errors import CacheError
from scenelift.fusion import fuse, fused_features, fused_key, voxel_features
from scenelift.progress import silent
from scenelift.types import F16, F32, Frames, Scene
from test_cotrain import slow_sample

Known = tuple[TinySource, Annotations]


POINTS, HIDDEN = 120, 15


@pytest.fixture
def known(tmp_path: Path) -> Known:
    """Two rooms, with some points behind their walls."""
    source = tiny_source(points=POINTS)
    for name, scene in list(source.scenes.items()):
        behind = np.full((HIDDEN, 3), 50.0, np.float32)
        cloud = np.concatenate([scene.points_world, behind])
        source.scenes[name] = replace(scene, points_world=cloud, rgb=None)
    truth = source.truth
    assert truth is not None
    teachers = FakeLabelTeacher(truth), FakeMaskTeacher(truth)
    pairing, cache = PairingConfig(depth_tolerance_m=0.1), Cache(tmp_path / "cache")
    return source, annotate(source, ["scene0", "scene1"], CLASSES, *teachers, pairing, cache)


def slow_fusion(annotations: Annotations, scene: Scene) -> F32:
    """One pair after another, in float64."""
    pairs = annotations.pairs(scene.name)
    views: defaultdict[int, list[torch.Tensor]] = defaultdict(list)
    for index, point, (u, v) in zip(pairs.frame_index, pairs.point_index, pairs.pixel_uv, strict=True):
        frame = scene.frames[int(index)]
        grid = torch.from_numpy(annotations.features(scene.name, frame.name)).double()
        seen = slow_sample(grid, (float(u) + 0.5) / frame.width, (float(v) + 0.5) / frame.height)
        views[int(point)].append(seen / seen.norm())
    fused = np.zeros((len(scene.points_world), annotations.text.shape[1]), np.float32)
    for point, of_views in views.items():
        mean = torch.stack(of_views).mean(0)
        fused[point] = (mean / mean.norm()).numpy()
    return fused


def test_equals_the_slow_reference(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "CHUNK", 7)
    source, annotations = known
    for name, scene in source.scenes.items():
        have = fused_features(annotations, name, len(scene.points_world))
        want = slow_fusion(annotations, scene)
        assert have.dtype == np.float16
        np.testing.assert_allclose(have, want, atol=2e-3)
        np.testing.assert_array_equal(have.any(1), np.arange(POINTS + HIDDEN) < POINTS)
        twice = np.bincount(annotations.pairs(name).point_index) > 1
        assert twice.any()  # and points of several views


def test_the_mean_is_nearer_to_the_truth_than_a_view(known: Known) -> None:
    """Why views are fused: errors of one view are outvoted."""
    source, annotations = known
    scene, truth = source.scenes["scene0"], source.truth
    assert truth is not None
    labels = truth.scenes["scene0"].labels
    fused = fused_features(annotations, "scene0", POINTS + HIDDEN).astype(np.float32)[:POINTS]
    pairs = annotations.pairs("scene0")
    single = np.concatenate(
        [
            annotations.labels("scene0", frame)[tuple(axis[pairs.of_frame(i)] for axis in pairs.rowcol())]
            for i, frame in enumerate(scene.frames.names)
        ]
    )
    one_view = (single == labels[pairs.point_index]).mean()
    assert ((fused @ annotations.text.T).argmax(1) == labels).mean() >= one_view > 0.8


def test_is_made_once_and_read_back_to_the_bit(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    source, annotations = known
    told: list[str] = []

    def progress(what: str, total: int, done: int) -> object:
        told.append(f"{what} {done}/{total}")
        return silent(what, total, done)

    first = fused_features(annotations, "scene0", POINTS + HIDDEN)
    fuse(annotations, source, ["scene0", "scene1"], progress)  # type: ignore[arg-type]
    assert told == ["fuse views 1/2"]
    monkeypatch.setattr(fusion, "_fuse", lambda *args: pytest.fail("made again"))
    source.read.clear()
    fuse(annotations, source, ["scene0", "scene1"], progress)  # type: ignore[arg-type]
    assert (len(told), source.read) == (1, [])
    np.testing.assert_array_equal(fused_features(annotations, "scene0", POINTS + HIDDEN), first)


def test_a_kill_loses_the_scene_in_hand_alone(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    source, annotations = known
    real = fusion._fuse

    def die(annotations: Annotations, scene: str, num_points: int) -> F16:
        if scene == "scene1":
            raise KeyboardInterrupt
        return real(annotations, scene, num_points)

    with monkeypatch.context() as patch:
        patch.setattr(fusion, "_fuse", die)
        with pytest.raises(KeyboardInterrupt):
            fuse(annotations, source, ["scene0", "scene1"])
    assert annotations.cache.has(fused_key(annotations, "scene0"))
    source.read.clear()
    fuse(annotations, source, ["scene0", "scene1"])
    assert source.read == ["scene1"]


def test_its_key_names_what_it_depends_on(known: Known, tmp_path: Path) -> None:
    source, annotations = known
    key = fused_key(annotations, "scene0")
    assert key != fused_key(annotations, "scene1")
    truth = source.truth
    assert truth is not None

    def again(**changed: object) -> Annotations:
        parts = {"classes": CLASSES, "identity": "fake labels", "tolerance": 0.1, **changed}
        return annotate(
            source,
            ["scene0"],
            parts["classes"],  # type: ignore[arg-type]
            FakeLabelTeacher(truth, str(parts["identity"])),
            FakeMaskTeacher(truth),
            PairingConfig(depth_tolerance_m=float(str(parts["tolerance"]))),
            Cache(tmp_path / "cache"),
        )

    assert fused_key(again(), "scene0") == key
    fewer = replace(CLASSES, names=CLASSES.names[:3], prompts=CLASSES.prompts[:3], colors=CLASSES.colors[:3])
    assert fused_key(again(classes=fewer), "scene0") == key  # features know no class list
    assert fused_key(again(identity="another"), "scene0") != key
    assert fused_key(again(tolerance=0.01), "scene0") != key


def test_lost_features_are_told(known: Known) -> None:
    _, annotations = known
    frame = next(iter(annotations.scenes["scene0"].frames.values()))
    annotations.cache.path(frame.features).unlink()
    with pytest.raises(CacheError, match="label_features"):
        fused_features(annotations, "scene0", POINTS + HIDDEN)
    assert not annotations.cache.has(fused_key(annotations, "scene0"))


def test_a_view_that_says_nothing_has_no_voice(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    _, annotations = known
    real = Annotations.features

    def spoiled(self: Annotations, scene: str, frame: str) -> F16:
        grid = real(self, scene, frame)
        return np.full_like(grid, np.nan) if frame == "f0" else grid

    monkeypatch.setattr(Annotations, "features", spoiled)
    fused = fused_features(annotations, "scene0", POINTS + HIDDEN)
    pairs = annotations.pairs("scene0")
    others = np.unique(pairs.point_index[pairs.frame_index > 0])
    assert np.isfinite(fused).all()
    np.testing.assert_array_equal(np.flatnonzero(fused.any(1)), others)


@pytest.mark.parametrize("what", ["no points", "no frames"])
def test_scenes_without_anything_to_fuse(what: str, tmp_path: Path) -> None:
    source = tiny_source(1)
    scene = source.scenes["scene0"]
    if what == "no points":
        scene = replace(scene, points_world=scene.points_world[:0], rgb=None)
    else:
        scene = replace(scene, frames=Frames.of([]))
    source.scenes["scene0"] = scene
    truth = source.truth
    assert truth is not None
    teachers = FakeLabelTeacher(truth), FakeMaskTeacher(truth)
    known = annotate(source, ["scene0"], CLASSES, *teachers, PairingConfig(), Cache(tmp_path))
    for _ in range(2):  # made, and read
        fused = fused_features(known, "scene0", len(scene.points_world))
        assert fused.shape == (len(scene.points_world), 8)
        assert not fused.any()


@given(seed=st.integers(0, 2**31 - 1), sizes=st.lists(st.integers(0, 9), min_size=1, max_size=3))
@settings(max_examples=15, deadline=None)
def test_a_voxel_has_the_mean_of_its_points(seed: int, sizes: list[int]) -> None:
    random = np.random.default_rng(seed)
    clouds = [random.normal(size=(size, 4)).astype(np.float16) for size in sizes]
    for cloud in clouds:
        cloud[random.random(len(cloud)) < 0.3] = 0  # unseen points
    voxel = torch.from_numpy(random.integers(-1, 5, sum(sizes)))
    have = voxel_features(clouds, voxel, 5).float().numpy()
    rows = np.concatenate(clouds).astype(np.float64)
    for index in range(5):
        total = rows[voxel.numpy() == index].sum(0)
        want = total / np.linalg.norm(total) if np.linalg.norm(total) > 0 else total
        np.testing.assert_allclose(have[index], want, atol=2e-3)
