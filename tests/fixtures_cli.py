"""The command line, run in this process on a machine without weights."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from scenelift import cli


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a user error."""
        assert self.code == 2, self
        lines = self.err.splitlines()
        told = [line for line in lines if line.startswith("error: ")]
        assert told == lines[-1:], self.err
        assert "Traceback" not in self.err
        return told[0]


Command = Callable[..., Ended]


@pytest.fixture
def scenelift(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Command]:
    """Run the entry point in this process, on a machine without weights."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")

    def run(*args: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["scenelift", *map(str, args)])
        capfd.readouterr()
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        captured = capfd.readouterr()
        assert isinstance(code, int)
        return Ended(code, captured.out, captured.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
