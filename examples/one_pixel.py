"""One pixel from file to metric: every number of docs/method.md, on a generated room.

    python examples/one_pixel.py [ROW COLUMN]

Two networks learn from one small room for a few steps; then a pixel of its first frame goes once more through
the functions that training calls, and each says what it makes of it. Takes seconds.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from scenelift import pipeline
from scenelift.annotations import Annotations
from scenelift.batches import SWITCH, draw_batch, stream
from scenelift.labels import dense_scores, vote_points
from scenelift.losses import cosine_distance, image_cross_entropy, pair_cross_entropy, sample_maps
from scenelift.metrics import Confusion
from scenelift.pipeline import Session
from scenelift.predict import NetworkPair, best_prediction
from scenelift.recipes import load
from scenelift.runfolder import RunFolder
from scenelift.store import SceneStore
from scenelift.switching import SOURCES, Sources, draw_targets
from scenelift.types import IGNORE

KEYS = (
    # one room of four frames, all of them in every step, no augmentation: the pixel stays where it is
    "data.seed=5", "data.train_rooms=1", "data.val_rooms=0", "data.frames_per_room=4",
    "augment.hflip=0", "augment.scale=[1, 1]", "augment.color_jitter=0", "augment.rotate_z=false",
    "augment.point_flip=0", "augment.point_scale=[1, 1]", "augment.point_color_jitter=0",
    "train.frames_per_scene=4", "train.scenes_per_step=1", "train.steps_per_epoch=1", "train.epochs=12",
    "train.switch_after=9",
)  # fmt: skip


def main(row: int = 54, column: int = 118) -> None:
    """Train, then follow the pixel (row, column) of the first frame, 120 rows of 160."""
    if not (0 <= row < 120 and 0 <= column < 160):
        raise SystemExit(f"expected a row below 120 and a column below 160, found {row} and {column}")
    with tempfile.TemporaryDirectory() as folder:
        config = load("cns", KEYS, data="synthetic")
        session = Session(config, RunFolder(Path(folder) / "run"), Path(folder) / "cache")
        annotations = pipeline.annotate(session)
        pair = pipeline.train(session, annotations)
        assert pair is not None
        follow(session, annotations, pair, row, column)


def follow(session: Session, annotations: Annotations, pair: NetworkPair, row: int, column: int) -> None:
    """Print what becomes of one pixel."""
    config, classes, networks, text = session.config, session.classes.names, pair.networks, pair.text
    (name,) = session.names("train")
    scene = session.source.scene(name)
    frame = scene.frames[0]
    assert frame.depth_m is not None
    depth_m = float(frame.depth_m[row, column])
    print(f"file: frame {frame.key}, pixel row {row}, column {column}")
    print(f"  colour {frame.image[row, column].tolist()}, depth {depth_m:.3f} m")

    features = torch.from_numpy(annotations.features(name, frame.name))[None]
    best = dense_scores(features, text, frame.image.shape[:2])[0, :, row, column].topk(3)
    said = ", ".join(f"{classes[i]} {score:.2f}" for score, i in _both(best))
    print(f"eq. 1: {features.shape[2]} x {features.shape[3]} cells of features; highest scores: {said}")

    pairs = annotations.pairs(name)
    rows, columns = pairs.rowcol()
    here = np.flatnonzero((pairs.frame_index == 0) & (rows == row) & (columns == column))
    if not len(here):
        raise SystemExit(f"no point of the cloud falls into row {row}, column {column}; choose another pixel")
    point, (u, v) = int(pairs.point_index[here[0]]), pairs.pixel_uv[here[0]]
    x, y, z = scene.points_world[point].astype(np.float64)
    deep = (frame.cam_from_world @ (x, y, z, 1.0))[2]
    print(f"pair: point {point} at ({x:.2f}, {y:.2f}, {z:.2f}) m falls on u {u:.2f}, v {v:.2f}")
    print(f"  its depth in the camera is {deep:.3f} m, {abs(deep - depth_m):.3f} m from the measured one")

    batch = draw_batch(SceneStore(session.source, (name,), annotations, config.latent.target), config, step=0)
    views = np.flatnonzero(pairs.point_index == point)
    seen = [int(batch.labels[pairs.frame_index[i], rows[i], columns[i]]) for i in views]
    voted = int(vote_points(torch.tensor(seen), torch.zeros(len(seen)).long(), 1, len(classes)))
    words = ", ".join(classes[i] for i in seen)
    print(f"eq. 2, 3: {len(seen)} frames see it and say {words}; their vote: {classes[voted]}")

    with torch.no_grad():
        image = networks.run_images(batch.images, text)
        points = networks.run_points(batch.coords, batch.inputs, text)
        full = F.interpolate(image.logits, batch.labels.shape[1:], mode="bilinear", align_corners=False)
    predicted = full.argmax(1), points.logits.argmax(1)
    sources = Sources(batch, *predicted, config.refine, len(classes))
    refined = sources.on_image("clip")
    mask = batch.mask_ids[0] == batch.mask_ids[0, row, column]
    votes = torch.bincount(batch.labels[0][mask], minlength=IGNORE + 1)[: len(classes)].topk(2)
    told = ", ".join(f"{count} for {classes[i]}" for count, i in _both(votes))
    before, after = int(batch.labels[0, row, column]), int(refined[0, row, column])
    number = int(batch.mask_ids[0, row, column])
    covered = f"mask {number} has {int(mask.sum())} pixels: {told}, ..." if number else "no mask covers it"
    print(f"eq. 4: {covered}")
    print(f"  label before: {classes[before]}, after: {classes[after]}")

    at = (batch.pair_image == 0) & (batch.pair_row == row) & (batch.pair_col == column)
    one = int(at.nonzero()[0])
    voxel = int(batch.pair_voxel[one])
    of_pixel = -float(full[0, :, row, column].log_softmax(0)[after])
    of_voxel = -float(points.logits[voxel].log_softmax(0)[after])
    mean_2d = float(image_cross_entropy(full, refined))
    mean_3d = float(pair_cross_entropy(points.logits, batch.pair_voxel, sources.on_pairs("clip")))
    print(f"eq. 5: cross-entropy of the pixel {of_pixel:.2f}, mean of all pixels {mean_2d:.2f}")
    print(f"  of its voxel {of_voxel:.2f}, mean of all pairs {mean_3d:.2f}")

    labels = {source: classes[int(sources.on_image(source)[0, row, column])] for source in SOURCES}
    print(f"eq. 6: on offer: CLIP {labels['clip']}, 2D {labels['image']}, 3D {labels['points']}, all refined")
    for step in range(9, 12):
        drawn = draw_targets(sources, batch, config.switch, stream(config.seed, SWITCH, step))
        of_2d, of_3d = (
            ("CLIP", "2D", "3D")[int(of.argmax())] for of in (drawn.drawn_image, drawn.drawn_points)
        )
        print(f"  step {step}: the 2D network learns from {of_2d}, the 3D network from {of_3d}")

    first, place = torch.tensor([0]), batch.pair_position[one : one + 1]
    with torch.no_grad():
        teacher = F.normalize(sample_maps(batch.target_grids[0].float(), first, place), dim=1)
        target = networks.target_latent(teacher)
        far_2d = cosine_distance(networks.image_latent(sample_maps(image.features, first, place)), target)
        far_3d = cosine_distance(networks.points_latent(points.features[voxel : voxel + 1]), target)
    print(f"eq. 7: 1 - cos to the mask teacher's feature: 2D {far_2d:.2f}, 3D {far_3d:.2f}")

    probability = pair.image_probabilities(frame.image[None])[0].flatten(1).T
    answer = best_prediction(probability, (frame.height, frame.width))
    label, sure = int(answer.labels[row, column]), float(answer.confidence[row, column])
    print(f"prediction: {classes[label]}, probability {sure:.2f}")
    truth = session.source.truth.frame(name, frame.name) if session.source.truth else None
    assert truth is not None
    confusion = Confusion(len(classes))
    confusion.update(answer.labels, truth.labels)
    true, scores = int(truth.labels[row, column]), confusion.compute()
    iou = f"its IoU is {scores.iou[true]:.2f}, mIoU {scores.miou:.2f}"
    print(f"metric: it is {classes[true]}; in this frame {iou}")


def _both(top: torch.return_types.topk) -> list[tuple[float, int]]:
    return list(zip(top.values.tolist(), top.indices.tolist(), strict=True))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
