"""A finished run as an object."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import scenelift
from fixtures_scenes import CLASSES, save_untrained_run, tiny_config
from scenelift import checkpoint
from scenelift.api import TrainedRun
from scenelift.device import resolve_device
from scenelift.errors import ConfigError, DataError, RunError
from scenelift.models.networks import Networks

XYZ = np.random.default_rng(0).uniform(-2, 2, (120, 3))
RGB = np.random.default_rng(1).integers(0, 256, (120, 3), dtype=np.uint8)
IMAGE = np.random.default_rng(2).integers(0, 256, (30, 41, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose configuration names backbone weights that are long gone."""
    folder = tmp_path_factory.mktemp("api")
    save_untrained_run(folder)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> TrainedRun:
    return scenelift.load(folder, device="cpu")


def test_the_example_of_the_readme(folder: Path) -> None:
    run = scenelift.load(str(folder))
    points = run.segment_points(XYZ, RGB)
    assert points.labels.shape == points.confidence.shape == (120,)
    assert points.labels.dtype == np.uint8
    assert points.labels.max() < len(run.classes)
    image = run.segment_image(IMAGE)
    assert image.labels.shape == image.confidence.shape == (30, 41)
    assert ((image.confidence >= 0.25 - 1e-6) & (image.confidence <= 1)).all()
    assert run.classes.names == CLASSES.names
    np.testing.assert_array_equal(run.classes.colors, CLASSES.colors)
    assert run.config.recipe == "tiny"


def test_answers_are_those_of_the_networks(run: TrainedRun) -> None:
    probability = run.pair.image_probabilities(IMAGE[None])[0]
    np.testing.assert_array_equal(run.segment_image(IMAGE).labels, probability.argmax(0))
    assert not any(module.training for module in run.pair.networks.modules())


def test_images_of_any_kind(run: TrainedRun) -> None:
    want = run.segment_image(IMAGE).labels
    for same in (Image.fromarray(IMAGE), np.asfortranarray(IMAGE), IMAGE[:, ::-1][:, ::-1]):
        np.testing.assert_array_equal(run.segment_image(same).labels, want)
    flipped = run.segment_image(IMAGE[::-1]).labels
    np.testing.assert_array_equal(flipped, run.segment_image(IMAGE[::-1].copy()).labels)
    one_pixel = run.segment_image(IMAGE[:1, :1])
    assert one_pixel.labels.shape == (1, 1)


def test_clouds_of_any_kind(run: TrainedRun) -> None:
    want = run.segment_points(XYZ, RGB).labels
    read_only, frozen = XYZ.copy(), RGB.copy()
    read_only.flags.writeable = frozen.flags.writeable = False
    for xyz, rgb in [
        (XYZ.tolist(), RGB),
        (read_only, frozen),
        (np.asfortranarray(XYZ), np.asfortranarray(RGB)),
        (torch.from_numpy(XYZ), torch.from_numpy(RGB)),
    ]:
        np.testing.assert_array_equal(run.segment_points(xyz, rgb).labels, want)
    np.testing.assert_array_equal(run.segment_points(XYZ[::-1], RGB[::-1]).labels, want[::-1])


def test_lists_of_colours(run: TrainedRun) -> None:
    """Plain lists hold Python integers, which are no uint8: said, not guessed."""
    with pytest.raises(DataError, match="uint8"):
        run.segment_points(XYZ, RGB.tolist())


def test_integers_are_metres(run: TrainedRun) -> None:
    whole = np.round(XYZ * 3)
    want = run.segment_points(whole, RGB).labels
    np.testing.assert_array_equal(run.segment_points(whole.astype(np.int32), RGB).labels, want)
    np.testing.assert_array_equal(run.segment_points(whole.astype(np.float32), RGB).labels, want)


def test_clouds_far_from_the_origin(run: TrainedRun) -> None:
    grid = np.round(XYZ * 64) / 64
    far = run.segment_points(grid + np.array([4e6, 5e6, 100.0]), RGB)  # as in a map projection
    np.testing.assert_array_equal(far.labels, run.segment_points(grid, RGB).labels)


def test_no_points_and_no_colours(run: TrainedRun) -> None:
    assert run.segment_points(np.zeros((0, 3)), None).labels.shape == (0,)
    assert run.segment_points(XYZ).coverage == 1.0


@pytest.mark.parametrize(
    "image",
    [
        IMAGE[..., 0],
        IMAGE.astype(np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        IMAGE.tolist(),
        [[1, 2], [3]],
        "image.png",
        None,
    ],
)
def test_bad_images(run: TrainedRun, image: Any) -> None:
    with pytest.raises(DataError, match="segment_image: expected"):
        run.segment_image(image)


@pytest.mark.parametrize(
    ("xyz", "rgb"),
    [
        (XYZ[:, :2], None),
        (XYZ[0], None),
        ([], None),
        ([[1, 2], [3]], None),
        (np.full((2, 3), "a"), None),
        (XYZ.astype(complex), None),
        (np.ones((2, 3), bool), None),
        (None, None),
        (XYZ, RGB[:5]),
        (XYZ, RGB.astype(np.float32) / 255),
        (XYZ, [[1, 2], [3]]),
    ],
)
def test_bad_clouds(run: TrainedRun, xyz: Any, rgb: Any) -> None:
    with pytest.raises(DataError, match="segment_points: expected"):
        run.segment_points(xyz, rgb)


def test_points_that_are_not_finite(run: TrainedRun) -> None:
    bad = XYZ.copy()
    bad[3, 1], bad[7], bad[7, 0] = np.nan, np.inf, -np.inf
    with pytest.raises(DataError, match="2 of 120 points are not finite"):
        run.segment_points(bad)


@pytest.mark.parametrize("size", [1e9, 1e300])
def test_points_too_far_apart(run: TrainedRun, size: float) -> None:
    with pytest.raises(DataError, match=r"millimetres in place of metres|not finite"):
        run.segment_points(np.array([[0, 0, 0], [size, 0, 0], [-size, 0, 0]]))


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file; train first"):
        scenelift.load(tmp_path / "nowhere")
    (tmp_path / "networks.safetensors").write_bytes(b"not networks")
    with pytest.raises(RunError, match="is damaged"):
        scenelift.load(tmp_path)


def test_weights_named_in_the_run_are_not_needed(folder: Path, tmp_path: Path) -> None:
    _, text, about = checkpoint.read_networks(folder / "networks.safetensors")
    config = tiny_config(networks={"image": {"name": "deeplabv3_mobilenet_v3_large", "weights": "gone.pth"}})
    bare = tiny_config(networks={"image": {"name": "deeplabv3_mobilenet_v3_large", "weights": "none"}})
    networks = Networks(bare.networks, bare.latent, 8, 3)
    about = {**about, "config": config.model_dump(mode="json")}
    checkpoint.save_networks(tmp_path / "networks.safetensors", networks, text, about)
    assert scenelift.load(tmp_path, "cpu").segment_image(IMAGE).labels.shape == (30, 41)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ConfigError, match=f"device {name}: PyTorch sees no CUDA"):
            resolve_device(name)
    with pytest.raises(ConfigError, match="expected auto, cpu or cuda, found 'gpu'"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda"
    assert resolve_device("cuda:0") == "cuda:0"


def test_importing_the_package_is_light() -> None:
    import subprocess

    code = "import sys, scenelift; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
