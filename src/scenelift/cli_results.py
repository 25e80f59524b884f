"""``scenelift evaluate``, ``predict`` and ``export``: what becomes of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scenelift.cli_data import Data
from scenelift.cli_options import (
    CacheRoot,
    Deterministic,
    Device,
    Devices,
    Download,
    Nodes,
    Out,
    Set,
    command_line,
    repeat_exactly,
    show_table,
)
from scenelift.errors import ConfigError
from scenelift.workers import enter

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
    from scenelift.opened import config_of_data
    from scenelift.options import reopen_session, session_elsewhere

    repeat_exactly(deterministic)
    if on is not None:
        if (devices or 1) * (nodes or 1) > 1:
            raise ConfigError("--devices, --nodes: --on DATA is evaluated on one device; leave them out")
        from scenelift.api import TrainedRun
        from scenelift.files import safe_name
        from scenelift.runfolder import RunFolder

        trained = TrainedRun(run, device)
        folder = RunFolder(run / "on" / safe_name(Path(on).resolve().name))
        target = config_of_data(on, set_, device)
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
    from scenelift.opened import config_of_data
    from scenelift.options import session_elsewhere
    from scenelift.predict import Predictor
    from scenelift.predictions import write_predictions
    from scenelift.progress import bars
    from scenelift.runfolder import RunFolder

    formats = scenes_only(parse_formats(as_))
    trained = TrainedRun(run, device)
    trained.download = download
    target = config_of_data(data, set_, device)
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
