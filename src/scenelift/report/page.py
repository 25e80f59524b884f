"""The page itself: what stands where. First the answer, then what supports it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scenelift.files import atomic_write
from scenelift.report import sections
from scenelift.report.answer import answer
from scenelift.report.data import ReportData
from scenelift.report.markup import Markup, join, tag
from scenelift.report.shell import html_page

MAX_BYTES = 8_000_000
"""No report is larger: it has to open on a telephone and pass as an attachment."""

SCRIPTS = ("ui.js", "zoom.js", "confusion.js", "cloud_gl.js", "cloud.js")
"""What runs in a report, in this order."""


def write_report(path: Path, data: ReportData) -> None:
    """Write the report as one HTML file of at most `MAX_BYTES`.

    Args:
        path: where to; replaced if it exists.
        data: what to show. Names and titles may hold any text, it is escaped.

    Raises:
        OutputError: the file cannot be written.
    """
    atomic_write(path, render_page(data).encode())


def render_page(data: ReportData) -> str:
    """The report as HTML, see `write_report`; the largest sections give way if it is too large."""
    classes = data.classes
    pictured = data.pictures_2d or data.pictures_3d
    legend = "" if pictured else join(tag("h3", "Classes"), sections.legend_of(classes))
    parts = [
        answer(data),
        sections.qualitative(data.pictures_2d, classes, "Images", "image"),
        sections.qualitative(data.pictures_3d, classes, "Point clouds", "point cloud"),
        sections.clouds_section(data.clouds, classes),
        sections.predicted_shares(data.label_shares, classes),
        sections.per_class(data.rows, classes),
        sections.confusion(data.rows, classes),
        sections.training(data.rows),
        sections.again(data.command, data.config_yaml, legend),
    ]
    return fitting_page(f"{data.title} – {data.dataset}", [part for part in parts if part])


def fitting_page(title: str, parts: Sequence[Markup]) -> str:
    """A page of these parts; the largest but the first give way where it would pass `MAX_BYTES`."""
    kept = list(parts)
    page = html_page(title, kept, SCRIPTS)
    for largest in sorted(range(1, len(kept)), key=lambda k: -len(kept[k])):
        if len(page.encode()) <= MAX_BYTES:
            break
        kept[largest] = tag("p", "A section is left out here: this file would be too large.", class_="muted")
        page = html_page(title, kept, SCRIPTS)
    return page
