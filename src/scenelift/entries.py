"""The bytes of one cache entry: a safetensors file whose header carries a manifest.

The manifest (JSON) holds format, stage, digest, the caller's meta, version, time, and a checksum over all
that is read. Under ``packed`` it says which arrays are packed and how (`codecs`): they lie there as uint8 and
unpack to the dtype and shape it names. All others lie there as they are, as in every entry of format 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from scenelift.codecs import Codec, PackedError, pack, unpack

JSON: TypeAlias = "str | int | float | bool | list[JSON] | dict[str, JSON] | None"

_PLAIN, _PACKED = 1, 2
"""Formats of an entry."""

_VERSION = version("scenelift")


@dataclass(frozen=True, slots=True)
class Key:
    """The address of an entry: ``digest`` (40 hex digits) stands for all that the result depends on."""

    stage: str
    digest: str

    def __str__(self) -> str:
        return f"{self.stage}/{self.digest}"


@dataclass(frozen=True, eq=False)
class Entry:
    """What was put: writable arrays by name, bit for bit, and the caller's meta."""

    arrays: dict[str, npt.NDArray[Any]]
    meta: dict[str, JSON]


class DamageError(Exception):
    """The bytes of an entry are not those that were put."""


def encode(
    key: Key, arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, JSON], codecs: Mapping[str, Codec]
) -> bytes:
    """The file of an entry; ``codecs`` says for some of the arrays how they are packed.

    Raises:
        TypeError: an array or a meta value of a type that cannot be kept.
        ValueError: NaN in the meta.
    """
    plain = {name: little_endian(array) for name, array in arrays.items()}
    manifest = {
        "format": _PACKED if codecs else _PLAIN,
        "stage": key.stage,
        "digest": key.digest,
        "meta": dict(meta),
        "version": _VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if codecs:
        manifest["packed"] = {
            name: {"codec": codec, "dtype": plain[name].dtype.str, "shape": list(plain[name].shape)}
            for name, codec in codecs.items()
        }
    manifest = json.loads(json.dumps(manifest, allow_nan=False))  # as a reader will see it
    manifest["checksum"] = _checksum(manifest, plain)
    stored = {name: pack(a, codecs[name]) if name in codecs else a for name, a in plain.items()}
    return save(stored, {"scenelift": json.dumps(manifest)})


def decode(data: bytes, key: Key, verify: bool, as_packed: bool = False) -> Entry:
    """The entry in the bytes of a file.

    Args:
        data: of the file.
        key: what it should be.
        verify: compare the checksum.
        as_packed: leave cells of packed arrays where unpacking puts them; else all are C-contiguous.

    Raises:
        DamageError: they are not those that `encode` made for this key (with ``verify``: to the last bit).
    """
    manifest = parse_manifest(data)
    for name, expected in {"stage": key.stage, "digest": key.digest}.items():
        if manifest.get(name) != expected:
            raise DamageError(f"expected {name} {expected}, found {manifest.get(name)}")
    if manifest.get("format") not in (_PLAIN, _PACKED):
        raise DamageError(f"expected format {_PLAIN} or {_PACKED}, found {manifest.get('format')}")
    try:
        arrays = load(data)
        for name, how in manifest.get("packed", {}).items():
            array = unpack(arrays[name], how["codec"], how["dtype"], how["shape"])
            arrays[name] = array if as_packed else np.asarray(array, order="C")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageError(f"no safetensors file: {error}") from error
    except PackedError as error:
        raise DamageError(str(error)) from error
    if verify and _checksum(manifest, arrays) != manifest.get("checksum"):
        raise DamageError("its content does not match its checksum")
    return Entry(arrays, manifest["meta"])


def little_endian(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same values, C-contiguous and little-endian; no copy if they are so already."""
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:  # what safetensors 0.4.3 can store
        raise TypeError(f"expected an array of bool, integers or floats, found {array.dtype}")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def feed(state: hashlib.blake2b, array: npt.NDArray[Any]) -> None:
    """Let a digest depend on an array's dtype, shape and content."""
    array = little_endian(array)
    state.update(f"{array.dtype.str}{array.shape}".encode())
    state.update(array.reshape(-1).view(np.uint8).data)


def canonical_json(value: object) -> bytes:
    """JSON in one spelling, for digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read_header(path: Path, file_bytes: int) -> bytes:
    """The first bytes of a file, as far as its header reaches."""
    with path.open("rb") as stream:
        length = stream.read(8)
        return length + stream.read(min(int.from_bytes(length, "little"), file_bytes))


def parse_manifest(data: bytes) -> dict[str, Any]:
    """The manifest from a safetensors header: its length in 8 bytes (little-endian), then JSON.

    Raises:
        DamageError: there is none.
    """
    size = int.from_bytes(data[:8], "little")
    try:
        manifest = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["scenelift"])
        datetime.fromisoformat(manifest["created"])
        return {**manifest, "meta": dict(manifest["meta"])}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamageError(f"its header cannot be read: {error!r}") from error


def _checksum(manifest: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Over all that is read: the manifest but for the checksum; names, dtypes, shapes, bytes of arrays."""
    state = hashlib.blake2b(digest_size=20)
    state.update(canonical_json({name: value for name, value in manifest.items() if name != "checksum"}))
    for name in sorted(arrays):
        state.update(canonical_json(name))
        feed(state, arrays[name])
    return state.hexdigest()
