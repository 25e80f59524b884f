"""A folder of plain images, maybe with label images beside it: no cameras, no points.

Every image is a scene of its own with one frame named ``image``. `scenelift.scenes.images.layout` says which
files are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from scenelift.classes import ClassTable
from scenelift.config import ImagesData
from scenelift.errors import DataError
from scenelift.files import safe_name
from scenelift.image_files import read_rgb
from scenelift.scenes import Findings, Problem, Reopened
from scenelift.scenes.folders import looks_whole, some
from scenelift.scenes.images.layout import SPLITS, FileClasses, ImageFolder, find_images, read_classes
from scenelift.scenes.label_images import read_image_shape, read_label_png
from scenelift.scenes.resize import resize_image, resize_nearest
from scenelift.scenes.rgbd import scale_intrinsics
from scenelift.types import F64, U8, Frame, Frames, FrameTruth, Scene, SceneTruth

FRAME = "image"
"""Name of each scene's one frame."""

_LOOKED_AT = 256
"""Headers that `Images.findings` reads, spread over all images."""
_LABELS_LOOKED_AT = 16


def nominal_intrinsics(shape: tuple[int, int]) -> F64:
    """A pinhole for images without a camera: focal length max(H, W) (a view of 53° along the longer side).

    Args:
        shape: (H, W) in pixels.

    Returns:
        (3, 3) float64; the principal point is the middle of the image.
    """
    height, width = shape
    focal = float(max(shape))
    return np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])


class Images(Reopened):
    """A folder of images as a `SceneSource`: each image is a scene without points.

    There is no camera: frames stand at the origin and have the intrinsics of `nominal_intrinsics`, which are
    nobody's. Scenes are named after the split and the file (``train-0001``), or the file where there are no
    splits. Images may differ in size; ``image_size`` makes them equal.
    """

    def __init__(self, config: ImagesData) -> None:
        self.config = config
        self.folder = Path(config.path)

    @property
    def classes(self) -> ClassTable | None:
        """Those of classes.json; ``None`` without it. Raises `DataError` as `truth`."""
        return None if self.file_classes is None else self.file_classes.table

    @cached_property
    def truth(self) -> ImagesTruth | None:
        """Labels; ``None`` where no folder of label images is.

        Raises:
            DataError: there are label images but no classes.json, or one that is damaged.
        """
        classes = self.file_classes
        if classes is None or not any(images.label_folder for images in self.parts.values()):
            return None
        return ImagesTruth(self, classes)

    @cached_property
    def file_classes(self) -> FileClasses | None:
        """What classes.json says; ``None`` where it is not needed and not there. Raises `DataError`."""
        path = self.folder / "classes.json"
        if path.is_file():
            return read_classes(path)
        labels = [images.label_folder for images in self.parts.values() if images.label_folder]
        if not labels:
            return None
        raise DataError(
            f"expected {path} that names the ids of the label images in {labels[0]}, found no such file; "
            'write it as {"0": "sky", "1": "building", "11": "void"}, or move the labels elsewhere'
        )

    @cached_property
    def parts(self) -> dict[str, ImageFolder]:
        """Images by split, under ``""`` where there are no splits. Raises `DataError` without images."""
        return find_images(self.folder)

    def names(self, split: str) -> tuple[str, ...]:
        """Images of a split, or all where there are no splits. Raises `DataError` where there are none."""
        return self._names.get("" if "" in self._names else split, ())

    @cached_property
    def _names(self) -> dict[str, tuple[str, ...]]:
        return {
            split: tuple(safe_name(f"{split}-{Path(file).stem}".removeprefix("-")) for file in images.files)
            for split, images in self.parts.items()
        }

    @cached_property
    def _place(self) -> dict[str, tuple[str, int]]:
        """Split and number in it by scene name."""
        return {name: (s, i) for s, names in self._names.items() for i, name in enumerate(names)}

    def find(self, name: str) -> tuple[Path, Path | None]:
        """The files of a scene: image, and label image if there is one. Raises `DataError`."""
        if name not in self._place:
            raise DataError(
                f"expected an image of {self.folder}, found a request for {str(name)[:160]!r}; "
                "names are the split and the file's, as in train-0001"
            )
        split, number = self._place[name]
        images = self.parts[split]
        file = images.files[number]
        return images.folder / file, images.label(file)

    def frame_count(self, name: str) -> int:
        """1."""
        return 1

    def scene(self, name: str) -> Scene:
        """An image as a scene without points. Raises `DataError` for an unknown name."""
        path, _ = self.find(name)
        frames = Frames([FRAME], lambda _: self._frame(name, path))
        return Scene(name, np.zeros((0, 3), np.float32), None, frames)

    def _frame(self, name: str, path: Path) -> Frame:
        image = read_rgb(path)
        shape = image.shape[0], image.shape[1]
        new = self.config.image_size or shape
        intrinsics = scale_intrinsics(nominal_intrinsics(shape), shape, new)
        return Frame(name, FRAME, resize_image(image, new), intrinsics, np.eye(4))

    def findings(self) -> Findings:
        """Images without labels and labels without images; sizes and ids of some, spread over all."""
        counts, problems = {"images": 0, "labels": 0}, []
        try:
            parts, names = self.parts, self._names
        except DataError as error:
            return Findings(counts, (_problem(error, str(self.folder)),))
        try:
            _ = self.file_classes
        except DataError as error:
            problems.append(_problem(error, str(self.folder)))
        for split in SPLITS if "" not in parts else ():
            if split not in parts or not parts[split].files:
                what = f"there is no image in {split}/, so the {split} split is empty"
                problems.append(Problem("warning", what, str(self.folder), "add images there if needed"))
        for split, images in parts.items():
            counts["images"] += len(images.files)
            counts["labels"] += len(images.labels)
            problems.extend(_unpaired(split, images))
        every = [name for part in names.values() for name in part]
        problems.extend(self._sizes(_spread(every, _LOOKED_AT)))
        problems.extend(self._ids(_spread([n for n in every if self.find(n)[1]], _LABELS_LOOKED_AT)))
        doubtful = {n: (FRAME,) for n in _spread(every, _LOOKED_AT) if not looks_whole(self.find(n)[0])}
        return Findings(counts, tuple(problems), doubtful)

    def _sizes(self, names: Sequence[str]) -> Iterator[Problem]:
        shapes: dict[tuple[int, int], str] = {}
        for name in names:
            path, label = self.find(name)
            try:
                shape = read_image_shape(path)
                label_shape = read_image_shape(label) if label else shape
            except DataError:  # a doubtful frame, or one whose labels tell when they are read
                continue
            shapes.setdefault(shape, path.name)
            if label_shape != shape:
                what = f"{path.name} has {_times(shape)} pixels and its label image {_times(label_shape)}"
                yield Problem("error", what, str(label), "export labels in the size of their images")
        if len(shapes) > 1 and self.config.image_size is None:
            what = f"images differ in size: {some([f'{_times(s)} ({n})' for s, n in shapes.items()])}"
            yield Problem(
                "warning", what, str(self.folder), "set data.image_size=[height,width] to make them equal"
            )

    def _ids(self, names: Sequence[str]) -> Iterator[Problem]:
        try:
            truth = self.truth
        except DataError:
            return
        for name in names if truth else ():
            label = self.find(name)[1]
            try:
                if truth and label:
                    truth.read_labels(label)
            except DataError as error:
                yield _problem(error, name)


class ImagesTruth:
    """Labels of a folder of images."""

    def __init__(self, source: Images, classes: FileClasses) -> None:
        self._source = source
        self._file_classes = classes
        self.classes = classes.table

    def scene(self, scene: str) -> SceneTruth | None:
        """``None``: there are no points."""
        return None

    def frame(self, scene: str, frame: str) -> FrameTruth | None:
        """Labels of an image in the size of its frame; ``None`` where it has no label image.

        Raises:
            DataError: unknown image; a damaged label image, one of another size, or one with ids that
                classes.json does not name.
        """
        path, label = self._source.find(scene)
        if frame != FRAME:
            raise DataError(f"expected frame {FRAME!r} of {scene!r}, found a request for {frame!r}; use that")
        if label is None:
            return None
        shape, labels = read_image_shape(path), self.read_labels(label)
        if labels.shape != shape:
            raise DataError(
                f"expected {_times(shape)} pixels at {label} as its image has, found {_times(labels.shape)}; "
                "export labels in the size of their images"
            )
        new = self._source.config.image_size or shape
        return FrameTruth(np.ascontiguousarray(resize_nearest(labels, new), np.uint8))

    def read_labels(self, path: Path) -> U8:
        """(H, W) uint8 class ids of a label image, `IGNORE` for void. Raises `DataError`."""
        ids = read_label_png(path)
        counts = np.bincount(ids.ravel(), minlength=256)
        unknown = np.flatnonzero((counts > 0) & ~self._file_classes.known)
        if len(unknown):
            raise DataError(
                f"expected ids of classes.json or 255 at {path}, found "
                f"{some([str(number) for number in unknown])} ({counts[unknown].sum():,} pixels); "
                "name them in classes.json, as void if they are no class"
            )
        return self._file_classes.label_of_id[ids]


def _unpaired(split: str, images: ImageFolder) -> Iterator[Problem]:
    if images.label_folder is None:
        return
    stems = {Path(file).stem for file in images.files}
    bare = [file for file in images.files if Path(file).stem not in images.labels]
    alone = [name for stem, name in images.labels.items() if stem not in stems]
    where = split or str(images.folder)
    if bare:
        what = f"{len(bare):,} of {len(images.files):,} images have no label image: {some(bare)}"
        yield Problem("warning", what, where, "nothing to do if they are not annotated")
    if alone:
        what = f"{len(alone):,} of {len(images.labels):,} label images have no image: {some(alone)}"
        yield Problem("warning", what, where, "give images and labels the same names")


def _spread(items: Sequence[str], most: int) -> list[str]:
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else list(items)


def _times(shape: Sequence[int]) -> str:
    return f"{shape[1]} × {shape[0]}"


def _problem(error: DataError, where: str) -> Problem:
    what, _, mend = str(error).rpartition("; ")
    return Problem("error", what or mend, where, mend if what else "copy or export the files again")
