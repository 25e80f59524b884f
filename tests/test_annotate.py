"""Annotation: what is asked of the teachers, what is kept, and what is found again."""

from __future__ import annotations

import copy
import errno
import json
import os
import re
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fixtures_scenes import (
    CLASSES,
    FakeLabelTeacher,
    FakeMaskTeacher,
    TinySource,
    annotated,
    tiny_config,
    tiny_source,
)
from scenelift.annotate import annotate
from scenelift.annotations import Annotations
from scenelift.batches import SceneStore, draw_batch
from scenelift.cache import Cache, Entry, Key
from scenelift.claims import Claims
from scenelift.classes import ClassTable
from scenelift.config import PairingConfig, PseudoLabelConfig
from scenelift.errors import CacheError, DataError, RunError
from scenelift.files import is_temp
from scenelift.frame_stream import READERS
from scenelift.labels import pseudo_labels
from scenelift.losses import sample_maps
from scenelift.pairing import pair_points
from scenelift.types import IGNORE, Frame, Frames, Scene

PAIRING = PairingConfig(depth_tolerance_m=0.1)
ALL = {"label_features": 8, "labels": 8, "masks": 8, "mask_features": 8}
"""What is written for the eight frames of the tiny source."""


class Desk:
    """A source, a cache and the teachers of one run after another."""

    def __init__(self, folder: Path, source: TinySource | None = None) -> None:
        self.cache = Cache(folder / "cache")
        self.source = source or tiny_source()
        assert self.source.truth is not None
        self.truth = self.source.truth

    def run(
        self,
        classes: ClassTable = CLASSES,
        pairing: PairingConfig = PAIRING,
        labels: FakeLabelTeacher | None = None,
        masks: FakeMaskTeacher | None = None,
        **options: Any,
    ) -> Annotations:
        """Annotate with new teachers, which note what they are asked; and note what was written."""
        self.labels = labels or FakeLabelTeacher(self.truth)
        self.masks = masks or FakeMaskTeacher(self.truth)
        before = self.count()
        names = self.source.names("train")
        try:
            return annotate(
                self.source, names, classes, self.labels, self.masks, pairing, self.cache, **options
            )
        finally:
            self.written = {k: n - before.get(k, 0) for k, n in self.count().items() if n != before.get(k, 0)}

    def count(self) -> dict[str, int]:
        return {stage: stats.entries for stage, stats in self.cache.stats().items()}

    def change(self, name: str, edit: Callable[[Frame], Frame]) -> None:
        """Edit the first frame of a scene."""
        scene = self.source.scenes[name]
        first, *others = scene.frames
        self.source.scenes[name] = replace(scene, frames=Frames.of([edit(first), *others]))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


class TestAnswers:
    def test_everything_can_be_read_back(self, desk: Desk) -> None:
        known = desk.run()
        np.testing.assert_array_equal(known.text, np.eye(8, dtype=np.float32)[:4])
        for name, scene in desk.source.scenes.items():
            pairs = pair_points(scene.points_world, scene.frames, PAIRING)
            for field in ("frame_index", "point_index", "pixel_uv"):
                np.testing.assert_array_equal(getattr(known.pairs(name), field), getattr(pairs, field))
            for frame in scene.frames:
                (features,) = desk.labels.image_features([frame])
                (masks,) = desk.masks.masks([frame])
                np.testing.assert_array_equal(known.features(name, frame.name), features)
                np.testing.assert_array_equal(known.masks(name, frame.name).ids, masks.ids)
                np.testing.assert_array_equal(known.masks(name, frame.name).features, masks.features)
                grid, text = torch.from_numpy(features)[None], torch.from_numpy(known.text)
                labels = pseudo_labels(grid, text, (24, 32))[0]
                assert known.labels(name, frame.name).dtype == np.uint8
                np.testing.assert_array_equal(known.labels(name, frame.name), labels)

    def test_the_labels_are_mostly_true(self, desk: Desk) -> None:
        """Of this teacher; a transposed or shifted grid would not be."""
        known = desk.run()
        truth = desk.truth.frame("scene1", "f2")
        assert truth is not None
        assert (known.labels("scene1", "f2") == truth.labels).mean() > 0.85

    def test_long_scenes_go_in_batches(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, tiny_source(num_scenes=1, frames=19))
        known = desk.run(batch_size=8)
        assert desk.labels.batches == desk.masks.batches == [8, 8, 3]
        assert desk.labels.asked == desk.masks.asked == [f"scene0/f{i}" for i in range(19)]
        assert list(known.scenes["scene0"].frames) == [f"f{i}" for i in range(19)]
        assert known.pairs("scene0").frame_index.max() == 18

    def test_batches_go_on_from_scene_to_scene(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, tiny_source(num_scenes=5, frames=1))
        desk.run(batch_size=2)
        assert desk.labels.batches == desk.masks.batches == [2, 2, 1]
        assert desk.labels.asked == [f"scene{i}/f0" for i in range(5)]

    @pytest.mark.parametrize("features", ["full", "paired"])
    def test_batch_size_and_order_change_nothing(self, tmp_path: Path, features: str) -> None:
        source = tiny_source(num_scenes=3, frames=3)
        content: list[dict[Key, dict[str, Any]]] = []
        for number, (size, names) in enumerate([(1, "012"), (4, "120"), (100, "201")]):
            desk = Desk(tmp_path / str(number), source)
            source.scenes = {name: source.scenes[name] for name in (f"scene{i}" for i in names)}
            known = desk.run(batch_size=size, features=features)
            content.append({key: of.arrays for key, of in everything(desk.cache).items()})
            assert list(known.scenes) == [f"scene{i}" for i in names]
        assert content[0].keys() == content[1].keys() == content[2].keys()
        for key, arrays in content[0].items():
            for other in content[1:]:
                for name, array in arrays.items():
                    np.testing.assert_array_equal(array, other[key][name])

    def test_a_scene_without_frames(self, desk: Desk) -> None:
        scene = desk.source.scenes["scene0"]
        desk.source.scenes["scene0"] = replace(scene, frames=Frames.of([]))
        known = desk.run()
        assert (len(known.pairs("scene0")), dict(known.scenes["scene0"].frames)) == (0, {})
        assert list(known.scenes) == ["scene0", "scene1"]

    def test_the_same_picture_twice_is_asked_about_once(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, tiny_source(num_scenes=1, frames=3))
        scene = desk.source.scenes["scene0"]
        first, second, third = scene.frames
        same = replace(second, image=first.image)
        desk.source.scenes["scene0"] = replace(scene, frames=Frames.of([first, same, third]))
        known = desk.run(batch_size=8)
        assert sorted(desk.labels.asked) == sorted(desk.masks.asked) == ["scene0/f0", "scene0/f2"]
        assert list(known.scenes["scene0"].frames) == ["f0", "f1", "f2"]
        np.testing.assert_array_equal(known.mask_ids("scene0", "f0"), known.mask_ids("scene0", "f1"))

    def test_progress_counts_frames_and_tells_what_was_found(self, desk: Desk) -> None:
        told: list[object] = []

        def progress(what: str, total: int, done: int) -> AbstractContextManager[Callable[[str], None]]:
            told.append((what, total, done))
            return nullcontext(told.append)

        desk.run(progress=progress)
        assert told[0] == ("annotate", 8, 0)
        assert len(told) == 9
        assert all(re.fullmatch(r"[0-9.e+]+ images/s", str(note)) for note in told[1:])
        told.clear()
        desk.change("scene0", lambda frame: replace(frame, image=255 - frame.image))
        desk.run(progress=progress)
        assert len(told) == 9
        assert re.fullmatch(r"[0-9.e+]+ images/s, 7 from the cache", str(told[-1]))

    def test_manifests_name_the_teachers(self, desk: Desk) -> None:
        desk.run()
        told = {info.stage: info.meta for info in desk.cache.entries()}
        assert set(told) == {"label_features", "labels", "masks", "mask_features", "text", "pairs"}
        for stage, teacher in [("label_features", "label"), ("labels", "label"), ("masks", "mask")]:
            assert told[stage]["teacher"] == f"fake {teacher}s"
            assert told[stage]["weights"] == f"fake weights of the {teacher} teacher"
            assert str(told[stage]["frame"]).startswith("scene")
        assert told["mask_features"].keys() == told["masks"].keys()
        assert told["text"]["teacher"] == "fake text"


class TestResume:
    def test_a_second_run_asks_nothing(self, desk: Desk) -> None:
        first = desk.run()
        assert desk.written == {**ALL, "text": 4, "pairs": 2}
        second = desk.run()
        assert desk.labels.asked == desk.masks.asked == []
        assert desk.written == {}
        assert second.scenes == first.scenes

    def test_after_a_kill_only_the_rest_is_asked(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, tiny_source(num_scenes=2, frames=12))
        with pytest.raises(KeyboardInterrupt):
            desk.run(labels=FakeLabelTeacher(desk.truth, die_after=8), batch_size=4)
        killed = desk.labels.asked, desk.masks.asked
        assert [len(asked) for asked in killed] == [8, 8]
        known = desk.run()
        every = [f"scene{i}/f{j}" for i in range(2) for j in range(12)]
        assert (killed[0] + desk.labels.asked, killed[1] + desk.masks.asked) == (every, every)
        whole = Desk(tmp_path / "other", desk.source).run()
        assert known.scenes == whole.scenes

    def test_a_kill_between_the_teachers_loses_no_features(self, desk: Desk) -> None:
        with pytest.raises(KeyboardInterrupt):
            desk.run(masks=FakeMaskTeacher(desk.truth, die_after=0), batch_size=4)
        assert len(desk.labels.asked) == 4
        desk.run()
        assert desk.labels.asked == [f"scene1/f{i}" for i in range(4)]
        assert len(desk.masks.asked) == 8

    def test_a_new_frame_is_the_only_one_asked(self, tmp_path: Path) -> None:
        whole = tiny_source(num_scenes=1, frames=5)
        scene = whole.scenes["scene0"]
        desk = Desk(tmp_path, whole)
        whole.scenes["scene0"] = replace(scene, frames=scene.frames[:4])
        desk.run()
        whole.scenes["scene0"] = scene
        desk.run()
        assert desk.labels.asked == desk.masks.asked == ["scene0/f4"]
        assert desk.written == {**dict.fromkeys(ALL, 1), "pairs": 1}


class TestWhatRunsAgain:
    def test_a_new_class_list_runs_text_and_labels_only(self, desk: Desk) -> None:
        first = desk.run()
        second = desk.run(classes=ClassTable.parse("box, lamp, floor"))
        assert desk.labels.asked == desk.masks.asked == []
        assert desk.labels.words == ["lamp"]
        assert desk.written == {"labels": 8, "text": 1}
        assert second.text.shape == (3, 8)
        assert second.labels("scene0", "f0").max() <= 2
        assert first.digest(["scene0"]) != second.digest(["scene0"])

    def test_a_changed_pose_runs_pairs_only(self, desk: Desk) -> None:
        first = desk.run()
        shift = np.eye(4)
        shift[0, 3] = 0.3
        desk.change("scene1", lambda frame: replace(frame, cam_from_world=shift @ frame.cam_from_world))
        second = desk.run()
        assert desk.labels.asked == desk.masks.asked == []
        assert desk.written == {"pairs": 1}
        assert first.digest(["scene0"]) == second.digest(["scene0"])
        assert first.digest(["scene1"]) != second.digest(["scene1"])

    @pytest.mark.parametrize("what", ["intrinsics", "depth_m", "no depth"])
    def test_so_does_anything_else_of_the_camera(self, desk: Desk, what: str) -> None:
        config = PAIRING.model_copy(update={"depth_test": "none"})
        desk.run(pairing=config)

        def edit(frame: Frame) -> Frame:
            assert frame.depth_m is not None
            if what == "intrinsics":
                return replace(frame, intrinsics=frame.intrinsics * np.diag([1.1, 1.1, 1]))
            return replace(frame, depth_m=frame.depth_m + 1 if what == "depth_m" else None)

        desk.change("scene1", edit)
        desk.run(pairing=config)
        assert desk.written == {"pairs": 1}

    def test_a_changed_cloud_runs_pairs_only(self, desk: Desk) -> None:
        desk.run()
        scene = desk.source.scenes["scene0"]
        desk.source.scenes["scene0"] = replace(scene, points_world=scene.points_world + np.float32(0.001))
        desk.run()
        assert desk.written == {"pairs": 1}

    def test_changed_pairing_runs_pairs_only(self, desk: Desk) -> None:
        desk.run()
        desk.run(pairing=PairingConfig(depth_test="relative"))
        assert desk.written == {"pairs": 2}

    def test_a_changed_image_is_asked_again(self, desk: Desk) -> None:
        first = desk.run()
        desk.change("scene0", lambda frame: replace(frame, image=255 - frame.image))
        second = desk.run()
        assert desk.labels.asked == desk.masks.asked == ["scene0/f0"]
        assert desk.written == dict.fromkeys(ALL, 1)
        assert first.digest(["scene0"]) != second.digest(["scene0"])

    def test_another_label_teacher(self, desk: Desk) -> None:
        desk.run()
        desk.run(labels=FakeLabelTeacher(desk.truth, identity="other"))
        assert (len(desk.labels.asked), desk.masks.asked) == (8, [])
        assert desk.written == {"label_features": 8, "labels": 8}

    def test_another_mask_teacher(self, desk: Desk) -> None:
        first = desk.run()
        second = desk.run(masks=FakeMaskTeacher(desk.truth, identity="other"))
        assert (desk.labels.asked, len(desk.masks.asked)) == ([], 8)
        assert desk.written == {"masks": 8, "mask_features": 8}
        assert first.digest(["scene0"]) != second.digest(["scene0"])

    def test_names_do_not_matter(self, desk: Desk) -> None:
        """Another user's copy of the data under other names finds everything."""
        desk.run()
        scene = desk.source.scenes.pop("scene0")
        desk.source.scenes.pop("scene1")
        frames = [replace(frame, scene="copy", name=f"x{i}") for i, frame in enumerate(scene.frames)]
        copied = Scene("copy", scene.points_world, scene.rgb, Frames.of(frames))
        desk.source.scenes["copy"] = copied
        desk.run()
        assert desk.labels.asked == desk.masks.asked == []
        assert desk.written == {}


class TestPseudoLabels:
    def test_settings_run_labels_only_and_reach_them(self, desk: Desk) -> None:
        first = desk.run()
        config = PseudoLabelConfig(threshold=0.9, denoise=0.3, logit_scale=2.0)
        second = desk.run(pseudo=config)
        assert desk.labels.asked == desk.masks.asked == []
        assert desk.written == {"labels": 8}
        grid = torch.from_numpy(second.features("scene0", "f1"))[None]
        want = pseudo_labels(grid, torch.from_numpy(second.text), (24, 32), 0.9, 2.0, 0.3)[0]
        np.testing.assert_array_equal(second.labels("scene0", "f1"), want)
        assert (second.labels("scene0", "f1") == IGNORE).any()
        assert first.digest(["scene0"]) != second.digest(["scene0"])
        desk.run(pseudo=PseudoLabelConfig())
        assert desk.written == {}


class TestPairedFeatures:
    def test_batches_sample_the_same_from_them(self, tmp_path: Path) -> None:
        """To the bit, under every augmentation; and there is less in them."""
        source = tiny_source(num_scenes=2, frames=4, points=6)
        full = Desk(tmp_path / "full", source).run()
        paired = Desk(tmp_path / "paired", source).run(features="paired")
        empty = [
            [float((known.mask_features(name, f"f{i}") == 0).all(0).mean()) for i in range(4)]
            for known in (full, paired)
            for name in source.scenes
        ]
        assert np.mean(empty[2:]) > np.mean(empty[:2]) + 0.3
        stores = [SceneStore(source, source.names("train"), known, "masks") for known in (full, paired)]
        config = tiny_config(train={"scenes_per_step": 2, "frames_per_scene": 4})
        for step in range(4):
            one, other = (draw_batch(store, config, step) for store in stores)
            assert len(one.pair_image)
            samples = [
                sample_maps(b.target_grids[0].float(), b.pair_image, b.pair_position) for b in (one, other)
            ]
            assert torch.equal(*samples)
        assert full.digest(["scene0"]) == paired.digest(["scene0"])

    def test_whole_features_are_thinned_without_asking(self, desk: Desk, tmp_path: Path) -> None:
        desk.run()
        known = desk.run(features="paired")
        assert desk.labels.asked == desk.masks.asked == []
        assert desk.written == {"mask_features": 8}
        other = Desk(tmp_path / "other", desk.source)
        asked = other.run(features="paired")
        assert len(other.masks.asked) == 8
        assert other.written == {**ALL, "text": 4, "pairs": 2}
        assert asked.scenes == known.scenes
        for name in desk.source.scenes:
            np.testing.assert_array_equal(known.mask_features(name, "f1"), asked.mask_features(name, "f1"))

    def test_a_changed_pose_asks_again_for_what_is_not_kept(self, desk: Desk) -> None:
        desk.run(features="paired")
        desk.run(features="paired")
        assert desk.written == {}
        shift = np.eye(4)
        shift[0, 3] = 0.3
        desk.change("scene1", lambda frame: replace(frame, cam_from_world=shift @ frame.cam_from_world))
        desk.run(features="paired")
        assert (desk.labels.asked, desk.masks.asked) == ([], ["scene1/f0"])
        assert desk.written == {"pairs": 1, "mask_features": 1}

    def test_training_without_a_latent_loss_reads_no_features(self, desk: Desk) -> None:
        known = desk.run()
        for frame in known.scenes["scene0"].frames.values():
            desk.cache.path(frame.mask_features).unlink()
        names, config = ["scene0"], tiny_config()
        for target in (None, "labels"):
            draw_batch(SceneStore(desk.source, names, known, target), config, 0)
        with pytest.raises(CacheError, match="mask_features"):
            draw_batch(SceneStore(desk.source, names, known, "masks"), config, 0)


class TestFaults:
    def test_frames_before_a_damaged_one_are_kept(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path, tiny_source(num_scenes=2, frames=6))
        scene = desk.source.scenes["scene0"]

        def read(name: str) -> Frame:
            if name == "f3":
                raise DataError("expected an image at f3.jpg, found it truncated")
            return scene.frames[scene.frames.names.index(name)]

        desk.source.scenes["scene0"] = replace(scene, frames=Frames(scene.frames.names, read))
        with pytest.raises(DataError, match=r"f3\.jpg"):
            desk.run(batch_size=8)
        assert desk.masks.asked == ["scene0/f0", "scene0/f1", "scene0/f2"]
        assert desk.written == {**dict.fromkeys(ALL, 3), "text": 4}
        desk.source.scenes["scene0"] = scene
        desk.run()
        assert len(desk.masks.asked) == 9

    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_a_full_disk_is_one_error_and_finished_frames_stay(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, batch_size: int
    ) -> None:
        room, replaced = 12, os.replace

        def replace_while_there_is_room(src: Path, dst: Path) -> None:
            if sum(stats.entries for stats in desk.cache.stats().values()) >= room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            replaced(src, dst)

        monkeypatch.setattr(os, "replace", replace_while_there_is_room)
        with pytest.raises(CacheError, match=r"disk full: needs .* make room"):
            desk.run(batch_size=batch_size)
        monkeypatch.undo()
        assert desk.cache.verify() == []
        assert not [path for path in desk.cache.root.rglob("*") if is_temp(path)]
        kept = desk.count()
        desk.run()
        assert len(desk.masks.asked) == 8 - kept.get("mask_features", 0)
        assert {k: kept.get(k, 0) + desk.written.get(k, 0) for k in ALL} == ALL

    def test_a_signal_keeps_what_was_answered(self, desk: Desk) -> None:
        """As the command line stops: an exception out of nowhere, in the main thread."""

        class Stopped(BaseException):
            pass

        told: list[str] = []

        def progress(what: str, total: int, done: int) -> AbstractContextManager[Callable[[str], None]]:
            def advance(note: str) -> None:
                told.append(note)
                if len(told) == 3:
                    raise Stopped

            return nullcontext(advance)

        with pytest.raises(Stopped):
            desk.run(progress=progress)
        asked = len(desk.masks.asked)
        assert desk.cache.verify() == []
        assert not [path for path in desk.cache.root.rglob("*") if is_temp(path)]
        assert desk.written["masks"] == desk.written["mask_features"] == asked >= 3
        desk.run()
        assert len(desk.masks.asked) == 8 - asked

    def test_memory_does_not_grow_with_the_frames(self, tmp_path: Path) -> None:
        """No more frames are alive at a time in a long scene than in a short one."""
        most = []
        for frames in (40, 120):
            desk = Desk(tmp_path / str(frames), tiny_source(num_scenes=1, frames=frames))
            scene = desk.source.scenes["scene0"]
            alive: weakref.WeakSet[Frame] = weakref.WeakSet()
            seen: list[int] = []

            def read(name: str, scene: Scene = scene, alive: Any = alive, seen: Any = seen) -> Frame:
                frame = scene.frames[scene.frames.names.index(name)]
                copied = replace(frame, image=frame.image.copy())
                alive.add(copied)
                seen.append(len(alive))
                return copied

            desk.source.scenes["scene0"] = replace(scene, frames=Frames(scene.frames.names, read))
            desk.run(batch_size=2)
            most.append(max(seen))
        assert max(most) <= 2 * READERS + 2 + 3

    def test_a_frame_that_had_to_wait_is_done_soon(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not at the end: it keeps its scene in memory, and a large data set has many such frames."""
        desk = Desk(tmp_path, tiny_source(num_scenes=6, frames=4))
        tried: list[str] = []

        def take(claims: Claims, digest: str, force: bool = False) -> bool:
            tried.append(digest)
            return len(tried) != 2 and take_it(claims, digest, force)

        take_it = Claims.take
        monkeypatch.setattr(Claims, "take", take)
        desk.run(batch_size=4)
        assert tried.count(tried[1]) == 2
        asked = desk.labels.asked
        assert sorted(asked) == sorted(f"scene{i}/f{j}" for i in range(6) for j in range(4))
        assert asked.index("scene0/f1") < 8


class TestDamage:
    @pytest.mark.parametrize("stage", ["features", "labels", "masks", "mask_features", "pairs"])
    def test_reading_names_the_entry_and_the_next_run_mends_it(self, desk: Desk, stage: str) -> None:
        known = desk.run()
        keys = known.scenes["scene0"]
        key: Key = keys.pairs if stage == "pairs" else getattr(keys.frames["f1"], stage)
        spoil(desk.cache, key)

        def read() -> object:
            reader = "mask_ids" if stage == "masks" else stage
            return known.pairs("scene0") if stage == "pairs" else getattr(known, reader)("scene0", "f1")

        with pytest.raises(CacheError, match=f"{key.stage}.*{key.digest}.*missing or damaged.*annotate"):
            read()
        desk.run()
        assert desk.written == {key.stage: 1}
        assert desk.labels.asked == (["scene0/f1"] if stage == "features" else [])
        assert desk.masks.asked == (["scene0/f1"] if stage.startswith("mask") else [])
        read()

    def test_damaged_features_that_are_needed(self, desk: Desk) -> None:
        known = desk.run()
        frame = known.scenes["scene0"].frames["f1"]
        spoil(desk.cache, frame.features)
        desk.cache.path(frame.labels).unlink()
        with pytest.raises(CacheError, match="missing or damaged; run the same command"):
            desk.run()
        assert desk.run().scenes == known.scenes
        assert desk.labels.asked == ["scene0/f1"]


def everything(cache: Cache) -> dict[Key, Entry]:
    """All entries of a cache."""
    found = {}
    for info in cache.entries():
        key = Key(info.stage, info.digest)
        entry = cache.get(key)
        assert entry is not None
        found[key] = entry
    return found


def spoil(cache: Cache, key: Key) -> None:
    path = cache.path(key)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


class TestIndex:
    def test_round_trip(self, tmp_path: Path) -> None:
        source, known = annotated(tmp_path)
        known.save(tmp_path / "index.json")
        loaded = Annotations.load(tmp_path / "index.json", known.cache)
        np.testing.assert_array_equal(loaded.text, known.text)
        assert loaded.text.dtype == np.float32
        assert loaded.scenes == known.scenes
        assert loaded.digest(source.names("train")) == known.digest(source.names("train"))
        np.testing.assert_array_equal(loaded.labels("scene1", "f3"), known.labels("scene1", "f3"))

    def test_order_of_frames_survives(self, tmp_path: Path) -> None:
        """f10 comes after f9 in the scene and before it in the alphabet."""
        _, known = annotated(tmp_path, num_scenes=1, frames=11)
        known.save(tmp_path / "index.json")
        loaded = Annotations.load(tmp_path / "index.json", known.cache)
        assert list(loaded.scenes["scene0"].frames) == [f"f{i}" for i in range(11)]
        assert loaded.digest(["scene0"]) == known.digest(["scene0"])

    def test_text_is_kept_to_the_bit(self, tmp_path: Path) -> None:
        text = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
        Annotations(Cache(tmp_path), text).save(tmp_path / "index.json")
        loaded = Annotations.load(tmp_path / "index.json", Cache(tmp_path))
        np.testing.assert_array_equal(loaded.text, text)

    def test_without_a_checksum_as_earlier_versions_wrote_it(self, tmp_path: Path) -> None:
        _, known = annotated(tmp_path)
        known.save(tmp_path / "index.json")
        tree = json.loads((tmp_path / "index.json").read_text())
        assert tree.pop("checksum")
        (tmp_path / "index.json").write_text(json.dumps({**tree, "schema": 2}))
        assert Annotations.load(tmp_path / "index.json", known.cache).scenes == known.scenes

    def test_of_another_version(self, tmp_path: Path) -> None:
        (tmp_path / "index.json").write_text(json.dumps({"schema": 1}))
        with pytest.raises(RunError, match="expected schema 3, found 1; run annotate again"):
            Annotations.load(tmp_path / "index.json", Cache(tmp_path))

    def test_scene_that_was_not_annotated(self, desk: Desk) -> None:
        known = desk.run()
        for ask in (known.pairs, lambda name: known.labels(name, "f0"), lambda name: known.digest([name])):
            with pytest.raises(RunError, match="scene attic is not annotated; run `scenelift annotate`"):
                ask("attic")

    def test_digest_depends_on_the_scenes_asked_for(self, desk: Desk) -> None:
        known = desk.run()
        digests = {known.digest(names) for names in ([], ["scene0"], ["scene1"], ["scene0", "scene1"])}
        assert len(digests) == 4
        assert known.digest(["scene0"]) == copy.deepcopy(known).digest(["scene0"])
        assert replace(known, text=known.text[:3]).digest(["scene0"]) != known.digest(["scene0"])


def test_colours_of_classes_are_no_part_of_what_is_trained_on(tmp_path: Path) -> None:
    source, known = annotated(tmp_path)
    assert source.truth is not None
    teachers = FakeLabelTeacher(source.truth), FakeMaskTeacher(source.truth)
    others = replace(CLASSES, colors=255 - CLASSES.colors)
    names = source.names("train")
    again = annotate(source, names, others, *teachers, PAIRING, Cache(tmp_path / "cache"))
    assert [teacher.asked for teacher in teachers] == [[], []]
    assert again.digest(names) == known.digest(names)
