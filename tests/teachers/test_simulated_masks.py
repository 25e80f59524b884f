"""The simulated mask teacher, and what both teachers share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mural import HEIGHT, WIDTH, Mural, accuracy, labels_of, look
from scipy import ndimage

from scenelift.classes import SCANNET20, ClassTable
from scenelift.config import SimulatedLabels, SimulatedMasks
from scenelift.errors import DataError
from scenelift.labels import refine
from scenelift.teachers import MaskTeacher
from scenelift.teachers.simulated import SimulatedLabelTeacher, SimulatedMaskTeacher
from scenelift.types import U16, Frame

EXACT_MASKS = SimulatedMasks(merge=0, split=0, jitter=0, uncovered=0)


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
    mural = Mural(cell_px=60)
    frames = [look(k, scene) for k in range(4) for scene in ("a", "b", "c", "d")]
    labels = labels_of(SimulatedLabels(), mural, frames)
    # Tiles of one size are the worst case of merging: the loser of each vote is as large as the winner.
    masks = SimulatedMaskTeacher(SimulatedMasks(merge=0.1), mural).masks(frames)
    ids = np.stack([m.ids.astype(np.int64) for m in masks])
    refined = refine(torch.from_numpy(labels), torch.from_numpy(ids), len(SCANNET20)).numpy()
    assert accuracy(refined, mural, frames) > accuracy(labels, mural, frames) + 0.05


def test_identities_name_every_knob_and_the_classes() -> None:
    mural, renamed = Mural(), Mural()
    renamed.classes = ClassTable.parse("wall, floor, chair")
    labels = [SimulatedLabels(), *(SimulatedLabels(**{k: 0.123}) for k in ("bleed", "patch_m", "related"))]
    found = {SimulatedLabelTeacher(config, mural).identity for config in labels}
    assert len(found | {SimulatedLabelTeacher(SimulatedLabels(), renamed).identity}) == 5
    masks = [SimulatedMasks(), *(SimulatedMasks(**{k: 0.123}) for k in ("merge", "split", "jitter"))]
    assert len({SimulatedMaskTeacher(config, mural).identity for config in masks}) == 4
    assert SimulatedMaskTeacher(masks[0], mural).identity == SimulatedMaskTeacher(masks[0], Mural()).identity


def test_the_identity_of_words_names_what_they_depend_on() -> None:
    """Equal identities, equal embeddings; else a cached one could be another teacher's."""
    plain, bleeding, short = (
        SimulatedLabelTeacher(config, Mural())
        for config in (SimulatedLabels(), SimulatedLabels(bleed=0.1, seed=3), SimulatedLabels(dim=16))
    )
    assert plain.text_identity == bleeding.text_identity != short.text_identity
    words = [("wall",), ("sofa", "couch")]
    np.testing.assert_array_equal(plain.text_features(words), bleeding.text_features(words))
    assert "simulated" in plain.weights


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
