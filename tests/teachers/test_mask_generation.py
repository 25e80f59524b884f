"""Segment everything, against Meta's generator and transformers' pipeline on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, automatic_mask_generator
from transformers import Sam2Model, pipeline

from fixtures_sam import SIDE, meta_sam, picture, save_meta, save_sam2
from scenelift.config_teachers import SamMasks
from scenelift.teachers import mask_generation
from scenelift.teachers.mask_generation import GeneratedMasks, MaskGenerator
from scenelift.teachers.sam_checkpoint import load_meta
from scenelift.teachers.sam_models import Placement, PromptableModel, Sam, Sam2

OPEN = {
    "points_per_side": 6,
    "pred_iou_thresh": 0.4,
    "stability_score_thresh": 0.8,
    "box_nms_thresh": 0.95,
}
"""Thresholds that let random masks through, and stop some."""

NOTHING = {**OPEN, "stability_score_thresh": 0.5, "stability_score_offset": 1e6}
"""No mask is stable against that."""


@pytest.fixture(scope="module")
def meta() -> Any:
    return meta_sam()


@pytest.fixture(scope="module")
def sam(meta: Any, tmp_path_factory: pytest.TempPathFactory) -> Sam:
    return Sam(load_meta(save_meta(tmp_path_factory.mktemp("meta") / "sam.pth", meta)), "cpu")


def generate(model: PromptableModel, image: Any, **settings: Any) -> GeneratedMasks:
    return MaskGenerator(model, SamMasks(**settings)).generate(image)


def reference(meta: Any, image: Any, **settings: Any) -> list[dict[str, Any]]:
    names = {"pred_iou_thresh", "stability_score_thresh", "stability_score_offset", "box_nms_thresh"}
    assert names - {"stability_score_offset"} <= {*settings}
    return SamAutomaticMaskGenerator(meta, **settings).generate(image)


def expect_same(found: GeneratedMasks, records: list[dict[str, Any]]) -> None:
    """One to one, in the same order but for equal scores."""
    assert len(found) == len(records)
    taken: set[int] = set()
    for record in records:
        want = torch.from_numpy(record["segmentation"])
        common = (found.masks & want).sum((1, 2))
        joined = (found.masks | want).sum((1, 2))
        same = torch.where(joined > 0, common / joined.clamp(min=1), 1.0)
        point = torch.tensor(record["point_coords"][0])
        fits = (same >= 0.99) & ((found.points_xy - point).abs().amax(1) < 1e-3)
        fits &= (found.predicted_iou - record["predicted_iou"]).abs() < 1e-3
        candidates = [int(i) for i in fits.nonzero()[:, 0] if int(i) not in taken]
        assert candidates, f"no mask for the record of area {record['area']} at {point.tolist()}"
        index = candidates[0]
        taken.add(index)
        stability = found.stability[index].item()
        assert np.isclose(stability, record["stability_score"], atol=1e-3, rtol=0, equal_nan=True)
        x, y, width, height = record["bbox"]
        box = found.boxes_xyxy[index].tolist()
        assert np.abs(np.subtract(box, [x, y, x + width, y + height])).max() <= 1
        x, y, width, height = record["crop_box"]
        assert found.crops_xyxy[index].tolist() == [x, y, x + width, y + height]


class TestAgainstMeta:
    @pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 45), (38, 51), (128, 128)])
    def test_sizes(self, meta: Any, sam: Sam, height: int, width: int) -> None:
        image = picture(height, width)
        settings = {**OPEN, "box_nms_thresh": 1.0}
        records = reference(meta, image, **settings)
        assert len(records) >= 40
        expect_same(generate(sam, image, **settings), records)

    @pytest.mark.parametrize(
        "settings",
        [
            {"pred_iou_thresh": 0.0},
            {"stability_score_thresh": 0.0},
            {"pred_iou_thresh": 0.7, "stability_score_thresh": 0.9},
            {"stability_score_offset": 4.0},
            {"box_nms_thresh": 0.3},
            {"box_nms_thresh": 1.0},
        ],
    )
    def test_thresholds(self, meta: Any, sam: Sam, settings: dict[str, float]) -> None:
        image = picture(48, 64, seed=1)
        records = reference(meta, image, **{**OPEN, **settings})
        assert records
        expect_same(generate(sam, image, **{**OPEN, **settings}), records)

    @pytest.mark.parametrize("layers", [1, 2])
    def test_crops(self, meta: Any, sam: Sam, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Random masks touch the edges of their crop: here they may (`test_mask_geometry` has the rule)."""
        monkeypatch.setattr(
            automatic_mask_generator, "is_box_near_crop_edge", lambda boxes, *_: boxes[:, 0] < -1
        )
        monkeypatch.setattr("scenelift.teachers.mask_geometry.NEAR_PX", -1.0)
        image = picture(240, 320, patch=60)
        settings = {**OPEN, "points_per_side": 4, "crop_n_layers": layers, "crop_nms_thresh": 0.8}
        settings["crop_n_points_downscale_factor"] = 2 if layers == 1 else 1
        records = reference(meta, image, **settings)
        assert len({tuple(record["crop_box"]) for record in records}) > 2
        expect_same(generate(sam, image, **settings), records)

    @pytest.mark.parametrize("area", [5, 40, 400])
    def test_small_regions(self, meta: Any, sam: Sam, area: int) -> None:
        image = picture(48, 64)
        plain = reference(meta, image, **OPEN)
        settings = {**OPEN, "min_mask_region_area": area}
        records = reference(meta, image, **settings)
        assert {r["area"] for r in records} != {r["area"] for r in plain}
        expect_same(generate(sam, image, **settings), records)

    def test_nothing_passes(self, meta: Any, sam: Sam) -> None:
        image = picture(40, 50)
        found = generate(sam, image, **NOTHING, min_mask_region_area=9, crop_n_layers=1)
        assert (len(found), found.masks.shape) == (0, (0, 40, 50))


def test_against_the_pipeline_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM 2: transformers' own mask generation, from the same pixels (`test_sam` compares the resizing).

    On a square image: on others transformers 5.24 puts the grid's points as for SAM, which pads, and they
    stop short of the image's shorter side (48 × 64 pixels: at 0.75 of it).
    """
    from PIL import Image
    from transformers import Sam2ImageProcessor

    folder = save_sam2(tmp_path / "sam2")
    image = picture(64, 64)
    processor = Sam2ImageProcessor(
        size={"height": SIDE, "width": SIDE}, mask_size={"height": SIDE, "width": SIDE}
    )
    model: Any = Sam2Model.from_pretrained(folder).eval()
    asked: Any = pipeline("mask-generation", model=model, image_processor=processor, device="cpu")
    settings = {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.8}
    want = asked(
        Image.fromarray(image),
        points_per_crop=6,
        points_per_batch=16,
        crops_nms_thresh=1.0,
        **settings,
    )
    monkeypatch.setattr(
        Sam2, "pixels", lambda self, image: processor(images=image, return_tensors="pt").pixel_values[0]
    )
    found = generate(Sam2(model, "cpu"), image, **{**OPEN, "box_nms_thresh": 1.0, **settings})
    assert len(found) == len(want["masks"]) >= 20
    taken: set[int] = set()
    for mask, score in zip(want["masks"], want["scores"], strict=True):
        other = torch.as_tensor(mask)
        same = (found.masks & other).sum((1, 2)) / (found.masks | other).sum((1, 2)).clamp(min=1)
        fits = (same >= 0.99) & ((found.predicted_iou - float(score)).abs() < 1e-3)
        index = next(int(i) for i in fits.nonzero()[:, 0] if int(i) not in taken)
        taken.add(index)


class TestInvariance:
    def test_batch_sizes(self, sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rounding differs with the batch: scores within 1e-5, and no pixel of these masks changes."""
        image = picture(48, 64)
        want = generate(sam, image, **OPEN)
        for prompts, grown, enlarged in ((1, 1, 1), (7, 3, 5), (64, 16, 64)):
            monkeypatch.setattr(mask_generation, "prompts_per_batch", lambda device, n=prompts: n)
            monkeypatch.setattr(
                "scenelift.teachers.sam_decoder.prompts_grown_at_a_time", lambda device, n=grown: n
            )
            monkeypatch.setattr(mask_generation, "MASKS_AT_A_TIME", enlarged)
            have = generate(sam, image, **OPEN)
            assert torch.equal(have.masks, want.masks)
            assert torch.equal(have.points_xy, want.points_xy)
            torch.testing.assert_close(have.predicted_iou, want.predicted_iou, atol=1e-5, rtol=0)

    def test_an_embedding_made_before(self, sam: Sam) -> None:
        image = picture(48, 64)
        generator = MaskGenerator(sam, SamMasks(**OPEN))
        (embedded,) = sam.embed([image])
        have, want = generator.generate(image, embedded), generator.generate(image)
        assert torch.equal(have.masks, want.masks)

    def test_the_bound_on_stability_costs_no_mask(self, sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = {**OPEN, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.9, "box_nms_thresh": 1.0}
        image = picture(48, 64)
        quick = generate(sam, image, **settings)
        monkeypatch.setattr(
            Placement, "stability_bound", lambda self, logits, *levels: torch.full((len(logits),), torch.inf)
        )
        exact = generate(sam, image, **settings)
        assert torch.equal(quick.masks, exact.masks)


class TestAdaptive:
    def test_points_in_accepted_masks_are_skipped(self, sam: Sam) -> None:
        image = picture(48, 64)
        grid = generate(sam, image, **OPEN)
        adaptive = generate(sam, image, **OPEN, prompts="adaptive")
        assert (grid.prompts, grid.decoded) == (36, 36)
        assert adaptive.prompts == 36
        assert adaptive.decoded < 36

    def test_it_is_the_grid_where_nothing_is_accepted(self, sam: Sam) -> None:
        found = generate(sam, picture(48, 64), **NOTHING, prompts="adaptive")
        assert found.decoded == found.prompts == 36

    def test_what_it_finds_the_grid_finds_too(self, sam: Sam) -> None:
        settings = {**OPEN, "box_nms_thresh": 1.0}
        image = picture(48, 64, seed=2)
        grid = generate(sam, image, **settings)
        adaptive = generate(sam, image, **settings, prompts="adaptive")
        assert 0 < len(adaptive) < len(grid)
        for mask, point in zip(adaptive.masks, adaptive.points_xy, strict=True):
            same = (grid.points_xy == point).all(1)
            assert (grid.masks[same] == mask).flatten(1).all(1).any()

    def test_only_the_smallest_mask_of_a_point_covers(self) -> None:
        logits = -torch.ones(4, 4, 4)
        logits[0] = 1.0  # all of the image
        logits[1, :2, :2] = 1.0
        logits[2, 3, 3] = 1.0
        logits[3, 2:, 2:] = 1.0
        none = torch.empty(4)
        found = mask_generation._Candidates(logits, none, none, none, none)
        covered = mask_generation._cover(None, found, torch.tensor([0, 0, 1, 1]))
        want = torch.zeros(4, 4, dtype=torch.bool)
        want[:2, :2] = want[3, 3] = True
        assert torch.equal(covered, want)
        more = mask_generation._cover(covered, found[torch.tensor([3])], torch.tensor([5]))
        want[2:, 2:] = True
        assert torch.equal(more, want)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 200), (300, 2)])
def test_odd_images(sam: Sam, size: tuple[int, int]) -> None:
    found = generate(sam, picture(*size), **{**OPEN, "points_per_side": 2}, crop_n_layers=1)
    assert found.masks.shape[1:] == size
