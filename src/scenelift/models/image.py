"""The 2D network: torchvision's DeepLabV3 without its classifier, or a small one for CPUs.

Every network here maps images to features; labels come from the dot with text in `heads`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import MobileNet_V3_Large_Weights, ResNet50_Weights
from torchvision.models._api import WeightsEnum
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large, deeplabv3_resnet50
from torchvision.models.segmentation.deeplabv3 import DeepLabV3

from scenelift.config import ImageNetworkConfig
from scenelift.errors import ConfigError, WeightsError
from scenelift.teachers.hub import is_offline
from scenelift.teachers.weights import read_state_dict

log = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageNetwork(nn.Module):
    """A 2D network: (B, 3, H, W) float images in [0, 1] to (B, out_channels, h, w) features.

    Args:
        body: the network behind the normalisation; its output covers the image evenly.
        out_channels: channels it returns.
    """

    def __init__(self, body: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.out_channels = out_channels
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) images in [0, 1] to (B, out_channels, h, w) features."""
        mean, std = cast(Tensor, self.mean), cast(Tensor, self.std)
        # channels last is what tensor cores want, and a fifth faster on CPUs
        normal = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
        return cast(Tensor, self.body(normal))


class _DeepLabBody(nn.Module):
    """Backbone and ASPP of DeepLabV3 (https://arxiv.org/abs/1706.05587), without its last layer."""

    def __init__(self, network: DeepLabV3) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.aspp = nn.Sequential(*list(network.classifier)[:-1])

    def forward(self, images: Tensor) -> Tensor:
        # one pooled value a channel has no variance to normalise by; `WorldBatchNorm` counts all processes'
        if self.training and len(images) < 2 and any(type(m) is nn.BatchNorm2d for m in self.aspp.modules()):
            raise ConfigError(
                "train: DeepLabV3 expects at least 2 images in a step, found 1; raise train.scenes_per_step "
                "or train.frames_per_scene, or choose networks.image.name=small"
            )
        return cast(Tensor, self.aspp(self.backbone(images)["out"]))


def _conv(c_in: int, c_out: int, *, stride: int = 1, dilation: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, dilation * (kernel // 2), dilation, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


class ImageResidual(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, at one width."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels, dilation=dilation)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to the same shape."""
        return F.relu(x + self.second(self.first(x)))


class _SmallBody(nn.Module):
    """Residual blocks at stride 8 with growing dilation, fused with stride 4: made for two CPU cores."""

    def __init__(self, width: int = 32, out_channels: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, width // 2, stride=2), _conv(width // 2, width, stride=2))
        self.fine = ImageResidual(width, 1)
        self.down = _conv(width, 2 * width, stride=2)
        self.deep = nn.Sequential(*(ImageResidual(2 * width, dilation) for dilation in (1, 2, 4)))
        self.context = nn.Conv2d(2 * width, 2 * width, 1)
        self.fuse = _conv(3 * width, out_channels)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(self.stem(images))
        deep = self.deep(self.down(fine))
        deep = deep + self.context(deep.mean((2, 3), keepdim=True))
        deep = F.interpolate(deep, size=fine.shape[2:], mode="bilinear", align_corners=False)
        return cast(Tensor, self.fuse(torch.cat([fine, deep], 1)))


PUBLISHED: dict[str, WeightsEnum] = {
    "deeplabv3_resnet50": ResNet50_Weights.IMAGENET1K_V1,
    "deeplabv3_mobilenet_v3_large": MobileNet_V3_Large_Weights.IMAGENET1K_V1,
}
"""torchvision's ImageNet weights of the networks that have any."""


def _deeplabv3_resnet50(config: ImageNetworkConfig) -> ImageNetwork:
    network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=1, aux_loss=False)
    _load_backbone(network.backbone, lambda key: key, config)
    return ImageNetwork(_DeepLabBody(network), out_channels=256)


def _deeplabv3_mobilenet_v3_large(config: ImageNetworkConfig) -> ImageNetwork:
    network = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=1, aux_loss=False)
    # the backbone is the classifier's `features`
    _load_backbone(network.backbone, lambda key: key.removeprefix("features."), config)
    return ImageNetwork(_DeepLabBody(network), out_channels=256)


def _small(config: ImageNetworkConfig) -> ImageNetwork:
    if config.weights not in (None, "none"):
        raise WeightsError(
            "networks.image.weights: the small network has no pretrained backbone, "
            f"found {config.weights!r}; remove the key or choose a deeplabv3 network"
        )
    return ImageNetwork(_SmallBody(), out_channels=64)


IMAGE_NETWORKS: dict[str, Callable[[ImageNetworkConfig], ImageNetwork]] = {
    "deeplabv3_resnet50": _deeplabv3_resnet50,
    "deeplabv3_mobilenet_v3_large": _deeplabv3_mobilenet_v3_large,
    "small": _small,
}


def build_image_network(config: ImageNetworkConfig) -> ImageNetwork:
    """The 2D network of a configuration.

    Raises:
        WeightsError: the weights named in it are missing, cannot be fetched, or do not fit.
    """
    return IMAGE_NETWORKS[config.name](config)


def weights_file(config: ImageNetworkConfig) -> Path | None:
    """Where the backbone's weights are looked for, there or not; ``None`` if it starts at random."""
    if config.weights == "none" or config.name not in PUBLISHED:
        return None
    if config.weights is not None:
        return Path(config.weights)
    return Path(torch.hub.get_dir()) / "checkpoints" / str(PUBLISHED[config.name].url).rsplit("/", 1)[-1]


def fetch_weights(config: ImageNetworkConfig) -> None:
    """Fetch torchvision's ImageNet weights into its cache if this network wants them and they are not there.

    Raises:
        WeightsError: they cannot be fetched.
    """
    place = weights_file(config)
    if place is not None and config.weights is None and not place.is_file():
        _fetch(PUBLISHED[config.name].url)


def _load_backbone(backbone: nn.Module, rename: Callable[[str], str], config: ImageNetworkConfig) -> None:
    """Put ImageNet weights into a backbone: a local file, torchvision's cache, a download, or none."""
    if config.weights == "none":
        return
    published = PUBLISHED[config.name]
    place = cast(Path, weights_file(config))
    if config.weights is not None or place.is_file():
        state = read_state_dict(place)
    elif config.download:
        state = _fetch(published.url)
    else:
        log.warning(
            "%s starts from random weights: %s is not there. For ImageNet weights set "
            "networks.image.download=true, or put the file there yourself, or name one with "
            "networks.image.weights=FILE; networks.image.weights=none silences this",
            config.name,
            place,
        )
        return
    # old files lack batch norm's counters, which nothing reads
    wanted = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    found = {rename(key): value for key, value in state.items()}
    missing = [key for key in wanted if key not in found or found[key].shape != wanted[key].shape]
    if missing:
        raise WeightsError(
            f"networks.image.weights: {config.weights or published.url} does not fit {config.name}: "
            f"{len(missing)} of {len(wanted)} tensors are missing or of another shape, first {missing[0]!r}; "
            f"expected torchvision's {published} state dict"
        )
    backbone.load_state_dict({key: found[key] for key in wanted})


def _fetch(url: str) -> Mapping[str, Tensor]:
    if is_offline():
        raise WeightsError(
            f"{url} is not here, and HF_HUB_OFFLINE=1 forbids fetching it; fetch it elsewhere and set "
            "networks.image.weights=FILE"
        )
    try:
        return torch.hub.load_state_dict_from_url(url, weights_only=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, a full disk, another hash
        raise WeightsError(
            f"{url} cannot be fetched ({error}); fetch it elsewhere and set networks.image.weights=FILE"
        ) from None
