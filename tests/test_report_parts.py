"""What a report is made of: markup, pictures, curves and their warnings, JSON, the terminal's table."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from report_samples import Page, noise, sample_record, sample_row
from scenelift.classes import SCANNET20
from scenelift.report import Picture, results_json, terminal_table
from scenelift.report.charts import nice_ticks
from scenelift.report.data import difference, duration, percent
from scenelift.report.markup import Markup, tag
from scenelift.report.pictures import data_uri, picture_rows
from scenelift.report.training import COLLAPSE_VARIANCE, log_warnings, training_charts

NAN = float("nan")


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=30))
def test_any_text_survives_markup(words: str) -> None:
    html = tag("p", words, title=words)
    html.encode()
    page = Page(html)
    assert [name for name, _ in page.tags] == ["p"]
    readable = "".join(c if c in "\t\n\r" or c.isprintable() or ord(c) > 0x9F else "?" for c in words)
    if readable == words and not any(0xD800 <= ord(c) <= 0xDFFF for c in words) and "\r" not in words:
        assert page.tags[0][1]["title"] == words
        assert "".join(page.text) == words


def test_markup_is_not_escaped_twice() -> None:
    assert tag("p", tag("b", "a < b"), Markup("<i>c</i>")) == "<p><b>a &lt; b</b><i>c</i></p>"


def test_rows_of_pictures_are_left_out_with_a_word_when_nothing_else_helps() -> None:
    heavy = [Picture(f"p{i}", [("a", noise(100, 100, i))]) for i in range(5)]
    rows = picture_rows(heavy, "image", 20_000)
    left = Page(rows).count("img")
    assert 0 < left < 5
    assert f"{5 - left} more rows are left out" in rows


def test_flat_pictures_are_lossless_and_photographs_are_jpeg() -> None:
    def decoded(uri: str) -> tuple[str, np.ndarray]:
        kind, _, code = uri.partition(";base64,")
        return kind, np.array(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGB"))

    labels = SCANNET20.colors[np.random.default_rng(0).integers(0, 20, (40, 60))]
    kind, read = decoded(data_uri(labels, 480, 80))
    assert kind == "data:image/png"
    np.testing.assert_array_equal(read, labels)
    kind, read = decoded(data_uri(labels, 30, 80))
    assert read.shape == (20, 30, 3)
    assert {tuple(color) for color in read.reshape(-1, 3)} <= {tuple(color) for color in SCANNET20.colors}
    kind, read = decoded(data_uri(noise(50, 100), 80, 80))
    assert (kind, read.shape) == ("data:image/jpeg", (40, 80, 3))


def test_training_curves_show_what_the_log_holds() -> None:
    page = Page(training_charts([sample_record(step) for step in range(40)]))
    labels = [chart["aria-label"] or "" for chart in page.find("svg")]
    assert len(labels) == 6
    assert "total from 3 to 1.05" in labels[0]
    assert labels[1].endswith("label teacher 75 %, 2D network 12 %, 3D network 12 %")
    assert labels[2].endswith("label teacher 100 %, 2D network 0 %, 3D network 0 %")
    assert page.count("line", class_="stage") == 6
    assert page.count("p", class_="warning") == 0


def test_curves_without_values_are_left_out_and_stages_marked_only_when_both_occur() -> None:
    page = Page(training_charts([{"step": step, "stage": 1, "loss": 1.0} for step in range(500)]))
    assert page.count("svg") == 1
    assert page.count("line", class_="stage") == 0
    (curve,) = page.find("polyline")
    assert 100 < len((curve["points"] or "").split()) <= 160


def _variances(values: list[float], target: float | None = None) -> list[dict[str, Any]]:
    return [{"step": s, "variance_image": v, "variance_target": target} for s, v in enumerate(values)]


@pytest.mark.parametrize(
    ("log", "step"),
    [
        (_variances([0.3, 0.2, 0.5 * COLLAPSE_VARIANCE, 0.2]), 2),
        (_variances([0.001, 0.3, 0.3]), None),  # untrained features are alike; they spread
        (_variances([0.001, 0.001]), 1),
        (_variances([0.3, 0.04, 0.3], target=0.5), 1),
        (_variances([0.3, 0.04, 0.3], target=0.3), None),
        (_variances([0.3]), None),
        ([], None),
    ],
)
def test_a_collapse_is_called_one(log: list[dict[str, Any]], step: int | None) -> None:
    words = log_warnings(log)
    assert len(words) == (step is not None)
    assert all(f"2D network fell to {log[step]['variance_image']:.2g} at step {step} " in w for w in words)


def test_a_loss_that_is_no_number_is_reported() -> None:
    log = [
        sample_record(0),
        sample_record(1, loss=NAN),
        sample_record(2, loss=float("inf")),
        sample_record(3, loss_latent=None),
    ]
    (words,) = log_warnings(log)
    assert "“total” was not a finite number in 2 of 4" in words


def test_results_json_is_schema_1_and_has_null_for_what_is_unknown() -> None:
    rows = [
        sample_row("a", 0.25, NAN, coverage_3d=None, per_class_3d={"wall": NAN, "floor": np.float64(0.5)})
    ]
    result = json.loads(json.dumps(results_json("cns", "synthetic", 3, rows), allow_nan=False))
    assert {key: result[key] for key in ("schema", "recipe", "dataset", "seed")} == {
        "schema": 1,
        "recipe": "cns",
        "dataset": "synthetic",
        "seed": 3,
    }
    (row,) = result["rows"]
    names = "recipe miou_2d miou_3d coverage_2d coverage_3d per_class_2d per_class_3d seconds warnings"
    assert list(row) == names.split()
    assert (row["miou_2d"], row["miou_3d"], row["coverage_3d"], row["seconds"]) == (0.25, None, None, 75.0)
    assert row["per_class_3d"] == {"wall": None, "floor": 0.5}


def test_the_terminal_table_has_all_figures_and_no_markup() -> None:
    console = Console(width=120, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(
        terminal_table([sample_row("[red]a[/red]", 0.2, 0.3), sample_row("b", 0.25, NAN, seconds=4000)])
    )
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("[red]a[/red]", "20.0", "30.0", "25.0", "+5.0", "99.0", "50.0", "1 min 15 s", "1 h 06 min"):
        assert words in printed.replace("\u00a0", " ")
    assert re.search("\x1b\\[1m *25.0", printed)
    assert not re.search("\x1b\\[1m *20.0", printed)
    console.print(terminal_table([]))


def test_small_words() -> None:
    assert [percent(value) for value in (0.2836, None, NAN)] == ["28.4", "–", "–"]
    assert difference(0.2, 0.25) == "\u22125.0"
    assert difference(None, 0.25) == ""
    spans = [duration(s).replace("\u00a0", " ") for s in (4.25, 9.96, 59.7, 61, 3661, NAN)]
    assert spans == ["4.2 s", "10.0 s", "1 min 00 s", "1 min 01 s", "1 h 01 min", "–"]


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-9, 1e9))
def test_ticks_are_few_and_reach_the_top(top: float) -> None:
    assert nice_ticks(0.0) == [0.0, 1.0]
    ticks = nice_ticks(top)
    assert ticks[0] == 0
    assert top * (1 - 1e-6) <= ticks[-1] <= top * 1.7
    assert 3 <= len(ticks) <= 7
