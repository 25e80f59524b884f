"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "scenelift").rglob("*.py"))


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT / "src"))


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_a_file_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=_id)
def test_public_names_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert path.stat().st_size == 0 or ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@pytest.mark.slow  # a minute; the contracts of import-linter forbid circles between modules already
def test_every_module_can_be_imported_first() -> None:
    """A circle of imports shows only to whoever enters it at the wrong place."""
    names = [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "src").rglob("*.py"))
        if path.name != "__main__.py"
    ]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    for known in [m for m in sys.modules if m.partition('.')[0] == 'scenelift']:\n"
        "        del sys.modules[known]\n"
        "    importlib.import_module(name)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr.splitlines()[-1]


def test_the_readme_tree_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme.split("src/scenelift/\n", 1)[1].split("```", 1)[0]
    for path in (ROOT / "src" / "scenelift").iterdir():
        if path.name in {"__init__.py", "__pycache__", "py.typed"}:
            continue
        known = path.name if path.is_file() else f"{path.name}/"
        small = {"device.py", "progress.py", "ply.py"}
        assert known in tree or path.name in small, f"{known} is missing in the README's tree"
