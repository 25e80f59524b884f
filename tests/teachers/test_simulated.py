"""The simulated label teacher: every knob does what it says, and no draw depends on the order of calls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mural import HEIGHT, STEP_PX, WIDTH, Mural, accuracy, labels_of, look
from scipy import stats

from scenelift.classes import SCANNET20
from scenelift.config import SimulatedLabels
from scenelift.teachers import LabelTeacher
from scenelift.teachers.simulated import SimulatedLabelTeacher
from scenelift.teachers.simulated_draws import cell_shares, grid_cells, grid_size, hash_key, hashed_uniform
from scenelift.types import I64, IGNORE, Frame

EXACT_LABELS = SimulatedLabels(bleed=0, instance_error=0, patch_error=0, view_error=0, token_noise=0)


def wrong_cells(config: SimulatedLabels, scenes: int = 12, k: int = 0) -> tuple[I64, I64]:
    """The label and the true class at each token of an 8-pixel mural: a cell is one token, one instance."""
    mural = Mural(cell_px=8)
    frames = [look(k, f"room {i}") for i in range(scenes)]
    teacher = SimulatedLabelTeacher(config, mural)
    text = teacher.text_features(mural.classes.prompts)
    found = np.stack([np.einsum("cd,dhw->chw", text, f).argmax(0) for f in teacher.image_features(frames)])
    true = mural.labels[mural.window(str(k))][4::8, 4::8].astype(np.int64)
    return found, np.broadcast_to(true, found.shape)


# --- draws and grids ----------------------------------------------------------------------------------


def test_hashed_uniform_is_uniform_and_independent_between_keys_and_ids() -> None:
    first = hashed_uniform(hash_key("a"), np.arange(20_000))
    second = hashed_uniform(hash_key("b"), np.arange(20_000))
    pairs = hashed_uniform(hash_key("a"), np.arange(100)[:, None], np.arange(-100, 100))
    for numbers in (first, second, pairs.ravel()):
        assert stats.kstest(numbers, "uniform").pvalue > 1e-3
        assert ((numbers > 0) & (numbers < 1)).all()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.03
    assert len(np.unique(pairs)) == pairs.size


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=20), st.integers(0, 2**64 - 1))
@settings(deadline=None, max_examples=50)
def test_hashed_uniform_depends_on_the_row_alone(ids: list[int], key: int) -> None:
    together = hashed_uniform(key, np.array(ids), np.array(ids)[::-1])
    alone = [
        hashed_uniform(key, np.array([a]), np.array([b]))[0] for a, b in zip(ids, ids[::-1], strict=True)
    ]
    assert together.tolist() == alone


@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 12), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_cell_shares_against_counting_pixel_by_pixel(height: int, width: int, tokens: int, seed: int) -> None:
    index = np.random.default_rng(seed).integers(0, 4, (height, width))
    grid = grid_size(height, width, tokens)
    assert max(grid) == min(tokens, max(height, width))
    counts = np.zeros((4, *grid))
    for row in range(height):
        for column in range(width):
            counts[index[row, column], row * grid[0] // height, column * grid[1] // width] += 1
    expected = counts / counts.sum(0)
    np.testing.assert_allclose(cell_shares(index, 4, grid_cells(height, width, grid), grid), expected)


# --- labels -------------------------------------------------------------------------------------------


def test_label_features_are_unit_float16_grids_of_the_knobs_size() -> None:
    mural, frames = Mural(), [look(0), look(1)]
    teacher: LabelTeacher = SimulatedLabelTeacher(SimulatedLabels(dim=48, tokens=16), mural)
    features = teacher.image_features(frames)
    assert [f.shape for f in features] == [(48, 12, 16)] * 2
    assert all(f.dtype == np.float16 for f in features)
    np.testing.assert_allclose(np.linalg.norm(np.stack(features).astype(float), axis=1), 1, atol=2e-3)
    assert teacher.dim == 48
    assert teacher.image_features([]) == []


def test_label_features_do_not_depend_on_the_order_of_calls() -> None:
    mural, frames = Mural(), [look(k) for k in range(3)]
    together = SimulatedLabelTeacher(SimulatedLabels(), mural).image_features(frames)
    backwards = SimulatedLabelTeacher(SimulatedLabels(), mural)
    for frame, expected in zip(frames[::-1], together[::-1], strict=True):
        np.testing.assert_array_equal(backwards.image_features([frame])[0], expected)


def test_label_noise_changes_with_seed_scene_and_frame() -> None:
    mural = Mural()
    base = SimulatedLabelTeacher(SimulatedLabels(), mural)
    (first,) = base.image_features([look(0)])
    (other_scene,) = base.image_features([look(0, "other room")])
    (other_seed,) = SimulatedLabelTeacher(SimulatedLabels(seed=1), mural).image_features([look(0)])
    assert np.abs(first - other_scene).max() > 0.05
    assert np.abs(first - other_seed).max() > 0.05


def test_text_features_depend_on_the_words_alone() -> None:
    mural = Mural()
    teacher = SimulatedLabelTeacher(SimulatedLabels(), mural)
    text = teacher.text_features(SCANNET20.prompts)
    assert text.shape == (20, 64)
    assert text.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(teacher.text_features(SCANNET20.prompts[::-1]), text[::-1])
    np.testing.assert_array_equal(
        SimulatedLabelTeacher(SimulatedLabels(seed=5), mural).text_features([["Sofa"]])[0],
        text[SCANNET20.names.index("sofa")],
    )
    both = teacher.text_features([["sofa", "couch"], ["couch"]])
    assert both[0] @ both[1] > text[5] @ both[1]


def test_related_words_lie_closer_than_unrelated_ones() -> None:
    teacher = SimulatedLabelTeacher(SimulatedLabels(), Mural())
    text = dict(zip(SCANNET20.names, teacher.text_features(SCANNET20.prompts), strict=True))
    related = [
        ("cabinet", "bookshelf"),
        ("table", "desk"),
        ("sofa", "chair"),
        ("toilet", "sink"),
        ("window", "door"),
    ]
    unrelated = [
        ("cabinet", "floor"),
        ("table", "toilet"),
        ("sofa", "window"),
        ("picture", "bathtub"),
        ("wall", "bed"),
    ]
    near = np.mean([text[a] @ text[b] for a, b in related])
    far = np.mean([text[a] @ text[b] for a, b in unrelated])
    assert 0.5 < far < 0.7
    assert near > far + 0.08
    assert text["curtain"] @ text["shower curtain"] > far + 0.08
    assert max(text[a] @ text[b] for a in text for b in text if a != b) < 0.95


def test_without_noise_each_token_is_named_after_the_class_that_fills_most_of_it() -> None:
    mural, frame = Mural(cell_px=37), look(1)
    teacher = SimulatedLabelTeacher(EXACT_LABELS, mural)
    (features,) = teacher.image_features([frame])
    found = np.einsum("cd,dhw->chw", teacher.text_features(mural.classes.prompts), features).argmax(0)
    true = mural.labels[mural.window("1")]
    clear = 0
    for row in range(15):
        for column in range(20):
            votes = np.bincount(true[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].ravel())
            if votes.max() > 40:
                assert found[row, column] == votes.argmax()
                clear += 1
    assert clear > 200
    assert accuracy(labels_of(EXACT_LABELS, mural, [frame]), mural, [frame]) > 0.9


@pytest.mark.parametrize("knob", ["instance_error", "patch_error", "view_error"])
@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_the_share_of_wrong_instances_patches_and_views_is_the_knob(knob: str, rate: float) -> None:
    # cubes of 5 m: each instance is one patch, as the mural is 2.4 m high
    config = EXACT_LABELS.model_copy(update={knob: rate, "patch_m": 5.0})
    found, true = wrong_cells(config)
    observed = np.mean(found != true)
    assert abs(observed - rate) < 4 * np.sqrt(rate * (1 - rate) / found.size)


def test_errors_stay_among_related_classes_as_often_as_the_knob_says() -> None:
    config = EXACT_LABELS.model_copy(update={"instance_error": 0.5, "related": 1.0})
    found, true = wrong_cells(config)
    drapes = true == SCANNET20.names.index("curtain")
    taken_for = {SCANNET20.names[c] for c in found[drapes & (found != true)]}
    assert taken_for == {"window", "shower curtain"}
    found, true = wrong_cells(config.model_copy(update={"related": 0.0}))
    assert len(np.unique(found[(found != true) & drapes])) > 10


def test_instance_and_patch_errors_are_the_same_in_all_views_and_view_errors_are_not() -> None:
    mural, scenes = Mural(cell_px=16), [f"room {i}" for i in range(6)]

    def agreement(config: SimulatedLabels) -> float:
        """Among spots that are wrong in view 0: the share that get the same label in view 2."""
        same = []
        for scene in scenes:
            a, b = labels_of(config, mural, [look(0, scene), look(2, scene)])
            true = mural.labels[:, 2 * STEP_PX : WIDTH]
            a, b = a[:, 2 * STEP_PX :], b[:, : WIDTH - 2 * STEP_PX]
            same.append((a == b)[a != true])
        return float(np.concatenate(same).mean())

    assert agreement(EXACT_LABELS.model_copy(update={"instance_error": 0.4})) > 0.95
    assert agreement(EXACT_LABELS.model_copy(update={"patch_error": 0.4, "patch_m": 0.32})) > 0.8
    assert agreement(EXACT_LABELS.model_copy(update={"view_error": 0.4})) < 0.2
    assert agreement(EXACT_LABELS.model_copy(update={"token_noise": 2.0})) < 0.4


def test_patch_errors_need_depth() -> None:
    config = EXACT_LABELS.model_copy(update={"patch_error": 0.5})
    mural, with_depth, without = Mural(), look(0), look(0, depth=False)
    assert accuracy(labels_of(config, mural, [with_depth]), mural, [with_depth]) < 0.7
    np.testing.assert_array_equal(
        labels_of(config, mural, [without]), labels_of(EXACT_LABELS, mural, [without])
    )


def test_token_noise_and_bleeding_lower_accuracy() -> None:
    mural, frames = Mural(), [look(k) for k in range(4)]

    def measured(**knobs: float) -> float:
        return accuracy(labels_of(EXACT_LABELS.model_copy(update=knobs), mural, frames), mural, frames)

    exact = measured()
    assert exact > measured(token_noise=1.0) + 0.02 > measured(token_noise=3.0) + 0.1
    assert exact > measured(bleed=1.5) + 0.05


def test_a_class_is_one_instance_where_ids_are_unknown() -> None:
    config = EXACT_LABELS.model_copy(update={"instance_error": 0.5})
    mural = Mural(cell_px=8, with_instances=False)
    teacher = SimulatedLabelTeacher(config, mural)
    (features,) = teacher.image_features([look(0)])
    found = np.einsum("cd,dhw->chw", teacher.text_features(mural.classes.prompts), features).argmax(0)
    true = mural.labels[:, :WIDTH][4::8, 4::8]
    assert all(len(np.unique(found[true == c])) == 1 for c in np.unique(true))
    assert 0 < np.mean(found != true) < 1


def test_pixels_without_a_class_are_taken_for_some_class() -> None:
    mural = Mural()
    mural.labels = np.full_like(mural.labels, IGNORE)
    labels = labels_of(EXACT_LABELS, mural, [look(0)])
    assert len(np.unique(labels)) > 3


def test_the_true_class_stays_the_most_frequent_label_of_each_class() -> None:
    # Else the noise were a permutation of classes, and no network could rise above its labels.
    counts = np.zeros((20, 20))
    for seed in range(4):
        mural = Mural(cell_px=30, seed=seed)
        frames = [look(k, f"room {i}") for k in range(4) for i in range(4)]
        true = np.stack([mural.labels[mural.window(frame.name)] for frame in frames])
        np.add.at(counts, (true, labels_of(SimulatedLabels(), mural, frames)), 1)
    assert (counts.sum(1) > 0).all()
    assert (counts.argmax(1) == np.arange(20)).all()


def test_patches_are_misnamed_more_often_from_afar_and_then_alike() -> None:
    config = EXACT_LABELS.model_copy(update={"patch_error": 0.3, "patch_m": 50.0})  # an instance is a patch
    mural = Mural(cell_px=16)

    def seen_from(depth_m: float) -> tuple[I64, I64]:
        found = []
        for i in range(8):
            near = look(0, f"room {i}")
            depth = np.full((HEIGHT, WIDTH), depth_m, dtype=np.float32)
            frame = Frame(near.scene, near.name, near.image, near.intrinsics, near.cam_from_world, depth)
            found.append(labels_of(config, mural, [frame])[0, 8::16, 8::16])
        true = mural.labels[:, :WIDTH][8::16, 8::16].astype(np.int64)
        return np.stack(found), np.broadcast_to(true, (8, *true.shape))

    (near, true), (far, _) = seen_from(1.0), seen_from(2.5)
    assert abs(np.mean(near != true) - 0.3 / 4) < 0.05
    assert abs(np.mean(far != true) - 0.3 * 2.5**2 / 4) < 0.08
    wrong = near != true
    assert np.mean(far[wrong] == near[wrong]) > 0.9
