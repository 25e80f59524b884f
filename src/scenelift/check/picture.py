"""One page about a check: points over images, coverage bars, the verdict and what to mend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scenelift.check.clouds import without_depth
from scenelift.check.report import CheckReport, FrameCoverage, counts_line, spread, to_json, verdict
from scenelift.config import Config, PairingConfig
from scenelift.errors import DataError
from scenelift.files import write_json
from scenelift.image_files import write_jpeg
from scenelift.pairing import pair_points
from scenelift.scenes import SceneSource
from scenelift.types import F32, F64, U8, Frame, Scene

PANELS = 6
"""Frames that are shown: the worst and best covered ones among them."""

_WIDTH, _GAP, _COLUMNS = 1320, 12, 3
_PANEL = (_WIDTH - (_COLUMNS + 1) * _GAP) // _COLUMNS
_TALLEST = 340
_PAPER, _INK, _FAINT, _RULE = (250, 250, 248), (30, 30, 30), (110, 110, 110), (222, 222, 218)
_GOOD, _WARN, _BAD = (40, 120, 60), (170, 110, 0), (176, 32, 32)
_BAR, _BAR_HEIGHT, _MOST_BARS = (78, 121, 167), 110, 64
_MOST_POINTS = 60_000
_MOST_PROBLEMS = 8
_MOST_LETTERS = 1200
_NEAR_TO_FAR = np.array(
    [
        (165, 20, 20),
        (240, 110, 30),
        (245, 210, 60),
        (120, 210, 110),
        (50, 170, 200),
        (60, 80, 190),
        (70, 40, 120),
    ],
    dtype=np.float64,
)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_check(folder: Path, report: CheckReport, source: SceneSource, config: Config) -> list[Path]:
    """Write ``check.json`` and ``check.jpg`` into a folder, which is made if it is not there.

    Returns:
        Both paths.

    Raises:
        OutputError: they cannot be written.
    """
    paths = [folder / "check.json", folder / "check.jpg"]
    write_json(paths[0], to_json(report))
    write_check_picture(paths[1], report, source, config)
    return paths


def write_check_picture(path: Path, report: CheckReport, source: SceneSource, config: Config) -> None:
    """Draw the page as JPEG. Frames that cannot be read are told on it, and never raise.

    Args:
        path: where to; replaced if it exists.
        report: of this source.
        source: frames and clouds of up to `PANELS` frames are read again.
        config: its ``pairing`` section says which points a frame sees, its ``data`` section names the data.

    Raises:
        OutputError: it cannot be written.
    """
    name = str(getattr(config.data, "path", config.data.source))
    write_jpeg(path, _Page(name, report, _panels(report, source, config.pairing)).draw())


# --- frames with points over them -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Panel:
    """A small picture, its caption, and the range of depths drawn on it in metres."""

    caption: str
    picture: Image.Image | None
    depths_m: tuple[float, float] | None = None


def _panels(report: CheckReport, source: SceneSource, pairing: PairingConfig) -> list[_Panel]:
    panels = []
    try:
        chosen = _of_coverage(report.coverage) or _of_source(source)
    except DataError as error:
        return [_Panel(f"no frames: {error}", None)]
    for scene_name in dict.fromkeys(scene for scene, _, _ in chosen):
        rows = [(frame, said) for scene, frame, said in chosen if scene == scene_name]
        try:
            scene = source.scene(scene_name)
        except DataError as error:
            panels += [_Panel(f"{scene_name}: {error}", None)]
            continue
        points_world = scene.points_world[:: -(-len(scene.points_world) // _MOST_POINTS) or 1]
        seen_by = pairing if report.ok else without_depth(pairing)
        panels += [_panel_of(scene, frame, points_world, seen_by, said) for frame, said in rows]
    return panels


def _of_coverage(rows: Sequence[FrameCoverage]) -> list[tuple[str, str, str]]:
    """(scene, frame, what to say) of the worst, the best, and some between, worst first."""
    ranked = sorted(rows, key=lambda row: row.share)
    if len(ranked) > PANELS:
        ranked = [ranked[round(i * (len(ranked) - 1) / (PANELS - 1))] for i in range(PANELS)]
    return [(row.scene, row.frame, f"{row.points:,} points, {row.share:.1%}") for row in ranked]


def _of_source(source: SceneSource) -> list[tuple[str, str, str]]:
    names = tuple(dict.fromkeys((*source.names("train"), *source.names("val"))))
    scenes = spread(names, PANELS)
    chosen = []
    for scene in scenes:
        frames = source.scene(scene).frames.names
        chosen += [(scene, frame, "") for frame in spread(frames, max(1, PANELS // len(scenes)))]
    return chosen[:PANELS]


def _panel_of(scene: Scene, name: str, points_world: F32, pairing: PairingConfig, said: str) -> _Panel:
    try:
        return _panel(scene.frames.only([name])[0], points_world, pairing, said)
    except DataError as error:
        return _Panel(f"{scene.name}/{name}: {error}", None)


def _panel(frame: Frame, points_world: F32, pairing: PairingConfig, said: str) -> _Panel:
    """The frame scaled to the panel, with the points that it sees as dots coloured by depth."""
    factor = min(_PANEL / frame.width, _TALLEST / frame.height)
    size = (max(1, round(frame.width * factor)), max(1, round(frame.height * factor)))
    picture = Image.fromarray(frame.image).resize(size, Image.Resampling.LANCZOS)
    caption = f"{frame.key}  {frame.width} × {frame.height}{f'  {said}' if said else ''}"
    if not len(points_world) or not np.isfinite(frame.cam_from_world).all():
        return _Panel(caption, picture)
    pairing = without_depth(pairing) if frame.depth_m is None else pairing
    pairs = pair_points(points_world, [frame], pairing)
    if not len(pairs):
        return _Panel(f"{caption}  (no point falls on it)", picture)
    pose = frame.cam_from_world
    depth_m = points_world[pairs.point_index].astype(np.float64) @ pose[2, :3] + pose[2, 3]
    near, far = (float(d) for d in np.quantile(depth_m, (0.02, 0.98)))
    # Dense clouds would hide the image: some of the points show as well where it is met.
    most = size[0] * size[1] // 30
    step = -(-len(pairs) // most)
    order = np.argsort(-depth_m)[::step]
    colors = _depth_colors(depth_m[order], near, far)
    draw = ImageDraw.Draw(picture)
    radius = 1.0 if len(order) > 1500 else 1.6
    for (u, v), color in zip((pairs.pixel_uv[order] + 0.5) * factor - 0.5, colors, strict=True):
        draw.ellipse((u - radius, v - radius, u + radius, v + radius), fill=tuple(map(int, color)))
    return _Panel(caption, picture, (near, far))


def _depth_colors(depth_m: F64, near: float, far: float) -> U8:
    """(n, 3) uint8: red near, violet far, on a logarithmic scale."""
    low, high = np.log(max(near, 1e-3)), np.log(max(far, near * 1.01, 2e-3))
    at = np.clip((np.log(np.maximum(depth_m, 1e-3)) - low) / (high - low), 0, 1) * (len(_NEAR_TO_FAR) - 1)
    whole = np.minimum(at.astype(np.int64), len(_NEAR_TO_FAR) - 2)
    rest = (at - whole)[:, None]
    mixed = _NEAR_TO_FAR[whole] * (1 - rest) + _NEAR_TO_FAR[whole + 1] * rest
    return np.asarray(np.round(mixed), dtype=np.uint8)


# --- the page ---------------------------------------------------------------------------------------------


class _Page:
    """Draws from top to bottom on a sheet that is cut to its length in the end."""

    def __init__(self, name: str, report: CheckReport, panels: Sequence[_Panel]) -> None:
        self.name, self.report, self.panels = name, report, panels
        self.fonts = {size: ImageFont.load_default(size) for size in (13, 15, 22)}
        self.sheet = Image.new("RGB", (_WIDTH, 4000), _PAPER)
        self.pen = ImageDraw.Draw(self.sheet)
        self.top = _GAP

    def draw(self) -> U8:
        """(H, W, 3) uint8."""
        self._header()
        self._problems()
        self._frames()
        if self.report.coverage:
            self._bars()
        self._facts()
        return np.asarray(self.sheet.crop((0, 0, _WIDTH, self.top + _GAP)))

    def _header(self) -> None:
        report = self.report
        color = _BAD if not report.ok else _WARN if report.problems else _GOOD
        said = verdict(report)
        self.pen.text((_GAP, self.top), said, color, self.fonts[22])
        left = _GAP + int(self.fonts[22].getlength(said)) + 24
        self.pen.text(
            (left, self.top + 5),
            _clipped(_plain(self.name), self.fonts[15], _WIDTH - left - _GAP),
            _INK,
            self.fonts[15],
        )
        self.top += 34
        self._words(counts_line(report), 15, _FAINT)
        self.top += 4

    def _problems(self) -> None:
        for problem in self.report.problems[:_MOST_PROBLEMS]:
            color = _BAD if problem.severity == "error" else _WARN
            self._words(f"{problem.severity}: {problem.where}: {problem.what}", 15, color)
            self._words(f"-> {problem.mend}", 15, _INK, _GAP + 18)
            self.top += 3
        more = len(self.report.problems) - _MOST_PROBLEMS
        if more > 0:
            self._words(f"... and {more} more", 15, _FAINT)
        self.top += 6

    def _frames(self) -> None:
        drawn = [panel.depths_m for panel in self.panels if panel.depths_m]
        for start in range(0, len(self.panels), _COLUMNS):
            row = self.panels[start : start + _COLUMNS]
            height = max([panel.picture.height for panel in row if panel.picture], default=0)
            for column, panel in enumerate(row):
                left = _GAP + column * (_PANEL + _GAP)
                text = _clipped(_plain(panel.caption), self.fonts[13], _PANEL)
                self.pen.text((left, self.top), text, _FAINT, self.fonts[13])
                if panel.picture:
                    self.sheet.paste(panel.picture, (left, self.top + 18))
            self.top += 18 + height + _GAP
        if drawn:
            self._depth_scale(min(near for near, _ in drawn), max(far for _, far in drawn))

    def _depth_scale(self, near: float, far: float) -> None:
        """Colours go from the nearest to the farthest points of each image on its own."""
        width = 220
        at = np.exp(np.linspace(np.log(1.0), np.log(10.0), width))
        strip = np.repeat(_depth_colors(at, 1.0, 10.0)[None], 12, axis=0)
        self.sheet.paste(Image.fromarray(strip), (_GAP, self.top + 3))
        text = f"points by depth, near to far in each image ({near:.1f} to {far:.1f} m over all)"
        self.pen.text((_GAP + width + 10, self.top), text, _FAINT, self.fonts[13])
        self.top += 26

    def _bars(self) -> None:
        rows = spread(self.report.coverage, _MOST_BARS)
        highest = max(row.share for row in rows) or 1.0
        worst = {row.key for row in sorted(rows, key=lambda row: row.share)[:3]} if len(rows) > 3 else set()
        self._words(f"share of the cloud's points that each frame read sees, up to {highest:.1%}", 15, _INK)
        step = min(60.0, (_WIDTH - 2 * _GAP) / len(rows))
        bottom = self.top + _BAR_HEIGHT
        for index, row in enumerate(rows):
            left = _GAP + index * step
            height = max(1.0, row.share / highest * (_BAR_HEIGHT - 6))
            color = _BAD if row.key in worst else _BAR
            self.pen.rectangle((left, bottom - height, left + step - 3, bottom), fill=color)
        self.pen.line((_GAP, bottom + 1, _WIDTH - _GAP, bottom + 1), fill=_RULE)
        self.top = bottom + 6
        if worst:
            named = [f"{row.key} {row.share:.1%}" for row in sorted(rows, key=lambda row: row.share)[:3]]
            self._words(f"least: {', '.join(named)}", 13, _BAD)
        self.top += 4

    def _facts(self) -> None:
        parts = [
            f"{name.replace('_', ' ')}: {value if isinstance(value, str) else f'{value:.3g}'}"
            for name, value in self.report.facts.items()
        ]
        self._words(" | ".join(parts), 13, _FAINT)

    def _words(self, text: str, size: int, color: tuple[int, int, int], left: int = _GAP) -> None:
        """Wrapped text; at most three lines, the rest left out."""
        font = self.fonts[size]
        lines = _wrapped(_plain(text)[:_MOST_LETTERS], font, _WIDTH - left - _GAP)
        for number, line in enumerate(lines[:3]):
            cut = number == 2 and len(lines) > 3
            self.pen.text((left, self.top), f"{line} ..." if cut else line, color, font)
            self.top += size + 5


def _plain(text: str) -> str:
    """Without characters that Pillow's own font lacks."""
    for sign, plain in {"×": "x", "ᵀ": "^T", "→": "->", "±": "+-", "−": "-"}.items():
        text = text.replace(sign, plain)
    return text.encode("ascii", "replace").decode()


def _wrapped(text: str, font: Font, room: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip() if lines[-1] else word
        if font.getlength(longer) <= room or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_clipped(line, font, room) for line in lines]


def _clipped(text: str, font: Font, room: int) -> str:
    """The text, cut where it is wider than ``room`` pixels."""
    if font.getlength(text) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        keep = (low + high + 1) // 2
        low, high = (keep, high) if font.getlength(f"{text[:keep]}...") <= room else (low, keep - 1)
    return f"{text[:low]}..."
