"""Writers of small but true ScanNet folders: a ray-cast room with labels, objects and segments."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from plyfile import PlyData, PlyElement

from fixtures_capture import BOX, ROOM, camera_path, cast
from scenelift.types import F32, F64, U8

COLOR_SHAPE, DEPTH_SHAPE = (96, 128), (48, 64)
COLOR_INTRINSICS = np.array([[104.0, 0, 65.0], [0, 104.0, 46.0], [0, 0, 1]])
DEPTH_INTRINSICS = np.array([[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]])
NYU40 = {"whiteboard": 30, "floor": 2, "wall": 1, "desk": 14}
"""What the room is made of; whiteboard, one of the walls, is none of the 20 classes."""
KINDS = tuple(NYU40)
TRAIN, VAL, TEST = "scene0000_00", "scene0011_00", "scene0707_00"
LOST = np.full((4, 4), -np.inf)


def kinds_of(points_world: F64) -> U8:
    """Index into `KINDS` of points on the surfaces of the room: (..., 3) to (...)."""
    on_box = ((points_world > BOX[0] - 1e-6) & (points_world < BOX[1] + 1e-6)).all(-1) & (
        points_world[..., 2] > 1e-6
    )
    is_board = points_world[..., 0] > ROOM[1, 0] - 1e-6
    kinds = np.where(points_world[..., 2] < 1e-6, 1, np.where(is_board, 0, 2))
    return np.where(on_box, 3, kinds).astype(np.uint8)


@dataclass
class Room:
    """The vertices of the room's mesh, and what they are."""

    points_world: F32
    rgb: U8
    kinds: U8
    segments: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        # Several segments of each kind, with ids as ScanNet has them: a vertex of the segment.
        part = self.kinds.astype(int) * 4 + (self.points_world[:, 0] > 0) * 2 + (self.points_world[:, 1] > 0)
        first = {int(p): int(np.argmax(part == p)) for p in np.unique(part)}
        self.segments = np.array([first[int(p)] for p in part])


@lru_cache
def room_mesh(stride: int = 2) -> Room:
    """Vertices where the cameras' rays meet the room."""
    points, colors = [], []
    for pose in camera_path(6):
        image, _, hits = cast(pose)
        points.append(hits[::stride, ::stride].reshape(-1, 3))
        colors.append(image[::stride, ::stride].reshape(-1, 3))
    points_world = np.concatenate(points)
    return Room(points_world.astype(np.float32), np.concatenate(colors), kinds_of(points_world))


def mesh_bytes(points_world: F32, rgb: U8, label: np.ndarray | None = None) -> bytes:
    """A PLY file as ScanNet's are: vertices with colours and alpha (and label), one face."""
    kinds = [(name, "f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue", "alpha")]
    vertex = np.zeros(len(points_world), kinds + ([] if label is None else [("label", "u2")]))
    for axis, name in enumerate("xyz"):
        vertex[name] = points_world[:, axis]
    for axis, name in enumerate(("red", "green", "blue")):
        vertex[name] = rgb[:, axis]
    vertex["alpha"] = 255
    if label is not None:
        vertex["label"] = label
    face = np.empty(1, [("vertex_indices", "O")])
    face["vertex_indices"][0] = np.array([0, 1, 2], np.int32)
    stream = io.BytesIO()
    PlyData([PlyElement.describe(vertex, "vertex"), PlyElement.describe(face, "face")], byte_order="<").write(
        stream
    )
    return stream.getvalue()


def nyu40_of(kinds: U8) -> U8:
    return np.array([NYU40[kind] for kind in KINDS], np.uint8)[kinds]


def aggregation(room: Room) -> dict[str, object]:
    """One object of each kind."""
    groups = [
        {
            "id": number,
            "objectId": number,
            "segments": sorted({int(s) for s in room.segments[room.kinds == number]}),
            "label": kind,
        }
        for number, kind in enumerate(KINDS)
    ]
    return {"sceneId": "scannet.x", "appId": "Aggregator.v2", "segGroups": groups, "segmentsFile": "x"}


ALIGNMENT = np.array([[0.8, -0.6, 0, 1.5], [0.6, 0.8, 0, -2.0], [0, 0, 1, 0.25], [0, 0, 0, 1]])


def write_scan(root: Path, scan: str = TRAIN, *, annotated: bool = True, folder: str = "scans") -> Room:
    """``scans/<id>/`` with mesh, labels, segments, objects and description."""
    room = room_mesh()
    place = root / folder / scan
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{scan}_vh_clean_2.ply").write_bytes(mesh_bytes(room.points_world, room.rgb))
    numbers = " ".join(f"{number:.6f}" for number in ALIGNMENT.ravel())
    axis = f"axisAlignment = {numbers} \n" if annotated else ""
    (place / f"{scan}.txt").write_text(f"{axis}colorHeight = 96\nfx_color = 104.0\nsceneType = Office\n")
    if annotated:
        data = mesh_bytes(room.points_world, room.rgb, nyu40_of(room.kinds))
        (place / f"{scan}_vh_clean_2.labels.ply").write_bytes(data)
        segs = {"params": {"kThresh": "0.0001"}, "sceneId": scan, "segIndices": room.segments.tolist()}
        (place / f"{scan}_vh_clean_2.0.010000.segs.json").write_text(json.dumps(segs))
        (place / f"{scan}.aggregation.json").write_text(json.dumps(aggregation(room)))
    return room


def matrix4(intrinsics: F64) -> F64:
    matrix = np.eye(4)
    matrix[:3, :3] = intrinsics
    return matrix


def jpeg(image: U8, quality: int = 95) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def millimetres(depth_m: F32) -> np.ndarray:
    return np.floor(depth_m.astype(np.float64) * 1000 + 0.5).astype(np.uint16)


@lru_cache
def views(count: int) -> list[tuple[F64, U8, np.ndarray, U8]]:
    """cam_from_world, colour image, depth in millimetres and nyu40 labels of the colour image."""
    rows = []
    for pose in camera_path(count):
        color, _, hits = cast(pose, COLOR_INTRINSICS, COLOR_SHAPE)
        _, depth_m, _ = cast(pose, DEPTH_INTRINSICS, DEPTH_SHAPE)
        rows.append((pose, color, millimetres(depth_m), nyu40_of(kinds_of(hits))))
    return rows


def write_frames(
    root: Path,
    scan: str = TRAIN,
    *,
    count: int = 4,
    step: int = 100,
    lost: Sequence[int] = (),
    labels: bool = True,
    folder: str = "scannet_frames_25k",
) -> Path:
    """``scannet_frames_25k/<id>/`` with ``count`` frames, every ``step``-th; some without a pose."""
    place = root / folder / scan
    for part in ("color", "depth", "pose", *(["label"] if labels else [])):
        (place / part).mkdir(parents=True, exist_ok=True)
    for number, (pose, color, depth, ids) in enumerate(views(count)):
        name = f"{number * step:06d}"
        (place / "color" / f"{name}.jpg").write_bytes(jpeg(color))
        Image.fromarray(depth).save(place / "depth" / f"{name}.png")
        np.savetxt(place / "pose" / f"{name}.txt", LOST if number in lost else np.linalg.inv(pose))
        if labels:
            Image.fromarray(ids).save(place / "label" / f"{name}.png")
    np.savetxt(place / "intrinsics_color.txt", matrix4(COLOR_INTRINSICS))
    np.savetxt(place / "intrinsics_depth.txt", matrix4(DEPTH_INTRINSICS))
    return place


def sens_bytes(
    count: int = 4,
    *,
    repeat: int = 1,
    lost: Sequence[int] = (),
    color: int = 2,
    depth: int = 1,
    scale: int = 1,
    frames: int | None = None,
) -> bytes:
    """A .sens file; each view stands ``repeat`` times; ``scale`` shrinks images, ``frames`` is a claim."""
    head = struct.pack("<IQ", 4, 15) + b"StructureSensor"
    shapes = [(h // scale, w // scale) for h, w in (COLOR_SHAPE, DEPTH_SHAPE)]
    shrink = np.diag([1 / scale, 1 / scale, 1])
    for matrix in (COLOR_INTRINSICS, None, DEPTH_INTRINSICS, None):
        head += matrix4(np.eye(3) if matrix is None else shrink @ matrix).astype("<f4").tobytes()
    (color_h, color_w), (depth_h, depth_w) = shapes
    claimed = count * repeat if frames is None else frames
    head += struct.pack("<ii4IfQ", color, depth, color_w, color_h, depth_w, depth_h, 1000.0, claimed)
    body = []
    for number in range(count * repeat):
        pose, image, units, _ = views(count)[number // repeat]
        if number % repeat == 0:
            small = np.ascontiguousarray(image[::scale, ::scale])
            color_data = small.tobytes() if color == 0 else png(small) if color == 1 else jpeg(small)
            raw = np.ascontiguousarray(units[::scale, ::scale]).astype("<u2").tobytes()
            depth_data = zlib.compress(raw) if depth == 1 else raw
        world_from_cam = LOST if number in lost else np.linalg.inv(pose)
        body.append(world_from_cam.astype("<f4").tobytes())
        body.append(struct.pack("<4Q", 7 * number, 7 * number + 1, len(color_data), len(depth_data)))
        body += [color_data, depth_data]
    return b"".join([head, *body, struct.pack("<Q", 0)])


def write_sens(root: Path, scan: str = TRAIN, **keys: object) -> Path:
    """``scans/<id>/<id>.sens``, see `sens_bytes`."""
    path = root / "scans" / scan / f"{scan}.sens"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sens_bytes(**keys))  # type: ignore[arg-type]
    return path


def write_scannet(root: Path) -> Path:
    """A train, a val and a test scan with exported frames."""
    for scan in (TRAIN, VAL):
        write_scan(root, scan)
        write_frames(root, scan)
    write_scan(root, TEST, annotated=False, folder="scans_test")
    write_frames(root, TEST, labels=False, folder="scannet_frames_test")
    return root
