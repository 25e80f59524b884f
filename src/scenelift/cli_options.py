"""Options that several commands have."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scenelift.report import ReportRow
    from scenelift.world import World

_RECIPE = 8
"""Columns of the terminal that the recipe's name needs at least."""

Out = Annotated[Path, typer.Option(help="Folder for the results; an earlier run there goes on.")]
Recipe = Annotated[str, typer.Option(help="Method or ablation by name, or a YAML file.")]
DataRecipe = Annotated[
    str | None,
    typer.Option(help="Sizes and networks by name or YAML file; chosen by DATA and device if absent."),
]
Preset = Annotated[
    str | None, typer.Option(help="Reading of what the paper leaves open: paper, derived, or a YAML file.")
]
Classes = Annotated[str | None, typer.Option(help='Class names, e.g. "wall, floor, sofa / couch".')]
Teacher = Annotated[
    str | None, typer.Option(help="Instead of CLIP and SAM: simulated (needs ground truth) or embedded.")
]
Clip = Annotated[str | None, typer.Option(metavar="SPEC", help="CLIP: hub id, org/name@revision, or folder.")]
Sam = Annotated[str | None, typer.Option(metavar="SPEC", help="SAM: hub id, folder, or Meta's .pth file.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch weights that are not on this machine.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any configuration key, e.g. train.epochs=5.")]
Seed = Annotated[int, typer.Option(min=0, help="Of initialisation, order and augmentation.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Devices = Annotated[
    int | None, typer.Option(min=1, help="Devices of each host that share the work; 1, or as launched.")
]
Nodes = Annotated[int | None, typer.Option(min=1, help="Hosts, each started by torchrun or srun.")]
Precision = Annotated[str | None, typer.Option(help="32-true or bf16-mixed; as --set train.precision.")]
Deterministic = Annotated[
    bool,
    typer.Option("--deterministic", help="The same to the bit each time, on CUDA and any number of threads."),
]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Threads that draw batches; as --set train.workers.")
]
CacheRoot = Annotated[Path | None, typer.Option("--cache", help="Annotation cache; OUT/cache if absent.")]

Track = Annotated[
    list[str] | None,
    typer.Option(metavar="TRACKER", help="Tell of every step: tensorboard, or package.module:Class."),
]


def repeat_exactly(wanted: bool) -> None:
    """What ``--deterministic`` asks for."""
    if wanted:
        from scenelift import device

        device.repeat_exactly()


def with_named(overrides: list[str] | None, precision: str | None, workers: int | None) -> list[str]:
    """What ``--set`` says, and the keys that have an option of their own."""
    named = {"train.precision": precision, "train.workers": workers}
    return [*(overrides or ()), *(f"{key}={value}" for key, value in named.items() if value is not None)]


def say(world: World, text: str) -> None:
    """Print, once in all processes."""
    if world.first:
        typer.echo(text)


def show_table(rows: Sequence[ReportRow]) -> None:
    """Print the table of methods; in a terminal too narrow for it, a line each, so that no figure is cut."""
    from rich.console import Console
    from rich.measure import Measurement

    from scenelift.report import terminal_table
    from scenelift.report.data import percent

    console, table = Console(), terminal_table(rows)
    if Measurement.get(console, console.options, table).minimum + _RECIPE <= console.width:
        console.print(table)
        return
    typer.echo("mIoU in %")
    for row in rows:
        in_2d, in_3d = percent(row.on("2D").miou), percent(row.on("3D").miou)
        typer.echo(f"{row.recipe}: 2D {in_2d}, 3D {in_3d}")


def command_line() -> str:
    """The command as it was typed, for reports."""
    return shlex.join(["scenelift", *sys.argv[1:]])
