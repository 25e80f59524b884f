"""nuImages' tables, reduced to its annotated images and to where the annotations of each stand.

Of the 1.2 million rows of ``sample_data`` a twentieth are annotated images, and the masks of ``object_ann``
are gigabytes of text. So the tables are read once, in pieces. What is kept, in memory and in an index file
under the user's cache, are the key images, and for each the places of its annotations in the tables. The
index is made again when a table changes.

Schema: https://github.com/nutonomy/nuscenes-devkit/blob/master/docs/schema_nuimages.md
"""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from scenelift import files, image_files
from scenelift.errors import DataError, OutputError
from scenelift.scenes.index import index_path, stamp
from scenelift.scenes.tables import read_placed_rows, read_rows
from scenelift.types import F64, I32, I64

SCHEMA = 2
"""1 had no checksum."""
"""Of the index files; counts up when their content changes."""

ANNOTATIONS = ("surface_ann", "object_ann")
"""In the order in which they are painted."""

_IMAGE_TABLES = ("sample", "sample_data", "calibrated_sensor", "sensor")

_log = logging.getLogger(__name__)
_Kept = TypeVar("_Kept")
_Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class KeyImages:
    """The N annotated images of a version, in the order of its samples.

    Attributes:
        names: scene names, from the file names.
        tokens: of sample_data.
        files: relative to the data set's folder.
        channels: cameras, such as CAM_FRONT.
        shapes: (N, 2) int32, (height, width).
        intrinsics: (N, 3, 3) float64, pixels.
    """

    names: tuple[str, ...]
    tokens: tuple[str, ...]
    files: tuple[str, ...]
    channels: tuple[str, ...]
    shapes: I32
    intrinsics: F64

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Places:
    """Where the annotations of N images stand in one table, in the order in which they are painted.

    Attributes:
        first: (N + 1,) int64; the annotations of image i are ``first[i]`` to ``first[i + 1]``.
        offset: (A,) int64, byte at which each row begins.
        length: (A,) int64, bytes of each row.
        table_bytes: size of the table.
    """

    first: I64
    offset: I64
    length: I64
    table_bytes: int

    def of(self, image: int) -> list[tuple[int, int]]:
        """(offset, length) of each annotation of an image."""
        rows = slice(int(self.first[image]), int(self.first[image + 1]))
        return list(zip(self.offset[rows].tolist(), self.length[rows].tolist(), strict=True))


class Version:
    """The tables of one version, such as v1.0-train. Nothing is read before it is asked for.

    Args:
        folder: of the data set.
        name: of the version.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name

    def table(self, name: str) -> Path:
        """The file of a table."""
        return self.folder / self.name / f"{name}.json"

    @cached_property
    def images(self) -> KeyImages:
        """The key images. Raises `DataError` where tables are missing, damaged or contradict each other."""
        tables = [self.table(name) for name in _IMAGE_TABLES]
        return self._kept("images", tables, lambda: _pack_images(_read_images(self)), _unpack_images)

    @cached_property
    def number(self) -> Mapping[str, int]:
        """Place in ``images`` by scene name."""
        return {name: number for number, name in enumerate(self.images.names)}

    @cached_property
    def annotations(self) -> Mapping[str, Places]:
        """By table where the annotations stand. Raises `DataError` as ``images``."""
        number = {token: number for number, token in enumerate(self.images.tokens)}
        return {name: self._places(name, number) for name in ANNOTATIONS}

    def _places(self, name: str, number: Mapping[str, int]) -> Places:
        tables = [self.table(table) for table in (name, "sample", "sample_data")]
        return self._kept(
            name,
            tables,
            lambda: _read_places(tables[0], number, by_token=name == "object_ann"),
            lambda arrays: _unpack_places(arrays, len(number)),
        )

    def _kept(
        self,
        part: str,
        tables: Sequence[Path],
        read: Callable[[], _Arrays],
        unpack: Callable[[_Arrays], _Kept],
    ) -> _Kept:
        """What ``read`` makes of tables, from the index file where they have not changed."""
        path = index_path(self.folder, f"nuimages-{self.name}-{part}-{SCHEMA}", ".safetensors")
        now = json.dumps(stamp(tables))
        known = _load(path, now)
        if known is not None:
            try:
                return unpack(known)
            except (KeyError, ValueError, TypeError, msgspec.DecodeError):
                pass  # not as this code writes it: as good as none
        arrays = read()
        try:
            of = {"stamp": now, "checksum": _checksum(arrays)}
            files.atomic_write(path, safetensors.numpy.save(arrays, of))
        except OutputError as error:
            _log.warning(
                "the index of this data set cannot be kept, so opening it will be slow again: %s", error
            )
        return unpack(arrays)


def _load(path: Path, now: str) -> _Arrays | None:
    if not path.is_file():
        return None
    try:
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        of = header["__metadata__"]
        arrays = safetensors.numpy.load(data) if of["stamp"] == now else None
        return arrays if arrays is None or _checksum(arrays) == of["checksum"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
        return None


def _checksum(arrays: _Arrays) -> str:
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        state.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        state.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    return state.hexdigest()


# --- images -------------------------------------------------------------------------------------------


class _Sample(msgspec.Struct, gc=False):
    key_camera_token: str


class _SampleData(msgspec.Struct, gc=False):
    token: str
    calibrated_sensor_token: str
    filename: str
    height: int | None = None
    width: int | None = None


class _CalibratedSensor(msgspec.Struct, gc=False):
    token: str
    sensor_token: str
    camera_intrinsic: list[list[float]] = []


class _Sensor(msgspec.Struct, gc=False):
    token: str
    channel: str


def _read_images(version: Version) -> KeyImages:
    wanted: dict[str, int] = {}
    for samples in read_rows(version.table("sample"), _Sample):
        for sample in samples:
            wanted.setdefault(sample.key_camera_token, len(wanted))
    sensors = {s.token: s.channel for part in read_rows(version.table("sensor"), _Sensor) for s in part}
    cameras = {
        row.token: row
        for part in read_rows(version.table("calibrated_sensor"), _CalibratedSensor)
        for row in part
    }
    rows: list[_SampleData | None] = [None] * len(wanted)
    table = version.table("sample_data")
    for part in read_rows(table, _SampleData):
        for row in part:
            place = wanted.get(row.token)
            if place is not None:
                rows[place] = row
    kept = [row for row in rows if row is not None]
    if len(kept) < len(wanted):
        token = next(token for token, place in wanted.items() if rows[place] is None)
        raise _dangling(version.table("sample"), "key_camera_token", token, "sample_data")
    matrices = {token: _matrix(row, version) for token, row in cameras.items()}
    channels, intrinsics, shapes, stems = [], [], [], []
    for row in kept:
        camera = cameras.get(row.calibrated_sensor_token)
        if camera is None:
            raise _dangling(
                table, "calibrated_sensor_token", row.calibrated_sensor_token, "calibrated_sensor"
            )
        if camera.sensor_token not in sensors:
            raise _dangling(version.table("calibrated_sensor"), "sensor_token", camera.sensor_token, "sensor")
        matrix = matrices[camera.token]
        if matrix is None:
            raise DataError(
                f"expected camera_intrinsic [fx s cx; 0 fy cy; 0 0 1] of {camera.token[:40]!r} in "
                f"{version.table('calibrated_sensor')}, found {str(camera.camera_intrinsic)[:80]}; "
                "download the tables again"
            )
        channels.append(sensors[camera.sensor_token])
        intrinsics.append(matrix)
        shapes.append(_shape(row, table))
        stems.append(_stem(row, table))
    # File names carry log, camera and time, so that they are unique; if not, the token makes them so.
    twice = {stem for stem, count in _counts(stems).items() if count > 1}
    names = [
        files.safe_name(f"{stem}-{row.token}" if stem in twice else stem)
        for stem, row in zip(stems, kept, strict=True)
    ]
    return KeyImages(
        names=tuple(names),
        tokens=tuple(wanted),
        files=tuple(row.filename for row in kept),
        channels=tuple(channels),
        shapes=np.array(shapes, np.int32).reshape(-1, 2),
        intrinsics=np.array(intrinsics, np.float64).reshape(-1, 3, 3),
    )


def _counts(items: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return counts


def _matrix(row: _CalibratedSensor, version: Version) -> F64 | None:
    """Intrinsics, (3, 3); ``None`` for a LiDAR and for what is no such matrix."""
    if len(row.camera_intrinsic) != 3 or any(len(line) != 3 for line in row.camera_intrinsic):
        return None
    matrix = np.array(row.camera_intrinsic, np.float64)
    upper = matrix[1, 0] == 0 and matrix[2].tolist() == [0, 0, 1]
    fits = upper and np.isfinite(matrix).all() and min(matrix[0, 0], matrix[1, 1]) > 0
    return matrix if fits else None


def _shape(row: _SampleData, table: Path) -> tuple[int, int]:
    height, width = row.height or 0, row.width or 0
    if height > 0 and width > 0 and height * width <= image_files.MAX_PIXELS:
        return height, width
    raise DataError(
        f"expected width and height of at most {image_files.MAX_PIXELS:,} pixels in {table} "
        f"for {row.token[:40]!r}, found {row.width} × {row.height}; download the tables again"
    )


def _stem(row: _SampleData, table: Path) -> str:
    path = PurePosixPath(row.filename)
    if path.is_absolute() or ".." in path.parts or not path.stem or set(row.filename) & {"\\", "\0"}:
        raise DataError(
            f"expected file names below the data set's folder in {table}, found {row.filename[:80]!r}; "
            "download the tables again"
        )
    return path.stem


def _pack_images(images: KeyImages) -> _Arrays:
    texts = msgspec.json.encode([images.names, images.tokens, images.files, images.channels])
    return {
        "texts": np.frombuffer(texts, np.uint8),
        "shapes": images.shapes,
        "intrinsics": images.intrinsics,
    }


def _unpack_images(arrays: _Arrays) -> KeyImages:
    columns = msgspec.json.decode(arrays["texts"].tobytes(), type=list[tuple[str, ...]])
    names, tokens, paths, channels = columns
    count = len(names)
    if not all(len(column) == count for column in (*columns, arrays["shapes"], arrays["intrinsics"])):
        raise ValueError("columns of different lengths")
    return KeyImages(
        names,
        tokens,
        paths,
        channels,
        arrays["shapes"].astype(np.int32, copy=False).reshape(count, 2),
        arrays["intrinsics"].astype(np.float64, copy=False).reshape(count, 3, 3),
    )


# --- annotations --------------------------------------------------------------------------------------


class _Annotation(msgspec.Struct, gc=False):
    token: str
    sample_data_token: str


def _read_places(table: Path, number: Mapping[str, int], by_token: bool) -> _Arrays:
    """Places of a table's annotations, sorted by image and then as they stand, or by token."""
    image, offset, length = (array("q") for _ in range(3))
    tokens: list[bytes] = []
    seen = 0
    for part in read_placed_rows(table, _Annotation):
        seen += len(part.rows)
        for row, start, size in zip(part.rows, part.offsets, part.lengths, strict=True):
            place = number.get(row.sample_data_token)
            if place is not None:
                image.append(place)
                offset.append(start)
                length.append(size)
                if by_token:
                    tokens.append(row.token.encode(errors="surrogatepass"))
    if seen and not image:
        raise DataError(
            f"expected annotations of the key images in {table}, found {seen:,} rows, all of other images; "
            "download all tables of one version again"
        )
    images = np.array(image, np.int64)
    order = np.lexsort((np.array(tokens), images) if tokens else (images,))
    first = np.searchsorted(images[order], np.arange(len(number) + 1))
    return {
        "first": first.astype(np.int64),
        "offset": np.array(offset, np.int64)[order],
        "length": np.array(length, np.int64)[order],
        "table_bytes": np.array([table.stat().st_size], np.int64),
    }


def _unpack_places(arrays: _Arrays, images: int) -> Places:
    first, offset, length = (arrays[name] for name in ("first", "offset", "length"))
    size = int(arrays["table_bytes"][0])
    whole = (
        all(column.dtype == np.int64 and column.ndim == 1 for column in (first, offset, length))
        and len(first) == images + 1
        and (first[0], first[-1]) == (0, len(offset))
        and len(offset) == len(length)
        and bool((np.diff(first) >= 0).all() and (offset >= 0).all() and (length >= 0).all())
        and bool((length <= size).all() and (offset <= size - length).all())
    )
    if not whole:
        raise ValueError("places outside the table")
    return Places(first, offset, length, size)


def _dangling(path: Path, field: str, token: str, table: str) -> DataError:
    return DataError(
        f"expected every reference of {path} in the table it points to, found {field} {token[:40]!r} that "
        f"{table}.json lacks; download all tables of one version again"
    )
