"""The command line. Heavy imports live inside the commands, so that --help answers at once."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scenelift import (
    cli_annotate,
    cli_cache,
    cli_data,
    cli_doctor,
    cli_plan,
    cli_report,
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
    show_table,
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
app.command("report", epilog="Example: scenelift report demo/seed0 --out comparison.html")(cli_report.report)

app.command("query", epilog='Example: scenelift query run --text "something to sit on" --out found')(
    cli_view.query
)
app.command("view", epilog="Example: scenelift view run")(cli_view.view)

if TYPE_CHECKING:
    from scenelift.world import World

SetOn = Annotated[list[str] | None, typer.Option("--set", help="A key of --on's data.")]
As = Annotated[
    str,
    typer.Option(
        "--as",
        metavar="FORMATS",
        help="ply, png, las, laz, coco, semantickitti, nuscenes, embeddings, pixel-embeddings; "
        "export also has onnx, torch. Several with commas.",
    ),
]
RunArg = Annotated[Path, typer.Argument(help="Folder of a run, as given to --out.")]


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


def _repeat_exactly(wanted: bool) -> None:
    if wanted:
        from scenelift.device import repeat_exactly

        repeat_exactly()


def _with(overrides: list[str] | None, precision: str | None, workers: int | None) -> list[str]:
    named = {"train.precision": precision, "train.workers": workers}
    return [*(overrides or ()), *(f"{key}={value}" for key, value in named.items() if value is not None)]


def _say(world: World, text: str) -> None:
    if world.first:
        typer.echo(text)


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
        str, typer.Option(help="small (about 90 s on 2 cores) or full (about 6 minutes).")
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

    _repeat_exactly(deterministic)
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
    _repeat_exactly(deterministic)
    from scenelift import pipeline
    from scenelift.options import Teachers, open_session
    from scenelift.tracking import open_trackers

    trackers, teachers = open_trackers(track), Teachers(teacher, clip, sam)
    session = open_session(
        data,
        out,
        recipe,
        data_recipe,
        classes,
        teachers,
        _with(set_, precision, workers),
        seed,
        device,
        cache,
        download,
        preset,
        world,
    )
    session.trackers = trackers
    pipeline.check(session)
    pair = pipeline.train(session, pipeline.annotate(session))
    _say(world, "this recipe trains nothing" if pair is None else f"networks: {session.folder.networks}")


@app.command(epilog="Example: scenelift evaluate run")
def evaluate(
    run: RunArg,
    on: Annotated[
        str | None, typer.Option(metavar="DATA", help="Let its networks answer for other data.")
    ] = None,
    set_: SetOn = None,
    device: Device = "auto",
    cache: CacheRoot = None,
    download: Download = False,
    devices: Devices = None,
    nodes: Nodes = None,
    deterministic: Deterministic = False,
) -> None:
    """Compare a run's predictions with ground truth; prints and saves mIoU and coverage."""
    from scenelift import pipeline
    from scenelift.options import Teachers, reopen_session, resolve_config, session_elsewhere

    _repeat_exactly(deterministic)
    if on is not None:
        if (devices or 1) * (nodes or 1) > 1:
            raise ConfigError("--devices, --nodes: --on DATA is evaluated on one device; leave them out")
        from scenelift.api import TrainedRun
        from scenelift.files import safe_name
        from scenelift.runfolder import RunFolder

        trained = TrainedRun(run, device)
        folder = RunFolder(run / "on" / safe_name(Path(on).resolve().name))
        target = resolve_config(on, "cns", None, None, Teachers(), set_, 0, device)
        elsewhere = session_elsewhere(trained, target, folder, device)
        rows = [pipeline.evaluate_elsewhere(elsewhere, trained.pair)]
        show_table(rows)
        typer.echo(f"results: {folder.results}")
        return
    if set_:
        raise ConfigError("--set: a run's own configuration stays as it is; it goes with --on DATA")
    if (world := enter(devices, nodes, device)) is None:
        return
    session = reopen_session(run, device, cache, download, world)
    annotations = pipeline.annotate(session)
    pair = pipeline.train(session, annotations)
    rows = [pipeline.row(session, pipeline.evaluate(session, annotations, pair))]
    if not world.first:
        return
    pipeline.report(session, annotations, pair, rows, session.folder, command_line())
    show_table(rows)
    typer.echo(f"report: {session.folder.report}")


@app.command(epilog="Example: scenelift predict run other_room/ --out labelled")
def predict(
    run: RunArg,
    data: Data,
    out: Out,
    classes: Annotated[
        str | None,
        typer.Option(help='Other classes than the run\'s, e.g. "chair, lamp"; nothing is trained.'),
    ] = None,
    none_of_these: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.5, metavar="SHARE", help="No label where no class fits; 0.05 is a good start."
        ),
    ] = None,
    as_: As = "ply,png",
    set_: Set = None,
    device: Device = "auto",
    download: Download = False,
) -> None:
    """Label new data with the networks of a run; no teacher is needed, but for other classes its words."""
    from scenelift import pipeline
    from scenelift.api import TrainedRun
    from scenelift.formats import check_formats, parse_formats, scenes_only
    from scenelift.options import Teachers, resolve_config, session_elsewhere
    from scenelift.predict import Predictor
    from scenelift.predictions import write_predictions
    from scenelift.progress import bars
    from scenelift.runfolder import RunFolder

    formats = scenes_only(parse_formats(as_))
    trained = TrainedRun(run, device)
    trained.download = download
    target = resolve_config(data, "cns", None, None, Teachers(), set_, 0, device)
    if classes is not None or none_of_these is not None:
        listed = None if classes is None else classes.split(",")
        trained = trained.with_classes(listed, none_of_these, bars)
    session = session_elsewhere(trained, target, RunFolder(out), device)
    check_formats(formats, session.source, session.classes, session.config)
    pipeline.check(session)
    session.folder.claim(session.config)
    predictor = Predictor(session.config, trained.pair, None)
    names = session.names("train", "val")
    digest = f"{session.config.digest()} {trained.pair.digest}"
    place, progress = out / "predictions", session.progress
    write_predictions(session.source, names, session.classes, predictor, digest, place, progress, formats)
    typer.echo(f"predictions: {out / 'predictions'}")


@app.command(epilog="Example: scenelift export run --to labelled --as ply,las,onnx")
def export(
    run: RunArg,
    to: Annotated[Path, typer.Option(help="Folder for the files.")],
    as_: As = "ply,png",
    device: Device = "auto",
    cache: CacheRoot = None,
    download: Download = False,
) -> None:
    """Write a run's labels of its own scenes, or its networks, in the formats of other programs."""
    from scenelift import pipeline
    from scenelift.formats import NETWORK_FORMATS, SCENE_FORMATS, check_formats, parse_formats

    names = parse_formats(as_)
    of_scenes = [name for name in names if name in SCENE_FORMATS]
    if of_scenes:
        from scenelift.options import reopen_session

        session = reopen_session(run, device, cache, download)
        check_formats(of_scenes, session.source, session.classes, session.config)
    if of_networks := [name for name in names if name in NETWORK_FORMATS]:
        from scenelift.api import TrainedRun
        from scenelift.progress import bars

        trained = TrainedRun(run, "cpu")
        for name in of_networks:
            with bars(f"export {name}", 1, 0) as advance:
                file = NETWORK_FORMATS[name](trained.pair, trained.classes, to)
                advance("")
            typer.echo(f"exported: {file}")
    if of_scenes:
        annotations = pipeline.annotate(session)
        pipeline.predict(session, annotations, pipeline.train(session, annotations), to, of_scenes)
        typer.echo(f"exported: {to}")


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
    _repeat_exactly(deterministic)
    from scenelift import pipeline
    from scenelift.options import Teachers, open_session
    from scenelift.tracking import open_trackers

    trackers, teachers = open_trackers(track), Teachers(teacher, clip, sam)
    session = open_session(
        data,
        out,
        recipe,
        data_recipe,
        classes,
        teachers,
        _with(set_, precision, workers),
        seed,
        device,
        cache,
        download,
        preset,
        world,
    )
    session.trackers = trackers
    pipeline.fit(session, command_line())
    _say(world, f"labels: {session.folder.predictions}\nreport: {session.folder.report}")
