"""The pictures of the site: ``python docs/make_pictures.py WORK`` makes them anew in docs/pictures.

A generated room is written as a capture in the layout of 7-Scenes, checked right and with inverted poses,
annotated, trained on and labelled. Its teachers are simulated from the room's ground truth, which they alone
hold: with CLIP and SAM the steps are the same and the labels others. What is in WORK goes on when stopped.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from fixtures_capture import edit_poses, write_capture
from scenelift import pipeline
from scenelift.check import check_source, summary_lines, write_check
from scenelift.config import CaptureData, SimulatedLabels, SimulatedMasks, SyntheticData
from scenelift.export import label_colors
from scenelift.image_files import write_jpeg
from scenelift.pipeline import Session
from scenelift.ply import decode_points
from scenelift.preview import write_preview
from scenelift.progress import bars
from scenelift.recipes import BENCH, load
from scenelift.render import render_overview
from scenelift.runfolder import RunFolder
from scenelift.scenes.capture import Capture
from scenelift.scenes.registry import open_source
from scenelift.scenes.synthetic import SyntheticRooms
from scenelift.teachers.simulated import SimulatedLabelTeacher, SimulatedMaskTeacher
from scenelift.types import U8, FrameTruth, Scene, SceneTruth

PICTURES = ROOT / "docs" / "pictures"
GAP = 6
FRAMES = 24
STEPS = (
    "train.steps_per_epoch=10", "train.epochs=7", "train.switch_after=6", "train.frames_per_scene=3",
    "networks.points.voxel_m=0.1", "data.max_width=240",
)  # fmt: skip


class RoomTruth:
    """The room's ground truth under the names that its capture has (a `TruthSource`)."""

    def __init__(self, rooms: SyntheticRooms, room: Scene, captured: Scene) -> None:
        self.classes, self._rooms, self._room = rooms.classes, rooms, room.name
        self._names = dict(zip(captured.frames.names, room.frames.names, strict=True))

    def frame(self, scene: str, frame: str) -> FrameTruth | None:
        """Labels of a frame of the capture, at the size of `STEPS`."""
        full = self._rooms.truth.frame(self._room, self._names[frame])
        assert full.instances is not None
        rows, columns = (np.arange(size) * 4 // 3 for size in (180, 240))
        at = np.ix_(rows, columns)
        return FrameTruth(full.labels[at], full.instances[at])

    def scene(self, scene: str) -> SceneTruth | None:
        """The capture's cloud is fused from depth: its points are not the room's."""
        return None


def main(work: Path) -> None:
    """Make every picture; paths in them are relative to ``work``."""
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    of_rooms()
    rooms = SyntheticRooms(
        SyntheticData(seed=1, train_rooms=4, frames_per_room=FRAMES, width=320, height=240)
    )
    room = rooms.scene("room_0001")
    frames = [replace(frame, name=str(number)) for number, frame in enumerate(room.frames)]
    right, wrong = Path("my_room"), Path("inverted")
    if not right.is_dir():
        write_capture(right, frames, naming="7scenes")
        write_capture(wrong, frames)
        edit_poses(wrong, np.linalg.inv)
    shown = [frames[i] for i in range(2, FRAMES, 6)]
    depths = [_grey(frame.depth_m) for frame in shown if frame.depth_m is not None]
    _write("capture.jpg", [[frame.image for frame in shown], depths], 1000)

    for name, folder in (("check_right.jpg", right), ("check_wrong.jpg", wrong)):
        config = load(
            "cns", ["data.max_width=320"], "capture_cpu", {"data": {"source": "capture", "path": str(folder)}}
        )
        assert isinstance(config.data, CaptureData)
        source = Capture(config.data)
        report = check_source(source, config)
        print("\n".join(summary_lines(report)))
        write_check(Path(name).with_suffix(""), report, source, config)
        page = Image.open(Path(name).with_suffix("") / "check.jpg")
        _save(name, np.asarray(page), 1000)

    simulated = {
        "labels": {"kind": "python", "name": "simulated"},
        "masks": {"kind": "python", "name": "simulated"},
    }
    options = {
        "data": {"source": "capture", "path": str(right)},
        "teachers": simulated,
        "classes": list(rooms.classes.names),
    }
    config = load("cns", STEPS, "capture_cpu", options)
    assert isinstance(config.data, CaptureData)
    source = Capture(config.data)
    truth = RoomTruth(rooms, room, source.scene(source.names("train")[0]))
    spoiled = load("cns", (), BENCH).teachers  # the teachers of the noise bench
    assert isinstance(spoiled.labels, SimulatedLabels)
    assert isinstance(spoiled.masks, SimulatedMasks)
    teachers = SimulatedLabelTeacher(spoiled.labels, truth), SimulatedMaskTeacher(spoiled.masks, truth)
    run = RunFolder(Path("run"))
    session = Session(config, run, run.cache, progress=bars, opened=source, teachers=teachers)
    annotations = pipeline.annotate(session)
    write_preview(Path("preview.jpg"), source, session.names("train"), session.classes, annotations, 3)
    _save("preview.jpg", np.asarray(Image.open(Path("preview.jpg"))), 1000)
    pair = pipeline.train(session, annotations)
    pipeline.predict(session, annotations, pair, run.predictions)
    (out,) = [path for path in run.predictions.iterdir() if path.is_dir()]
    overlays = sorted((out / "overlays").iterdir())[2::6]
    _write("overlays.jpg", [[np.asarray(Image.open(path).convert("RGB")) for path in overlays]], 1000)
    points, _ = decode_points((out / "points.ply").read_bytes(), "points.ply")
    captured = source.scene(session.names("train")[0])
    labels = pipeline.Predictor(config, pair, annotations).points(captured).labels
    assert captured.rgb is not None
    size = (450, 597)
    clouds = [
        render_overview(points, colors, size)
        for colors in (captured.rgb, label_colors(labels, session.classes))
    ]
    _write("cloud.jpg", [clouds], 1000)


def of_rooms() -> None:
    """What `check` and `annotate --preview` show of generated rooms, for the tutorial."""
    config = load("cns", (), "synthetic")
    source = open_source(config.data)
    write_check(Path("rooms"), check_source(source, config), source, config)
    _save("check_rooms.jpg", np.asarray(Image.open("rooms/check.jpg")), 1000)
    config = load("cns", ("data.train_rooms=4", "data.val_rooms=1"), "synthetic")
    run = RunFolder(Path("look"))
    session = Session(config, run, run.cache, progress=bars)
    annotations, names = pipeline.annotate(session), session.names("train", "val")
    write_preview(run.preview, session.source, names, session.classes, annotations, 4)
    _save("preview_rooms.jpg", np.asarray(Image.open(run.preview)), 1000)


def _grey(depth_m: np.ndarray) -> U8:
    near = np.clip(1 - depth_m / 6, 0, 1) * 255 * (depth_m > 0)
    return np.repeat(near.astype(np.uint8)[..., None], 3, axis=2)


def _write(name: str, rows: list[list[U8]], width: int) -> None:
    """A sheet of equal panels."""
    gap = np.full((rows[0][0].shape[0], GAP, 3), 255, np.uint8)
    lines = [np.concatenate([part for panel in row for part in (panel, gap)][:-1], axis=1) for row in rows]
    between = np.full((GAP, lines[0].shape[1], 3), 255, np.uint8)
    _save(name, np.concatenate([part for line in lines for part in (line, between)][:-1]), width)


def _save(name: str, image: U8, width: int) -> None:
    height = round(image.shape[0] * width / image.shape[1])
    small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
    write_jpeg(PICTURES / name, small, 76)
    print(PICTURES / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
