"""The files of a folder of clouds and camera images, and which image belongs to which cloud.

::

    PATH/calib.json                        see `scenelift.scenes.lidar.calib`
    PATH/lidar/*.{bin,npy,ply,pcd,las,laz} one file a cloud
    PATH/cameras/<name>/*.{jpg,png}
    PATH/poses.txt                         optional: world_from_lidar of each cloud, a line each
    PATH/labels/*.{label,npy,bin}          optional: class of each point
    PATH/image_labels/<name>/*.png         optional: class of each pixel
    PATH/classes.json                      names by id, needed for labels

An image belongs to the cloud of the same stem, or, when stems are time stamps, to the nearest one in time.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from scenelift.errors import DataError, one_line
from scenelift.files import read_bytes
from scenelift.geometry import orthonormalize, rigid_error
from scenelift.scenes.clouds import SUFFIXES
from scenelift.scenes.folders import natural_key
from scenelift.scenes.index import remembered
from scenelift.scenes.lidar.calib import RIGID_TOLERANCE
from scenelift.types import F64

IMAGES = (".jpg", ".jpeg", ".png")
LABELS = (".label", ".npy", ".bin")
_KIND = "lidar-files-1"
_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_MAGNITUDES = (("ns", 10**17), ("us", 10**14), ("ms", 10**11), ("s", 10**8))
"""Whole numbers from here on are time since 1970 in this unit (the bounds lie in 1973); below, a counter."""


@dataclass(frozen=True, eq=False)
class LidarLayout:
    """What lies in the folder: file names by stem, in natural order.

    Attributes:
        folder: the data set.
        clouds: in lidar/.
        images: in cameras/<name>/, by name.
        labels: in labels/.
        image_labels: in image_labels/<name>/, by name.
    """

    folder: Path
    clouds: Mapping[str, str]
    images: Mapping[str, Mapping[str, str]]
    labels: Mapping[str, str]
    image_labels: Mapping[str, Mapping[str, str]]


def find_files(folder: Path) -> LidarLayout:
    """List the folder; an index of the listing is kept in the user's cache.

    Raises:
        DataError: no such folder, no clouds, or two files of one stem.
    """
    if not (folder / "lidar").is_dir():
        found = "no lidar/ in it" if folder.is_dir() else "no such folder"
        raise DataError(
            f"expected clouds in lidar/ and images in cameras/<name>/ of {folder}, found {found}; "
            "check the path"
        )
    kinds = {"lidar": SUFFIXES, "labels": LABELS}
    for kind, suffixes in (("cameras", IMAGES), ("image_labels", (".png",))):
        if (folder / kind).is_dir():
            kinds |= {f"{kind}/{name}": suffixes for name in _folders(folder / kind)}
    files = remembered(
        folder,
        _KIND,
        {part: [folder / part] for part in kinds if (folder / part).is_dir()},
        lambda part: by_stem(folder / part, kinds[part]),
    )
    if not files["lidar"]:
        raise DataError(
            f"expected clouds ({' '.join(SUFFIXES)}) in {folder / 'lidar'}, found none; check the path"
        )

    def group(prefix: str) -> dict[str, dict[str, str]]:
        return {part[len(prefix) :]: found for part, found in files.items() if part.startswith(prefix)}

    images, image_labels = group("cameras/"), group("image_labels/")
    return LidarLayout(folder, files["lidar"], images, files.get("labels", {}), image_labels)


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Files of a folder by stem, in natural order; ``a.pcd.bin`` and ``a_lidarseg.bin`` count as ``a``.

    Raises:
        DataError: the folder cannot be read, or two files have one stem.
    """
    found: dict[str, str] = {}
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError as error:
        raise DataError(
            f"expected a folder that can be read at {folder}, found "
            f"{error.strerror or error}; check your rights"
        ) from error
    for name in sorted(names):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in suffixes or name.startswith("."):
            continue
        stem = stem.removesuffix(".pcd").removesuffix("_lidarseg") if suffix == ".bin" else stem
        if stem in found:
            raise DataError(
                f"expected one file per stem in {folder}, found {found[stem]} and {name}; "
                "remove the one that does not belong there"
            )
        found[stem] = name
    return {stem: found[stem] for stem in sorted(found, key=natural_key)}


# --- which image belongs to which cloud -----------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """The image of a cloud: its stem, and how much later than the cloud it was taken (0 without times)."""

    stem: str
    delay_ns: int = 0


def time_ns(stem: str, unit: str | None) -> int | None:
    """The time a stem says, in nanoseconds; ``None`` if it is no time stamp.

    Args:
        stem: such as ``1305031102.175304`` or ``1305031102175304000``.
        unit: ``s``, ``ms``, ``us`` or ``ns``: any number is a time; ``None``: decimals are seconds, whole
            numbers are told by their magnitude (`_MAGNITUDES`), and smaller ones are no time stamps.
    """
    if not re.fullmatch(r"[0-9]{1,25}(\.[0-9]{1,12})?", stem):
        return None
    number = Decimal(stem)
    if unit is None:
        unit = "s" if "." in stem else next((u for u, least in _MAGNITUDES if number >= least), None)
    return None if unit is None else int(number * _NS[unit])


def times_ns(stems: Iterable[str], unit: str | None) -> dict[str, int] | None:
    """Time by stem; ``None`` unless all stems are time stamps."""
    times = {stem: time_ns(stem, unit) for stem in stems}
    known = {stem: time for stem, time in times.items() if time is not None}
    return known if len(known) == len(times) and times else None


def match_images(
    clouds: Iterable[str], images: Iterable[str], unit: str | None, offset_s: float, max_gap_s: float
) -> dict[str, Match]:
    """The image of each cloud that has one.

    Args:
        clouds: stems.
        images: stems of one camera.
        unit: see `time_ns`.
        offset_s: added to the images' times.
        max_gap_s: at most this lies between a cloud and its image.
    """
    clouds, images = list(clouds), list(images)
    cloud_times, image_times = times_ns(clouds, unit), times_ns(images, unit)
    if cloud_times is None or image_times is None:
        there = set(images)
        return {stem: Match(stem) for stem in clouds if stem in there}
    offset = round(offset_s * 1e9)
    ordered = sorted((time + offset, stem) for stem, time in image_times.items())
    matches = {}
    for stem, time in cloud_times.items():
        at = bisect_left(ordered, (time, ""))
        near = [ordered[i] for i in (at - 1, at) if 0 <= i < len(ordered)]
        image_time, image = min(near, key=lambda entry: abs(entry[0] - time))
        if abs(image_time - time) <= max_gap_s * 1e9:
            matches[stem] = Match(image, image_time - time)
    return matches


# --- the vehicle's motion ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class EgoMotion:
    """Where the LiDAR was: its pose at the time of each cloud, and between them.

    Attributes:
        times: (N,) float64 seconds after the first cloud, rising.
        world_from_lidar: (N, 4, 4) float64.
    """

    times: F64
    world_from_lidar: F64

    def at(self, time_s: float) -> F64:
        """(4, 4) world_from_lidar: positions linear, rotations by slerp; beyond the ends as at the ends."""
        if len(self.times) == 1:
            only: F64 = self.world_from_lidar[0]
            return only
        i = int(np.clip(np.searchsorted(self.times, time_s, side="right") - 1, 0, len(self.times) - 2))
        before, after = self.world_from_lidar[i], self.world_from_lidar[i + 1]
        span = self.times[i + 1] - self.times[i]
        share = (time_s - self.times[i]) / span if span > 0 else 0.0
        turn = Rotation.from_matrix(before[:3, :3].T @ after[:3, :3]).as_rotvec()
        pose = np.eye(4)
        pose[:3, :3] = before[:3, :3] @ Rotation.from_rotvec(share * turn).as_matrix()
        pose[:3, 3] = (1 - share) * before[:3, 3] + share * after[:3, 3]
        return pose


def read_poses(path: Path, count: int | None) -> F64:
    """Poses of text lines: the upper 12 or all 16 numbers of a matrix, row by row.

    Args:
        path: such as poses.txt.
        count: how many are needed; ``None`` = any.

    Returns:
        (N, 4, 4) float64, with orthonormal rotations.

    Raises:
        DataError: missing, no numbers, not 12 or 16 of them, another count, or not rigid; with the line.
    """
    text = read_bytes(path, "poses, one a line").decode("utf-8-sig", errors="replace")
    lines = [line.replace(",", " ").split() for line in text.splitlines() if line.strip() and line[0] != "#"]
    if count is not None and len(lines) != count:
        raise DataError(
            f"expected {count:,} poses at {path}, one per cloud in the order of their names, "
            f"found {len(lines):,}; write one line for each"
        )
    poses = np.tile(np.eye(4), (len(lines), 1, 1))
    for number, words in enumerate(lines):
        try:
            values = [float(word) for word in words]
            if len(values) not in (12, 16):
                raise ValueError(f"{len(values)} numbers")
        except ValueError as error:
            raise DataError(
                f"expected 12 or 16 numbers a line at {path}, found in pose {number + 1}: {one_line(error)}; "
                "write the rows of the 3×4 or 4×4 matrix after each other"
            ) from None
        poses[number, : len(values) // 4] = np.reshape(values, (-1, 4))
    if not len(poses):
        raise DataError(f"expected poses at {path}, found none; write one line for each cloud")
    matrices = torch.from_numpy(poses)
    bent = next((i for i in range(len(poses)) if rigid_error(matrices[i]) > RIGID_TOLERANCE), None)
    if bent is not None:
        raise DataError(
            f"expected rigid motions at {path}, found pose {bent + 1} off by "
            f"{rigid_error(matrices[bent]):.3g}; remove scale, mirroring, NaN and infinity"
        )
    rigid: F64 = orthonormalize(matrices).numpy()
    return rigid
