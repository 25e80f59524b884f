"""``scenelift doctor``: what is here, what is missing, what would be slow, and how to mend it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scenelift.cli_options import Clip, Device, Sam
from scenelift.errors import printable

if TYPE_CHECKING:
    from scenelift.doctor import Diagnosis
    from scenelift.inventory import Needed


def doctor(
    out: Annotated[Path, typer.Option(help="Where results will go.")] = Path("run"),
    cache: Annotated[Path | None, typer.Option(help="Annotation cache; OUT/cache if absent.")] = None,
    clip: Clip = None,
    sam: Sam = None,
    device: Device = "auto",
    measure: Annotated[bool, typer.Option(help="Measure for about 4 s how fast this machine is.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at the installation: versions, devices, weights, extras, disks, known traps, speed.

    Exit code 1 if nothing will run, with the mend; else 0.
    """
    import json

    from scenelift.doctor import diagnose

    found = diagnose({"out": out, "cache": cache or out / "cache", **_shared_caches()})
    weights: list[Needed] = []
    if not found.broken:  # or nothing below could be imported
        from scenelift.device import resolve_device
        from scenelift.doctor import look_at_weights
        from scenelift.inventory import inventory, to_json
        from scenelift.options import Choices, Teachers, resolve_config
        from scenelift.teachers.hub import is_offline

        own = ["data.source=capture"]
        config = resolve_config(
            Choices(".", teachers=Teachers(None, clip, sam), overrides=own, device=device)
        )
        weights = inventory(config)
        lost = [item.problem for item in weights if item.problem is not None]
        look_at_weights(found, lost, is_offline())
        if measure:
            from scenelift.speed import measure as measure_speed

            found.speed = measure_speed(resolve_device(device))
    if as_json:
        told = to_json(weights)["weights"] if weights else []
        typer.echo(json.dumps({**found.to_json(), "weights": told}, indent=1))
    else:
        for line in _lines(found, weights):
            typer.echo(printable(line))
    if found.broken:
        raise typer.Exit(1)


def _shared_caches() -> dict[str, Path]:
    """Where weights and indices of data sets go, as far as that can be asked."""
    places = {}
    with suppress(Exception):  # a package that is broken is told of elsewhere
        from huggingface_hub import constants

        places["hub cache"] = Path(constants.HF_HUB_CACHE)
        from scenelift.scenes.index import index_folder

        places["indices"] = index_folder()
    return places


def _lines(found: Diagnosis, weights: list[Needed]) -> list[str]:
    """What a terminal is told."""
    from scenelift.doctor import extra_command

    gib, devices = 2**30, found.devices
    lines = ["versions"]
    lines += [f"  {name:<18}{version or 'MISSING'}" for name, version in found.versions.items()]
    memory, free = (devices[key] for key in ("memory_bytes", "free_memory_bytes"))
    told = "" if memory is None else f", {memory / gib:.1f} GiB of memory"
    told += "" if free is None else f", {free / gib:.1f} free"
    lines += ["devices", f"  {'cpu':<18}{devices['machine']}, {devices['cores']:g} cores"]
    lines[-1] += f", {devices['threads']} threads{told}" if "threads" in devices else told
    cuda = [f"{of['name']}, {of['memory_bytes'] / gib:.1f} GiB" for of in devices["cuda"]]
    lines += [f"  {'cuda':<18}{text}" for text in cuda or [f"none: {devices.get('no_cuda', 'not asked')}"]]
    lines.append("extras")
    lines += [
        f"  {name:<18}{'yes' if there else extra_command(name)}" for name, there in found.extras.items()
    ]
    lines.append("disks")
    for name, place in found.places.items():
        size = f"{place['free_bytes'] / gib:.1f} GiB free"
        lines.append(f"  {name:<18}{size}, {place['file_system'] or 'unknown kind'}: {place['path']}")
    if weights:
        from scenelift.inventory import lines as weight_lines

        there = [item for item in weights if item.problem is None]
        lines += ["weights for `fit`", *(f"  {line}" for line in weight_lines(there))]
        lines += [f"  {item.role:<14}{item.kind} {item.spec}: missing" for item in weights if item.problem]
    if found.speed:
        from scenelift.speed import slow_parts

        rate = found.speed["gflop_per_s"]
        lines += [f"speed now ({rate:.0f} GFLOP/s)", *(f"  {line}" for line in slow_parts(found.speed))]
    lines.append("findings" if found.findings else "nothing stands in the way")
    for finding in found.findings:
        lines += [f"  {finding.severity}: {finding.what}", f"    {finding.mend}"]
    return lines
