"""Dense CLIP from JPEG to cache against the bare network: ``python benchmarks/dense_clip.py [FOLDER]``.

A random ViT-B/16 of full size is made in a temporary folder (speed does not depend on the weights). Frames
are the JPEG and PNG files below FOLDER, in order and repeated as needed, or generated 640×480 JPEGs. Every
batch goes three ways, in turns, so that a busy neighbour disturbs them alike: through transformers' unchanged
vision network, on pixels prepared beforehand; through our teacher one step after the other (decode, resize,
network with the changed last block, float16, write to the cache: all counted); and through `annotate`, which
reads ahead of the network and writes behind it, and makes labels and pairs as well. Prints milliseconds a
frame of each, and both ratios to the bare network.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionModelWithProjection

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from random_teachers import save_clip
from scenelift.annotate import annotate
from scenelift.answers import text_embeddings
from scenelift.cache import Cache, array_digest, cache_key
from scenelift.classes import ClassTable
from scenelift.config import ClipLabels, PairingConfig
from scenelift.device import resolve_device
from scenelift.teachers.clip import ClipLabelTeacher
from scenelift.teachers.weights import Weights, find_weights, quiet_transformers
from scenelift.types import U8, Frame, Frames, Masks, Scene

CLASSES = ClassTable.parse("wall, floor")


def random_vit_b16(folder: Path) -> Weights:
    folder.mkdir()
    save_clip(folder, seed=0)
    return find_weights(str(folder), "teachers.labels.weights", ("clip",))


def frame_files(folder: Path | None, count: int, scratch: Path) -> list[Path]:
    if folder is not None:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
        if not found:
            raise SystemExit(f"no JPEG or PNG below {folder}")
        return list(itertools.islice(itertools.cycle(found), count))
    random = np.random.default_rng(0)
    files = []
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        files.append(scratch / f"{i:03d}.jpg")
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(files[-1], quality=92)
    return files


def decode(path: Path) -> U8:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


class Images:
    """Image files as the frames of a scene with one point, behind the `SceneSource` Protocol."""

    classes = truth = None

    def __init__(self, files: dict[str, Path]) -> None:
        self.files = files

    def names(self, split: str) -> tuple[str, ...]:
        return ("bench",)

    def frame_count(self, name: str) -> int:
        return len(self.files)

    def scene(self, name: str) -> Scene:
        def read(frame: str) -> Frame:
            return Frame("bench", frame, decode(self.files[frame]), np.eye(3), np.eye(4))

        return Scene(name, np.ones((1, 3), np.float32), None, Frames(tuple(self.files), read))


class NoMasks:
    """A mask teacher that sees nothing, at once."""

    identity, weights, summary = "nothing", "none", ""

    def masks(self, frames: Sequence[Frame]) -> list[Masks]:
        nothing = np.zeros((1, 1, 1), np.float16)
        return [Masks(np.zeros((frame.height, frame.width), np.uint16), nothing) for frame in frames]


class Clock(Counter[str]):
    """Seconds by part."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._device = device

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self._device.startswith("cuda"):
            torch.cuda.synchronize()
        self[part] += time.perf_counter() - start


def run(
    teacher: ClipLabelTeacher, bare: torch.nn.Module, files: Sequence[Path], batch: int, root: Path
) -> Clock:
    """Both ways over all files, batch by batch."""
    device, dtype = teacher._device, teacher._dtype
    clock, cache = Clock(device.type), Cache(root)
    for start in range(0, len(files), batch):
        names = [f"{i:03d}" for i in range(start, min(start + batch, len(files)))]
        images = [decode(path) for path in files[start : start + batch]]
        if len({image.shape for image in images}) > 1:
            raise SystemExit("the images differ in size; give a folder of one size")
        first = Frame("bench", names[0], images[0], np.eye(3), np.eye(4))
        rows, columns = teacher._grid(first)
        patch = teacher._image.patch_px
        with clock("resize"):
            pixels = teacher._pixels(np.stack(images), (rows * patch, columns * patch))
        together = max(1, teacher._batch_tokens // (rows * columns))
        with (
            clock("bare"),
            torch.inference_mode(),
            torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
        ):
            for part in pixels.split(together):
                bare(part, interpolate_pos_encoding=True)
        own = Cache(root / "annotate" / names[0])  # repeated files are work all the same
        text_embeddings(own, teacher, CLASSES)  # once a class list, and not a frame's
        with clock("annotate"):
            annotate(
                Images(dict(zip(names, files[start : start + batch], strict=True))),
                ["bench"],
                CLASSES,
                teacher,
                NoMasks(),
                PairingConfig(depth_test="none"),
                own,
                device=device.type,
                batch_size=batch,
            )
        with clock("all"):
            with clock("decode"):
                images = [decode(path) for path in files[start : start + batch]]
            frames = [
                Frame("bench", name, image, np.eye(3), np.eye(4))
                for name, image in zip(names, images, strict=True)
            ]
            answers = teacher.image_features(frames)
            with clock("write"):
                for frame, features in zip(frames, answers, strict=True):
                    key = cache_key(
                        "label_features",
                        image=array_digest(frame.image),
                        teacher=teacher.identity,
                        name=frame.name,  # repeated files are work all the same
                    )
                    cache.put(key, {"features": features}, {"frame": frame.key})
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--attention", default="maskclip", choices=("maskclip", "sclip", "naclip"))
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        weights = random_vit_b16(Path(scratch) / "vit-b-16")
        device = resolve_device(args.device)
        teacher = ClipLabelTeacher(ClipLabels(attention=args.attention), weights, device)
        with quiet_transformers():
            bare = CLIPVisionModelWithProjection.from_pretrained(weights.path).eval().to(device)
        files = frame_files(args.folder, args.frames, Path(scratch))
        run(teacher, bare, files[:1], args.batch, Path(scratch) / "warm")
        clock = run(teacher, bare, files, args.batch, Path(scratch) / "cache")
        written = (Path(scratch) / "cache" / "label_features").rglob("*.safetensors")
        size = sum(path.stat().st_size for path in written)

    count = len(files)
    print(
        f"{count} frames, batches of {args.batch}, {args.attention}, {device}, {teacher._dtype}, "
        f"{torch.get_num_threads()} threads, {size / count / 2**20:.2f} MiB a frame"
    )
    for part in ("bare", "decode", "resize", "write", "all", "annotate"):
        print(f"{part:10}{1e3 * clock[part] / count:10.1f} ms a frame")
    print(f"all counted / bare         {clock['all'] / clock['bare']:.3f}")
    print(f"annotate / bare            {clock['annotate'] / clock['bare']:.3f}")


if __name__ == "__main__":
    main()
