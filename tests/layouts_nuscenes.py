"""True little copies of nuScenes: a car that drives along the street, written as the devkit wants it.

Cameras and LiDAR fire at different times while the car moves and turns; global coordinates are large, as in
nuScenes. The street is static, so labels of points and pixels agree where both see the same surface.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pyquaternion import Quaternion

from fixtures_street import CAR, HOUSE, PERSON, ROAD, SIDEWALK, SKY, TREE, camera_image, lidar_scan, pose
from scenelift.scenes.nuscenes.labels import RAW_NAMES
from scenelift.types import F32, F64, U8

CAMERAS = {  # channel: yaw in degrees, seconds after the LiDAR
    "CAM_FRONT": (0.0, -0.035),
    "CAM_FRONT_RIGHT": (-55.0, -0.027),
    "CAM_BACK_RIGHT": (-110.0, -0.020),
    "CAM_BACK": (180.0, -0.010),
    "CAM_BACK_LEFT": (110.0, 0.001),
    "CAM_FRONT_LEFT": (55.0, 0.012),
}
SHAPE = (90, 160)
INTRINSICS = np.array([[126.6, 0.0, 81.6], [0.0, 126.6, 49.2], [0.0, 0.0, 1.0]])
RAW = {ROAD: 24, SIDEWALK: 26, HOUSE: 28, CAR: 17, TREE: 30, PERSON: 2}
"""lidarseg ids of the street's labels; persons are in turn 2, 3, 4 and 6."""
TRAIN = {ROAD: 10, SIDEWALK: 12, HOUSE: 14, CAR: 3, TREE: 15, PERSON: 6, SKY: 255}
"""The same among the 16 classes."""
EGO = 31
PERIOD_S = 0.5
SPEED_M_S, TURN_RAD_S = 6.0, 0.25
GLOBAL_FROM_STREET = pose((650.0, 1620.0, 0.0), yaw=0.6)
EGO_FROM_LIDAR = pose((0.94, 0.0, 1.84), yaw=-np.pi / 2, pitch=0.01)


@dataclass
class Tree:
    """What was written.

    Attributes:
        folder: of the data set.
        version: folder of its tables.
        tables: rows by table, as written.
        frame_labels: (H, W) street labels by scene name and channel.
        frame_depth_m: (H, W), alike.
        point_labels: (N,) street labels by scene name; 255 for returns from the car itself.
        points: (N, 3) by scene name.
    """

    folder: Path
    version: str
    tables: dict[str, list[dict[str, Any]]]
    frame_labels: dict[tuple[str, str], U8] = field(default_factory=dict)
    frame_depth_m: dict[tuple[str, str], F32] = field(default_factory=dict)
    point_labels: dict[str, U8] = field(default_factory=dict)
    points: dict[str, F32] = field(default_factory=dict)

    def write_tables(self) -> None:
        """Write the tables as they are now, with lines as the devkit's have."""
        place = self.folder / self.version
        place.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            (place / f"{name}.json").write_text(json.dumps(rows, indent=0))

    def row(self, table: str, **wanted: Any) -> dict[str, Any]:
        """The first row with these fields."""
        return next(r for r in self.tables[table] if all(r[key] == value for key, value in wanted.items()))


def token(*parts: object) -> str:
    """32 hexadecimal digits made of these parts."""
    return hashlib.md5(" ".join(map(str, parts)).encode()).hexdigest()


def ego_from_camera(channel: str) -> F64:
    """(4, 4), where a camera sits on the car."""
    yaw = np.deg2rad(CAMERAS[channel][0])
    mount = pose((0.6 + 1.0 * np.cos(yaw), 0.5 * np.sin(yaw), 1.5), yaw=yaw)
    axes = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    matrix: F64 = mount @ axes
    return matrix


def street_from_ego(scene: int, time_s: float) -> F64:
    """(4, 4), where the car is: it drives along the road and turns its head a little."""
    yaw = TURN_RAD_S * time_s - 0.1
    return pose((-14.0 + 12 * scene + SPEED_M_S * time_s, -0.3 + 0.2 * time_s, 0.0), yaw=yaw)


def write_nuscenes(
    folder: Path,
    *,
    scenes: Sequence[str] = ("scene-0061", "scene-0103"),
    samples: int = 2,
    sweeps: int = 2,
    version: str = "v1.0-mini",
    lidarseg: bool = True,
) -> Tree:
    """Write a data set: ``samples`` key frames a scene, ``sweeps`` LiDAR sweeps before each.

    Images are JPEG of `SHAPE`, tables have the rows of a radar and of camera sweeps too, without files.
    """
    tree = Tree(folder, version, _fixed_tables(scenes))
    if not lidarseg:
        del tree.tables["lidarseg"]
        tree.tables["category"] = [
            {k: v for k, v in r.items() if k != "index"} for r in tree.tables["category"]
        ]
    writer = _Writer(tree, lidarseg)
    for number, name in enumerate(scenes):
        writer.scene(number, name, samples, sweeps)
    tree.write_tables()
    return tree


def _fixed_tables(scenes: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    def seven(matrix: F64) -> dict[str, list[float]]:
        turn = Quaternion(matrix=matrix[:3, :3], rtol=1e-7, atol=1e-7)
        return {"translation": matrix[:3, 3].tolist(), "rotation": turn.elements.tolist()}

    channels = {"LIDAR_TOP": "lidar", "RADAR_FRONT": "radar", **dict.fromkeys(CAMERAS, "camera")}
    mounts = {c: ego_from_camera(c) if c in CAMERAS else EGO_FROM_LIDAR for c in channels}
    log = token("log")
    tables: dict[str, list[dict[str, Any]]] = {
        "category": [
            {"token": token("category", name), "name": name, "description": "", "index": index}
            for index, name in enumerate(RAW_NAMES)
        ],
        "attribute": [],
        "visibility": [],
        "instance": [],
        "sensor": [
            {"token": token("sensor", c), "channel": c, "modality": kind} for c, kind in channels.items()
        ],
        "calibrated_sensor": [
            {
                "token": token("calibrated", name, c),
                "sensor_token": token("sensor", c),
                **seven(mounts[c]),
                "camera_intrinsic": INTRINSICS.tolist() if c in CAMERAS else [],
            }
            for name in scenes
            for c in channels
        ],
        "ego_pose": [],
        "log": [{"token": log, "logfile": "", "vehicle": "", "date_captured": "", "location": "street"}],
        "scene": [],
        "sample": [],
        "sample_data": [],
        "sample_annotation": [],
        "map": [{"token": token("map"), "category": "", "filename": "maps/map.png", "log_tokens": [log]}],
        "lidarseg": [],
    }
    return tables


class _Writer:
    """Files and rows of one scene after the other."""

    def __init__(self, tree: Tree, lidarseg: bool) -> None:
        self.tree, self.tables, self.lidarseg = tree, tree.tables, lidarseg
        (tree.folder / "maps").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tree.folder / "maps" / "map.png")
        if lidarseg:
            (tree.folder / "lidarseg" / tree.version).mkdir(parents=True)

    def scene(self, number: int, name: str, samples: int, sweeps: int) -> None:
        """One drive."""
        keys = [token(name, "sample", index) for index in range(samples)]
        row = {"token": token(name), "log_token": token("log"), "nbr_samples": samples, "name": name}
        ends = {"first_sample_token": keys[0], "last_sample_token": keys[-1], "description": ""}
        self.tables["scene"].append({**row, **ends})
        for index, key in enumerate(keys):
            around = {
                "prev": keys[index - 1] if index else "",
                "next": keys[index + 1] if index + 1 < samples else "",
            }
            row = {"token": key, "timestamp": _microseconds(number, index * PERIOD_S)}
            self.tables["sample"].append({**row, **around, "scene_token": token(name)})
            self._lidar(number, name, key, index, sweeps)
            for channel in CAMERAS:
                self._camera(number, name, key, index, channel)
            self._row(number, name, key, "RADAR_FRONT", index * PERIOD_S, True, "pcd")
        for channel in ("LIDAR_TOP", "RADAR_FRONT", *CAMERAS):
            self._link(name, channel)

    def _lidar(self, number: int, name: str, key: str, index: int, sweeps: int) -> None:
        for back in range(sweeps, -1, -1):
            time_s = index * PERIOD_S - back * PERIOD_S / (sweeps + 1)
            row = self._row(number, name, key, "LIDAR_TOP", time_s, back == 0, "pcd.bin")
            points, labels = lidar_scan(street_from_ego(number, time_s) @ EGO_FROM_LIDAR)
            own = np.array([[0.3, -0.5, -0.9], [-0.2, 0.4, -1.0]], np.float32)  # the car's own roof
            points, labels = np.concatenate([points, own]), np.append(labels, [255, 255]).astype(np.uint8)
            extra = np.stack([np.arange(len(points)) % 256, np.arange(len(points)) % 16], 1)
            self._path(row).write_bytes(np.hstack([points, extra]).astype("<f4").tobytes())
            if back == 0:
                scene = f"{name}_{index:02d}"
                self.tree.points[scene], self.tree.point_labels[scene] = points, labels
                if self.lidarseg:
                    self._labels(row["token"], labels, (2, 3, 4, 6)[(number + index) % 4])

    def _labels(self, lidar: str, labels: U8, person: int) -> None:
        raw = np.full(256, EGO, np.uint8)
        for label, index in {**RAW, PERSON: person}.items():
            raw[label] = index
        filename = f"lidarseg/{self.tree.version}/{lidar}_lidarseg.bin"
        (self.tree.folder / filename).write_bytes(raw[labels].tobytes())
        self.tables["lidarseg"].append({"token": lidar, "sample_data_token": lidar, "filename": filename})

    def _camera(self, number: int, name: str, key: str, index: int, channel: str) -> None:
        time_s = index * PERIOD_S + CAMERAS[channel][1]
        self._row(number, name, key, channel, time_s - 0.08, False, "jpg")
        row = self._row(number, name, key, channel, time_s, True, "jpg")
        street_from_camera = street_from_ego(number, time_s) @ ego_from_camera(channel)
        image, depth_m, labels = camera_image(np.linalg.inv(street_from_camera), INTRINSICS, SHAPE)
        Image.fromarray(image).save(self._path(row), quality=95)
        frame = (f"{name}_{index:02d}", channel)
        self.tree.frame_labels[frame], self.tree.frame_depth_m[frame] = labels, depth_m

    def _row(
        self, number: int, name: str, key: str, channel: str, time_s: float, is_key: bool, suffix: str
    ) -> dict[str, Any]:
        """A row of sample_data with its ego pose."""
        stamp = _microseconds(number, time_s)
        this = token(name, channel, stamp)
        ego = GLOBAL_FROM_STREET @ street_from_ego(number, time_s)
        turn = Quaternion(matrix=ego[:3, :3], rtol=1e-7, atol=1e-7).elements.tolist()
        self.tables["ego_pose"].append(
            {"token": this, "timestamp": stamp, "rotation": turn, "translation": ego[:3, 3].tolist()}
        )
        kind = "samples" if is_key else "sweeps"
        height, width = SHAPE if channel in CAMERAS else (0, 0)
        row = {
            "token": this,
            "sample_token": key,
            "ego_pose_token": this,
            "calibrated_sensor_token": token("calibrated", name, channel),
            "timestamp": stamp,
            "fileformat": suffix.split(".")[0],
            "is_key_frame": is_key,
            "height": height,
            "width": width,
            "filename": f"{kind}/{channel}/n008-2018__{channel}__{stamp}.{suffix}",
            "prev": "",
            "next": "",
        }
        self.tables["sample_data"].append(row)
        return row

    def _link(self, name: str, channel: str) -> None:
        mine = token("calibrated", name, channel)
        rows = [row for row in self.tables["sample_data"] if row["calibrated_sensor_token"] == mine]
        for before, after in pairwise(rows):
            before["next"], after["prev"] = after["token"], before["token"]

    def _path(self, row: dict[str, Any]) -> Path:
        path = self.tree.folder / row["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _microseconds(scene: int, time_s: float) -> int:
    return 1_532_402_927_000_000 + scene * 100_000_000 + round(time_s * 1e6)
