"""``scenelift cache``: commands that look after an annotation cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scenelift.errors import ConfigError, printable

app = typer.Typer(help="Look after an annotation cache.", no_args_is_help=True, rich_markup_mode=None)


@app.command("ls", epilog="Example: scenelift cache ls run/cache")
def cache_ls(root: Annotated[Path, typer.Argument(help="Folder of the cache.")]) -> None:
    """Entries and bytes of each stage."""
    from scenelift.cache import Cache

    stats = Cache(_existing(root)).stats()
    for stage, of in stats.items():
        typer.echo(f"{printable(stage):<16}{of.entries:>8} entries {of.bytes / 2**20:>10.1f} MiB")
    if not stats:
        typer.echo("empty")


@app.command("verify", epilog="Example: scenelift cache verify run/cache")
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
        typer.echo(printable(f"{item.path}: {item.reason}"))
    typer.echo(f"{len(damaged)} damaged")
    if damaged and not remove:
        raise typer.Exit(2)


@app.command("prune", epilog="Example: scenelift cache prune run/cache --max-gib 50")
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
