"""What a folder given by the user holds, opened for asking and looking: a run, or data alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from scenelift.annotations import Annotations
from scenelift.api import TrainedRun
from scenelift.cache import Cache
from scenelift.classes import ClassTable
from scenelift.config import Config
from scenelift.device import resolve_device
from scenelift.errors import ConfigError, RunError
from scenelift.options import Choices, resolve_config
from scenelift.query import Asker, NetworkAsker, Query, TeacherAsker
from scenelift.recipes import load_resolved
from scenelift.runfolder import RunFolder
from scenelift.scenes import SceneSource
from scenelift.scenes.registry import open_source
from scenelift.teachers import TextEncoder
from scenelift.teachers.registry import open_text_encoder


@dataclass(frozen=True)
class Opened:
    """A run, or data alone.

    Attributes:
        title: for people.
        config: of the run; for data alone the one that suits them.
        source: the scenes.
        classes: of the run, or the data set's own; ``None`` if data alone bring none.
        trained: the networks, if there are any.
        annotations: the teachers' answers, if the cache has them.
        folder: of the run; ``None`` for data alone.
        device: where networks compute.
        download: may the text network's weights be fetched?
    """

    title: str
    config: Config
    source: SceneSource
    classes: ClassTable | None
    trained: TrainedRun | None = None
    annotations: Annotations | None = None
    folder: RunFolder | None = None
    device: str = "cpu"
    download: bool = False

    def names(self) -> tuple[str, ...]:
        """All scenes, those to judge by first."""
        found = [name for split in ("val", "train") for name in self.source.names(split)]
        return tuple(dict.fromkeys(found))

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """The text side of the run's teacher, opened when it is first asked."""
        if self.trained is not None:
            self.trained.download = self.download
            return self.trained.text_encoder
        assert self.classes is not None  # a run has classes
        phrases = [phrase for row in self.classes.prompts for phrase in row]
        return open_text_encoder(self.config.teachers, phrases, self.device, self.download)

    def query(self, phrases: tuple[str, ...]) -> Query:
        """Phrases, embedded.

        Raises:
            ConfigError: an empty or repeated phrase, or one that the text side cannot embed.
            WeightsError: the text network's weights are not on this machine.
        """
        clean = tuple(" ".join(phrase.split()) for phrase in phrases)
        if not clean or not all(clean):
            raise ConfigError('--text: expected a phrase such as "something to sit on", found an empty one')
        if len({phrase.casefold() for phrase in clean}) < len(clean):
            raise ConfigError("--text: expected each phrase once, found one again; remove the copies")
        text = torch.from_numpy(self.text_encoder.text_features([[phrase] for phrase in clean]))
        if self.trained is not None:
            own = self.trained.pair.own_text.cpu()
        else:
            assert self.annotations is not None
            own = torch.from_numpy(self.annotations.text)
        return Query(clean, text, own)

    def asker(self, teacher: bool = False) -> Asker:
        """Who answers queries: the networks, or, if asked for or without any, the teacher's features.

        Raises:
            RunError: there are no annotations for the teacher to answer with, or nothing at all.
        """
        if self.trained is not None and not teacher:
            return NetworkAsker(self.trained.pair)
        if self.annotations is None:
            raise RunError(
                f"{self.title}: expected "
                + ("the teacher's features" if teacher else "trained networks or the teacher's features")
                + ", found none for these scenes; run `scenelift annotate` or `train`, or name the cache "
                "with --cache"
            )
        return TeacherAsker(self.annotations)


def config_of_data(data: str, overrides: list[str] | None, device: str) -> Config:
    """The configuration that suits data by themselves, or under networks of a run; as `resolve_config`."""
    return resolve_config(Choices(data, overrides=overrides or (), device=device))


def is_run(path: Path) -> bool:
    """Whether a folder is one that ``--out`` made."""
    folder = RunFolder(path)
    return folder.config.is_file() or folder.networks.is_file()


def open_run(
    run: Path,
    device: str = "auto",
    cache: Path | None = None,
    on: str | None = None,
    overrides: list[str] | None = None,
    download: bool = False,
) -> Opened:
    """Open a run on its own scenes, or on other data.

    Args:
        run: folder given to ``--out``.
        device: as `resolve_device` takes it.
        cache: of its annotations; ``None`` = in the run's folder, or beside it as a demo or table keeps it.
        on: other data, for the networks alone.
        overrides: ``key=value`` for those data.
        download: may the text network's weights be fetched?

    Raises:
        RunError: no run is there.
        ConfigError: ``overrides`` without other data, or wrong ones.
    """
    folder = RunFolder(run)
    if not is_run(run):
        raise RunError(f"run {run}: expected a folder given to --out, found {_found(run)}")
    trained = TrainedRun(run, device) if folder.networks.is_file() else None
    config = load_resolved(folder.config) if trained is None else trained.config
    if on is None:
        if overrides:
            raise ConfigError("--set: a run's own configuration stays as it is; it goes with --on DATA")
        annotations = _annotations(folder, cache)
    else:
        target = config_of_data(on, overrides, device)
        config = config.model_copy(update={"data": target.data, "pairing": target.pairing})
        annotations = None
    source = open_source(config.data)
    classes = source.classes if config.classes is None else ClassTable.from_names(config.classes)
    classes = classes if trained is None else trained.classes
    title = f"{run}" if on is None else f"{run} on {on}"
    where = resolve_device(device)
    return Opened(title, config, source, classes, trained, annotations, folder, where, download)


def open_data(data: str, device: str = "auto", overrides: list[str] | None = None) -> Opened:
    """Open data alone; arguments as for `open_run`."""
    config = config_of_data(data, overrides, device)
    source = open_source(config.data)
    return Opened(data, config, source, source.classes, device=resolve_device(device))


def _annotations(folder: RunFolder, cache: Path | None) -> Annotations | None:
    """The run's annotations, if its index is there and a cache beside it."""
    if not folder.annotations.is_file():
        return None
    if cache is not None and not cache.is_dir():
        raise RunError(f"--cache {cache}: expected the folder of a cache, found none; check the path")
    found = cache or folder.nearest_cache()
    return None if found is None else Annotations.load(folder.annotations, Cache(found))


def runs_below(folder: Path) -> list[Path]:
    """Runs in a folder of several, as a demo or a table leaves it, in order."""
    return sorted(
        path.parent for pattern in ("*/config.yaml", "*/*/config.yaml") for path in folder.glob(pattern)
    )


def _found(run: Path) -> str:
    if not run.is_dir():
        return "no such folder; check the path"
    if inside := runs_below(run):
        return f"a folder of several runs; give one of them, such as {', '.join(map(str, inside[-3:]))}"
    return "no run in it; train one with `scenelift train` or `fit`"
