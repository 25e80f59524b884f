"""``scenelift table``: two rows with two seeds on tiny rooms, stopped and gone on with, and its errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures_capture import room_frames, write_capture
from fixtures_cli import Command

TINY = [
    "data.train_rooms=1", "data.val_rooms=2", "data.frames_per_room=3", "data.width=64", "data.height=48",
    "train.epochs=2", "train.switch_after=1", "train.scenes_per_step=1", "train.frames_per_scene=2",
    "networks.points.voxel_m=0.3", "latent.dim=8",
]  # fmt: skip


def asking(out: Path, rows: str = "maskclip,base_clip", *more: str) -> list[str]:
    sets = [part for one in TINY for part in ("--set", one)]
    options = ["--data-recipe", "synthetic_small", "--device", "cpu", "--rows", rows, "--out", str(out)]
    return ["table", "table2", *options, *sets, *more]


def read(out: Path) -> dict[str, object]:
    tree = json.loads((out / "table2.json").read_text())
    assert isinstance(tree, dict)
    return tree


def test_a_table_goes_on_where_it_was_stopped(
    scenelift: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = scenelift(*asking(out, "maskclip", "--seeds", "1"))
    assert first.code == 0, first.err
    assert read(out)["runs"] == {"done": 1, "total": 1}
    stamp = (out / "seed0" / "maskclip" / "evaluation.json").stat().st_mtime_ns

    shown = scenelift(*asking(out, "maskclip,base_clip", "--seeds", "2", "--show"))
    assert shown.code == 0, shown.err
    assert "1 of 4 runs done." in shown.out
    assert not (out / "seed1").exists()

    ended = scenelift(*asking(out, "maskclip,base_clip", "--seeds", "2"))
    assert ended.code == 0, ended.err
    assert "Baseline" in ended.out
    assert "Base+CLIP" in ended.out
    assert f"page: {out / 'table2.html'}" in ended.out
    assert (out / "seed0" / "maskclip" / "evaluation.json").stat().st_mtime_ns == stamp
    tree = read(out)
    assert tree["runs"] == {"done": 4, "total": 4}
    rows = tree["rows"]
    assert isinstance(rows, list)
    assert [row["recipe"] for row in rows] == ["maskclip", "base_clip"]
    assert all(row[kind]["by_seed"].keys() == {"0", "1"} for row in rows for kind in ("2D", "3D"))
    for seed in ("seed0", "seed1"):
        assert (out / seed / "base_clip" / "networks.safetensors").is_file()
        assert not (out / seed / "maskclip" / "networks.safetensors").exists()

    # a stop after any run leaves a table of what there is
    shutil.rmtree(out / "seed1")
    for name in ("table2.json", "table2.html", "table2.md"):
        (out / name).unlink()
    monkeypatch.setattr("scenelift.runs.run_all", stopped)
    assert scenelift(*asking(out, "maskclip,base_clip", "--seeds", "2")).code == 130
    assert read(out)["runs"] == {"done": 2, "total": 4}

    other = scenelift(*asking(out, "maskclip", "--set", "train.lr=0.5"))
    assert "holds another run (it differs in train.lr)" in other.error


def stopped(*args: object) -> None:
    from scenelift import cli

    raise cli._Stopped(2)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["table3"], "expected one of table1, table2, readings, found 'table3'"),
        (["table2", "--rows", "cns,cnss"], "found 'cnss'"),
        (["table2", "--rows", " , "], "found none"),
        (["table2", "--reduced", "--rows", "cns"], "--reduced chooses rows of table2"),
        (["table1", "--reduced"], "--reduced chooses rows of table2"),
        (["table2", "--preset", "papr"], "did you mean 'paper'?"),
        (["table2", "--data", "NOWHERE"], "nowhere"),
        (["table2", "--set", "train.epoch=3"], "did you mean 'epochs'?"),
        (["table2", "--show"], "holds no finished run of this table"),
        (["table2", "--data", "ROOM", "--teacher", "embedded", "--classes", "wall, floor"],
         "needs ground truth"),
    ],
)  # fmt: skip
def test_user_errors_are_one_line(scenelift: Command, tmp_path: Path, args: list[str], expected: str) -> None:
    if "ROOM" in args:
        write_capture(tmp_path / "room", room_frames(2))
    named = {"NOWHERE": str(tmp_path / "nowhere"), "ROOM": str(tmp_path / "room")}
    ended = scenelift("table", *(named.get(arg, arg) for arg in args), "--out", tmp_path / "out")
    assert expected in ended.error
    assert ended.out == ""
    assert not (tmp_path / "out").exists()


def test_help_shows_an_example_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['scenelift', 'table', '--help']\n"
        "from scenelift.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'rich', 'numpy', 'transformers', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Example: scenelift table table2" in " ".join(done.stdout.split())
    assert done.stdout.splitlines()[-1] == "heavy: []"
