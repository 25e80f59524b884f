"""``scenelift report``: the page of a finished run again, or one that compares several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scenelift.cli_options import Device, command_line
from scenelift.errors import ConfigError


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or a folder that holds some.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; RUN/report.html, or comparison.html for several runs.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Annotation cache; RUN/cache or that of a folder above.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Rebuild a run's report from what is saved, or compare runs: differences are to the first one."""
    if out is not None and out.is_dir():
        raise ConfigError(
            f"--out {out}: expected a file, found a folder; name one such as {out / 'page.html'}"
        )
    from scenelift.progress import bars
    from scenelift.saved import open_runs, rebuild_report
    from scenelift.side_by_side import compare_runs

    opened = open_runs(runs)
    if len(opened) == 1:
        page = out or opened[0].folder.report
        rebuild_report(opened[0], page, command_line(), cache, device, bars)
    else:
        page = out or Path("comparison.html")
        compare_runs(opened, page, command_line(), cache, device, bars)
    typer.echo(f"report: {page}")
