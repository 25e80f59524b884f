"""``transforms.json``: nerfstudio, instant-ngp, and what Polycam and Record3D exports are turned into.

Formats: https://docs.nerf.studio/quickstart/data_conventions.html and
https://github.com/NVlabs/instant-ngp/blob/master/docs/nerf_dataset_tips.md.

- ``transform_matrix`` is camera-to-world with OpenGL axes (x right, y up, z backward).
- ``fl_x fl_y cx cy w h``, ``camera_model`` and coefficients stand at the top or in a frame, which wins;
  ``camera_angle_x`` alone is enough. Both programs send the ray of pixel column u through u + ½, so that
  ``cx`` counts from the left edge of the image: half a pixel more than here, where it is taken off.
- ``file_path`` may lack its suffix, as in NeRF's synthetic scenes. Paths that lead out of the folder are
  refused.
- ``depth_file_path`` (or instant-ngp's ``depth_path``): whole numbers are millimetres, or as instant-ngp's
  ``integer_depth_scale`` says; floats are metres.
- ``ply_file_path`` is a cloud in the world of the poses. ``applied_transform`` says how that world came from
  the one of an earlier step and is not undone; a cloud of that earlier world would not fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scenelift.config import CaptureData
from scenelift.errors import DataError
from scenelift.files import read_json
from scenelift.scenes import Problem
from scenelift.scenes.capture.files import (
    IMAGE_SUFFIXES,
    FrameFiles,
    Layout,
    Lens,
    Lenses,
    LensModel,
    find_cloud,
    unique_names,
)
from scenelift.scenes.depth_files import refuse_unknown
from scenelift.scenes.folders import existing, inside, natural_key, some
from scenelift.types import F64

_MODELS: dict[str, LensModel] = {
    "PINHOLE": "pinhole",
    "SIMPLE_PINHOLE": "pinhole",
    "PERSPECTIVE": "opencv",
    "SIMPLE_RADIAL": "opencv",
    "RADIAL": "opencv",
    "OPENCV": "opencv",
    "OPENCV_FISHEYE": "fisheye",
}
_COEFFICIENTS: dict[LensModel, tuple[str, ...]] = {
    "pinhole": (),
    "opencv": ("k1", "k2", "p1", "p2", "k3"),
    "fisheye": ("k1", "k2", "k3", "k4"),
}
_CORNER = 0.5
"""Where the first pixel's centre lies in the file's pixel coordinates; here it lies at 0."""
_MAX_SIZE = 1 << 20

_Tree = Mapping[str, Any]


def transforms_layout(folder: Path, config: CaptureData) -> Layout | None:
    """The frames of a folder with a transforms.json; ``None`` if it has none.

    Raises:
        DataError: it is damaged or lacks something, names files that are not there or outside of the folder,
            has depth for some frames only, or an unknown camera model.
    """
    path = folder / "transforms.json"
    if not path.is_file():
        return None
    tree = read_json(path)
    entries = tree.get("frames") if isinstance(tree, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"expected a list of frames in {path}, found none; export it again")
    color, depth = _files(entries, folder, path)
    refuse_unknown([file for file in depth if file is not None])
    relative = [file.relative_to(folder).with_suffix("").as_posix() for file in color]
    names = unique_names([file.stem for file in color], relative, str(path))
    frames = []
    for number, entry in enumerate(entries):
        place = f"{path.name} (frame {number}, {names[number]})"
        lens = _lens({**tree, **entry}, f"{path}, frame {number}")
        pose = _matrix(entry, f"{path}, frame {number}")
        frames.append(
            FrameFiles(names[number], color[number], depth[number], pose, place, Lenses(color=lens))
        )
    frames.sort(key=lambda frame: natural_key(frame.name))
    cloud = _cloud(tree, folder, path)
    if cloud is None and frames[0].depth is None:
        raise DataError(
            f"expected depth images (depth_file_path) or a point cloud (ply_file_path) in {path}, found "
            "neither; export depth, or put a cloud (cloud.ply) in the poses' world, in metres, there"
        )
    return Layout(
        folder,
        tuple(frames),
        cloud,
        "cam_to_world_opengl",
        _units_per_metre(tree, path),
        problems=_problems(tree, path, cloud is not None),
    )


# --- files --------------------------------------------------------------------------------------------


def _files(entries: list[_Tree], folder: Path, path: Path) -> tuple[list[Path], list[Path | None]]:
    """Colour and depth of every frame; all of them are there."""
    named: list[Path] = []
    depth: list[Path | None] = []
    for number, entry in enumerate(entries):
        color_name, depth_name = entry.get("file_path"), entry.get("depth_file_path", entry.get("depth_path"))
        if not isinstance(color_name, str) or not isinstance(depth_name, str | None):
            raise DataError(f"expected a file_path in frame {number} of {path}, found none; export it again")
        named.append(inside(folder, color_name, str(path)))
        depth.append(inside(folder, depth_name, str(path)) if depth_name else None)
    options = [_with_suffixes(file) for file in named]
    there = existing([file for files in options for file in files] + [file for file in depth if file])
    color = [next((file for file in files if file in there), None) for files in options]
    absent = [str(n.relative_to(folder)) for n, c in zip(named, color, strict=True) if c is None]
    absent += [str(file.relative_to(folder)) for file in depth if file is not None and file not in there]
    if absent:
        raise DataError(
            f"expected the files that {path} names, found {len(absent)} of them missing: {some(absent)}; "
            "copy them there or remove their frames"
        )
    without = [str(n.relative_to(folder)) for n, d in zip(named, depth, strict=True) if d is None]
    if without and len(without) < len(entries):
        raise DataError(
            f"expected depth of every frame or of none in {path}, found {len(without)} of "
            f"{len(entries)} frames without: {some(without)}; remove these frames"
        )
    return [file for file in color if file is not None], depth


def _with_suffixes(file: Path) -> list[Path]:
    if file.suffix.lower() in IMAGE_SUFFIXES:
        return [file]
    return [file.with_name(file.name + suffix) for suffix in (".png", ".jpg", ".jpeg", ".PNG", ".JPG")]


def _cloud(tree: _Tree, folder: Path, path: Path) -> Path | None:
    name = tree.get("ply_file_path")
    if name is None:
        return find_cloud(folder)
    if not isinstance(name, str):
        raise DataError(f"expected a name as ply_file_path in {path}, found {name!r:.40}; mend or remove it")
    file = inside(folder, name, str(path))
    if not file.is_file():
        raise DataError(
            f"expected the point cloud that {path} names at {file}, found no such file; "
            "copy it there or remove ply_file_path to have the cloud fused from depth"
        )
    return file


# --- numbers ------------------------------------------------------------------------------------------


def _matrix(entry: _Tree, where: str) -> F64:
    rows = entry.get("transform_matrix")
    if not (
        isinstance(rows, list)
        and len(rows) in (3, 4)
        and all(isinstance(row, list) and len(row) == 4 for row in rows)
        and all(_is_number(value) for row in rows for value in row)
    ):
        raise DataError(
            f"expected a transform_matrix of 4 × 4 numbers at {where}, found none; export it again"
        )
    return np.array([*rows, [0.0, 0.0, 0.0, 1.0]][:4], dtype=np.float64)


def _lens(tree: _Tree, where: str) -> Lens:
    """What the top of the file and a frame together say of the frame's camera."""
    name = tree.get("camera_model", "OPENCV_FISHEYE" if tree.get("is_fisheye") is True else "OPENCV")
    model = _MODELS.get(name) if isinstance(name, str) else None
    if model is None:
        raise DataError(
            f"expected one of the camera models {', '.join(_MODELS)} at {where}, found {name!r:.40}; "
            "undistort the images to PINHOLE"
        )
    values = {
        key: _number(tree, key, where) for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x")
    }
    width, height = values["w"], values["h"]
    if (width is None) != (height is None) or any(
        edge is not None and not (1 <= edge <= _MAX_SIZE and edge % 1 == 0) for edge in (width, height)
    ):
        raise DataError(f"expected w and h in pixels at {where}, found {width} and {height}; mend the file")
    size = None if width is None or height is None else (int(height), int(width))
    coefficients = _coefficients(tree, model, where)
    if not any(coefficients) and model == "opencv":
        model, coefficients = "pinhole", ()
    fx, angle = values["fl_x"], values["camera_angle_x"]
    if fx is None:
        if angle is None or not 0 < angle < math.pi:
            raise DataError(
                f"expected fl_x, or camera_angle_x in radians, at {where}, found neither; "
                "write them into the file"
            )
        if size is None:
            return Lens(None, None, angle, model, coefficients)
        fx = 0.5 * size[1] / math.tan(0.5 * angle)
    fy, cx, cy = values["fl_y"] or fx, values["cx"], values["cy"]
    if (cx is None or cy is None) and size is not None:
        cx, cy = size[1] / 2 if cx is None else cx, size[0] / 2 if cy is None else cy
    if cx is None or cy is None or not min(fx, fy) > 0:
        raise DataError(
            f"expected fl_x, fl_y above 0, cx and cy at {where}, found {fx}, {fy}, {cx}, {cy}; mend them"
        )
    return Lens((fx, fy, cx - _CORNER, cy - _CORNER), size, None, model, coefficients)


def _coefficients(tree: _Tree, model: LensModel, where: str) -> tuple[float, ...]:
    wanted = _COEFFICIENTS[model]
    found = {key: _number(tree, key, where) or 0.0 for key in ("k1", "k2", "k3", "k4", "p1", "p2")}
    other = [key for key, value in found.items() if value and key not in wanted]
    if other:
        raise DataError(
            f"expected only {', '.join(wanted) or 'no coefficients'} of this camera model at {where}, found "
            f"{', '.join(other)} too; name the camera_model they belong to"
        )
    return tuple(found[key] for key in wanted)


def _number(tree: _Tree, key: str, where: str) -> float | None:
    value = tree.get(key)
    if value is None:
        return None
    if not _is_number(value) or not math.isfinite(value):
        raise DataError(f"expected a number as {key} at {where}, found {value!r:.40}; mend or remove it")
    return float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) > 1e300


def _units_per_metre(tree: _Tree, path: Path) -> float:
    scale = _number(tree, "integer_depth_scale", str(path))
    if scale is None:
        return 1000.0
    if not 1e-9 < scale < 1e9:
        raise DataError(
            f"expected metres per unit as integer_depth_scale in {path}, found {scale}; mend or remove it"
        )
    return 1.0 / scale


def _problems(tree: _Tree, path: Path, has_cloud: bool) -> tuple[Problem, ...]:
    applied = tree.get("applied_transform")
    if applied is None or not has_cloud or "ply_file_path" in tree:
        return ()
    what = "the poses' world was changed (applied_transform), and the cloud is not one that the file names"
    mend = "check that the cloud lies in the changed world; then name it as ply_file_path"
    return (Problem("warning", what, str(path), mend),)
