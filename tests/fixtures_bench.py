"""Sessions on tiny scenes with fake teachers, which count what is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures_scenes import FakeLabelTeacher, FakeMaskTeacher, tiny_config, tiny_source
from scenelift import pipeline
from scenelift.cotrain import StepResult
from scenelift.cotrain import cotrain as real_cotrain
from scenelift.pipeline import Session
from scenelift.runfolder import RunFolder


class Bench:
    """Opens tiny sources and fake teachers for sessions, and counts what they do."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.source = tiny_source(points=200)
        self.steps = 0
        self.begun: list[int] = []
        """The first step of every start."""
        self.stop_after: int | None = None
        """Steps of this start after which a kill comes."""
        self.teachers: list[FakeLabelTeacher | FakeMaskTeacher] = []
        self.label_teacher: Callable[..., FakeLabelTeacher] = FakeLabelTeacher
        monkeypatch.setattr(pipeline, "open_source", lambda config: self.source)
        monkeypatch.setattr(pipeline, "open_teachers", self._open_teachers)
        monkeypatch.setattr(pipeline, "cotrain", self._cotrain)
        monkeypatch.setattr(pipeline, "check_source", lambda source, config: None)
        monkeypatch.setattr(pipeline, "raise_if_bad", lambda report: None)
        self._truth = self.source.truth

    def _open_teachers(self, config: Any, truth: Any, device: str, download: bool) -> Any:
        assert self._truth is not None
        pair = (self.label_teacher(self._truth), FakeMaskTeacher(self._truth))
        self.teachers += pair
        return pair

    def _cotrain(self, *args: Any) -> Iterator[StepResult]:
        for here, result in enumerate(real_cotrain(*args), 1):
            if here == 1:
                self.begun.append(result.step)
            self.steps += 1
            yield result
            if here == self.stop_after:
                raise KeyboardInterrupt

    @property
    def asked(self) -> int:
        """Frames the teachers were asked for."""
        return sum(len(teacher.asked) for teacher in self.teachers)

    def session(self, name: str = "run", cache: str = "cache", **overrides: Any) -> Session:
        return Session(tiny_config(**overrides), RunFolder(self.root / name), self.root / cache)

    def train(self, *args: str, **overrides: Any) -> RunFolder:
        session = self.session(*args, **overrides)
        pipeline.train(session, pipeline.annotate(session))
        return session.folder
