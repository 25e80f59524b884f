"""Which weights a configuration needs, which of them are on this machine, and how to get the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scenelift.config import Config, ImageNetworkConfig
from scenelift.errors import WeightsError
from scenelift.models.image import fetch_weights, weights_file
from scenelift.teachers.registry import WEIGHTS
from scenelift.teachers.weights import digest_files, place_of


@dataclass(frozen=True)
class Needed:
    """Weights that a configuration needs.

    Attributes:
        role: ``"label teacher"``, ``"mask teacher"`` or ``"2D backbone"``.
        kind: of teacher, or name of the network.
        spec: hub id, folder or file as configured; ``None`` if this kind needs no weights.
        place: where they are, or are looked for.
        bytes: their size; 0 if they are not there.
        digest: of all that answers depend on; ``None`` if they are not there.
        problem: what is wrong and what to do; ``None`` if nothing is.
    """

    role: str
    kind: str
    spec: str | None = None
    place: Path | None = None
    bytes: int = 0
    digest: str | None = None
    problem: str | None = None


def inventory(config: Config, download: bool = False) -> list[Needed]:
    """What a configuration needs: the label teacher, the mask teacher, the 2D network's backbone.

    Args:
        config: the run.
        download: fetch what is missing first. What cannot be fetched is told as its ``problem``.
    """
    return [
        _teacher("label teacher", config.teachers.labels, download),
        _teacher("mask teacher", config.teachers.masks, download),
        _backbone(config.networks.image, download),
    ]


def lines(needed: Sequence[Needed]) -> list[str]:
    """A few lines for the terminal."""
    told = []
    for item in needed:
        head = f"{item.role:<14}{item.kind}"
        if item.spec is None:
            told.append(f"{head}: needs no weights")
        elif item.problem is not None:
            told.append(f"{head} {item.spec}: MISSING. {item.problem}")
        else:
            size = f"{item.bytes / 2**20:,.1f} MiB"
            told.append(f"{head} {item.spec}: {item.place} ({size}, digest {str(item.digest)[:12]})")
    return told


def to_json(needed: Sequence[Needed]) -> dict[str, Any]:
    """The same for programs."""
    place = {item.role: None if item.place is None else str(item.place) for item in needed}
    return {"schema": 1, "weights": [{**asdict(item), "place": place[item.role]} for item in needed]}


def _teacher(role: str, section: Any, download: bool) -> Needed:
    kind = section.kind
    if kind not in WEIGHTS:
        return Needed(role, kind)
    try:
        found = WEIGHTS[kind](section, download)
    except WeightsError as error:
        return Needed(role, kind, section.weights, place_of(section.weights), problem=str(error))
    size = sum(file.stat().st_size for file in found.files)
    return Needed(role, kind, section.weights, found.path, size, found.digest)


def _backbone(config: ImageNetworkConfig, download: bool) -> Needed:
    role, place = "2D backbone", weights_file(config)
    if place is None:
        return Needed(role, config.name)
    spec = config.weights or "ImageNet weights of torchvision"
    try:
        if download:
            fetch_weights(config)
        if not place.is_file():
            remedy = (
                "name one that is there with --set networks.image.weights=FILE"
                if config.weights
                else "fetch it with `scenelift weights --download`, or put it there yourself"
            )
            raise WeightsError(f"networks.image.weights: expected the file {place}, found none; {remedy}")
        digest = digest_files([place])
    except WeightsError as error:
        return Needed(role, config.name, spec, place, problem=str(error))
    return Needed(role, config.name, spec, place, place.stat().st_size, digest)
