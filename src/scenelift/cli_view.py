"""``scenelift query`` and ``scenelift view``: ask a run for any phrase, and look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scenelift.cli_options import Device, Download
from scenelift.errors import ConfigError, printable

Cache = Annotated[
    Path | None, typer.Option(help="Annotation cache; in the run's folder or beside it if absent.")
]
SetOn = Annotated[list[str] | None, typer.Option("--set", help="A key of the data's configuration.")]


def query(
    run: Annotated[Path, typer.Argument(help="Folder of a run, as given to --out.")],
    text: Annotated[list[str], typer.Option(help='A phrase, e.g. "something to sit on"; may be repeated.')],
    out: Annotated[Path, typer.Option(help="Folder for clouds, heat maps and query.json.")],
    on: Annotated[str | None, typer.Option(metavar="DATA", help="Other data than the run's own.")] = None,
    scene: Annotated[list[str] | None, typer.Option(help="Only this scene; may be repeated.")] = None,
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Ask the label teacher's features, not the networks.")
    ] = False,
    threshold: Annotated[
        float | None, typer.Option(min=-1, max=1, help="Least similarity; each scene's own if absent.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Things listed for each phrase and scene.")] = 10,
    frames: Annotated[int, typer.Option(min=0, help="Frames of a scene that get heat maps.")] = 12,
    set_: SetOn = None,
    device: Device = "auto",
    cache: Cache = None,
    download: Download = False,
) -> None:
    """Find what a phrase means in clouds and images; no training, no labels."""
    from scenelift.opened import open_run
    from scenelift.progress import bars
    from scenelift.query import write_queries
    from scenelift.query.files import lines

    if teacher and on is not None:
        raise ConfigError(
            "--teacher, --on: the teacher's features are those of the run's own data; give either"
        )
    opened = open_run(run, device, cache, on, set_, download)
    names = chosen(opened.names(), scene)
    asker, asked = opened.asker(teacher), opened.query(tuple(text))
    about = {
        "run": str(run),
        "data": on if on is not None else opened.config.data.model_dump(mode="json"),
        "set": list(set_ or ()),
        "asked": type(asker).__name__,
        "networks": "" if opened.trained is None else opened.trained.pair.digest,
    }
    told = write_queries(
        opened.source,
        names,
        asked,
        asker,
        about,
        out,
        threshold=threshold,
        top=top,
        frames=frames,
        progress=bars,
    )
    for name in names:
        for phrase in asked.phrases:
            typer.echo("\n".join(printable(line) for line in lines(told, name, phrase)))
    typer.echo(f"query: {out / 'query.json'}")


def chosen(names: tuple[str, ...], wanted: list[str] | None) -> tuple[str, ...]:
    """The scenes of these names; all of them if none is named. Raises `ConfigError` for an unknown one."""
    if not wanted:
        return names
    unknown = [name for name in wanted if name not in names]
    if unknown:
        near = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
        raise ConfigError(f"--scene: expected one of {len(names)} scenes ({near}), found {unknown[0]!r}")
    return tuple(dict.fromkeys(wanted))


def view(
    run_or_data: Annotated[
        str, typer.Argument(metavar="RUN|DATA", help="Folder of a run, a folder of data, or 'synthetic'.")
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="The next free one if it is taken.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    scene: Annotated[str | None, typer.Option(help="The scene to begin with.")] = None,
    points: Annotated[
        int, typer.Option(min=1000, help="Most points sent; a coarse cloud comes first.")
    ] = 2_000_000,
    palette: Annotated[
        str, typer.Option(help="safe (for all eyes) or own (the data set's colours).")
    ] = "safe",
    set_: SetOn = None,
    device: Device = "auto",
    cache: Cache = None,
    download: Download = False,
) -> None:
    """Look at a run's or a data set's scenes in the browser: labels, errors, cameras, queries."""
    from scenelift.opened import is_run, open_data, open_run, runs_below
    from scenelift.viewer import PALETTES, require_viser, serve

    require_viser()
    if palette not in PALETTES:
        raise ConfigError(f"--palette: expected {' or '.join(PALETTES)}, found {palette!r}")
    path = Path(run_or_data)
    if run_or_data == "synthetic" or not (is_run(path) or runs_below(path)):
        opened = open_data(run_or_data, device, set_)
    else:
        opened = open_run(path, device, cache, None, set_, download)
    first = chosen(opened.names(), None if scene is None else [scene])[:1]
    if not first:
        raise ConfigError(f"{run_or_data}: expected at least one scene to look at, found none")
    serve(opened, first[0], host, port, points, palette, open_, typer.echo)
