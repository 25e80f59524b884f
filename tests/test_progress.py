"""Progress shows what it is told, on standard error."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from scenelift import progress
from scenelift.progress import bars, silent


def test_silent_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with silent("annotate", 2) as advance:
        advance("one")
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_a_line_at_either_end(capsys: pytest.CaptureFixture[str]) -> None:
    with bars("train [stage 1]", 5, 2) as advance:
        assert capsys.readouterr().err == "train [stage 1]: 2 of 5 done\n"
        advance("loss 0.5")
    shown = capsys.readouterr()
    assert shown.err.startswith("train [stage 1]: 3 of 5 in ")
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_without_a_terminal_long_work_tells_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(float(second) for second in range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with bars("train", 5, 2) as advance:
        advance("loss 0.5")
        advance("")
        advance("")  # the last one is told by the closing line
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "train: 3 of 5, about 40 s left, loss 0.5"
    assert lines[2] == "train: 4 of 5, about 20 s left"
    assert lines[3:] == ["train: 5 of 5 in 80.0 s"]


def test_what_is_left_follows_the_recent_pace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten frames that a cache knew take no time, and say nothing of the others."""
    clock = iter([0.0, *[0.1] * 10, 20.0, 50.0, 51.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with bars("annotate", 20, 0) as advance:
        for _ in range(12):
            advance("")
    lines = capsys.readouterr().err.splitlines()
    assert lines[2] == "annotate: 12 of 20, about 240 s left"


def test_on_a_terminal_a_bar_with_the_note(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(force_terminal=True, width=120, record=True, quiet=False, file=Discard())
    monkeypatch.setattr("rich.console.Console", lambda stderr: console)
    with bars("train [stage 1]", 5, 2) as advance:
        advance("loss 0.5")
        advance("loss [0.4]")
    text = console.export_text()
    assert "train [stage 1]" in text
    assert "4/5" in text
    assert "loss [0.4]" in text


class Discard:
    """A stream that keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
def test_a_narrow_terminal_still_tells_how_long(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    console = Console(force_terminal=True, width=width, record=True, file=Discard())
    monkeypatch.setattr("rich.console.Console", lambda stderr: console)
    with bars("base_clip: annotate", 480, 2) as advance:
        advance("1.4 images/s, and more that nobody needs to know of a frame")
    last = "base_" + console.export_text().rstrip().rpartition("base_")[2]
    assert "3/480" in last
    assert re.search(r"ETA [-\d]:[-\d]{2}:[-\d]{2}", last)
    assert len(last) <= width
    assert ("1.4 im" in last) == (width >= 60)
