"""The reference pages that follow from the code: ``python docs/generate.py`` writes them anew.

`configuration.md` from the pydantic schema and the strings below its keys, `recipes.md` from the YAML files,
`cli.md` from the commands. A test compares them with what is committed.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import types
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer.main
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from scenelift.cli import app
from scenelift.config import TAGS, Config, Section
from scenelift.recipes import recipe_names

DOCS = Path(__file__).resolve().parent
HEAD = "<!-- Made by `python docs/generate.py`; do not edit. -->\n"

# --- configuration ---------------------------------------------------------------------------------------

CONFIGURATION = """# Configuration

The whole tree of keys. A command takes any of them as `--set key.path=value` (values are YAML: `null`,
`true`, `[240, 320]`), a recipe or a data recipe as YAML. Defaults are the paper's ScanNet setting. What a
run has used is saved as `OUT/config.yaml`. **[P]**, **[C]** and **[D]** say where a default comes from: the
paper, the code it descends from, our decision. "None" below is `null` in YAML. A key that is not here is an
error that names the nearest one.
"""


def configuration() -> str:
    """Every key: type, default, allowed values, meaning."""
    return "\n".join([HEAD, CONFIGURATION, *_section("", Config)]).rstrip() + "\n"


def _section(path: str, model: type[Section]) -> Iterator[str]:
    """A table of the plain keys at ``path``, then the sections below it."""
    documented, fields = strings_below(model), model.model_fields
    plain = {name: field for name, field in fields.items() if not _models(field.annotation)}
    if plain:
        yield from ("| key | type | default | meaning |", "|---|---|---|---|")
    for name, field in plain.items():
        meaning = "Which of them it is." if name in TAGS else _marked(documented.get(name, ""))
        yield f"| `{path}{name}` | {_type(field)} | {_default(field)} | {meaning} |"
    for name, field in fields.items():
        models = _models(field.annotation)
        tag = next((tag for model in models for tag in TAGS if tag in model.model_fields), None)
        if tag is not None:
            standard = getattr(field.default, tag)
            words = f"One of several; `{path}{name}.{tag}` says which ({standard} unless set)."
            yield from ("", f"## {path}{name}", "", words)
        for below in models:
            level = "###" if tag or path else "##"
            variant = f": {below.model_fields[tag].default}" if tag else ""
            about = inspect.cleandoc(below.__doc__ or "")
            yield from ("", f"{level} {path}{name}{variant}", "", about, "")
            yield from _section(f"{path}{name}.", below)


def _models(annotation: Any) -> list[type[Section]]:
    """The sections an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


@cache
def strings_below(model: type[Section]) -> dict[str, str]:
    """The string that stands below each key in the source, on one line."""
    tree = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node, after in itertools.pairwise(tree.body):
        said = ast.unparse(after) if isinstance(after, ast.Expr) else ""
        if isinstance(node, ast.AnnAssign) and said:
            found[ast.unparse(node.target)] = " ".join(ast.literal_eval(said).split())
    return found


def _type(field: FieldInfo) -> str:
    """Type and allowed range, for people."""
    return _name(field.annotation) + "".join(_bound(item) for item in field.metadata)


def _bound(item: Any) -> str:
    for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        if (value := getattr(item, attribute, None)) is not None:
            return f", {sign} {value}"
    least = getattr(item, "min_length", None)
    return f", at least {least}" if least else ""


def _name(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        inner, about = args[0], args[1]
        return about.description or _name(inner) + "".join(_bound(item) for item in about.metadata)
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_name(part) for part in args)
    if origin is tuple:
        if Ellipsis in args:
            return f"list of {_name(args[0])}"
        return "[" + ", ".join(map(_name, args)) + "]"
    return {bool: "true or false", int: "whole number", float: "number", str: "text"}[annotation]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "needed"
    plain = field.default if isinstance(field.default, str) else json.dumps(field.default)
    return f"`{plain}`" if len(plain) < 60 else f"`{plain[:50]}…`"


def _marked(text: str) -> str:
    for mark in "PCD":
        text = text.replace(f"[{mark}]", f"**[{mark}]**")
    return text.replace("|", "\\|")


# --- recipes ---------------------------------------------------------------------------------------------

RECIPES = """# Recipes

A recipe is a YAML file of [configuration](configuration.md) keys that it sets; `extends` names one whose
keys it takes over first. No code knows a recipe's name. A file of your own goes wherever a name goes
([extending](extend.md#a-recipe)).
"""

GROUPS = {
    "methods": ("Methods", "`--recipe NAME`: what is trained, and how."),
    "ablations": (
        "Ablations",
        "`--recipe NAME`: the paper's method with one thing out or changed (Table 2).",
    ),
    "readings": ("Readings", "`--recipe NAME`: other readings of what the paper leaves open."),
    "presets": ("Presets", "`--preset NAME`: a reading for any recipe, whose own keys overrule it."),
    "data": (
        "Data recipes",
        "`--data-recipe NAME`: sizes, networks and steps. Data and device choose one (`_cpu` without a GPU).",
    ),
}


def recipes() -> str:
    """Every shipped recipe: its comment and the keys it overrides."""
    lines = [HEAD, RECIPES]
    for group, (title, words) in GROUPS.items():
        lines += ["", f"## {title}", "", words]
        for name in recipe_names(group):
            item = resources.files("scenelift") / "recipes" / group / f"{name}.yaml"
            rows = item.read_text(encoding="utf-8").splitlines()
            head = list(itertools.takewhile(lambda row: row.startswith("#"), rows))
            lines += ["", f"### {name}", "", " ".join(row.removeprefix("#").strip() for row in head), ""]
            body = rows[len(head) :]
            lines += ["```yaml", *body, "```"] if body else ["It sets nothing."]
    return "\n".join(lines) + "\n"


# --- command line ----------------------------------------------------------------------------------------

COMMANDS = """# Command line

`scenelift COMMAND --help` prints the same. Exit code 0: done. 2: an error that is yours to mend, told in
one line. 128 + signal: stopped, and the same command goes on.
"""


def command_line() -> str:
    """Every command: what it does, its arguments and options, an example."""
    lines = [HEAD, COMMANDS]
    for name, command in commands(typer.main.get_command(app)):
        lines += ["", f"## {name}", "", _one_line(command.help)]
        if command.epilog:
            lines += ["", "```bash", command.epilog.removeprefix("Example: "), "```"]
        lines += ["", "| option | value | default | meaning |", "|---|---|---|---|"]
        lines += [_parameter(parameter) for parameter in command.params]
    return "\n".join(lines) + "\n"


def commands(group: Any, prefix: str = "scenelift") -> Iterator[tuple[str, Any]]:
    """Every command by its full name, those of groups included."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _parameter(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    value = "" if getattr(parameter, "is_flag", False) else parameter.metavar or _value(parameter)
    default = parameter.default
    shown = "" if default in (None, False, [], ()) or callable(default) else f"`{default}`"
    shown = "needed" if parameter.required else shown
    return f"| {names} | {_one_line(value)} | {shown} | {_one_line(parameter.help)} |"


def _value(parameter: Any) -> str:
    """Type and least value, as older and newer Typer keep them."""
    described = getattr(parameter, "type_descriptor", None)
    name = parameter.type.name if described is None else getattr(described.annotation, "__name__", "text")
    words = {"str": "text", "int": "whole number", "float": "number", "Path": "path", "list": "text"}
    words |= {"integer": "whole number", "integer range": "whole number", "float range": "number"}
    least = getattr(parameter if described is not None else parameter.type, "min", None)
    again = "; may be repeated" if parameter.multiple or name == "list" else ""
    return words.get(name, name) + ("" if least is None else f", ≥ {least}") + again


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("[", "\\[")


PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "recipes.md": recipes,
    "cli.md": command_line,
}


if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).write_text(make(), encoding="utf-8")
        print(DOCS / page)
