"""Formats that a run's labels and networks are exported in; docs/export.md describes each.

A format of scenes is a `Format`, told of every frame and cloud; a format of networks is a function that
writes one file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from scenelift.classes import ClassTable
from scenelift.config import Config
from scenelift.errors import ConfigError
from scenelift.formats.base import Format as Format
from scenelift.formats.base import Target as Target
from scenelift.formats.basic import Ply, Png
from scenelift.formats.coco import Coco
from scenelift.formats.embeddings import PixelEmbeddings, PointEmbeddings
from scenelift.formats.las import Las, Laz
from scenelift.formats.network_2d import write_onnx
from scenelift.formats.network_3d import write_program
from scenelift.formats.submissions import NuScenesLidarseg, SemanticKitti
from scenelift.predict import NetworkPair
from scenelift.scenes import SceneSource

SCENE_FORMATS: dict[str, type[Format]] = {
    "ply": Ply,
    "png": Png,
    "las": Las,
    "laz": Laz,
    "coco": Coco,
    "semantickitti": SemanticKitti,
    "nuscenes": NuScenesLidarseg,
    "embeddings": PointEmbeddings,
    "pixel-embeddings": PixelEmbeddings,
}
"""Labels of scenes."""

NETWORK_FORMATS: dict[str, Callable[[NetworkPair, ClassTable, Path], Path]] = {
    "onnx": write_onnx,
    "torch": write_program,
}
"""Networks: each function writes a file into a folder and returns its path."""

DEFAULT_FORMATS = ("ply", "png")

_PACKAGES = {
    "las": (("laspy",), "formats"),
    "laz": (("laspy", "lazrs"), "formats"),
    "onnx": (("onnx", "onnxscript"), "onnx"),
}
"""What a format needs beside the library itself, and the extra that brings it."""


def parse_formats(text: str) -> tuple[str, ...]:
    """Names of formats from a comma-separated list, each once.

    Raises:
        ConfigError: there is none, one is unknown, or a package that it needs is not installed.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    known = (*SCENE_FORMATS, *NETWORK_FORMATS)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        near = get_close_matches(unknown[0], known, n=1) if unknown else []
        found = repr(unknown[0]) if unknown else "nothing"
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"--as: expected some of {', '.join(known)}, found {found}{hint}")
    for name in names:
        packages, extra = _PACKAGES.get(name, ((), ""))
        lost = [package for package in packages if find_spec(package) is None]
        if lost:
            raise ConfigError(
                f'--as {name}: expected {lost[0]}, found it not installed; pip install "scenelift[{extra}]"'
            )
    return names


def scenes_only(names: Sequence[str]) -> tuple[str, ...]:
    """These names, or `ConfigError` if one is of networks: new data change nothing of them."""
    for name in names:
        if name in NETWORK_FORMATS:
            raise ConfigError(
                f"--as {name}: expected formats of scenes ({', '.join(SCENE_FORMATS)}); networks are written "
                f"by `scenelift export RUN --to DIR --as {name}`"
            )
    return tuple(names)


def check_formats(names: Sequence[str], source: SceneSource, classes: ClassTable, config: Config) -> None:
    """Raise `ConfigError` if a run cannot be written in one of these formats of scenes."""
    for name in names:
        SCENE_FORMATS[name].check(source, classes, config)
