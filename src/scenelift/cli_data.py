"""``scenelift check`` and ``scenelift import``: the commands that look at data and train nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scenelift.errors import ConfigError, printable

Data = Annotated[str, typer.Argument(help="'synthetic', or a folder of data in any layout that is known.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any configuration key, e.g. data.stride=5.")]


def check(
    data: Data,
    out: Annotated[Path | None, typer.Option(help="Folder for check.json and a page of pictures.")] = None,
    data_recipe: Annotated[str | None, typer.Option(help="As for fit; by DATA and device if absent.")] = None,
    set_: Set = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: chooses the recipe.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Validate data before any work; say what is wrong and how to mend it. Exit code 2 if anything is."""
    import json

    from scenelift.check import check_source, summary_lines, to_json, write_check
    from scenelift.options import Choices, resolve_config
    from scenelift.scenes.registry import open_source

    config = resolve_config(Choices(data, data_recipe=data_recipe, overrides=set_ or (), device=device))
    source = open_source(config.data)
    report = check_source(source, config)
    if as_json:
        typer.echo(json.dumps(to_json(report), indent=1))
    else:
        typer.echo("\n".join(printable(line) for line in summary_lines(report)))
    if out is not None:
        for path in write_check(out, report, source, config):
            typer.echo(f"written: {path}", err=as_json)
    if not report.ok:
        raise typer.Exit(2)


def import_(
    src: Annotated[str, typer.Argument(help="A folder in any RGB-D layout that is known.")],
    out: Annotated[Path, typer.Option(help="Folder to make; one below it a scene if there are several.")],
    as_: Annotated[str, typer.Option("--as", help="What to make: capture.")] = "capture",
    scenes: Annotated[
        str | None, typer.Option(help="Only these scenes, e.g. scene0000_00,scene0011_00.")
    ] = None,
    set_: Set = None,
) -> None:
    """Turn a foreign layout into the native capture folder: color/ depth/ pose/ intrinsic/ cloud.ply."""
    from scenelift.importing import import_capture
    from scenelift.options import Choices, resolve_config
    from scenelift.progress import bars
    from scenelift.scenes.registry import open_source

    if as_ != "capture":
        raise ConfigError(f"--as: expected capture, found {as_!r}")
    # The recipes shrink images for the networks; an import keeps what is there.
    full = ["data.max_width=null", "data.image_size=null"]
    config = resolve_config(Choices(src, overrides=set_ or (), device="cpu"))
    known = type(config.data).model_fields
    full = [text for text in full if text[5:].partition("=")[0] in known]
    config = resolve_config(Choices(src, overrides=(*full, *(set_ or ())), device="cpu"))
    source = open_source(config.data)
    names = tuple(dict.fromkeys((*source.names("train"), *source.names("val"))))
    if scenes is not None:
        wanted = tuple(name.strip() for name in scenes.split(",") if name.strip())
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise ConfigError(f"--scenes: there is no scene {unknown[0]!r} in {src}; there are {len(names)}")
        names = wanted
    folders = import_capture(source, names, out, bars)
    typer.echo(f"{len(folders)} captures: {out}")
