"""Everything that is trained, in one module: two networks, their text heads, their latent heads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from scenelift.config import LatentConfig, NetworksConfig
from scenelift.device import wide
from scenelift.models.heads import FrozenMap, TextHead
from scenelift.models.image import build_image_network
from scenelift.models.points import build_point_network

POINT_INPUTS = {"rgb": 3, "constant": 1}


class Output(NamedTuple):
    """What a network says.

    Attributes:
        features: (B, F, h, w) for images, (V, F) for voxels.
        logits: (B, C, h, w) for images at the features' size, (V, C) for voxels.
    """

    features: Tensor
    logits: Tensor


class Networks(nn.Module):
    """The 2D and the 3D network.

    Args:
        config: which networks.
        latent: the latent consistency they are trained with; weight 0 builds no latent heads.
        text_dim: length of the text embeddings.
        target_dim: channels of the latent target's features; 0 builds no latent heads.
        seed: of the random initialisation.
    """

    def __init__(
        self, config: NetworksConfig, latent: LatentConfig, text_dim: int, target_dim: int, seed: int = 0
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.image = build_image_network(config.image)
            self.points = build_point_network(config.points.name, POINT_INPUTS[config.points.inputs])
            self.image_head = TextHead(self.image.out_channels, text_dim, config.head)
            self.points_head = TextHead(self.points.out_channels, text_dim, config.head)
            if latent.weight > 0 and target_dim > 0:
                self.image_latent = nn.Linear(self.image.out_channels, latent.dim)
                self.points_latent = nn.Linear(self.points.out_channels, latent.dim)
                self.target_latent: nn.Module = (
                    FrozenMap(target_dim, latent.dim)
                    if latent.target_map == "frozen"
                    else nn.Linear(target_dim, latent.dim)
                )

    def run_images(self, images: Tensor, text: Tensor, none: bool | None = None) -> Output:
        """Features and logits of (B, 3, H, W) images in [0, 1], both at the network's own stride.

        Args:
            images: B may be 0 where processes compute together: each has to take part.
            text: (C, dim).
            none: that no process has an image, so that there is nothing to compute.
        """
        none_of_it = images.new_zeros(0, self.image.out_channels, 1, 1)
        features = none_of_it if none else wide(self.image(images))
        return Output(features, wide(self.image_head.forward_map(features, text)))

    def run_points(self, coords: Tensor, inputs: Tensor, text: Tensor, none: bool | None = None) -> Output:
        """Features and logits of (V, 4) voxels with (V, C_in) inputs; no voxels have none of either.

        ``none`` as for `run_images`; ``None`` = as these are.
        """
        if not len(coords) if none is None else none:  # images alone: nothing to normalise
            features = inputs.new_zeros(0, self.points.out_channels)
        else:
            features = wide(self.points(coords, inputs))
        return Output(features, wide(self.points_head(features, text)))
