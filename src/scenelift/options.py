"""From the options of a command to a configuration and a session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scenelift.api import TrainedRun
from scenelift.classes import ClassTable
from scenelift.config import Config
from scenelift.device import resolve_device
from scenelift.errors import ConfigError, DataError, RunError
from scenelift.pipeline import Session
from scenelift.progress import bars, silent
from scenelift.recipes import THE_METHOD, load, load_resolved, recipe_names
from scenelift.runfolder import RunFolder
from scenelift.scenes.detect import detect_source
from scenelift.scenes.registry import SOURCES
from scenelift.teachers.registry import LABEL_TEACHERS, MASK_TEACHERS
from scenelift.world import ALONE, World


class Teachers(NamedTuple):
    """Options that choose teachers; ``None`` leaves a choice to the recipe.

    Attributes:
        kind: of both, ``"simulated"`` or ``"embedded"``.
        clip: weights of the label teacher `clip`: hub id or folder.
        sam: weights of the mask teacher `sam`: hub id, folder or file.
    """

    kind: str | None = None
    clip: str | None = None
    sam: str | None = None

    def tree(self) -> dict[str, Any]:
        """What they change in ``teachers``.

        Raises:
            ConfigError: they contradict each other, or the kind is not one of both teachers.
        """
        named = [
            option for option, value in (("--clip", self.clip), ("--sam", self.sam)) if value is not None
        ]
        if self.kind is not None:
            known = [kind for kind in LABEL_TEACHERS if kind in MASK_TEACHERS]
            if self.kind not in known:
                raise ConfigError(
                    f"--teacher: expected {' or '.join(known)}, found {self.kind!r}; "
                    "--clip and --sam name the weights of the real teachers"
                )
            if named:
                raise ConfigError(
                    f"--teacher {self.kind} chooses both teachers, and {named[0]} another one; give either"
                )
            return {"labels": {"kind": self.kind}, "masks": {"kind": self.kind}}
        tree: dict[str, Any] = {}
        if self.clip is not None:
            tree["labels"] = {"kind": "clip", "weights": self.clip}
        if self.sam is not None:
            tree["masks"] = {"kind": "sam", "weights": self.sam}
        return tree

    def check(self, config: Config) -> None:
        """Raise `ConfigError` where ``--set`` has overruled ``--clip`` or ``--sam``."""
        for option, wanted, found in (
            ("--clip", self.clip, config.teachers.labels),
            ("--sam", self.sam, config.teachers.masks),
        ):
            if wanted is not None and getattr(found, "weights", None) != wanted:
                raise ConfigError(
                    f"{option} {wanted} and --set contradict each other (the teacher's kind or weights); "
                    "leave one out"
                )


class Choices(NamedTuple):
    """What a command's options choose of a configuration.

    Attributes:
        data: ``"synthetic"``, or a folder of data in any layout that `detect_source` tells.
        method: method or ablation, by name or file.
        data_recipe: by name or file; ``None`` = the one that suits data and device.
        classes: comma-separated names, ``None`` = the data set's own.
        teachers: which teachers.
        overrides: ``key.path=value``, applied last.
        seed: of the run.
        device: as `resolve_device` takes it.
        preset: by name or file: one reading of what the paper leaves open; the recipe's own keys overrule it.
    """

    data: str
    method: str = THE_METHOD
    data_recipe: str | None = None
    classes: str | None = None
    teachers: Teachers = Teachers()
    overrides: Sequence[str] = ()
    seed: int = 0
    device: str = "auto"
    preset: str | None = None


def resolve_config(choices: Choices) -> Config:
    """The configuration that a command's options describe.

    Raises:
        ConfigError: any of them is wrong.
        DataError: there is no such folder.
    """
    data, data_recipe, classes = choices.data, choices.data_recipe, choices.classes
    synthetic = data == "synthetic"
    source = "synthetic" if synthetic else _named_source(choices.overrides) or detect_source(Path(data))
    if data_recipe is None:
        small = f"{source}_cpu"
        fits = resolve_device(choices.device) == "cpu" and small in recipe_names("data")
        data_recipe = small if fits else source
    options: dict[str, object] = {"seed": choices.seed}
    if not synthetic:
        options["data"] = {"source": source, "path": data}
    if classes is not None:
        ClassTable.parse(classes)  # complains before anything is read
        options["classes"] = [name.strip() for name in classes.split(",") if name.strip()]
    options["teachers"] = choices.teachers.tree()
    config = load(choices.method, choices.overrides, data_recipe, options, choices.preset)
    choices.teachers.check(config)
    return config


def _named_source(overrides: Sequence[str]) -> str | None:
    """The source that ``--set data.source=NAME`` names, for folders that are taken for something else."""
    named = [text.partition("=")[2].strip() for text in overrides if text.startswith("data.source=")]
    if named and named[-1] not in SOURCES:
        raise ConfigError(f"data.source: expected one of {', '.join(SOURCES)}, found {named[-1]!r}")
    return named[-1] if named else None


def open_session(
    choices: Choices, out: Path, cache: Path | None, download: bool, world: World = ALONE
) -> Session:
    """A new session, or one that goes on.

    Args:
        choices: what the options choose.
        out: folder of the run.
        cache: of annotations; ``None`` = within ``out``.
        download: whether missing weights may be fetched.
        world: the processes that share the work.

    Raises:
        ConfigError: an option is wrong.
        DataError: the data are missing or hold no scene.
    """
    config = resolve_config(choices)
    session = _session(config, RunFolder(out), cache or out / "cache", choices.device, download, world)
    if not session.names("train") or not session.classes:
        apart = len(session.source.names("val"))
        raise DataError(
            f"{choices.data}: expected at least one scene to learn from, found none"
            + (f" ({apart:,} to judge by); add the scenes of the train split" if apart else "")
        )
    return session


def session_elsewhere(trained: TrainedRun, target: Config, folder: RunFolder, device: str) -> Session:
    """A session that lets the networks of a run answer for other data; no teacher takes part.

    Args:
        trained: the run.
        target: its ``data``, ``pairing`` and ``predict`` are used, all else is the run's.
        folder: for the results.
        device: as `resolve_device` takes it.
    """
    update = {"data": target.data, "pairing": target.pairing, "predict": target.predict}
    config = trained.config.model_copy(update={**update, "classes": trained.classes.names})
    return Session(config, folder, folder.cache, resolve_device(device), bars)


def reopen_session(
    run: Path, device: str, cache: Path | None, download: bool, world: World = ALONE
) -> Session:
    """The session of a run that was begun earlier; its configuration names its teachers.

    Raises:
        RunError: the folder holds none.
    """
    folder = RunFolder(run)
    if not folder.config.is_file():
        raise RunError(f"run {run}: expected a folder with config.yaml, found none; give the --out of a run")
    config = load_resolved(folder.config)
    return _session(config, folder, cache or folder.cache, device, download, world)


def _session(
    config: Config, folder: RunFolder, cache: Path, device: str, download: bool, world: World
) -> Session:
    """Of one of the processes of ``world``; the first shows progress."""
    own = resolve_device(device) if world.alone else world.device
    return Session(config, folder, cache, own, bars if world.first else silent, None, download, world)
