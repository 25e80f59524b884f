"""The README's Python example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fixtures_scenes import save_untrained_run, tiny_source

ROOT = Path(__file__).resolve().parents[1]


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert example is not None
    assert len(example[1].split("\n\n", 1)[1].strip().splitlines()) <= 5
    save_untrained_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    source = tiny_source(num_scenes=1)
    scene = source.scene(source.names("train")[0])
    names = {"xyz": scene.points_world, "rgb": scene.rgb, "image": scene.frames[0].image}
    exec(compile(example[1], "README.md", "exec"), names)
    assert names["points"].labels.shape == (len(scene.points_world),)
    assert names["pixels"].labels.shape == scene.frames[0].image.shape[:2]
    assert capsys.readouterr().out.strip()
