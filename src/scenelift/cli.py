"""The command line. Heavy imports live inside the commands, so that --help answers at once."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from scenelift.errors import ConfigError, SceneLiftError

app = typer.Typer(
    name="scenelift",
    help="Label-free 2D and 3D segmentation from unlabelled frames, point clouds and class names.",
    epilog="Start with: scenelift demo --size small",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cache_app = typer.Typer(help="Look after an annotation cache.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cache_app, name="cache")

Data = Annotated[str, typer.Argument(help="'synthetic', or the folder of a posed RGB-D capture.")]
Out = Annotated[Path, typer.Option(help="Folder for the results; an earlier run there goes on.")]
Recipe = Annotated[str, typer.Option(help="Method or ablation by name, or a YAML file.")]
DataRecipe = Annotated[
    str | None,
    typer.Option(help="Sizes and networks by name or YAML file; chosen by DATA and device if absent."),
]
Classes = Annotated[str | None, typer.Option(help='Class names, e.g. "wall, floor, sofa / couch".')]
Teacher = Annotated[str | None, typer.Option(help="simulated (needs ground truth) or embedded.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any configuration key, e.g. train.epochs=5.")]
Seed = Annotated[int, typer.Option(min=0, help="Of initialisation, order and augmentation.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
CacheRoot = Annotated[Path | None, typer.Option("--cache", help="Annotation cache; OUT/cache if absent.")]
RunArg = Annotated[Path, typer.Argument(help="Folder of a run, as given to --out.")]


class _Stopped(BaseException):
    """Ctrl-C or a polite kill: unwinds everything, so that no temporary file stays behind."""


def _stop(signum: int, frame: object) -> None:
    raise _Stopped(signum)


def main() -> None:
    """Entry point: a user error is one line and exit code 2; being stopped is 128 + the signal."""
    # Waiting threads soon sleep instead of spinning on: faster by far on a machine that has other work to do.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except SceneLiftError as error:
        typer.echo(f"error: {_printable(str(error))}", err=True)
        sys.exit(2)
    except _Stopped as stopped:
        typer.echo("stopped; the same command goes on from here", err=True)
        sys.exit(128 + stopped.args[0])


def _printable(text: str) -> str:
    """One line without the control characters that file names may carry into a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


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
) -> None:
    """Build rooms, simulate teachers, train, and compare methods. No downloads, no GPU, no labels."""
    from rich.console import Console

    from scenelift.compare import DEMO_DATA, DEMO_RECIPES, Comparison, compare, spread
    from scenelift.device import resolve_device
    from scenelift.files import atomic_write
    from scenelift.progress import bars
    from scenelift.report import terminal_table

    if size not in DEMO_DATA:
        raise ConfigError(f"--size: expected {' or '.join(DEMO_DATA)}, found {size!r}")
    asked = Comparison(
        DEMO_RECIPES,
        DEMO_DATA[size],
        out,
        cache or out / "cache",
        _command(),
        tuple(set_ or ()),
        resolve_device(device),
    )
    rows = {number: compare(asked, number, bars) for number in range(seed, seed + seeds)}
    for number, table in rows.items():
        Console().print(terminal_table(table))
        typer.echo(f"report: {out / f'seed{number}' / 'report.html'}")
    if seeds > 1:
        table_of_seeds = spread(rows)
        atomic_write(out / "spread.md", table_of_seeds.encode())
        typer.echo(table_of_seeds)


@app.command(epilog="Example: scenelift check my_room/")
def check(data: Data, set_: Set = None, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Validate a data set or capture before any work; say what is wrong and how to mend it."""
    import json

    from scenelift.check import check_source, summary_lines, to_json
    from scenelift.options import resolve_config
    from scenelift.scenes.registry import open_source

    config = resolve_config(data, "cns", None, None, None, set_, 0, "cpu")
    report = check_source(open_source(config.data), config)
    if as_json:
        typer.echo(json.dumps(to_json(report), indent=1))
    else:
        typer.echo("\n".join(_printable(line) for line in summary_lines(report)))
    if not report.ok:
        raise typer.Exit(2)


@app.command(
    epilog='Example: scenelift annotate my_room/ --classes "wall, floor" --teacher embedded --out run'
)
def annotate(
    data: Data,
    out: Out,
    classes: Classes = None,
    teacher: Teacher = None,
    recipe: Recipe = "cns",
    data_recipe: DataRecipe = None,
    set_: Set = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache: CacheRoot = None,
    preview: Annotated[
        int, typer.Option(min=0, help="Frames to show on OUT/preview.jpg; 8 fit a screen.")
    ] = 0,
) -> None:
    """Run the teachers and the pairing over every frame, into the cache."""
    from scenelift import pipeline
    from scenelift.options import open_session

    session = open_session(data, out, recipe, data_recipe, classes, teacher, set_, seed, device, cache)
    pipeline.check(session)
    annotations = pipeline.annotate(session)
    typer.echo(f"{len(annotations.scenes)} scenes annotated: {session.folder.annotations}")
    if preview:
        shown = pipeline.preview(session, annotations, preview)
        typer.echo(f"{shown} frames shown: {session.folder.preview}")


@app.command(epilog="Example: scenelift train synthetic --recipe cns --out run")
def train(
    data: Data,
    out: Out,
    classes: Classes = None,
    teacher: Teacher = None,
    recipe: Recipe = "cns",
    data_recipe: DataRecipe = None,
    set_: Set = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache: CacheRoot = None,
) -> None:
    """Train both networks; annotates first what is not annotated yet."""
    from scenelift import pipeline
    from scenelift.options import open_session

    session = open_session(data, out, recipe, data_recipe, classes, teacher, set_, seed, device, cache)
    pipeline.check(session)
    pair = pipeline.train(session, pipeline.annotate(session))
    typer.echo("this recipe trains nothing" if pair is None else f"networks: {session.folder.networks}")


@app.command(epilog="Example: scenelift evaluate run")
def evaluate(run: RunArg, device: Device = "auto", cache: CacheRoot = None) -> None:
    """Compare a run's predictions with ground truth; prints and saves mIoU and coverage."""
    from rich.console import Console

    from scenelift import pipeline
    from scenelift.options import reopen_session
    from scenelift.report import terminal_table

    session = reopen_session(run, device, cache)
    annotations = pipeline.annotate(session)
    pair = pipeline.train(session, annotations)
    rows = [pipeline.row(session, pipeline.evaluate(session, annotations, pair))]
    pipeline.report(session, annotations, pair, rows, session.folder, _command())
    Console().print(terminal_table(rows))
    typer.echo(f"report: {session.folder.report}")


@app.command(epilog="Example: scenelift predict run other_room/ --out labelled")
def predict(run: RunArg, data: Data, out: Out, set_: Set = None, device: Device = "auto") -> None:
    """Label new data with the networks of a run; no teacher is needed."""
    from scenelift import pipeline
    from scenelift.api import TrainedRun
    from scenelift.device import resolve_device
    from scenelift.options import resolve_config
    from scenelift.predict import Predictor
    from scenelift.progress import bars
    from scenelift.runfolder import RunFolder

    trained = TrainedRun(run, device)
    target = resolve_config(data, "cns", None, None, None, set_, 0, device)
    config = trained.config.model_copy(
        update={"data": target.data, "predict": target.predict, "classes": trained.classes.names}
    )
    folder = RunFolder(out)
    session = pipeline.Session(config, folder, folder.cache, resolve_device(device), bars)
    pipeline.check(session)
    folder.claim(config)
    predictor = Predictor(config, trained.pair, None)
    names = session.names("train", "val")
    pipeline.write_predictions(
        session, predictor, names, f"{config.digest()} {trained.pair.digest}", out / "predictions"
    )
    typer.echo(f"predictions: {out / 'predictions'}")


@app.command(epilog="Example: scenelift export run --to labelled")
def export(
    run: RunArg,
    to: Annotated[Path, typer.Option(help="Folder for the files.")],
    device: Device = "auto",
    cache: CacheRoot = None,
) -> None:
    """Write a run's labels of its own scenes: labelled PLY, label PNGs, overlays, legend."""
    from scenelift import pipeline
    from scenelift.options import reopen_session

    session = reopen_session(run, device, cache)
    annotations = pipeline.annotate(session)
    pipeline.predict(session, annotations, pipeline.train(session, annotations), to)
    typer.echo(f"exported: {to}")


@app.command(
    epilog='Example: scenelift fit my_room/ --classes "wall, floor, chair" --teacher embedded --out run'
)
def fit(
    data: Data,
    classes: Classes = None,
    teacher: Teacher = None,
    out: Out = Path("run"),
    recipe: Recipe = "cns",
    data_recipe: DataRecipe = None,
    set_: Set = None,
    seed: Seed = 0,
    device: Device = "auto",
    cache: CacheRoot = None,
) -> None:
    """Everything on your own capture: check, annotate, train, predict, report."""
    from scenelift import pipeline
    from scenelift.options import open_session

    session = open_session(data, out, recipe, data_recipe, classes, teacher, set_, seed, device, cache)
    pipeline.fit(session, _command())
    typer.echo(f"labels: {session.folder.predictions}\nreport: {session.folder.report}")


@cache_app.command("ls", epilog="Example: scenelift cache ls run/cache")
def cache_ls(root: Annotated[Path, typer.Argument(help="Folder of the cache.")]) -> None:
    """Entries and bytes of each stage."""
    from scenelift.cache import Cache

    stats = Cache(_existing(root)).stats()
    for stage, of in stats.items():
        typer.echo(f"{stage:<16}{of.entries:>8} entries {of.bytes / 2**20:>10.1f} MiB")
    if not stats:
        typer.echo("empty")


@cache_app.command("verify", epilog="Example: scenelift cache verify run/cache")
def cache_verify(
    root: Annotated[Path, typer.Argument(help="Folder of the cache.")],
    remove: Annotated[
        bool, typer.Option(help="Remove damaged entries; they are made again when needed.")
    ] = False,
) -> None:
    """Read every entry and compare checksums; exit code 2 if any is damaged."""
    from scenelift.cache import Cache

    damaged = Cache(_existing(root)).verify(remove=remove)
    for item in damaged:
        typer.echo(f"{item.path}: {item.reason}")
    typer.echo(f"{len(damaged)} damaged")
    if damaged and not remove:
        raise typer.Exit(2)


@cache_app.command("prune", epilog="Example: scenelift cache prune run/cache --max-gib 50")
def cache_prune(
    root: Annotated[Path, typer.Argument(help="Folder of the cache.")],
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    older_than_days: Annotated[
        float | None, typer.Option(min=0, help="Only what was last used before.")
    ] = None,
    max_gib: Annotated[
        float | None, typer.Option(min=0, help="Least recently used first, down to this.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
) -> None:
    """Remove entries by stage, age or size."""
    from scenelift.cache import Cache

    limit = None if max_gib is None else int(max_gib * 2**30)
    gone = Cache(_existing(root)).prune(stage, older_than_days, limit, dry_run)
    verb = "would remove" if dry_run else "removed"
    typer.echo(f"{verb} {len(gone)} entries, {sum(item.bytes for item in gone) / 2**20:.1f} MiB")


def _existing(root: Path) -> Path:
    if not root.is_dir():
        raise ConfigError(f"cache {root}: no such folder")
    return root


def _command() -> str:
    return shlex.join(["scenelift", *sys.argv[1:]])
