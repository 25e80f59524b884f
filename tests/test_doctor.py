"""What the doctor finds on installations that are ill in known ways."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from fixtures_cli import Command
from scenelift import doctor, speed
from scenelift.doctor import Diagnosis, diagnose

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
Usage = namedtuple("Usage", ["total", "used", "free"])


def declared() -> list[Requirement]:
    """Requirements of pyproject.toml, as an installed package tells them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [Requirement(one) for one in project["dependencies"]]
    for name, body in project["optional-dependencies"].items():
        found += [Requirement(f'{one}; extra == "{name}"') for one in body]
    return found


@pytest.fixture(autouse=True)
def _fresh_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable installation may tell of an earlier pyproject.toml."""
    monkeypatch.setattr(doctor, "_requirements", declared)


def said(found: Diagnosis, severity: str) -> list[str]:
    return [f"{finding.what} | {finding.mend}" for finding in found.findings if finding.severity == severity]


def test_a_sound_installation(tmp_path: Path) -> None:
    found = diagnose({"out": tmp_path / "new" / "run"})
    assert not found.broken
    assert {"scenelift", "python", "torch", "torchvision", "transformers", "numpy"} <= set(found.versions)
    assert None not in found.versions.values()
    assert {"embedded", "formats", "onnx", "ray", "tensorboard", "viewer"} <= set(found.extras)
    assert "dev" not in found.extras
    assert found.devices["cores"] >= 1
    assert found.places["out"]["free_bytes"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert not (tmp_path / "new").exists()
    json.dumps(found.to_json())


def test_missing_and_old_packages_break(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._version
    ill = {"numpy": "1.20.1", "plyfile": None, "viser": None}
    monkeypatch.setattr(doctor, "_version", lambda name: ill.get(name, real(name)))
    found = diagnose({})
    assert said(found, "broken") == [
        'expected numpy >=1.26, found 1.20.1 | pip install "numpy>=1.26"',
        'expected plyfile >=1.0, found it not installed | pip install "plyfile>=1.0"',
    ]
    assert found.broken
    assert found.extras["viewer"] is False
    assert doctor.extra_command("viewer") == 'pip install "scenelift[viewer]"'


def test_torch_that_cannot_be_imported_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return importlib.import_module(name)

    monkeypatch.setattr("scenelift.doctor.import_module", broken)
    (line,) = said(diagnose({}), "broken")
    assert "torchvision cannot be imported (RuntimeError: operator torchvision::nms does not exist)" in line
    assert "pip install --force-reinstall torch torchvision" in line


def test_too_many_threads_and_a_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "usable_cores", lambda: 0.5)
    (line,) = [line for line in said(diagnose({}), "warning") if "threads" in line]
    assert line == (
        "PyTorch would use 1 threads on 0.5 cores, which wait for each other | export OMP_NUM_THREADS=1"
    ) or re.search(r"use \d+ threads on 0\.5 cores", line)


def test_cores_are_those_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_text

    def quota(text: str) -> None:
        def read(path: Path, *args: Any, **keys: Any) -> str:
            return text if str(path) == "/sys/fs/cgroup/cpu.max" else real(path, *args, **keys)

        monkeypatch.setattr(Path, "read_text", read)

    own = len(os.sched_getaffinity(0))
    for text, want in (("max 100000\n", own), ("50000 100000\n", 0.5), ("9999999 100000\n", own), ("?", own)):
        quota(text)
        assert doctor.usable_cores() == want


def test_two_openmp_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "_loaded_libraries", lambda: ["libgomp-1f.so.1", "libiomp5.so", "libgomp.so.1", "libc.so.6"]
    )
    (line,) = [line for line in said(diagnose({}), "warning") if "OpenMP" in line]
    assert "GNU's OpenMP (libgomp) and Intel's OpenMP (libiomp5) are in one process" in line
    monkeypatch.setattr(doctor, "_loaded_libraries", lambda: ["libgomp-1f.so.1", "libgomp.so.1"])
    assert not [line for line in said(diagnose({}), "warning") if "OpenMP" in line]


def test_full_and_network_disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 3 * 2**30))
    monkeypatch.setattr(doctor, "_mounts", lambda: [(str(tmp_path), "nfs4"), ("/", "ext4")])
    found = diagnose({"cache": tmp_path / "cache", "out": tmp_path})
    warnings = said(found, "warning")
    assert sum("3.0 GiB free" in line for line in warnings) == 2
    (network,) = [line for line in warnings if "network disk" in line]
    assert "network disk (nfs4)" in network
    assert "--cache" in network
    assert found.places["cache"]["file_system"] == "nfs4"


def test_missing_weights_and_a_forbidden_connection() -> None:
    for offline, severity, mend in ((True, "warning", "unset it"), (False, "note", "weights --download")):
        found = Diagnosis()
        doctor.look_at_weights(found, ["clip is missing"], offline)
        (finding,) = found.findings
        assert finding.severity == severity
        assert mend in finding.mend
    found = Diagnosis()
    doctor.look_at_weights(found, [], True)
    assert found.findings == []


def test_the_worst_comes_first() -> None:
    found = Diagnosis()
    for severity in ("note", "warning", "broken", "note"):
        found.add(severity, "what", "mend")  # type: ignore[arg-type]
    assert [finding.severity for finding in found.findings] == ["broken", "warning", "note", "note"]


def test_speed_is_measured_and_bounds_follow_from_it() -> None:
    rates = speed.measure("cpu", seconds=0.01)
    assert set(rates) == {"gflop_per_s", "frames_per_s", "points_per_s"}
    assert all(rate > 0 for rate in rates.values())
    told = speed.slow_parts({"gflop_per_s": 98.0, "frames_per_s": 10.0, "points_per_s": 50_000.0})
    assert told[0] == "SAM ViT-B: at least 10 s a frame for its encoder, so 2.8 h for 1,000"
    assert told[2] == "small 2D network: 0.1 s a frame of 320 × 240"
    assert told[3] == "narrow 3D network: 2 s for 100,000 points"


def test_operations_of_the_teachers_are_counted_right() -> None:
    """Against torch's own counter, on the real architectures at full size without memory for weights."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import CLIPVisionConfig, CLIPVisionModel, SamVisionConfig
    from transformers.models.sam.modeling_sam import SamVisionEncoder

    with torch.device("meta"):
        sam = SamVisionEncoder(SamVisionConfig(attn_implementation="eager")).eval()
        clip = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_attention_heads=12,
                num_hidden_layers=12,
                patch_size=16,
                attn_implementation="eager",
            )
        )
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            sam(torch.zeros(1, 3, 1024, 1024))
        assert counted.get_total_flops() == pytest.approx(speed.SAM_B_FLOP, rel=0.05)
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            clip(torch.zeros(1, 3, 448, 592), interpolate_pos_encoding=True)
        assert counted.get_total_flops() == pytest.approx(speed.CLIP_B_FLOP, rel=0.05)


# --- the command ---------------------------------------------------------------------------------------


def test_the_command_and_its_json(
    scenelift: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        speed, "measure", lambda device: {"gflop_per_s": 50.0, "frames_per_s": 9.0, "points_per_s": 9e4}
    )
    ended = scenelift("doctor", "--device", "cpu")
    assert ended.code == 0, ended.err
    for part in ("versions", "devices", "extras", "disks", "weights for `fit`", "speed now (50 GFLOP/s)"):
        assert re.search(rf"^{re.escape(part)}", ended.out, re.M), part
    assert "label teacher clip openai/clip-vit-base-patch16: missing" in ended.out
    assert "scenelift weights --download" in ended.out
    as_json = scenelift("doctor", "--json", "--no-measure", "--out", tmp_path / "x")
    tree = json.loads(as_json.out)
    assert (as_json.code, tree["schema"], tree["broken"], tree["speed"]) == (0, 1, False, {})
    assert {row["role"] for row in tree["weights"]} == {"label teacher", "mask teacher", "2D backbone"}
    assert list(tmp_path.iterdir()) == []


def test_a_broken_installation_is_exit_code_1_with_the_mend(
    scenelift: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "scipy" else real(name))
    ended = scenelift("doctor")
    assert ended.code == 1
    assert "broken: expected scipy >=1.11, found it not installed" in ended.out
    assert 'pip install "scipy>=1.11"' in ended.out
    assert "weights" not in ended.out
    assert json.loads(scenelift("doctor", "--json").out)["broken"] is True
