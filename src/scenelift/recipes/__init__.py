"""Recipes: YAML files of overrides, and the loading of them.

`load` starts from the defaults of `scenelift.config` and applies, in this order: a data recipe, a preset, a
method's recipe, and ``key.path=value`` overrides. An unknown key is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from scenelift.config import TAGS, Config, Section
from scenelift.errors import ConfigError
from scenelift.files import atomic_write

METHODS = ("methods", "ablations", "readings")
"""Groups of recipes that say what is trained."""

THE_METHOD = "cns"
"""The paper's, where none is named."""

BENCH = "bench"
"""Data recipe of the noise bench: the generated rooms of tables and sweeps."""


def recipe_names(group: str) -> list[str]:
    """Names of the shipped recipes of a group: one of `METHODS`, ``"presets"`` or ``"data"``."""
    folder = resources.files("scenelift") / "recipes" / group
    if not folder.is_dir():
        return []
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def describe(recipe: str) -> str:
    """What a shipped method, ablation or reading is: the comment at the head of its file."""
    for group in METHODS:
        item = resources.files("scenelift") / "recipes" / group / f"{recipe}.yaml"
        if item.is_file():
            lines = item.read_text(encoding="utf-8").splitlines()
            head = itertools.takewhile(lambda line: line.startswith("#"), lines)
            return " ".join(line.removeprefix("#").strip() for line in head)
    return ""


def load(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    data: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    preset: str | Path | None = None,
) -> Config:
    """The configuration of a recipe.

    Args:
        recipe: name of a shipped method, ablation or reading, or path of a YAML file.
        overrides: ``"train.epochs=5"`` and the like; values are YAML.
        data: name of a shipped data recipe, or path of a YAML file, applied first.
        preset: ``"paper"`` or ``"derived"``, or path of a YAML file, applied before ``recipe``: one reading
            of what the paper leaves open.
        options: a plain tree applied after ``recipe`` and before ``overrides``.

    Raises:
        ConfigError: unknown recipe or key (with the nearest valid name), wrong type or value.
    """
    tree: dict[str, Any] = Config().model_dump(mode="json")
    if data is not None:
        merge(tree, _read_recipe(data, ("data",)))
    if preset is not None:
        merge(tree, _read_recipe(preset, ("presets",)))
    merge(tree, _read_recipe(recipe, METHODS))
    tree["recipe"] = (
        Path(recipe).stem if isinstance(recipe, Path) else Path(str(recipe)).name.removesuffix(".yaml")
    )
    merge(tree, options or {})
    for text in overrides:
        merge(tree, _parse_override(text))
    return build(tree)


def own_keys(recipe: str | Path) -> set[str]:
    """Dotted paths of the keys that a method, ablation or reading sets, those of what it extends included."""

    def leaves(tree: Mapping[str, Any], path: str) -> set[str]:
        found: set[str] = set()
        for key, value in tree.items():
            here = f"{path}{key}"
            found |= leaves(value, f"{here}.") if isinstance(value, Mapping) else {here}
        return found

    return leaves(_read_recipe(recipe, METHODS), "")


def save_resolved(path: Path, config: Config) -> None:
    """Write a resolved configuration as YAML; its first line is a comment with a checksum of the rest."""
    text = config.to_yaml()
    atomic_write(path, f"{_HEAD}{_checksum(text)}\n{text}".encode())


def load_resolved(path: Path) -> Config:
    """The configuration saved beside a run's results.

    Raises:
        ConfigError: missing, damaged, edited, or of another version. A file that begins with no comment, as
            earlier versions wrote it, has no checksum to be compared.
    """
    tree = _read_yaml(path)
    head, _, body = path.read_text(encoding="utf-8").partition("\n")
    if not tree or (head.startswith("#") and head != f"{_HEAD}{_checksum(body)}"):
        raise ConfigError(
            f"{path}: expected the configuration as the run wrote it, found that its checksum differs; it is "
            "damaged or was edited: restore it, or begin another run with --set"
        )
    try:
        return build(tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


_HEAD = "# scenelift run, checksum "


def _checksum(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def build(tree: Mapping[str, Any]) -> Config:
    """Validate a plain tree into a `Config`; errors are told in one line each."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item) for item in error.errors())) from None


def merge(base: dict[str, Any], extra: Mapping[str, Any], path: tuple[str, ...] = ()) -> None:
    """Merge ``extra`` into ``base`` in place; another variant of a node (``source``, ``kind``) replaces it.

    Args:
        base: a tree or part of one.
        extra: what changes in it.
        path: where in a whole configuration both stand.
    """
    for key, value in extra.items():
        have = base.get(key)
        if isinstance(have, dict) and isinstance(value, Mapping):
            here = (*path, key)
            if len(_models_at(here)) > 1 and any(
                value[tag] != have.get(tag, value[tag]) for tag in TAGS if tag in value
            ):
                have.clear()
            merge(have, value, here)
        else:
            base[key] = _copy(value)


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _read_recipe(recipe: str | Path, groups: Sequence[str], heirs: tuple[str, ...] = ()) -> dict[str, Any]:
    text = str(recipe)
    if text in heirs:
        raise ConfigError(f"recipe {text!r} extends itself ({' > '.join((*heirs, text))}); break the circle")
    heirs = (*heirs, text)
    if text.endswith((".yaml", ".yml")):
        return _extended(_read_yaml(Path(text)), groups, heirs)
    for group in groups:
        item = resources.files("scenelift") / "recipes" / group / f"{text}.yaml"
        if item.is_file():
            return _extended(yaml.safe_load(item.read_text(encoding="utf-8")) or {}, groups, heirs)
    known = [name for group in groups for name in recipe_names(group)]
    raise ConfigError(f"recipe {text!r} is not known{_nearest(text, known)}; known: {', '.join(known)}")


def _extended(tree: dict[str, Any], groups: Sequence[str], heirs: tuple[str, ...]) -> dict[str, Any]:
    """Resolve ``extends: NAME``, a recipe's only word that is not a key of `Config`."""
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    base = _read_recipe(parent, groups, heirs)
    merge(base, tree)
    return base


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ConfigError(  # a few lines of them would unpack to billions of keys
                f"recipe file {path}: expected plain YAML, found an alias (*name); write the value out"
            )
        tree = yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(f"recipe file {path} does not exist") from None
    except RecursionError:
        raise ConfigError(f"recipe file {path}: expected a few levels of keys, found hundreds") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or the 40th of a month
        raise ConfigError(
            f"recipe file {path} cannot be read as YAML: {' '.join(str(error).split())}"
        ) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"recipe file {path}: expected a mapping of keys, found a {type(tree).__name__}")
    return tree


def _parse_override(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"override {text!r}: expected key.path=value, for instance train.epochs=5")
    try:
        node: Any = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"override {text!r}: {value!r} is not a YAML value") from None
    for part in reversed(path.strip().split(".")):
        node = {part: node}
    return dict(node)


def _valid_keys(path: Sequence[Any]) -> list[str]:
    """The keys allowed at a path of the tree; those of every variant where a node has several."""
    keys: list[str] = []
    for model in _models_at(path):
        keys += [name for name in model.model_fields if name not in keys]
    return keys


def _models_at(path: Sequence[Any]) -> list[type[Section]]:
    def sections(annotation: Any) -> list[type[Section]]:
        if isinstance(annotation, type) and issubclass(annotation, Section):
            return [annotation]
        return [model for arg in get_args(annotation) for model in sections(arg)]

    models: list[type[Section]] = [Config]
    for part in path:
        deeper = [
            m
            for model in models
            if part in model.model_fields
            for m in sections(model.model_fields[part].annotation)
        ]
        # a variant's tag stands in pydantic's path too, but is no key: it says which of the models is meant
        models = deeper or [model for model in models if _tag(model) == part] or models
    return models


def _tag(model: type[Section]) -> Any:
    return next((model.model_fields[tag].default for tag in TAGS if tag in model.model_fields), None)


def _is_tag(parents: Sequence[Any], part: Any) -> bool:
    """Whether pydantic's path goes through a variant here, which is no key of the tree."""
    models = _models_at(parents)
    return len(models) > 1 and any(_tag(model) == part for model in models)


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _explain(item: Any) -> str:
    *parents, leaf = item["loc"] or ("config",)
    steps = enumerate(item["loc"])
    path = ".".join(str(part) for depth, part in steps if not _is_tag(item["loc"][:depth], part))
    if item["type"] == "extra_forbidden":
        known = _valid_keys(parents)
        hint = _nearest(str(leaf), known) or f"; valid here: {', '.join(known)}"
        return f"unknown key {path}{hint}"
    if item["type"] == "value_error":  # ours, and says itself what was found
        return f"{path}: {item['ctx']['error']}"
    return f"{path}: {item['msg'][0].lower()}{item['msg'][1:]}, found {item['input']!r}"
