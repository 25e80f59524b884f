"""When the monitor called the trainings of a table collapsed, and how rich their predictions were at the end.

    python benchmarks/collapses.py RUNS

RUNS is a folder of `scenelift table`. Each finished log is read step by step, as training does it.
RUNS/collapses.md gets a line for every recipe: in how many of its seeds each network was called collapsed,
how many steps after the switch, and the effective number of classes in the last steps beside that of the
teacher's labels (see `scenelift.collapse`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scenelift.collapse import NETWORKS, Monitor, effective_series
from scenelift.files import atomic_write
from scenelift.runfolder import RunFolder

Log = Sequence[dict[str, Any]]


def switch_step(log: Log) -> int | None:
    """The first step of stage 2."""
    return next((record["step"] for record in log if record["stage"] == 2), None)


def told(log: Log) -> dict[str, int]:
    """For each collapsed network the steps from the switch to the first time that the monitor says so."""
    monitor, found = Monitor(), dict[str, int]()
    switch = switch_step(log)
    for record in log:
        for collapse in monitor.add(record):
            found[collapse.network] = record["step"] - (switch or 0)
    return found


def span(values: Sequence[float], digits: int = 0) -> str:
    """``12`` or ``12–30``."""
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low}–{high}"


def cells(
    name: str, keys: Sequence[str], logs: Sequence[Log], when_told: Sequence[dict[str, int]]
) -> list[str]:
    """Of one network: in how many seeds told, and when; its effective classes at the end / its labels'."""
    steps = [found[name] for found in when_told if name in found]
    when = f"{len(steps)} of {len(logs)}" + (f", after {span(steps)}" if steps else "")
    ends = [[effective_series(log, key)[1][-1] for log in logs] for key in keys]
    return [when, " / ".join(span(values, 1) for values in ends)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", metavar="RUNS", type=Path)
    asked = parser.parse_args()
    trained: dict[str, list[Log]] = {}
    for networks in sorted(asked.runs.glob("seed*/*/networks.safetensors")):
        log = RunFolder(networks.parent).read_log()
        if switch_step(log) is not None:
            trained.setdefault(networks.parent.name, []).append(log)
    heads = [f"{name}: {what}" for *_, name in NETWORKS for what in ("told", "classes / labels")]
    lines = ["| recipe | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for recipe, logs in trained.items():
        when_told = [told(log) for log in logs]
        row = [text for *keys, name in NETWORKS for text in cells(name, keys, logs, when_told)]
        lines.append(f"| `{recipe}` | " + " | ".join(row) + " |")
    page = "\n".join(lines) + "\n"
    atomic_write(asked.runs / "collapses.md", page.encode())
    print(page)


if __name__ == "__main__":
    main()
