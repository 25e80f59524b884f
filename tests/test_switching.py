"""Eq. 6: which source each label comes from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scenelift.batches import Batch
from scenelift.config import RefineConfig, SwitchConfig
from scenelift.labels import refine
from scenelift.switching import CLIP_ONLY, SOURCES, Sources, Targets, draw_targets
from scenelift.types import IGNORE

CLASSES, IMAGES, HEIGHT, WIDTH, VOXELS, PAIRS = 6, 4, 6, 8, 20, 50
UNREFINED = RefineConfig(clip=False, image=False, points=False)

seeds = st.integers(0, 2**31 - 1)


def random_batch(seed: int = 0, images: int = IMAGES, pairs: int = PAIRS) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    labels = draw(CLASSES, images, HEIGHT, WIDTH)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = IGNORE
    return Batch(
        images=torch.zeros(images, 3, HEIGHT, WIDTH),
        labels=labels,
        mask_ids=draw(5, images, HEIGHT, WIDTH).int(),
        coords=torch.zeros(VOXELS, 4, dtype=torch.int32),
        inputs=torch.zeros(VOXELS, 3),
        pair_image=draw(images, pairs),
        pair_row=draw(HEIGHT, pairs),
        pair_col=draw(WIDTH, pairs),
        pair_voxel=draw(VOXELS, pairs),
        pair_position=torch.zeros(pairs, 2),
        target_grids=(),
    )


def predictions(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed + 1)
    image = torch.randint(0, CLASSES, (IMAGES, HEIGHT, WIDTH), generator=generator)
    return image, torch.randint(0, CLASSES, (VOXELS,), generator=generator)


def random_sources(batch: Batch, config: RefineConfig = UNREFINED, seed: int = 0) -> Sources:
    image, voxel = predictions(seed)
    return Sources(batch, image[: len(batch.images)], voxel, config, CLASSES)


def draw(sources: Sources, batch: Batch, config: SwitchConfig, seed: int) -> Targets:
    return draw_targets(sources, batch, config, np.random.default_rng(seed))


def one(source: str) -> SwitchConfig:
    return SwitchConfig(**{name: float(name == source) for name in SOURCES})


class Constant(Sources):
    """Each source labels everything with its own number; counts what it was asked for."""

    def __init__(self, batch: Batch, allowed: Sequence[str] = SOURCES) -> None:
        self.batch, self.allowed = batch, allowed

    def on_image(self, source: str) -> Tensor:
        assert source in self.allowed, f"{source} was computed"
        return torch.full_like(self.batch.labels, SOURCES.index(source))

    def on_pairs(self, source: str) -> Tensor:
        assert source in self.allowed, f"{source} was computed"
        return torch.full_like(self.batch.pair_image, SOURCES.index(source))


class TestProbabilities:
    """Fixed seeds; bounds are five standard deviations of the binomial."""

    @pytest.mark.parametrize(
        ("config", "image", "points"),
        [
            (SwitchConfig(), (0.5, 0.25, 0.25), (0.5, 0.25, 0.25)),
            (SwitchConfig(clip=1, image=2, points=2), (0.2, 0.4, 0.4), (0.2, 0.4, 0.4)),
            (SwitchConfig(own_only=True), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5)),
            (SwitchConfig(clip=0, image=1, points=0), (0.0, 1.0, 0.0), (0.0, 1.0, 0.0)),
            (CLIP_ONLY, (1.0, 0.0, 0.0), (1.0, 0.0, 0.0)),
        ],
    )
    def test_once_a_step(
        self, config: SwitchConfig, image: tuple[float, ...], points: tuple[float, ...]
    ) -> None:
        batch = random_batch(images=1, pairs=3)
        rng, draws = np.random.default_rng(0), 800
        targets = [draw_targets(Constant(batch), batch, config, rng) for _ in range(draws)]
        chosen = np.array([[int(t.image[0, 0, 0]), int(t.pairs[0])] for t in targets])
        for column, expected in ((0, image), (1, points)):
            share = np.bincount(chosen[:, column], minlength=3) / draws
            slack = 5 * np.sqrt(np.multiply(expected, np.subtract(1, expected)) / draws)
            assert (np.abs(share - expected) <= slack).all()

    def test_networks_draw_on_their_own(self) -> None:
        batch = random_batch(images=1, pairs=3)
        rng = np.random.default_rng(0)
        targets = [draw_targets(Constant(batch), batch, SwitchConfig(), rng) for _ in range(500)]
        both = {(int(t.image[0, 0, 0]), int(t.pairs[0])) for t in targets}
        assert len(both) == 9

    def test_each_pixel(self) -> None:
        batch = random_batch(images=4, pairs=3000)
        config = SwitchConfig(granularity="pixel", own_only=True)
        targets = draw(Constant(batch), batch, config, 0)
        assert set(targets.image.unique().tolist()) == {0, 1}
        assert set(targets.pairs.unique().tolist()) == {0, 2}
        assert targets.share_points["points"] == pytest.approx(0.5, abs=0.05)


class TestGranularity:
    @given(seeds)
    @settings(deadline=None, max_examples=30)
    def test_a_step_has_one_source_for_each_network(self, seed: int) -> None:
        batch = random_batch(seed)
        targets = draw(Constant(batch), batch, SwitchConfig(), seed)
        assert len(targets.image.unique()) == len(targets.pairs.unique()) == 1

    def test_an_image_has_one_source_and_images_differ(self) -> None:
        batch = random_batch(images=40, pairs=800)
        targets = draw(Constant(batch), batch, SwitchConfig(granularity="image"), 1)
        of_image = targets.image.flatten(1)
        assert (of_image == of_image[:, :1]).all()
        assert len(of_image[:, 0].unique()) == 3
        of_pairs = [targets.pairs[batch.pair_image == i].unique() for i in range(40)]
        assert all(len(labels) == 1 for labels in of_pairs)
        assert len(torch.cat(of_pairs).unique()) == 3

    @pytest.mark.parametrize("granularity", ["step", "image", "pixel"])
    def test_shares_say_what_was_drawn(self, granularity: str) -> None:
        batch = random_batch()
        targets = draw(Constant(batch), batch, SwitchConfig(granularity=granularity), 3)
        for labels, share in ((targets.image, targets.share_image), (targets.pairs, targets.share_points)):
            assert list(share) == list(SOURCES)
            counted = [float((labels == i).float().mean()) for i in range(3)]
            assert list(share.values()) == pytest.approx(counted)

    @pytest.mark.parametrize("granularity", ["step", "image", "pixel"])
    def test_no_pairs(self, granularity: str) -> None:
        batch = random_batch(pairs=0)
        targets = draw(random_sources(batch), batch, SwitchConfig(granularity=granularity), 0)
        assert targets.pairs.shape == (0,)
        assert targets.churn_points == 0
        assert set(targets.share_points.values()) == {0.0}

    @given(seeds)
    @settings(deadline=None, max_examples=15)
    def test_each_pixel_and_pair_has_the_label_of_its_source(self, seed: int) -> None:
        batch = random_batch(seed)
        config = SwitchConfig(granularity="pixel")
        which = draw(Constant(batch), batch, config, seed)
        sources = random_sources(batch, RefineConfig(), seed)
        targets = draw(sources, batch, config, seed)
        for i, source in enumerate(SOURCES):
            here = which.image == i
            torch.testing.assert_close(targets.image[here], sources.on_image(source)[here])
            here = which.pairs == i
            torch.testing.assert_close(targets.pairs[here], sources.on_pairs(source)[here])


class TestSources:
    def test_stage_1_is_the_refined_teacher(self) -> None:
        batch = random_batch()
        refined = refine(batch.labels, batch.mask_ids, CLASSES)
        targets = draw(random_sources(batch, RefineConfig()), batch, CLIP_ONLY, 0)
        assert not torch.equal(refined, batch.labels)
        torch.testing.assert_close(targets.image, refined)
        torch.testing.assert_close(targets.pairs, refined[batch.pair_image, batch.pair_row, batch.pair_col])
        assert (targets.churn_image, targets.churn_points) == (0, 0)
        assert targets.share_image == targets.share_points == {"clip": 1.0, "image": 0.0, "points": 0.0}

    @pytest.mark.parametrize("refined", [True, False])
    def test_clip_and_image_are_refined_when_asked(self, refined: bool) -> None:
        batch = random_batch()
        sources = random_sources(batch, RefineConfig(clip=refined, image=refined))
        for source, raw in (("clip", batch.labels), ("image", predictions()[0])):
            expected = refine(raw, batch.mask_ids, CLASSES) if refined else raw
            torch.testing.assert_close(sources.on_image(source), expected)
            at_pairs = expected[batch.pair_image, batch.pair_row, batch.pair_col]
            torch.testing.assert_close(sources.on_pairs(source), at_pairs)

    @given(seeds)
    @settings(deadline=None, max_examples=15)
    def test_unrefined_points_are_painted_at_pairs_only(self, seed: int) -> None:
        batch = random_batch(seed)
        sources = random_sources(batch, RefineConfig(points=False), seed)
        voxel = predictions(seed)[1]
        torch.testing.assert_close(sources.on_pairs("points"), voxel[batch.pair_voxel])
        votes: dict[tuple[int, int, int], list[int]] = {}
        pairs = zip(batch.pair_image, batch.pair_row, batch.pair_col, batch.pair_voxel, strict=True)
        for i, row, col, v in pairs:
            votes.setdefault((int(i), int(row), int(col)), []).append(int(voxel[v]))
        expected = refine(batch.labels, batch.mask_ids, CLASSES)
        for pixel, labels in votes.items():
            expected[pixel] = min(labels, key=lambda label: (-labels.count(label), label))
        torch.testing.assert_close(sources.on_image("points"), expected)

    @given(seeds)
    @settings(deadline=None, max_examples=15)
    def test_refined_points_spread_over_the_masks_they_fall_into(self, seed: int) -> None:
        batch = random_batch(seed, pairs=12)
        sources = random_sources(batch, RefineConfig(), seed)
        on_image = sources.on_image("points")
        refined = refine(batch.labels, batch.mask_ids, CLASSES)
        voxel = predictions(seed)[1]
        for i in range(IMAGES):
            for mask in range(1, 5):
                inside = batch.mask_ids[i] == mask
                hits = (batch.pair_image == i) & (
                    batch.mask_ids[batch.pair_image, batch.pair_row, batch.pair_col] == mask
                )
                if hits.any():
                    votes = voxel[batch.pair_voxel[hits]].tolist()
                    winner = min(votes, key=lambda label: (-votes.count(label), label))
                    assert (on_image[i][inside] == winner).all()
                else:  # no pair falls into this mask: the refined teacher's label stands
                    torch.testing.assert_close(on_image[i][inside], refined[i][inside])
        at_pairs = on_image[batch.pair_image, batch.pair_row, batch.pair_col]
        torch.testing.assert_close(sources.on_pairs("points"), at_pairs)

    @pytest.mark.parametrize("source", SOURCES)
    def test_what_was_not_drawn_is_never_computed(self, source: str) -> None:
        batch = random_batch()
        for granularity in ("step", "image", "pixel"):
            config = one(source).model_copy(update={"granularity": granularity})
            # the teacher's labels are always needed: churn is counted against them
            draw(Constant(batch, allowed=("clip", source)), batch, config, 0)

    def test_each_is_computed_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        batch = random_batch()
        made: list[str] = []
        make = Sources._make
        monkeypatch.setattr(Sources, "_make", lambda self, s: made.append(s) or make(self, s))
        sources = random_sources(batch, RefineConfig())
        draw(sources, batch, SwitchConfig(granularity="pixel"), 0)
        assert sorted(made) == sorted(SOURCES)


class TestChurn:
    @given(seeds)
    @settings(deadline=None, max_examples=15)
    def test_counts_labels_that_differ_from_the_teachers(self, seed: int) -> None:
        batch = random_batch(seed)
        targets = draw(random_sources(batch, seed=seed), batch, one("image"), seed)
        image = predictions(seed)[0]
        known = [(int(a), int(b)) for a, b in zip(image.view(-1), batch.labels.view(-1), strict=True)]
        known = [(a, b) for a, b in known if IGNORE not in (a, b)]
        assert targets.churn_image == pytest.approx(sum(a != b for a, b in known) / len(known))
        there = (batch.pair_image, batch.pair_row, batch.pair_col)
        pairs = [(int(a), int(b)) for a, b in zip(image[there], batch.labels[there], strict=True)]
        pairs = [(a, b) for a, b in pairs if IGNORE not in (a, b)]
        assert targets.churn_points == pytest.approx(sum(a != b for a, b in pairs) / len(pairs))

    def test_same_seed_same_targets(self) -> None:
        batch = random_batch()
        config = SwitchConfig(granularity="pixel")
        first, second = (draw(random_sources(batch), batch, config, 7) for _ in range(2))
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.pairs, second.pairs)
        assert not torch.equal(first.image, draw(random_sources(batch), batch, config, 8).image)
