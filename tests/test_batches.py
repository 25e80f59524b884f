"""Batches against a slow reference; no ground truth; the same data whoever draws them."""

from __future__ import annotations

import ast
import hashlib
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

from fixtures_scenes import TinySource, annotated, tiny_config
from scenelift import batches as B
from scenelift.annotations import Annotations
from scenelift.augment import ImageTransform, PointTransform
from scenelift.batches import Batch, SceneStore, View, batches, draw_batch
from scenelift.config import Config
from scenelift.errors import DataError

NAMES = ("scene0", "scene1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[TinySource, Annotations]:
    return annotated(tmp_path_factory.mktemp("annotated"))


@pytest.fixture
def store(data: tuple[TinySource, Annotations]) -> SceneStore:
    return SceneStore(data[0], NAMES, data[1], "masks")


def config(**train: Any) -> Config:
    return tiny_config(train={"scenes_per_step": 2, "frames_per_scene": 3, **train})


def same(a: Batch, b: Batch) -> bool:
    return digest(a) == digest(b)


def digest(batch: Batch) -> str:
    state = hashlib.blake2b(digest_size=16)
    for item in fields(batch):
        value = getattr(batch, item.name)
        for tensor in value if isinstance(value, tuple) else (value,):
            state.update(f"{item.name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            state.update(tensor.numpy().tobytes())
    return state.hexdigest()


class TestNoGroundTruth:
    @pytest.mark.parametrize("noun", [Batch, View])
    def test_the_nouns_have_no_place_for_it(self, noun: type) -> None:
        assert {item.name for item in fields(noun)} == {
            Batch: {
                *("images", "labels", "mask_ids", "coords", "inputs", "target_grids", "distill"),
                *("pair_image", "pair_row", "pair_col", "pair_voxel", "pair_position"),
            },
            View: {"image", "labels", "mask_ids", "targets", "point_index", "pixel_uv"},
        }[noun]
        for hint in get_type_hints(noun).values():
            assert "Truth" not in str(hint)
            assert "Tensor" in str(hint) or "ndarray" in str(hint)  # and nothing that could hold one

    @pytest.mark.parametrize(
        "module", ["batches", "store", "augment", "cotrain", "losses", "switching", "fusion", "distill"]
    )
    def test_training_never_speaks_of_it(self, module: str) -> None:
        source = Path(B.__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
        words = list(_words(ast.parse(source)))
        assert len(words) > 50
        assert [word for word in words if "truth" in word.lower()] == []

    def test_the_stored_scene_is_asked_for_nothing_but_scenes(
        self, data: tuple[TinySource, Annotations]
    ) -> None:
        source, annotations = data
        blind = TinySource(list(source.scenes.values()), truth=None)
        whole = draw_batch(SceneStore(source, NAMES, annotations, "masks"), config(), 0)
        assert same(whole, draw_batch(SceneStore(blind, NAMES, annotations, "masks"), config(), 0))


def _words(tree: ast.AST) -> Iterator[str]:
    """Every name a module imports, reads, defines or takes: all but its prose."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "arg", "module", "asname"):
            word = getattr(node, field, None)
            if isinstance(word, str):
                yield word


class TestDrawBatch:
    @pytest.mark.parametrize("step", [0, 1, 5])
    @pytest.mark.parametrize(
        "augment",
        [
            {"hflip": 1.0, "scale": (1.0, 1.0), "color_jitter": 0.0},
            {"hflip": 0.5, "scale": (1.0, 2.0), "color_jitter": 0.0},
            {"hflip": 0.5, "scale": (0.6, 2.0), "crop": (16, 20), "color_jitter": 0.0},
        ],
        ids=["mirror", "zoom", "crop"],
    )
    def test_equals_the_slow_reference(
        self,
        data: tuple[TinySource, Annotations],
        monkeypatch: pytest.MonkeyPatch,
        augment: dict[str, Any],
        step: int,
    ) -> None:
        settings = config()
        settings = settings.model_copy(update={"augment": settings.augment.model_copy(update=augment)})
        views: list[tuple[str, int]] = []

        class Recording(SceneStore):
            def view(self, name: str, index: int) -> View:
                views.append((name, index))
                return super().view(name, index)

        images = recorded(monkeypatch, "draw_image_transform")
        points = recorded(monkeypatch, "draw_point_transform")
        batch = draw_batch(Recording(*data[:1], NAMES, data[1], "masks"), settings, step)
        assert len(views) == len(images) == 6
        assert len(set(views)) == 6
        check_images(batch, data, views, images)
        check_pairs(batch, data, views, images, points, settings.networks.points.voxel_m)

    def test_frames_in_view_differ_from_step_to_step(self, store: SceneStore) -> None:
        drawn = {digest(draw_batch(store, config(), step)) for step in range(6)}
        assert len(drawn) == 6

    def test_more_frames_than_there_are_means_all(self, store: SceneStore) -> None:
        assert draw_batch(store, config(frames_per_scene=99), 0).images.shape == (8, 3, 24, 32)

    def test_dtypes_and_ranges(self, store: SceneStore) -> None:
        batch = draw_batch(store, config(), 0)
        assert batch.images.dtype == torch.float32
        assert batch.images.min() >= 0
        assert batch.images.max() <= 1
        assert (batch.labels.dtype, batch.mask_ids.dtype) == (torch.int64, torch.int32)
        assert batch.coords.dtype == torch.int32
        for rows in (batch.pair_image, batch.pair_row, batch.pair_col, batch.pair_voxel):
            assert rows.dtype == torch.int64
            assert len(rows) == len(batch.pair_position) > 100
        assert batch.pair_voxel.max() < len(batch.coords) == len(batch.inputs)
        assert batch.pair_position.min() >= 0
        assert batch.pair_position.max() <= 1

    def test_moves_as_a_whole(self, store: SceneStore) -> None:
        moved = draw_batch(store, config(), 0).to("meta")
        tensors = [getattr(moved, item.name) for item in fields(moved)]
        flat = [*itertools.chain(*(t if isinstance(t, tuple) else (t,) for t in tensors))]
        assert len(flat) == 11
        assert all(tensor.device.type == "meta" for tensor in flat)

    @pytest.mark.parametrize(
        ("target", "channels"), [(None, []), ("masks", [3]), ("labels", [8]), ("masks+labels", [3, 8])]
    )
    def test_target_grids(
        self, data: tuple[TinySource, Annotations], target: str | None, channels: list[int]
    ) -> None:
        store = SceneStore(data[0], NAMES, data[1], target)
        batch = draw_batch(store, config(), 0)
        assert [grid.shape for grid in batch.target_grids] == [(6, c, 6, 8) for c in channels]
        assert store.target_dim() == sum(channels)

    def test_color_jitter_changes_colours_only(self, store: SceneStore) -> None:
        plain, jittered = (
            draw_batch(store, tiny_config(augment={"color_jitter": strength}), 0) for strength in (0.0, 0.4)
        )
        assert not torch.equal(plain.images, jittered.images)
        assert jittered.images.min() >= 0
        assert jittered.images.max() <= 1
        assert same(replace(plain, images=jittered.images), jittered)


def recorded(monkeypatch: pytest.MonkeyPatch, function: str) -> list[Any]:
    """The transforms that `batches` draws."""
    drawn: list[Any] = []
    original: Callable[..., Any] = getattr(B, function)

    def record(*args: Any) -> Any:
        drawn.append(original(*args))
        return drawn[-1]

    monkeypatch.setattr(B, function, record)
    return drawn


def check_images(
    batch: Batch,
    data: tuple[TinySource, Annotations],
    views: list[tuple[str, int]],
    transforms: list[ImageTransform],
) -> None:
    source, annotations = data
    for i, ((name, index), transform) in enumerate(zip(views, transforms, strict=True)):
        frame = source.scenes[name].frames[index]
        masks = annotations.masks(name, frame.name)
        image = torch.from_numpy(transform.image(frame.image).copy()).permute(2, 0, 1) / 255
        torch.testing.assert_close(batch.images[i], image)
        labels = transform.nearest(annotations.labels(name, frame.name))
        np.testing.assert_array_equal(batch.labels[i].numpy(), labels)
        np.testing.assert_array_equal(batch.mask_ids[i].numpy(), transform.nearest(masks.ids))
        np.testing.assert_array_equal(batch.target_grids[0][i].numpy(), masks.features)


def check_pairs(
    batch: Batch,
    data: tuple[TinySource, Annotations],
    views: list[tuple[str, int]],
    images: list[ImageTransform],
    clouds: list[PointTransform],
    voxel_m: float,
) -> None:
    """One pair after another: its pixel under the image's transform, its voxel under the cloud's."""
    source, annotations = data
    scenes = list(dict.fromkeys(name for name, _ in views))
    moved = {n: t.points(source.scenes[n].points_world) for n, t in zip(scenes, clouds, strict=True)}
    rows = zip(
        batch.pair_image.tolist(),
        batch.pair_row.tolist(),
        batch.pair_col.tolist(),
        batch.coords[batch.pair_voxel].tolist(),
        batch.pair_position.tolist(),
        strict=True,
    )
    for i, ((name, index), transform) in enumerate(zip(views, images, strict=True)):
        pairs = annotations.pairs(name)
        for row in np.flatnonzero(pairs.frame_index == index):
            uv = pairs.pixel_uv[row]
            u, v = np.floor(np.ravel(transform.pixels(uv[None])) + 0.5)
            if 0 <= u < transform.width and 0 <= v < transform.height:
                image, pixel_row, pixel_col, voxel, position = next(rows)
                point = moved[name][pairs.point_index[row]]
                assert (image, pixel_row, pixel_col) == (i, v, u)
                assert voxel == [scenes.index(name), *np.floor(point / np.float32(voxel_m)).tolist()]
                assert position == pytest.approx([(uv[0] + 0.5) / 32, (uv[1] + 0.5) / 24], abs=1e-6)
    assert next(rows, None) is None


class TestStateless:
    def test_a_step_does_not_remember_others(self, data: tuple[TinySource, Annotations]) -> None:
        fresh = digest(draw_batch(SceneStore(data[0], NAMES, data[1], "masks"), config(), 7))
        used = SceneStore(data[0], NAMES, data[1], "masks")
        for step in (3, 7, 0):
            draw_batch(used, config(), step)
        torch.manual_seed(99)
        np.random.default_rng().random()
        assert digest(draw_batch(used, config(), 7)) == fresh

    def test_another_seed_is_another_batch(self, store: SceneStore) -> None:
        other = config().model_copy(update={"seed": 1})
        assert not same(draw_batch(store, config(), 0), draw_batch(store, other, 0))

    def test_nor_does_the_process_matter(self, store: SceneStore) -> None:
        code = (
            "import sys, pathlib\n"
            "from fixtures_scenes import tiny_source; from scenelift.cache import Cache\n"
            "from test_batches import *\n"
            "source = tiny_source(); root = pathlib.Path(sys.argv[1])\n"
            "known = Annotations.load(root / 'index.json', Cache(root))\n"
            "print(digest(draw_batch(SceneStore(source, NAMES, known, 'masks'), config(), 4)))"
        )
        annotations = store._annotations
        annotations.save(annotations.cache.root / "index.json")
        environment = {**os.environ, "PYTHONHASHSEED": "5", "PYTHONPATH": str(Path(__file__).parent)}
        command = [sys.executable, "-c", code, str(annotations.cache.root)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == digest(draw_batch(store, config(), 4))


class TestIterator:
    @pytest.mark.parametrize(("first", "last"), [(0, 5), (3, 5), (4, 5), (5, 5), (6, 5)])
    @pytest.mark.parametrize("workers", [0, 1, 2, 9])
    def test_yields_the_steps_in_order_from_any(
        self, monkeypatch: pytest.MonkeyPatch, store: SceneStore, first: int, last: int, workers: int
    ) -> None:
        monkeypatch.setattr(B, "draw_batch", lambda store, config, step: step)
        assert list(batches(store, config(), first, last, workers)) == list(range(first, last))

    @pytest.mark.parametrize("workers", [0, 1, 3])
    @pytest.mark.parametrize("max_bytes", [0, 1 << 30])
    def test_the_same_batches_for_any_number_of_workers(
        self, data: tuple[TinySource, Annotations], workers: int, max_bytes: int
    ) -> None:
        settings = config(scenes_per_step=1, frames_per_scene=1)  # one image, and one scene after the other
        fresh = SceneStore(data[0], NAMES, data[1], "masks", max_bytes)
        drawn = [digest(batch) for batch in batches(fresh, settings, 2, 14, workers)]
        plain = SceneStore(data[0], NAMES, data[1], "masks")
        assert drawn == [digest(draw_batch(plain, settings, step)) for step in range(2, 14)]

    def test_runs_ahead_but_not_far(self, monkeypatch: pytest.MonkeyPatch, store: SceneStore) -> None:
        begun: list[int] = []
        monkeypatch.setattr(B, "draw_batch", lambda store, config, step: begun.append(step) or step)
        iterator = batches(store, config(), 0, 50, workers=2)
        assert next(iterator) == 0
        assert max(begun) <= 3
        iterator.close()
        assert max(begun) <= 3
        assert not [thread for thread in threading.enumerate() if "scenelift-read" in thread.name]

    @pytest.mark.parametrize("workers", [0, 1, 3])
    @pytest.mark.parametrize("error", [DataError, MemoryError, KeyboardInterrupt])
    def test_an_error_in_a_worker_surfaces_at_its_step(
        self,
        monkeypatch: pytest.MonkeyPatch,
        store: SceneStore,
        workers: int,
        error: type[BaseException],
    ) -> None:
        def failing(store: SceneStore, config: Config, step: int) -> int:
            if step == 2:
                raise error("frame scene0/f2 is damaged")
            return step

        monkeypatch.setattr(B, "draw_batch", failing)
        iterator = batches(store, config(), 0, 9, workers)
        assert [next(iterator), next(iterator)] == [0, 1]
        with pytest.raises(error, match="scene0/f2"):
            next(iterator)
        assert list(iterator) == []
