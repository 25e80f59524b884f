"""Tables of millions of rows, read in pieces: the rows that a JSON reader of whole files finds."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzing import MANY, QUICK, only_data_errors
from scenelift.errors import DataError
from scenelift.scenes.tables import read_rows


class Row(msgspec.Struct):
    """Two wanted fields; rows hold others too."""

    token: str
    number: int = 0


ROWS: list[dict[str, Any]] = [
    {"token": "plain", "number": 1},
    {"token": 'a string with }, { and "}, {" and \\', "number": 2, "other": "}, {"},
    {"token": "nested", "boxes": [{"a": 1}, {"b": [{"c": {}}, {}]}], "number": 3},
    {"boxes": [[{}, {}], [{}]], "token": "ü∂", "number": -4},
]


def rows_of(path: Path, piece_bytes: int) -> list[tuple[str, int]]:
    """All rows of a table."""
    return [(row.token, row.number) for part in read_rows(path, Row, piece_bytes) for row in part]


def expected(table: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """The same of Python objects."""
    return [(row["token"], row.get("number", 0)) for row in table]


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 16, 50, 51, 52, 53, 200, 1000, 1 << 20])
@pytest.mark.parametrize("indent", [None, 0, 2])
def test_every_piece_size_gives_all_rows(tmp_path: Path, piece_bytes: int, indent: int | None) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(ROWS * 5, indent=indent))
    assert rows_of(path, piece_bytes) == expected(ROWS * 5)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('{}[],:" \\\n}{', max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("{}, ", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
TABLE_ROWS = st.fixed_dictionaries(
    {"other": VALUES, "token": st.text('{}[],:" \\é', max_size=10)}, optional={"number": st.integers(-9, 9)}
)


@settings(max_examples=150, deadline=None)
@given(st.lists(TABLE_ROWS, max_size=8), st.integers(1, 300), st.sampled_from([None, 0, 3]), st.booleans())
def test_rows_equal_those_of_json(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[dict[str, Any]],
    piece_bytes: int,
    indent: int | None,
    ascii_only: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "property.json"
    path.write_text(json.dumps(table, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert rows_of(path, piece_bytes) == expected(table)


def test_a_byte_order_mark_and_space_around_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(b"\xef\xbb\xbf \n[\n] \n")
    assert rows_of(path, 4) == []
    path.write_bytes(b'\xef\xbb\xbf [ {"token": "a"}' + b" " * 500 + b', {"token": "b"} ]\r\n\r\n')
    assert rows_of(path, 4) == [("a", 0), ("b", 0)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "does not begin with"),
        (b'{"token": "a"}', "does not begin with"),
        (b'[{"token": "a"}, {"token": "b"}', "cut off"),
        (b'[{"token": "a"}, {"tok', "cut off"),
        (b'[{"token": "a"}, {"number": 1}]', "missing required field"),
        (b'[{"token": "a"}, {"token": 1}]', "str"),
        (b'[{"token": "a"} {"token": "b"}]', "malformed"),
        (b'[{"token": "a"}, 3]', "object"),
        (b'[{"token": "a", "number": NaN}]', "malformed"),
        (b'[{"token": "\xff"}, {"token": "b"}]', "utf-8"),
        (b'[{"token": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]", "recursion"),
    ],
)
@pytest.mark.parametrize("piece_bytes", [5, 24, 1 << 20])
def test_damage_is_one_line_with_its_place(
    tmp_path: Path, text: bytes, reason: str, piece_bytes: int
) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(text)
    with pytest.raises(DataError, match="expected a table") as caught:
        rows_of(path, piece_bytes)
    message = str(caught.value)
    assert reason in message
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith("; copy or download the file again")


def test_a_missing_table_and_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no such file"):
        rows_of(tmp_path / "table.json", 8)
    with pytest.raises(DataError, match="cannot be read"):
        rows_of(tmp_path, 8)


def test_memory_holds_a_piece_and_a_fault_is_found_where_it_stands(tmp_path: Path) -> None:
    row = b'{"token": "0123456789", "filename": "samples/CAM_FRONT/n015__CAM_FRONT__1532402927612460.jpg"},\n'
    path = tmp_path / "table.json"
    path.write_bytes(b"[" + row * 50_000 + b'{"token": "end"}]')
    tracemalloc.start()
    try:
        count = sum(len(part) for part in read_rows(path, Row, 1 << 16))
        assert count == 50_001
        assert tracemalloc.get_traced_memory()[1] < 2 << 20  # of 5 MB
        broken = bytearray(path.read_bytes())
        place = broken.index(b'"filename"', 3_000_000)
        broken[place - 1 : place] = b"}"
        path.write_bytes(broken)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(DataError, match=r"after byte (2,999|3,000),\d\d\d"):
            rows_of(path, 1 << 16)
        assert tracemalloc.get_traced_memory()[1] - before < 12 << 20  # mostly the rows before
    finally:
        tracemalloc.stop()


def _fuzz(path: Path, count: int) -> int:
    def read(data: bytes) -> None:
        path.write_bytes(data)
        for piece_bytes in (64, 1 << 16):
            rows_of(path, piece_bytes)

    return only_data_errors(read, json.dumps(ROWS * 6, indent=0).encode(), count)


def test_damaged_tables_are_data_errors(tmp_path: Path) -> None:
    assert _fuzz(tmp_path / "table.json", QUICK) > QUICK // 4


@pytest.mark.slow
def test_damaged_tables_are_data_errors_slow(tmp_path: Path) -> None:
    assert _fuzz(tmp_path / "table.json", MANY) > MANY // 4
