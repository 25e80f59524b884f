"""``scenelift annotate``, and ``scenelift weights`` for what it needs."""

from __future__ import annotations

from typing import Annotated

import typer

from scenelift.cli_data import Data
from scenelift.cli_options import (
    CacheRoot,
    Classes,
    Clip,
    DataRecipe,
    Device,
    Download,
    Out,
    Preset,
    Recipe,
    Sam,
    Seed,
    Set,
    Teacher,
)
from scenelift.errors import ConfigError, printable


def with_address(arguments: list[str]) -> list[str]:
    """``--ray`` may stand without an address, which Typer has no option for."""
    following = [*arguments[1:], "-"]
    return [
        "--ray=auto" if argument == "--ray" and after.startswith("-") else argument
        for argument, after in zip(arguments, following, strict=False)
    ]


def annotate(
    data: Data,
    out: Out,
    classes: Classes = None,
    teacher: Teacher = None,
    clip: Clip = None,
    sam: Sam = None,
    recipe: Recipe = "cns",
    data_recipe: DataRecipe = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache: CacheRoot = None,
    download: Download = False,
    preview: Annotated[
        int, typer.Option(min=0, help="Frames to show on OUT/preview.jpg; 8 fit a screen.")
    ] = 0,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the I-th of N shares of the scenes, from 1/N.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="[ADDRESS]", help="By workers of a Ray cluster: auto, local, or its address."),
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option(min=1, help="Workers for --ray; one a GPU (CPUs: a machine).")
    ] = None,
) -> None:
    """Run the teachers and the pairing over every frame, into the cache."""
    from scenelift import pipeline
    from scenelift.options import Choices, Teachers, open_session
    from scenelift.preview import write_preview
    from scenelift.ray_annotate import annotate_with_ray
    from scenelift.shards import Shard, annotate_shard

    if shard is not None and (ray is not None or preview):
        raise ConfigError("--shard annotates a share alone: --ray and --preview take the whole; give either")
    if ray_workers is not None and ray is None:
        raise ConfigError("--ray-workers goes with --ray")
    share = None if shard is None else Shard.parse(shard)
    teachers = Teachers(teacher, clip, sam)
    choices = Choices(data, recipe, data_recipe, classes, teachers, set_ or (), seed, device, preset)
    session = open_session(choices, out, cache, download)
    pipeline.check(session)
    if share is not None:
        typer.echo(annotate_shard(session, share))
        return
    if ray is not None:
        annotations = annotate_with_ray(session, ray, ray_workers)
    else:
        annotations = pipeline.annotate(session)
    typer.echo(f"{len(annotations.scenes)} scenes annotated: {session.folder.annotations}")
    if preview:
        names = session.names("train", "val")
        shown = write_preview(
            session.folder.preview, session.source, names, session.classes, annotations, preview
        )
        typer.echo(f"{shown} frames shown: {session.folder.preview}")


def weights(
    recipe: Recipe = "cns",
    data_recipe: DataRecipe = None,
    clip: Clip = None,
    sam: Sam = None,
    set_: Set = None,
    device: Device = "auto",
    download: Download = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the weights that `fit` needs on your own capture: where they are, or how to fetch them."""
    import json

    from scenelift.inventory import inventory, lines, to_json
    from scenelift.options import Choices, Teachers, resolve_config

    own = ["data.source=capture", *(set_ or ())]
    config = resolve_config(
        Choices(".", recipe, data_recipe, teachers=Teachers(None, clip, sam), overrides=own, device=device)
    )
    needed = inventory(config, download)
    typer.echo(json.dumps(to_json(needed), indent=1) if as_json else "\n".join(map(printable, lines(needed))))
    if any(item.problem is not None for item in needed):
        raise typer.Exit(2)
