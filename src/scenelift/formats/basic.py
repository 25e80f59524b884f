"""Labelled PLY; palette PNG with overlays: what every run writes unless asked for something else."""

from __future__ import annotations

from pathlib import Path

from scenelift.export import overlay, write_label_png, write_labelled_ply
from scenelift.files import safe_name
from scenelift.formats.base import Format
from scenelift.image_files import write_jpeg
from scenelift.types import Frame, Prediction, Scene


class Ply(Format):
    """``<scene>/points.ply``, see `write_labelled_ply`."""

    wants_points = True

    def places(self, scene: str) -> tuple[Path, ...]:
        """The cloud."""
        return (self.target.out / safe_name(scene) / "points.ply",)

    def points(self, scene: Scene, prediction: Prediction) -> None:
        """Write the cloud."""
        classes = self.target.classes
        (where,) = self.places(scene.name)
        write_labelled_ply(where, scene.points_world, prediction.labels, prediction.confidence, classes)


class Png(Format):
    """``<scene>/labels/<frame>.png`` and ``<scene>/overlays/<frame>.jpg``."""

    wants_frames = True

    def places(self, scene: str) -> tuple[Path, ...]:
        """The folders of both kinds."""
        folder = self.target.out / safe_name(scene)
        return folder / "labels", folder / "overlays"

    def frame(self, scene: Scene, frame: Frame, prediction: Prediction) -> None:
        """Write both images of a frame."""
        labels, overlays = self.places(scene.name)
        file, classes = safe_name(frame.name), self.target.classes
        write_label_png(labels / f"{file}.png", prediction.labels, classes)
        write_jpeg(overlays / f"{file}.jpg", overlay(frame.image, prediction.labels, classes))
