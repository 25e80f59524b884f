"""Save and restore networks and training state: safetensors with a JSON header, no pickle.

The header names the format, the digest of what the state belongs to, the step, and a checksum of all that.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from scenelift.classes import ClassTable
from scenelift.config import Config
from scenelift.cotrain import Trainer
from scenelift.errors import RunError, one_line
from scenelift.files import atomic_path

_log = logging.getLogger(__name__)

FORMAT = 1


def pack(trainer: Trainer) -> dict[str, Tensor]:
    """Everything a trainer has learned, as flat tensors on the CPU, between two steps."""
    tensors = {f"networks.{key}": value for key, value in trainer.networks.state_dict().items()}
    for index, state in trainer.optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()})
    tensors["step"] = torch.tensor(trainer.step)
    if trainer.shares.shares is not None:
        tensors["shares"] = trainer.shares.shares
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}


def unpack(trainer: Trainer, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put what `pack` gave into a fresh trainer of the same configuration.

    Args:
        trainer: changed in place.
        tensors: of `pack`.
        where: they come from, for the error.

    Raises:
        RunError: they do not fit these networks.
    """
    state: dict[int, dict[str, Tensor]] = {}
    networks: dict[str, Tensor] = {}
    for key, value in tensors.items():
        group, _, rest = key.partition(".")
        if group == "networks":
            networks[rest] = value
        elif group == "optimizer":
            index, _, name = rest.partition(".")
            state.setdefault(int(index), {})[name] = value
    try:
        trainer.networks.load_state_dict(networks)
    except RuntimeError as error:
        raise RunError(f"{where} does not fit these networks: {one_line(error)}") from None
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})
    trainer.step = int(tensors["step"])
    trainer.shares.shares = tensors.get("shares")


def save_training(path: Path, trainer: Trainer, digest: str, log: str | None = None) -> None:
    """Write networks, optimiser and step; what was there stays beside it as ``previous.safetensors``.

    At any instant ``path`` is whole: the old state or the new one.

    Args:
        path: ``.safetensors`` file.
        trainer: between two steps.
        digest: of the configuration this state belongs to.
        log: digest of the records of the steps behind it.

    Raises:
        OutputError: it cannot be written.
    """
    header = {"kind": "training", "digest": digest, "step": trainer.step, "log": log}
    _write(path, pack(trainer), header, previous=previous_of(path))


def previous_of(path: Path) -> Path:
    """Where `save_training` keeps what was at ``path``."""
    return path.with_name("previous.safetensors")


def load_training(path: Path, trainer: Trainer, digest: str) -> None:
    """Restore what `save_training` wrote into a fresh trainer of the same configuration.

    Raises:
        RunError: the file is damaged or belongs to another configuration; ``trainer`` is then unchanged.
    """
    tensors, header = _read(path, "training")
    if header["digest"] != digest:
        raise RunError(f"checkpoint {path} belongs to another configuration; choose another output folder")
    unpack(trainer, tensors, f"checkpoint {path}")


def restore_training(path: Path, trainer: Trainer, digest: str) -> Path | None:
    """Go on from the last good state: the one at ``path``, or the previous one if that is damaged.

    Returns:
        The file it came from; ``None`` if none belongs to this configuration.

    Raises:
        RunError: there are files, and none of them is whole and of this version.
    """
    faults: list[RunError] = []
    for file in (path, previous_of(path)):
        if not file.is_file():
            continue
        try:
            tensors, header = _read(file, "training")
        except RunError as error:
            faults.append(error)
            continue
        if header["digest"] != digest:
            break
        if faults:
            _log.warning("%s", f"{faults[0]}; going on from {file.name}, step {header['step']}")
        unpack(trainer, tensors, f"checkpoint {file}")
        return file
    if len(faults) == 2:
        raise RunError(
            f"checkpoints {path} and {previous_of(path).name}: expected one that is whole, found none "
            f"({faults[0]}); delete both to train from the start, or from the end of stage 1 in the cache"
        )
    if faults:
        raise RunError(
            f"{faults[0]}; delete it to train from the start, or from the end of stage 1 in the cache"
        )
    return None


def about_networks(
    digest: str, config: Config, classes: ClassTable, target_dim: int, knows_points: bool, log: str
) -> dict[str, Any]:
    """What stands beside trained networks, for `scenelift.api.TrainedRun` to build them again.

    Args:
        digest: of all they were trained from.
        config: of the run.
        classes: what they segment.
        target_dim: channels of the latent target's features.
        knows_points: whether the 3D network saw any label.
        log: digest of the training's log.
    """
    return {
        "digest": digest,
        "log": log,
        "knows_points": knows_points,
        "config": config.model_dump(mode="json"),
        "classes": list(classes.names),
        "prompts": [list(phrases) for phrases in classes.prompts],
        "colors": classes.colors.tolist(),
        "target_dim": target_dim,
    }


def log_of(path: Path) -> str | None:
    """Digest of the log that a checkpoint goes with, one that was restored; ``None`` in earlier versions'."""
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["scenelift"])
    return None if header.get("log") is None else str(header["log"])


def save_networks(path: Path, networks: nn.Module, text: Tensor, about: Mapping[str, Any]) -> None:
    """Write trained networks and the text embeddings of their classes.

    Args:
        path: ``.safetensors`` file.
        networks: a `Networks`.
        text: (C, dim) float32.
        about: JSON-able facts that `load_networks` gives back.
    """
    tensors = {f"networks.{key}": value for key, value in networks.state_dict().items()}
    _write(path, {**tensors, "text": text}, {"kind": "networks", "about": dict(about)})


def read_networks(path: Path) -> tuple[dict[str, Tensor], Tensor, dict[str, Any]]:
    """State dict, text embeddings and facts of a file of `save_networks`.

    Raises:
        RunError: the file is missing, damaged, or of another kind or version.
    """
    try:
        tensors, header = _read(path, "networks")
    except RunError as error:
        if not path.is_file():
            raise
        raise RunError(f"{error}; delete it, and `train` makes it again from the last checkpoint") from None
    text = tensors.pop("text")
    return {key.removeprefix("networks."): value for key, value in tensors.items()}, text, header["about"]


def _write(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], previous: Path | None = None
) -> None:
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    full = {"format": FORMAT, **header}
    full["checksum"] = _checksum(plain, full)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = sum(value.numel() * value.element_size() for value in plain.values())
    with atomic_path(path, size) as temp:
        try:
            safetensors.torch.save_file(plain, temp, metadata={"scenelift": json.dumps(full)})
        except safetensors.SafetensorError as error:  # tells of a full disk in words only
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, one_line(error)) from error
        if previous is not None and path.is_file():
            with atomic_path(previous, size) as second:
                _second_name(path, second)


def _second_name(path: Path, second: Path) -> None:
    try:
        second.hardlink_to(path)  # costs nothing
    except OSError:  # a file system without hard links
        shutil.copyfile(path, second)


def _read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise RunError(f"checkpoint {path}: no such file; train first")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = dict(json.loads((file.metadata() or {})["scenelift"]))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise RunError(f"checkpoint {path} is damaged ({one_line(error)})") from None
    if header.get("format") != FORMAT or header.get("kind") != kind:
        found = f"{header.get('kind')} of format {header.get('format')}"
        raise RunError(f"checkpoint {path}: expected {kind} of format {FORMAT}, found {found}")
    if header.get("checksum") != _checksum(tensors, header):
        raise RunError(f"checkpoint {path} is damaged (its checksum differs)")
    return tensors, header


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    told = {key: value for key, value in header.items() if key != "checksum"}
    return fingerprint(tensors, json.dumps(told, sort_keys=True))


def fingerprint(tensors: Mapping[str, Tensor], header: str = "") -> str:
    """Hex digest of named tensors, and of a text."""
    state = hashlib.blake2b(header.encode(), digest_size=16)
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        state.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        state.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
