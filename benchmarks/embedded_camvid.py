"""How good the embedded teachers' labels are on CamVid: raw, and refined by their masks.

    python benchmarks/embedded_camvid.py CAMVID [--split val] [--unnormalised] [key=value ...]

CAMVID is a folder in the 480x360, 11-class form of SegNet (``val.txt`` lists pairs of image and annotation).
Keys are those of `EmbeddedLabels` and `EmbeddedMasks`, for instance ``labels.top=5`` or ``masks.scale=200``.

``--unnormalised`` shows the classifier what a pretrained network sees where its input is left in [0, 1], as
the code that the paper came with left CLIP's (``teachers.labels.normalize: false``).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scenelift.labels import pseudo_labels, refine
from scenelift.metrics import Confusion
from scenelift.recipes import load
from scenelift.teachers.embedded import EmbeddedLabelTeacher, EmbeddedMaskTeacher
from scenelift.types import IGNORE, U8, Frame

CLASSES = {
    "sky": ["sky"],
    "building": ["building"],
    "pole": ["pole"],
    "road": ["road"],
    "pavement": ["pavement", "sidewalk"],
    "tree": ["tree"],
    "sign": ["traffic sign"],
    "fence": ["fence"],
    "car": ["car"],
    "pedestrian": ["pedestrian", "person"],
    "bicyclist": ["bicyclist", "cyclist"],
}
"""Class ids in order; everything above them is void."""


def read(folder: Path, split: str) -> list[tuple[Frame, U8]]:
    pairs = []
    for line in (folder / f"{split}.txt").read_text().split("\n"):
        if line:
            image, annotation = (np.array(Image.open(folder / name)) for name in line.split())
            frame = Frame(split, Path(line.split()[0]).stem, image, np.eye(3), np.eye(4))
            pairs.append((frame, np.where(annotation < len(CLASSES), annotation, IGNORE).astype(np.uint8)))
    return pairs


def unnormalised(frame: Frame) -> Frame:
    """The frame whose normalised pixels, (x − 127) / 128, are the given one's in [0, 1]."""
    return replace(frame, image=np.rint(127 + frame.image * (128 / 255)).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("camvid", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--unnormalised", action="store_true")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()

    kinds = ["teachers.labels.kind=embedded", "teachers.masks.kind=embedded"]
    teachers = load("cns", kinds + [f"teachers.{item}" for item in args.overrides]).teachers
    labeller = EmbeddedLabelTeacher(teachers.labels, "cpu")
    masker = EmbeddedMaskTeacher(teachers.masks, "cpu")
    text = torch.from_numpy(labeller.text_features(list(CLASSES.values())))

    raw, refined = Confusion(len(CLASSES)), Confusion(len(CLASSES))
    seconds = {"labels": 0.0, "masks": 0.0}
    pairs = read(args.camvid, args.split)
    for frame, truth in pairs:
        seen = unnormalised(frame) if args.unnormalised else frame
        start = time.process_time()
        features = torch.from_numpy(labeller.image_features([seen])[0])
        between = time.process_time()
        masks = masker.masks([frame])[0]
        seconds["labels"] += between - start
        seconds["masks"] += time.process_time() - between
        labels = pseudo_labels(features[None], text, truth.shape)
        ids = torch.from_numpy(masks.ids.astype(np.int64))[None]
        raw.update(labels[0].numpy().astype(np.uint8), truth)
        refined.update(refine(labels, ids, len(CLASSES))[0].numpy().astype(np.uint8), truth)

    print(f"{'class':12}{'raw':>8}{'refined':>10}   IoU in %, {len(pairs)} frames of {args.split}")
    before, after = raw.compute(), refined.compute()
    for name, a, b in zip(CLASSES, before.iou, after.iou, strict=True):
        print(f"{name:12}{100 * a:8.1f}{100 * b:10.1f}")
    print(f"{'mIoU':12}{100 * before.miou:8.1f}{100 * after.miou:10.1f}")
    print(", ".join(f"{name} {value / len(pairs):.2f} CPU s a frame" for name, value in seconds.items()))


if __name__ == "__main__":
    main()
