"""One key of the configuration after another over several values, for several recipes: what is run.

A key may be any of the configuration, or noise of the simulated teachers (`scenelift.noise`). Each key is
swept alone, with all others at rest. What comes out, as charts and sentences: `scenelift.sweep_results`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scenelift import noise
from scenelift.config import Config
from scenelift.errors import ConfigError
from scenelift.files import safe_name
from scenelift.recipes import build, own_keys
from scenelift.report.charts import SERIES_COLORS
from scenelift.runfolder import RunFolder
from scenelift.runs import Run

REFERENCES = ("maskclip", "wo_cns")
"""Recipes that train nothing: the teacher's labels as they are, and refined. Drawn beside the others."""

Configure = Callable[[str, Sequence[str]], Config]
"""From a recipe and overrides (``key=value``) to its configuration, all else being settled."""

_ANSWERS = ("data", "classes", "teachers", "pairing", "pseudo_labels", "refine", "predict")
"""All that a teacher's own answers depend on: neither seed nor training."""


@dataclass(frozen=True)
class Key:
    """A key and the values it takes.

    Attributes:
        name: dotted path, or a kind of noise.
        values: at least one, no two alike.
    """

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Place:
    """One value of one key.

    Attributes:
        key: its name.
        value: as the configuration holds it.
        held: knobs of the teachers that could not be raised as far as the value asks.
        runs: by recipe and seed. Places share the runs of equal configurations.
    """

    key: str
    value: Any
    held: tuple[str, ...]
    runs: Mapping[tuple[str, int], Run]

    @property
    def name(self) -> str:
        """``key=value``."""
        return f"{self.key}={words(self.value)}"


@dataclass(frozen=True)
class Plan:
    """All that is to be run.

    Attributes:
        recipes: names, in the order asked for; the references are not among them.
        references: names of the recipes that are drawn beside them.
        seeds: of the runs.
        keys: names of the swept keys.
        places: in the order of keys and values.
        kept: by key, the recipes that set it themselves and keep what they set.
        at_rest: by recipe, its configuration with every key as it stands.
    """

    recipes: tuple[str, ...]
    references: tuple[str, ...]
    seeds: tuple[int, ...]
    keys: tuple[str, ...]
    places: tuple[Place, ...]
    kept: Mapping[str, tuple[str, ...]]
    at_rest: Mapping[str, Config]

    @property
    def runs(self) -> list[Run]:
        """Each once, values of a key in their order, all recipes of a seed together."""
        found = {
            place.runs[recipe, seed].folder.path: place.runs[recipe, seed]
            for place in self.places
            for seed in self.seeds
            for recipe in (*self.references, *self.recipes)
        }
        return list(found.values())

    def of(self, key: str) -> list[Place]:
        """The places of one key, in the order asked for."""
        return [place for place in self.places if place.key == key]


def parse_key(text: str) -> Key:
    """``"switch.clip=0.2,0.5"`` to a `Key`; values are YAML, so ``[1, 2],null`` are two.

    Raises:
        ConfigError: it is none.
    """
    name, equals, values = text.partition("=")
    name = name.strip()
    if not equals or not name or not values.strip():
        raise ConfigError(f"sweep {text!r}: expected KEY=V1,V2,..., for instance noise=0,0.5,1,2")
    try:
        found = yaml.safe_load(f"[{values}]")
    except yaml.YAMLError:
        raise ConfigError(f"sweep {text!r}: {values!r} is no list of YAML values") from None
    if name in ("seed", "recipe"):
        raise ConfigError(f"sweep {text!r}: {name} is not swept; use --{name}s")
    return Key(name, tuple(found))


def make_plan(
    keys: Sequence[Key], recipes: Sequence[str], seeds: Sequence[int], out: Path, configure: Configure
) -> Plan:
    """Every configuration of a sweep, checked before anything runs.

    A recipe that sets a swept key itself keeps what it sets: that is what makes it this recipe. So does one
    whose answer the key cannot change; both are run once, and drawn level.

    Args:
        keys: what is swept, each alone.
        recipes: names or YAML files; references among them are drawn as such.
        seeds: of the runs, at least one.
        out: folder of all runs: ``out/<key=value>/seed<N>/<recipe>``.
        configure: gives each recipe's configuration.

    Raises:
        ConfigError: a key, value or recipe is unknown or twice there, or nothing would change.
    """
    named = {_recipe_name(recipe): recipe for recipe in recipes}
    own = tuple(name for name in named if name not in REFERENCES)
    if not own:
        raise ConfigError(
            "--recipes: expected at least one recipe that is trained, e.g. base_clip,wo_sct,cns"
        )
    if len(own) > SERIES_COLORS:
        raise ConfigError(f"--recipes: expected at most {SERIES_COLORS} that are trained, found {len(own)}")
    if len(named) < len(recipes) or len({key.name for key in keys}) < len(keys):
        raise ConfigError("sweep: expected every recipe and every key once, found one twice")
    named |= {reference: reference for reference in REFERENCES}
    at_rest = {name: configure(recipe, []) for name, recipe in named.items()}
    kept = {
        key.name: tuple(name for name, recipe in named.items() if key.name in own_keys(recipe))
        for key in keys
    }
    for key in keys:
        if set(own) <= set(kept[key.name]):
            raise ConfigError(
                f"sweep {key.name}: every recipe sets it itself ({', '.join(own)}); add another"
            )
    known: dict[str, Run] = {}
    places = [
        _place(key.name, value, named, seeds, out, configure, kept[key.name], known)
        for key in keys
        for value in key.values
    ]
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"sweep: expected different values, found {twice} twice")
    return Plan(own, REFERENCES, tuple(seeds), tuple(key.name for key in keys), tuple(places), kept, at_rest)


def _place(
    key: str,
    value: Any,
    recipes: Mapping[str, str],
    seeds: Sequence[int],
    out: Path,
    configure: Configure,
    kept: Sequence[str],
    known: dict[str, Run],
) -> Place:
    configs: dict[tuple[str, int], Config] = {}
    held: list[str] = []
    for name, recipe in recipes.items():
        for seed in seeds:
            own = [f"seed={seed}"]
            if noise.is_noise(key):
                config = configure(recipe, own)
                teachers, held = noise.scaled(config.teachers, key, _factor(key, value))
                config = build(
                    {**config.model_dump(mode="json"), "teachers": teachers.model_dump(mode="json")}
                )
            elif name in kept:
                config = configure(recipe, own)
            else:
                config = configure(recipe, [*own, f"{key}={json.dumps(value)}"])
                found = _at(config, key)
            configs[name, seed] = config
    resolved = float(value) if noise.is_noise(key) else found
    folder = out / folder_name(key, resolved)
    runs = {}
    for (name, seed), config in configs.items():
        identity = _identity(config)
        if identity not in known:
            known[identity] = Run(name, seed, config, RunFolder(folder / f"seed{seed}" / safe_name(name)))
        runs[name, seed] = known[identity]
    return Place(key, resolved, tuple(held), runs)


def _identity(config: Config) -> str:
    """Equal for runs that give equal answers."""
    if config.predict.source == "teacher":
        return "teacher " + config.digest(*_ANSWERS)
    return config.digest()


def folder_name(key: str, value: Any) -> str:
    """``key=value`` where that is a safe name of a folder, else one made from it."""
    name = f"{key}={words(value)}"
    return name if re.fullmatch(r"[\w.=-]{1,100}", name, re.ASCII) else safe_name(name)


def words(value: Any) -> str:
    """A value for people."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def _recipe_name(recipe: str) -> str:
    return Path(recipe).name.removesuffix(".yaml").removesuffix(".yml")


def _factor(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{key}: expected a factor such as 0.5, found {value!r}") from None


def _at(config: Config, key: str) -> Any:
    node: Any = config.model_dump(mode="json")
    for part in key.split("."):
        node = node[part]
    if isinstance(node, dict):
        raise ConfigError(f"sweep {key}: expected a single key, found a section of {', '.join(node)}")
    return node
