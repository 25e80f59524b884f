"""From the options of a command to a configuration and a session."""

from __future__ import annotations

from pathlib import Path

from scenelift.classes import ClassTable
from scenelift.config import Config
from scenelift.device import resolve_device
from scenelift.errors import DataError, RunError
from scenelift.pipeline import Session
from scenelift.progress import bars
from scenelift.recipes import load, load_resolved
from scenelift.runfolder import RunFolder


def resolve_config(
    data: str,
    recipe: str,
    data_recipe: str | None,
    classes: str | None,
    teacher: str | None,
    overrides: list[str] | None,
    seed: int,
    device: str,
) -> Config:
    """The configuration that a command's options describe.

    Args:
        data: ``"synthetic"`` or the folder of a capture.
        recipe: method or ablation, by name or file.
        data_recipe: by name or file; ``None`` = the one that suits data and device.
        classes: comma-separated names, ``None`` = the data set's own.
        teacher: kind of both teachers, ``None`` = the recipe's.
        overrides: ``key.path=value``, applied last.
        seed: of the run.
        device: as `resolve_device` takes it.

    Raises:
        ConfigError: any of them is wrong.
    """
    synthetic = data == "synthetic"
    if data_recipe is None:
        on_cpu = resolve_device(device) == "cpu"
        data_recipe = "synthetic" if synthetic else "capture_cpu" if on_cpu else "capture"
    options: dict[str, object] = {"seed": seed}
    if not synthetic:
        options["data"] = {"source": "capture", "path": data}
    if classes is not None:
        ClassTable.parse(classes)  # complains before anything is read
        options["classes"] = [name.strip() for name in classes.split(",") if name.strip()]
    if teacher is not None:
        options["teachers"] = {"labels": {"kind": teacher}, "masks": {"kind": teacher}}
    return load(recipe, overrides or (), data_recipe, options)


def open_session(
    data: str,
    out: Path,
    recipe: str,
    data_recipe: str | None,
    classes: str | None,
    teacher: str | None,
    overrides: list[str] | None,
    seed: int,
    device: str,
    cache: Path | None,
) -> Session:
    """A new session, or one that goes on; arguments as for `resolve_config`.

    Raises:
        ConfigError: an option is wrong.
        DataError: the data are missing or hold no scene.
    """
    config = resolve_config(data, recipe, data_recipe, classes, teacher, overrides, seed, device)
    session = Session(config, RunFolder(out), cache or out / "cache", resolve_device(device), bars)
    if not session.names("train") or not session.classes:
        raise DataError(f"{data}: expected at least one scene, found none")
    return session


def reopen_session(run: Path, device: str, cache: Path | None) -> Session:
    """The session of a run that was begun earlier.

    Raises:
        RunError: the folder holds none.
    """
    folder = RunFolder(run)
    if not folder.config.is_file():
        raise RunError(f"run {run}: expected a folder with config.yaml, found none; give the --out of a run")
    config = load_resolved(folder.config)
    return Session(config, folder, cache or folder.cache, resolve_device(device), bars)
