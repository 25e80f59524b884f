"""``scenelift sweep``: recipes over the values of a key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scenelift.cli_options import (
    CacheRoot,
    Classes,
    Clip,
    DataRecipe,
    Device,
    Download,
    Out,
    Preset,
    Sam,
    Seed,
    Set,
    Teacher,
    command_line,
)
from scenelift.errors import DataError

if TYPE_CHECKING:
    from scenelift.config import Config


def sweep(
    keys: Annotated[
        list[str],
        typer.Argument(metavar="KEY=V1,V2,...", help="Any configuration key, noise, or a kind of noise."),
    ],
    data: Annotated[
        str, typer.Option(help="'synthetic', or a folder of data in any layout that is known.")
    ] = "synthetic",
    out: Out = Path("sweep"),
    recipes: Annotated[
        str, typer.Option(help="Which are drawn, by name or YAML file.")
    ] = "base_clip,wo_sct,cns",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from --seed on.")] = 3,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; one for each CUDA device if absent, on CPU 1.")
    ] = None,
    preset: Preset = None,
    classes: Classes = None,
    teacher: Teacher = None,
    clip: Clip = None,
    sam: Sam = None,
    data_recipe: DataRecipe = None,
    set_: Set = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache: CacheRoot = None,
    download: Download = False,
) -> None:
    """Train recipes at several values of a key, and draw mIoU against it beside the teacher's own."""
    from scenelift import pipeline
    from scenelift.device import resolve_device
    from scenelift.options import Choices, Teachers, resolve_config
    from scenelift.progress import bars
    from scenelift.recipes import BENCH
    from scenelift.runs import Outcome, run_all
    from scenelift.sweep import make_plan, parse_key
    from scenelift.sweep_results import Results, write_sweep

    if data == "synthetic" and data_recipe is None:
        data_recipe = BENCH
    device, teachers = resolve_device(device), Teachers(teacher, clip, sam)

    def configure(recipe: str, overrides: Sequence[str]) -> Config:
        settled = (*(set_ or ()), *overrides)
        return resolve_config(
            Choices(data, recipe, data_recipe, classes, teachers, settled, seed, device, preset)
        )

    wanted = [name.strip() for name in recipes.split(",") if name.strip()]
    plan = make_plan([parse_key(text) for text in keys], wanted, range(seed, seed + seeds), out, configure)
    cache = cache or out / "cache"
    first = plan.runs[0]
    session = pipeline.Session(first.config, first.folder, cache, device, bars, download=download)
    if not session.names("train"):
        raise DataError(f"{data}: expected at least one scene to learn from, found none")
    if session.source.truth is None:
        raise DataError(f"{data}: a sweep needs ground truth to measure by, and there is none")
    if data != "synthetic":
        pipeline.check(session)
    learned, judged = len(session.names("train")), len(session.names("val"))
    source = session.config.data.source
    dataset = f"Data: {source}; scenes: {learned} to learn from, {judged} to judge by."
    outcomes: dict[Path, Outcome] = {}

    def tell(outcome: Outcome) -> None:
        outcomes[outcome.run.folder.path] = outcome
        write_sweep(out, Results(plan, outcomes, command_line(), dataset))

    run_all(plan.runs, cache, device, jobs, bars, tell, download)
    for name in ("html", "md", "json"):
        typer.echo(f"written: {out / f'sweep.{name}'}")
