"""The folder of one run: what lies where, and whose it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from scenelift.claims import lock
from scenelift.config import Config
from scenelift.errors import ConfigError, RunError
from scenelift.files import atomic_write, cannot_write, sweep_temp_files
from scenelift.recipes import load_resolved, save_resolved


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run.

    Attributes:
        path: the folder, as given with ``--out``.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def annotations(self) -> Path:
        """Index into the cache."""
        return self.path / "annotations.json"

    @property
    def checkpoint(self) -> Path:
        """The training state to go on from."""
        return self.path / "checkpoints" / "last.safetensors"

    @property
    def networks(self) -> Path:
        """The trained networks."""
        return self.path / "networks.safetensors"

    @property
    def log(self) -> Path:
        """One JSON record per training step."""
        return self.path / "log.jsonl"

    @property
    def evaluation(self) -> Path:
        """Confusion matrices."""
        return self.path / "evaluation.json"

    @property
    def teacher(self) -> Path:
        """Confusion matrices of the teacher's own labels."""
        return self.path / "teacher.json"

    @property
    def cost(self) -> Path:
        """The memory it took."""
        return self.path / "cost.json"

    @property
    def results(self) -> Path:
        """The table of results."""
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def preview(self) -> Path:
        """A contact sheet of the annotations."""
        return self.path / "preview.jpg"

    @property
    def predictions(self) -> Path:
        """Labelled clouds and frames."""
        return self.path / "predictions"

    @property
    def calibration(self) -> Path:
        """How near the nearest class is in the training scenes, see `scenelift.refusal`."""
        return self.path / "calibration.json"

    @property
    def cache(self) -> Path:
        """Where annotations go unless a cache is named."""
        return self.path / "cache"

    def nearest_cache(self) -> Path | None:
        """The cache in this folder, or up to two above it, where a demo or a table keeps one for its runs."""
        place = self.path.resolve()
        found = (path / "cache" for path in (place, *place.parents[:2]))
        return next((path for path in found if path.is_dir()), None)

    def claim(self, config: Config) -> None:
        """Make the folder this run's, or find that it is already.

        Raises:
            RunError: it holds another run, or files that are not ours.
            OutputError: it cannot be made.
        """
        sweep_temp_files(self.path)  # what a kill left behind is not someone else's
        if self.config.is_file():
            self._expect_same(config)
        else:
            if self.path.is_dir() and any(item.name != "cache" for item in self.path.iterdir()):
                raise RunError(
                    f"--out {self.path}: expected a new folder or one of an earlier run, "
                    "found other files in it; choose another folder"
                )
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise cannot_write(self.path, error) from None
            save_resolved(self.config, config)

    def _expect_same(self, config: Config) -> None:
        try:
            have = load_resolved(self.config)
        except ConfigError as error:
            raise RunError(
                f"--out {self.path} holds a run of another version, or a damaged one ({error}); "
                "or choose another folder"
            ) from None
        if have.digest() != config.digest():
            changed = differences(have.model_dump(mode="json"), config.model_dump(mode="json"))
            raise RunError(
                f"--out {self.path} holds another run (it differs in {', '.join(changed[:4])}"
                f"{' and more' if len(changed) > 4 else ''}); choose another folder or remove that one"
            )

    @contextmanager
    def training(self, first: bool = True) -> Iterator[None]:
        """Be the only one that trains this run; what a process that was killed half wrote is removed.

        Args:
            first: whether this process writes its files, of several that train it together.

        Raises:
            RunError: another process is training it.
        """
        if not first:
            yield
            return
        held = lock(self.path / "train.lock")
        if held is None:
            raise RunError(
                f"{self.path}: expected to be the only process that trains this run, found another one at "
                "work; wait for its end, stop it, or choose another folder"
            )
        try:
            for folder in (self.path, self.checkpoint.parent):
                sweep_temp_files(folder)
                for half in folder.glob(".tmp??????"):  # of the safetensors library
                    with suppress(OSError):
                        half.unlink()
            with suppress(OSError):  # of what was trained before, with that one's log
                self.evaluation.unlink()
            yield
        finally:
            held.release()

    def read_log(self, digest: str | None = None, times: bool = False) -> list[dict[str, Any]]:
        """The log's records in order; a last line that a kill cut short is left out.

        Args:
            digest: of `digest_of`, as kept beside the networks; ``None`` = whatever is there.
            times: whether it covers times too.

        Raises:
            RunError: a line is no record, or the records are not those of ``digest``.
        """
        records = list(self._records())
        if digest is not None and digest_of(records, times) != digest:
            raise self._damaged("its records are not those that were written")
        return records

    def read_log_until(self, steps: int, digest: str | None) -> list[dict[str, Any]]:
        """As `read_log`, but the first ``steps`` records alone; what follows may be damaged."""
        records = list(islice(self._records(), steps))
        if digest is not None and digest_of(records) != digest:
            raise self._damaged(f"the records of its first {steps} steps are not those that were written")
        return records

    def _records(self) -> Iterator[dict[str, Any]]:
        if not self.log.is_file():
            return
        # every whole line ends in a line break, so what follows the last one was cut short
        whole = self.log.read_bytes().rpartition(b"\n")[0]
        for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise self._damaged(f"line {number} is no record of a step")
            yield record

    def _damaged(self, what: str) -> RunError:
        return RunError(
            f"log {self.log} is damaged ({what}); restore it, or delete it and `networks.safetensors` and "
            "`checkpoints` beside it to train again"
        )

    def write_log(self, records: Sequence[dict[str, Any]]) -> None:
        """Replace the log."""
        atomic_write(self.log, "".join(map(_line, records)).encode())


class LogFile:
    """The log of a training as it grows; use as a context.

    Args:
        path: the file; ``None`` writes nothing, and only counts.
        records: those that stand in it already.

    Raises:
        OutputError: it cannot be written, in every method.
    """

    def __init__(self, path: Path | None, records: Iterable[dict[str, Any]]) -> None:
        self._path = Path(os.devnull) if path is None else path
        self._state = hashlib.blake2b(digest_size=16)
        for record in records:
            self._state.update(_line(_timeless(record)).encode())

    def __enter__(self) -> LogFile:
        try:
            self._file = self._path.open("ab", buffering=0)  # nothing waits in a buffer that cannot be kept
        except OSError as error:
            raise cannot_write(self._path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, record: dict[str, Any]) -> None:
        """Append a record."""
        data = _line(record).encode()
        self._state.update(_line(_timeless(record)).encode())
        try:
            while data:  # a disk that fills up may take a part
                data = data[self._file.write(data) :]
        except OSError as error:
            raise cannot_write(self._path, error, len(data)) from error

    def keep(self) -> str:
        """Flush to disk, so that no checkpoint is ahead of its log; return `digest_of` all records.

        Raises:
            RunError: the file was removed meanwhile.
        """
        if not self._path.exists():
            raise RunError(
                f"{self._path}: expected the log of this training, found that it was removed meanwhile; "
                "leave the folder of a run alone, and start again"
            )
        try:
            if self._path != Path(os.devnull):
                os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error
        return self._state.hexdigest()


def digest_of(records: Iterable[dict[str, Any]], times: bool = False) -> str:
    """Hex digest of the records of a log; without ``times`` the same however long the steps took."""
    state = hashlib.blake2b(digest_size=16)
    for record in records:
        state.update(_line(record if times else _timeless(record)).encode())
    return state.hexdigest()


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.endswith("seconds")}


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"


def differences(have: Any, want: Any, path: str = "") -> list[str]:
    """Dotted paths at which two plain trees differ, the recipe's name aside."""
    if isinstance(have, dict) and isinstance(want, dict):
        keys = [key for key in {**have, **want} if path or key != "recipe"]
        return [
            found
            for key in keys
            for found in differences(have.get(key), want.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if have == want else [path]
