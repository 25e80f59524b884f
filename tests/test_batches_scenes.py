"""Batches: which scenes, which voxels, odd scenes, and how much memory they take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fixtures_scenes import FakeLabelTeacher, FakeMaskTeacher, TinySource, annotated, tiny_config, tiny_source
from scenelift import batches as B
from scenelift.annotate import annotate
from scenelift.annotations import Annotations
from scenelift.batches import SceneStore, draw_batch, steps_per_epoch, voxel_inputs
from scenelift.cache import Cache
from scenelift.config import Config, PairingConfig
from scenelift.errors import ConfigError, DataError
from scenelift.store import _Recent
from scenelift.types import Frame, Frames, Masks, Scene
from test_batches import NAMES, config, same


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinySource, Annotations]:
    return annotated(tmp_path_factory.mktemp("annotated"))


@pytest.fixture
def store(data: tuple[TinySource, Annotations]) -> SceneStore:
    return SceneStore(data[0], NAMES, data[1], "masks")


def still(max_points: int | None) -> Config:
    """All frames as they are, so that only the crop of the clouds makes a difference."""
    return tiny_config(
        augment={"hflip": 0.0, "scale": [1.0, 1.0]},
        train={"scenes_per_step": 2, "frames_per_scene": 4, "max_points": max_points},
    )


class TestSceneOrder:
    @pytest.mark.parametrize("per_step", [1, 2, 3])
    def test_every_scene_once_per_pass(self, per_step: int) -> None:
        names = [f"s{i}" for i in range(6)]
        settings = config(scenes_per_step=per_step)
        passes = []
        for turn in range(4):
            steps = range(turn * 6 // per_step, (turn + 1) * 6 // per_step)
            order = [name for step in steps for name in B._scenes_of_step(names, settings, step)]
            assert sorted(order) == names
            passes.append(tuple(order))
        assert len(set(passes)) > 1

    def test_no_scene_twice_in_a_step(self) -> None:
        for step in range(10):
            scenes = B._scenes_of_step(["a", "b"], config(scenes_per_step=5), step)
            assert sorted(scenes) == ["a", "b"]

    def test_steps_per_epoch(self) -> None:
        assert steps_per_epoch(config(scenes_per_step=2), 5) == 3
        assert steps_per_epoch(config(scenes_per_step=2), 0) == 1
        assert steps_per_epoch(config(steps_per_epoch=17), 5) == 17


class TestVoxels:
    def test_max_points_keeps_a_contiguous_piece_of_each_scene(self, store: SceneStore) -> None:
        whole = draw_batch(store, config(), 0)
        cut = draw_batch(store, config(max_points=40), 0)
        assert torch.bincount(cut.coords[:, 0]).tolist() == [40, 40]
        assert len(cut.inputs) == 80
        kept = {tuple(row) for row in cut.coords.tolist()}
        assert kept < {tuple(row) for row in whole.coords.tolist()}
        for scene in range(2):
            inside, outside = [], []
            for row in whole.coords[whole.coords[:, 0] == scene].tolist():
                (inside if tuple(row) in kept else outside).append(row[1:3])
            a, b = torch.tensor(inside).double(), torch.tensor(outside).double()
            reach = [((a - c).norm(dim=1).max(), (b - c).norm(dim=1).min()) for c in a]
            assert any(far <= near for far, near in reach)  # a disc around one of its voxels

    def test_max_points_renumbers_pairs(self, store: SceneStore) -> None:
        whole = draw_batch(store, still(None), 0)
        cut = draw_batch(store, still(40), 0)
        kept = {tuple(row) for row in cut.coords.tolist()}
        of_pair = whole.coords[whole.pair_voxel].tolist()
        survives = torch.tensor([tuple(row) in kept for row in of_pair])
        assert 0 < survives.sum() < len(survives)
        torch.testing.assert_close(cut.coords[cut.pair_voxel], whole.coords[whole.pair_voxel][survives])
        torch.testing.assert_close(cut.pair_position, whole.pair_position[survives])

    def test_max_points_beyond_the_cloud_changes_nothing(self, store: SceneStore) -> None:
        a, b = (draw_batch(store, still(limit), 0) for limit in (None, 10**6))
        assert torch.equal(a.coords, b.coords)
        assert torch.equal(a.pair_voxel, b.pair_voxel)

    def test_inputs_are_mean_colours_or_ones(self) -> None:
        voxel = torch.tensor([0, 0, 1, 2, 2])
        colors = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0.25]])
        rgb = voxel_inputs([colors, None], [3, 2], voxel, 3, "rgb")
        torch.testing.assert_close(rgb, torch.tensor([[0.0, 0, 0], [1, -1, -0.5], [0, 0, 0]]))
        assert voxel_inputs([None], [5], voxel, 3, "constant").tolist() == [[1], [1], [1]]

    def test_inputs_of_a_batch(self, store: SceneStore) -> None:
        assert draw_batch(store, config(), 0).inputs.shape[1] == 3
        constant = tiny_config(networks={"points": {"inputs": "constant"}})
        batch = draw_batch(store, constant, 0)
        assert torch.equal(batch.inputs, torch.ones(len(batch.coords), 1))


class TestOddScenes:
    """Scenes that are not as one would wish."""

    def annotate(self, tmp_path: Path, scenes: list[Scene]) -> SceneStore:
        truth = tiny_source().truth
        assert truth is not None
        source = TinySource(scenes, truth)
        teachers = FakeLabelTeacher(truth), AnyMasks(truth)
        pairing, cache = PairingConfig(depth_tolerance_m=0.1), Cache(tmp_path)
        known = annotate(source, source.names("train"), source.classes, *teachers, pairing, cache)
        return SceneStore(source, source.names("train"), known, "masks")

    def test_cloud_without_colour_is_grey(self, tmp_path: Path) -> None:
        scenes = [replace(scene, rgb=None) for scene in tiny_source().scenes.values()]
        batch = draw_batch(self.annotate(tmp_path, scenes), config(), 0)
        assert batch.inputs.shape[1] == 3
        assert not batch.inputs.any()

    def test_frames_that_see_no_point(self, tmp_path: Path) -> None:
        scene = tiny_source().scenes["scene0"]
        away = replace(scene, points_world=scene.points_world + np.float32(50))
        batch = draw_batch(self.annotate(tmp_path, [away]), config(), 0)
        assert batch.images.shape[0] == 3
        for rows in (batch.pair_image, batch.pair_row, batch.pair_col, batch.pair_voxel):
            assert rows.shape == (0,)
            assert rows.dtype == torch.int64
        assert batch.pair_position.shape == (0, 2)

    def test_cloud_without_points(self, tmp_path: Path) -> None:
        scene = tiny_source().scenes["scene0"]
        empty = replace(scene, points_world=scene.points_world[:0], rgb=scene.rgb[:0])
        batch = draw_batch(self.annotate(tmp_path, [empty]), config(max_points=5), 0)
        assert (batch.coords.shape, batch.inputs.shape) == ((0, 4), (0, 3))
        assert len(batch.pair_image) == 0

    def test_one_empty_cloud_among_others(self, tmp_path: Path) -> None:
        first, second = tiny_source().scenes.values()
        empty = replace(first, points_world=first.points_world[:0], rgb=first.rgb[:0])
        batch = draw_batch(self.annotate(tmp_path, [empty, second]), config(max_points=5), 0)
        assert len(batch.coords.unique(dim=0)) == 5
        assert len(batch.coords[:, 0].unique()) == 1

    def test_no_scenes(self, data: tuple[TinySource, Annotations]) -> None:
        with pytest.raises(DataError, match="at least one scene"):
            SceneStore(data[0], [], data[1], None)

    def test_no_frames(self, tmp_path: Path) -> None:
        bare = replace(tiny_source().scenes["scene0"], frames=Frames.of([]))
        with pytest.raises(DataError, match="expected frames in scene0, found none"):
            draw_batch(self.annotate(tmp_path, [bare]), config(), 0)

    def test_frames_of_several_sizes_need_a_crop(self, tmp_path: Path) -> None:
        store = self.annotate(tmp_path, [of_two_sizes((24, 32), (12, 16))])
        with pytest.raises(ConfigError, match=r"augment\.crop=\[height, width\]"):
            draw_batch(store, config(), 0)
        cropped = tiny_config(augment={"crop": [12, 16]}, train={"frames_per_scene": 2})
        store = SceneStore(store._source, store.names, store._annotations, None)
        assert draw_batch(store, cropped, 0).images.shape == (2, 3, 12, 16)

    def test_feature_grids_of_several_sizes_cannot_share_a_batch(self, tmp_path: Path) -> None:
        store = self.annotate(tmp_path, [of_two_sizes((24, 32), (12, 16))])
        with pytest.raises(ConfigError, match=r"latent\.weight=0"):
            draw_batch(store, tiny_config(augment={"crop": [12, 16]}), 0)


class AnyMasks(FakeMaskTeacher):
    """Answers for frames of any size, which the truth does not fit."""

    def _masks(self, frame: Frame) -> Masks:
        grid = np.zeros((3, frame.height // 4, frame.width // 4), dtype=np.float16)
        return Masks(np.ones((frame.height, frame.width), dtype=np.uint16), grid)


def of_two_sizes(*sizes: tuple[int, int]) -> Scene:
    scene = tiny_source().scenes["scene0"]
    frames = []
    for frame, (height, width) in zip(scene.frames, sizes, strict=False):
        assert frame.depth_m is not None
        cut = frame.image[:height, :width], frame.depth_m[:height, :width]
        frames.append(replace(frame, image=cut[0], depth_m=cut[1]))
    return replace(scene, frames=Frames.of(frames))


class TestMemory:
    def test_keeps_the_most_recent_up_to_a_size(self) -> None:
        recent: _Recent[str] = _Recent(10)
        made: list[str] = []

        def get(key: str, size: int = 4) -> str:
            return recent.get(key, lambda: (made.append(key) or key.upper(), size))

        assert [get("a"), get("b"), get("a")] == ["A", "B", "A"]
        get("c")  # b is the oldest in use
        get("a")
        assert made == ["a", "b", "c"]
        get("b")
        assert made == ["a", "b", "c", "b"]
        get("huge", 99)
        assert list(recent._items) == ["huge"]  # what is in use stays, however large
        get("a")
        assert list(recent._items) == ["a"]

    def test_store_stays_below_its_bound(self, data: tuple[TinySource, Annotations]) -> None:
        store = SceneStore(data[0], NAMES, data[1], "masks", max_bytes=100_000)
        for step in range(8):
            draw_batch(store, config(), step)
        views = [view for view, _ in store._views._items.values()]
        assert 1 < len(views) < 8
        assert sum(view.nbytes for view in views) <= 25_000
        for view in views:  # no array is a window on a larger one that would stay in memory
            arrays = (view.labels, view.mask_ids, view.point_index, view.pixel_uv, *view.targets)
            assert all(array.base is None or array.base.nbytes <= 2 * array.nbytes for array in arrays)

    def test_a_small_store_gives_the_same_batches(
        self, data: tuple[TinySource, Annotations], store: SceneStore
    ) -> None:
        small = SceneStore(data[0], NAMES, data[1], "masks", max_bytes=1)
        for step in range(3):
            assert same(draw_batch(small, config(), step), draw_batch(store, config(), step))

    def test_scenes_are_read_once_while_they_fit(self, data: tuple[TinySource, Annotations]) -> None:
        source, annotations = data
        store = SceneStore(source, NAMES, annotations, "masks")
        source.read.clear()
        for step in range(5):
            draw_batch(store, config(), step)
        assert sorted(source.read) == list(NAMES)


def test_streams_differ_by_purpose_and_step() -> None:
    draws = {B.stream(0, purpose, step).integers(2**62) for purpose in range(5) for step in range(20)}
    assert len(draws) == 100


def test_jitter_without_strength_is_nothing() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    factors = B._jitter_factors(2, 0.0, np.random.default_rng(0))
    expected = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(B._pictures(list(images), factors), expected, atol=1e-6, rtol=0)
