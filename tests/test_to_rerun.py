"""The Rerun example writes a recording that Rerun verifies; skipped where rerun-sdk is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fixtures_scenes import CLASSES, tiny_source
from scenelift.export import write_labelled_ply

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "to_rerun.py"


def run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLE), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True)


def test_exported_clouds_become_a_recording(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed; it is no extra, for its size")
    source = tiny_source(points=50)
    for name, scene in source.scenes.items():
        labels = np.arange(50, dtype=np.uint8) % 4
        sure = np.linspace(0, 1, 50, dtype=np.float32)
        write_labelled_ply(tmp_path / name / "points.ply", scene.points_world, labels, sure, CLASSES)
    out = tmp_path / "run.rrd"
    done = run(tmp_path, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"2 scenes: {out}\n"
    checked = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "verify", str(out)], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    assert "verified without error" in checked.stdout + checked.stderr
    told = run(tmp_path / "scene0", "--out", out)
    assert told.returncode == 1
    assert "expected SCENE/points.ply below it" in told.stderr
