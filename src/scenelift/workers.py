"""A command in several processes: started here on one host, or met under torchrun or SLURM.

Here this process only watches: it starts the same command once for each device, and when one of them dies it
ends the others and says which one it was. Nothing heavy is imported in it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

from scenelift.errors import ConfigError, RunError

if TYPE_CHECKING:
    from scenelift.world import World

PARENT = "SCENELIFT_PARENT"
"""Environment variable of a process that was started here: who watches it."""

PEER_LOST = 75
"""Exit code of a process that ends because another one of its run has (EX_TEMPFAIL)."""

_GRACE_SECONDS = 15.0
"""What the others have to notice a loss by themselves, and then again after they were asked to end."""


def is_watched() -> bool:
    """Whether this process was started by `enter` in another one."""
    return PARENT in os.environ


def enter(devices: int | None, nodes: int | None, device: str) -> World | None:
    """Meet the other processes of this command, or start them.

    Args:
        devices: processes on this host; ``None`` = as many as the launcher started, or 1.
        nodes: hosts; ``None`` = as many as the launcher spans, or 1.
        device: as `resolve_device` takes it.

    Returns:
        The processes; ``None`` where the whole command was carried out in others and came to its end.

    Raises:
        ConfigError: numbers that do not fit together, or hosts without a launcher.
        RunError: a process died.
        SystemExit: a process ended with an error that it has told.
    """
    launched = _launched()
    here, hosts = launched or (1, 1)
    here, hosts = here if devices is None else devices, hosts if nodes is None else nodes
    if launched is None and not is_watched():
        if hosts > 1:
            raise ConfigError(
                f"--nodes {hosts}: expected to be started by torchrun or srun on each host, found neither; "
                f"use torchrun --nnodes {hosts} --nproc-per-node {here} --rdzv-endpoint HOST:PORT "
                "--rdzv-backend c10d -m scenelift ..."
            )
        if here > 1:
            with ExitStack() as stack:
                errors = [stack.enter_context(TemporaryFile()) for _ in range(here)]
                _watch(_start(errors), errors)
            return None
    from scenelift.device import resolve_device
    from scenelift.world import ALONE, join

    if here * hosts == 1:
        return ALONE
    if is_watched():
        _end_with(int(os.environ[PARENT]))
    return join(here, hosts, resolve_device(device), is_watched())


def _launched() -> tuple[int, int] | None:
    """Processes a host and hosts, where torchrun or srun has started this process."""
    read = os.environ.get
    if "TORCHELASTIC_RUN_ID" in os.environ:
        here = int(read("LOCAL_WORLD_SIZE", "1"))
        return here, int(read("WORLD_SIZE", "1")) // here
    # srun alone sets these: a batch script without it is one process, whatever its job was given
    if "SLURM_STEP_NUM_TASKS" in os.environ and read("SLURM_JOB_NAME") not in ("bash", "interactive"):
        tasks, hosts = int(read("SLURM_STEP_NUM_TASKS", "1")), int(read("SLURM_STEP_NUM_NODES", "1"))
        return (tasks // hosts, hosts) if tasks > 1 else None
    return None


def _start(errors: Sequence[IO[bytes]]) -> list[subprocess.Popen[bytes]]:
    """The same command once more for each device; the first one's words are shown, the others' kept."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        PARENT: str(os.getpid()),
    }
    command = [sys.executable, "-m", "scenelift", *sys.argv[1:]]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **common, "LOCAL_RANK": str(rank)},
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=None if rank == 0 else kept,
        )
        for rank, kept in enumerate(errors)
    ]


def _watch(processes: list[subprocess.Popen[bytes]], errors: Sequence[IO[bytes]] = ()) -> None:
    """Wait for all; when one fails, end the others and say which it was."""
    try:
        while any(process.poll() is None for process in processes):
            if any(process.returncode for process in processes):
                _wait(processes, _GRACE_SECONDS)
                break
            time.sleep(0.1)
        _raise_if_failed([process.returncode for process in processes], errors)
    finally:
        _end(processes)


def _raise_if_failed(codes: list[int | None], errors: Sequence[IO[bytes]]) -> None:
    failed = [(rank, code) for rank, code in enumerate(codes) if code not in (0, None)]
    if not failed:
        return
    if codes[0] == 2:  # it has said why
        sys.exit(2)
    for rank, code in failed:
        if code == 2 and rank < len(errors):
            errors[rank].seek(0)
            lines = errors[rank].read().decode(errors="replace").splitlines()
            told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
            if told:
                raise RunError(told[-1])
    causes = [(rank, code) for rank, code in failed if code != PEER_LOST] or failed
    rank, code = causes[0]
    assert code is not None
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
    raise RunError(
        f"process {rank} of {len(codes)} {how}, so the others were ended; the last checkpoint is whole, and "
        "the same command goes on from it (if memory ran out, set train.accumulate=2 or "
        "train.activation_checkpointing=true)"
    )


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for send in (subprocess.Popen.terminate, subprocess.Popen.kill):
        for process in processes:
            if process.poll() is None:
                send(process)
        _wait(processes, _GRACE_SECONDS)


def _wait(processes: list[subprocess.Popen[bytes]], seconds: float) -> None:
    until = time.monotonic() + seconds
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))


def _end_with(parent: int) -> None:
    """End this process as soon as its parent is gone, however that ended."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(PEER_LOST)

    threading.Thread(target=look, daemon=True, name="end with parent").start()
