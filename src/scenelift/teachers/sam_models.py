"""Promptable segmentation models of transformers behind one small interface.

A model puts an image into its square input, embeds it once, and answers point prompts with masks and their
predicted IoU. SAM scales the longer side to 1,024 pixels and pads; SAM 2 stretches both sides to 1,024.
Everything else is shared, and the mask generator knows neither. `MODELS` is by ``model_type``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from scenelift.teachers.sam_decoder import Attended, ImageState, MaskDecoder
from scenelift.teachers.weights import Weights, load_model
from scenelift.types import F16, U8

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in [0, 1], by channel: what SAM and SAM 2 were trained with."""

MASK_THRESHOLD = 0.0
"""A pixel belongs to a mask when its logit is above this."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Where an image lies in the network's square input, and how masks get back to its pixels.

    Attributes:
        image_size: (H, W) of the image.
        input_size: (h, w) of the part of the square input that it fills, from the top left corner, in pixels.
        side: of the square input, in pixels.
        valid: (rows, columns) of the embedding's grid that its masks depend on.
        rows: (H, 4 · rows) float32, each output row as a mix of logit rows.
        columns: (W, 4 · columns) float32, likewise.
        row_shares: (4 · rows,) float32, how many output rows are mixed from a logit row and its neighbours.
        column_shares: (4 · columns,) float32, likewise.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    side: int
    valid: tuple[int, int]
    rows: Tensor
    columns: Tensor
    row_shares: Tensor
    column_shares: Tensor

    def to_input(self, points_xy: Tensor) -> Tensor:
        """(n, 2) pixel positions (x, y) of the image, in pixels of the input."""
        (height, width), (rows, columns) = self.image_size, self.input_size
        return points_xy * points_xy.new_tensor([columns / width, rows / height])

    def upsample(self, logits: Tensor) -> Tensor:
        """(n, 4 · rows, 4 · columns) logits as (n, H, W), bilinearly: what the original's resizing gives."""
        return torch.matmul(torch.matmul(self.rows, logits), self.columns.t())

    def stability_bound(self, logits: Tensor, inner: float, outer: float) -> Tensor:
        """What the stability of masks cannot exceed at the size of the image, from their logits alone.

        A pixel is a mix of at most 3 × 3 logits: it lies between their least and their largest.

        Args:
            logits: (n, 4 · rows, 4 · columns).
            inner: the upper threshold.
            outer: the lower one.

        Returns:
            (n,) float32; infinite where no pixel is certain to be above ``outer``.
        """
        images = logits[:, None]
        high = F.max_pool2d(images, 3, 1, 1)[:, 0] > inner
        low = F.max_pool2d(-images, 3, 1, 1)[:, 0] < -outer
        most, least = (
            torch.matmul(torch.matmul(self.row_shares, area.to(logits.dtype)), self.column_shares)
            for area in (high, low)
        )
        return torch.where(least > 0, most / least, torch.inf)


@dataclass(frozen=True, eq=False)
class Embedded:
    """An image as its prompts see it.

    Attributes:
        placement: where it lies in the input.
        state: of the mask decoder.
        embedding: (C, h, w) float32 of the whole input, padding included.
    """

    placement: Placement
    state: ImageState
    embedding: Tensor

    def features(self) -> F16:
        """(C, h, w) float16: the embedding over exactly the image, for eq. 7.

        Where an edge of the image falls inside a position of the embedding, the grid is resampled to the
        nearest whole number of cells, so that it still covers the image from edge to edge.
        """
        whole = self.embedding.shape[1]
        covered = [side * whole / self.placement.side for side in self.placement.input_size]
        height, width = (max(1, round(positions)) for positions in covered)
        grid = self.embedding[:, :height, :width]
        if [height, width] != covered:
            y, x = (
                (torch.arange(cells, device=grid.device) + 0.5) * (2 * positions / cells / whole) - 1
                for cells, positions in zip((height, width), covered, strict=True)
            )
            where = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
            grid = F.grid_sample(self.embedding[None], where, padding_mode="border", align_corners=False)[0]
        return grid.half().cpu().numpy()


class PromptableModel(ABC):
    """A segment-anything model: images in, masks for points out.

    Subclasses say which transformers model to load, how an image fills the input, and what the encoder gives.

    Args:
        model: of transformers, in eval mode.
        device: where to compute.
        dtype: the image encoder's precision; float32 computes without autocast. The mask decoder is always
            float32: masks are thresholds of its logits, and its cost is small.
    """

    def __init__(self, model: Any, device: torch.device | str, dtype: torch.dtype = torch.float32) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self.model = model.float().to(self.device)
        self.side = int(model.config.prompt_encoder_config.image_size)
        positions = model.get_image_wide_positional_embeddings()[0]
        self.grid = positions.shape[-1]
        self.decoder = MaskDecoder(
            model.mask_decoder, positions, model.prompt_encoder.no_mask_embed.weight[0]
        )
        self._placements: dict[tuple[int, int], Placement] = {}

    @classmethod
    def load(cls, weights: Weights) -> Any:
        """The transformers model of these weights. Raises `WeightsError`."""
        import transformers

        return load_model(getattr(transformers, cls.architecture).from_pretrained, weights)

    architecture: str
    """Class of transformers."""

    @abstractmethod
    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) an image of this size is scaled to."""

    @abstractmethod
    def encode(self, pixels: Tensor) -> list[tuple[Tensor, tuple[Tensor, Tensor] | None]]:
        """(B, 3, side, side) -> for each image its embedding (C, h, w) and finer features, if any."""

    def place(self, height: int, width: int) -> Placement:
        """Where an image of this size lies."""
        key = (height, width)
        if key not in self._placements:
            if len(self._placements) > 16:  # data of endless sizes must not fill memory with matrices
                self._placements.clear()
            size = self.input_size(height, width)
            low = 4 * self.grid
            maps, shares, valid = [], [], []
            for out, used in zip((height, width), size, strict=True):
                matrix = _resizing(low, self._steps(used, out))
                cells = -(-(int(matrix.abs().sum(0).nonzero().max()) + 1) // 4)
                valid.append(cells)
                maps.append(matrix[:, : 4 * cells].contiguous().to(self.device))
                middle = ((matrix != 0).int().argmax(1) + 1).clamp(max=4 * cells - 1)
                shares.append(torch.bincount(middle, minlength=4 * cells).float().to(self.device))
            self._placements[key] = Placement(key, size, self.side, (valid[0], valid[1]), *maps, *shares)
        return self._placements[key]

    @abstractmethod
    def _steps(self, used: int, out: int) -> list[tuple[int, int]]:
        """How logits along a side become pixels: resize to the first number, keep the second, and again."""

    def pixels(self, image: U8) -> Tensor:
        """(H, W, 3) uint8 RGB -> (3, side, side) float32 on the CPU, normalised, zero where padded."""
        height, width = self.input_size(*image.shape[:2])
        scaled = Image.fromarray(np.ascontiguousarray(image)).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        values = torch.from_numpy(np.array(scaled)).permute(2, 0, 1).float().div_(255)
        values = (values - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        return F.pad(values, (0, self.side - width, 0, self.side - height))

    @torch.no_grad()
    def embed(self, images: list[U8]) -> list[Embedded]:
        """Embed (H, W, 3) uint8 RGB images, which may differ in size, in one pass of the encoder."""
        batch = torch.stack([self.pixels(image) for image in images]).to(self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            encoded = self.encode(batch)
        found = []
        for image, (embedding, fine) in zip(images, encoded, strict=True):
            embedding = embedding.float()
            floats = None if fine is None else (fine[0].float(), fine[1].float())
            placement = self.place(*image.shape[:2])
            found.append(Embedded(placement, self.decoder.image(embedding, floats), embedding))
        return found

    @torch.no_grad()
    def attend(self, embedded: Embedded, points_xy: Tensor) -> Attended:
        """Answer single foreground points, (n, 2) pixel positions (x, y) of the image, as far as the IoU."""
        points = embedded.placement.to_input(points_xy.to(self.device, torch.float32))[None, :, None, :]
        labels = torch.ones(points.shape[:3], dtype=torch.int32, device=self.device)
        prompts, _ = self.model.get_prompt_embeddings(input_points=points, input_labels=labels)
        return self.decoder.attend(embedded.state, prompts[0])

    def masks(self, embedded: Embedded, attended: Attended, chosen: Tensor) -> Tensor:
        """(n, 4 · rows, 4 · columns) logits of the chosen (B, M) masks; see `MaskDecoder.masks`."""
        return self.decoder.masks(embedded.state, attended, chosen, embedded.placement.valid)


class Sam(PromptableModel):
    """SAM (https://arxiv.org/abs/2304.02643): ViT-B, L, H."""

    architecture = "SamModel"

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """The longer side becomes ``side``, as the original rounds it."""
        scale = self.side / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def encode(self, pixels: Tensor) -> list[tuple[Tensor, tuple[Tensor, Tensor] | None]]:
        """Embeddings alone."""
        return [(embedding, None) for embedding in self.model.get_image_embeddings(pixels)]

    def _steps(self, used: int, out: int) -> list[tuple[int, int]]:
        return [(self.side, used), (out, out)]  # to the input, without its padding, to the image


class Sam2(PromptableModel):
    """SAM 2 and 2.1 (https://arxiv.org/abs/2408.00714), on single images."""

    architecture = "Sam2Model"

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Both sides become ``side``."""
        return self.side, self.side

    def encode(self, pixels: Tensor) -> list[tuple[Tensor, tuple[Tensor, Tensor] | None]]:
        """Embeddings with features at four and two times their resolution."""
        vision = self.model.vision_encoder(pixels)
        four, two, one = vision.fpn_hidden_states[:3]
        decoder, no_memory = self.model.mask_decoder, self.model.no_memory_embedding.reshape(1, -1, 1, 1)
        four, two, one = decoder.conv_s0(four), decoder.conv_s1(two), one + no_memory
        return [(one[i], (four[i], two[i])) for i in range(len(pixels))]

    def _steps(self, used: int, out: int) -> list[tuple[int, int]]:
        return [(out, out)]


MODELS: dict[str, type[PromptableModel]] = {"sam": Sam, "sam2": Sam2, "sam2_video": Sam2}
"""By ``model_type`` of ``config.json``; the published SAM 2.1 checkpoints call themselves ``sam2_video``."""


def _resizing(size: int, steps: list[tuple[int, int]]) -> Tensor:
    """(out, size) matrix of one-dimensional bilinear resizings, each followed by a crop."""
    signal = torch.eye(size)[None]
    for target, keep in steps:
        signal = F.interpolate(signal, size=target, mode="linear", align_corners=False)[..., :keep]
    return signal[0].t().contiguous()
