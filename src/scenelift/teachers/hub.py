"""The hub of Hugging Face and its cache on this machine: what is there, and fetching what is not.

Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache. Only `fetch` connects.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open

from scenelift.errors import WeightsError, one_line

SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
)
PARAMETER_FORMS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Forms that parameters come in, best first: transformers takes the first that is there."""

_TRUE = {"1", "on", "yes", "true"}


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE`` forbids connections, even if set after start."""
    from huggingface_hub import constants

    asked = (os.environ.get(name, "").lower() for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return bool(constants.HF_HUB_OFFLINE) or any(value in _TRUE for value in asked)


def cache_folder(repo: str) -> Path:
    """Where the hub's cache keeps a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def snapshot(repo: str, revision: str) -> Path | None:
    """The cached snapshot of a revision, complete or not; asks no server."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(
        repo, "config.json", cache_dir=constants.HF_HUB_CACHE, revision=revision or None
    )
    return Path(found).parent if isinstance(found, str) else None


def fetch(repo: str, revision: str, key: str) -> Path:
    """Fetch what is needed of a repository into the hub's cache, parameters in one form only, and last.

    What an interrupted fetch has left is gone on with; parameters that are there imply all the rest.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    where: dict[str, Any] = {"revision": revision or None}
    cache: dict[str, Any] = {"cache_dir": constants.HF_HUB_CACHE, "endpoint": constants.ENDPOINT}
    try:
        there = set(HfApi(endpoint=constants.ENDPOINT).list_repo_files(repo, **where))
        form = next((name for name in PARAMETER_FORMS if name in there), PARAMETER_FORMS[0])
        small = [name for name in (*SETTINGS, *TOKENIZER_FILES) if name in there]
        stem, ending = form.removesuffix(".index.json").split(".")
        shards = re.compile(rf"{stem}-\d+-of-\d+\.{ending}")
        wanted = [form, *(name for name in there if form.endswith(".index.json") and shards.fullmatch(name))]
        folder = Path(snapshot_download(repo, allow_patterns=small or ["config.json"], **where, **cache))
        for name in wanted:
            _drop_if_damaged(folder / name)
        return Path(snapshot_download(repo, allow_patterns=wanted, **where, **cache))
    except Exception as error:  # no connection, no such repository, no permission, a full disk
        raise WeightsError(
            f"{key}: {repo}{'@' + revision if revision else ''} cannot be fetched from {constants.ENDPOINT} "
            f"({one_line(error)}); check its name and the connection, or give a folder copied from a machine "
            "that has it"
        ) from error


def damage_of_safetensors(path: Path) -> str | None:
    """What is wrong with a safetensors file, by its header and length alone; ``None`` if nothing is."""
    try:
        with safe_open(path, framework="pt"):
            return None
    except Exception as error:  # the reader's own kinds, and the system's
        return one_line(error)


def _drop_if_damaged(path: Path) -> None:
    """Remove a cached file that is no whole safetensors file, or the hub would take it for fetched."""
    if path.suffix == ".safetensors" and path.exists() and damage_of_safetensors(path) is not None:
        path.resolve().unlink(missing_ok=True)  # snapshots are links to blobs
        path.unlink(missing_ok=True)
