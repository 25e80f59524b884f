"""Cost on paper: from what a probe measured to the hours and bytes of a whole data set.

All of it is multiplication; what it takes for granted stands in `ASSUMPTIONS` and is printed with it.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scenelift.batches import steps_per_epoch
from scenelift.cache import Cache
from scenelift.frame_stream import READERS, WRITERS
from scenelift.pipeline import Session, trains
from scenelift.probe import Measured

ASSUMPTIONS = (
    "every frame costs what a frame of the probe cost, and every step what a measured one did for each image",
    "annotation scales perfectly: one process a device, none waits for data, disk or another",
    "reading and encoding run in threads beside the networks; opening scenes and pairing between them",
    "training is counted on one device, though more may share its steps",
    "evaluation and reports are not counted",
    "a cache entry takes the bytes of its file, without the file system's own",
)
NETWORKS = ("opening", "label teacher", "mask teacher", "pairing", "fusion")
"""Stages that keep a device's process busy; the others run beside them."""

_KEPT_AT = {
    "label_features": "label teacher",
    "labels": "encoding",
    "masks": "mask teacher",
    "mask_features": "mask teacher",
    "pairs": "pairing",
    "fused": "fusion",
}
"""Stage that fills a part of the cache."""


@dataclass(frozen=True)
class Line:
    """One stage.

    Attributes:
        stage: its name.
        measured_on: such as ``"20 frames"``.
        seconds: of one unit, on one device or thread.
        unit: ``"frame"``, ``"scene"`` or ``"step"``.
        units: how many there are.
        hours: of work: units times seconds.
        elapsed_hours: of it on all devices and threads.
        bytes: it adds to the cache.
    """

    stage: str
    measured_on: str
    seconds: float
    unit: str
    units: int
    hours: float
    elapsed_hours: float
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What a data set will cost.

    Attributes:
        scenes: in all.
        frames: in all.
        devices: that annotate.
        device: what was measured on, ``"cpu"`` or ``"cuda"``.
        lines: stage by stage.
        annotate_hours: elapsed, networks and what runs beside them.
        train_hours: elapsed.
        dominant: stage with the most elapsed time.
        bytes: the cache will hold.
        files: the cache will hold.
        held_bytes: the cache holds already, of whatever data.
        free_bytes: on its disk.
        peak_bytes: of memory while probing; ``None`` where unknown.
        warnings: what stands in the way, one line each.
        assumptions: `ASSUMPTIONS`.
    """

    scenes: int
    frames: int
    devices: int
    device: str
    lines: tuple[Line, ...]
    annotate_hours: float
    train_hours: float
    dominant: str
    bytes: int
    files: int
    held_bytes: int
    free_bytes: int
    peak_bytes: int | None
    warnings: tuple[str, ...]
    assumptions: tuple[str, ...] = ASSUMPTIONS

    def to_json(self) -> dict[str, Any]:
        """As a plain tree."""
        return asdict(self)


def plan(session: Session, measured: Measured, cache: Path, gpus: int = 1, hosts: int = 1) -> Plan:
    """Extrapolate a probe to the whole data set.

    Args:
        session: the run that is planned.
        measured: its probe.
        cache: folder that annotations will go to; it need not exist.
        gpus: devices of each host that annotate, one process each.
        hosts: how many.
    """
    source, config, devices = session.source, session.config, gpus * hosts
    names = session.names("train", "val")
    frames = sum(map(source.frame_count, names))
    of_stage: dict[str, float] = dict.fromkeys(measured.seconds, 0.0)
    for kept, count in measured.bytes.items():
        of_stage[_KEPT_AT[kept]] += count * (len(names) if kept == "fused" else frames)
    lines = []
    for stage, seconds in measured.seconds.items():
        threads = {"reading": READERS, "encoding": WRITERS}.get(stage, 1)
        unit, units = ("scene", len(names)) if stage == "opening" else ("frame", frames)
        on = f"{measured.scenes if unit == 'scene' else measured.frames} {unit}s"
        hours = seconds * units / 3600
        elapsed = hours / devices / threads
        lines.append(Line(stage, on, seconds, unit, units, hours, elapsed, round(of_stage[stage])))
    networks = sum(line.elapsed_hours for line in lines if line.stage in NETWORKS)
    beside = [line.elapsed_hours for line in lines if line.stage not in NETWORKS]
    annotate_hours = max([networks, *beside])
    larger = measured.images / measured.step_images
    for number, seconds in measured.step_seconds.items():
        steps = _steps(session)[number - 1]
        hours = seconds * larger * steps / 3600
        what = f"{measured.steps} steps of {measured.step_images:.3g} images"
        lines.append(Line(f"training {number}", what, seconds * larger, "step", steps, hours, hours, 0))
    total = sum(line.bytes for line in lines)
    existing = next(path for path in (cache.absolute(), *cache.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    held = sum(of.bytes for of in Cache(cache).stats().values()) if cache.is_dir() else 0
    found = Plan(
        scenes=len(names),
        frames=frames,
        devices=devices,
        device=session.device,
        lines=tuple(lines),
        annotate_hours=annotate_hours,
        train_hours=sum(line.elapsed_hours for line in lines if line.unit == "step"),
        dominant=max(lines, key=lambda line: line.elapsed_hours).stage,
        bytes=total,
        files=round(measured.files * frames),
        held_bytes=held,
        free_bytes=free,
        peak_bytes=measured.peak_bytes,
        warnings=_warnings(measured, config.latent.features, frames, total, held, free, cache),
    )
    return found


def _steps(session: Session) -> tuple[int, int]:
    """Steps of stage 1 and of stage 2."""
    train = session.config.train
    if not trains(session.config):
        return 0, 0
    steps = steps_per_epoch(session.config, len(session.names("train")))
    first = min(train.switch_after, train.epochs)
    return first * steps, (train.epochs - first) * steps


def _warnings(
    measured: Measured, features: str, frames: int, total: int, held: int, free: int, cache: Path
) -> tuple[str, ...]:
    warnings = []
    if total - held > free:
        warnings.append(
            f"does not fit: {cache} needs {size(total)}, holds {size(held)}, its disk has {size(free)} free; "
            "choose another --cache, or fewer frames"
        )
    kept = {stage: of * frames for stage, of in measured.bytes.items()}
    if features == "full" and measured.paired_bytes is not None and kept:
        saved = kept["mask_features"] - measured.paired_bytes * frames
        if max(kept, key=kept.__getitem__).endswith("features") and saved > 0.05 * total:
            warnings.append(
                f"features are the largest part: --set latent.features=paired would save {size(saved)} of "
                f"{size(total)}, measured on the probe; see docs/storage.md for its price"
            )
    if measured.images > 1.5 * measured.step_images and measured.step_seconds:
        warnings.append(
            f"a real step has {measured.images:.3g} images, a measured one {measured.step_images:.3g}: "
            "time is scaled, memory is not; more --frames measure it"
        )
    return tuple(warnings)


def lines_of(found: Plan) -> list[str]:
    """The plan for the terminal."""
    head = ("stage", "measured on", "unit cost", "units", "work", "elapsed", "cache")
    rows = [
        (
            line.stage,
            line.measured_on,
            f"{line.seconds:.3g} s/{line.unit}",
            f"{line.units:,}",
            duration(line.hours),
            duration(line.elapsed_hours),
            size(line.bytes) if line.bytes else "",
        )
        for line in found.lines
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    told = [
        f"{found.scenes:,} scenes, {found.frames:,} frames; annotated by {found.devices} x {found.device}",
        "",
    ]
    for row in (head, *rows):
        cells = [
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        told.append("  ".join(cells).rstrip())
    told += [
        "",
        f"annotation: {duration(found.annotate_hours)}; training: {duration(found.train_hours)}",
        f"most of it is {found.dominant}",
        f"cache: {size(found.bytes)} in {found.files:,} files; {size(found.free_bytes)} free",
    ]
    if found.peak_bytes is not None:
        told.append(f"memory while probing: {size(found.peak_bytes)}")
    told += [f"warning: {warning}" for warning in found.warnings]
    told += ["", "Assumed:", *(f"- {assumption}" for assumption in found.assumptions)]
    return told


def size(count: float) -> str:
    """Bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    return f"{count:,.4g} PiB"


def duration(hours: float) -> str:
    """Hours for people."""
    if hours < 1 / 60:
        return f"{hours * 3600:.3g} s"
    if hours < 1:
        return f"{hours * 60:.3g} min"
    return f"{hours:,.3g} h" if hours < 1000 else f"{hours:,.0f} h"
