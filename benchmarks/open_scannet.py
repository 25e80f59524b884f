"""How long it takes to open ScanNet: ``python benchmarks/open_scannet.py [--scans 1513] [--frames 16]``.

Makes a tree of tiny files in a temporary folder, with the names of the official train and val splits and the
layout of scannet_frames_25k, and opens it as scenelift does: construct, names of both splits, frame count of
every scan. Prints the seconds of the first opening, of the second (from the index), of one after a frame was
added to one scan (wall clock and CPU), the ratio of first to second, and the sizes of the index and of the
pickled source.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np

from layouts_scannet import DEPTH_INTRINSICS, matrix4
from scenelift.config import ScanNetData
from scenelift.scenes.scannet import ScanNet
from scenelift.scenes.scannet.layout import official_split


def make_tree(root: Path, scans: int, frames: int) -> int:
    """Tiny files under the official names; returns how many frames there are."""
    text = "\n".join(" ".join(f"{number:.6f}" for number in row) for row in np.eye(4))
    intrinsics = "\n".join(" ".join(f"{x:.6f}" for x in row) for row in matrix4(DEPTH_INTRINSICS))
    names = (*official_split("train"), *official_split("val"))[:scans]
    endings = ("_vh_clean_2.ply", "_vh_clean_2.labels.ply", "_vh_clean_2.0.010000.segs.json")
    for scan in names:
        own, folder = root / "scans" / scan, root / "scannet_frames_25k" / scan
        own.mkdir(parents=True)
        for ending in (*endings, ".aggregation.json", ".txt"):
            (own / f"{scan}{ending}").write_bytes(b"x")
        for part, ending in (("color", "jpg"), ("depth", "png"), ("pose", "txt"), ("label", "png")):
            (folder / part).mkdir(parents=True)
            for number in range(frames):
                path = folder / part / f"{number * 100:06d}.{ending}"
                path.write_text(text if part == "pose" else "x")
        for camera in ("color", "depth"):
            (folder / f"intrinsics_{camera}.txt").write_text(intrinsics)
    return len(names) * frames


@dataclass(frozen=True)
class Opening:
    seconds: float
    cpu_seconds: float
    frames: int
    source: ScanNet

    def __str__(self) -> str:
        return f"{self.seconds:.3f} s ({self.cpu_seconds:.3f} s of CPU)"


def open_all(root: Path) -> Opening:
    start, cpu_start = time.perf_counter(), time.process_time()
    source = ScanNet(ScanNetData(path=str(root)))
    names = (*source.names("train"), *source.names("val"))
    frames = sum(source.frame_count(name) for name in names)
    return Opening(time.perf_counter() - start, time.process_time() - cpu_start, frames, source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=1513)
    parser.add_argument("--frames", type=int, default=16, help="frames of each scan")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        root = Path(temp) / "scannet"
        os.environ["SCENELIFT_INDEX"] = str(Path(temp) / "index")
        expected = make_tree(root, options.scans, options.frames)
        first = open_all(root)
        second = min((open_all(root) for _ in range(5)), key=lambda opening: opening.seconds)
        scan = root / "scannet_frames_25k" / official_split("train")[0]
        for part, ending in (("color", "jpg"), ("depth", "png"), ("pose", "txt")):
            text = (scan / part / f"000000.{ending}").read_bytes()
            (scan / part / f"999900.{ending}").write_bytes(text)
        changed = open_all(root)
        assert (first.frames, second.frames, changed.frames) == (expected, expected, expected + 1)
        size = sum(path.stat().st_size for path in Path(os.environ["SCENELIFT_INDEX"]).iterdir())
        print(f"scans {options.scans:,}, frames {expected:,}")
        print(f"first opening {first}")
        print(f"second {second}, {first.seconds / second.seconds:.0f} times as fast")
        print(f"after one change {changed}")
        print(f"index {size / 1e6:.2f} MB, pickled source {len(pickle.dumps(second.source)):,} bytes")


if __name__ == "__main__":
    main()
