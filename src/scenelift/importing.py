"""Writing scenes of any data set as capture folders: one place for tools that know that layout only.

A scene becomes a folder in the naming of a ScanNet export, which `scenelift.scenes.capture` reads back::

    color/NNNNNN.jpg|png           the original file where the frame is just that, else PNG
    depth/NNNNNN.png               16-bit millimetres at the pixels of colour, 0 = no measurement
    pose/NNNNNN.txt                camera-to-world, 4×4, 17 digits
    intrinsic/intrinsic_color.txt  and intrinsic_depth.txt: the same 4×4, of the first frame
    intrinsic/frames/NNNNNN.txt    of frames whose intrinsics are others
    cloud.ply                      the scene's points, if it has any
    import.json                    what this came from

Frames are numbered in their order where their names are not numbers already; ``import.json`` lists the names.
Depth is rounded to millimetres; what is below half a millimetre or above 65.534 m counts as not measured.
Which way is up is not kept: it is found from the cameras again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from scenelift.errors import DataError, OutputError
from scenelift.files import atomic_path, is_temp, read_json, sweep_temp_files
from scenelift.ply import encode_points
from scenelift.progress import Advance, Progress
from scenelift.scenes import SceneSource
from scenelift.scenes.rgbd import inverse_rigid
from scenelift.types import F32, F64, U16, Frame, Scene

_UNITS_PER_METRE = 1000.0
_LARGEST = 65534
_MANIFEST = "import.json"


@runtime_checkable
class ColorFiles(Protocol):
    """A source whose frames may be files that can be copied."""

    def color_file(self, scene: str, frame: str) -> Path | None:
        """The PNG or JPEG that holds exactly a frame's pixels, ``None`` if there is none."""
        ...


def import_capture(source: SceneSource, names: Sequence[str], out: Path, progress: Progress) -> list[Path]:
    """Write scenes as capture folders: ``out`` itself for one scene, ``out/NAME`` for several.

    A scene is written beside its final place and moved there when it is whole; scenes that a stopped import
    has written are kept and not written again. Memory holds one scene's points and one frame.

    Args:
        source: any data set whose frames have cameras.
        names: its scenes to write, at least one, each once.
        out: a folder that does not exist, is empty, or holds some of these scenes of a stopped import.
        progress: told of every frame.

    Returns:
        The folders, in the order of ``names``.

    Raises:
        DataError: the data set is damaged, or a scene has neither points nor depth.
        OutputError: ``out`` holds something else, or cannot be written.
    """
    if not names or len(set(names)) < len(names):
        raise DataError(f"expected scenes to import, each once, found {list(names)[:5]}; name at least one")
    folders = [out] if len(names) == 1 else [out / name for name in names]
    counts = [source.frame_count(name) for name in names]
    _sweep(out)
    done = _finished(names, counts, folders, out)
    behind = sum(count for count, folder in zip(counts, folders, strict=True) if folder in done)
    with progress("import", sum(counts), behind) as advance:
        for name, folder in zip(names, folders, strict=True):
            if folder in done:
                continue
            with _atomic_folder(folder) as temp:
                _write_scene(source, source.scene(name), temp, advance)
    return folders


# --- the folder as a whole ----------------------------------------------------------------------------


def _sweep(out: Path) -> None:
    for folder in (out.parent, out):
        if folder.is_dir():
            sweep_temp_files(folder)


def _finished(names: Sequence[str], counts: Sequence[int], folders: list[Path], out: Path) -> set[Path]:
    """Scenes of several that a stopped import has written; anything else in ``out`` is refused."""
    if not out.exists():
        return set()
    if not out.is_dir():
        raise OutputError(f"cannot write {out}: a file stands in its place; choose another place")
    done = set()
    if len(names) > 1:
        for name, count, folder in zip(names, counts, folders, strict=True):
            manifest = read_json(folder / _MANIFEST) if (folder / _MANIFEST).is_file() else None
            if isinstance(manifest, dict) and manifest.get("scene") == name:
                frames = manifest.get("frames")
                if isinstance(frames, list) and len(frames) == count:
                    done.add(folder)
    others = sorted(path.name for path in out.iterdir() if path not in done and not is_temp(path))
    if others:
        raise OutputError(
            f"cannot write {out}: expected a new or empty folder, found {', '.join(others[:3])} in it; "
            "choose another folder or delete this one"
        )
    return done


@contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` that takes its place when the block ends well, and else is removed."""
    temp = None
    try:
        with atomic_path(folder) as temp:
            temp.mkdir()
            yield temp
            if hasattr(os, "sync"):
                os.sync()  # once for thousands of files
            if folder.is_dir():
                folder.rmdir()  # empty, as `_finished` has seen; Windows would not rename over it
    finally:
        if temp is not None and temp.exists():
            shutil.rmtree(temp, ignore_errors=True)


# --- one scene ----------------------------------------------------------------------------------------


def _write_scene(source: SceneSource, scene: Scene, folder: Path, advance: Advance) -> None:
    names = _file_names(scene.frames.names)
    shared: F64 | None = None
    with_depth: bool | None = None
    for name, frame in zip(names, scene.frames, strict=True):
        if shared is None:
            shared, with_depth = frame.intrinsics, frame.depth_m is not None
            if not with_depth and not len(scene.points_world):
                raise DataError(
                    f"expected points or depth in scene {scene.name}, found neither; "
                    "images alone cannot become a capture"
                )
            for part in ("color", "pose", "intrinsic", *(["depth"] if with_depth else [])):
                (folder / part).mkdir()
            for camera in ("color", "depth") if with_depth else ("color",):
                _write_matrix(folder / "intrinsic" / f"intrinsic_{camera}.txt", _homogeneous(shared))
        if (frame.depth_m is not None) != with_depth:
            raise DataError(
                f"expected depth of every frame or of none in scene {scene.name}, found another in "
                f"{frame.name}; leave out the frames without depth"
            )
        _write_frame(source, frame, name, folder, shared)
        advance(f"{scene.name} {frame.name}")
    if shared is None:
        raise DataError(f"expected frames in scene {scene.name}, found none; import another scene")
    if len(scene.points_world):
        (folder / "cloud.ply").write_bytes(encode_points(scene.points_world, scene.rgb, {}))
    manifest: dict[str, Any] = {"scene": scene.name, "frames": list(scene.frames.names), "files": names}
    _write_manifest(folder / _MANIFEST, manifest)


def _write_frame(source: SceneSource, frame: Frame, name: str, folder: Path, shared: F64) -> None:
    original = source.color_file(frame.scene, frame.name) if isinstance(source, ColorFiles) else None
    if original is not None:
        suffix = ".png" if original.suffix.lower() == ".png" else ".jpg"
        shutil.copyfile(original, folder / "color" / f"{name}{suffix}")
    else:
        Image.fromarray(np.ascontiguousarray(frame.image)).save(folder / "color" / f"{name}.png", "PNG")
    if frame.depth_m is not None:
        Image.fromarray(millimetres(frame.depth_m)).save(folder / "depth" / f"{name}.png", "PNG")
    _write_matrix(folder / "pose" / f"{name}.txt", inverse_rigid(frame.cam_from_world))
    if not np.array_equal(frame.intrinsics, shared):
        own = folder / "intrinsic" / "frames"
        own.mkdir(exist_ok=True)
        _write_matrix(own / f"{name}.txt", _homogeneous(frame.intrinsics))


def millimetres(depth_m: F32) -> U16:
    """Depth, (H, W) float32 metres, as (H, W) uint16 millimetres; 0 where it does not fit in 1 to 65534."""
    with np.errstate(invalid="ignore", over="ignore"):
        stored = np.floor(depth_m.astype(np.float64) * _UNITS_PER_METRE + 0.5)
        fits = (stored >= 1) & (stored <= _LARGEST)
    return np.where(fits, stored, 0).astype(np.uint16)


def _file_names(names: Sequence[str]) -> list[str]:
    """Six digits or more: the frames' own numbers where they are numbers in order, else counted."""
    own = [name.zfill(6) for name in names if name.isascii() and name.isdecimal()]
    rising = len(own) == len(names) and all(int(a) < int(b) for a, b in pairwise(own))
    return own if rising else [f"{number:06d}" for number in range(len(names))]


def _homogeneous(intrinsics: F64) -> F64:
    matrix = np.eye(4)
    matrix[:3, :3] = intrinsics
    return matrix


def _write_matrix(path: Path, matrix: F64) -> None:
    lines = (" ".join(f"{value:.17g}" for value in row) for row in matrix.tolist())
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
