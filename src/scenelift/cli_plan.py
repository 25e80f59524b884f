"""``scenelift plan``: what a data set will cost, from a probe of a few frames."""

from __future__ import annotations

from pathlib import Path
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
    Preset,
    Recipe,
    Sam,
    Set,
    Teacher,
)
from scenelift.errors import printable


def plan(
    data: Data,
    gpus: Annotated[int, typer.Option(min=1, help="Devices of a host that annotate, one process each.")] = 1,
    hosts: Annotated[int, typer.Option(min=1, help="Hosts with so many devices.")] = 1,
    frames: Annotated[int, typer.Option(min=1, help="Frames to measure, from scattered scenes.")] = 20,
    seconds: Annotated[
        float, typer.Option(min=0, help="Time for the teachers, and again for training steps.")
    ] = 120.0,
    classes: Classes = None,
    teacher: Teacher = None,
    clip: Clip = None,
    sam: Sam = None,
    recipe: Recipe = "cns",
    data_recipe: DataRecipe = None,
    preset: Preset = None,
    set_: Set = None,
    device: Device = "auto",
    cache: CacheRoot = None,
    download: Download = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure every stage on a few frames; hours, bytes and what dominates for all of the data."""
    import json

    from scenelift.options import Choices, Teachers, open_session
    from scenelift.plan import lines_of
    from scenelift.plan import plan as extrapolate
    from scenelift.probe import probe

    place = cache or Path("run/cache")
    teachers = Teachers(teacher, clip, sam)
    choices = Choices(data, recipe, data_recipe, classes, teachers, set_ or (), device=device, preset=preset)
    session = open_session(choices, place.parent, place, download)
    found = extrapolate(session, probe(session, frames, seconds), place, gpus, hosts)
    typer.echo(
        json.dumps(found.to_json(), indent=1) if as_json else "\n".join(map(printable, lines_of(found)))
    )
