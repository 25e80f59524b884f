"""Images made to do harm: small files that claim or unpack to gigabytes, and damaged ones by the thousand."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fuzzing
from scenelift import image_files
from scenelift.errors import DataError
from scenelift.image_files import read_depth_png, read_rgb
from scenelift.scenes.label_images import read_image_shape, read_label_png

PNG = b"\x89PNG\r\n\x1a\n"
MEGABYTES = 200
"""Peak memory allowed for reading any of the bombs, above that of an interpreter that has read an image."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def header(width: int, height: int, bits: int = 8, colour: int = 0, interlaced: int = 0) -> bytes:
    sizes = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return chunk(b"IHDR", sizes + bytes([bits, colour, 0, 0, interlaced]))


def zeros(size: int) -> bytes:
    """``size`` zero bytes, deflated a megabyte at a time: about a thousandth of that."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def jpeg(width: int, height: int, claimed: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (30, 60, 90)).save(stream, "JPEG")
    data = bytearray(stream.getvalue())
    if claimed is not None:
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = claimed[1].to_bytes(2, "big") + claimed[0].to_bytes(2, "big")
    return bytes(data)


def bombs() -> dict[str, bytes]:
    far_more, small = zeros(1 << 28), zlib.compress(bytes(101 * 100))
    end, pixels = chunk(b"IEND", b""), chunk(b"IDAT", small)
    square = header(100, 100)
    return {
        "claims.png": PNG + header(100_000, 100_000) + pixels + end,
        "claims_a_line.png": PNG + header(2**31 - 1, 1) + pixels + end,
        "claims_rgb16.png": PNG + header(2**31 - 1, 2**31 - 1, 16, 2) + pixels + end,
        "claims_within_the_limit.png": PNG + header(11_585, 11_585, 8, 2) + pixels + end,
        "claims_within_the_limit_interlaced.png": PNG + header(11_585, 11_585, 8, 6, 1) + pixels + end,
        "claims_grey16_within_the_limit.png": PNG + header(11_585, 11_585, 16, 0) + pixels + end,
        "claims.jpg": jpeg(16, 16, (65_500, 65_500)),
        "claims_within_the_limit.jpg": jpeg(16, 16, (11_585, 11_585)),
        "unpacks_to_far_more.png": PNG + square + chunk(b"IDAT", far_more) + end,
        "text.png": PNG + square + chunk(b"zTXt", b"a\0\0" + far_more) + pixels + end,
        "text_after.png": PNG + square + pixels + chunk(b"zTXt", b"a\0\0" + far_more) + end,
        "international_text.png": PNG + square + chunk(b"iTXt", b"a\0\1\0\0\0" + far_more) + pixels + end,
        "profile.png": PNG + square + chunk(b"iCCP", b"a\0\0" + far_more) + pixels + end,
        "chunk_claims.png": PNG + square + b"\x7f\xff\xff\xffIDAT" + small,
        "texts.png": PNG + square + chunk(b"zTXt", b"a\0\0" + zeros(1 << 20)[:900]) * 20_000 + pixels + end,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bombs")
    for name, data in bombs().items():
        (folder / name).write_bytes(data)
    return folder


def test_bombs_are_refused_or_read_in_little_memory_and_time(folder):
    """In a process of its own, as Pillow's memory is not Python's to count."""
    code = textwrap.dedent(
        """
        import resource, sys, time
        from pathlib import Path
        from scenelift.errors import DataError
        from scenelift.image_files import read_depth_png, read_rgb
        from scenelift.scenes.label_images import read_image_shape, read_label_png
        from PIL import Image
        folder = Path(sys.argv[1])
        Image.new("RGB", (500, 500)).save(folder / "good.png")
        read_rgb(folder / "good.png")
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        before = peak()
        for path in sorted(folder.iterdir()):
            for read in (read_rgb, read_label_png, read_depth_png, read_image_shape):
                start, found = time.perf_counter(), "read"
                try:
                    read(path)
                except DataError as error:
                    found = "refused"
                    assert "\\n" not in str(error) and path.name in str(error), str(error)
                print(path.name, read.__name__, found, peak() - before, round(time.perf_counter() - start, 1))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    found = {(name, read): outcome for name, read, outcome, *_ in rows}
    assert len(found) == 4 * (len(bombs()) + 1)
    assert found["good.png", "read_rgb"] == "read"
    for name in bombs():
        if "claims" in name:
            assert {found[name, read] for read in ("read_rgb", "read_label_png", "read_depth_png")} == {
                "refused"
            }
    for name, read, _, megabytes, seconds in rows:
        assert int(megabytes) < MEGABYTES, (name, read, megabytes)
        assert float(seconds) < 10, (name, read, seconds)


def test_more_pixels_than_the_bytes_can_hold(folder, tmp_path):
    with pytest.raises(DataError, match=r"11585 × 11585 pixels cannot be in \d+ bytes\); copy"):
        read_rgb(folder / "claims_within_the_limit.jpg")
    with pytest.raises(DataError, match="pixels cannot be in"):
        read_depth_png(folder / "claims_grey16_within_the_limit.png")
    # The emptiest images that are whole stay readable.
    for mode in ("1", "L", "P", "LA", "RGB", "RGBA"):
        Image.new(mode, (1500, 1000)).save(tmp_path / "a.png", optimize=True)
        assert read_rgb(tmp_path / "a.png").shape == (1000, 1500, 3)
    Image.new("P", (1500, 1000)).save(tmp_path / "a.png", bits=1)
    assert read_label_png(tmp_path / "a.png").shape == (1000, 1500)
    Image.fromarray(np.zeros((1000, 1500), np.uint16)).save(tmp_path / "a.png", optimize=True)
    assert read_depth_png(tmp_path / "a.png").shape == (1000, 1500)
    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            Image.new(mode, (1500, 1000)).save(
                tmp_path / "a.jpg", quality=1, optimize=True, progressive=progressive, subsampling=2
            )
            assert read_image_shape(tmp_path / "a.jpg") == (1000, 1500)
            if mode != "CMYK":
                assert read_rgb(tmp_path / "a.jpg").shape == (1000, 1500, 3)


# --- label images --------------------------------------------------------------------------------------


def test_label_images_are_ids(tmp_path):
    ids = np.random.default_rng(0).integers(0, 256, (13, 17), dtype=np.uint8)
    Image.fromarray(ids).save(tmp_path / "grey.png")
    coloured = Image.fromarray(ids)
    coloured.putpalette(np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
    coloured.save(tmp_path / "palette.png")
    few = Image.fromarray(ids % 4)
    few.putpalette(bytes(range(12)))
    few.save(tmp_path / "few.png", bits=2)
    assert (tmp_path / "few.png").read_bytes()[24] == 2
    assert np.array_equal(read_label_png(tmp_path / "grey.png"), ids)
    assert np.array_equal(read_label_png(tmp_path / "palette.png"), ids)
    assert np.array_equal(read_label_png(tmp_path / "few.png"), ids % 4)
    assert read_label_png(tmp_path / "few.png").dtype == np.uint8


def test_what_is_no_label_image(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    Image.new("1", (4, 4)).save(tmp_path / "bit.png")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    packed = zlib.compress((b"\0" + b"\x1b") * 4)  # ids 0 1 2 3 in grey of 2 bits, which Pillow would stretch
    (tmp_path / "grey2.png").write_bytes(PNG + header(4, 4, 2) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    for name, found in [
        ("rgb.png", "mode RGB; export ids"),
        ("a.jpg", "a JPEG; its loss would falsify labels"),
        ("bit.png", "1-bit grey"),
        ("grey2.png", "2-bit grey"),
        ("deep.png", "mode I"),
        ("none.png", "no such file"),
    ]:
        with pytest.raises(DataError, match=f"label image .* at .*{name}, found {found}"):
            read_label_png(tmp_path / name)


def test_shapes_are_read_from_headers(tmp_path):
    Image.new("RGB", (31, 17)).save(tmp_path / "a.png")
    Image.new("RGB", (31, 17)).save(tmp_path / "a.jpg")
    assert read_image_shape(tmp_path / "a.png") == read_image_shape(tmp_path / "a.jpg") == (17, 31)
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:20])
    for name in ("text.png", "empty.png", "cut.jpg", "none.png", "."):
        with pytest.raises(DataError, match=r"expected an? .*image at"):
            read_image_shape(tmp_path / name)


# --- damage --------------------------------------------------------------------------------------------


def samples() -> dict[str, tuple[Callable[[Path], object], bytes]]:
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)
    kinds: dict[str, tuple[Callable[[Path], object], Image.Image, str, dict[str, object]]] = {
        "rgb_png": (read_rgb, Image.fromarray(np.stack([smooth] * 3, 2)), "PNG", {"dpi": (72, 72)}),
        "palette_png": (read_rgb, Image.fromarray(smooth).convert("P"), "PNG", {"transparency": 3}),
        "rgb_jpeg": (read_rgb, Image.fromarray(np.stack([smooth] * 3, 2)), "JPEG", {"exif": Image.Exif()}),
        "progressive_jpeg": (read_rgb, Image.fromarray(smooth), "JPEG", {"progressive": True}),
        "depth_png": (read_depth_png, Image.fromarray(smooth.astype(np.uint16) * 40), "PNG", {}),
        "label_png": (read_label_png, Image.fromarray(rng.integers(0, 9, (30, 40), np.uint8)), "PNG", {}),
        "jpeg_header": (read_image_shape, Image.fromarray(smooth), "JPEG", {"dpi": (72, 72)}),
        "png_header": (read_image_shape, Image.fromarray(smooth), "PNG", {"dpi": (72, 72)}),
    }
    made = {}
    for name, (read, image, kind, options) in kinds.items():
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        made[name] = (read, stream.getvalue())
    return made


def _fuzz(tmp_path: Path, kind: str, count: int) -> int:
    read, data = samples()[kind]
    path = tmp_path / "damaged"

    def look(damaged: bytes) -> None:
        path.write_bytes(damaged)
        read(path)

    return fuzzing.only_data_errors(look, data, count)


@pytest.mark.parametrize("kind", samples())
def test_damaged_images(tmp_path, kind):
    assert _fuzz(tmp_path, kind, fuzzing.QUICK) > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", samples())
def test_many_damaged_images(tmp_path, kind):
    assert _fuzz(tmp_path, kind, fuzzing.MANY) > 500


def _refuses(read: Callable[[Path], object], path: Path) -> bool:
    try:
        read(path)
    except DataError:
        return True
    return False


def test_png_checksums_are_recomputed_and_still_no_harm(tmp_path):
    """Damage that checksums do not tell: flipped bits in chunks whose checksum then fits again."""
    rng = np.random.default_rng(0)
    base = np.add.outer(np.arange(20), np.arange(30)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(base).convert("P").save(stream, "PNG", transparency=3, dpi=(72, 72))
    chunks, data, at = [], stream.getvalue(), 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    path, refused = tmp_path / "a.png", 0
    for _ in range(300):
        number = int(rng.integers(len(chunks)))
        parts = [bytearray(body) for _, body in chunks]
        for _ in range(int(rng.integers(1, 4))):
            if parts[number]:
                parts[number][int(rng.integers(len(parts[number])))] = int(rng.integers(256))
            if rng.random() < 0.2:
                del parts[number][int(rng.integers(len(parts[number]) + 1)) :]
        path.write_bytes(
            PNG + b"".join(chunk(kind, bytes(p)) for (kind, _), p in zip(chunks, parts, strict=True))
        )
        for read in (read_rgb, read_label_png, read_depth_png, read_image_shape):
            refused += _refuses(read, path)
    assert refused > 300  # all of the depth images, at least


def test_the_limit_is_one_for_all(tmp_path, monkeypatch):
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(image_files, "MAX_PIXELS", 399)
    for read in (read_rgb, read_label_png, read_depth_png):
        with pytest.raises(DataError, match="at most 399 pixels"):
            read(tmp_path / "a.png")
