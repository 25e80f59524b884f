"""Exported networks against the library's own answers, where neither this library nor training takes part."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fixtures_scenes import CLASSES, tiny_config
from scenelift.errors import RunError
from scenelift.formats.network_2d import write_onnx
from scenelift.formats.network_3d import PointClassifier, write_program
from scenelift.models.networks import Networks
from scenelift.predict import NetworkPair


def new_pair(text_dim: int = 128, **networks: Any) -> NetworkPair:
    """Untrained networks with strong heads and statistics of their own, so that answers vary.

    As on real data, text has more channels than they have, if ``text_dim`` says no other.
    """
    config = tiny_config(networks=networks)
    made = Networks(config.networks, config.latent, text_dim, 3, seed=5)
    random = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=random)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5, generator=random)  # type: ignore[union-attr]
        for head in (made.image_head, made.points_head):
            head.linear.weight.mul_(5)
    text = torch.nn.functional.normalize(torch.randn(4, text_dim, generator=random), dim=1)
    return NetworkPair(made, text, config, digest="of the training")


# --- 2D ----------------------------------------------------------------------------------------------------


def probabilities_in_double(pair: NetworkPair, images: np.ndarray) -> np.ndarray:
    """(B, C, H, W) from a (B, H, W, 3) uint8 batch."""
    networks = copy.deepcopy(pair.networks).double()
    given = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    with torch.no_grad():
        logits = networks.run_images(given, pair.text.double()).logits
    full = F.interpolate(logits, size=images.shape[1:3], mode="bilinear", align_corners=False)
    return full.softmax(1).numpy()


def check_onnx(pair: NetworkPair, out: Path) -> onnx.ModelProto:
    file = write_onnx(pair, CLASSES, out)
    assert file == out / "network_2d.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,), (told,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == (
        "image", ["batch", 3, "height", "width"], "tensor(float)",
    )  # fmt: skip
    assert (told.name, told.shape[1]) == ("probabilities", 4)
    rng = np.random.default_rng(0)
    for shape in ((1, 40, 56), (3, 33, 47), (1, 96, 128)):
        images = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        want = pair.image_probabilities(images).numpy()
        (got,) = session.run(None, {"image": images.transpose(0, 3, 1, 2).astype(np.float32) / 255})
        assert got.shape == want.shape == (shape[0], 4, *shape[1:])
        # deep networks at random weights magnify rounding: how far, float64 tells
        rounding = float(np.abs(want - probabilities_in_double(pair, images)).max())
        assert np.abs(got - want).max() < max(1e-4, 4 * rounding)
        assert rounding < 1e-3
        assert np.ptp(want, axis=(0, 2, 3)).max() > 0.05  # or equality would say little
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(CLASSES.names)
    assert json.loads(about["colors"]) == CLASSES.colors.tolist()
    assert about["digest"] == "of the training"
    model = onnx.load(file)
    onnx.checker.check_model(model)
    return model


def test_onnx_runtime_gives_the_same_probabilities(tmp_path: Path) -> None:
    pair = new_pair()
    model = check_onnx(pair, tmp_path)
    raw = (tmp_path / "network_2d.onnx").read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in raw  # nothing of this machine
    assert b"/scenelift/" not in raw
    assert max(model.opset_import, key=lambda entry: entry.domain == "").version == 18
    assert not pair.networks.training


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50"])
def test_onnx_of_the_large_networks(tmp_path: Path, name: str) -> None:
    check_onnx(new_pair(text_dim=8, image={"name": name, "weights": "none"}), tmp_path)


# --- 3D ----------------------------------------------------------------------------------------------------


def cloud(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A room whose origin lies far away; negative coordinates too."""
    rng = np.random.default_rng(seed)
    xyz = rng.random((count, 3)) * [5, 4, 2.5] + [300, -40, -1]
    return xyz.astype(np.float32), rng.integers(0, 256, (count, 3), dtype=np.uint8)


@pytest.mark.parametrize("inputs", ["rgb", "constant"])
@pytest.mark.parametrize("name", ["narrow", "minkunet14"])
def test_the_same_network_in_plain_operations(name: str, inputs: str) -> None:
    pair = new_pair(points={"name": name, "voxel_m": 0.2, "inputs": inputs})
    plain = PointClassifier(pair).eval()
    for count in (1, 2, 60, 2500):
        xyz, rgb = cloud(count)
        with torch.no_grad():
            got = plain(torch.from_numpy(xyz), torch.from_numpy(rgb).float() / 255)
        want = pair.point_probabilities(xyz, rgb)
        torch.testing.assert_close(got, want, atol=2e-5, rtol=0)
    assert float(np.ptp(want.numpy(), axis=0).max()) > 0.05


def test_the_program_runs_without_this_library(tmp_path: Path) -> None:
    pair = new_pair(points={"name": "narrow", "voxel_m": 0.2})
    file = write_program(pair, CLASSES, tmp_path)
    assert file == tmp_path / "network_3d.pt2"
    for count in (1, 800):
        xyz, rgb = cloud(count, seed=count)
        np.savez(tmp_path / f"{count}.npz", xyz=xyz, rgb=rgb.astype(np.float32) / 255)
    code = (
        "import sys, numpy as np, torch\n"
        "extra = {'classes.json': ''}\n"
        "run = torch.export.load(sys.argv[1], extra_files=extra).module()\n"
        "for path in sys.argv[2:]:\n"
        "    given = np.load(path)\n"
        "    with torch.no_grad():\n"
        "        told = run(torch.from_numpy(given['xyz']), torch.from_numpy(given['rgb']))\n"
        "    np.save(path + '.npy', told.numpy())\n"
        "assert not any(name.startswith('scenelift') for name in sys.modules)\n"
        "print(extra['classes.json'])\n"
    )
    given = [str(tmp_path / f"{count}.npz") for count in (1, 800)]
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), *given], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == list(CLASSES.names)
    for count in (1, 800):
        want = pair.point_probabilities(*cloud(count, seed=count)).numpy()
        np.testing.assert_allclose(np.load(tmp_path / f"{count}.npz.npy"), want, atol=2e-5)


def test_a_network_that_was_never_trained_is_not_exported(tmp_path: Path) -> None:
    pair = new_pair()
    pair.knows_points = False
    with pytest.raises(RunError, match="found one of a run on images alone"):
        write_program(pair, CLASSES, tmp_path)
    assert list(tmp_path.iterdir()) == []
