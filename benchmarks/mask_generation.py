"""Segment everything: ours against ``segment-anything`` and transformers' pipeline, in one run.

    python benchmarks/mask_generation.py [--image FILE] [--side 32]

One random SAM of full size but for a one-block image encoder (its time is left out), the same weights, image
and thresholds for all three. Prints seconds after the image embedding, how many masks are equal one to one
(IoU at least 0.99), where our time goes, and the floor: the decoder's multiplications over the rate of a
large matrix product. Two settings:

- ``open``: thresholds at 0: all 3 · side² masks are made and enlarged before the NMS, the worst case;
- ``half``: the predicted IoU that about half of the masks reach, and the default stability.

Before them all masks of a small grid are compared, none filtered; after them the adaptive grid with the full
one: decoder calls saved, and how the masks differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator
from torch.utils.flop_counter import FlopCounterMode
from transformers import SamImageProcessor, pipeline

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("tests", "examples")]

from fixtures_sam import meta_sam, picture, save_meta
from scenelift.config import SamMasks
from scenelift.teachers.mask_generation import GeneratedMasks, MaskGenerator
from scenelift.teachers.sam_checkpoint import load_meta
from scenelift.teachers.sam_models import Sam

PARTS = ((Sam, "attend"), (Sam, "masks"), (MaskGenerator, "_measure"), (MaskGenerator, "_at_full_size"))


@contextmanager
def clocked(owner: Any, name: str, spent: Counter[str]) -> Iterator[None]:
    """Add the seconds of a function or method to ``spent`` under its name."""
    real = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return real(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - start

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, real)


def after_embedding(
    run: Callable[[], Any], embedder: Any, embed: str, network: Any, decode: str
) -> tuple[float, float, Any]:
    """Seconds without the image embedding, those of them in the network, and the result."""
    spent: Counter[str] = Counter()
    with clocked(embedder, embed, spent), clocked(network, decode, spent):
        start = time.perf_counter()
        result = run()
        return time.perf_counter() - start - spent[embed], spent[decode], result


def matched(found: GeneratedMasks, masks: list[Any]) -> int:
    """How many of ``masks`` have one of their own among ours, at an IoU of at least 0.99."""
    free = torch.ones(len(found), dtype=torch.bool)
    areas = found.masks.sum((1, 2))
    count = 0
    for mask in masks:
        other = torch.as_tensor(np.asarray(mask))
        near = free & ((areas - other.sum()).abs() <= 0.01 * areas.clamp(min=100))
        for index in near.nonzero()[:, 0].tolist():
            joined = (found.masks[index] | other).sum()
            if joined == 0 or (found.masks[index] & other).sum() / joined >= 0.99:
                free[index] = False
                count += 1
                break
    return count


def gemm_rate() -> float:
    """FLOP/s of a large float32 product, the best of five."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    torch.mm(a, b)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * 2048**3 / (time.perf_counter() - start))
    return best


def flops_per_prompt(model: Sam, embedded: Any, image: Any) -> tuple[float, float]:
    """Multiplications and additions of one prompt: transformers' decoder, and ours."""
    points = torch.tensor([[100.0, 100.0], [300.0, 50.0]])
    with FlopCounterMode(display=False) as usual:
        model.model(image_embeddings=embedded.embedding[None], input_points=points[None, :, None])
    with FlopCounterMode(display=False) as ours:
        attended = model.attend(embedded, points)
        model.masks(embedded, attended, torch.ones_like(attended.iou, dtype=torch.bool))
    return usual.get_total_flops() / 2, ours.get_total_flops() / 2


def compare(meta: Any, model: Sam, image: Any, settings: dict[str, Any], name: str) -> None:
    spent: Counter[str] = Counter()
    generator = MaskGenerator(model, SamMasks(**settings))
    generator.generate(image[:64, :64])  # matrices of this size, warm caches
    embedded = model.embed([image])[0]
    contexts = [clocked(owner, part, spent) for owner, part in PARTS]
    for context in contexts:
        context.__enter__()
    start = time.perf_counter()
    found = generator.generate(image, embedded)
    ours = time.perf_counter() - start
    for context in contexts:
        context.__exit__(None, None, None)
    reference = SamAutomaticMaskGenerator(meta, **settings)
    theirs = after_embedding(
        lambda: [record["segmentation"] for record in reference.generate(image)],
        reference.predictor,
        "set_image",
        meta.mask_decoder,
        "forward",
    )
    processor = SamImageProcessor()
    asked: Any = pipeline("mask-generation", model=model.model, image_processor=processor, device="cpu")
    options = {
        "points_per_crop": settings["points_per_side"],
        "crops_nms_thresh": settings["box_nms_thresh"],
        **{name: settings[name] for name in ("pred_iou_thresh", "stability_score_thresh")},
    }
    hub = after_embedding(
        lambda: asked(Image.fromarray(image), points_per_batch=64, **options)["masks"],
        model.model,
        "get_image_embeddings",
        model.model.mask_decoder,
        "forward",
    )
    network = spent["attend"] + spent["masks"]
    print(f"\n{name}: {settings}")
    print(f"  ours {ours:.1f} s, of these the decoder {network:.1f}; {len(found)} masks")
    for who, (seconds, decoder, masks) in (("segment-anything", theirs), ("transformers", hub)):
        print(
            f"  {who} {seconds:.1f} s ({seconds / ours:.2f} x), decoder {decoder:.1f} "
            f"({decoder / network:.2f} x); {len(masks)} masks, {matched(found, masks)} equal to ours"
        )
    rest = ours - sum(spent.values())
    shares = ", ".join(f"{part} {seconds:.1f}" for part, seconds in spent.items())
    print(f"  our seconds: {shares}, all else {rest:.1f}")


def equal(meta: Any, model: Sam, image: Any) -> None:
    """A small grid of which every mask is returned."""
    settings: dict[str, Any] = {"points_per_side": 8, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    settings["box_nms_thresh"] = 1.0
    found = MaskGenerator(model, SamMasks(**settings)).generate(image)
    records = SamAutomaticMaskGenerator(meta, **settings).generate(image)
    same = matched(found, [record["segmentation"] for record in records])
    print(
        f"\nall masks of an 8 × 8 grid: {same} of segment-anything's {len(records)} equal to our {len(found)}"
    )


def adaptive(model: Sam, image: Any, settings: dict[str, Any]) -> None:
    grid = MaskGenerator(model, SamMasks(**settings)).generate(image)
    fewer = MaskGenerator(model, SamMasks(**settings, prompts="adaptive")).generate(image)
    saved = 1 - fewer.decoded / fewer.prompts
    common = matched(grid, list(fewer.masks))
    print(f"\nadaptive: {fewer.decoded} of {fewer.prompts} points decoded, {saved:.0%} saved")
    print(f"  {len(fewer)} masks for the grid's {len(grid)}, {common} of them equal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, help="480×640 or any other; coloured patches if absent")
    parser.add_argument("--side", type=int, default=32, help="points a side")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    image = picture(480, 640, patch=80)
    if args.image is not None:
        image = np.array(Image.open(args.image).convert("RGB"))
    meta = meta_sam(
        side=1024, rough=0.0
    )  # as smooth as real masks, or run-length codes cost more than they do
    with tempfile.TemporaryDirectory() as folder:
        model = Sam(load_meta(save_meta(Path(folder) / "sam.pth", meta)), "cpu")
    embedded = model.embed([image])[0]
    usual, ours = flops_per_prompt(model, embedded, image)
    rate, prompts = gemm_rate(), args.side**2
    print(f"image {image.shape[0]}×{image.shape[1]}, {prompts} prompts, {torch.get_num_threads()} threads")
    print(f"a prompt takes {usual / 1e9:.2f} GFLOP as usual, {ours / 1e9:.2f} here; {rate / 1e9:.0f} GFLOP/s")
    print(f"floor: {prompts * usual / rate:.1f} s as usual, {prompts * ours / rate:.1f} s here")
    equal(meta, model, image)
    points = torch.rand(64, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor(image.shape[1::-1])
    median = float(model.attend(embedded, points).iou.median())
    shared = {"points_per_side": args.side}
    opened = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.7}
    compare(meta, model, image, {**shared, **opened}, "open")
    half = {"pred_iou_thresh": round(min(median, 1.0), 3), "stability_score_thresh": 0.95}
    compare(meta, model, image, {**shared, **half, "box_nms_thresh": 0.7}, "half")
    adaptive(model, image, {**shared, **half, "box_nms_thresh": 0.7})


if __name__ == "__main__":
    main()
