"""Every block of README.md and docs/ that can be run is run, on stand-ins (`fixtures_docs`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import random_teachers
from fixtures_cli import Command
from fixtures_docs import (
    FRESH,
    NETWORKS,
    PAGES,
    PYTHON_NOT_RUN,
    ROOMS,
    ROOT,
    Block,
    blocks,
    commands,
    parse,
    tiny,
    why_not_run,
)
from fixtures_scenes import save_untrained_run, tiny_source

QUICK = ("README.md",)


def _runs(block: Block) -> bool:
    if block.language == "python":
        whole = "--8<--" in block.text  # an example as a file: tests/test_examples.py
        return not whole and block.page not in PYTHON_NOT_RUN
    return block.language == "bash" and any(
        words[0] == "scenelift" and why_not_run(words[1:]) is None for words in commands(block.text)
    )


def _parts() -> Iterator[object]:
    """Blocks that are run together: those of a page, or each by itself."""
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        found = [block for block in blocks(page) if _runs(block)]
        groups = [[block] for block in found] if name in FRESH else [found] if found else []
        for group in groups:
            marks = () if name in QUICK else pytest.mark.slow
            yield pytest.param(group, id=group[0].where, marks=marks)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Random CLIP and SAM of a few layers."""
    folder = tmp_path_factory.mktemp("teachers")
    random_teachers.save_clip(folder / "clip", seed=0, tiny=True)
    random_teachers.save_sam(folder / "sam", seed=0, tiny=True)
    return folder / "clip", folder / "sam"


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Filled by the first block that needs a run it has not made itself."""
    return {"run": tmp_path_factory.mktemp("finished") / "run"}


@pytest.mark.parametrize("group", list(_parts()))
def test_blocks_run(
    group: list[Block],
    scenelift: Command,
    teachers: tuple[Path, Path],
    finished_run: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for block in group:
        if block.language == "python":
            _run_python(block, tmp_path)
            continue
        for words in commands(block.text):
            if words[0] != "scenelift" or why_not_run(words[1:]) is not None:
                continue
            ask = tiny(words[1:], block.page, tmp_path, *teachers)
            if words[1] in ("evaluate", "predict", "export", "query", "cache"):
                _have_run(words[3 if words[1] == "cache" else 2], scenelift, finished_run["run"])
            parse(ask)
            ended = scenelift(*ask)
            assert ended.code == 0, f"{block.where}: {' '.join(words)}\n{ended.err[-2000:]}"
            assert "Traceback" not in ended.err
        made = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert made, f"{block.where}: nothing was made"


def _have_run(named: str, scenelift: Command, kept: Path) -> None:
    """A finished run on generated rooms at the place that a command names, if none is there."""
    place = Path(Path(named).parts[0])
    if (place / "config.yaml").exists():
        return
    if not kept.exists():
        sets = [part for text in (*NETWORKS, *ROOMS) for part in ("--set", text)]
        assert scenelift("train", "synthetic", "--out", kept, *sets).code == 0
    shutil.copytree(kept, place, dirs_exist_ok=True)


def _run_python(block: Block, folder: Path) -> None:
    """With what the text around the block says is there: a run, a cloud, an image."""
    if not (folder / "run" / "networks.safetensors").exists():
        save_untrained_run(folder / "run")
    scene = tiny_source(num_scenes=1).scenes["scene0"]
    names = {"xyz": scene.points_world, "rgb": scene.rgb, "image": scene.frames[0].image}
    exec(compile(block.text, block.where, "exec"), names)
