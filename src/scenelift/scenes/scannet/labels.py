"""Ground truth of ScanNet: 20 classes from nyu40 ids, or 200 from raw categories; objects; over-segments.

- ScanNet20: ``<id>_vh_clean_2.labels.ply`` holds a nyu40 id for each vertex, and ``label/NNNNNN.png`` of the
  exported frames one for each pixel (0 = none).
- ScanNet200: an object of ``<id>.aggregation.json`` has a raw category, the table of categories
  (``scannetv2-labels.combined.tsv``) gives the category's id, and 200 of these ids are classes. Vertices
  belong to an object through the segments of ``<id>_vh_clean_2.0.010000.segs.json``. As in ScanNet's own
  preprocessing (https://github.com/ScanNet/ScanNet/tree/master/BenchmarkScripts/ScanNet200) a later object
  covers an earlier one, and unknown categories are unlabelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np

from scenelift.classes import SCANNET20, ClassTable, scannet20_from_nyu40
from scenelift.errors import DataError, one_line
from scenelift.files import open_bytes, read_bytes
from scenelift.ply import decode_scalars, vertex_count
from scenelift.scenes.label_images import read_label_png
from scenelift.types import I32, I64, IGNORE, U8, U16

MAX_NYU40 = 40

STRAY_IDS: Mapping[str, tuple[int, ...]] = {
    "scene0270_00": (50,),
    "scene0270_02": (50,),
    "scene0384_00": (149,),
}
"""Ids outside nyu40 that the official release itself has in these scans; taken for unlabelled, as ScanNet's
evaluation does (https://github.com/ScanNet/ScanNet/issues/20)."""

TSV = "scannetv2-labels.combined.tsv"

_HEADER_BYTES = 1 << 16
_Index = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_ObjectId = Annotated[int, msgspec.Meta(ge=0, le=65534)]
_File = TypeVar("_File", bound=msgspec.Struct)


class _Segments(msgspec.Struct, rename="camel"):
    seg_indices: list[_Index]


class _Group(msgspec.Struct, rename="camel"):
    object_id: _ObjectId
    label: str
    segments: list[_Index]


class _Aggregation(msgspec.Struct, rename="camel"):
    seg_groups: list[_Group]


# --- nyu40 ---------------------------------------------------------------------------------------------


def read_nyu40_points(path: Path, scan_id: str) -> U8:
    """The property ``label`` of a labels.ply as the 20 training ids.

    Args:
        path: of the file.
        scan_id: for the ids that are known to be wrong, see `STRAY_IDS`.

    Returns:
        (N,) uint8, `IGNORE` where unlabelled or of another class.

    Raises:
        DataError: missing, damaged, without ``label``, or with ids that nyu40 does not have.
    """
    data = read_bytes(path, "labels of a ScanNet mesh")
    ids = decode_scalars(data, str(path), ["label"])["label"]
    if ids.dtype.kind not in "iu":
        raise DataError(
            f"expected whole numbers as label in {path}, found {ids.dtype}; take the file of the release"
        )
    return scannet20_from_nyu40()[_nyu40(ids.astype(np.int64), path, scan_id)]


def read_nyu40_image(path: Path, scan_id: str) -> U8:
    """A label image of nyu40 ids as (H, W) uint8 training ids, see `read_nyu40_points`."""
    return scannet20_from_nyu40()[_nyu40(read_label_png(path).astype(np.int64), path, scan_id)]


def _nyu40(ids: I64, path: Path, scan_id: str) -> U8:
    stray = (ids < 0) | (ids > MAX_NYU40)
    if stray.any():
        found = np.unique(ids[stray])
        unknown = [int(label) for label in found if int(label) not in STRAY_IDS.get(scan_id, ())]
        if unknown:
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise DataError(
                f"expected nyu40 ids (0-{MAX_NYU40}) in {path}, "
                f"found {', '.join(map(str, unknown[:5]))}{more}; "
                f"raw category ids have to be mapped by the columns id and nyu40id of {TSV}"
            )
        ids = np.where(stray, 0, ids)
    return ids.astype(np.uint8)


# --- segments and objects ------------------------------------------------------------------------------


def read_segments(path: Path) -> I32:
    """The over-segmentation of a mesh: (N,) int32, a segment's id for each vertex.

    Raises:
        DataError: missing, not such a file, or ids that are negative or do not fit.
    """
    return np.array(_read(path, _Segments, "segIndices").seg_indices, np.int32)


def read_objects(path: Path, segments: I32) -> tuple[I64, U16, tuple[str, ...]]:
    """Which object each vertex belongs to.

    Args:
        path: of the aggregation.json.
        segments: (N,) int32, of `read_segments`.

    Returns:
        group: (N,) int64, index of the object in the file, -1 where there is none.
        instances: (N,) uint16, the file's objectId + 1, 0 where there is none.
        categories: raw category of each object of the file.

    Raises:
        DataError: missing, not such a file, or of another mesh: most of its segments are of no vertex.
    """
    groups = _read(path, _Aggregation, "segGroups").seg_groups
    known, place = np.unique(segments, return_inverse=True)
    group_of_segment = np.full(len(known), -1, np.int64)
    strangers = total = 0
    for number, described in enumerate(groups):
        wanted = np.array(described.segments, np.int64)
        at = np.searchsorted(known, wanted)
        found = at < len(known)
        found[found] = known[at[found]] == wanted[found]
        strangers += len(wanted) - int(found.sum())
        total += len(wanted)
        group_of_segment[at[found]] = number
    if strangers > total / 2:
        raise DataError(
            f"expected segments of the mesh's segs.json in {path}, "
            f"found {strangers:,} of {total:,} that no vertex has; "
            f"take {path.name} and the {path.name.split('.')[0]}_vh_clean_2.0.010000.segs.json of one release"
        )
    group = group_of_segment[place.reshape(-1)] if len(known) else np.empty(0, np.int64)
    ids = np.array([0, *(g.object_id + 1 for g in groups)], np.uint16)
    return group, ids[group + 1], tuple(g.label for g in groups)


def mesh_vertices(path: Path) -> int:
    """How many vertices a mesh claims to have, from its header alone. Raises `DataError`."""
    try:
        with open_bytes(path) as stream:
            return vertex_count(stream.read(_HEADER_BYTES), str(path))
    except OSError as error:
        raise DataError(
            f"expected a mesh at {path}, which cannot be read: {error.strerror or error}; download it"
        ) from error


def check_vertices(count: int, expected: int, path: Path, mesh: Path) -> None:
    """Raise `DataError` unless a file about a mesh has as many entries as the mesh has vertices."""
    if count != expected:
        raise DataError(
            f"expected {expected:,} entries, one for each vertex of {mesh.name}, in {path}, found {count:,}; "
            "take both files of one release"
        )


def _read(path: Path, kind: type[_File], what: str) -> _File:
    data = read_bytes(path, f"a JSON file with {what}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DataError(
            f"expected a JSON file with {what} at {path}, found a fault: {one_line(error)}; download it again"
        ) from error


# --- ScanNet200 ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _table200() -> tuple[tuple[int, tuple[int, int, int], str, tuple[str, ...]], ...]:
    """Id, colour, name and raw categories of the 200 classes in the benchmark's order."""
    text = resources.files("scenelift.scenes").joinpath("data/scannet200.tsv").read_text("utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return tuple(
        (int(label), (int(red), int(green), int(blue)), name, tuple(raw.split("|")))
        for label, red, green, blue, name, raw in rows
    )


@lru_cache(maxsize=1)
def scannet200() -> ClassTable:
    """The 200 classes of the ScanNet200 benchmark, in its order, with its colours.

    From https://github.com/ScanNet/ScanNet/blob/master/BenchmarkScripts/ScanNet200/scannet200_constants.py.
    """
    rows = _table200()
    return ClassTable(
        names=tuple(name for _, _, name, _ in rows),
        prompts=tuple((name,) for _, _, name, _ in rows),
        colors=np.array([color for _, color, _, _ in rows], np.uint8),
    )


def class_table(labels: str) -> ClassTable:
    """The classes of ``data.labels``."""
    return SCANNET20 if labels == "scannet20" else scannet200()


def train_ids_200(tsv: Path | None) -> dict[str, int]:
    """Training id (0-199) by raw category; categories of other ids are not in it.

    Args:
        tsv: the user's ``scannetv2-labels.combined.tsv``; ``None`` = what ScanNet v2 has, which comes with
            scenelift.

    Raises:
        DataError: it cannot be read, or has no such columns.
    """
    if tsv is None:
        return {raw: number for number, row in enumerate(_table200()) for raw in row[3]}
    train_id = {row[0]: number for number, row in enumerate(_table200())}
    found: dict[str, int] = {}
    for raw, label in read_tsv(tsv):
        if label in train_id:
            found.setdefault(raw, train_id[label])
    return found


def read_tsv(path: Path) -> list[tuple[str, int]]:
    """Raw category and id of each row of ``scannetv2-labels.combined.tsv``. Raises `DataError`."""
    lines = (
        read_bytes(path, "ScanNet's table of categories").decode("utf-8-sig", errors="replace").splitlines()
    )
    columns = lines[0].split("\t") if lines else []
    if not {"id", "raw_category"} <= set(columns):
        raise DataError(
            f"expected a table with the columns id and raw_category, split by tabs, at {path}, "
            f"found a first line of {one_line(ValueError(' '.join(columns)))!r}; download it again"
        )
    at_id, at_raw = columns.index("id"), columns.index("raw_category")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        if not line.strip():
            continue
        if len(cells) <= max(at_id, at_raw) or not (cells[at_id].isascii() and cells[at_id].isdecimal()):
            raise DataError(
                f"expected an id and a raw category in line {number} of {path}; download it again"
            )
        rows.append((cells[at_raw], int(cells[at_id][:18])))
    return rows


def labels_200(group: I64, categories: tuple[str, ...], train_ids: Mapping[str, int]) -> U8:
    """Training ids of vertices, (N,) uint8, from `read_objects` and `train_ids_200`."""
    table = np.array([IGNORE, *(train_ids.get(raw, IGNORE) for raw in categories)], np.uint8)
    return table[group + 1]
