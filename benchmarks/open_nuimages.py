"""How long nuImages takes to open: ``python benchmarks/open_nuimages.py [--scale 0.25] [--folder /tmp/x]``.

Makes tables as large as those of v1.0-train times ``--scale`` (67,279 samples; 13 images and 13 LiDAR sweeps
each; 8.2 objects and 1.4 surfaces an image, with masks of 1600 × 900 pixels), without the images, and opens
them in processes of their own: with the devkit's ``NuImages(lazy=False)``, and with scenelift for the first
time (names alone, then labels of an image too) and again. Then labels of 50 images are read by both. Prints
seconds and peak memory (RSS), and the ratios. The folder is deleted in the end.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scenelift.scenes.nuimages import LABEL_OF_CATEGORY
from scenelift.scenes.nuimages.rle import encode_mask

SAMPLES, ANSWERED = 67_279, 50
HEIGHT, WIDTH = 900, 1600
OBJECTS, SURFACES = 8.2, 1.4
CHANNELS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")

_MEASURE = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
folder, images = sys.argv[1], int(sys.argv[2])
{imports}
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
each = None
if images:
    start = time.perf_counter()
    {labels}
    each = (time.perf_counter() - start) / images
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, (peak - base) / 1024, each]))
"""
DEVKIT = _MEASURE.format(
    imports="from nuimages import NuImages",
    work="data = NuImages('v1.0-train', folder, lazy=False)",
    labels="[data.get_segmentation(s['key_camera_token']) for s in data.sample[:images]]",
)
OURS = _MEASURE.format(
    imports="from scenelift.config import NuImagesData\nfrom scenelift.scenes.nuimages import NuImages",
    work="data = NuImages(NuImagesData(path=folder))\nnames = data.names('train')",
    labels="[data.truth.frame(n, data.scene(n).frames.names[0]) for n in names[:images]]",
)
OURS_LABELS = OURS.replace(
    "names = data.names('train')",
    "names = data.names('train')\ndata.truth.frame(names[0], data.scene(names[0]).frames.names[0])",
)


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A table as nuImages' are: a key a line."""
    with path.open("w", encoding="utf-8") as stream:
        for number, row in enumerate(rows):
            stream.write("[\n" if number == 0 else ",\n")
            stream.write(json.dumps(row, indent=0))
        stream.write("\n]")


def token(kind: str, number: int) -> str:
    return f"{ord(kind):04x}{number * 2654435761 % 2**64:028x}"


def masks(rng: np.random.Generator, sizes: Callable[[], float], count: int) -> list[str]:
    """Ragged ellipses in base64, a stock to draw from."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    stock = []
    for _ in range(count):
        radius = sizes()
        angle = np.arctan2(row - rng.uniform(300, 700), column - rng.uniform(0, WIDTH))
        wave = radius * (1 + 0.2 * np.sin(7 * angle) + 0.05 * np.sin(43 * angle))
        center = rng.uniform(300, 700), rng.uniform(0, WIDTH)
        mask = np.hypot(row - center[0], (column - center[1]) / 1.3) < wave
        mask[int(center[0]), int(center[1])] = True
        stock.append(base64.b64encode(encode_mask(mask)).decode())
    return stock


def make(folder: Path, samples: int) -> None:
    """Tables of v1.0-train, and the images whose labels are read (the devkit wants their sizes)."""
    rng = np.random.default_rng(0)
    tables = folder / "v1.0-train"
    tables.mkdir(parents=True)
    names = sorted(LABEL_OF_CATEGORY)
    write(tables / "category.json", [{"token": token("c", i), "name": n} for i, n in enumerate(names)])
    write(tables / "attribute.json", [{"token": token("a", 0), "name": "vehicle.moving", "description": ""}])
    write(tables / "log.json", [{"token": token("l", i), "logfile": f"n{i}"} for i in range(500)])
    write(
        tables / "sensor.json",
        [
            {"token": token("s", i), "channel": c, "modality": "camera" if i < len(CHANNELS) else "lidar"}
            for i, c in enumerate((*CHANNELS, "LIDAR_TOP"))
        ],
    )
    matrix = [[1266.4, 0.0, 816.3], [0.0, 1266.4, 491.5], [0.0, 0.0, 1.0]]
    write(
        tables / "calibrated_sensor.json",
        [
            {
                "token": token("k", i),
                "sensor_token": token("s", i),
                "translation": [1.7, 0.0, 1.5],
                "rotation": [0.5, -0.5, 0.5, -0.5],
                "camera_intrinsic": matrix if i < len(CHANNELS) else [],
                "camera_distortion": [],
            }
            for i in range(7)
        ],
    )
    data, poses = (range(26 * samples) for _ in range(2))
    write(
        tables / "sample.json",
        (
            {
                "token": token("m", i),
                "timestamp": 1_533_000_000_000_000 + i,
                "log_token": token("l", i % 500),
                "key_camera_token": token("d", 26 * i + 6),
                "key_lidar_token": token("d", 26 * i + 19),
            }
            for i in range(samples)
        ),
    )
    write(tables / "sample_data.json", (_data_row(number) for number in data))
    write(
        tables / "ego_pose.json",
        (
            {
                "token": token("p", i),
                "translation": [1234.567890123 + i, 876.54321, 0.0],
                "rotation": [0.8123456789012, 0.0123456789, -0.00345678901, 0.58312345678],
                "timestamp": 1_533_000_000_000_000 + i,
                "rotation_rate": [0.00123456789, -0.0034567891, 0.0123456789],
                "acceleration": [0.123456789, -0.23456789, 9.81234567],
                "speed": 5.123456789,
            }
            for i in poses
        ),
    )
    for name, mean, stock in (
        ("object_ann", OBJECTS, masks(rng, lambda: float(rng.gamma(1.5, 30)), 60)),
        ("surface_ann", SURFACES, masks(rng, lambda: float(rng.uniform(150, 500)), 20)),
    ):
        write(tables / f"{name}.json", _annotations(rng, name, mean, stock, samples, len(names)))
    for number in range(min(ANSWERED, samples)):
        path = folder / _data_row(26 * number + 6)["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path)


def _data_row(number: int) -> dict[str, Any]:
    sample, place = divmod(number, 26)
    camera = place < 13
    channel = CHANNELS[sample % len(CHANNELS)] if camera else "LIDAR_TOP"
    stem = f"n015-2018-08-01-11-23-21+0800__{channel}__{1_533_000_000_000_000 + number}"
    key = place in (6, 19)
    return {
        "token": token("d", number),
        "sample_token": token("m", sample),
        "ego_pose_token": token("p", number),
        "calibrated_sensor_token": token("k", sample % len(CHANNELS) if camera else 6),
        "filename": f"{'samples' if key else 'sweeps'}/{channel}/{stem}.{'jpg' if camera else 'pcd.bin'}",
        "fileformat": "jpg" if camera else "pcd",
        "width": WIDTH if camera else None,
        "height": HEIGHT if camera else None,
        "timestamp": 1_533_000_000_000_000 + number,
        "is_key_frame": key,
        "next": token("d", number + 1),
        "prev": token("d", number - 1),
    }


def _annotations(
    rng: np.random.Generator, name: str, mean: float, stock: list[str], samples: int, categories: int
) -> Iterable[dict[str, Any]]:
    number = 0
    for sample in range(samples):
        for _ in range(int(rng.poisson(mean))):
            number += 1
            row: dict[str, Any] = {
                "token": token(name[0], number),
                "sample_data_token": token("d", 26 * sample + 6),
                "category_token": token("c", int(rng.integers(categories))),
                "mask": {"size": [HEIGHT, WIDTH], "counts": stock[int(rng.integers(len(stock)))]},
            }
            if name == "object_ann":
                row |= {"attribute_tokens": [token("a", 0)], "bbox": [10, 20, 300, 400]}
            yield row


def measure(code: str, folder: Path, images: int = 0) -> tuple[float, float, float | None]:
    """Seconds to open, megabytes above the imports, and seconds an image for labels."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(images)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, megabytes, each = json.loads(done.stdout.splitlines()[-1])
    return seconds, megabytes, each


def main() -> None:
    """Make, measure, delete."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nuimages-", dir=options.folder))
    os.environ["SCENELIFT_INDEX"] = str(folder / "index")
    try:
        samples = max(1, int(SAMPLES * options.scale))
        make(folder, samples)
        sizes = {path.name: path.stat().st_size for path in (folder / "v1.0-train").iterdir()}
        total, objects, data = (
            sum(sizes[f"{name}.json"] for name in part) / 1e9
            for part in ([path.removesuffix(".json") for path in sizes], ["object_ann"], ["sample_data"])
        )
        print(
            f"{samples:,} samples, {total:.2f} GB of tables: object_ann {objects:.2f}, sample_data {data:.2f}"
        )
        images = min(ANSWERED, samples)
        rows = {
            "ours, first, names": measure(OURS, folder),
            "ours, first, labels": measure(OURS_LABELS, folder),
            "ours, again": measure(OURS_LABELS, folder, images),
            "devkit, lazy=False": measure(DEVKIT, folder, images),
        }
        index = sum(path.stat().st_size for path in (folder / "index").iterdir())
        print(f"{'':22}{'seconds':>9}{'MB':>9}{'ms an image':>13}")
        for name, (seconds, megabytes, each) in rows.items():
            print(f"{name:22}{seconds:9.2f}{megabytes:9.0f}" + (f"{1000 * each:13.1f}" if each else ""))
        devkit, again = rows["devkit, lazy=False"], rows["ours, again"]
        first = rows["ours, first, names"][0] + rows["ours, first, labels"][0]
        most = max(rows[name][1] for name in rows if name.startswith("ours"))
        print(f"first opening, names and labels: {devkit[0] / first:.1f} times as fast as the devkit")
        print(f"again: {devkit[0] / again[0]:.0f} times; memory: 1/{devkit[1] / most:.0f}")
        print(f"index: {index / 1e6:.1f} MB")
        if devkit[2] and again[2]:
            print(f"labels of an image: {devkit[2] / again[2]:.0f} times")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
