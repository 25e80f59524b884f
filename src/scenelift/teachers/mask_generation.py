"""Segment everything: a grid of points, three masks each, and only the good and distinct ones.

What is kept, and in which order, is what Meta's ``SamAutomaticMaskGenerator`` keeps: predicted IoU,
stability, box NMS, crops, small regions. What is done for it is less:

- The predicted IoU is known before any mask is; masks that fail it are never made.
- Masks whose stability fails clearly at the network's own resolution never reach the image's. The others are
  decided there exactly.
- Masks stay logits of the network's resolution until the duplicates are gone; there is no run-length code.
- With ``prompts="adaptive"`` the grid is walked from coarse to fine, and a point that lies in an accepted
  mask is skipped. Of a point's nested masks (whole, part, detail) only the smallest accepted one counts, or
  one mask of a wall would hide all that hangs on it.

`tests/teachers/test_mask_generation.py` compares with the original on the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torchvision.ops import box_area, nms

from scenelift.config import SamMasks
from scenelift.teachers.mask_geometry import (
    crop_boxes,
    cut_by_crop,
    mask_boxes,
    point_grid,
    waves,
    without_small_regions,
)
from scenelift.teachers.sam_decoder import prompts_per_batch
from scenelift.teachers.sam_models import MASK_THRESHOLD, Embedded, PromptableModel
from scenelift.types import U8

CLEARLY_UNSTABLE = 0.1
"""A mask this far below the stability threshold at the network's resolution is not enlarged."""

LARGE_ENOUGH_PX = 64
"""Stability at the network's resolution is only believed of masks of this area there."""

MASKS_AT_A_TIME = 16
"""Masks enlarged to the image's size at a time."""


@dataclass(frozen=True, eq=False)
class GeneratedMasks:
    """What was found in an image: n masks, in the order of the last NMS, best first.

    Attributes:
        masks: (n, H, W) bool.
        boxes_xyxy: (n, 4) int64, pixels.
        predicted_iou: (n,) float32.
        stability: (n,) float32.
        points_xy: (n, 2) float32, the prompt each came from, pixels.
        crops_xyxy: (n, 4) int64, the crop each came from, pixels.
        prompts: points of all grids.
        decoded: how many of them were shown to the decoder.
    """

    masks: Tensor
    boxes_xyxy: Tensor
    predicted_iou: Tensor
    stability: Tensor
    points_xy: Tensor
    crops_xyxy: Tensor
    prompts: int
    decoded: int

    def __len__(self) -> int:
        return len(self.masks)


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Masks that passed the thresholds, at the network's resolution; boxes, points in the crop's pixels."""

    logits: Tensor
    boxes: Tensor
    iou: Tensor
    stability: Tensor
    points: Tensor

    def __getitem__(self, rows: Tensor) -> _Candidates:
        return _Candidates(*(getattr(self, item.name)[rows] for item in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[_Candidates]) -> _Candidates:
        return cls(*(torch.cat([getattr(part, item.name) for part in parts]) for item in fields(cls)))


class MaskGenerator:
    """Segments everything in images.

    Args:
        model: answers point prompts.
        config: grid, thresholds, crops.
    """

    def __init__(self, model: PromptableModel, config: SamMasks) -> None:
        self.model, self.config = model, config

    def generate(self, image: U8, embedded: Embedded | None = None) -> GeneratedMasks:
        """Find the masks of an image.

        Args:
            image: (H, W, 3) uint8, RGB.
            embedded: the whole image, if it is embedded already.
        """
        config, size = self.config, (image.shape[0], image.shape[1])
        crops = crop_boxes(size, config.crop_n_layers, config.crop_overlap_ratio)
        parts, prompts, decoded = [], 0, 0
        for crop, layer in crops:
            left, top, right, bottom = crop
            if embedded is None or layer:
                embedded = self.model.embed([image[top:bottom, left:right]])[0]
            a_side = max(1, config.points_per_side // config.crop_n_points_downscale_factor**layer)
            found, shown = self._candidates(embedded, a_side, crop, size)
            prompts, decoded = prompts + a_side**2, decoded + shown
            parts.append(self._at_full_size(found, embedded, crop, size))
        masks = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if len(crops) > 1:  # a smaller crop saw more of the detail
            preferred = 1 / box_area(masks["crops_xyxy"].float())
            masks = _only(masks, nms(masks["boxes_xyxy"].float(), preferred, config.crop_nms_thresh))
        if config.min_mask_region_area > 0 and len(masks["masks"]):
            masks = self._tidied(masks)
        return GeneratedMasks(**masks, prompts=prompts, decoded=decoded)

    def _candidates(
        self, embedded: Embedded, a_side: int, crop: tuple[int, int, int, int], size: tuple[int, int]
    ) -> tuple[_Candidates, int]:
        """Show a grid of points to the decoder; what is left, and how many points were shown."""
        height, width = embedded.placement.image_size
        points = torch.from_numpy(point_grid(a_side) * [width, height]).float().to(self.model.device)
        if self.config.prompts == "grid":
            orders = [torch.arange(len(points), device=points.device)]
        else:
            orders = [torch.from_numpy(wave).to(points.device) for wave in waves(a_side)]
        covered: Tensor | None = None
        found, shown = [self._none(embedded)], 0
        for order in orders:
            chosen = points[order]
            if covered is not None:
                chosen = chosen[~self._lies_in(covered, chosen, embedded)]
            shown += len(chosen)
            for batch in torch.split(chosen, prompts_per_batch(points.device)):
                answer, prompt = self._answer(embedded, batch, crop, size)
                found.append(answer)
                if self.config.prompts == "adaptive" and len(prompt):
                    covered = _cover(covered, answer, prompt)
        candidates = _Candidates.joined(found)
        return candidates[nms(candidates.boxes.float(), candidates.iou, self.config.box_nms_thresh)], shown

    def _none(self, embedded: Embedded) -> _Candidates:
        rows, columns = (4 * n for n in embedded.placement.valid)
        empty = torch.empty(0, device=self.model.device)
        return _Candidates(
            empty.new_empty(0, rows, columns),
            empty.new_empty(0, 4).long(),
            empty,
            empty,
            empty.new_empty(0, 2),
        )

    def _answer(
        self, embedded: Embedded, points: Tensor, crop: tuple[int, int, int, int], size: tuple[int, int]
    ) -> tuple[_Candidates, Tensor]:
        """The masks of some points that pass the thresholds, and which of the points each belongs to."""
        config = self.config
        attended = self.model.attend(embedded, points)
        chosen = torch.ones_like(attended.iou, dtype=torch.bool)
        if config.pred_iou_thresh > 0:
            chosen = attended.iou > config.pred_iou_thresh
        logits = self.model.masks(embedded, attended, chosen)
        prompt, iou = chosen.nonzero()[:, 0], attended.iou[chosen].float()
        if config.stability_score_thresh > 0:
            keep = self._may_be_stable(logits, embedded)
            logits, prompt, iou = logits[keep], prompt[keep], iou[keep]
        boxes, stability = self._measure(logits, embedded)
        keep = ~cut_by_crop(boxes + boxes.new_tensor([*crop[:2], *crop[:2]]), crop, size)
        if config.stability_score_thresh > 0:
            keep &= stability >= config.stability_score_thresh
        return _Candidates(logits, boxes, iou, stability, points[prompt])[keep], prompt[keep]

    def _may_be_stable(self, logits: Tensor, embedded: Embedded) -> Tensor:
        """(n,) bool: not clearly unstable at the network's own resolution."""
        inner, outer = self._levels()
        height, width = (
            max(1, side * 4 * self.model.grid // embedded.placement.side)
            for side in embedded.placement.input_size
        )
        inside = logits[:, :height, :width]
        area = (inside > outer).sum((1, 2))
        score = (inside > inner).sum((1, 2)) / area
        unstable = score < self.config.stability_score_thresh - CLEARLY_UNSTABLE
        return ~(unstable & (area >= LARGE_ENOUGH_PX))

    def _measure(self, logits: Tensor, embedded: Embedded) -> tuple[Tensor, Tensor]:
        """Boxes (n, 4) and stability (n,) at the size of the crop; NaN for masks without any pixel."""
        inner, outer = self._levels()
        boxes, stability = [], []
        for part in torch.split(logits, MASKS_AT_A_TIME):
            full = embedded.placement.upsample(part)
            boxes.append(mask_boxes(full > MASK_THRESHOLD))
            stability.append((full > inner).sum((1, 2)) / (full > outer).sum((1, 2)))
        return torch.cat(boxes), torch.cat(stability)

    def _levels(self) -> tuple[float, float]:
        offset = self.config.stability_score_offset
        return MASK_THRESHOLD + offset, MASK_THRESHOLD - offset

    def _lies_in(self, covered: Tensor, points: Tensor, embedded: Embedded) -> Tensor:
        """(n,) bool: which points of the crop a mask at the network's resolution covers."""
        scale = 4 * self.model.grid / embedded.placement.side
        column, row = (embedded.placement.to_input(points) * scale).long().unbind(1)
        return covered[row.clamp(0, covered.shape[0] - 1), column.clamp(0, covered.shape[1] - 1)]

    def _at_full_size(
        self, found: _Candidates, embedded: Embedded, crop: tuple[int, int, int, int], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The masks of a crop in the image."""
        left, top, right, bottom = crop
        masks = torch.zeros((len(found.iou), *size), dtype=torch.bool, device=self.model.device)
        for rows in torch.split(torch.arange(len(masks), device=masks.device), MASKS_AT_A_TIME):
            masks[rows, top:bottom, left:right] = (
                embedded.placement.upsample(found.logits[rows]) > MASK_THRESHOLD
            )
        corner = found.boxes.new_tensor([left, top])
        return {
            "masks": masks,
            "boxes_xyxy": found.boxes + corner.repeat(2),
            "predicted_iou": found.iou,
            "stability": found.stability,
            "points_xy": found.points + corner,
            "crops_xyxy": found.boxes.new_tensor(crop).expand(len(masks), -1),
        }

    def _tidied(self, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Without small holes and islands; of duplicates, those that were whole before stay."""
        config = self.config
        tidied = [
            without_small_regions(mask, config.min_mask_region_area) for mask in masks["masks"].cpu().numpy()
        ]
        device = masks["masks"].device
        whole = torch.tensor([float(not changed) for _, changed in tidied], device=device)
        shapes = torch.stack([torch.from_numpy(mask) for mask, _ in tidied]).to(device)
        masks = {**masks, "masks": shapes, "boxes_xyxy": mask_boxes(shapes)}
        limit = max(config.box_nms_thresh, config.crop_nms_thresh)
        return _only(masks, nms(masks["boxes_xyxy"].float(), whole, limit))


def _only(masks: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in masks.items()}


def _cover(covered: Tensor | None, found: _Candidates, prompt: Tensor) -> Tensor:
    """Add each prompt's smallest accepted mask, at the network's resolution, to what is covered."""
    inside = found.logits > MASK_THRESHOLD
    order = inside.sum((1, 2)).argsort(stable=True)
    order = order[prompt[order].argsort(stable=True)]  # prompt by prompt, the smallest first
    owner = prompt[order]
    first = torch.ones_like(owner, dtype=torch.bool)
    first[1:] = owner[1:] != owner[:-1]
    smallest = inside[order[first]].any(0)
    return smallest if covered is None else covered | smallest
