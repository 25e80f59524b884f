"""Reading and writing single files: all or nothing, and no silent damage.

Everything written goes through `atomic_path`: a file under its final name is always whole, whatever kills
the process or fills the disk. Everything read is checked: a missing, truncated or mislabelled file is a
`DataError` that names it, never a grey image or a cloud with holes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import platform
import re
import secrets
import shutil
import struct
import time
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from scenelift.errors import DataError, OutputError, one_line
from scenelift.ply import decode_points, encode_points
from scenelift.types import F32, U8, U16

_IMAGE = "a PNG or JPEG image"

MAX_PIXELS = 1 << 27
"""Images that claim more pixels than this (134 million) are refused before anything is decoded."""

_MOST_PACKED = 1032
"""Bytes that one byte unpacks to at most: deflate's limit. JPEG spends a bit or more on 64 pixels: 512."""

# Warnings, of damaged EXIF data, are raised where a program makes them errors.
IMAGE_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    OverflowError,
    struct.error,
    zlib.error,
    Warning,
)
"""What Pillow's readers raise on damaged files."""

_TEMP_PREFIX = ".scenelift-tmp."
_HOST = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
_ABANDONED_S = 24 * 3600.0

_NO_ROOM = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "file larger than the system allows",
}
_NO_WAY = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EISDIR: "a folder stands in its place",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.ENAMETOOLONG: "the name is too long",
}


# --- writing -------------------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: Path, needed_bytes: int | None = None) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that becomes ``path`` when the block ends well.

    The block creates the file; on success it is flushed to disk and renamed over ``path`` in one step, so
    a reader sees the old file or the new one. On any exception the temporary file is removed and ``path``
    stays as it was. Missing parent folders are made.

    Args:
        path: the final place.
        needed_bytes: size of the whole file if known, for the message when the disk is full.

    Raises:
        OutputError: for any `OSError` in the block or in the renaming.
    """
    name = f"{_TEMP_PREFIX}{_HOST}.{os.getpid()}.{secrets.token_hex(4)}{path.suffix}"
    temp = path.with_name(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temp
        _sync(temp)
        os.replace(temp, path)
        with suppress(OSError):  # some network file systems cannot sync a folder; the file is whole anyway
            _sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error, needed_bytes) from error
    finally:
        with suppress(OSError):
            temp.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, all or nothing. Raises `OutputError` if that cannot be done."""
    with atomic_path(path, needed_bytes=len(data)) as temp, temp.open("xb") as stream:
        stream.write(data)


def is_temp(path: Path) -> bool:
    """Whether this is a temporary file of `atomic_path`: unfinished, never to be read as a result."""
    return path.name.startswith(_TEMP_PREFIX)


def sweep_temp_files(folder: Path) -> list[Path]:
    """Remove what killed processes left behind in ``folder``, files and folders; return what was removed.

    A temporary file is left alone while its process lives. Processes of other machines cannot be asked,
    and process ids are reused, so a file that nobody touched for a day counts as left behind too.
    """
    removed = []
    for temp in sorted(folder.glob(_TEMP_PREFIX + "*")):
        host, pid = [*temp.name.removeprefix(_TEMP_PREFIX).split("."), "", ""][:2]
        with suppress(OSError):
            abandoned = time.time() - temp.stat().st_mtime > _ABANDONED_S
            if abandoned or (host == _HOST and pid.isdigit() and not _is_alive(int(pid))):
                shutil.rmtree(temp) if temp.is_dir() else temp.unlink()
                removed.append(temp)
    return removed


def write_json(path: Path, obj: Any) -> None:
    """Write ``obj`` as JSON, keys in their own order. NaN and infinity are a `ValueError`, as in JSON."""
    atomic_write(path, (json.dumps(obj, indent=1, allow_nan=False) + "\n").encode())


def _sync(path: Path) -> None:
    """Flush a file or a folder to disk (folders cannot be opened on Windows; there this is an OSError)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # there, signal 0 is not a question
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _cannot_write(path: Path, error: OSError, needed_bytes: int | None) -> OutputError:
    if error.errno in _NO_ROOM:
        folder = next((p for p in path.absolute().parents if p.is_dir()), Path("/"))
        needed = "an unknown number of" if needed_bytes is None else f"{needed_bytes:,}"
        reason = (
            f"{_NO_ROOM[error.errno]}: needs {needed} bytes, free {shutil.disk_usage(folder).free:,} bytes; "
            "make room or choose another folder"
        )
    else:
        reason = _NO_WAY.get(error.errno or 0, str(error)) + "; choose another place or mend this one"
    return OutputError(f"cannot write {path}: {reason}. Nothing was written")


# --- reading -------------------------------------------------------------------------------------------


def read_bytes(path: Path, what: str) -> bytes:
    """The content of a file; `DataError` that says ``what`` was expected if it is missing or empty."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"expected {what} at {path}, found no such file; check the path") from None
    except OSError as error:
        raise DataError(
            f"expected {what} at {path}, which cannot be read: {error.strerror or error}; "
            "check that it is a file and that you may read it"
        ) from error
    if not data:
        raise DataError(f"expected {what} at {path}, found an empty file; copy or export it again")
    return data


def read_json(path: Path) -> Any:
    """Parse a JSON file (a UTF-8 byte order mark is accepted, NaN too: callers check their own numbers).

    Raises:
        DataError: missing, unreadable, or not JSON; with line and column of the first fault.
    """
    try:
        return json.loads(read_bytes(path, "a JSON file").decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"expected JSON in {path}, found something else: {error}; "
            "the file may be cut off: write, copy or export it again"
        ) from error


def read_rgb(path: Path) -> U8:
    """Read a PNG or JPEG image as RGB.

    Grey and palette images are expanded, an alpha channel is dropped. An EXIF orientation is *not* applied:
    camera intrinsics refer to the pixels as they are stored.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: missing, truncated, damaged, larger than `MAX_PIXELS`, not 8-bit, or no PNG or JPEG.
    """
    return decode_rgb(read_bytes(path, _IMAGE), str(path))


def decode_rgb(data: bytes, where: str, shape: tuple[int, int] | None = None) -> U8:
    """The same for an image that lies in memory or inside another file.

    Args:
        data: a whole PNG or JPEG file.
        where: for messages.
        shape: (H, W) it has to have, if that is known; another one is refused before it is decoded.
    """
    image = decode_image(data, where, _IMAGE, shape)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise DataError(
            f"expected an 8-bit colour or grey image at {where}, found mode {image.mode}"
            f"{' (16-bit grey, as in depth images)' if image.mode.startswith('I') else ''}; "
            "check the folder or convert it to RGB"
        )
    image.info.pop("transparency", None)  # Pillow would warn that it is lost; here that is what is wanted
    return np.array(image.convert("RGB"))


def read_depth_png(path: Path) -> U16:
    """Read a 16-bit grey PNG as it is; its unit (often millimetres) is the caller's to know.

    Returns:
        (H, W) uint16.

    Raises:
        DataError: missing, truncated, damaged, or any other kind of image.
    """
    expected = "a depth image (16-bit grey PNG)"
    data = read_bytes(path, expected)
    image = decode_image(data, path, expected)
    if not isinstance(image, PngImageFile):
        raise DataError(f"expected {expected} at {path}, found a JPEG; its loss would falsify depth")
    # Bit depth and colour type stand at fixed places; Pillow's names for 16-bit modes vary by version.
    bits, colour = data[24:26]
    if (bits, colour) != (16, 0):
        kind = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}.get(colour, "?")
        raise DataError(
            f"expected {expected} at {path}, found {bits}-bit {kind}; "
            "export depth as 16-bit integers (for example millimetres), not as a picture of depth"
        )
    return np.array(image).astype(np.uint16)


def decode_image(
    data: bytes, where: Path | str, what: str, shape: tuple[int, int] | None = None
) -> Image.Image:
    """Decode a whole PNG or JPEG, or raise `DataError` that says ``where`` and ``what`` was expected.

    The plugins are called directly and not through ``Image.open``, which would also accept other formats
    and only warn of images that unpack to gigabytes.
    """
    plugin = {b"\x89PN": PngImageFile, b"\xff\xd8\xff": JpegImageFile}.get(data[:3])
    if plugin is None:
        raise DataError(f"expected {what} at {where}, found a file that begins with {data[:8]!r}; convert it")
    # IndexError: Pillow's, for a PNG without image data.
    try:
        if plugin is PngImageFile:
            PngImageFile(io.BytesIO(data)).verify()  # checksums: load() alone overlooks flipped bits
        image = plugin(io.BytesIO(data))
        if image.width * image.height <= MAX_PIXELS and shape in (None, (image.height, image.width)):
            least_bits = {"1": 1, "P": 1, "L": 2}.get(image.mode, 8) if plugin is PngImageFile else 8
            if image.width * image.height * least_bits <= 8 * _MOST_PACKED * len(data):
                image.load()
                return image
            raise ValueError(f"{image.width} × {image.height} pixels cannot be in {len(data):,} bytes")
    except IMAGE_FAULTS as error:
        raise DataError(
            f"expected {what} at {where}, found it truncated or damaged ({one_line(error)}); "
            "copy or export it again"
        ) from error
    if shape is not None and image.width * image.height <= MAX_PIXELS:
        raise DataError(
            f"expected {what} of {shape[1]} × {shape[0]} pixels at {where}, "
            f"found {image.width} × {image.height}; export it again in its own size"
        )
    raise DataError(
        f"expected {what} of at most {MAX_PIXELS:,} pixels at {where}, "
        f"found {image.width} × {image.height}; scale it down"
    )


# --- images out ----------------------------------------------------------------------------------------


def write_png(path: Path, array: U8 | U16, palette: U8 | None = None) -> None:
    """Write a PNG without loss.

    Args:
        path: where to; replaced if it exists.
        array: (H, W) uint8 or uint16 for grey, (H, W, 3) uint8 for RGB.
        palette: (C, 3) uint8 colours, C <= 256, for (H, W) uint8 arrays: pixel values are kept as they
            are and shown in these colours; values from C on (`IGNORE`) are shown black.

    Raises:
        OutputError: it cannot be written.
        ValueError: an array of another kind.
    """
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    rgb = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    if not (grey or rgb) or array.size == 0:
        raise ValueError(f"expected a grey or RGB image, found {array.dtype} of shape {array.shape}")
    image = Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        if array.ndim != 2 or array.dtype != np.uint8 or palette.shape[1:] != (3,) or len(palette) > 256:
            raise ValueError(
                f"expected (H, W) uint8 with a palette of (C <= 256, 3), "
                f"found {array.dtype} of shape {array.shape} with {palette.shape}"
            )
        full = np.zeros((256, 3), np.uint8)  # a shorter one would make Pillow write fewer bits per pixel
        full[: len(palette)] = palette
        image.putpalette(full.tobytes())
    _write_image(path, image, "PNG")


def write_jpeg(path: Path, rgb: U8, quality: int = 92) -> None:
    """Write (H, W, 3) uint8 as JPEG. Raises `OutputError` if it cannot be written."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"expected (H, W, 3) uint8, found {rgb.dtype} of shape {rgb.shape}")
    _write_image(path, Image.fromarray(np.ascontiguousarray(rgb)), "JPEG", quality=quality)


def _write_image(path: Path, image: Image.Image, file_format: str, **options: int) -> None:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    atomic_write(path, buffer.getvalue())


# --- point clouds --------------------------------------------------------------------------------------


def read_ply_points(path: Path) -> tuple[F32, U8 | None]:
    """Read the vertices of a PLY file, see `ply.decode_points`.

    Returns:
        points: (N, 3) float32, in the file's own frame and unit.
        rgb: (N, 3) uint8, or ``None`` if the file has no colours.

    Raises:
        DataError: missing, truncated, damaged, without x, y, z, or with NaN or infinite coordinates.
    """
    return decode_points(read_bytes(path, "a PLY point cloud"), str(path))


def write_ply_points(
    path: Path, points: F32, rgb: U8 | None, extra: Mapping[str, npt.NDArray[Any]] | None = None
) -> None:
    """Write a point cloud as binary PLY, see `ply.encode_points`.

    Args:
        path: where to; replaced if it exists.
        points: (N, 3) float32.
        rgb: (N, 3) uint8 or ``None``.
        extra: more scalars per point by name, each (N,), such as a uint8 ``label``.

    Raises:
        OutputError: it cannot be written.
        ValueError: lengths differ, or PLY has no such type.
    """
    atomic_write(path, encode_points(points, rgb, extra or {}))


# --- names ---------------------------------------------------------------------------------------------


def safe_name(text: str) -> str:
    """A name for a file or folder made from ``text``; texts that differ give names that differ.

    Letters and digits of any script, ``_``, ``-`` and inner dots stay; anything else becomes ``_``. If that
    changes the text, a short hash of the original is appended. At most 120 bytes; a safe name stays as it is.
    """
    clean = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", text))
    clean = clean.encode(errors="ignore")[:120].decode(errors="ignore").lstrip(".-").rstrip(".")
    if clean == text and clean:
        return clean
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    stem = clean.encode()[:111].decode(errors="ignore").rstrip(".") or "unnamed"
    return f"{stem}-{digest}"
