"""Any damage to any file of a run or its cache: the same results as before, or one error that names the file.

Never a traceback, never a result that differs in silence; and what the error says to do has to help.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures_bench import Bench
from fixtures_faults import attempt
from scenelift import checkpoint, pipeline
from scenelift.api import TrainedRun
from scenelift.errors import ConfigError, DataError, RunError
from scenelift.evaluate import saved_evaluation
from scenelift.recipes import load_resolved
from scenelift.runfolder import RunFolder

KINDS = ("flip", "cut", "empty", "hole", "garbage", "swap", "repeat")
"""A bit; the end; all; zeros, as after power loss; some bytes; a file of the same kind; a part twice."""

MODES = ("finished", "stopped", "stage1")
"""A run with everything, one that was stopped after step 3 of 4, and one that has only the cache."""

EVERY_STEP = {"checkpoint_every": 1}


class Masters(NamedTuple):
    """Undamaged folders by mode, each with ``run`` and ``cache``, and what a whole run results in."""

    bench: Bench
    folders: dict[str, Path]
    results: dict[str, Any]


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Masters]:
    root = tmp_path_factory.mktemp("masters")
    with pytest.MonkeyPatch.context() as patch:
        bench = Bench(root / "finished", patch)
        results = work(bench, root / "finished")
        bench.stop_after = 3
        bench.root = root / "stopped"
        with pytest.raises(KeyboardInterrupt):
            bench.train(train=EVERY_STEP)
        bench.stop_after = None
        shutil.copytree(root / "finished" / "cache", root / "stage1" / "cache")
        yield Masters(bench, {mode: root / mode for mode in MODES}, results)


def work(bench: Bench, root: Path) -> dict[str, Any]:
    """Train, evaluate and predict, as far as that is not done; all that comes out, but for times."""
    bench.root = root
    session = bench.session(train=EVERY_STEP)
    folder = session.folder
    pipeline.fit(session, "x")
    networks = checkpoint.read_networks(folder.networks)[0]
    (row,) = json.loads(folder.results.read_text())["rows"]
    files = sorted(path for path in folder.predictions.rglob("*.*") if path.name != "done.json")
    return {
        "networks": checkpoint.fingerprint(networks),
        "row": {key: value for key, value in row.items() if key != "seconds"},
        "log": [
            {k: v for k, v in record.items() if not k.endswith("seconds")} for record in folder.read_log()
        ],
        "predictions": {str(path.relative_to(root)): path.read_bytes() for path in files},
    }


def damaged(path: Path, kind: str, rng: random.Random) -> bytes:
    data = bytearray(path.read_bytes())
    at = rng.randrange(min(len(data), rng.choice((40, 400, len(data)))))
    if kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "empty":
        data.clear()
    elif kind == "hole":
        data[at : at + 512] = bytes(len(data[at : at + 512]))
    elif kind == "garbage":
        data[at : at + 8] = rng.randbytes(8)
    elif kind == "repeat":
        data[at:at] = data[at : at + rng.randrange(1, 64)]
    else:
        others = sorted(p for p in path.parents[1].rglob(f"*{path.suffix}") if p != path)
        return rng.choice(others).read_bytes() if others else b"{}"
    return bytes(data)


def remedy(root: Path, master: Path, file: Path) -> None:
    """Do what the error said."""
    run = RunFolder(root / "run")
    if file == run.config:
        shutil.copy(master / "run" / "config.yaml", file)  # restore it
    elif file == run.log:  # delete it, and what was trained
        for path in (run.log, run.networks):
            path.unlink(missing_ok=True)
        shutil.rmtree(run.checkpoint.parent)
    elif file.is_relative_to(run.path):
        file.unlink()  # delete it
    # an entry of the cache: the same command again


def try_damage(masters: Masters, tmp: Path, mode: str, pick: float, kind: str, seed: int) -> None:
    master = masters.folders[mode]
    root = tmp / "try"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(master, root)
    files = sorted(path for path in root.rglob("*.*") if path.is_file() and path.stat().st_size)
    file = files[int(pick * len(files))]
    file.write_bytes(damaged(file, kind, random.Random(seed)))
    where = f"{kind} of {file.relative_to(root)} in mode {mode}, seed {seed}"
    found, error = attempt(lambda: work(masters.bench, root))
    if found is None:
        assert file.name in error, where
        remedy(root, master, file)
        found = work(masters.bench, root)
    for what, wanted in masters.results.items():
        assert found[what] == wanted, f"{where}: {what}"


chosen = {
    "mode": st.sampled_from(MODES),
    "pick": st.floats(0, 1, exclude_max=True),
    "kind": st.sampled_from(KINDS),
    "seed": st.integers(0, 2**32),
}


@settings(max_examples=6)
@given(**chosen)
def test_any_damage(
    masters: Masters, tmp_path_factory: pytest.TempPathFactory, mode: str, pick: float, kind: str, seed: int
) -> None:
    try_damage(masters, tmp_path_factory.getbasetemp(), mode, pick, kind, seed)


@pytest.mark.slow
@settings(max_examples=400)
@given(**chosen)
def test_much_damage(
    masters: Masters, tmp_path_factory: pytest.TempPathFactory, mode: str, pick: float, kind: str, seed: int
) -> None:
    try_damage(masters, tmp_path_factory.getbasetemp(), mode, pick, kind, seed)


@pytest.mark.parametrize("kind", ["flip", "cut", "empty", "swap"])
def test_each_file_that_is_read_by_itself(masters: Masters, tmp_path: Path, kind: str) -> None:
    """Every reader of a run's files, with damage at many places: refused, or read as it was."""
    run = RunFolder(masters.folders["finished"] / "run")

    def read(like: Path, path: Path) -> Any:
        if like == run.config:
            return load_resolved(path)
        if like == run.networks:
            return checkpoint.read_networks(path)[2]
        saved = saved_evaluation(path)
        return None if saved is None else saved.log

    file, rng = tmp_path / "file", random.Random(0)
    whole = {path: read(path, path) for path in (run.config, run.evaluation, run.networks)}
    assert all(whole.values())
    for path, value in whole.items():
        for _ in range(40):
            file.write_bytes(damaged(path, kind, rng))
            found, error = attempt(lambda path=path: read(path, file))  # type: ignore[misc]
            assert found == value or str(file) in error or (path == run.evaluation and found is None)


def test_a_configuration_that_was_edited_is_refused(masters: Masters, tmp_path: Path) -> None:
    """Or `evaluate` would train another run in its place."""
    shutil.copytree(masters.folders["finished"], tmp_path / "copy")
    run = RunFolder(tmp_path / "copy" / "run")
    text = run.config.read_text()
    run.config.write_text(text.replace("seed: 0", "seed: 1"))
    assert run.config.read_text() != text
    with pytest.raises(ConfigError, match=r"config\.yaml: expected the configuration as the run wrote it"):
        load_resolved(run.config)
    run.config.write_text(text.partition("\n")[2])  # as earlier versions wrote it
    assert load_resolved(run.config) == load_resolved(masters.folders["finished"] / "run" / "config.yaml")


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_a_log_that_lost_lines_is_told(masters: Masters, tmp_path: Path, lines: int) -> None:
    """Its steps' times are part of the results, so a shorter one may not pass for the whole."""
    shutil.copytree(masters.folders["finished"], tmp_path / "copy")
    run = RunFolder(tmp_path / "copy" / "run")
    kept = run.log.read_bytes().splitlines(keepends=True)[:-lines]
    run.log.write_bytes(b"".join(kept))
    with pytest.raises(RunError, match=r"log\.jsonl is damaged .*delete it and `networks"):
        work(masters.bench, tmp_path / "copy")


def test_power_loss_after_a_checkpoint_costs_no_record(masters: Masters, tmp_path: Path) -> None:
    """What the log held beyond the checkpoint may be anything: these steps are done again."""
    for number, tail in enumerate((b'{"step": 3, "lo', bytes(300), b"\xff\xfe\n{}\n\n[]\n", b"\n")):
        root = tmp_path / str(number)
        shutil.copytree(masters.folders["stopped"], root)
        with (root / "run" / "log.jsonl").open("ab") as log:
            log.write(tail)
        assert work(masters.bench, root) == masters.results


def test_networks_are_refused_by_name_wherever_they_are_loaded(masters: Masters, tmp_path: Path) -> None:
    whole = (masters.folders["finished"] / "run" / "networks.safetensors").read_bytes()
    for size in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "networks.safetensors").write_bytes(whole[:size])
        with pytest.raises(RunError, match=r"networks\.safetensors is damaged .*delete it"):
            TrainedRun(tmp_path)


def test_a_damaged_index_is_refused(masters: Masters, tmp_path: Path) -> None:
    from scenelift.annotations import Annotations
    from scenelift.cache import Cache

    run = RunFolder(masters.folders["finished"] / "run")
    whole = Annotations.load(run.annotations, Cache(tmp_path))
    text = run.annotations.read_text()
    digit = text.index("[", text.index('"text"')) + 20
    for at in [*range(0, len(text), 97), digit]:
        changed = "7" if text[at] == "3" else "3"
        (tmp_path / "index.json").write_text(text[:at] + changed + text[at + 1 :])
        with pytest.raises((DataError, RunError), match=r"index\.json"):
            Annotations.load(tmp_path / "index.json", Cache(tmp_path))
    (tmp_path / "index.json").write_text(text)
    assert Annotations.load(tmp_path / "index.json", Cache(tmp_path)).scenes == whole.scenes
