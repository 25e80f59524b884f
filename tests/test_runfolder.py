"""Whose a run folder is, and what a kill leaves in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scenelift.config import Config
from scenelift.errors import OutputError, RunError
from scenelift.recipes import load
from scenelift.runfolder import RunFolder, differences


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "deep" / "run")


class TestClaim:
    def test_new(self, run: RunFolder) -> None:
        config = load("cns", ["seed=3"])
        run.claim(config)
        assert yaml.safe_load(run.config.read_text(encoding="utf-8")) == config.model_dump(mode="json")
        assert [item.name for item in run.path.iterdir()] == ["config.yaml"]

    def test_empty_folder_or_one_with_a_cache(self, run: RunFolder) -> None:
        run.cache.mkdir(parents=True)
        run.claim(Config())
        assert run.config.is_file()

    def test_again(self, run: RunFolder) -> None:
        run.claim(Config())
        before = run.config.stat().st_mtime_ns
        run.log.write_text("{}\n")
        run.claim(Config(recipe="the same under another name"))
        assert run.config.stat().st_mtime_ns == before
        assert run.log.is_file()

    @pytest.mark.parametrize(
        ("overrides", "named"),
        [
            (["seed=1"], r"it differs in seed\)"),
            (["train.lr=1", "seed=1"], r"it differs in seed, train\.lr\)"),
            (["data.source=capture", "data.path=x"], r"it differs in data\.source, .* and more\)"),
        ],
    )
    def test_of_another_run(self, run: RunFolder, overrides: list[str], named: str) -> None:
        run.claim(Config())
        before = run.config.read_bytes()
        with pytest.raises(RunError, match=f"{run.path} holds another run .*{named}; choose another folder"):
            run.claim(load("cns", overrides))
        assert run.config.read_bytes() == before

    @pytest.mark.parametrize("text", ["train: {epoch: 5}", "{", "- list"])
    def test_of_another_version(self, run: RunFolder, text: str) -> None:
        run.path.mkdir(parents=True)
        run.config.write_text(text)
        with pytest.raises(RunError, match="holds a run of another version"):
            run.claim(Config())
        assert run.config.read_text() == text

    def test_with_files_of_someone_else(self, run: RunFolder) -> None:
        run.path.mkdir(parents=True)
        (run.path / "thesis.tex").write_text("mine")
        with pytest.raises(RunError, match="found other files in it; choose another folder"):
            run.claim(Config())
        assert [item.name for item in run.path.iterdir()] == ["thesis.tex"]

    def test_a_file_in_its_place(self, run: RunFolder) -> None:
        run.path.parent.mkdir(parents=True)
        run.path.write_text("a file")
        with pytest.raises(OutputError, match=r"cannot write .*run: a file stands where a folder is needed"):
            run.claim(Config())

    def test_a_file_above_it(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("a file")
        with pytest.raises(OutputError, match="a file stands where a folder is needed"):
            RunFolder(tmp_path / "file" / "run").claim(Config())

    def test_after_a_kill_while_claiming(self, run: RunFolder) -> None:
        """A process that died between writing and renaming leaves its temporary file, and nothing else."""
        code = (
            "import os, sys; from pathlib import Path; from scenelift.files import atomic_path\n"
            "with atomic_path(Path(sys.argv[1])) as temp: temp.write_text('seed: '); os._exit(9)"
        )
        assert subprocess.run([sys.executable, "-c", code, str(run.config)]).returncode == 9
        assert len(list(run.path.iterdir())) == 1
        run.claim(Config())
        assert [item.name for item in run.path.iterdir()] == ["config.yaml"]


def test_everything_lies_below_the_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    names = [name for name, item in vars(RunFolder).items() if isinstance(item, property)]
    paths = [getattr(run, name) for name in names]
    assert len(set(paths)) == len(paths) >= 9
    assert all(path.is_relative_to(tmp_path) and path != tmp_path for path in paths)


class TestLog:
    RECORDS = ({"step": 0, "loss": 1.5}, {"step": 1, "loss": None}, {"step": 2, "note": "a\nb\u2028c"})

    def test_round_trip(self, run: RunFolder) -> None:
        assert run.read_log() == []
        run.write_log(self.RECORDS)
        assert run.read_log() == list(self.RECORDS)
        run.write_log([])
        assert run.read_log() == []

    def test_cut_anywhere_by_a_kill(self, run: RunFolder) -> None:
        run.write_log(self.RECORDS)
        whole = run.log.read_bytes()
        ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
        for size in range(len(whole) + 1):
            run.log.write_bytes(whole[:size])
            assert run.read_log() == list(self.RECORDS[: sum(end <= size for end in ends)])

    def test_appending_to_what_was_read_back(self, run: RunFolder) -> None:
        run.write_log(self.RECORDS)
        run.log.write_bytes(run.log.read_bytes()[:-3])
        run.write_log(run.read_log())
        with run.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": 2}) + "\n")
        assert [record["step"] for record in run.read_log()] == [0, 1, 2]


class TestDifferences:
    def test_dotted_paths(self) -> None:
        have = {"recipe": "a", "seed": 1, "train": {"lr": 0.1, "epochs": 3}, "data": {"path": "x"}}
        want = {"recipe": "b", "seed": 1, "train": {"lr": 0.2, "epochs": 3}, "data": {"seed": 0}}
        assert differences(have, want) == ["train.lr", "data.path", "data.seed"]
        assert differences(have, have) == []

    def test_only_the_runs_own_name_is_left_out(self) -> None:
        assert differences({"a": {"recipe": 1}}, {"a": {"recipe": 2}}) == ["a.recipe"]
