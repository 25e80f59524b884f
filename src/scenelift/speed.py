"""How fast this machine is, measured within a few seconds, and what that means for the slow parts."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from scenelift.config import ImageNetworkConfig
from scenelift.models.image import build_image_network
from scenelift.models.points import build_point_network
from scenelift.models.voxels import voxelize

_MATRIX = 768
_IMAGE = (240, 320)
_POINTS = 10_000
SAM_B_FLOP = 0.98e12
"""Of the image encoder of SAM ViT-B for one frame (1024², 4096 tokens): 12 blocks of 24 d² a token, d = 768
(0.70e12); scores and sums of attention, 4 n² d in the four global blocks (0.21e12) and 4 · 196 n d in eight
windowed ones of 4900 tokens (0.02e12); the rest is patches, neck and padding. Counted, not measured."""
CLIP_B_FLOP = 0.22e12
"""Of CLIP ViT-B/16 for one frame of 640 × 480 at the default size (1036 patches), counted alike."""


@torch.no_grad()
def measure(device: str, seconds: float = 1.0) -> dict[str, float]:
    """Rates of this machine as it is now, other work included.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        seconds: for each of the three measurements, but for a first call each that is not counted.

    Returns:
        ``gflop_per_s`` of float32 matrix products; ``frames_per_s`` of the small 2D network (320 × 240);
        ``points_per_s`` of the narrow 3D network: both forward alone.
    """
    matrix = torch.rand(_MATRIX, _MATRIX, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = build_image_network(ImageNetworkConfig(name="small")).to(device).eval()
        points = build_point_network("narrow", 3).to(device).eval()
        frames = torch.rand(1, 3, *_IMAGE, device=device)
        cloud = torch.rand(_POINTS, 3, device=device) * torch.tensor([5.0, 4.0, 2.5], device=device)
    coords, _ = voxelize(cloud, torch.zeros(_POINTS, dtype=torch.int64, device=device), 0.05)
    inputs = torch.zeros(len(coords), 3, device=device)
    return {
        "gflop_per_s": 2e-9 * _MATRIX**3 * _rate(lambda: matrix @ matrix, seconds, device),
        "frames_per_s": _rate(lambda: image(frames), seconds, device),
        "points_per_s": _POINTS * _rate(lambda: points(coords, inputs), seconds, device),
    }


def _rate(call: Callable[[], object], seconds: float, device: str) -> float:
    """Calls a second."""
    call()
    _wait(device)
    start, calls = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds or not calls:
        call()
        _wait(device)
        calls += 1
    return calls / spent


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def slow_parts(rates: dict[str, float]) -> list[str]:
    """What the rates mean, a line each: bounds from counted operations, where nothing else was measured."""
    rate = rates["gflop_per_s"] * 1e9
    sam, clip = SAM_B_FLOP / rate, CLIP_B_FLOP / rate
    return [
        f"SAM ViT-B: at least {sam:.2g} s a frame for its encoder, so {1000 * sam / 3600:.2g} h for 1,000",
        f"CLIP ViT-B/16: at least {clip:.2g} s a frame, so {1000 * clip / 3600:.2g} h for 1,000",
        f"small 2D network: {1 / rates['frames_per_s']:.2g} s a frame of 320 × 240",
        f"narrow 3D network: {1e5 / rates['points_per_s']:.2g} s for 100,000 points",
        "`scenelift plan DATA` measures the stages on your own frames",
    ]
