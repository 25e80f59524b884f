"""What a frame takes in the cache: ``python benchmarks/storage.py IMAGES_FOLDER [--most 12] [--masks 100]``.

Masks are cut on the real images by Felzenszwalb's segmentation, scaled until there are about as many as SAM
finds (100), a tenth of them left uncovered, numbered at random as SAM's order does. Labels are one class
for each mask, as after refinement, and as a teacher on a coarse grid gives them. Features have the shapes of
SAM (256 channels; 64 cells along the longer side) and of CLIP ViT-B/16 at 448 pixels (512 channels, 16 pixels
a cell) and random normal values, for which no lossless code does much: real ones take less, not more. Pairs
are points strewn evenly over the image: 20,000 as of an RGB-D room, and the lines of a 32-beam LiDAR (3,700
in a camera's view). Everything is stored and read back through the real cache.

Prints bytes a frame, reading speed, and what whole data sets need.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage.segmentation import felzenszwalb

from scenelift.answers import keep_paired
from scenelift.cache import Cache, cache_key
from scenelift.types import F16, F32, U8, U16

SAM_CHANNELS, SAM_CELLS = 256, 64
CLIP_CHANNELS, CLIP_SHORT_SIDE, CLIP_PATCH = 512, 448, 16
CLASSES = 20
SIZES = {"640x480": (480, 640), "320x240": (240, 320), "1600x900": (900, 1600)}
DATA_SETS = (
    ("ScanNet-25k", 24_902, "640x480", "room"),
    ("ScanNet-25k", 24_902, "320x240", "room"),
    ("nuScenes", 6 * 34_149, "1600x900", "LiDAR"),
)


def masks_of(image: U8, wanted: int, rng: np.random.Generator) -> U16:
    """About ``wanted`` segments of an image as mask ids."""
    low, high = 10.0, 10_000.0
    segments = np.zeros(image.shape[:2], np.int64)
    for _ in range(8):
        scale = (low * high) ** 0.5
        area = image.shape[0] * image.shape[1]
        segments = felzenszwalb(image, scale=scale, sigma=0.8, min_size=area // 2500, channel_axis=-1)
        count = int(segments.max()) + 1
        if 0.8 * wanted <= count <= 1.25 * wanted:
            break
        low, high = (scale, high) if count > wanted else (low, scale)
    ids = rng.permutation(count) + 1
    ids[rng.random(count) < 0.1] = 0
    return ids[segments].astype(np.uint16)


def coarse_labels(height: int, width: int, rng: np.random.Generator) -> U8:
    """Labels of random scores on a grid of 16-pixel cells, upsampled: many small blobs."""
    grid = rng.normal(size=(CLASSES, height // 32 + 1, width // 32 + 1)).astype(np.float32)
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in grid]
    return np.argmax(np.stack([np.asarray(plane) for plane in planes]), axis=0).astype(np.uint8)


def pairs_of(kind: str, height: int, width: int, rng: np.random.Generator) -> F32:
    """Pixels at which a frame sees points."""
    if kind == "room":
        return (rng.random((20_000, 2)) * (width, height) - 0.5).astype(np.float32)
    # nuScenes: beams from -30.67 to 10.67 degrees, focal length 1266 of 900 pixels, horizon in the middle
    elevation = np.repeat(np.radians(np.linspace(-19.4, 10.67, 23)), 160)
    rows = (0.5 - 1266 / 900 * np.tan(elevation)) * height - 0.5
    return np.stack([rng.random(len(rows)) * width - 0.5, rows], 1).astype(np.float32)


def features_of(channels: int, rows: int, columns: int, rng: np.random.Generator) -> F16:
    return rng.normal(size=(channels, rows, columns)).astype(np.float16)


def frame_answers(image: U8, wanted: int, rng: np.random.Generator) -> dict[str, tuple[str, str, Any]]:
    """What is stored of a frame: name, then (stage, codec, array)."""
    height, width = image.shape[:2]
    cell = max(height, width) / SAM_CELLS
    sam = features_of(SAM_CHANNELS, round(height / cell), round(width / cell), rng)
    patch = CLIP_PATCH * min(height, width) / CLIP_SHORT_SIDE
    ids = masks_of(image, wanted, rng)
    class_of_mask = rng.integers(0, CLASSES, 1 << 16).astype(np.uint8)
    return {
        "mask ids": ("masks", "map", ids),
        "labels, by mask": ("labels", "map", class_of_mask[ids]),
        "labels, by token": ("labels", "map", coarse_labels(height, width, rng)),
        "mask features, full": ("mask_features", "grid", sam),
        "mask features, room": (
            "mask_features",
            "grid",
            keep_paired(sam, pairs_of("room", height, width, rng), height, width),
        ),
        "mask features, LiDAR": (
            "mask_features",
            "grid",
            keep_paired(sam, pairs_of("LiDAR", height, width, rng), height, width),
        ),
        "label features": (
            "label_features",
            "grid",
            features_of(CLIP_CHANNELS, round(height / patch), round(width / patch), rng),
        ),
    }


def measure(paths: Sequence[Path], size: tuple[int, int], wanted: int) -> dict[str, tuple[float, int, float]]:
    """For each kind: mean bytes a frame, most bytes, and MB/s of array read with checksums."""
    sizes: dict[str, list[int]] = {}
    seconds: dict[str, float] = {}
    raw: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder))
        for number, path in enumerate(paths):
            rng = np.random.default_rng(number)
            with Image.open(path) as opened:
                image = np.asarray(opened.convert("RGB").resize(size[::-1], Image.Resampling.LANCZOS))
            for kind, (stage, codec, array) in frame_answers(image, wanted, rng).items():
                key = cache_key(stage, frame=number, kind=kind)
                cache.put(key, {"array": array}, {"frame": path.name}, {"array": codec})  # type: ignore[dict-item]
                sizes.setdefault(kind, []).append(cache.path(key).stat().st_size)
                best = np.inf
                for _ in range(3):
                    start = time.perf_counter()
                    entry = cache.get(key)
                    best = min(best, time.perf_counter() - start)
                if entry is None or not np.array_equal(entry.arrays["array"], array):
                    raise SystemExit(f"{kind} of {path} came back changed")
                seconds[kind] = seconds.get(kind, 0.0) + best
                raw[kind] = raw.get(kind, 0) + array.nbytes
    return {
        kind: (float(np.mean(found)), max(found), raw[kind] / seconds[kind] / 1e6)
        for kind, found in sizes.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--most", type=int, default=12, help="images to use, evenly spread")
    parser.add_argument("--masks", type=int, default=100, help="masks a frame, about")
    args = parser.parse_args()
    found = sorted(
        path for path in args.images.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"}
    )
    paths = [found[int(i)] for i in np.linspace(0, len(found) - 1, min(args.most, len(found)))]
    results = {name: measure(paths, size, args.masks) for name, size in SIZES.items()}
    for name, kinds in results.items():
        print(f"\n{name}, {len(paths)} images: KiB a frame (mean, most), MB/s read")
        for kind, (mean, most, speed) in kinds.items():
            print(f"  {kind:<22}{mean / 1024:9.1f}{most / 1024:9.1f}{speed:8.0f}")
    print("\n| data set | frames | size | masks | labels | label features | mask features, full | paired |")
    print("|---|---|---|---|---|---|---|---|")
    for data, frames, size, pairs in DATA_SETS:
        kinds = (
            "mask ids",
            "labels, by token",
            "label features",
            "mask features, full",
            f"mask features, {pairs}",
        )
        gib = [f"{results[size][kind][0] * frames / 2**30:.1f} GiB" for kind in kinds]
        print(f"| {data} | {frames:,} | {size} | {' | '.join(gib)} |")


if __name__ == "__main__":
    main()
