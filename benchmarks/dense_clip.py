"""Dense CLIP from JPEG to cache against the bare network: ``python benchmarks/dense_clip.py [FOLDER]``.

A random ViT-B/16 of full size is made in a temporary folder (speed does not depend on the weights). Frames
are the JPEG and PNG files below FOLDER, in order and repeated as needed, or generated 640×480 JPEGs. Every
batch goes first through transformers' unchanged vision network, on pixels prepared beforehand, and then
through our path: decode, resize, network with the changed last block, float16, write to the cache. The two
take turns, so that a busy neighbour disturbs both alike. Prints milliseconds a frame of each part, and two
ratios to the bare network: with everything counted, and of our network alone (decode, resize and write
hidden).
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

from scenelift.cache import Cache, array_digest, cache_key
from scenelift.config import ClipLabels
from scenelift.device import resolve_device
from scenelift.teachers.clip import ClipLabelTeacher
from scenelift.teachers.weights import Weights
from scenelift.types import U8, Frame


def random_vit_b16(folder: Path) -> Weights:
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(vision_config={"patch_size": 16})).save_pretrained(folder)
    return Weights(folder, "random ViT-B/16", "random", "clip")


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
    device, precision = teacher._device, teacher._precision
    clock, cache = Clock(device.type), Cache(root)
    dtype = getattr(torch, precision)
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
        with clock("network"), torch.inference_mode():
            for part in pixels.split(together):
                teacher._network(part)
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
        bare = CLIPVisionModelWithProjection.from_pretrained(weights.path).eval().to(device)
        files = frame_files(args.folder, args.frames, Path(scratch))
        run(teacher, bare, files[:1], args.batch, Path(scratch) / "warm")
        clock = run(teacher, bare, files, args.batch, Path(scratch) / "cache")
        size = sum(path.stat().st_size for path in (Path(scratch) / "cache").rglob("*.safetensors"))

    count = len(files)
    print(
        f"{count} frames, batches of {args.batch}, {args.attention}, {device}, {teacher._precision}, "
        f"{torch.get_num_threads()} threads, {size / count / 2**20:.2f} MiB a frame"
    )
    for part in ("bare", "network", "decode", "resize", "write", "all"):
        print(f"{part:10}{1e3 * clock[part] / count:10.1f} ms a frame")
    print(f"all counted / bare         {clock['all'] / clock['bare']:.3f}")
    print(f"our network alone / bare   {clock['network'] / clock['bare']:.3f}")


if __name__ == "__main__":
    main()
