"""The 2D networks: shapes, weights from files, and no surprise downloads."""

from __future__ import annotations

import logging
import os
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import mobilenet_v3_large, resnet50
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

import fixtures_hub
from scenelift.config import ImageNetworkConfig
from scenelift.errors import ConfigError, WeightsError
from scenelift.models import image as image_module
from scenelift.models.image import IMAGE_NETWORKS, IMAGENET_MEAN, IMAGENET_STD, build_image_network

MOBILE = "deeplabv3_mobilenet_v3_large"


def config(name: str = MOBILE, **keys: Any) -> ImageNetworkConfig:
    return ImageNetworkConfig.model_validate({"name": name, **keys})


@pytest.fixture(scope="module")
def mobile_state() -> dict[str, torch.Tensor]:
    """What torchvision publishes for MobileNetV3, with random values."""
    torch.manual_seed(3)
    state = mobilenet_v3_large(weights=None).state_dict()
    return {key: value + 0.25 if value.is_floating_point() else value for key, value in state.items()}


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch cache without weights, on a machine without a network."""
    fixtures_hub.no_network(monkeypatch)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(("name", "stride", "channels"), [("small", 4, 64), (MOBILE, 16, 256)])
@pytest.mark.parametrize("size", [(64, 96), (37, 51)])
def test_output_covers_the_image_at_its_stride(
    name: str, stride: int, channels: int, size: tuple[int, int]
) -> None:
    network = build_image_network(config(name, weights="none")).eval()
    with torch.no_grad():
        features = network(torch.rand(2, 3, *size))
    assert network.out_channels == channels
    assert features.shape == (2, channels, *(-(-side // stride) for side in size))
    assert features.isfinite().all()


def test_resnet50_has_stride_8_and_256_channels() -> None:
    network = build_image_network(config("deeplabv3_resnet50", weights="none")).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 33, 47)).shape == (1, network.out_channels, 5, 6)
    assert network.out_channels == 256


def test_deeplab_says_that_it_cannot_train_on_one_image() -> None:
    network = build_image_network(config(weights="none"))
    with pytest.raises(ConfigError, match=r"at least 2 images .*train\.frames_per_scene"):
        network(torch.rand(1, 3, 32, 32))
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 256, 2, 2)


def test_every_configurable_name_is_built() -> None:
    allowed = ImageNetworkConfig.model_fields["name"].annotation
    assert set(IMAGE_NETWORKS) == set(allowed.__args__)  # type: ignore[union-attr]


def test_images_are_normalised_as_imagenet_wants() -> None:
    network = image_module.ImageNetwork(torch.nn.Identity(), 3)
    images = torch.rand(2, 3, 5, 7)
    expected = images.clone()
    for channel in range(3):
        expected[:, channel] = (images[:, channel] - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
    torch.testing.assert_close(network(images), expected)
    assert not network.state_dict()  # the constants are no weights


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_backbone_weights_come_from_a_local_file(
    ending: str, mobile_state: dict[str, torch.Tensor], tmp_path: Path, empty_hub: Path
) -> None:
    path = tmp_path / f"weights{ending}"
    if ending == ".pth":
        torch.save(mobile_state, path)
    else:
        save_file(mobile_state, path)
    backbone = build_image_network(config(weights=str(path))).body.backbone.state_dict()
    assert len(backbone) > 200
    for key, value in backbone.items():
        assert torch.equal(value, mobile_state[f"features.{key}"]), key


def test_resnet_weights_come_from_torchvisions_cache_without_counters(empty_hub: Path) -> None:
    """Files of torchvision's first years lack batch norm's counters, which nothing reads."""
    state = resnet50(weights=None).state_dict()
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    cached = empty_hub / "checkpoints" / "resnet50-0676ba61.pth"
    cached.parent.mkdir(parents=True)
    torch.save(old, cached)
    backbone = build_image_network(config("deeplabv3_resnet50")).body.backbone.state_dict()
    assert torch.equal(backbone["layer4.2.conv3.weight"], state["layer4.2.conv3.weight"])
    assert torch.equal(backbone["bn1.running_var"], state["bn1.running_var"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere\.pth.*no such file"):
        build_image_network(config(weights=str(tmp_path / "nowhere.pth")))


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all" * 50, "cut"])
def test_a_damaged_file_is_refused(
    ending: str, content: bytes | str, mobile_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"bad{ending}"
    if isinstance(content, str):
        small = {"features.0.0.weight": mobile_state["features.0.0.weight"]}
        torch.save(small, path) if ending == ".pth" else save_file(small, path)
        content = path.read_bytes()[:-20]
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"bad\.\w+ cannot be read .*fetch the file again") as caught:
        build_image_network(config(weights=str(path)))
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_refused(mobile_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = {**mobile_state, "features.0.0.weight": torch.zeros(16, 3, 5, 5)}
    del state["features.1.block.0.0.weight"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit .*: 2 of \d+ tensors .*'0.0.weight'"):
        build_image_network(config(weights=str(tmp_path / "other.safetensors")))


def test_a_whole_segmentation_model_is_not_a_backbone(tmp_path: Path) -> None:
    network = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    torch.save(network.state_dict(), tmp_path / "whole.pth")
    with pytest.raises(WeightsError, match="does not fit"):
        build_image_network(config(weights=str(tmp_path / "whole.pth")))


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": torch.zeros(1)}}, {"epoch": 3}])
def test_only_plain_state_dicts_are_read(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match="expected a plain state dict"):
        build_image_network(config(weights=str(tmp_path / "odd.pth")))


class Malicious:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_weight_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"features.0.0.weight": Malicious(tmp_path / "owned")}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        build_image_network(config(weights=str(tmp_path / "evil.pth")))
    assert not (tmp_path / "owned").exists()


def test_absent_weights_are_told_once_and_nothing_is_fetched(
    empty_hub: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        network = build_image_network(config())
    (record,) = caplog.records
    message = record.getMessage()
    assert "random weights" in message
    assert "networks.image.download=true" in message
    assert str(empty_hub) in message
    assert network.body.backbone.state_dict()["0.0.weight"].std() > 0


def test_no_weights_by_wish_is_silent(empty_hub: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        build_image_network(config(weights="none"))
        build_image_network(config("small"))
    assert not caplog.records


def test_a_download_is_made_when_allowed(
    mobile_state: dict[str, torch.Tensor], empty_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, object]]] = []

    def fetch(url: str, **keys: object) -> dict[str, torch.Tensor]:
        asked.append((url, keys))
        return mobile_state

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    network = build_image_network(config(download=True))
    ((url, keys),) = asked
    assert url.startswith("https://download.pytorch.org/models/mobilenet_v3_large")
    assert keys == {"weights_only": True, "check_hash": True}
    expected = mobile_state["features.0.0.weight"]
    assert torch.equal(network.body.backbone.state_dict()["0.0.weight"], expected)


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), RuntimeError("invalid hash value")])
def test_a_download_that_fails_is_a_user_error(
    error: Exception, empty_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(url: str, **keys: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(WeightsError, match=r"cannot be fetched .*networks\.image\.weights=FILE"):
        build_image_network(config(download=True))


def test_the_small_network_has_no_pretrained_weights() -> None:
    with pytest.raises(WeightsError, match="no pretrained backbone"):
        build_image_network(config("small", weights="x.pth"))
