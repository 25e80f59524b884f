"""Pairing points with pixels against a loop over frames in numpy: ``python benchmarks/pairing.py``.

100,000 points and 300 frames of 640×480 with depth, of a flat of four rooms (each frame sees part of one of
them) and of a single room. The loop projects every point into every frame, as data preparation scripts do;
both must find the same pairs, but for points on the edge of a pixel or of the tolerance. The floor is what no
method can do without: reading the depth at as many places as there are pairs, and writing the pairs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fixtures_capture import camera_path, cast
from scenelift.config import PairingConfig
from scenelift.pairing import pair_points
from scenelift.types import F32, F64, I64, Frame

POINTS, FRAMES, SHAPE = 100_000, 300, (480, 640)
INTRINSICS = np.array([[500.0, 0.0, 319.5], [0.0, 500.0, 239.5], [0.0, 0.0, 1.0]])
CONFIG = PairingConfig()


def rooms(count: int) -> tuple[F32, list[Frame]]:
    """``count`` equal rooms side by side: points of their surfaces, and frames that look at them."""
    rng = np.random.default_rng(0)
    poses = camera_path(FRAMES // count, step=2 * np.pi / (FRAMES // count))
    views = [cast(pose, INTRINSICS, SHAPE) for pose in poses]
    hits = np.concatenate([hit[::8, ::8].reshape(-1, 3) for _, _, hit in views])
    points, frames = [], []
    for number in range(count):
        shift = np.array([10.0 * number, 0.0, 0.0])
        points.append(hits[rng.choice(len(hits), POINTS // count, replace=False)] + shift)
        for index, (pose, (image, depth_m, _)) in enumerate(zip(poses, views, strict=True)):
            moved = pose.copy()
            moved[:3, 3] -= pose[:3, :3] @ shift
            frames.append(Frame("flat", f"{number}_{index}", image, INTRINSICS, moved, depth_m))
    return np.concatenate(points).astype(np.float32), frames


def numpy_loop(points: F32, frames: Sequence[Frame]) -> list[tuple[I64, F64]]:
    """For each frame the points it sees and where."""
    homogeneous = np.concatenate([points.astype(np.float64), np.ones((len(points), 1))], 1)
    found = []
    for frame in frames:
        cam = (homogeneous @ frame.cam_from_world.T)[:, :3]
        z = cam[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            uv = (cam @ frame.intrinsics.T)[:, :2] / z[:, None]
            column, row = np.floor(uv + 0.5).T
        inside = (z > 0) & (column >= 0) & (column < frame.width) & (row >= 0) & (row < frame.height)
        index = np.flatnonzero(inside)
        assert frame.depth_m is not None
        there = frame.depth_m[row[index].astype(np.int64), column[index].astype(np.int64)]
        index = index[(there > 0) & (np.abs(there - z[index]) <= CONFIG.depth_tolerance_m)]
        found.append((index, uv[index]))
    return found


def floor(depths: Sequence[F32], pixels: Sequence[I64], uv: F32) -> None:
    """Read the depth under every pair, and write the pairs."""
    start = 0
    for depth_m, pixel in zip(depths, pixels, strict=True):
        depth_m.take(pixel)
        pixel.astype(np.int32)
        uv[start : start + len(pixel)].copy()
        start += len(pixel)


def best_seconds(*works: Callable[[], object], repeats: int = 3) -> list[float]:
    """The shortest of several runs of each, in turns: those least disturbed by neighbours."""
    best = [float("inf")] * len(works)
    for _ in range(repeats):
        for number, work in enumerate(works):
            start = time.perf_counter()
            work()
            best[number] = min(best[number], time.perf_counter() - start)
    return best


def compare(name: str, points: F32, frames: Sequence[Frame]) -> None:
    pairs = pair_points(points, frames, CONFIG)
    loop = numpy_loop(points, frames)
    different = 0
    for index, (points_seen, uv) in enumerate(loop):
        rows = pairs.of_frame(index)
        both, here, there = np.intersect1d(pairs.point_index[rows], points_seen, return_indices=True)
        different += len(points_seen) + len(pairs.point_index[rows]) - 2 * len(both)
        if not np.allclose(pairs.pixel_uv[rows][here], uv[there], atol=1e-3):
            raise SystemExit(f"{name}: the two find different pixels in frame {index}")
    if different > 1e-5 * len(pairs):
        raise SystemExit(f"{name}: the two differ in {different} of {len(pairs)} pairs")
    row, column = (axis.astype(np.int64) for axis in pairs.rowcol())
    pixels = [row[rows] * SHAPE[1] + column[rows] for rows in map(pairs.of_frame, range(len(frames)))]
    depths = [frame.depth_m for frame in frames if frame.depth_m is not None]
    ours, theirs, least = best_seconds(
        lambda: pair_points(points, frames, CONFIG),
        lambda: numpy_loop(points, frames),
        lambda: floor(depths, pixels, pairs.pixel_uv),
    )
    seen = len(pairs) / len(frames) / len(points)
    print(f"{name}: {len(points):,} points, {len(frames)} frames, {seen:.0%} of the points seen by a frame")
    print(f"  loop in numpy {theirs:7.2f} s")
    print(f"  pair_points   {ours:7.2f} s   {theirs / ours:.1f} times as fast")
    print(f"  floor         {least:7.2f} s   pair_points takes {ours / least:.1f} times the floor")


def main() -> None:
    print(f"{torch.get_num_threads()} threads")
    compare("four rooms", *rooms(4))
    points, frames = rooms(1)
    compare("one room", points, frames)
    order = np.random.default_rng(1).permutation(len(points))
    compare("one room, points in random order", points[order], [replace(frame) for frame in frames])


if __name__ == "__main__":
    main()
