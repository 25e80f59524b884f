"""Where networks compute, and how much memory that takes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from scenelift.errors import ConfigError


def resolve_device(name: str) -> str:
    """``"auto"`` to the best device there is; others checked.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise ConfigError(f"device: expected auto, cpu or cuda, found {name!r}") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name}: PyTorch sees no CUDA device here; use --device cpu")
    return name


def repeat_exactly() -> None:
    """Let all that PyTorch computes in this process from now on be the same each time, on any device.

    Every random draw has a seed anyway; this is about sums whose order a device or a number of threads would
    choose. What cannot be done so raises `RuntimeError`.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA first multiplies matrices
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def reset_peak(device: str) -> None:
    """Begin to measure the most memory that is held."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # not Linux, or not allowed: the peak is then that of the whole process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes_of(device: str) -> int | None:
    """The most memory this process, or the CUDA device, held since `reset_peak`; ``None`` where unknown."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def network_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What a teacher's network computes in.

    Args:
        precision: a number format, or ``"auto"``: float16 on CUDA, float32 elsewhere.
        device: where it computes.
    """
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def wide(values: Tensor) -> Tensor:
    """At least float32: what follows the networks is never computed in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
