"""Small but true trees in nuImages' layout: the street of `fixtures_street`, annotated in COCO's run lengths.

Also writers of plain image folders.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

import fixtures_street as street
from scenelift.types import F64, U8

CATEGORIES = (
    "animal",
    "flat.driveable_surface",
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.barrier",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "movable_object.trafficcone",
    "static_object.bicycle_rack",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.car",
    "vehicle.construction",
    "vehicle.ego",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.motorcycle",
    "vehicle.trailer",
    "vehicle.truck",
)
"""The 25 of nuImages: 23 of objects and two of surfaces."""

CHANNELS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK")
SHAPE = (45, 80)
INTRINSICS = np.array([[63.0, 0.0, 40.6], [0.0, 63.0, 24.1], [0.0, 0.0, 1.0]])


def token(*parts: object) -> str:
    """A token as nuImages has them: 32 hexadecimal digits."""
    return hashlib.md5(" ".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def rle(mask: np.ndarray) -> dict[str, Any]:
    """A mask as nuImages stores it."""
    counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return {"size": list(mask.shape), "counts": base64.b64encode(counts).decode()}


def view(number: int, shape: tuple[int, int] = SHAPE) -> tuple[U8, U8]:
    """Image and street labels of one place along the road."""
    vehicle = street.pose((-20.0 + 4 * number, 0.5, 1.6), yaw=0.3 * (number % 3 - 1), pitch=0.1)
    cam_from_world: F64 = np.linalg.inv(vehicle @ street.VEHICLE_FROM_CAMERA_AXES)
    scale = np.diag([shape[1] / SHAPE[1], shape[0] / SHAPE[0], 1.0])
    image, _, labels = street.camera_image(cam_from_world, scale @ INTRINSICS, shape)
    return image, labels


def write_tables(folder: Path, version: str, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Write tables as nuImages' are: a key a line, without indentation."""
    (folder / version).mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (folder / version / f"{name}.json").write_text(json.dumps(rows, indent=0), encoding="utf-8")


def write_nuimages(
    folder: Path, version: str = "v1.0-train", count: int = 4, first: int = 0, shape: tuple[int, int] = SHAPE
) -> Path:
    """A version of ``count`` samples, each with two images (the second is the key image) and a LiDAR sweep.

    Cars, trucks, people and some of the odd categories are objects; the road and the ego vehicle surfaces.
    Objects overlap, so that the order of painting shows; rows stand in no order of image or token.
    """
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("sample", "sample_data", "object_ann", "surface_ann", "ego_pose")
    }
    tables["category"] = [{"token": token(name), "name": name, "description": ""} for name in CATEGORIES]
    tables["attribute"] = [{"token": token("moving"), "name": "vehicle.moving", "description": "{[]}"}]
    tables["log"] = [
        {
            "token": token("log"),
            "logfile": "n015-2018-08-01",
            "vehicle": "n015",
            "date_captured": "2018-08-01",
            "location": "singapore-onenorth",
        }
    ]
    tables["sensor"] = [
        {"token": token(c), "channel": c, "modality": "camera" if c.startswith("CAM") else "lidar"}
        for c in (*CHANNELS, "LIDAR_TOP")
    ]
    scale = np.diag([shape[1] / SHAPE[1], shape[0] / SHAPE[0], 1.0])
    tables["calibrated_sensor"] = [
        {
            "token": token("calibrated", row["channel"]),
            "sensor_token": row["token"],
            "translation": [1.7, 0.0, 1.5],
            "rotation": [0.5, -0.5, 0.5, -0.5],
            "camera_intrinsic": (scale @ INTRINSICS).tolist() if row["modality"] == "camera" else [],
            "camera_distortion": [],
        }
        for row in tables["sensor"]
    ]
    for number in range(first, first + count):
        _write_sample(folder, tables, number, shape)
    for name in ("object_ann", "surface_ann"):
        order = np.random.default_rng(first).permutation(len(tables[name]))
        tables[name] = [tables[name][index] for index in order]
    write_tables(folder, version, tables)
    return folder


def _write_sample(
    folder: Path, tables: dict[str, list[dict[str, Any]]], number: int, shape: tuple[int, int]
) -> None:
    sample, channel = token("sample", number), CHANNELS[number % len(CHANNELS)]
    key = token("data", number, 1)
    tables["sample"].append(
        {
            "token": sample,
            "timestamp": 1_533_000_000 + number,
            "log_token": token("log"),
            "key_camera_token": key,
            "key_lidar_token": token("data", number, 2),
        }
    )
    tables["ego_pose"].append(
        {
            "token": token("pose", number),
            "translation": [float(number), 0.0, 0.0],
            "rotation": [1.0, 0.0, 0.0, 0.0],
            "timestamp": 1_533_000_000 + number,
            "rotation_rate": [0.0, 0.0, 0.0],
            "acceleration": [0.0, 0.0, 9.8],
            "speed": 4.0,
        }
    )
    for place, (sensor, folder_name, ending) in enumerate(
        [(channel, "sweeps", "jpg"), (channel, "samples", "jpg"), ("LIDAR_TOP", "samples", "pcd.bin")]
    ):
        stem = f"n015-2018-08-01-11-23-21+0800__{sensor}__{1_533_000_000 + 10 * number + place}"
        is_image = ending == "jpg"
        tables["sample_data"].append(
            {
                "token": token("data", number, place),
                "sample_token": sample,
                "ego_pose_token": token("pose", number),
                "calibrated_sensor_token": token("calibrated", sensor),
                "filename": f"{folder_name}/{sensor}/{stem}.{ending}",
                "fileformat": ending.split(".")[0],
                "width": shape[1] if is_image else None,
                "height": shape[0] if is_image else None,
                "timestamp": 1_533_000_000 + 10 * number + place,
                "is_key_frame": place != 0,
                "next": token("data", number, 1) if place == 0 else "",
                "prev": token("data", number, 0) if place == 1 else "",
            }
        )
    image, labels = view(number, shape)
    path = folder / tables["sample_data"][-2]["filename"]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)
    _annotate(tables, number, key, labels)


def _annotate(tables: dict[str, list[dict[str, Any]]], number: int, key: str, labels: U8) -> None:
    shape, rng = labels.shape, np.random.default_rng(number)
    row = np.mgrid[: shape[0], : shape[1]][0]
    surfaces = [
        ("flat.driveable_surface", labels == street.ROAD),
        ("vehicle.ego", row >= shape[0] - 2),  # painted over the road or under it, as the table has it
    ]
    objects = [
        ("vehicle.car", labels == street.CAR),
        ("human.pedestrian.adult", labels == street.PERSON),
        ("static_object.bicycle_rack", labels == street.TREE),
    ]
    for _ in range(4):
        category = CATEGORIES[int(rng.integers(len(CATEGORIES)))]
        top, left = (int(rng.integers(size)) for size in shape)
        box = np.zeros(shape, bool)
        box[top : top + shape[0] // 4, left : left + shape[1] // 4] = True
        if category not in ("flat.driveable_surface", "vehicle.ego"):
            objects.append((category, box))
    for name, found in (("surface_ann", surfaces), ("object_ann", objects)):
        for ordinal, (category, mask) in enumerate(found):
            entry: dict[str, Any] = {
                "token": token(name, number, ordinal),
                "sample_data_token": key,
                "category_token": token(category),
                "mask": rle(mask) if mask.any() else None,  # a box of which nothing is visible has no mask
            }
            if name == "object_ann":
                rows, columns = np.nonzero(mask) if mask.any() else (np.array([0]), np.array([0]))
                box = [columns.min(), rows.min(), columns.max(), rows.max()]
                entry |= {"attribute_tokens": [token("moving")], "bbox": [int(value) for value in box]}
            tables[name].append(entry)


# --- plain images -------------------------------------------------------------------------------------

IMAGE_CLASSES = {
    "0": "Road",
    "1": "Sidewalk",
    "2": "House",
    "3": "Car",
    "4": "Tree",
    "5": "Person",
    "11": "Void",
}


def write_images(
    folder: Path,
    counts: dict[str, int] | None = None,
    labels: str | None = "annot",
    sizes: Sequence[tuple[int, int]] = (SHAPE,),
) -> Path:
    """Street images: ``counts`` by split (``""`` = no splits); ``labels`` = "annot", "labels" or None."""
    number = 0
    for split, count in (counts or {"train": 3, "val": 2}).items():
        for _ in range(count):
            image, ids = view(number, sizes[number % len(sizes)])
            ids = np.where(ids == street.SKY, 11, ids).astype(np.uint8)
            path = folder / split / f"street{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            if labels is not None:
                below = f"{split}annot" if labels == "annot" and split else Path("labels") / split
                (folder / below).mkdir(parents=True, exist_ok=True)
                Image.fromarray(ids).save(folder / below / path.name)
            number += 1
    if labels is not None:
        (folder / "classes.json").write_text(json.dumps(IMAGE_CLASSES))
    return folder
