"""Two trained networks, asked for probabilities, cosines and embeddings."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scenelift.batches import voxel_inputs
from scenelift.config import Config
from scenelift.errors import RunError
from scenelift.models.heads import TextHead
from scenelift.models.networks import Networks, Output
from scenelift.models.voxels import voxelize
from scenelift.similarity import Refusal, common_direction, similarities
from scenelift.types import F32, U8


class NetworkPair:
    """Trained networks, ready to answer: each alone, on data they have never seen.

    Args:
        networks: put into evaluation mode.
        text: (C, dim) float32, unit length.
        config: how points become voxels.
        device: where to compute.
        digest: of everything they were trained from.
        knows_points: whether the 3D network was trained; after images alone it is as it was drawn.

    Attributes:
        text: (C, dim), the classes it answers with; others after `with_text`.
        own_text: (C, dim), the classes it was trained for.
        refusal: when it gives none of the classes; ``None`` = it always gives one.
    """

    def __init__(
        self,
        networks: Networks,
        text: Tensor,
        config: Config,
        device: str = "cpu",
        digest: str = "",
        knows_points: bool = True,
    ) -> None:
        self.digest, self.knows_points = digest, knows_points
        self.networks = networks.to(device).eval()
        self.text = self.own_text = text.to(device)
        self.config = config.networks.points
        self.device = device
        self.refusal: Refusal | None = None

    def with_text(self, text: Tensor, refusal: Refusal | None = None) -> NetworkPair:
        """The same networks, asked for other classes; ``text`` is (L, dim) float32, unit length."""
        other = copy.copy(self)
        other.text, other.refusal = text.to(self.device), refusal
        state = hashlib.blake2b(f"{self.digest} {refusal and (refusal.least_2d, refusal.least_3d)}".encode())
        state.update(text.cpu().numpy().tobytes())
        other.digest = state.hexdigest()[:32]
        return other

    def image_probabilities(self, images: U8) -> Tensor:
        """(B, H, W, 3) uint8 images to (B, C, H, W) float32 class probabilities; 0 for all where refused."""
        if self.refusal is None:
            return self._image_scores(images, lambda output: output.logits).softmax(1)
        refusal, head = self.refusal, self.networks.image_head

        def scores(output: Output) -> Tensor:
            lead = _by_rows(output, lambda rows: refusal.lead(head.embed(rows), self.text, refusal.least_2d))
            return torch.cat([output.logits.float(), lead], 1)

        found = self._image_scores(images, scores)
        return found[:, :-1].softmax(1) * (found[:, -1:] >= 0)

    def image_cosines(self, images: U8) -> Tensor:
        """(B, H, W, 3) uint8 images to (B, C, H, W) float32 cosines of their embeddings to each class."""
        head = self.networks.image_head
        return self._image_scores(images, lambda o: _by_rows(o, lambda rows: self._cosines(head, rows)))

    def image_similarities(self, images: U8, text: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 images to (B, Q, H, W) `similarities` to text (Q, dim)."""
        head, text, common = self.networks.image_head, text.to(self.device), common_direction(self.own_text)
        return self._image_scores(
            images, lambda o: _by_rows(o, lambda rows: similarities(head.embed(rows), text, common))
        )

    @torch.no_grad()
    def _image_scores(self, images: U8, scores: Callable[[Output], Tensor]) -> Tensor:
        unit = _bytes(images).to(self.device).permute(0, 3, 1, 2).float() / 255
        coarse = scores(self.networks.run_images(unit, self.text)).float()
        return F.interpolate(coarse, size=unit.shape[2:], mode="bilinear", align_corners=False)

    def point_probabilities(self, points_xyz: F32, rgb: U8 | None) -> Tensor:
        """(N, 3) float32 points in metres, z up, and (N, 3) uint8 colours to (N, C) float32 probabilities.

        They are 0 for all classes where `refusal` gives none.

        Raises:
            RunError: the 3D network was never trained.
        """
        head, refusal = self.networks.points_head, self.refusal

        def scores(output: Output) -> Tensor:
            probability = output.logits.float().softmax(1)
            if refusal is None:
                return probability
            lead = refusal.lead(head.embed(output.features), self.text, refusal.least_3d)
            return probability * (lead >= 0)

        return self._point_scores(points_xyz, rgb, len(self.text), scores)

    def point_similarities(self, points_xyz: F32, rgb: U8 | None, text: Tensor) -> Tensor:
        """As `point_probabilities`, but (N, Q) `similarities` to text (Q, dim)."""
        head, text, common = self.networks.points_head, text.to(self.device), common_direction(self.own_text)

        def scores(output: Output) -> Tensor:
            return similarities(head.embed(output.features), text, common)

        return self._point_scores(points_xyz, rgb, len(text), scores)

    def point_cosines(self, points_xyz: F32, rgb: U8 | None) -> Tensor:
        """As `point_probabilities`, but (N, C) float32 cosines of the embeddings to each class."""
        head, width = self.networks.points_head, len(self.text)
        return self._point_scores(points_xyz, rgb, width, lambda output: self._cosines(head, output.features))

    @torch.no_grad()
    def _point_scores(
        self, points_xyz: F32, rgb: U8 | None, width: int, scores: Callable[[Output], Tensor]
    ) -> Tensor:
        """(N, width) of what ``scores`` makes of the voxels."""
        if not len(points_xyz):
            return self.text.new_zeros(0, width)
        self.expect_points()
        middle = (points_xyz.min(0) + points_xyz.max(0)) / 2  # as in training: far origins fit too
        points = torch.from_numpy(points_xyz - middle).to(self.device)
        one = torch.zeros(len(points), dtype=torch.int64, device=self.device)
        coords, voxel = voxelize(points, one, self.config.voxel_m)
        colors = None if rgb is None else _bytes(rgb).to(self.device).float() / 255
        inputs = voxel_inputs([colors], [len(points)], voxel, len(coords), self.config.inputs)
        return scores(self.networks.run_points(coords, inputs, self.text))[voxel]

    def point_embeddings(self, points_xyz: F32, rgb: U8 | None) -> Tensor:
        """As `point_probabilities`, but (N, dim) float32 embeddings of unit length, in the text's space."""
        head, width = self.networks.points_head, self.text.shape[1]
        return self._point_scores(points_xyz, rgb, width, lambda output: _unit(head, output.features))

    def expect_points(self) -> None:
        """Raise `RunError` if the 3D network was never trained."""
        if not self.knows_points:
            raise RunError(
                "expected a 3D network that was trained, found one of a run on images alone; "
                "train on data with clouds to label points"
            )

    @torch.no_grad()
    def image_embeddings(self, image: U8) -> Tensor:
        """(H, W, 3) uint8 image to (dim, h, w) float32 embeddings of unit length, at the network's stride."""
        unit = _bytes(image).to(self.device).permute(2, 0, 1)[None].float() / 255
        features = self.networks.run_images(unit, self.text).features[0]
        rows = _unit(self.networks.image_head, features.flatten(1).T)
        return rows.T.reshape(-1, *features.shape[1:])

    def _cosines(self, head: TextHead, features: Tensor) -> Tensor:
        """(n, F) features to (n, C) cosines."""
        return _unit(head, features) @ self.text.T


def _unit(head: TextHead, features: Tensor) -> Tensor:
    """(n, F) features to (n, dim) float32 embeddings of unit length."""
    return F.normalize(head.embed(features).float(), dim=1)


def _by_rows(output: Output, scores: Callable[[Tensor], Tensor]) -> Tensor:
    """(n, F) -> (n, K) scores of a map's features: (B, F, h, w) to (B, K, h, w)."""
    batch, channels, height, width = output.features.shape
    found = scores(output.features.movedim(1, 3).reshape(-1, channels))
    return found.view(batch, height, width, -1).movedim(3, 1)


def _bytes(array: U8) -> Tensor:
    """A copy: PyTorch takes neither read-only nor flipped arrays."""
    return torch.from_numpy(np.array(array, order="C"))
