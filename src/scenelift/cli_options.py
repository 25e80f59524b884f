"""Options that several commands have."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

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


def command_line() -> str:
    """The command as it was typed, for reports."""
    return shlex.join(["scenelift", *sys.argv[1:]])
