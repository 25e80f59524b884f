"""Pages in a real browser: what moves, what the keyboard reaches, what stays text; and nothing is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fixtures_browser import DESKTOP, PHONE, overflows, serious_findings
from report_samples import noise, sample_cloud, sample_data, sample_row
from scenelift.classes import ClassTable
from scenelift.metrics import Confusion
from scenelift.report import Picture, ReportData, write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">"
FIVE = ClassTable.from_names(["wall", "floor", "chair", "table", "sofa", "lamp", "door", "plant"])


def data(**changes: Any) -> ReportData:
    rng = np.random.default_rng(3)
    counts = [rng.integers(0, 500, (8, 9)) for _ in range(2)]
    counts[1][5] = 0  # a class that does not occur
    row = sample_row("cns", 0.3, 0.2, per_class_2d={}, per_class_3d={})
    other = dataclasses.replace(row, recipe="base", confusion_2d=counts[1], confusion_3d=counts[0])
    row = dataclasses.replace(row, confusion_2d=counts[0], confusion_3d=counts[1])
    pictures = [
        Picture(f"room/{k}", [("input", noise(60, 80, k)), ("ours", np.full((60, 80, 3), 40 * k, np.uint8))])
        for k in range(2)
    ]
    made = sample_data(
        classes=FIVE,
        rows=[other, row],
        pictures_2d=pictures,
        pictures_3d=[],
        clouds=[sample_cloud(2500, 0), sample_cloud(1500, 1)],
        config_yaml="seed: 0\n",
    )
    return dataclasses.replace(made, **changes)


def opened(page: Page, folder: Path, made: ReportData) -> Page:
    """The page of this report from a file; fails on a console error or a request that leaves the page."""
    path = folder / "report.html"
    write_report(path, made)
    page.set_default_timeout(60_000)
    page.on("console", lambda message: pytest.fail(message.text) if message.type == "error" else None)
    page.on("request", lambda one: None if one.url.startswith(("file:", "data:")) else pytest.fail(one.url))
    page.goto(path.as_uri())
    return page


def canvas(page: Page) -> str:
    """What the canvas shows, once it has been drawn."""
    page.wait_for_timeout(150)
    return str(
        page.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => "
            "done(document.querySelector('.cloud canvas').toDataURL()))))"
        )
    )


def painted(page: Page) -> float:
    """Share of the canvas's pixels that a point covers."""
    return float(
        page.evaluate(
            """() => {
              const canvas = document.querySelector('.cloud canvas'), gl = canvas.getContext('webgl');
              const pixels = new Uint8Array(4 * canvas.width * canvas.height);
              gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
              return pixels.filter((value, k) => k % 4 === 3 && value > 0).length / (pixels.length / 4);
            }"""
        )
    )


# --- clouds ----------------------------------------------------------------------------------------------


def test_the_cloud_turns_and_shows_its_layers_and_classes(page: Page, tmp_path: Path) -> None:
    opened(page, tmp_path, data())
    seen = [canvas(page)]
    assert 0.02 < painted(page) < 0.95
    for layer in ("colour", "teacher labels", "ground truth", "error", "confidence"):
        page.get_by_role("radio", name=layer, exact=True).check()
        seen.append(canvas(page))
    assert len(set(seen)) == 6  # `ours` was shown first
    page.get_by_role("radio", name="ours", exact=True).check()
    assert canvas(page) == seen[0]
    whole = painted(page)
    page.get_by_role("group", name="Classes").get_by_role("checkbox", name="floor").uncheck()
    canvas(page)
    less = painted(page)
    assert less < whole
    page.get_by_role("button", name="none", exact=True).click()
    canvas(page)
    assert painted(page) == 0
    page.get_by_role("button", name="all", exact=True).click()
    assert canvas(page) == seen[0]
    page.get_by_role("checkbox", name="cut near walls").uncheck()
    assert canvas(page) != seen[0]


def test_the_cloud_is_moved_by_keyboard_mouse_and_wheel(page: Page, tmp_path: Path) -> None:
    opened(page, tmp_path, data())
    drawn = page.locator(".cloud canvas")
    drawn.scroll_into_view_if_needed()
    drawn.focus()
    first = last = canvas(page)
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowRight", "+", "-"):
        page.keyboard.press(key)
        now = canvas(page)
        assert now != last, key
        last = now
    page.keyboard.press("0")
    assert canvas(page) == first
    page.keyboard.press("Enter")
    told = page.locator(".cloud output").inner_text()
    assert "ours: " in told
    assert "ground truth: " in told
    assert "confidence: " in told
    box = drawn.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y + 10)
    page.mouse.up()
    turned = canvas(page)
    assert turned != first
    page.mouse.wheel(0, -300)
    assert canvas(page) != turned
    page.get_by_role("combobox", name="Scene").select_option("room_1")
    assert "room_1: 1,500 points" in page.locator(".cloud output").inner_text()


def test_without_webgl_a_picture_and_a_sentence_stay(page: Page, tmp_path: Path) -> None:
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    opened(page, tmp_path, data())
    assert page.locator(".cloud .still img").is_visible()
    assert "needs scripts and WebGL" in page.locator(".cloud").inner_text()
    assert page.locator(".matrix").count() == 2  # the rest of the page works


# --- the confusion matrix --------------------------------------------------------------------------------


def test_a_cell_is_read_by_keyboard_and_pointer_in_every_way(page: Page, tmp_path: Path) -> None:
    made = data()
    counts = made.rows[1].confusion_2d
    assert counts is not None
    opened(page, tmp_path, made)
    panel = page.locator(".confusions figure").first
    panel.scroll_into_view_if_needed()
    told = panel.locator("output")
    panel.locator('td[tabindex="0"]').focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    count, row, column = counts[2, 3], counts[2].sum(), counts[:, 3].sum()
    assert told.inner_text() == (
        f"{100 * count / row:.1f} % of the pixels that are chair were called table ({count:,} of {row:,})."
    )
    page.get_by_role("combobox", name="Show").select_option(index=1)
    panel.locator('td[data-row="2"][data-column="3"]').hover()
    assert told.inner_text() == (
        f"{100 * count / column:.1f} % of the pixels called table are chair ({count:,} of {column:,})."
    )
    page.get_by_role("combobox", name="Show").select_option(index=2)
    page.keyboard.press("Escape")
    panel.locator('td[data-row="2"][data-column="8"]').hover()
    assert told.inner_text() == f"{counts[2, 8]:,} pixels that are chair got no label."
    page.keyboard.press("Tab")
    page.get_by_role("combobox", name="Row").select_option("base")
    panel.locator('td[data-row="0"][data-column="0"]').hover()
    other = made.rows[0].confusion_2d
    assert other is not None
    assert told.inner_text() == f"{other[0, 0]:,} pixels that are wall were called wall."


def test_classes_are_sorted_by_iou_and_those_that_never_occur_left_out(page: Page, tmp_path: Path) -> None:
    made = data()
    counts = made.rows[1].confusion_3d
    assert counts is not None
    opened(page, tmp_path, made)
    panel = page.locator(".confusions figure").nth(1)
    panel.scroll_into_view_if_needed()
    page.get_by_role("combobox", name="Order").select_option("by IoU")
    iou = Confusion.from_counts(counts.astype(np.int64)).compute().iou
    expected = [FIVE.names[k] for k in sorted(range(8), key=lambda k: -np.nan_to_num(iou[k], nan=-1))]
    assert panel.locator("tbody th").all_inner_texts() == expected  # lamp is predicted, so it stays: the last
    assert expected[-1] == "lamp"
    off = counts.copy()
    np.fill_diagonal(off, 0)
    row, column = np.unravel_index(int(off.argmax()), off.shape)
    words = "got no label" if column == 8 else f"were called {FIVE.names[column]}"
    first = panel.locator(".worst li").first.inner_text()
    assert f"that are {FIVE.names[row]} {words}" in first
    panel.locator(".worst button").first.click()
    focused = page.evaluate("[document.activeElement.dataset.row, document.activeElement.dataset.column]")
    assert focused == [str(row), str(column)]


@pytest.mark.slow
def test_two_hundred_classes_scroll_inside_the_page(page: Page, tmp_path: Path) -> None:
    names = [f"class number {k}" for k in range(200)]
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 50, (200, 201)) * (rng.random((200, 201)) < 0.05)
    counts[np.arange(200), np.arange(200)] = 100
    row = sample_row(
        "cns", 0.3, 0.2, per_class_2d={}, per_class_3d={}, confusion_2d=counts, confusion_3d=None
    )
    made = data(classes=ClassTable.from_names(names), rows=[row], clouds=[], pictures_2d=[])
    opened(page, tmp_path, made)
    page.locator(".confusions").scroll_into_view_if_needed()
    page.locator(".matrix td[data-row]").first.wait_for()
    assert page.locator(".matrix tbody tr").count() == 200
    assert page.locator(".worst li").count() == 12
    assert not overflows(page)


# --- pictures --------------------------------------------------------------------------------------------


def test_pictures_are_enlarged_and_walked_through_by_keyboard(page: Page, tmp_path: Path) -> None:
    opened(page, tmp_path, data())
    first = page.get_by_role("button", name="Enlarge image room/0: input")
    first.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    status = dialog.get_by_role("status")
    assert status.inner_text() == "image room/0: input"
    page.keyboard.press("ArrowRight")
    assert status.inner_text() == "image room/0: ours"
    page.keyboard.press("ArrowDown")
    assert status.inner_text() == "image room/1: ours"
    page.keyboard.press("ArrowDown")  # the last row stays
    assert status.inner_text() == "image room/1: ours"
    page.keyboard.press("+")
    assert "scale(1.5)" in (dialog.locator(".stage-area img").get_attribute("style") or "")
    assert dialog.locator(".legend li").count() == len(FIVE)
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.ariaLabel") == "Enlarge image room/0: input"


# --- the whole page --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (DESKTOP[0], "light"),
        (PHONE[0], "dark"),
        pytest.param(DESKTOP[0], "dark", marks=pytest.mark.slow),
        pytest.param(PHONE[0], "light", marks=pytest.mark.slow),
    ],
)
def test_accessible_and_no_wider_than_the_window(
    browser: Browser, tmp_path: Path, scheme: Any, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened(page, tmp_path, data())
    page.locator(".confusions").scroll_into_view_if_needed()
    page.locator(".matrix td[data-row]").first.wait_for()
    assert not overflows(page)
    assert serious_findings(page) == []
    page.close()


def test_hostile_names_stay_text(page: Page, tmp_path: Path) -> None:
    name = HOSTILE
    classes = ClassTable((name, "wall"), ((name,), ("wall",)), FIVE.colors[:2])
    counts = np.array([[5, 4, 3], [2, 6, 1]])
    row = sample_row(name, 0.3, 0.2, per_class_2d={name: 0.5}, per_class_3d={}, confusion_2d=counts)
    row = dataclasses.replace(row, confusion_3d=None)
    cloud = sample_cloud(300, name=name)
    labels = {name: np.minimum(cloud.labels["ours"], 1)}
    assert cloud.truth is not None
    cloud = dataclasses.replace(cloud, labels=labels, truth=np.minimum(cloud.truth, 1))
    picture = Picture(name, [(name, noise(20, 30))])
    made = ReportData(
        name, name, name, classes, [row], [picture], [picture], [name], name, clouds=[cloud, cloud],
        facts=[(name, name)], agreement={name: 0.5},
    )  # fmt: skip
    opened(page, tmp_path, made)
    page.locator(".confusions").scroll_into_view_if_needed()
    page.locator(".matrix td[data-row]").first.hover()
    page.locator(".enlarge").first.click()
    page.keyboard.press("Escape")
    page.wait_for_timeout(200)
    assert page.title() == f"{name} – {name}"
    assert page.locator("img[src='x'], img[onerror]").count() == 0
    assert name in page.locator(".confusions output").first.inner_text()
    assert name in page.locator(".cloud-controls").inner_text()


@pytest.mark.slow
def test_tables_and_sweeps_are_accessible_too(browser: Browser, tmp_path: Path) -> None:
    from scenelift.sweep_results import to_html
    from scenelift.tables import TABLES, measure
    from scenelift.tables.page import render_table_page
    from table_samples import sample_outcomes, sample_setting
    from test_sweep import noisy, plan_of, results_of

    table = TABLES["table2"].only(["base_clip", "wo_sct", "cns"])
    result = measure(table, sample_setting(), sample_outcomes(table))
    page = browser.new_page(viewport={"width": PHONE[0], "height": PHONE[1]})
    path = tmp_path / "table.html"
    path.write_text(render_table_page(result), encoding="utf-8")
    sweep = tmp_path / "sweep.html"
    sweep.write_text(to_html(results_of(plan_of("noise=0.5,1,2"), noisy)), encoding="utf-8")
    for one in (path, sweep):
        page.goto(one.as_uri())
        assert serious_findings(page) == []
        assert not overflows(page)
    page.close()
