"""The paper's tables, rows by name: what they hold, how sure it is, and how it is shown.

`rows` says which recipes a table compares, `measure` turns finished runs into figures, and `write_table` into
files for people and programs.
"""

from pathlib import Path

from scenelift.files import atomic_write, write_json
from scenelift.tables.page import render_table_page
from scenelift.tables.results import Setting, TableResult, measure, to_json
from scenelift.tables.rows import REDUCED, TABLES, Table
from scenelift.tables.text import markdown, terminal

__all__ = [
    "REDUCED",
    "TABLES",
    "Setting",
    "Table",
    "TableResult",
    "markdown",
    "measure",
    "terminal",
    "to_json",
    "write_table",
]


def write_table(folder: Path, result: TableResult) -> Path:
    """Write ``<table>.json``, ``.md`` and ``.html`` into ``folder``; returns the page.

    Raises:
        OutputError: they cannot be written.
    """
    name = result.table.name
    write_json(folder / f"{name}.json", to_json(result))
    atomic_write(folder / f"{name}.md", markdown(result).encode())
    page = folder / f"{name}.html"
    atomic_write(page, render_table_page(result).encode())
    return page
