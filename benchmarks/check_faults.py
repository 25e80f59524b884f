"""How well `scenelift check` tells faults that are planted into right data.

Generated rooms (RGB-D) and turns of a LiDAR in a ray-cast street; for each fault the share of data sets in
which it is an error, and in which the mend names it. Run: python benchmarks/check_faults.py [--rooms 4]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fixtures_check import WITHOUT_DEPTH, check, edited, room, street, with_matrices
from fixtures_street import VEHICLE_FROM_CAMERA_AXES
from scenelift.check import CheckReport
from scenelift.config import Config, LidarData
from scenelift.scenes.rgbd import scale_intrinsics
from scenelift.types import Frame

FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])
Change = Callable[[Sequence[Frame]], list[Frame]]


def poses(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda frames: [replace(f, cam_from_world=change(f.cam_from_world)) for f in frames]


def depth_times(factor: float) -> Change:
    return lambda frames: [replace(f, depth_m=f.depth_m * np.float32(factor)) for f in frames]


def resized(factor: float) -> Change:
    def change(frames: Sequence[Frame]) -> list[Frame]:
        shape = (frames[0].height, frames[0].width)
        other = (round(shape[0] / factor), round(shape[1] / factor))
        return [replace(f, intrinsics=scale_intrinsics(f.intrinsics, shape, other)) for f in frames]

    return change


def focal(factor: float) -> Change:
    zoom = np.diag([factor, factor, 1.0])
    return lambda frames: [replace(f, intrinsics=f.intrinsics @ zoom) for f in frames]


def shuffled(field: str) -> Change:
    def change(frames: Sequence[Frame]) -> list[Frame]:
        order = np.random.default_rng(1).permutation(len(frames))
        return [replace(f, **{field: getattr(frames[i], field)}) for f, i in zip(frames, order, strict=True)]

    return change


ROOMS: dict[str, tuple[Change, str]] = {
    "nothing": (list, ""),
    "inverse poses": (poses(np.linalg.inv), "poses look like world_to_cam,"),
    "OpenGL axes": (poses(lambda pose: FLIP_YZ @ pose), "poses look like cam_to_world_opengl"),
    "depth 5000 units per metre": (depth_times(5.0), "depth looks like 5000 units"),
    "depth in centimetres": (depth_times(0.1), "depth looks like 100 units"),
    "images resized to 80 %": (resized(0.8), "images of another size: 0.8"),
    "images resized to 90 %": (resized(0.9), "images of another size: 0.9"),
    "focal length 1.4 times": (focal(1.4), "another focal length: 0.7"),
    "colours shuffled": (shuffled("image"), "colours do not fit"),
    "colour and depth shuffled against poses": (shuffled("cam_from_world"), "the poses are other frames'"),
}

STREETS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "nothing (LiDAR)": (lambda pose: pose, ""),
    "inverse extrinsics": (np.linalg.inv, "looks like inverse:"),
    "OpenGL axes (LiDAR)": (lambda pose: FLIP_YZ @ pose, "looks like opengl:"),
    "camera axes forgotten": (lambda pose: VEHICLE_FROM_CAMERA_AXES @ pose, "looks like vehicle axes:"),
}


def judge(reports: Sequence[CheckReport], words: str) -> str:
    errors = sum(not report.ok for report in reports)
    named = sum(any(words in problem.what for problem in report.problems) for report in reports)
    warned = sum(report.ok and bool(report.problems) for report in reports)
    return (
        f"{errors}/{len(reports)} | {warned}/{len(reports)} | {f'{named}/{len(reports)}' if words else '–'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=4)
    arguments = parser.parse_args()
    print("| planted | error | only a warning | named | s |\n|---|---|---|---|---|")
    for name, (change, words) in ROOMS.items():
        start = time.process_time()
        reports = [check(edited(room(number), change)) for number in range(arguments.rooms)]
        print(
            f"| {name} | {judge(reports, words)} | {(time.process_time() - start) / len(reports):.1f} |",
            flush=True,
        )
    config = Config(data=LidarData(path="street"), pairing=WITHOUT_DEPTH.pairing)
    rigs = [street(3, labelled=False), street(3, ("front",), False), street(3, ("front", "back"), False)]
    for name, (read, words) in STREETS.items():
        start = time.process_time()
        reports = [check(with_matrices(rig, read), config) for rig in rigs]
        print(
            f"| {name} | {judge(reports, words)} | {(time.process_time() - start) / len(reports):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
