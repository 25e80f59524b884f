"""nuImages in the devkit's layout: street images with labels of pixels, no points.

Every annotated image is a scene of its own with one frame, so that training batches mix images. Its camera
stands at the origin (``cam_from_world`` is the identity): nuImages has poses, but no cloud is read that they
would relate to. Labels follow the devkit's ``NuImages.get_segmentation``: surfaces are painted in the order
of their table, then objects in the order of their tokens, over what was there.

::

    PATH/v1.0-train/{sample,sample_data,calibrated_sensor,sensor,category,object_ann,surface_ann}.json
    PATH/v1.0-val/...
    PATH/samples/CAM_*/*.jpg

``v1.0-mini`` serves both splits where neither of the two is there.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np

from scenelift.classes import ClassTable
from scenelift.config import NuImagesData
from scenelift.errors import DataError
from scenelift.files import open_bytes
from scenelift.image_files import read_rgb
from scenelift.scenes import Findings, Problem, Reopened
from scenelift.scenes.folders import some
from scenelift.scenes.nuimages.index import ANNOTATIONS, Version
from scenelift.scenes.nuimages.rle import decode_runs, paint
from scenelift.scenes.resize import resize_image, resize_nearest
from scenelift.scenes.rgbd import scale_intrinsics
from scenelift.scenes.tables import read_row, read_rows
from scenelift.types import IGNORE, Frame, Frames, FrameTruth, Scene, SceneTruth

_CLASSES: tuple[tuple[str, tuple[str, ...], tuple[str, ...], tuple[int, int, int]], ...] = (
    # name, categories, prompts where the name is not what one sees, colour of the devkit
    ("barrier", ("movable_object.barrier",), (), (112, 128, 144)),
    ("bicycle", ("vehicle.bicycle",), (), (220, 20, 60)),
    ("bus", ("vehicle.bus.bendy", "vehicle.bus.rigid"), (), (255, 127, 80)),
    ("car", ("vehicle.car",), (), (255, 158, 0)),
    ("construction vehicle", ("vehicle.construction",), (), (233, 150, 70)),
    ("motorcycle", ("vehicle.motorcycle",), (), (255, 61, 99)),
    (
        "pedestrian",
        (
            "human.pedestrian.adult",
            "human.pedestrian.child",
            "human.pedestrian.construction_worker",
            "human.pedestrian.police_officer",
        ),
        ("pedestrian", "person"),
        (0, 0, 230),
    ),
    ("traffic cone", ("movable_object.trafficcone",), (), (47, 79, 79)),
    ("trailer", ("vehicle.trailer",), (), (255, 140, 0)),
    ("truck", ("vehicle.truck",), (), (255, 99, 71)),
    ("driveable surface", ("flat.driveable_surface",), ("driveable surface", "road"), (0, 207, 191)),
)

NUIMAGES11 = ClassTable(
    names=tuple(name for name, *_ in _CLASSES),
    prompts=tuple(prompts or (name,) for name, _, prompts, _ in _CLASSES),
    colors=np.array([color for *_, color in _CLASSES], dtype=np.uint8),
)
"""The classes that nuImages shares with nuScenes-lidarseg: the first 11 of its 16, in the same order."""

IGNORED_CATEGORIES = (
    "animal",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "static_object.bicycle_rack",
    "vehicle.ego",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
)
"""The other categories of nuImages; their pixels have no label, as in the benchmark of nuScenes."""

LABEL_OF_CATEGORY: Mapping[str, int] = {
    **dict.fromkeys(IGNORED_CATEGORIES, IGNORE),
    **{name: label for label, (_, names, *_) in enumerate(_CLASSES) for name in names},
}
"""Class id or `IGNORE` by name of each of the 25 categories."""

_MAX_OBJECTS = 65_535
_TAIL = 64


class NuImages(Reopened):
    """nuImages as a `SceneSource`: each annotated image is a scene.

    The first opening reads the tables once; afterwards an index under the user's cache tells
    (`scenelift.scenes.nuimages.index`).
    """

    classes = NUIMAGES11

    def __init__(self, config: NuImagesData) -> None:
        self.config = config
        self.folder = Path(config.path)

    def names(self, split: str) -> tuple[str, ...]:
        """Images of v1.0-train or v1.0-val, of v1.0-mini for both where it is alone; () without that version.

        Raises:
            DataError: none of these versions is there, or its tables are damaged.
        """
        version = self.versions.get(split)
        return version.images.names if version else ()

    def frame_count(self, name: str) -> int:
        """1."""
        return 1

    def scene(self, name: str) -> Scene:
        """An image as a scene without points. Raises `DataError` for an unknown name."""
        version, number = self.find(name)
        frames = Frames([version.images.channels[number]], lambda _: self._frame(version, number))
        return Scene(name, np.zeros((0, 3), np.float32), None, frames)

    def _frame(self, version: Version, number: int) -> Frame:
        images = version.images
        path = self.folder / images.files[number]
        image = read_rgb(path)
        shape = (int(images.shapes[number, 0]), int(images.shapes[number, 1]))
        if image.shape[:2] != shape:
            raise DataError(
                f"expected {shape[1]} × {shape[0]} pixels at {path} as sample_data.json says, found "
                f"{image.shape[1]} × {image.shape[0]}; unpack the images again (data.image_size scales them)"
            )
        new = self.config.image_size or shape
        return Frame(
            scene=images.names[number],
            name=images.channels[number],
            image=resize_image(image, new),
            intrinsics=scale_intrinsics(images.intrinsics[number], shape, new),
            cam_from_world=np.eye(4),
        )

    @cached_property
    def truth(self) -> NuImagesTruth | None:
        """Labels of the images; ``None`` when no version has annotation tables."""
        tables = (version.table(name) for version in self.versions.values() for name in ANNOTATIONS)
        return NuImagesTruth(self) if any(table.is_file() for table in tables) else None

    @cached_property
    def versions(self) -> Mapping[str, Version]:
        """Version by split. Raises `DataError` when there is none that can be used."""
        found = {
            split: Version(self.folder, f"v1.0-{split}")
            for split in ("train", "val")
            if (self.folder / f"v1.0-{split}").is_dir()
        }
        if found:
            return found
        if (self.folder / "v1.0-mini").is_dir():
            mini = Version(self.folder, "v1.0-mini")
            return {"train": mini, "val": mini}
        there = sorted(path.name for path in self.folder.glob("v1.0-*"))
        raise DataError(
            f"expected v1.0-train, v1.0-val or v1.0-mini in {self.folder}, "
            f"found {some(there) or 'none of them'}; "
            "unpack nuImages' metadata there"
        )

    def find(self, name: str) -> tuple[Version, int]:
        """The version that holds an image, and the image's place in it. Raises `DataError`."""
        for version in self.versions.values():
            if name in version.number:
                return version, version.number[name]
        raise DataError(
            f"expected an image of {self.folder}, found a request for {str(name)[:160]!r}; "
            "names are those of the files in samples/"
        )

    def findings(self) -> Findings:
        """Missing versions, tables and images, tables that are cut off, and categories without a rule."""
        try:
            versions = {version.name: version for version in self.versions.values()}
        except DataError as error:
            return Findings(problems=(_problem(error, str(self.folder)),))
        counts, problems = {"images": 0, "images_missing": 0}, []
        for split in {"train", "val"} - self.versions.keys():
            what = f"there is no v1.0-{split}, so the {split} split is empty"
            problems.append(
                Problem("warning", what, str(self.folder), f"unpack v1.0-{split} there if needed")
            )
        for version in versions.values():
            self._look_at(version, counts, problems)
        return Findings(counts, tuple(problems))

    def _look_at(self, version: Version, counts: dict[str, int], problems: list[Problem]) -> None:
        try:
            self._look_at_files(version, counts, problems)
        except DataError as error:
            problems.append(_problem(error, version.name))

    def _look_at_files(self, version: Version, counts: dict[str, int], problems: list[Problem]) -> None:
        wanted = version.images.files
        parents = {str(PurePosixPath(file).parent) for file in wanted}
        there = {f"{parent}/{name}" for parent in parents for name in _entries(self.folder / parent)}
        missing = [file for file in wanted if str(PurePosixPath(file)) not in there]
        counts["images"] += len(wanted)
        counts["images_missing"] += len(missing)
        if missing:
            what = f"{len(missing):,} of {len(wanted):,} annotated images are missing: {some(missing)}"
            problems.append(Problem("error", what, version.name, "unpack all of nuImages' samples there"))
        tables = [version.table(name) for name in ANNOTATIONS]
        for table in tables if any(table.is_file() for table in tables) else []:
            if not table.is_file():
                what = f"expected {table.name} beside the other tables, found no such file"
                problems.append(Problem("error", what, version.name, "unpack all tables of this version"))
            elif not _ends_whole(table):
                what = f"{table.name} is cut off: it does not end with ]"
                problems.append(Problem("error", what, version.name, "copy or download the table again"))
        if version.table("category").is_file():
            unknown = sorted(set(read_categories(version).values()) - LABEL_OF_CATEGORY.keys())
            if unknown:
                what = f"{len(unknown)} categories are none of nuImages' 25 and are ignored: {some(unknown)}"
                problems.append(Problem("warning", what, version.name, "nothing to do if they are your own"))


# --- labels -------------------------------------------------------------------------------------------


class _Mask(msgspec.Struct):
    size: tuple[int, int]
    counts: str


class _Annotation(msgspec.Struct):
    sample_data_token: str
    category_token: str
    mask: _Mask | None


class _Category(msgspec.Struct):
    token: str
    name: str


class NuImagesTruth:
    """Labels of nuImages. Masks stay on disk until an image's are asked for."""

    classes = NUIMAGES11

    def __init__(self, source: NuImages) -> None:
        self._source = source

    def scene(self, scene: str) -> SceneTruth | None:
        """``None``: there are no points."""
        return None

    def frame(self, scene: str, frame: str) -> FrameTruth | None:
        """Labels of an image in the size of its frame; `IGNORE` where nothing is annotated.

        Instances are objects, numbered from 1 in the order of their tokens; surfaces have none.

        Raises:
            DataError: unknown image, or tables that are missing or damaged.
        """
        source = self._source
        version, number = source.find(scene)
        channel = version.images.channels[number]
        if frame != channel:
            raise DataError(
                f"expected frame {channel!r} of {scene!r}, found a request for {frame!r}; "
                "each image has one frame, named after its camera"
            )
        if not any(version.table(name).is_file() for name in ANNOTATIONS):
            return None
        shape = (int(version.images.shapes[number, 0]), int(version.images.shapes[number, 1]))
        labels = np.full(shape, IGNORE, np.uint8, order="F")
        instances = np.zeros(shape, np.uint16, order="F")
        for name in ANNOTATIONS:
            table, places = version.table(name), version.annotations[name].of(number)
            if len(places) > _MAX_OBJECTS:
                raise DataError(
                    f"expected at most {_MAX_OBJECTS:,} annotations of {scene} in {table}, "
                    f"found {len(places):,}; download the tables again"
                )
            for ordinal, (offset, length) in enumerate(places, start=1):
                row = read_row(table, _Annotation, offset, length)
                if row.sample_data_token != version.images.tokens[number]:
                    raise DataError(
                        f"expected an annotation of {scene} at byte {offset:,} of {table}, found another "
                        "image's; the table changed while it was in use: open the data set again"
                    )
                if row.mask is None:
                    continue
                runs = _runs(row.mask, shape, f"byte {offset:,} of {table}")
                paint(labels, runs, self._label(version, row.category_token, table))
                if name == "object_ann":
                    paint(instances, runs, ordinal)
        new = source.config.image_size or shape
        return FrameTruth(
            np.ascontiguousarray(resize_nearest(labels, new), np.uint8),
            np.ascontiguousarray(resize_nearest(instances, new), np.uint16),
        )

    def _label(self, version: Version, token: str, table: Path) -> int:
        categories = self._categories.get(version.name)
        if categories is None:
            categories = self._categories[version.name] = read_categories(version)
        if token not in categories:
            raise DataError(
                f"expected every category of {table} in category.json, found no {token[:40]!r}; "
                "download all tables of one version again"
            )
        return LABEL_OF_CATEGORY.get(categories[token], IGNORE)

    @cached_property
    def _categories(self) -> dict[str, Mapping[str, str]]:
        return {}


def read_categories(version: Version) -> Mapping[str, str]:
    """Name by token of each category. Raises `DataError`."""
    return {row.token: row.name for part in read_rows(version.table("category"), _Category) for row in part}


def _runs(mask: _Mask, shape: tuple[int, int], where: str) -> np.ndarray:
    if mask.size != shape:
        raise DataError(
            f"expected a mask of {shape[1]} × {shape[0]} pixels as its image in {where}, found "
            f"{mask.size[1]} × {mask.size[0]}; download the tables again"
        )
    try:
        text = base64.b64decode(mask.counts, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(
            f"expected a mask's counts in base64 in {where}, found something else ({error}); "
            "download the tables again"
        ) from error
    return decode_runs(text, shape, where)


def _entries(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except OSError:
        return []


def _ends_whole(table: Path) -> bool:
    try:
        with open_bytes(table) as stream:
            stream.seek(max(0, table.stat().st_size - _TAIL))
            return stream.read().rstrip().endswith(b"]")
    except OSError:
        return False


def _problem(error: DataError, where: str) -> Problem:
    what, _, mend = str(error).rpartition("; ")
    return Problem("error", what or mend, where, mend if what else "copy or download the files again")
