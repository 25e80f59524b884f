"""Bad places to write to, and limits of the system, for a while."""

from __future__ import annotations

import gc
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from scenelift.errors import SceneLiftError


class Disk:
    """A file system of its own, in memory, of a size that may change."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, kib: int) -> None:
        self._mount("remount", f"size={kib}k")

    def read_only(self) -> None:
        gc.collect()  # what is open for writing would be in the way
        self._mount("remount", "ro")

    def writable(self) -> None:
        self._mount("remount", "rw")

    def _mount(self, *options: str) -> None:
        subprocess.run(["mount", "-o", ",".join(options), str(self.path)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 256 MiB; tests that need one are skipped where mounting is not allowed."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True)


T = TypeVar("T")


def attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """What comes of it, or the one line of the user error that it ends with."""
    try:
        return work(), ""
    except SceneLiftError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return None, message


@contextmanager
def limit(what: int, value: int) -> Iterator[None]:
    """A soft limit of `resource` for this process; only while the block runs."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)
