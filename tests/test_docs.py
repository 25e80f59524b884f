"""Documentation cannot go stale: pages made from code, commands, files, functions, links are as it says."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

import generate
from fixtures_docs import FOREIGN, NOT_RUN, PAGES, ROOT, Block, blocks, commands, known_commands, parse, prose
from scenelift.config import TrainConfig
from scenelift.recipes import load

ALL = [block for page in PAGES for block in blocks(page)]
LANGUAGES = {"bash", "python", "json", "yaml", "text", ""}


def _page(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- pages made from the code ----------------------------------------------------------------------------


@pytest.mark.parametrize("page", generate.PAGES)
def test_a_reference_page_is_what_the_code_says(page: str) -> None:
    committed = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert committed == generate.PAGES[page](), "stale: run `python docs/generate.py`"


def test_every_key_says_what_it_means() -> None:
    rows = [line for line in generate.configuration().splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_option_says_what_it_means() -> None:
    rows = [line for line in generate.command_line().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == []


def test_strings_below_keys_are_those_that_stand_there() -> None:
    source = (ROOT / "src/scenelift/config.py").read_text(encoding="utf-8")
    part = source[source.index("class TrainConfig(") : source.index("class PredictConfig(")]
    below = re.findall(r'^    (\w+): [^\n]*\n    """(.*?)"""$', part, re.MULTILINE | re.DOTALL)
    assert generate.strings_below(TrainConfig) == {name: " ".join(text.split()) for name, text in below}


# --- blocks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=_page)
def test_a_block_says_its_language_and_no_command_hides(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, block.where
        if block.language in ("text", ""):
            hidden = re.findall(
                r"^\$? ?(?:scenelift|pip install|python \S+\.py) .*", block.text, re.MULTILINE
            )
            assert not hidden, f"{block.where}: make it a bash block"
    indented = re.findall(r"(?<=\n\n) {4}\$? ?(?:scenelift|pip|torchrun|srun) .*", prose(page))
    assert not indented, f"{_page(page)}: make it a fenced block: {indented[0]}"


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "bash"], ids=lambda block: block.where)
def test_commands_are_known_and_so_are_their_options(block: Block) -> None:
    found = commands(block.text)
    assert found, block.where
    for words in found:
        if words[0] == "scenelift":
            parse(words[1:])
            continue
        assert words[0] in FOREIGN, f"{block.where}: run it, or say in FOREIGN why not"
        if "scenelift" in words and words[0] in ("torchrun", "srun"):
            parse(words[words.index("scenelift") + 1 :])
        _files_exist(words, block.where)


@pytest.mark.parametrize("block", [b for b in ALL if b.language in ("json", "yaml")], ids=lambda b: b.where)
def test_data_blocks_are_what_they_say(block: Block, tmp_path: Path) -> None:
    text = _with_snippets(block.text)
    if block.language == "json":
        json.loads(text)
    elif block.page == "docs/recipes.md":
        assert isinstance(yaml.safe_load(text), dict)  # tests/test_every_recipe.py loads each
    else:
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        load(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "python"], ids=lambda b: b.where)
def test_python_blocks_are_python(block: Block) -> None:
    compile(_with_snippets(block.text), block.where, "exec")


def _with_snippets(text: str) -> str:
    """Files shown in a block, in place of the line that names them."""
    return re.sub(
        r'^--8<-- "(.+)"$', lambda match: (ROOT / match[1]).read_text(encoding="utf-8"), text, flags=re.M
    )


# --- what the text names ---------------------------------------------------------------------------------


def _files_exist(words: list[str], where: str) -> None:
    """A script, a test file or a folder of the repository that a command names; options a script reads."""
    for word in words[1:]:
        if re.match(r"(examples|benchmarks|tests|docs)/\S+\.(py|yaml)$", word):
            assert (ROOT / word).is_file(), f"{where}: there is no {word}"
    script = next((word for word in words[1:] if word.startswith(("examples/", "benchmarks/"))), None)
    if words[0] == "python" and script is not None:
        text = (ROOT / script).read_text(encoding="utf-8")
        for option in [word.partition("=")[0] for word in words if word.startswith("--")]:
            assert f'"{option}"' in text, f"{where}: {script} has no {option}"
    if "pytest" in words[:3] and "-k" in words:
        chosen = words[words.index("-k") + 1]
        tests = "".join((ROOT / word).read_text(encoding="utf-8") for word in words if word.endswith(".py"))
        names = " ".join(re.findall(r"def (test_\w+)", tests))
        for word in re.findall(r"\w+", chosen):
            assert word in ("or", "and", "not") or word in names or word in tests, (
                f"{where}: no test is called {word}"
            )


@pytest.mark.parametrize("page", PAGES, ids=_page)
def test_commands_in_the_text_have_the_options_they_are_shown_with(page: Path) -> None:
    known = known_commands()
    spans = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]
    for span in spans:
        span = re.sub(r"^([A-Z_]+=\S+ )+", "", span)
        if span.startswith(("python ", "pytest ")):
            _files_exist(shlex.split(span), _page(page))
        if not span.startswith("scenelift ") or "COMMAND" in span:
            continue
        words = span.split()[1:]
        name = words[0] if words[0] in known else " ".join(words[:2])
        if words[0].startswith("--"):
            continue
        for one in name.split("|"):
            assert one in known, f"{_page(page)}: there is no command {span!r}"
            options = {
                opt for parameter in known[one].params for opt in (*parameter.opts, *parameter.secondary_opts)
            }
            for word in words:
                option = word.partition("=")[0]
                assert not option.startswith("--") or option in {*options, "--help"}, f"{_page(page)}: {span}"


def test_links_inside_point_at_files_and_headings() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if re.match(r"[a-z]+:", target):
                assert re.match(r"https?://[\w.-]+\.\w+(/\S*)?$", target), f"{_page(page)}: {target}"
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{_page(page)}: {target}"
            if anchor and file.suffix == ".md" and not anchor.startswith("scenelift."):
                assert anchor in _anchors(file), f"{_page(page)}: {target}"


def test_every_picture_is_shown_small_and_made_by_a_script() -> None:
    script = (ROOT / "docs" / "make_pictures.py").read_text(encoding="utf-8")
    shown = {name for page in PAGES for name in re.findall(r"\(pictures/([\w.]+)\)", prose(page))}
    kept = list((ROOT / "docs" / "pictures").iterdir())
    assert {path.name for path in kept} == shown
    for path in kept:
        assert f'"{path.name}"' in script
        assert path.stat().st_size < 200_000


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {
        re.sub(r"[\s]+", "-", re.sub(r"[^\w\s.-]", "", text.strip().lower()).replace(".", ""))
        for text in headings
    }


@pytest.mark.parametrize("page", ["method.md", "functions.md"])
def test_functions_that_the_method_names_lie_where_it_says(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    links = re.findall(r"\[`(src/scenelift/\S+\.py)`: `(\w+)`\]\(functions\.md#(scenelift\.[\w.]+)\)", text)
    shown = re.findall(
        r"^::: (scenelift\.[\w.]+)$", (ROOT / "docs/functions.md").read_text(encoding="utf-8"), re.M
    )
    named = [(file, name) for file, name, _ in links]
    named += [
        (f"src/{full.rpartition('.')[0].replace('.', '/')}.py", full.rpartition(".")[2]) for full in shown
    ]
    assert len(named) >= 12
    for file, name, anchor in links:
        assert anchor in shown, f"{page}: functions.md does not show {anchor}"
        assert anchor == file.removeprefix("src/").removesuffix(".py").replace("/", ".") + f".{name}"
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {
            node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }, (file, name)


def test_no_exception_is_left_over() -> None:
    shell = [words for block in ALL if block.language == "bash" for words in commands(block.text)]
    lines = [" ".join(words[1:]) for words in shell if words[0] == "scenelift"]
    for part, _ in NOT_RUN:
        assert any(part in line if part[0] == " " else line.startswith(part) for line in lines), part
    assert set(FOREIGN) <= {words[0] for words in shell} | {"pytest", "mkdocs"}
