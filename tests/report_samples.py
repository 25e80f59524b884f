"""A parser that checks pages as it reads them, and sample data for the tests of reports."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np

from scenelift.classes import SCANNET20
from scenelift.report import Cloud, Picture, ReportData, ReportRow
from scenelift.types import IGNORE


class Page(HTMLParser):
    """Collects what a page holds, and fails on tags that do not match."""

    VOID = frozenset({"meta", "img", "br", "rect", "line", "path", "circle", "polyline", "input"})

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
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def count(self, name: str, /, **attrs: str) -> int:
        return len(self.find(name, **attrs))

    def find(self, name: str, /, **attrs: str) -> list[dict[str, str | None]]:
        wanted = {key.rstrip("_"): value for key, value in attrs.items()}
        return [have for of, have in self.tags if of == name and wanted.items() <= have.items()]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def sample_record(step: int, **changes: Any) -> dict[str, Any]:
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


def sample_row(recipe: str, miou_2d: float | None, miou_3d: float | None, **changes: Any) -> ReportRow:
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
            log=[sample_record(step) for step in range(40)],
        ),
        **changes,
    )


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def block(html: str, name: str) -> Any:
    """The JSON of a data block of a page."""
    (text,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def sample_cloud(points: int = 3000, seed: int = 0, **changes: Any) -> Cloud:
    """A room of 4 x 3 x 2.5 m: floor (id 1), walls (0) and a box (4) in it; labels err here and there."""
    rng = np.random.default_rng(seed)
    xyz = rng.random((points, 3)) * (4, 3, 2.5)
    kind = rng.integers(0, 4, points)
    xyz[kind == 0, 2] = 0
    xyz[kind == 1, 0] = 0
    xyz[kind == 2, 1] = 0
    box = kind == 3
    xyz[box] = xyz[box] * 0.25 + (1.5, 1, 0)
    truth = np.where(kind == 0, 1, np.where(box, 4, 0)).astype(np.uint8)
    wrong = rng.random(points) < 0.3
    teacher = np.where(wrong, rng.integers(0, 6, points), truth).astype(np.uint8)
    teacher[rng.random(points) < 0.1] = IGNORE
    own = np.where(rng.random(points) < 0.1, 7, truth).astype(np.uint8)
    cloud = Cloud(
        name=f"room_{seed}",
        points=xyz.astype(np.float32),
        rgb=rng.integers(0, 256, (points, 3), dtype=np.uint8),
        labels={"teacher labels": teacher, "ours": own},
        truth=truth,
        confidence=rng.random(points).astype(np.float32),
        azimuth_deg=45.0,
        still=noise(30, 40),
    )
    return dataclasses.replace(cloud, **changes)


def sample_data(**changes: Any) -> ReportData:
    picture = Picture("room_0/0007", [("input", noise(30, 40)), ("ours", np.zeros((30, 40, 3), np.uint8))])
    shorter = Picture("room_1/0001", [("ours", noise(30, 40, 1))])
    data = ReportData(
        title="scenelift demo",
        dataset="12 generated rooms",
        command="scenelift demo --out demo",
        classes=SCANNET20,
        rows=[
            sample_row("maskclip", 0.173, 0.142, log=()),
            sample_row("base_clip", 0.30, 0.28),
            sample_row("cns", 0.284, 0.335),
        ],
        pictures_2d=[picture, shorter],
        pictures_3d=[picture],
        notes=["One seed."],
        config_yaml="seed: 0\n",
    )
    return dataclasses.replace(data, **changes)
