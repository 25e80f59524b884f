"""``export`` and ``predict`` with ``--as``, tables in narrow terminals, and docs that name every format."""

from __future__ import annotations

import json
import re
from pathlib import Path

import laspy
import pytest

from fixtures_bench import Bench
from fixtures_capture import room_frames, write_capture
from fixtures_cli import Command
from fixtures_scenes import save_untrained_run
from report_samples import sample_row
from scenelift import formats, pipeline
from scenelift.cli_options import show_table
from scenelift.formats import NETWORK_FORMATS, SCENE_FORMATS

ROOT = Path(__file__).resolve().parents[1]


def test_a_run_in_several_formats(
    scenelift: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, monkeypatch)
    folder = bench.train()
    written: list[str] = []

    def note(pair: object, classes: object, out: Path) -> Path:
        written.append("onnx")
        return out / "network_2d.onnx"

    monkeypatch.setitem(formats.NETWORK_FORMATS, "onnx", note)
    options = ("--cache", tmp_path / "cache", "--device", "cpu")
    ended = scenelift("export", folder.path, "--to", tmp_path / "to", "--as", "laz,coco,onnx", *options)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == [
        f"exported: {tmp_path / 'to' / 'network_2d.onnx'}", f"exported: {tmp_path / 'to'}",
    ]  # fmt: skip
    assert written == ["onnx"]
    for scene in bench.source.scenes:
        assert len(laspy.read(tmp_path / "to" / scene / "points.laz")) == 200
    assert len(json.loads((tmp_path / "to" / "coco" / "panoptic.json").read_text())["images"]) == 8
    assert not list((tmp_path / "to").rglob("*.ply"))
    # refused before any work
    for kind in ("semantickitti", "nuscenes"):
        ended = scenelift("export", folder.path, "--to", tmp_path / "no", "--as", f"ply,{kind}", *options)
        assert f"--as {kind}: expected scenes of" in ended.error
    assert not (tmp_path / "no").exists()


def test_networks_need_neither_data_nor_teachers(
    scenelift: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_untrained_run(tmp_path / "run")
    monkeypatch.setattr(pipeline, "annotate", None)
    monkeypatch.setitem(formats.NETWORK_FORMATS, "torch", lambda pair, classes, out: out / "network_3d.pt2")
    ended = scenelift("export", tmp_path / "run", "--to", tmp_path / "to", "--as", "torch")
    assert (ended.code, ended.out) == (0, f"exported: {tmp_path / 'to' / 'network_3d.pt2'}\n")


def test_new_data_as_las(scenelift: Command, tmp_path: Path) -> None:
    save_untrained_run(tmp_path / "run")
    room = write_capture(tmp_path / "room", room_frames(3))
    command = ("predict", tmp_path / "run", room, "--out", tmp_path / "out", "--device", "cpu", "--as")
    assert "networks are written by `scenelift export" in scenelift(*command, "ply,onnx").error
    assert "did you mean 'las'?" in scenelift(*command, "lass").error
    assert not (tmp_path / "out").exists()
    ended = scenelift(*command, "las")
    assert ended.code == 0, ended.err
    cloud = laspy.read(next((tmp_path / "out" / "predictions").glob("*/points.las")))
    assert set(cloud["label"]) <= {0, 1, 2, 3}


def test_the_docs_and_the_help_name_every_format(scenelift: Command) -> None:
    every = {*SCENE_FORMATS, *NETWORK_FORMATS}
    table = (ROOT / "docs" / "export.md").read_text(encoding="utf-8").split("| format |")[1].split("\n\n")[0]
    named = {
        name for cell in re.findall(r"^\| (`[^|]*) \|", table, re.M) for name in re.findall(r"`(.+?)`", cell)
    }
    assert named == every
    text = " ".join(scenelift("export", "--help").out.split())
    assert [name for name in every if not re.search(rf"\b{name}\b", text)] == []


# --- tables of narrow terminals ----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_no_figure_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [sample_row("maskclip", 0.173, 0.141), sample_row("base_clip", 0.277, 0.26)]
    show_table(rows)
    out = capsys.readouterr().out
    assert "…" not in out
    for row in rows:
        assert row.recipe in out
        assert f"{100 * (row.miou_2d or 0):.1f}" in out
        assert f"{100 * (row.miou_3d or 0):.1f}" in out
