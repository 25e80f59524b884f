"""Where the weights of a teacher are, what they are, and how they are read.

A specification is a hub id (``org/name`` or ``org/name@revision``), a folder as `save_pretrained` writes it,
or a single foreign checkpoint file. Hub ids are looked up in the local cache of Hugging Face
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache) and fetched only where that is allowed;
whatever is read afterwards is a folder or file on this machine, so that no library tries a connection.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from scenelift.errors import WeightsError, one_line
from scenelift.teachers.hub import (
    PARAMETER_FORMS,
    SETTINGS,
    TOKENIZER_FILES,
    cache_folder,
    damage_of_safetensors,
    fetch,
    is_offline,
    snapshot,
)

OPTIONS = {"teachers.labels.weights": "--clip", "teachers.masks.weights": "--sam"}
"""The command-line option that stands for a configuration key."""

_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",), ("tokenizer.model",))
"""Any one of these is a whole tokenizer."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True)
class Weights:
    """Weights that are on this machine.

    Attributes:
        path: the folder, or the file of a foreign checkpoint.
        origin: for people: the hub id with revision and commit, or the path.
        digest: hex digest of all that answers depend on: configuration, parameters, tokenizer.
        model_type: of ``config.json``, such as ``"clip"``, ``"sam"``; ``""`` for a foreign checkpoint.
        files: what the digest was made of, sorted by name.
    """

    path: Path
    origin: str
    digest: str
    model_type: str
    files: tuple[Path, ...] = ()


def find_weights(spec: str, key: str, kinds: tuple[str, ...], download: bool = False) -> Weights:
    """Find the weights of a specification; nothing is fetched unless ``download`` allows it.

    Nothing but the files themselves counts: a folder that is moved, or copied out of the hub's cache, gives
    the same ``digest``. Files are read once a process for it.

    Args:
        spec: hub id, folder or file.
        key: configuration key it stands at, for messages.
        kinds: the values of ``model_type`` that will do; ``""`` among them allows a single foreign file.
        download: may a hub id be fetched if it is not there? ``HF_HUB_OFFLINE=1`` forbids it all the same.

    Raises:
        WeightsError: missing, incomplete, damaged or of another kind; says what to do.
    """
    path = Path(os.path.expanduser(spec))
    if path.is_file():
        if "" not in kinds:
            raise WeightsError(
                f"{key}: expected a folder as save_pretrained writes it or a hub id, found the file {path}"
            )
        return Weights(path, str(path), digest_files((path,)), "", (path,))
    if spec and path.is_dir():
        return _in_folder(path, key, kinds, str(path), f"complete {path}, copied from where it is whole")
    if not _HUB_ID.fullmatch(spec):
        file = ", an existing .pth file" if "" in kinds else ""
        raise WeightsError(
            f"{key}: expected an existing folder{file} or a hub id (org/name or org/name@revision), "
            f"found {spec!r}, which is none of them"
        )
    return _from_hub(spec, key, kinds, download)


def place_of(spec: str) -> Path:
    """Where the weights of a specification are looked for, there or not."""
    path = Path(os.path.expanduser(spec))
    if path.exists() or not _HUB_ID.fullmatch(spec):
        return path
    return cache_folder(spec.partition("@")[0])


def fetch_command(spec: str, key: str) -> str:
    """The command that fetches a hub id."""
    return f"scenelift weights {OPTIONS.get(key, '--clip')} {spec} --download"


# --- loading -------------------------------------------------------------------------------------------


def load_model(load: Callable[..., Any], weights: Weights) -> Any:
    """A transformers model from these weights, in eval mode, without gradients, float32 on the CPU.

    No connection is tried, nothing is printed, and the caller's random generator stays where it is.

    Args:
        load: ``from_pretrained`` of a model class.
        weights: of a folder; for a foreign file see `read_state_dict`.

    Raises:
        WeightsError: a file is damaged or not a plain state dict, or a parameter of the model is missing or
            of another shape (transformers would draw it at random).
    """
    for file in weights.files:
        if file.suffix == ".bin":
            read_state_dict(file)  # refuses what is more than tensors, and names the file
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        try:
            model, info = load(
                str(weights.path),
                local_files_only=True,
                output_loading_info=True,
                weights_only=True,
                dtype=torch.float32,
            )
        except Exception as error:  # a dozen kinds, by version, for files and shapes that do not fit
            raise WeightsError(
                f"weights {weights.origin}: expected a {weights.model_type} model, found one that cannot be "
                f"loaded ({one_line(error)}); fetch {weights.path} again or choose other weights"
            ) from error
    bad = sorted(map(str, info["missing_keys"])) + sorted(str(item[0]) for item in info["mismatched_keys"])
    if bad:
        raise WeightsError(
            f"weights {weights.origin}: expected every parameter of a {weights.model_type} model in "
            f"{weights.path}, found {len(bad)} missing or of another shape, first {bad[0]!r}; "
            "fetch them again or choose other weights"
        )
    return model.float().eval().requires_grad_(False)


def read_state_dict(path: Path) -> Mapping[str, torch.Tensor]:
    """A state dict from ``.safetensors``, or from ``.pth`` and the like without running code in it.

    Raises:
        WeightsError: the file is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise a dozen kinds for a damaged file
        reason = one_line(error)
        if "weights_only" in reason:  # and advise to load it unsafely, which we never do
            reason = "it is damaged, or holds objects that might run code"
        raise WeightsError(
            f"weights {path} cannot be read as a plain state dict of tensors "
            f"({reason}); fetch the file again, from a source you trust"
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"weights {path}: expected a plain state dict of tensors")
    return state


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' warnings and progress bars off the terminal; what matters we say ourselves."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


# --- folders -------------------------------------------------------------------------------------------


def _in_folder(folder: Path, key: str, kinds: tuple[str, ...], origin: str, remedy: str) -> Weights:
    """Weights of a folder; ``remedy`` says what to do if something is missing."""
    config = _read_json(folder / "config.json", key, remedy)
    found = config.get("model_type")
    if not isinstance(found, str) or not found or found not in kinds:
        raise WeightsError(
            f"{key}: expected weights of kind {' or '.join(filter(None, kinds))}, found {found!r} "
            f"in {folder / 'config.json'}; choose others"
        )
    parameters = _parameter_files(folder, key, remedy)
    if "text_config" in config and not any(
        all((folder / name).is_file() for name in names) for names in _TOKENIZERS
    ):
        raise _missing("tokenizer.json (or vocab.json and merges.txt)", folder, key, remedy)
    for file in parameters:
        if not file.is_file():
            raise _missing(file.name, folder, key, remedy)
        if file.suffix == ".safetensors" and (damage := damage_of_safetensors(file)) is not None:
            raise WeightsError(
                f"weights {file}: expected a whole safetensors file, found it truncated or damaged "
                f"({damage}); remove it and {remedy}"
            )
    others = [folder / name for name in (*SETTINGS, *TOKENIZER_FILES) if (folder / name).is_file()]
    files = tuple(sorted({*others, *parameters}))
    return Weights(folder, origin, digest_files(files), found, files)


def _parameter_files(folder: Path, key: str, remedy: str) -> list[Path]:
    """The files of the best form there is, an index with its shards, whether those are there or not."""
    for name in PARAMETER_FORMS:
        path = folder / name
        if path.is_file():
            if not name.endswith(".index.json"):
                return [path]
            shards = _read_json(path, key, remedy).get("weight_map")
            names = set(shards.values()) if isinstance(shards, dict) else set()
            if not names or not all(isinstance(n, str) and Path(n).name == n for n in names):
                raise WeightsError(f"{key}: expected a weight_map of file names in {path}; {remedy}")
            return [path, *(folder / shard for shard in sorted(names))]
    raise _missing(f"{PARAMETER_FORMS[0]} (or {', '.join(PARAMETER_FORMS[1:])})", folder, key, remedy)


def _read_json(path: Path, key: str, remedy: str) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _missing(path.name, path.parent, key, remedy) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{key}: {path} cannot be read as JSON ({one_line(error)}); {remedy}") from None
    if not isinstance(tree, dict):
        raise WeightsError(f"{key}: expected a JSON object in {path}; {remedy}")
    return tree


def _missing(what: str, folder: Path, key: str, remedy: str) -> WeightsError:
    return WeightsError(f"{key}: expected {what} in {folder}, found none; {remedy}")


_DIGESTS: dict[tuple[Any, ...], str] = {}


def digest_files(files: Sequence[Path]) -> str:
    """Hex digest of the names and contents of files; of one file, of its content alone.

    Remembered within the process while path, size and time of each stay the same.

    Raises:
        WeightsError: one cannot be read.
    """
    try:
        stats = [file.stat() for file in files]
        memo = tuple(
            (str(file), stat.st_size, stat.st_mtime_ns, stat.st_ino)
            for file, stat in zip(files, stats, strict=True)
        )
        if memo not in _DIGESTS:
            digest = hashlib.blake2b(digest_size=16)
            for file, stat in zip(files, stats, strict=True):
                name = file.name if len(files) > 1 else ""
                digest.update(json.dumps([name, stat.st_size]).encode())
                with file.open("rb") as stream:
                    while chunk := stream.read(1 << 22):
                        digest.update(chunk)
            _DIGESTS[memo] = digest.hexdigest()
    except OSError as error:
        raise WeightsError(f"weights {error.filename} cannot be read ({error.strerror})") from None
    return _DIGESTS[memo]


# --- hub ---------------------------------------------------------------------------------------------


def _from_hub(spec: str, key: str, kinds: tuple[str, ...], download: bool) -> Weights:
    repo, _, revision = spec.partition("@")
    at = f" --revision {revision}" if revision else ""
    remedy = (
        f"fetch it with `{fetch_command(spec, key)}` or `hf download {repo}{at} --exclude '*.h5' '*.msgpack'`"
        ", or give a folder copied from a machine that has it"
    )
    folder = snapshot(repo, revision)
    try:
        if folder is None:
            raise WeightsError(
                f"{key}: expected {spec} in the cache of Hugging Face, found no config.json of it below "
                f"{cache_folder(repo)}; {remedy}"
            )
        return _in_folder(folder, key, kinds, _origin(repo, revision, folder), remedy)
    except WeightsError as error:
        if not download or (folder is not None and _is_other_kind(folder, kinds)):
            raise
        if is_offline():
            raise WeightsError(f"{error} (HF_HUB_OFFLINE=1 forbids fetching it here)") from None
    folder = fetch(repo, revision, key)
    return _in_folder(folder, key, kinds, _origin(repo, revision, folder), "choose others: this one lacks it")


def _origin(repo: str, revision: str, folder: Path) -> str:
    return f"{repo}@{revision or 'main'} ({folder.name[:12]})"


def _is_other_kind(folder: Path, kinds: tuple[str, ...]) -> bool:
    """Whether fetching again cannot help: the model is whole enough to see that it is another one."""
    try:
        return json.loads((folder / "config.json").read_bytes()).get("model_type") not in kinds
    except (OSError, ValueError, AttributeError):
        return False
