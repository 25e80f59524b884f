"""Who is told of a training, beside ``log.jsonl``: TensorBoard, and trackers of others.

A tracker only listens. It is no part of the configuration, no digest knows of it, and a run is the same with
and without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from scenelift.config import Config
from scenelift.errors import ConfigError, SceneLiftError, one_line
from scenelift.runfolder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_log = logging.getLogger(__name__)

_METHODS = ("start", "step", "result", "close")


class Tracker(Protocol):
    """What a tracker has to have; any class without arguments will do.

    It is started and closed around a training, and once more around the result of its evaluation: with the
    same folder both times, and again whenever a run that was stopped goes on. In a run on many devices
    only the first process has trackers.
    """

    def start(self, config: Config, folder: Path) -> None:
        """Begin, or go on. ``RunFolder(folder).read_log()`` gives the records of the steps behind."""
        ...

    def step(self, record: Mapping[str, Any]) -> None:
        """Take the record of a training step: a line of ``log.jsonl``, see `StepResult`."""
        ...

    def result(self, row: Mapping[str, Any]) -> None:
        """Take a row of ``results.json``: the recipe, mIoU and coverage of both networks, seconds."""
        ...

    def close(self) -> None:
        """Write what is left; told even if the training fails or is stopped."""
        ...


class TensorBoard:
    """Events below ``RUN/tensorboard``; needs ``pip install "scenelift[tensorboard]"``.

    Every number of a record becomes a scalar of its name, every entry of a table of shares one of
    ``name/entry``. Shares by class stay in ``log.jsonl``. Steps that a kill has undone are purged; steps
    that were taken without this tracker are told of first.
    """

    def start(self, config: Config, folder: Path) -> None:
        """Open an event file that goes on after the steps of the log."""
        from torch.utils.tensorboard import SummaryWriter

        place = folder / "tensorboard"
        behind = RunFolder(folder).read_log()
        fresh = not any(place.glob("events.*"))
        self._step = len(behind)
        self._writer: SummaryWriter = SummaryWriter(str(place), purge_step=None if fresh else self._step)
        if fresh:
            self._text("config", config.to_yaml())
            for record in behind:
                self.step(record)

    def step(self, record: Mapping[str, Any]) -> None:
        """Write the scalars of a step."""
        self._step = int(record["step"]) + 1
        for tag, value in _scalars(record):
            self._scalar(tag, value, int(record["step"]))

    def result(self, row: Mapping[str, Any]) -> None:
        """Write the scalars of the evaluation under ``result/``, at the number of steps taken."""
        for tag, value in _scalars(row):
            self._scalar(f"result/{tag}", value, self._step)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()

    def _scalar(self, tag: str, value: float, step: int) -> None:
        self._writer.add_scalar(tag, value, step)

    def _text(self, tag: str, text: str) -> None:
        indented = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown for "as it is"
        self._writer.add_text(tag, indented)


def _scalars(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Names and values of all numbers but the step itself; lists and words are left out."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key != "step":
            yield prefix + key, float(value)


TRACKERS: dict[str, Callable[[], Tracker]] = {"tensorboard": TensorBoard}
"""Those that have a name."""


def open_trackers(names: Sequence[str] | None) -> tuple[Tracker, ...]:
    """Trackers by name, or as ``package.module:Class``, which is imported as Python would import it.

    Raises:
        ConfigError: there is no such tracker, it cannot be made, or it lacks a method.
    """
    return tuple(_open(name) for name in dict.fromkeys(names or ()))


def _open(name: str) -> Tracker:
    if name == "tensorboard" and find_spec("tensorboard") is None:
        raise ConfigError(
            "--track tensorboard: expected tensorboard, found it not installed; "
            'pip install "scenelift[tensorboard]"'
        )
    if name in TRACKERS:
        return TRACKERS[name]()
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        known = ", ".join(TRACKERS)
        raise ConfigError(f"--track: expected {known} or package.module:Class, found {name!r}")
    try:
        made = getattr(import_module(module), attribute)()
    except Exception as error:  # someone else's code may raise anything
        raise ConfigError(
            f"--track {name}: expected a class that can be made without arguments, found that it cannot "
            f"({type(error).__name__}: {one_line(error)}); check the name, and PYTHONPATH for "
            "a file of your own"
        ) from error
    lost = [method for method in _METHODS if not callable(getattr(made, method, None))]
    if lost:
        raise ConfigError(
            f"--track {name}: expected the methods {', '.join(_METHODS)}, found no {lost[0]}; "
            "see scenelift.tracking.Tracker"
        )
    return cast(Tracker, made)


class Tracking:
    """Trackers that are started. One that fails is told of once and left out: training does not depend on it.

    Args:
        trackers: started by `tracking`.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)

    def step(self, record: Mapping[str, Any]) -> None:
        """Tell all of a training step."""
        self._tell(lambda tracker: tracker.step(record))

    def result(self, row: Mapping[str, Any]) -> None:
        """Tell all of a row of results."""
        self._tell(lambda tracker: tracker.result(row))

    def start(self, config: Config, folder: Path) -> None:
        """Start all."""
        self._tell(lambda tracker: tracker.start(config, folder))

    def close(self) -> None:
        """Close all that are left."""
        self._tell(lambda tracker: tracker.close())

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        self._trackers = [tracker for tracker in self._trackers if _heard(tracker, what)]


def _heard(tracker: Tracker, what: Callable[[Tracker], None]) -> bool:
    """Tell one tracker; whether it is still there."""
    try:
        what(tracker)
    except SceneLiftError:
        raise
    except Exception as error:  # someone else's code, or a net that is down
        name, reason = type(tracker).__name__, f"{type(error).__name__}: {one_line(error)}"
        _log.warning("tracker %s failed and is left out from here on (%s)", name, reason)
        return False
    return True


@contextmanager
def tracking(trackers: Sequence[Tracker], config: Config, folder: Path) -> Iterator[Tracking]:
    """Start trackers, and close them however the block ends."""
    told = Tracking(trackers)
    told.start(config, folder)
    try:
        yield told
    finally:
        told.close()
