"""The report: well-formed, self-contained, escaped, small, and right in its figures."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from scenelift.classes import SCANNET20, ClassTable
from scenelift.report import Picture, ReportData, ReportRow, results_json, terminal_table, write_report
from scenelift.report.charts import nice_ticks
from scenelift.report.data import difference, duration, percent
from scenelift.report.markup import Markup, tag
from scenelift.report.page import MAX_BYTES, render_page
from scenelift.report.pictures import data_uri, picture_rows
from scenelift.report.training import COLLAPSE_VARIANCE, log_warnings, training_charts

NAN = float("nan")
SLY = "<script>alert('x')</script>\"&<img src=http://evil/>"


class Page(HTMLParser):
    """Collects what a page holds, and fails on tags that do not match."""

    VOID = frozenset({"meta", "img", "br", "rect", "line", "path", "circle", "polyline"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{name} repeats an attribute"
        self.tags.append((name, dict(attrs)))
        assert name not in self.VOID, "void elements are written self-closing"
        self.open.append(name)

    def handle_startendtag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        assert name in self.VOID
        self.tags.append((name, dict(attrs)))

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    def count(self, name: str, /, **attrs: str) -> int:
        return len(self.find(name, **attrs))

    def find(self, name: str, /, **attrs: str) -> list[dict[str, str | None]]:
        wanted = {key.rstrip("_"): value for key, value in attrs.items()}
        return [have for of, have in self.tags if of == name and wanted.items() <= have.items()]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def _record(step: int, **changes: Any) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": step // 10,
        "stage": 1 if step < 20 else 2,
        "lr": 0.1 / (1 + step),
        "loss": 3.0 - step / 20,
        "loss_image": 1.5,
        "loss_points": 1.2,
        "loss_latent": 0.3,
        "source_image": {"clip": 0.5, "image": 0.25, "points": 0.25} if step >= 20 else "clip",
        "source_points": "clip",
        "churn_image": 0.1,
        "churn_points": 0.2,
        "variance_image": 0.3,
        "variance_points": 0.4,
        "variance_target": 0.5,
        "seconds": 0.3,
        **changes,
    }


def _row(recipe: str, miou_2d: float | None, miou_3d: float | None, **changes: Any) -> ReportRow:
    rng = np.random.default_rng(len(recipe))
    return dataclasses.replace(
        ReportRow(
            recipe=recipe,
            miou_2d=miou_2d,
            miou_3d=miou_3d,
            coverage_2d=0.99,
            coverage_3d=0.5,
            per_class_2d={name: float(rng.random()) for name in SCANNET20.names},
            per_class_3d={name: float(rng.random()) for name in SCANNET20.names[:10]},
            seconds=75.0,
            confusion_2d=rng.integers(0, 90, (20, 21)),
            confusion_3d=rng.integers(0, 90, (20, 21)),
            log=[_record(step) for step in range(40)],
        ),
        **changes,
    )


def _noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _data(**changes: Any) -> ReportData:
    picture = Picture("room_0/0007", [("input", _noise(30, 40)), ("ours", np.zeros((30, 40, 3), np.uint8))])
    shorter = Picture("room_1/0001", [("ours", _noise(30, 40, 1))])
    data = ReportData(
        title="scenelift demo",
        dataset="12 generated rooms",
        command="scenelift demo --out demo",
        classes=SCANNET20,
        rows=[
            _row("maskclip", 0.173, 0.142, log=()),
            _row("base_clip", 0.30, 0.28),
            _row("cns", 0.284, 0.335),
        ],
        pictures_2d=[picture, shorter],
        pictures_3d=[picture],
        notes=["One seed."],
        config_yaml="seed: 0\n",
    )
    return dataclasses.replace(data, **changes)


def _bare() -> ReportRow:
    return ReportRow("cns", None, None, None, None, {}, {}, 5.0)


VARIANTS: dict[str, dict[str, Any]] = {
    "everything": {},
    "no truth": {
        "rows": [_bare()],
        "has_truth": False,
        "label_shares": {"2D": {"wall": 0.7, "chair": 0.3}, "3D": {"wall": 1.0}},
    },
    "no log": {"rows": [_row("a", 0.1, 0.2, log=[]), _row("b", 0.3, 0.1, log=[])]},
    "no pictures": {"pictures_2d": [], "pictures_3d": []},
    "no rows": {"rows": []},
    "one row": {"rows": [_row("cns", 0.2, 0.3)]},
    "one measured": {"rows": [_row("a", None, 0.3), _row("b", 0.1, None)]},
    "zeros": {"rows": [_row("a", 0.0, 0.0, confusion_2d=np.zeros((20, 21), np.int64)), _row("b", 0.0, 0.0)]},
    "NaN": {
        "rows": [
            _row("a", NAN, NAN, coverage_2d=NAN, per_class_2d={"wall": NAN, "floor": None}, seconds=NAN),
            _row("b", 0.1, NAN, log=[dict.fromkeys(_record(0), NAN), {}, {"step": 3, "loss": None}]),
        ]
    },
    "one step": {"rows": [_row("a", 0.1, 0.1, log=[_record(0)])]},
    "seventeen rows": {"rows": [_row(f"row_{i}", i / 20, i / 20) for i in range(17)]},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_well_formed_accessible_and_needs_nothing_from_outside(variant: str) -> None:
    html = render_page(_data(**VARIANTS[variant]))
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert page.count("h1") == 1
    assert page.count("html", lang="en") == 1
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", html)
    assert not page.find("script")
    assert not page.find("link")
    assert all(image["src"].startswith("data:image/") for image in page.find("img") if image["src"])
    assert page.count("img") == sum("src" in attrs for _, attrs in page.tags)
    assert all(image["alt"] for image in page.find("img"))
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in page.find("svg"))
    assert all(head["scope"] in ("row", "col") for head in page.find("th"))
    assert not re.search(r"\bnan\b|\binf\b|None", re.sub(r"data:image[^\"]*", "", html))


def test_the_first_screen_answers_how_good_compared_to_what(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", _data())
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    before_pictures = page.words[: page.words.index("room_0/0007")]
    assert "2D: 30.0 % mIoU with base_clip, +12.7 points against maskclip." in before_pictures
    assert "3D: 33.5 % mIoU with cns, +19.3 points against maskclip." in before_pictures
    assert "28.4 +11.1 coverage 99.0 %" in before_pictures
    assert "33.5 +19.3 coverage 50.0 %" in before_pictures
    assert "1 min 15 s" in before_pictures
    assert "One seed." in before_pictures
    assert page.count("strong", class_="value") == 2


def test_the_best_first_row_is_not_compared_with_itself() -> None:
    words = Page(render_page(_data(rows=[_row("first", 0.5, 0.5), _row("second", 0.4, 0.4)]))).words
    assert "2D: 50.0 % mIoU with first. " in words
    assert "40.0 \u221210.0" in words


def test_equal_best_rows_are_both_bold() -> None:
    page = Page(render_page(_data(rows=[_row("a", 0.50001, 0.1), _row("b", 0.5, 0.2)])))
    assert page.count("strong", class_="value") == 3


def test_without_truth_no_quality_is_claimed() -> None:
    page = Page(render_page(_data(**VARIANTS["no truth"])))
    assert "no ground truth" in page.words
    assert "mIoU" not in page.words
    assert "wall, 2D: 70.0" in page.words


def test_text_from_users_cannot_become_markup() -> None:
    classes = ClassTable.from_names([SLY.replace("/", "|"), "wall"])
    row = _row(SLY, 0.1, 0.2, per_class_2d={classes.names[0]: 0.5}, confusion_2d=np.ones((2, 3), np.int64))
    row = dataclasses.replace(row, per_class_3d={}, confusion_3d=None)
    picture = Picture(SLY, [(SLY, np.zeros((4, 4, 3), np.uint8))])
    data = ReportData(
        SLY, SLY, SLY, classes, [row, row], [picture], [picture], [SLY], SLY, True, {SLY: {SLY: 1}}
    )
    html = render_page(data)
    page = Page(html)
    assert "<script" not in html
    assert not page.find("script")
    assert page.count("img") == 2
    assert page.words.count("<script>alert('x')</script>") >= 8


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


def test_pictures_shrink_until_the_file_is_small_enough() -> None:
    heavy = [Picture(f"p{i}", [(f"c{k}", _noise(480, 640, k)) for k in range(6)]) for i in range(3)]
    page = render_page(_data(pictures_2d=heavy, pictures_3d=heavy))
    assert 1_000_000 < len(page.encode()) <= MAX_BYTES
    assert Page(page).count("img") == 2 * 3 * 6


def test_rows_of_pictures_are_left_out_with_a_word_when_nothing_else_helps() -> None:
    heavy = [Picture(f"p{i}", [("a", _noise(100, 100, i))]) for i in range(5)]
    rows = picture_rows(heavy, "image", 20_000)
    left = Page(rows).count("img")
    assert 0 < left < 5
    assert f"{5 - left} more rows are left out" in rows


def test_a_report_of_250_classes_and_many_rows_stays_small() -> None:
    classes = ClassTable.from_names([f"class number {i}" for i in range(250)])
    ious = dict.fromkeys(classes.names, 0.5)
    counts = np.full((250, 251), 1000)
    row = _row("a", 0.1, 0.1, per_class_2d=ious, per_class_3d=ious, confusion_2d=counts, confusion_3d=counts)
    rows = [dataclasses.replace(row, recipe=f"r{i}") for i in range(20)]
    html = render_page(_data(classes=classes, rows=rows, pictures_2d=[], pictures_3d=[]))
    assert len(html.encode()) <= MAX_BYTES
    assert "the 40 most frequent classes" in html


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
    kind, read = decoded(data_uri(_noise(50, 100), 80, 80))
    assert (kind, read.shape) == ("data:image/jpeg", (40, 80, 3))


def test_panels_of_one_caption_share_a_column() -> None:
    page = Page(render_page(_data()))
    assert page.count("div", style="--columns:2") == 2
    assert page.count("div", class_="empty") == 1  # the second row has no input
    assert [image["alt"] for image in page.find("img")][:3] == [
        "image room_0/0007: input",
        "image room_0/0007: ours",
        "image room_1/0001: ours",
    ]


def test_confusion_cells_are_shares_of_their_row() -> None:
    counts = np.array([[3, 1, 0], [0, 0, 10]])
    classes = ClassTable.from_names(["wall", "floor"])
    row = dataclasses.replace(_bare(), confusion_2d=counts)
    page = Page(render_page(_data(classes=classes, rows=[row], pictures_2d=[], pictures_3d=[])))
    for words in ("wall seen as wall: 75.0 % of 4", "wall seen as floor: 25.0 % of 4"):
        assert words in page.words
    assert "floor seen as no prediction: 100.0 % of 10" in page.words
    assert "floor seen as wall" not in page.words
    assert page.count("rect", class_="heat") == 3


def test_the_last_recipe_is_open_and_the_others_can_be_chosen() -> None:
    page = Page(render_page(_data()))
    chosen = page.find("details", name="confusion")
    assert ["open" in details for details in chosen] == [False, False, True]


def test_training_curves_show_what_the_log_holds() -> None:
    page = Page(training_charts([_record(step) for step in range(40)]))
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


def test_a_collapse_is_visible_at_the_top_and_in_training() -> None:
    rows = [_row("a", 0.1, 0.1, log=_variances([0.3, 0.001])), _row("b", 0.1, 0.1)]
    page = Page(render_page(_data(rows=rows)))
    assert page.count("p", class_="warning") == 2
    assert "Warning: a had trouble in training" in page.words
    assert "latent.target_map=frozen" in page.words


def test_a_loss_that_is_no_number_is_reported() -> None:
    log = [_record(0), _record(1, loss=NAN), _record(2, loss=float("inf")), _record(3, loss_latent=None)]
    (words,) = log_warnings(log)
    assert "“total” was not a finite number in 2 of 4" in words


def test_results_json_is_schema_1_and_has_null_for_what_is_unknown() -> None:
    rows = [_row("a", 0.25, NAN, coverage_3d=None, per_class_3d={"wall": NAN, "floor": np.float64(0.5)})]
    result = json.loads(json.dumps(results_json("cns", "synthetic", 3, rows), allow_nan=False))
    assert {key: result[key] for key in ("schema", "recipe", "dataset", "seed")} == {
        "schema": 1,
        "recipe": "cns",
        "dataset": "synthetic",
        "seed": 3,
    }
    (row,) = result["rows"]
    names = "recipe miou_2d miou_3d coverage_2d coverage_3d per_class_2d per_class_3d seconds"
    assert list(row) == names.split()
    assert (row["miou_2d"], row["miou_3d"], row["coverage_3d"], row["seconds"]) == (0.25, None, None, 75.0)
    assert row["per_class_3d"] == {"wall": None, "floor": 0.5}


def test_the_terminal_table_has_all_figures_and_no_markup() -> None:
    console = Console(width=120, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(terminal_table([_row("[red]a[/red]", 0.2, 0.3), _row("b", 0.25, NAN, seconds=4000)]))
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
    ticks = nice_ticks(top)
    assert ticks[0] == 0
    assert top * (1 - 1e-6) <= ticks[-1] <= top * 1.7
    assert 3 <= len(ticks) <= 7


def test_of_many_rows_the_first_the_last_and_the_best_are_drawn() -> None:
    quality = [0.1, 0.9, 0.8, 0.2, 0.3, 0.7, 0.6, 0.15]
    page = Page(render_page(_data(rows=[_row(f"r{i}", q, q) for i, q in enumerate(quality)])))
    assert page.words.count("first, the last and the best") == 1
    assert {f"r{i}" for i in range(8)} <= set(page.text)  # the tables have them all
    hints = {words.split(", ")[1].split(":")[0] for words in page.text if re.match(r"wall, r\d: ", words)}
    assert hints == {"r0", "r1", "r2", "r5", "r6", "r7"}
