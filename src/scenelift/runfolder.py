"""The folder of one run: what lies where, and whose it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenelift.config import Config
from scenelift.errors import ConfigError, OutputError, RunError
from scenelift.files import atomic_write, sweep_temp_files
from scenelift.recipes import load_resolved


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
    def cache(self) -> Path:
        """Where annotations go unless a cache is named."""
        return self.path / "cache"

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
                raise OutputError(f"--out {self.path} cannot be made: {error.strerror}") from None
            atomic_write(self.config, config.to_yaml().encode())

    def _expect_same(self, config: Config) -> None:
        try:
            have = load_resolved(self.config)
        except ConfigError as error:
            raise RunError(
                f"--out {self.path} holds a run of another version ({error}); choose another folder"
            ) from None
        if have.digest() != config.digest():
            changed = differences(have.model_dump(mode="json"), config.model_dump(mode="json"))
            raise RunError(
                f"--out {self.path} holds another run (it differs in {', '.join(changed[:4])}"
                f"{' and more' if len(changed) > 4 else ''}); choose another folder or remove that one"
            )

    def read_log(self) -> list[dict[str, Any]]:
        """The log's records in order; a last line that a kill cut short is left out."""
        if not self.log.is_file():
            return []
        # every whole line ends in a line break, so what follows the last one was cut short
        whole = self.log.read_text(encoding="utf-8").rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def write_log(self, records: Sequence[dict[str, Any]]) -> None:
        """Replace the log."""
        atomic_write(self.log, "".join(json.dumps(record) + "\n" for record in records).encode())


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
