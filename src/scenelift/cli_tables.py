"""``scenelift table``: the paper's tables, every row a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from scenelift.errors import ConfigError, DataError, RunError


def table(
    name: Annotated[str, typer.Argument(metavar="TABLE", help="table1, table2 or readings.")],
    data: Annotated[
        str, typer.Option(help="'synthetic', or a folder of data in any layout that is known.")
    ] = "synthetic",
    out: Out = Path("tables"),
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds, from --seed on; 3, or 1 with --reduced.")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="Only these recipes of the table, e.g. maskclip,cns.")
    ] = None,
    reduced: Annotated[bool, typer.Option("--reduced", help="The 7 rows of table2 that tell most.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; one for each CUDA device if absent, on CPU 1.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Run nothing, show what OUT holds so far.")] = False,
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
    """Every row of one of the paper's tables with several seeds, what the paper says, and what is noise."""
    from rich.console import Console

    from scenelift import pipeline
    from scenelift.options import Choices, Teachers, open_session, resolve_config
    from scenelift.progress import bars
    from scenelift.recipes import BENCH
    from scenelift.runfolder import RunFolder
    from scenelift.runs import Outcome, Run, finished, run_all
    from scenelift.summary import report_notes
    from scenelift.tables import REDUCED, TABLES, Setting, measure, terminal, write_table

    if name not in TABLES:
        raise ConfigError(f"TABLE: expected one of {', '.join(TABLES)}, found {name!r}")
    if reduced and (rows is not None or name != "table2"):
        raise ConfigError("--reduced chooses rows of table2; give it there, and without --rows")
    wanted = TABLES[name]
    if rows is not None:
        wanted = wanted.only([row.strip() for row in rows.split(",") if row.strip()])
    elif reduced:
        wanted = wanted.only(REDUCED)
    if data == "synthetic" and data_recipe is None:
        data_recipe = BENCH
    numbers = tuple(range(seed, seed + (seeds or (1 if reduced else 3))))
    teachers, cache = Teachers(teacher, clip, sam), cache or out / "cache"
    choices = Choices(
        data, wanted.recipes[0], data_recipe, classes, teachers, set_ or (), seed, device, preset
    )
    session = open_session(choices, out, cache, download)
    if session.source.truth is None:
        raise DataError(f"{data}: a table needs ground truth to measure by, and there is none")
    runs = [
        Run(recipe, number, config, RunFolder(out / f"seed{number}" / recipe))
        for number in numbers  # whole tables of one seed first
        for recipe in wanted.recipes
        for config in [resolve_config(choices._replace(method=recipe, seed=number, device=session.device))]
    ]
    learned, judged = session.names("train"), session.names("val")
    source = session.config.data.source
    setting = Setting(
        source=source,
        dataset=f"{source}; scenes: {len(learned)} to learn from, {len(judged)} to judge by",
        classes=session.classes,
        seeds=numbers,
        command=command_line(),
        notes=tuple(report_notes(session.config, True, set(judged) <= set(learned))),
    )
    outcomes = [outcome for run in runs if (outcome := finished(run)) is not None]
    if show:
        if not outcomes:
            raise RunError(f"--show: {out} holds no finished run of this table; leave it out to run them")
    else:
        known = {outcome.run.name for outcome in outcomes}
        if len(known) < len(runs) and data != "synthetic":
            pipeline.check(session)
        if outcomes:
            write_table(out, measure(wanted, setting, outcomes))

        def tell(outcome: Outcome) -> None:
            if outcome.run.name not in known:
                outcomes.append(outcome)
                write_table(out, measure(wanted, setting, outcomes))

        run_all(runs, cache, session.device, jobs, bars, tell, download)
    console = Console()
    for part in terminal(measure(wanted, setting, outcomes)):
        console.print(part)
    if not show:
        typer.echo(f"page: {out / f'{name}.html'}")
