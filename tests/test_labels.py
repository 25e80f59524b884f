"""Eq. 1-4 against loops over pixels, masks and votes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from scenelift import labels as L
from scenelift.errors import DataError
from scenelift.types import IGNORE

CLASSES = 4
seeds = st.integers(0, 2**32 - 1)


def majority(votes: list[int]) -> int:
    """Most votes win; among equals the lowest class; `IGNORE` does not vote."""
    votes = [v for v in votes if v != IGNORE]
    return min(votes, key=lambda c: (-votes.count(c), c)) if votes else IGNORE


def refine_loop(labels: Tensor, ids: Tensor) -> Tensor:
    refined = labels.clone()
    for b in range(len(labels)):
        for mask_id in set(ids[b].flatten().tolist()) - {0}:
            winner = majority(labels[b][ids[b] == mask_id].tolist())
            if winner != IGNORE:
                refined[b][ids[b] == mask_id] = winner
    return refined


def random_labels(rng: np.random.Generator, *shape: int) -> Tensor:
    labels = rng.integers(CLASSES, size=shape)
    labels[rng.random(shape) < 0.3] = IGNORE
    return torch.from_numpy(labels)


def random_pairs(rng: np.random.Generator, count: int, shape: tuple[int, int, int]) -> tuple[Tensor, ...]:
    """Image, row and column of pairs, int32 as `Pairs` has them; several may share a pixel."""
    return tuple(torch.from_numpy(rng.integers(n, size=count, dtype=np.int32)) for n in shape)


@pytest.fixture(params=["table", "sorted"])
def counting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with both ways of counting votes."""
    if request.param == "sorted":
        monkeypatch.setattr(L, "_DENSE_GROUPS", -1)
    return str(request.param)


class TestPseudoLabels:
    @given(seeds)
    @settings(deadline=None, max_examples=20)
    def test_scores_are_upsampled_dot_products(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(2, 5, 3, 4, generator=generator)
        text = torch.randn(CLASSES, 5, generator=generator)
        scores = L.dense_scores(features, text, (7, 9))
        assert scores.shape == (2, CLASSES, 7, 9)
        for b in range(2):
            for c in range(CLASSES):
                coarse = sum(features[b, d] * text[c, d] for d in range(5))
                assert isinstance(coarse, Tensor)
                fine = torch.nn.functional.interpolate(coarse[None, None], size=(7, 9), mode="bilinear")[0, 0]
                torch.testing.assert_close(scores[b, c], fine)
        assert torch.equal(L.pseudo_labels(features, text, (7, 9)), scores.argmax(1))

    def test_class_0_does_not_win_where_all_scores_are_negative(self) -> None:
        features = torch.full((1, 1, 2, 2), -1.0)
        text = torch.tensor([[3.0], [2.0], [1.0]])
        assert L.pseudo_labels(features, text, (4, 4)).unique().tolist() == [2]

    def test_ties_go_to_the_lower_class(self) -> None:
        text = torch.tensor([[0.0], [1.0], [1.0], [1.0]])
        assert L.pseudo_labels(torch.ones(1, 1, 2, 2), text, (3, 3)).unique().tolist() == [1]

    def test_nan_features_have_no_label(self) -> None:
        features = torch.ones(1, 1, 1, 2)
        features[..., 1] = torch.nan
        for threshold in (None, 0.1):
            labels = L.pseudo_labels(features, torch.tensor([[1.0], [2.0]]), (1, 2), threshold)
            assert labels.flatten().tolist() == [1, IGNORE]

    def test_half_precision_is_scored_in_single(self) -> None:
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(1, 64, 3, 4, generator=generator).half()
        text = torch.randn(CLASSES, 64, generator=generator).half()
        scores = L.dense_scores(features, text, (6, 8))
        assert scores.dtype == torch.float32
        assert torch.equal(scores, L.dense_scores(features.float(), text.float(), (6, 8)))
        assert L.dense_scores(features.double(), text, (6, 8)).dtype == torch.float64

    @pytest.mark.parametrize("length", [1.0, 7.0])
    def test_threshold_is_a_probability_whatever_the_lengths(self, length: float) -> None:
        """Cosines 1 and cos(angle) with scale 2: the probability is known in closed form."""
        angles = torch.tensor([0.0, 0.4, 0.7])
        features = length * torch.stack([angles.cos(), angles.sin()])[None, :, None, :]
        text = torch.eye(2) * 3
        margin = 2 * (angles.cos() - angles.sin())
        probability = margin.sigmoid()
        kept = L.pseudo_labels(features, text, (1, 3), threshold=0.7, logit_scale=2.0)
        assert kept.flatten().tolist() == [0 if p >= 0.7 else IGNORE for p in probability]
        assert kept.flatten().tolist() == [0, 0, IGNORE]
        assert L.pseudo_labels(features, text, (1, 3)).flatten().tolist() == [0, 0, 0]

    @given(seeds, st.floats(0, 1), st.booleans())
    @settings(deadline=None, max_examples=40)
    def test_denoising_matches_a_loop(self, seed: int, denoise: float, with_threshold: bool) -> None:
        """A class that no token believes in is left out, of the argmax and of the probabilities."""
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(1, 6, 3, 4, generator=generator)
        text = torch.randn(5, 6, generator=generator)
        have = L.pseudo_labels(
            features, text, (7, 9), 0.6 if with_threshold else None, logit_scale=5.0, denoise=denoise
        )
        units = F.normalize(features, dim=1), F.normalize(text, dim=1)
        probability = (5.0 * L.dense_scores(*units, (3, 4))[0]).softmax(0)
        kept = [c for c in range(5) if float(probability[c].max()) >= denoise] or list(range(5))
        want = torch.tensor(kept)[L.dense_scores(features, text[kept], (7, 9))[0].argmax(0)]
        if with_threshold:
            sure = (5.0 * L.dense_scores(units[0], units[1][kept], (7, 9))[0]).softmax(0)
            chosen = sure.gather(0, L.dense_scores(features, text[kept], (7, 9))[0].argmax(0)[None])[0]
            want = torch.where(chosen < 0.6, IGNORE, want)
        assert torch.equal(have[0], want)

    def test_denoising_looks_at_tokens_not_at_pixels(self) -> None:
        """One token in nine believes in class 1; halfway to its neighbours no pixel does."""
        features = torch.zeros(1, 2, 3, 3)
        features[0, 0], features[0, 1, 1, 1], features[0, 0, 1, 1] = 1.0, 1.0, 0.0
        sure = {"logit_scale": 10.0, "denoise": 0.99}
        assert (L.pseudo_labels(features, torch.eye(2), (6, 6), **sure) == 1).any()
        features[0, 0, 1, 1] = 0.5
        assert not (L.pseudo_labels(features, torch.eye(2), (6, 6), **sure) == 1).any()

    def test_denoising_that_would_leave_nothing_leaves_all(self) -> None:
        generator = torch.Generator().manual_seed(0)
        features, text = torch.randn(2, 6, 3, 4, generator=generator), torch.randn(5, 6, generator=generator)
        plain = L.pseudo_labels(features, text, (7, 9))
        assert torch.equal(L.pseudo_labels(features, text, (7, 9), logit_scale=1e-6, denoise=0.5), plain)
        features[0, :, 0, 0] = torch.nan  # nor does a damaged token decide
        denoised = L.pseudo_labels(features, text, (7, 9), logit_scale=1e-6, denoise=0.5)
        assert torch.equal(denoised, L.pseudo_labels(features, text, (7, 9)))

    def test_no_images(self) -> None:
        assert L.pseudo_labels(torch.empty(0, 2, 3, 3), torch.eye(2), (6, 6)).shape == (0, 6, 6)


class TestVote:
    @given(seeds, st.integers(1, 9), st.integers(0, 40))
    @settings(deadline=None, max_examples=50)
    def test_matches_loop(self, seed: int, groups: int, size: int) -> None:
        rng = np.random.default_rng(seed)
        group = torch.from_numpy(rng.integers(-2, groups, size=size))
        labels = random_labels(rng, size)
        expected = [majority(labels[group == g].tolist()) for g in range(groups)]
        assert L.vote(group, labels, groups, CLASSES).tolist() == expected
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(L, "_DENSE_GROUPS", -1)
            assert L.vote(group, labels, groups, CLASSES).tolist() == expected

    @pytest.mark.usefixtures("counting")
    def test_ties_and_silence(self) -> None:
        group = torch.tensor([0, 0, 0, 0, 1, 1, 1, 3, -1])
        labels = torch.tensor([3, 2, 3, 2, IGNORE, IGNORE, 1, IGNORE, 0])
        assert L.vote(group, labels, 4, CLASSES).tolist() == [2, 1, IGNORE, IGNORE]

    @pytest.mark.usefixtures("counting")
    def test_all_class_ids_may_occur(self) -> None:
        labels = torch.tensor([254, 254, 0])
        assert L.vote(torch.zeros(3), labels, 1, 255).tolist() == [254]
        assert L.vote(torch.zeros(2), torch.zeros(2), 1, 1).tolist() == [0]

    @pytest.mark.usefixtures("counting")
    def test_nothing_to_vote_on(self) -> None:
        none = torch.empty(0, dtype=torch.int64)
        assert L.vote(none, none, 3, CLASSES).tolist() == [IGNORE] * 3
        assert L.vote(none, none, 0, CLASSES).tolist() == []
        assert L.vote(torch.tensor([-1]), torch.tensor([2]), 0, CLASSES).tolist() == []

    @pytest.mark.usefixtures("counting")
    @pytest.mark.parametrize(
        ("group", "label", "message"),
        [(3, 0, "groups below 3, found 3"), (0, 4, "ids 0 to 3"), (1, -1, "found -1"), (0, 256, "to 256")],
    )
    def test_out_of_range(self, group: int, label: int, message: str) -> None:
        with pytest.raises(DataError, match=message):
            L.vote(torch.tensor([0, group]), torch.tensor([0, label]), 3, CLASSES)

    def test_a_large_problem_takes_the_sorted_way(self) -> None:
        """Ten million groups would need 20 GB as a table."""
        group = torch.tensor([9_999_999, 5, 5, 5])
        winners = L.vote(group, torch.tensor([1, 3, 2, 3]), 10_000_000, CLASSES)
        assert winners[5] == 3
        assert winners[9_999_999] == 1
        assert int((winners != IGNORE).sum()) == 2


class TestRefine:
    @given(seeds)
    @settings(deadline=None, max_examples=40)
    def test_matches_loop(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        labels = random_labels(rng, 3, 6, 7)
        ids = torch.from_numpy(rng.choice([0, 1, 2, 7, 300], size=(3, 6, 7)))
        before = labels.clone()
        refined = L.refine(labels, ids, CLASSES)
        assert torch.equal(refined, refine_loop(labels, ids))
        assert torch.equal(labels, before)

    @given(seeds)
    @settings(deadline=None, max_examples=40)
    def test_renumbering_masks_changes_nothing(self, seed: int) -> None:
        """Ids are names: any numbers do, also so large that votes are sorted, and another set per image."""
        rng = np.random.default_rng(seed)
        labels = random_labels(rng, 2, 6, 7)
        ids = rng.integers(0, 6, size=(2, 6, 7))
        names = np.stack([rng.choice(np.arange(1, 65_536), size=6, replace=False) for _ in range(2)])
        names[:, 0] = 0
        renamed = np.stack([name[i] for name, i in zip(names, ids, strict=True)])
        refined = L.refine(labels, torch.from_numpy(ids), CLASSES)
        assert torch.equal(refined, L.refine(labels, torch.from_numpy(renamed), CLASSES))
        u16 = torch.from_numpy(renamed.astype(np.uint16))
        assert torch.equal(refined, L.refine(labels, u16, CLASSES))

    def test_is_done_after_one_pass(self) -> None:
        rng = np.random.default_rng(0)
        labels, ids = random_labels(rng, 2, 8, 8), torch.from_numpy(rng.integers(0, 5, size=(2, 8, 8)))
        once = L.refine(labels, ids, CLASSES)
        assert torch.equal(once, L.refine(once, ids, CLASSES))

    @pytest.mark.usefixtures("counting")
    def test_uncovered_silent_and_tied(self) -> None:
        labels = torch.tensor([[[3, 1, 1, IGNORE], [2, 3, IGNORE, IGNORE]]])
        ids = torch.tensor([[[0, 8, 8, 8], [5, 5, 9, 0]]])
        expected = [[[3, 1, 1, 1], [2, 2, IGNORE, IGNORE]]]
        assert L.refine(labels, ids, CLASSES).tolist() == expected

    @pytest.mark.usefixtures("counting")
    def test_no_masks_and_no_images(self) -> None:
        labels = random_labels(np.random.default_rng(0), 2, 3, 4)
        assert torch.equal(L.refine(labels, torch.zeros_like(labels), CLASSES), labels)
        assert L.refine(labels[:0], labels[:0], CLASSES).shape == (0, 3, 4)

    def test_foreign_labels(self) -> None:
        with pytest.raises(DataError, match="ids 0 to 3 or 255"):
            L.refine(torch.full((1, 2, 2), 4), torch.ones(1, 2, 2), CLASSES)
        with pytest.raises(DataError, match="found -1 to -1"):
            L.refine(torch.full((1, 2, 2), -1), torch.ones(1, 2, 2), CLASSES)

    def test_raises_accuracy_on_noisy_labels(self) -> None:
        """The purpose of eq. 4: masks that follow objects wash independent noise out, within their area."""
        rng = np.random.default_rng(7)
        masks = torch.from_numpy(np.kron(np.arange(48).reshape(6, 8), np.ones((10, 10), np.int64)))[None]
        truth = torch.from_numpy(rng.integers(20, size=48))[masks]
        noisy = torch.where(
            torch.from_numpy(rng.random(truth.shape) < 0.6),
            torch.from_numpy(rng.integers(20, size=truth.shape)),
            truth,
        )
        before = (noisy == truth).double().mean()
        after = (L.refine(noisy, masks, 20) == truth).double()
        assert before < 0.5
        assert after[masks > 0].mean() == 1.0
        assert torch.equal(after[masks == 0], (noisy == truth).double()[masks == 0])


def paint_loop(pair_labels: Tensor, index: tuple[Tensor, ...], fallback: Tensor) -> Tensor:
    votes: dict[tuple[int, ...], list[int]] = {}
    for label, *pixel in zip(pair_labels.tolist(), *(i.tolist() for i in index), strict=True):
        votes.setdefault(tuple(pixel), []).append(label)
    painted = fallback.clone()
    for pixel, labels in votes.items():
        if majority(labels) != IGNORE:
            painted[pixel] = majority(labels)
    return painted


def refine_sparse_loop(
    pair_labels: Tensor, index: tuple[Tensor, ...], ids: Tensor, fallback: Tensor
) -> Tensor:
    refined = torch.where(ids > 0, fallback, paint_loop(pair_labels, index, fallback))
    triples = list(zip(pair_labels.tolist(), *(i.tolist() for i in index), strict=True))
    for b in range(len(ids)):
        for mask_id in set(ids[b].flatten().tolist()) - {0}:
            winner = majority([p for p, i, r, c in triples if i == b and ids[i, r, c] == mask_id])
            if winner != IGNORE:
                refined[b][ids[b] == mask_id] = winner
    return refined


class TestSparse:
    @given(seeds, st.integers(0, 60), st.booleans())
    @settings(deadline=None, max_examples=40)
    def test_match_loops(self, seed: int, pairs: int, dense: bool) -> None:
        rng = np.random.default_rng(seed)
        shape = (2, 5, 6)
        pair_labels, index = random_labels(rng, pairs), random_pairs(rng, pairs, shape)
        fallback = random_labels(rng, *shape)
        ids = torch.from_numpy(rng.choice([0, 0, 3, 9, 400], size=shape))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(L, "_DENSE_GROUPS", 1 << 14 if dense else -1)
            painted = L.paint(pair_labels, *index, fallback, CLASSES)
            refined = L.refine_sparse(pair_labels, *index, ids, fallback, CLASSES)
        assert torch.equal(painted, paint_loop(pair_labels, index, fallback))
        assert torch.equal(refined, refine_sparse_loop(pair_labels, index, ids, fallback))

    def test_the_four_kinds_of_pixel(self) -> None:
        ids = torch.tensor([[[1, 1, 1], [2, 2, 0], [0, 0, 0]]])
        fallback = torch.full((1, 3, 3), 3)
        row, col = torch.tensor([0, 0, 0, 2, 2]), torch.tensor([0, 1, 1, 0, 0])
        pair_labels = torch.tensor([0, 1, 1, 2, 1])
        image = torch.zeros(5, dtype=torch.int64)
        refined = L.refine_sparse(pair_labels, image, row, col, ids, fallback, CLASSES)
        # a mask with pairs: majority; a mask without: fallback; uncovered: fallback, or its pairs (tied: 1)
        assert refined.tolist() == [[[1, 1, 1], [3, 3, 3], [1, 3, 3]]]
        painted = L.paint(pair_labels, image, row, col, fallback, CLASSES)
        assert painted.tolist() == [[[0, 1, 3], [3, 3, 3], [1, 3, 3]]]

    def test_foreign_labels(self) -> None:
        zero, grid = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 3, 3, dtype=torch.int64)
        with pytest.raises(DataError, match="found -1 to -1"):
            L.refine_sparse(zero, zero, zero, zero, grid, grid - 1, CLASSES)
        with pytest.raises(DataError, match="ids 0 to 3 or 255"):
            L.refine_sparse(zero + 4, zero, zero, zero, grid, grid, CLASSES)

    def test_order_of_pairs_does_not_matter(self) -> None:
        rng = np.random.default_rng(1)
        shape = (2, 4, 4)
        index, pair_labels = random_pairs(rng, 50, shape), random_labels(rng, 50)
        ids, fallback = torch.from_numpy(rng.integers(0, 4, size=shape)), random_labels(rng, *shape)
        turn = torch.from_numpy(rng.permutation(50))
        refined = L.refine_sparse(pair_labels, *index, ids, fallback, CLASSES)
        turned = L.refine_sparse(pair_labels[turn], *(i[turn] for i in index), ids, fallback, CLASSES)
        assert torch.equal(refined, turned)

    def test_a_pair_outside_the_image_does_not_spill_into_the_next_row(self) -> None:
        zero = torch.zeros(1, dtype=torch.int64)
        with pytest.raises(IndexError):
            L.paint(zero, zero, zero, torch.tensor([3]), torch.zeros(1, 3, 3, dtype=torch.int64), CLASSES)


class TestLift:
    def test_gathers_the_pair_s_pixel(self) -> None:
        rng = np.random.default_rng(0)
        maps, index = random_labels(rng, 3, 4, 5), random_pairs(rng, 30, (3, 4, 5))
        expected = [int(maps[i, r, c]) for i, r, c in zip(*(x.tolist() for x in index), strict=True)]
        assert L.lift(maps, *index).tolist() == expected

    def test_several_views_vote(self) -> None:
        point = torch.tensor([0, 0, 0, 2, 2, 3], dtype=torch.int32)
        labels = torch.tensor([1, 2, 2, 3, 1, IGNORE])
        assert L.vote_points(labels, point, 5, CLASSES).tolist() == [2, IGNORE, 1, IGNORE, IGNORE]
