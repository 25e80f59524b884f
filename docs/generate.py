"""The reference pages that follow from the code: ``python docs/generate.py`` writes them anew.

`configuration.md` from the pydantic schema and the strings below its keys, `recipes.md` from the YAML files, `cli.md`
from the commands. A test compares them with what is committed.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import types
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer.main
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from scenelift.cli import app
from scenelift.config import TAGS, Config, Section
from scenelift.recipes import METHODS, recipe_names

DOCS = Path(__file__).resolve().parent
HEAD = "<!-- Made by `python docs/generate.py`; do not edit. -->\n"

# --- configuration ---------------------------------------------------------------------------------------


def configuration() -> str:
    """Every key: type, default, allowed values, meaning."""
    lines = [
        HEAD,
        "# Configuration",
        "",
        "The whole tree of keys. A command takes any of them as `--set key.path=value` (values are YAML: `null`, "
        "`true`, `[240, 320]`), a recipe or a data recipe as YAML; defaults are the paper's ScanNet setting. "
        "`scenelift` saves the resolved tree of a run as `OUT/config.yaml`. **[P]**, **[C]** and **[D]** say where a "
        "default comes from: the paper, the code it descends from, our decision. A key that is not here is an error "
        "that names the nearest one.",
        "",
        *_section("", Config),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _section(path: str, model: type[Section]) -> Iterator[str]:
    """A table of the plain keys at ``path``, then the sections below it."""
    documented, fields = _strings_below(model), model.model_fields
    plain = {name: field for name, field in fields.items() if not _models(field.annotation)}
    if plain:
        yield from ("| key | type | default | meaning |", "|---|---|---|---|")
    for name, field in plain.items():
        meaning = "Which of them it is." if name in TAGS else documented.get(name, "")
        cells = (f"`{path}{name}`", _type(field), _default(field), _cell(meaning))
        yield "| " + " | ".join(cells) + " |"
    for name, field in fields.items():
        models = _models(field.annotation)
        if not models:
            continue
        tag = next((tag for tag in TAGS if tag in models[0].model_fields), None)
        if len(models) > 1:
            standard = field.default.model_dump()[tag]
            yield from (
                "",
                f"## {path}{name}",
                "",
                f"One of several, told apart by `{path}{name}.{tag}` ({standard} unless set).",
            )
        for below in models:
            kind = below.model_fields[tag].default if len(models) > 1 and tag else None
            level = "###" if kind or "." in path + name else "##"
            title = f"{path}{name}" + (f": {kind}" if kind else "")
            yield from ("", f"{level} {title}", "", inspect.cleandoc(below.__doc__ or ""), "")
            yield from _section(f"{path}{name}.", below)


def _models(annotation: Any) -> list[type[Section]]:
    """The sections an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


@lru_cache(maxsize=None)
def _strings_below(model: type[Section]) -> dict[str, str]:
    """The string that stands below each key in the source, on one line."""
    tree = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for node, after in itertools.pairwise(tree.body):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(after, ast.Expr)
        ):
            if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                found[node.target.id] = " ".join(after.value.value.split())
    return found


def _type(field: FieldInfo) -> str:
    """Type and allowed range, for people."""
    bounds = "".join(filter(None, (_bound(item) for item in field.metadata)))
    return _cell(_name(field.annotation) + bounds)


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
        inner = args[0]
        described = next((item.description for item in args[1:] if getattr(item, "description", None)), None)
        bounds = (
            ""
            if described
            else "".join(_bound(m) for item in args[1:] for m in getattr(item, "metadata", ()))
        )
        return described or _name(inner) + bounds
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_name(part) for part in args)
    if origin is tuple:
        parts = [part for part in args if part is not Ellipsis]
        return f"list of {_name(parts[0])}" if Ellipsis in args else "[" + ", ".join(map(_name, parts)) + "]"
    return {bool: "true or false", int: "whole number", float: "number", str: "text"}[annotation]


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "needed"
    plain = json.dumps(value) if not isinstance(value, str) else value
    return f"`{plain}`" if len(plain) < 60 else f"`{plain[:50]}…`"


def _cell(text: str) -> str:
    for mark in "PCD":
        text = text.replace(f"[{mark}]", f"**[{mark}]**")
    return text


# --- recipes ---------------------------------------------------------------------------------------------

GROUPS = {
    "methods": ("Methods", "`--recipe NAME`: what is trained, and how."),
    "ablations": ("Ablations", "`--recipe NAME`: the paper's method with one thing taken out or changed (Table 2)."),
    "readings": ("Readings", "`--recipe NAME`: other readings of what the paper leaves open."),
    "presets": ("Presets", "`--preset NAME`: a reading for any recipe; the recipe's own keys overrule it."),
    "data": ("Data recipes", "`--data-recipe NAME`: sizes, networks and steps for a kind of data; chosen by the data "
             "and the device (`_cpu` without a GPU) when none is named."),
}  # fmt: skip


def recipes() -> str:
    """Every shipped recipe: its comment and the keys it overrides."""
    lines = [
        HEAD,
        "# Recipes",
        "",
        "A recipe is a YAML file of [configuration](configuration.md) keys that it sets; `extends` names one whose keys "
        "it takes over first. No code knows a recipe's name. A file of your own goes wherever a name goes "
        "([extending](extend.md#a-recipe)).",
    ]
    for group, (title, words) in GROUPS.items():
        lines += ["", f"## {title}", "", words]
        for name in recipe_names(group):
            text = (resources.files("scenelift") / "recipes" / group / f"{name}.yaml").read_text(
                encoding="utf-8"
            )
            rows = text.splitlines()
            head = list(itertools.takewhile(lambda row: row.startswith("#"), rows))
            body = rows[len(head) :]
            lines += ["", f"### {name}", "", " ".join(row.removeprefix("#").strip() for row in head)]
            lines += ["", "```yaml", *body, "```"] if body else ["", "Sets nothing."]
    assert set(METHODS) < set(GROUPS)
    return "\n".join(lines) + "\n"


# --- command line ----------------------------------------------------------------------------------------


def command_line() -> str:
    """Every command: what it does, its arguments and options, an example."""
    lines = [
        HEAD,
        "# Command line",
        "",
        "`scenelift COMMAND --help` prints the same. Exit code 0: done; 2: an error that is yours to mend, told in one "
        "line; 128 + signal: stopped, and the same command goes on.",
    ]
    root = typer.main.get_command(app)
    for name, command in commands(root):
        lines += ["", f"## {name}", "", _one_line(command.help)]
        if command.epilog:
            lines += ["", "```bash", command.epilog.removeprefix("Example: "), "```"]
        lines += ["", "| | | default | |", "|---|---|---|---|"]
        lines += [_parameter(parameter) for parameter in command.params]
    return "\n".join(lines) + "\n"


def commands(root: Any, prefix: str = "scenelift") -> Iterator[tuple[str, Any]]:
    """Every command by its full name, those of groups included."""
    for name, command in root.commands.items():
        full = f"{prefix} {name}"
        if hasattr(command, "commands"):
            yield from commands(command, full)
        else:
            yield full, command


def _parameter(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar or parameter.name.upper()}`"
    flag = getattr(parameter, "is_flag", False)
    kind = "" if flag else f"{parameter.metavar or parameter.type.name}".replace("[", "\\[")
    bound = getattr(parameter.type, "min", None)
    kind += "" if bound is None else f" ≥ {bound}"
    default = parameter.default
    shown = (
        "needed"
        if parameter.required
        else ""
        if default in (None, False) or callable(default)
        else f"`{default}`"
    )
    return f"| {names} | {kind} | {shown} | {_one_line(getattr(parameter, 'help', '') or '')} |"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration,
    "recipes.md": recipes,
    "cli.md": command_line,
}


if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).write_text(make(), encoding="utf-8")
        print(DOCS / page)
