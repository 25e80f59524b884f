"""What is remembered of data sets: only what has not changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scenelift.errors import DataError
from scenelift.scenes import index
from scenelift.scenes.index import index_folder, index_path, remembered, stamp


@pytest.fixture(autouse=True)
def index_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENELIFT_INDEX", str(tmp_path / "index"))


class Folder:
    """A data set of parts that are folders of files, with a record of what was looked at."""

    def __init__(self, path: Path, parts: int = 3) -> None:
        self.path = path
        for part in range(parts):
            (path / f"p{part}").mkdir(parents=True)
            (path / f"p{part}" / "a").write_text("a")
        self.looked_at: list[str] = []

    def open(self, scan: Callable[[str], Any] | None = None, kind: str = "test-1") -> dict[str, Any]:
        self.looked_at = []
        names = sorted(os.listdir(self.path))
        return remembered(self.path, kind, {name: [self.path / name] for name in names}, scan or self.scan)

    def scan(self, name: str) -> Any:
        self.looked_at.append(name)
        return sorted(os.listdir(self.path / name))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "data")


def test_a_second_look_is_not_needed(folder: Folder) -> None:
    first = folder.open()
    assert folder.looked_at == ["p0", "p1", "p2"]
    assert folder.open() == first == {"p0": ["a"], "p1": ["a"], "p2": ["a"]}
    assert folder.looked_at == []


def test_only_the_part_with_a_new_file_is_looked_at_again(folder: Folder) -> None:
    folder.open()
    (folder.path / "p1" / "b").write_text("")
    assert folder.open()["p1"] == ["a", "b"]
    assert folder.looked_at == ["p1"]


def test_a_removed_file_a_renamed_file_and_a_removed_part_are_noticed(folder: Folder) -> None:
    folder.open()
    (folder.path / "p0" / "a").unlink()
    (folder.path / "p1" / "a").rename(folder.path / "p1" / "c")
    (folder.path / "p2" / "a").unlink()
    (folder.path / "p2").rmdir()
    assert folder.open() == {"p0": [], "p1": ["c"]}
    (kept,) = index_folder().iterdir()
    assert sorted(json.loads(kept.read_text())["parts"]) == ["p0", "p1"]


def test_a_file_that_is_watched_itself_is_noticed_when_written_over(folder: Folder) -> None:
    file = folder.path / "p0" / "a"
    looked_at = []

    def look(name: str) -> str:
        looked_at.append(name)
        return file.read_text()

    for text in ("a", "longer"):
        file.write_text(text)
        assert remembered(folder.path, "t", {"x": [file]}, look) == {"x": text}
    assert looked_at == ["x", "x"]


def test_a_part_that_is_not_there_yet_has_a_stamp_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "later"
    assert stamp([path]) == [[0, -1]]
    answers = iter(["none", "there"])
    look = lambda name: next(answers)  # noqa: E731
    assert remembered(tmp_path, "t", {"x": [path]}, look) == {"x": "none"}
    assert remembered(tmp_path, "t", {"x": [path]}, look) == {"x": "none"}
    path.mkdir()
    assert remembered(tmp_path, "t", {"x": [path]}, look) == {"x": "there"}


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "null", '{"p0": 3}', '{"p0": {"stamp": [[1, 2]]}}', "\xff"]
)
def test_a_damaged_index_is_as_good_as_none(folder: Folder, damage: str) -> None:
    first = folder.open()
    (kept,) = index_folder().iterdir()
    kept.write_text(damage, encoding="latin-1")
    assert folder.open() == first
    assert folder.looked_at == ["p0", "p1", "p2"]
    folder.open()
    assert folder.looked_at == []


def test_kinds_and_folders_do_not_meet(folder: Folder, tmp_path: Path) -> None:
    folder.open(kind="test-1")
    folder.open(kind="test-2")
    assert folder.looked_at == ["p0", "p1", "p2"]
    assert index_path(folder.path, "k") == index_path(folder.path / ".." / "data", "k")
    assert index_path(folder.path, "k") != index_path(tmp_path / "other", "k")


def test_errors_are_not_remembered(folder: Folder) -> None:
    def fail(name: str) -> str:
        raise DataError("expected a, found b; do c")

    with pytest.raises(DataError):
        folder.open(fail)
    assert not index_folder().exists()
    assert folder.open()["p0"] == ["a"]


def test_the_data_set_itself_is_never_written_to(folder: Folder) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    folder.open()
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before


def test_an_index_that_cannot_be_kept_is_a_warning(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCENELIFT_INDEX", str(tmp_path / "file" / "index"))
    assert folder.open()["p0"] == ["a"]
    assert "cannot be kept" in caplog.text


def test_where_indices_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCENELIFT_INDEX")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert index_folder() == tmp_path / "cache" / "scenelift" / "index"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(index.Path, "home", lambda: tmp_path)
    assert index_folder() == tmp_path / ".cache" / "scenelift" / "index"
