"""The simulated teachers: every knob does what it says, and no draw depends on the order of calls.

The stage is a painted wall, `Mural`: a flat grid of instances, seen by cameras that slide along it by whole
pixels. So the pixel of one view that shows the same spot as a pixel of another is known exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from scenelift.classes import SCANNET20, ClassTable
from scenelift.config import SimulatedLabels, SimulatedMasks
from scenelift.errors import DataError
from scenelift.labels import pseudo_labels, refine
from scenelift.teachers import LabelTeacher, MaskTeacher
from scenelift.teachers.simulated import SimulatedLabelTeacher, SimulatedMaskTeacher
from scenelift.teachers.simulated_draws import cell_shares, grid_cells, grid_size, hash_key, hashed_uniform
from scenelift.types import I64, IGNORE, U8, U16, Frame, FrameTruth, SceneTruth

HEIGHT, WIDTH, STEP_PX = 120, 160, 16
EXACT_LABELS = SimulatedLabels(bleed=0, instance_error=0, patch_error=0, view_error=0, token_noise=0)
EXACT_MASKS = SimulatedMasks(merge=0, split=0, jitter=0, uncovered=0)


class Mural:
    """A wall of rectangles, ``cell_px`` wide and high; frame "k" is shifted by k * STEP_PX pixels.

    Classes are drawn per instance by seed; scenes differ in nothing but their names.
    """

    classes: ClassTable = SCANNET20

    def __init__(self, cell_px: int = 24, views: int = 4, with_instances: bool = True, seed: int = 0) -> None:
        rows, columns = -(-HEIGHT // cell_px), -(-(WIDTH + views * STEP_PX) // cell_px)
        ids = np.arange(1, rows * columns + 1, dtype=np.uint16).reshape(rows, columns)
        self.class_of = np.random.default_rng(seed).integers(0, 20, rows * columns + 1).astype(np.uint8)
        self.instances: U16 = ids.repeat(cell_px, 0).repeat(cell_px, 1)[:HEIGHT]
        self.labels: U8 = self.class_of[self.instances]
        self.with_instances = with_instances

    def window(self, frame: str) -> tuple[slice, slice]:
        return slice(None), slice(int(frame) * STEP_PX, int(frame) * STEP_PX + WIDTH)

    def frame(self, scene: str, frame: str) -> FrameTruth | None:
        if not frame.isdigit():
            return None
        view = self.window(frame)
        return FrameTruth(self.labels[view], self.instances[view] if self.with_instances else None)

    def scene(self, scene: str) -> SceneTruth | None:
        return None


def look(k: int, scene: str = "room", depth: bool = True) -> Frame:
    """Frame k of the mural: depth 2 m, one pixel = 2 cm, so the camera moves STEP_PX * 2 cm each time."""
    cam_from_world = np.eye(4)
    cam_from_world[0, 3] = -k * STEP_PX * 0.02
    intrinsics = np.array([[100.0, 0, WIDTH / 2], [0, 100.0, HEIGHT / 2], [0, 0, 1]])
    image = np.random.default_rng(k).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    depth_m = np.full((HEIGHT, WIDTH), 2.0, dtype=np.float32) if depth else None
    return Frame(scene, str(k), image, intrinsics, cam_from_world, depth_m)


def labels_of(config: SimulatedLabels, mural: Mural, frames: Sequence[Frame]) -> I64:
    """(B, H, W) labels by eq. 1, with the mural's own class names."""
    teacher = SimulatedLabelTeacher(config, mural)
    features = torch.from_numpy(np.stack(teacher.image_features(frames)))
    text = torch.from_numpy(teacher.text_features(mural.classes.prompts))
    return pseudo_labels(features, text, (HEIGHT, WIDTH)).numpy()


def accuracy(labels: I64, mural: Mural, frames: Sequence[Frame]) -> float:
    return float(np.mean(labels == np.stack([mural.labels[mural.window(f.name)] for f in frames])))


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


# --- masks --------------------------------------------------------------------------------------------


def ids_of(config: SimulatedMasks, mural: Mural, frame: Frame) -> U16:
    return SimulatedMaskTeacher(config, mural).masks([frame])[0].ids


def test_masks_have_the_promised_shapes_and_do_not_depend_on_the_order_of_calls() -> None:
    mural, frames = Mural(), [look(k) for k in range(3)]
    teacher: MaskTeacher = SimulatedMaskTeacher(SimulatedMasks(dim=24, tokens=16), mural)
    together = teacher.masks(frames)
    for frame, expected in zip(frames[::-1], together[::-1], strict=True):
        (again,) = SimulatedMaskTeacher(SimulatedMasks(dim=24, tokens=16), mural).masks([frame])
        np.testing.assert_array_equal(again.ids, expected.ids)
        np.testing.assert_array_equal(again.features, expected.features)
        assert again.ids.dtype == np.uint16
        assert again.features.shape == (24, 12, 16)
        assert np.isfinite(again.features).all()
    (other,) = SimulatedMaskTeacher(SimulatedMasks(dim=24, tokens=16, seed=1), mural).masks(frames[:1])
    assert (other.ids > 0).sum() > 0
    assert (other.ids != together[0].ids).any()


def test_without_noise_each_mask_is_one_connected_piece_of_one_instance() -> None:
    mural, frame = Mural(), look(1)
    mural.instances[:, 60:70] = 1  # a pole that cuts others in two
    mural.labels = mural.class_of[mural.instances]
    ids, instances = ids_of(EXACT_MASKS, mural, frame), mural.instances[mural.window("1")]
    assert ids.min() > 0
    pieces = sum(ndimage.label(instances == i)[1] for i in np.unique(instances))
    assert len(np.unique(ids)) == pieces
    for i in np.unique(ids):
        assert len(np.unique(instances[ids == i])) == 1
        assert ndimage.label(ids == i)[1] == 1


@pytest.mark.parametrize("rate", [0.2, 0.6])
def test_splitting_cuts_as_many_masks_as_the_knob_says(rate: float) -> None:
    mural, cut, total = Mural(), 0, 0
    for k in range(4):
        for scene in ("a", "b", "c"):
            ids = ids_of(EXACT_MASKS.model_copy(update={"split": rate}), mural, look(k, scene))
            instances = mural.instances[mural.window(str(k))]
            for i in np.unique(instances):
                parts = np.unique(ids[instances == i])
                assert len(parts) <= 4
                assert all((instances[ids == part] == i).all() for part in parts)
                cut += len(parts) > 1
                total += 1
    # a seed drawn twice leaves a part empty, a few times in a hundred
    assert abs(cut / total - rate) < 4 * np.sqrt(rate * (1 - rate) / total) + 0.02


def test_merging_joins_neighbours_and_never_cuts() -> None:
    mural, frame = Mural(), look(1)
    instances = mural.instances[mural.window("1")]
    counts = []
    for rate in (0.0, 0.3, 1.0):
        ids = ids_of(EXACT_MASKS.model_copy(update={"merge": rate}), mural, frame)
        assert all(len(np.unique(ids[instances == i])) == 1 for i in np.unique(instances))
        counts.append(len(np.unique(ids)))
    assert counts[0] == len(np.unique(instances))
    assert counts[0] > counts[1] > counts[2]
    assert counts[2] <= counts[0] / 2  # every instance has at least one partner


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_the_uncovered_share_is_the_knob(share: float) -> None:
    for k in range(3):
        ids = ids_of(SimulatedMasks(uncovered=share), Mural(), look(k))
        assert abs(np.mean(ids == 0) - share) <= 1 / ids.size


def test_uncovered_pixels_favour_boundaries_and_form_blobs() -> None:
    ids = ids_of(EXACT_MASKS.model_copy(update={"uncovered": 0.1}), Mural(), look(0))
    instances = Mural().instances[:, :WIDTH]
    edge = np.zeros(ids.shape, dtype=bool)
    edge[:, 1:] |= instances[:, 1:] != instances[:, :-1]
    edge[1:] |= instances[1:] != instances[:-1]
    assert np.mean(ids[edge] == 0) > 2 * np.mean(ids[~edge] == 0)
    hole = ids == 0
    assert np.mean(hole[:, 1:][hole[:, :-1]]) > 0.4  # 0.1 if pixels were lost one by one


def test_jitter_moves_boundaries_by_about_as_much_as_the_knob_says() -> None:
    mural, frame = Mural(), look(0)
    mural.instances = np.repeat(mural.instances[:1], HEIGHT, 0)  # upright stripes, 24 pixels wide
    mural.labels = mural.class_of[mural.instances]
    exact = ids_of(EXACT_MASKS, mural, frame)
    moved = []
    for jitter in (0.0, 0.01, 0.02):
        ids = ids_of(EXACT_MASKS.model_copy(update={"jitter": jitter}), mural, frame)
        shift = []
        for boundary in range(24, 144, 24):
            left = ids[:, boundary - 12][:, None]  # 12 pixels away the stripe still keeps its own mask
            shift.append((ids[:, boundary - 12 : boundary + 12] == left).sum(1) - 12)
        moved.append(np.sqrt(np.mean(np.square(shift))))
    np.testing.assert_array_equal(moved[0], 0)
    assert len(np.unique(exact)) == 7
    assert 0.8 < moved[1] < 2.4  # sd 1.6 pixels
    assert moved[2] > 1.5 * moved[1]


def test_features_tell_instances_apart_across_views() -> None:
    mural = Mural(cell_px=32, views=4)
    teacher = SimulatedMaskTeacher(SimulatedMasks(), mural)
    rows, ids = [], []
    for k, masks in enumerate(teacher.masks([look(k) for k in (0, 2)])):
        rows.append(masks.features.astype(float).reshape(masks.features.shape[0], -1).T)
        ids.append(mural.instances[mural.window(str(2 * k))][4::8, 4::8].ravel())
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows)
    cosine, same = a @ b.T, ids[0][:, None] == ids[1][None, :]
    assert cosine[same].mean() > cosine[~same].mean() + 0.3
    same_class = (mural.class_of[ids[0]][:, None] == mural.class_of[ids[1]][None, :]) & ~same
    assert abs(cosine[same_class].mean() - cosine[~same].mean()) < 0.1  # no class shows


def test_feature_noise_differs_between_views_of_one_place() -> None:
    mural, frame = Mural(), look(0)

    def cosine(noise: float) -> float:
        teacher = SimulatedMaskTeacher(SimulatedMasks(feature_noise=noise), mural)
        twin = Frame("room", "00", frame.image, frame.intrinsics, frame.cam_from_world)  # int("00") == 0
        a, b = (m.features.astype(float) for m in teacher.masks([frame, twin]))
        return float(((a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)).mean())

    assert cosine(0.0) > 0.999
    assert cosine(0.5) > cosine(2.0) + 0.1


# --- both ---------------------------------------------------------------------------------------------


def test_refinement_with_the_masks_raises_label_accuracy() -> None:
    mural, frames = Mural(cell_px=32), [look(k) for k in range(4)]
    labels = torch.from_numpy(labels_of(SimulatedLabels(), mural, frames))
    masks = SimulatedMaskTeacher(SimulatedMasks(), mural).masks(frames)
    ids = torch.from_numpy(np.stack([m.ids.astype(np.int64) for m in masks]))
    refined = refine(labels, ids, len(SCANNET20)).numpy()
    assert accuracy(refined, mural, frames) > accuracy(labels.numpy(), mural, frames) + 0.03


def test_identities_name_every_knob_and_the_classes() -> None:
    mural, renamed = Mural(), Mural()
    renamed.classes = ClassTable.parse("wall, floor, chair")
    labels = [SimulatedLabels(), *(SimulatedLabels(**{k: 0.123}) for k in ("bleed", "patch_m", "related"))]
    found = {SimulatedLabelTeacher(config, mural).identity for config in labels}
    assert len(found | {SimulatedLabelTeacher(SimulatedLabels(), renamed).identity}) == 5
    masks = [SimulatedMasks(), *(SimulatedMasks(**{k: 0.123}) for k in ("merge", "split", "jitter"))]
    assert len({SimulatedMaskTeacher(config, mural).identity for config in masks}) == 4
    assert SimulatedMaskTeacher(masks[0], mural).identity == SimulatedMaskTeacher(masks[0], Mural()).identity


def test_a_frame_without_ground_truth_is_named() -> None:
    mural = Mural()
    lost = Frame("room", "attic", look(0).image, look(0).intrinsics, np.eye(4))
    small = Frame("room", "0", look(0).image[:50], look(0).intrinsics, np.eye(4))
    for ask in (
        SimulatedLabelTeacher(SimulatedLabels(), mural).image_features,
        SimulatedMaskTeacher(SimulatedMasks(), mural).masks,
    ):
        with pytest.raises(DataError, match="room/attic: a simulated teacher needs its ground truth"):
            ask([lost])
        with pytest.raises(DataError, match=r"room/0: expected ground truth of the image's size \(50, 160\)"):
            ask([small])
