"""How far the sparse convolution engine is from the machine's own matrix products.

    OMP_NUM_THREADS=2 python benchmarks/sparse_conv.py

Trains MinkUNet34 (5³ stem) for single passes on room-like surfaces, kernel maps rebuilt each pass, and
prints forward + backward time over the *floor*: three times the forward FLOPs of the pairs that exist,
at the rate of a 2048³ ``torch.mm`` measured in turn with the passes. Ratios are of minima over repeats, so
that a busy machine disturbs them little. Peak memory is that of a fresh process running one pass, above
what it held with network and inputs in place.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from scenelift.models.kernel_maps import VoxelPyramid
from scenelift.models.points import MinkUNet, build_point_network
from scenelift.models.sparse import SparseTensor, StridedConv, SubmanifoldConv, TransposedConv
from scenelift.models.voxels import voxelize

VOXEL_SIZE_M = 0.05
TARGETS = {50_000: (1.9, 600), 150_000: (1.8, 1536)}
"""Voxels: (most times the floor, most MiB above the inputs)."""
SparseConvs = (SubmanifoldConv, StridedConv, TransposedConv)


def room_voxels(count: int, seed: int = 0) -> Tensor:
    """(count, 4) int32: floor, walls and furniture of a room, turned against the grid, a little noisy."""
    generator = torch.Generator().manual_seed(seed)
    side = 5.5 * (count / 50_000) ** 0.5  # metres; more than enough surface for `count` voxels
    boxes = [(torch.zeros(3), torch.tensor([side, 0.8 * side, 2.8]))]
    for _ in range(int(0.5 * side * side)):
        size = torch.rand(3, generator=generator) * torch.tensor([1.2, 1.2, 1.0]) + 0.3
        corner = torch.rand(3, generator=generator) * torch.tensor([side - 1.5, 0.8 * side - 1.5, 0.0])
        boxes.append((corner, size))
    surfaces = [corner + _box_surface(size, generator) for corner, size in boxes]
    points = torch.cat(surfaces)
    points += 0.004 * torch.randn(points.shape, generator=generator)
    turn = torch.tensor(0.35)
    rotation = torch.tensor([[turn.cos(), -turn.sin(), 0], [turn.sin(), turn.cos(), 0], [0, 0, 1]])
    coords, _ = voxelize(points @ rotation.T, torch.zeros(len(points)), VOXEL_SIZE_M)
    if len(coords) < count:
        raise RuntimeError(f"the room has only {len(coords)} voxels, {count} wanted")
    return coords[:count]


def _box_surface(size: Tensor, generator: torch.Generator) -> Tensor:
    """Points on the six faces of a box, 2 cm apart."""
    faces = []
    for axis in range(3):
        u, v = (a for a in range(3) if a != axis)
        number = int(size[u] * size[v] / 0.02**2)
        for end in (0.0, 1.0):
            face = torch.rand(number, 3, generator=generator)
            face[:, axis] = end
            faces.append(face * size)
    return torch.cat(faces)


def training_pass(network: MinkUNet, coords: Tensor, features: Tensor) -> None:
    """One forward and backward pass from bare coordinates."""
    network.zero_grad(set_to_none=True)
    network(coords, features).sum().backward()


def forward_flops(network: MinkUNet, coords: Tensor, features: Tensor) -> int:
    """Multiplications and additions of one forward pass in products of pairs that exist."""
    flops = 0

    def count_sparse(conv: nn.Module, inputs: tuple[SparseTensor], output: SparseTensor) -> None:
        nonlocal flops
        (x,), weight = inputs, conv.get_parameter("weight")
        flops += 2 * _pairs(conv, x) * weight.shape[1] * weight.shape[2]

    def count_linear(linear: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal flops
        flops += 2 * len(output) * linear.get_parameter("weight").numel()

    handles = [m.register_forward_hook(count_sparse) for m in network.modules() if isinstance(m, SparseConvs)]
    handles += [m.register_forward_hook(count_linear) for m in network.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        network(coords, features)
    for handle in handles:
        handle.remove()
    return flops


def _pairs(conv: nn.Module, x: SparseTensor) -> int:
    if isinstance(conv, SubmanifoldConv):
        return len(x.pyramid.submanifold(x.level, conv.kernel_size).into_output.source)
    step = x.pyramid.down(x.level) if isinstance(conv, StridedConv) else x.pyramid.up(x.level)
    return len(step.into_output.source)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def build_all_maps(coords: Tensor) -> None:
    """Every kernel map that MinkUNet34 with a 5³ stem asks for."""
    pyramid = VoxelPyramid(coords)
    pyramid.submanifold(0, 5)
    for level in range(5):
        pyramid.submanifold(level, 3)
        if level < 4:
            pyramid.down(level)


def measure_time(count: int, repeats: int) -> None:
    """Print pass time, floor and their ratio."""
    network, coords, features = setting(count)
    flops = forward_flops(network, coords, features)
    square = torch.randn(2048, 2048)
    matmul, passes, maps = [], [], []
    for _ in range(repeats):
        for _ in range(5):
            matmul.append(seconds(lambda: square @ square))
        passes.append(seconds(lambda: training_pass(network, coords, features)))
        maps.append(seconds(lambda: build_all_maps(coords)))
    rate = 2 * 2048**3 / min(matmul)
    floor = 3 * flops / rate
    print(
        f"{count:>7} voxels: {min(passes):6.3f} s forward + backward (maps {min(maps):.3f} s of it), "
        f"floor {floor:6.3f} s ({3 * flops / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s), "
        f"ratio {min(passes) / floor:.2f}x (target <= {TARGETS.get(count, ('-', '-'))[0]})",
        flush=True,
    )


def measure_memory(count: int) -> None:
    """Print the memory high-water mark of one pass; meaningful only in a fresh process."""
    network, coords, features = setting(count)
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark of the imports
    before = _status_mib("VmRSS")
    training_pass(network, coords, features)
    peak = _status_mib("VmHWM") - before
    print(
        f"{count:>7} voxels: peak {peak:.0f} MiB above the inputs "
        f"(target < {TARGETS.get(count, ('-', '-'))[1]})"
    )


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def setting(count: int) -> tuple[MinkUNet, Tensor, Tensor]:
    """Network and inputs, the same each time."""
    torch.manual_seed(0)
    network = build_point_network("minkunet34", in_channels=3, stem_kernel=5)
    coords = room_voxels(count)
    return network, coords, torch.randn(len(coords), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--voxels", type=int, nargs="+", default=list(TARGETS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-only", action="store_true", help="measure memory in this very process")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for count in arguments.voxels:
        if arguments.memory_only:
            measure_memory(count)
            continue
        measure_time(count, arguments.repeats)
        threads = str(arguments.threads)
        command = [sys.executable, __file__, "--memory-only", "--voxels", str(count), "--threads", threads]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
