"""The command line. Heavy imports live inside the commands, so that --help answers at once."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from scenelift import (
    cli_annotate,
    cli_cache,
    cli_data,
    cli_doctor,
    cli_plan,
    cli_report,
    cli_results,
    cli_sweep,
    cli_tables,
    cli_view,
)
from scenelift.cli_data import Data
from scenelift.cli_options import (
    CacheRoot,
    Classes,
    Clip,
    DataRecipe,
    Deterministic,
    Device,
    Devices,
    Download,
    Nodes,
    Out,
    Precision,
    Preset,
    Recipe,
    Sam,
    Seed,
    Set,
    Teacher,
    Track,
    Workers,
    command_line,
    repeat_exactly,
    say,
    show_table,
    with_named,
)
from scenelift.errors import ConfigError, PeerError, SceneLiftError, printable
from scenelift.workers import PEER_LOST, enter, is_watched

app = typer.Typer(
    name="scenelift",
    help="Label-free 2D and 3D segmentation from unlabelled frames, point clouds and class names.",
    epilog="Start with: scenelift demo --size small",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cli_cache.app, name="cache")
app.command("check", epilog="Example: scenelift check /data/scannet --out check")(cli_data.check)
app.command("import", epilog="Example: scenelift import polycam_export/ --as capture --out my_room")(
    cli_data.import_
)
app.command(
    "annotate", epilog='Example: scenelift annotate my_room/ --classes "wall, floor, chair" --out run'
)(cli_annotate.annotate)
app.command("weights", epilog="Example: scenelift weights --sam facebook/sam-vit-base --download")(
    cli_annotate.weights
)
app.command("doctor", epilog="Example: scenelift doctor --json")(cli_doctor.doctor)
app.command("plan", epilog="Example: scenelift plan /data/scannet --gpus 8")(cli_plan.plan)
app.command("table", epilog="Example: scenelift table table2 --data synthetic --seeds 3 --out tables")(
    cli_tables.table
)
app.command("sweep", epilog="Example: scenelift sweep noise=0,0.5,1,2 --recipes base_clip,cns --out sweep")(
    cli_sweep.sweep
)
app.command("evaluate", epilog="Example: scenelift evaluate run")(cli_results.evaluate)
app.command("predict", epilog="Example: scenelift predict run other_room/ --out labelled")(
    cli_results.predict
)
app.command("export", epilog="Example: scenelift export run --to labelled --as ply,las,onnx")(
    cli_results.export
)
app.command("report", epilog="Example: scenelift report demo/seed0 --out comparison.html")(cli_report.report)
app.command("query", epilog='Example: scenelift query run --text "something to sit on" --out found')(
    cli_view.query
)
app.command("view", epilog="Example: scenelift view run")(cli_view.view)

SYSTEM_FAULTS = {
    errno.ENOSPC: "make room; the same command goes on from here",
    errno.EDQUOT: "make room; the same command goes on from here",
    errno.EFBIG: "files are limited in size here: raise the limit (ulimit -f)",
    errno.EROFS: "choose a folder that can be written to",
    errno.EMFILE: "too few files may be open: raise the limit (ulimit -n)",
    errno.ENFILE: "too few files may be open on this machine: close other programs",
    errno.EIO: "the disk fails: copy what is on it",
}
"""What no program is to blame for, wherever it shows, and what to do."""


class _Stopped(BaseException):
    """Ctrl-C or a polite kill: unwinds everything, so that no temporary file stays behind."""


class _Printable(logging.Formatter):
    """Warnings name files, and a file's name may hold what a terminal obeys."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _stop(signum: int, frame: object) -> None:
    signal.signal(signum, signal.SIG_DFL)  # who asks again wants it at once, and no traceback
    raise _Stopped(signum)


def main() -> None:
    """Entry point: a user error is one line and exit code 2; being stopped is 128 + the signal."""
    # Waiting threads soon sleep instead of spinning on: faster by far on a machine that has other work to do.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if logging.lastResort is not None:  # writes warnings where nobody has set up more
        logging.lastResort.setFormatter(_Printable())
    sys.argv[1:] = cli_annotate.with_address(sys.argv[1:])
    try:
        app()
    except PeerError as error:
        if not is_watched():  # or whoever watches says it once
            typer.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(PEER_LOST)
    except SceneLiftError as error:
        typer.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.errno not in SYSTEM_FAULTS:
            raise
        place = f" ({error.filename})" if error.filename else ""
        typer.echo(printable(f"error: {error.strerror}{place}; {SYSTEM_FAULTS[error.errno]}"), err=True)
        sys.exit(2)
    except RuntimeError as error:
        if "deterministic" not in str(error):  # else PyTorch names what it cannot do as --deterministic asks
            raise
        typer.echo(f"error: --deterministic: {printable(str(error).splitlines()[0])}; leave it out", err=True)
        sys.exit(2)
    except _Stopped as stopped:
        if not is_watched():
            typer.echo("stopped; the same command goes on from here", err=True)
        sys.exit(128 + stopped.args[0])


@app.callback(invoke_without_command=True)  # or --version would miss a command
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        from scenelift import __version__

        typer.echo(f"scenelift {__version__}")
        raise typer.Exit()


@app.command(epilog="Example: scenelift demo --size small --out demo")
def demo(
    out: Out = Path("demo"),
    size: Annotated[
        str, typer.Option(help="small (2 to 3 minutes on 2 cores) or full (about 4 times that).")
    ] = "full",
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from --seed on.")] = 1,
    set_: Set = None,
    device: Device = "auto",
    cache: CacheRoot = None,
    deterministic: Deterministic = False,
) -> None:
    """Build rooms, simulate teachers, train, and compare methods. No downloads, no GPU, no labels."""
    from scenelift.compare import DEMO_DATA, DEMO_RECIPES, Comparison, compare, expect_own, spread
    from scenelift.device import resolve_device
    from scenelift.files import atomic_write
    from scenelift.progress import bars

    repeat_exactly(deterministic)
    if size not in DEMO_DATA:
        raise ConfigError(f"--size: expected {' or '.join(DEMO_DATA)}, found {size!r}")
    asked = Comparison(
        DEMO_RECIPES,
        DEMO_DATA[size],
        out,
        cache or out / "cache",
        command_line(),
        tuple(set_ or ()),
        resolve_device(device),
    )
    expect_own(out)
    rows = {number: compare(asked, number, bars) for number in range(seed, seed + seeds)}
    for number, table in rows.items():
        show_table(table)
        typer.echo(f"report: {out / f'seed{number}' / 'report.html'}")
    if seeds > 1:
        table_of_seeds = spread(rows)
        atomic_write(out / "spread.md", table_of_seeds.encode())
        typer.echo(table_of_seeds)


@app.command(epilog="Example: scenelift train synthetic --recipe cns --out run")
def train(
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
    devices: Devices = None,
    nodes: Nodes = None,
    precision: Precision = None,
    track: Track = None,
    workers: Workers = None,
    deterministic: Deterministic = False,
) -> None:
    """Train both networks; annotates first what is not annotated yet."""
    if (world := enter(devices, nodes, device)) is None:
        return
    repeat_exactly(deterministic)
    from scenelift import pipeline
    from scenelift.options import Choices, Teachers, open_session
    from scenelift.tracking import open_trackers

    trackers, teachers = open_trackers(track), Teachers(teacher, clip, sam)
    overrides = with_named(set_, precision, workers)
    choices = Choices(data, recipe, data_recipe, classes, teachers, overrides, seed, device, preset)
    session = open_session(choices, out, cache, download, world)
    session.trackers = trackers
    pipeline.check(session)
    pair = pipeline.train(session, pipeline.annotate(session))
    say(world, "this recipe trains nothing" if pair is None else f"networks: {session.folder.networks}")


@app.command(epilog='Example: scenelift fit my_room/ --classes "wall, floor, chair" --out run')
def fit(
    data: Data,
    classes: Classes = None,
    teacher: Teacher = None,
    clip: Clip = None,
    sam: Sam = None,
    out: Out = Path("run"),
    recipe: Recipe = "cns",
    data_recipe: DataRecipe = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache: CacheRoot = None,
    download: Download = False,
    devices: Devices = None,
    nodes: Nodes = None,
    precision: Precision = None,
    track: Track = None,
    workers: Workers = None,
    deterministic: Deterministic = False,
) -> None:
    """Everything on your own capture: check, annotate, train, predict, report."""
    if (world := enter(devices, nodes, device)) is None:
        return
    repeat_exactly(deterministic)
    from scenelift import pipeline
    from scenelift.options import Choices, Teachers, open_session
    from scenelift.tracking import open_trackers

    trackers, teachers = open_trackers(track), Teachers(teacher, clip, sam)
    overrides = with_named(set_, precision, workers)
    choices = Choices(data, recipe, data_recipe, classes, teachers, overrides, seed, device, preset)
    session = open_session(choices, out, cache, download, world)
    session.trackers = trackers
    pipeline.fit(session, command_line())
    say(world, f"labels: {session.folder.predictions}\nreport: {session.folder.report}")
