"""What training data cost beside bare decoding: ``OMP_NUM_THREADS=1 python benchmarks/loader.py``.

Generated rooms lie on disk as ScanNet does (``scannet_frames_25k``: JPEG, 16-bit PNG, poses; a PLY mesh),
with 16 frames of 320 × 240 and 150,000 points each, annotated in a real cache: labels, mask ids, SAM's
features (256 × 48 × 64), pairs. A scene is drawn at the paper's setting from a store with nothing in memory.

*Bare decoding* reads the very files that a draw reads and unpacks what they hold, without a check or a
conversion: Pillow for JPEG, ``np.frombuffer`` for the mesh, safetensors and zlib for the entries. *Ours* is
the whole path from files to a batch and its kernel maps (those of MinkUNet34). Both are measured in turn in
one process, in seconds of one core (other work on the machine does not count), and medians are compared. The
stages add up to ours: time in a stage is that of its functions less that of the stages inside it.

``--scaling`` draws with 1, 2 and 3 threads and with 2 processes in turn instead, and prints scenes a second.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors.numpy
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from layouts_scannet import jpeg, matrix4, mesh_bytes, millimetres, png
from scenelift import augment, batches
from scenelift.annotate import annotate
from scenelift.annotations import Annotations
from scenelift.batches import Batch, draw_batch
from scenelift.cache import Cache
from scenelift.classes import SCANNET20
from scenelift.config import Config, ScanNetData, SyntheticData
from scenelift.entries import parse_manifest
from scenelift.models.kernel_maps import VoxelPyramid
from scenelift.recipes import load
from scenelift.scenes.resize import resize_nearest
from scenelift.scenes.rgbd import scale_intrinsics
from scenelift.scenes.scannet import ScanNet
from scenelift.scenes.scannet.layout import official_split
from scenelift.scenes.synthetic import SyntheticRooms
from scenelift.store import SceneStore
from scenelift.types import F16, F32, Frame, Frames, Masks

WIDTH, HEIGHT, FRAMES, POINTS = 320, 240, 16, 150_000
SAM = (256, 48, 64)


class _Labels:
    """Random features of a few dimensions: training reads only the labels they give."""

    identity = text_identity = weights = "benchmark labels"
    dim = 24

    def text_features(self, prompts: Sequence[Sequence[str]]) -> F32:
        return np.eye(self.dim, dtype=np.float32)[: len(prompts)]

    def image_features(self, frames: Sequence[Frame]) -> list[F16]:
        return [_random(frame, (self.dim, HEIGHT // 32 + 1, WIDTH // 32 + 1)) for frame in frames]


class _Masks:
    """The instances of the generated rooms; features of SAM's shape, random: the worst case for a codec."""

    identity = weights = "benchmark masks"
    summary = ""

    def __init__(self, rooms: SyntheticRooms) -> None:
        self._rooms = rooms

    def masks(self, frames: Sequence[Frame]) -> list[Masks]:
        found = []
        for frame in frames:
            scans = official_split("train")
            room = self._rooms.names("train")[scans.index(frame.scene)]
            truth = self._rooms.truth.frame(room, f"frame_{int(frame.name):03d}")
            assert truth is not None
            assert truth.instances is not None
            found.append(Masks(truth.instances, _random(frame, SAM)))
        return found


def _random(frame: Frame, shape: tuple[int, ...]) -> F16:
    return np.random.default_rng(int(frame.image.sum())).normal(size=shape).astype(np.float16)


def write_data(root: Path, scans: int, as_recorded: bool) -> Annotations:
    """Scans on disk and their annotations."""
    color_size, depth_size = ((1296, 972), (640, 480)) if as_recorded else ((WIDTH, HEIGHT),) * 2
    rooms = SyntheticRooms(
        SyntheticData(train_rooms=scans, val_rooms=0, frames_per_room=FRAMES, width=WIDTH, height=HEIGHT)
    )
    for scan, name in zip(official_split("train"), rooms.names("train"), strict=False):
        scene = rooms.scene(name)
        frames, mesh = root / "scannet_frames_25k" / scan, root / "scans" / scan
        for folder in (mesh, *(frames / part for part in ("color", "depth", "pose"))):
            folder.mkdir(parents=True, exist_ok=True)
        seen, colors = [], []
        for number, frame in enumerate(scene.frames):
            assert frame.depth_m is not None
            pose = np.linalg.inv(frame.cam_from_world)
            color = Image.fromarray(frame.image).resize(color_size, Image.Resampling.LANCZOS)
            depth = resize_nearest(millimetres(frame.depth_m), depth_size[::-1])
            (frames / "color" / f"{number:06d}.jpg").write_bytes(jpeg(np.asarray(color), 92))
            (frames / "depth" / f"{number:06d}.png").write_bytes(png(depth))
            np.savetxt(frames / "pose" / f"{number:06d}.txt", pose)
            v, u = np.nonzero(frame.depth_m > 0)
            z = frame.depth_m[v, u]
            rays = np.stack([u, v, np.ones_like(u)], 1) @ np.linalg.inv(frame.intrinsics).T
            seen.append((rays * z[:, None]) @ pose[:3, :3].T + pose[:3, 3])
            colors.append(frame.image[v, u])
        for camera, size in (("color", color_size), ("depth", depth_size)):
            intrinsics = scale_intrinsics(scene.frames[0].intrinsics, (HEIGHT, WIDTH), size[::-1])
            np.savetxt(frames / f"intrinsics_{camera}.txt", matrix4(intrinsics))
        kept = np.random.default_rng(0).permutation(sum(map(len, seen)))[:POINTS]
        cloud = np.concatenate(seen)[kept].astype(np.float32)
        (mesh / f"{scan}_vh_clean_2.ply").write_bytes(mesh_bytes(cloud, np.concatenate(colors)[kept]))
    source = ScanNet(data_of(root))
    pairing = load("cns", (), "scannet").pairing
    names = source.names("train")
    cache = Cache(root / "cache")
    return annotate(source, names, SCANNET20, _Labels(), _Masks(rooms), pairing, cache)


def data_of(root: Path) -> ScanNetData:
    return ScanNetData(path=str(root), image_size=(HEIGHT, WIDTH))


def bare(annotations: Annotations, root: Path, scan: str, inflate: bool = True) -> None:
    """Everything that a draw of this scan reads, read and decoded with nothing around it."""
    mesh = (root / "scans" / scan / f"{scan}_vh_clean_2.ply").read_bytes()
    start = mesh.index(b"end_header\n") + len(b"end_header\n")
    np.frombuffer(mesh, "u1", POINTS * 16, start).copy()
    keys = annotations.scenes[scan]
    entries = [keys.pairs]
    for name, of_frame in keys.frames.items():
        with Image.open(root / "scannet_frames_25k" / scan / "color" / f"{name}.jpg") as image:
            np.array(image)
        entries += [of_frame.labels, of_frame.masks, of_frame.mask_features]
    for key in entries:
        data = annotations.cache.path(key).read_bytes()
        arrays = safetensors.numpy.load(data)
        if inflate:
            for name in parse_manifest(data).get("packed", {}):
                zlib.decompress(arrays[name].data)


def kernel_maps(batch: Batch) -> None:
    """Every kernel map that MinkUNet34 asks for."""
    pyramid = VoxelPyramid(batch.coords)
    for level in range(5):
        pyramid.submanifold(level, 3)
        if level < 4:
            pyramid.down(level)


class Stages:
    """Seconds spent in functions by stage, without those of other stages they call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside: list[float] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.process_time()
        self._inside.append(0.0)
        try:
            yield
        finally:
            spent = time.process_time() - start
            inside = self._inside.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - inside
            if self._inside:
                self._inside[-1] += spent

    @contextmanager
    def watching(self, functions: Sequence[tuple[str, Any, str]]) -> Iterator[None]:
        """Count what these (stage, owner, name) spend."""
        patches = [mock.patch.object(owner, name, self._timed(stage, getattr(owner, name)))
                   for stage, owner, name in functions]  # fmt: skip
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **keys: Any) -> Any:
            with self(stage):
                return function(*args, **keys)

        return timed


WATCHED: list[tuple[str, Any, str]] = [
    ("decode", SceneStore, "scene"),
    ("decode", Frames, "image"),
    ("read cache entries", Annotations, "pairs"),
    ("read cache entries", Annotations, "labels"),
    ("read cache entries", Annotations, "mask_ids"),
    ("read cache entries", Annotations, "mask_features"),
    ("augment", augment.ImageTransform, "image"),
    ("augment", augment.ImageTransform, "nearest"),
    ("augment", augment.PointTransform, "points"),
    ("augment", augment.PointTransform, "colors"),
    ("augment", batches, "_pictures"),
    ("pair gather", batches, "_transform"),
    ("pair gather", SceneStore, "_read_view"),
    ("voxelise", batches, "_voxels"),
    ("assemble", batches, "_assemble"),
]
"""Methods are looked up when they are called, so watching a class watches all of its objects."""


def draw(annotations: Annotations, source: ScanNet, config: Config, step: int, scan: str) -> Batch:
    """A batch of one scene, from files."""
    return draw_batch(SceneStore(source, [scan], annotations, "masks"), config, step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scans", type=int, default=2)
    parser.add_argument(
        "--as-recorded", action="store_true", help="files of 1296 x 972 and 640 x 480, scaled when read"
    )
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--data", type=Path, help="folder to write to and to find again; else a temporary one"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = args.data or Path(temporary)
        index = root / "annotations.json"
        if index.is_file():
            annotations = Annotations.load(index, Cache(root / "cache"))
        else:
            annotations = write_data(root, args.scans, args.as_recorded)
            annotations.save(index)
        (scaling if args.scaling else measure)(root, annotations, args.repeats)


def measure(root: Path, annotations: Annotations, repeats: int) -> None:
    source = ScanNet(data_of(root))
    config = load("cns", ("train.scenes_per_step=1",), "scannet")
    taken: dict[str, list[float]] = {"bare": [], "packed": [], "batch": [], "kernel maps": []}
    parts: list[dict[str, float]] = []
    scans = source.names("train")
    voxels, pairs = [], []
    for repeat in range(-1, repeats):
        for scan in scans:
            stages = Stages()
            start = time.process_time()
            bare(annotations, root, scan)
            decoded = time.process_time()
            bare(annotations, root, scan, inflate=False)
            packed = time.process_time()
            with stages.watching(WATCHED), stages("rest"):
                batch = draw(annotations, source, config, repeat + 1, scan)
            drawn = time.process_time()
            with stages("kernel maps"):
                kernel_maps(batch)
            end = time.process_time()
            if repeat < 0:  # the first round fills the page cache
                continue
            spent = (decoded - start, packed - decoded, drawn - packed, end - drawn)
            for name, seconds in zip(taken, spent, strict=True):
                taken[name].append(seconds)
            parts.append(stages.seconds)
            voxels.append(len(batch.coords))
            pairs.append(len(batch.pair_image))
    ours = [a + b for a, b in zip(taken["batch"], taken["kernel maps"], strict=True)]
    one = statistics.median(taken["bare"])
    print(
        f"{len(scans)} scans x {repeats} draws of {FRAMES} frames, {POINTS:,} points, "
        f"{statistics.mean(voxels):,.0f} voxels, {statistics.mean(pairs):,.0f} pairs; medians on one core"
    )
    print(f"bare decoding            {1e3 * one:7.1f} ms   1.00")
    print(f"  entries left packed    {1e3 * statistics.median(taken['packed']):7.1f} ms")
    for name, found in (("to the batch", taken["batch"]), ("with kernel maps", ours)):
        print(f"{name:<24} {1e3 * statistics.median(found):7.1f} ms   {statistics.median(found) / one:.2f}")
    for name in sorted({name for part in parts for name in part}):
        found = [part.get(name, 0.0) for part in parts]
        print(f"  {name:<22} {1e3 * statistics.median(found):7.1f} ms   {statistics.median(found) / one:.2f}")


def scaling(root: Path, annotations: Annotations, repeats: int) -> None:
    source = ScanNet(data_of(root))
    config = load("cns", ("train.scenes_per_step=1",), "scannet")
    scans = source.names("train")
    a_scene = partial(_draw_one, annotations, source, config, scans)
    rates: dict[str, list[float]] = {}
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(2, context) as processes,
        ThreadPoolExecutor(2) as two,
        ThreadPoolExecutor(3) as three,
    ):
        ways: dict[str, Callable[..., Iterable[int]]] = {
            "1 thread": map,
            "2 threads": two.map,
            "3 threads": three.map,
            "2 processes": processes.map,
        }
        for repeat in range(-1, repeats):
            for name, run in ways.items():
                start = time.perf_counter()
                drawn = len(list(run(a_scene, range(6))))
                if repeat >= 0:  # the first round starts processes
                    rates.setdefault(name, []).append(drawn / (time.perf_counter() - start))
    one = statistics.median(rates["1 thread"])
    for name, found in rates.items():
        print(f"{name:<12} {statistics.median(found):6.2f} scenes/s   {statistics.median(found) / one:.2f}")


def _draw_one(
    annotations: Annotations, source: ScanNet, config: Config, scans: Sequence[str], number: int
) -> int:
    draw(annotations, source, config, number, scans[number % len(scans)])
    return number


if __name__ == "__main__":
    main()
