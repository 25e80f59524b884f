"""The page: well-formed, self-contained, escaped, small, and right in its figures."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from report_samples import Page, block, noise, sample_cloud, sample_data, sample_record, sample_row
from scenelift.classes import SCANNET20, ClassTable
from scenelift.report import Picture, ReportData, ReportRow, write_report
from scenelift.report.page import MAX_BYTES, render_page

NAN = float("nan")
SLY = "<script>alert('x')</script>\"&<img src=http://evil/>"


def _bare() -> ReportRow:
    return ReportRow("cns", None, None, None, None, {}, {}, 5.0)


VARIANTS: dict[str, dict[str, Any]] = {
    "everything": {},
    "no truth": {
        "rows": [_bare()],
        "has_truth": False,
        "label_shares": {"2D": {"wall": 0.7, "chair": 0.3}, "3D": {"wall": 1.0}},
    },
    "no log": {"rows": [sample_row("a", 0.1, 0.2, log=[]), sample_row("b", 0.3, 0.1, log=[])]},
    "no pictures": {"pictures_2d": [], "pictures_3d": []},
    "no rows": {"rows": []},
    "clouds": {"clouds": [sample_cloud(), sample_cloud(name="bare", rgb=None, truth=None, confidence=None)]},
    "one row": {"rows": [sample_row("cns", 0.2, 0.3)]},
    "one measured": {"rows": [sample_row("a", None, 0.3), sample_row("b", 0.1, None)]},
    "zeros": {
        "rows": [
            sample_row("a", 0.0, 0.0, confusion_2d=np.zeros((20, 21), np.int64)),
            sample_row("b", 0.0, 0.0),
        ]
    },
    "NaN": {
        "rows": [
            sample_row(
                "a", NAN, NAN, coverage_2d=NAN, per_class_2d={"wall": NAN, "floor": None}, seconds=NAN
            ),
            sample_row(
                "b", 0.1, NAN, log=[dict.fromkeys(sample_record(0), NAN), {}, {"step": 3, "loss": None}]
            ),
        ]
    },
    "one step": {"rows": [sample_row("a", 0.1, 0.1, log=[sample_record(0)])]},
    "seventeen rows": {"rows": [sample_row(f"row_{i}", i / 20, i / 20) for i in range(17)]},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_well_formed_accessible_and_needs_nothing_from_outside(variant: str) -> None:
    html = render_page(sample_data(**VARIANTS[variant]))
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert page.count("h1") == 1
    assert page.count("html", lang="en") == 1
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", html)
    blocks = page.find("script", type="application/json")
    assert len(page.find("script")) == len(blocks) + 1  # ours, which the policy names by its hash
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = page.find("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"] == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    assert not page.find("link")
    assert all(image["src"].startswith("data:image/") for image in page.find("img") if image["src"])
    assert page.count("img") == sum("src" in attrs for _, attrs in page.tags)
    assert all(image["alt"] for image in page.find("img"))
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in page.find("svg"))
    assert all(head["scope"] in ("row", "col") for head in page.find("th"))
    assert not re.search(r"\bnan\b|\binf\b|None", re.sub(r"data:image[^\"]*", "", html))


def test_the_first_screen_answers_how_good_compared_to_what(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", sample_data())
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
    words = Page(
        render_page(sample_data(rows=[sample_row("first", 0.5, 0.5), sample_row("second", 0.4, 0.4)]))
    ).words
    assert "2D: 50.0 % mIoU with first. " in words
    assert "40.0 \u221210.0" in words


def test_equal_best_rows_are_both_bold() -> None:
    page = Page(render_page(sample_data(rows=[sample_row("a", 0.50001, 0.1), sample_row("b", 0.5, 0.2)])))
    assert page.count("strong", class_="value") == 3


def test_without_truth_no_quality_is_claimed() -> None:
    page = Page(render_page(sample_data(**VARIANTS["no truth"])))
    assert "no ground truth" in page.words
    assert "mIoU" not in page.words
    assert "wall, 2D: 70.0" in page.words


def test_text_from_users_cannot_become_markup() -> None:
    classes = ClassTable.from_names([SLY.replace("/", "|"), "wall"])
    row = sample_row(
        SLY, 0.1, 0.2, per_class_2d={classes.names[0]: 0.5}, confusion_2d=np.ones((2, 3), np.int64)
    )
    row = dataclasses.replace(row, per_class_3d={}, confusion_3d=None)
    picture = Picture(SLY, [(SLY, np.zeros((4, 4, 3), np.uint8))])
    data = ReportData(
        SLY, SLY, SLY, classes, [row, row], [picture], [picture], [SLY], SLY, True, {SLY: {SLY: 1}}
    )
    html = render_page(data)
    page = Page(html)
    assert "<script>alert" not in html
    assert "<img src=http" not in html
    assert len(page.find("script")) == 1 + len(page.find("script", type="application/json"))
    assert page.count("img") == 2
    assert page.words.count("<script>alert('x')</script>") >= 8
    assert block(html, "confusions")["runs"][0]["name"] == SLY


def test_pictures_shrink_until_the_file_is_small_enough() -> None:
    heavy = [Picture(f"p{i}", [(f"c{k}", noise(480, 640, k)) for k in range(6)]) for i in range(3)]
    page = render_page(sample_data(pictures_2d=heavy, pictures_3d=heavy))
    assert 1_000_000 < len(page.encode()) <= MAX_BYTES
    assert Page(page).count("img") == 2 * 3 * 6


def test_a_report_of_250_classes_and_many_rows_stays_small() -> None:
    classes = ClassTable.from_names([f"class number {i}" for i in range(250)])
    ious = dict.fromkeys(classes.names, 0.5)
    counts = np.full((250, 251), 1000)
    row = sample_row(
        "a", 0.1, 0.1, per_class_2d=ious, per_class_3d=ious, confusion_2d=counts, confusion_3d=counts
    )
    rows = [dataclasses.replace(row, recipe=f"r{i}") for i in range(20)]
    html = render_page(sample_data(classes=classes, rows=rows, pictures_2d=[], pictures_3d=[]))
    assert len(html.encode()) <= MAX_BYTES
    assert 1 <= len(block(html, "confusions")["runs"]) < 20
    assert "of the table above the last" in html


def test_a_section_gives_way_when_the_page_is_too_large() -> None:
    html = render_page(sample_data(config_yaml="x" * MAX_BYTES))
    assert len(html.encode()) <= MAX_BYTES
    page = Page(html)
    assert "A section is left out" in page.words
    assert page.count("img") == 5


def test_three_large_clouds_and_heavy_pictures_fit() -> None:
    clouds = [sample_cloud(200_000, seed) for seed in range(3)]
    heavy = [Picture(f"p{i}", [(f"c{k}", noise(240, 320, k)) for k in range(3)]) for i in range(3)]
    html = render_page(sample_data(clouds=clouds, pictures_2d=heavy, pictures_3d=heavy))
    assert len(html.encode()) <= MAX_BYTES
    for number in range(3):
        tree = block(html, f"cloud-{number}")
        assert 20_000 < tree["count"] <= 60_000
        assert tree["of"] == 200_000


def test_panels_of_one_caption_share_a_column() -> None:
    page = Page(render_page(sample_data()))
    assert page.count("div", style="--columns:2") == 2
    assert page.count("div", class_="empty") == 1  # the second row has no input
    assert [image["alt"] for image in page.find("img")][:3] == [
        "image room_0/0007: input",
        "image room_0/0007: ours",
        "image room_1/0001: ours",
    ]


def test_confusion_counts_are_all_there() -> None:
    html = render_page(sample_data())
    tree = block(html, "confusions")
    assert tree["names"] == list(SCANNET20.names)
    assert [run["name"] for run in tree["runs"]] == ["maskclip", "base_clip", "cns"]
    for run, row in zip(tree["runs"], sample_data().rows, strict=True):
        for kind in ("2D", "3D"):
            places, counts = run["counts"][kind]
            dense = np.zeros(20 * 21, np.int64)
            dense[places] = counts
            np.testing.assert_array_equal(dense.reshape(20, 21), row.on(kind).confusion)


def test_the_teacher_stands_beside_the_run() -> None:
    rows = [
        sample_row("teacher labels", 0.17, 0.14, log=(), role="teacher"),
        sample_row("refined labels", 0.40, 0.21, log=(), role="refined"),
        sample_row("cns", 0.284, 0.335),
    ]
    page = Page(render_page(sample_data(rows=rows, facts=[("Seed", "0"), ("Judged by", "12 scenes")])))
    answer = page.words[: page.words.index("room_0/0007")]
    against = "+11.4 points against teacher labels, \u221211.6 points against refined labels."
    assert f"2D: 28.4 % mIoU with cns, {against}" in answer
    assert "teacher and masks, nothing trained" in answer
    assert "Seed 0 Judged by 12 scenes" in answer


def test_agreement_is_no_accuracy() -> None:
    alike = {"2D network and 3D network": 0.75}
    page = Page(render_page(sample_data(**VARIANTS["no truth"], agreement=alike)))
    assert "2D network and 3D network 75.0 %" in page.words
    assert "This is no accuracy" in page.words


def test_a_collapse_is_visible_at_the_top_and_in_training() -> None:
    rows = [
        sample_row("a", 0.1, 0.1, log=[{"variance_image": 0.3}, {"variance_image": 0.001}]),
        sample_row("b", 0.1, 0.1),
    ]
    page = Page(render_page(sample_data(rows=rows)))
    assert page.count("p", class_="warning") == 2
    assert "Warning: a had trouble in training" in page.words
    assert "latent.target_map=frozen" in page.words


def test_of_many_rows_the_first_the_last_and_the_best_are_drawn() -> None:
    quality = [0.1, 0.9, 0.8, 0.2, 0.3, 0.7, 0.6, 0.15]
    page = Page(render_page(sample_data(rows=[sample_row(f"r{i}", q, q) for i, q in enumerate(quality)])))
    assert page.words.count("first, the last and the best") == 1
    assert {f"r{i}" for i in range(8)} <= set(page.text)  # the tables have them all
    hints = {words.split(", ")[1].split(":")[0] for words in page.text if re.match(r"wall, r\d: ", words)}
    assert hints == {"r0", "r1", "r2", "r5", "r6", "r7"}
