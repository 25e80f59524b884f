"""SAM and SAM 2 as mask teachers: where images lie, what they are embedded to, and what the teacher says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide
from transformers import Sam2ImageProcessor, Sam2Model, SamModel

from fixtures_sam import SIDE, meta_sam, picture, save_meta, save_sam, save_sam2
from scenelift.config_teachers import SamMasks
from scenelift.errors import DataError, WeightsError
from scenelift.teachers import MaskTeacher, sam_models
from scenelift.teachers.mask_geometry import flatten_masks
from scenelift.teachers.sam import SamMaskTeacher, load_promptable
from scenelift.teachers.sam_checkpoint import load_meta
from scenelift.teachers.sam_models import MODELS, PromptableModel, Sam, Sam2
from scenelift.teachers.weights import Weights, find_weights
from scenelift.types import U8, Frame

KINDS = (*MODELS, "")
OPEN = SamMasks(
    weights="unused",
    points_per_side=5,
    pred_iou_thresh=0.4,
    stability_score_thresh=0.8,
    box_nms_thresh=0.95,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sam``, ``sam2``, ``sam2_video`` and Meta's ``sam.pth``."""
    folder = tmp_path_factory.mktemp("weights")
    save_sam(folder / "sam")
    save_sam2(folder / "sam2")
    save_sam2(folder / "sam2_video", video=True)
    save_meta(folder / "sam.pth", meta_sam())
    return folder


def weights(path: Path) -> Weights:
    return find_weights(str(path), "teachers.masks.weights", KINDS)


def promptable(path: Path) -> PromptableModel:
    return load_promptable(weights(path), "cpu", torch.float32)


def frame(image: U8, name: str = "f") -> Frame:
    return Frame("scene", name, image, np.eye(3), np.eye(4))


class TestPlacement:
    @pytest.mark.parametrize(
        "size",
        [(480, 640), (640, 480), (375, 500), (333, 777), (900, 1600), (1, 1), (100, 20_000), (9, 1200)],
    )
    def test_masks_return_as_meta_returns_them(self, folder: Path, size: tuple[int, int]) -> None:
        model = promptable(folder / "sam")
        placement = model.place(*size)
        logits = torch.randn(2, 4 * model.grid, 4 * model.grid, generator=torch.Generator().manual_seed(0))
        height, width = placement.input_size
        large = F.interpolate(logits[None], (SIDE, SIDE), mode="bilinear", align_corners=False)
        want = F.interpolate(large[..., :height, :width], size, mode="bilinear", align_corners=False)[0]
        rows, columns = (4 * n for n in placement.valid)
        torch.testing.assert_close(placement.upsample(logits[:, :rows, :columns]), want, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("size", [(480, 640), (333, 777), (50, 70)])
    def test_masks_return_as_transformers_returns_them(self, folder: Path, size: tuple[int, int]) -> None:
        model = promptable(folder / "sam2")
        logits = torch.randn(2, 4 * model.grid, 4 * model.grid, generator=torch.Generator().manual_seed(0))
        (want,) = Sam2ImageProcessor().post_process_masks(logits[None, None], [size], binarize=False)
        torch.testing.assert_close(model.place(*size).upsample(logits), want[0], atol=1e-5, rtol=0)

    @pytest.mark.parametrize("size", [(480, 640), (333, 777), (640, 481), (1, 3)])
    def test_points_go_where_meta_puts_them(self, folder: Path, size: tuple[int, int]) -> None:
        placement = promptable(folder / "sam").place(*size)
        assert placement.input_size == ResizeLongestSide.get_preprocess_shape(*size, SIDE)
        points = np.random.default_rng(0).random((20, 2)) * [size[1], size[0]]
        want = ResizeLongestSide(SIDE).apply_coords(points, size)
        np.testing.assert_allclose(placement.to_input(torch.from_numpy(points)), want, atol=1e-9)

    @pytest.mark.parametrize("size", [(480, 640), (48, 64), (20, 900)])
    @pytest.mark.parametrize("kind", ["sam", "sam2"])
    def test_no_mask_is_more_stable_than_its_bound(
        self, folder: Path, kind: str, size: tuple[int, int]
    ) -> None:
        model = promptable(folder / kind)
        placement = model.place(*size)
        rows, columns = (4 * n for n in placement.valid)
        chance = torch.Generator().manual_seed(1)
        noise = torch.randn(40, 1, rows, columns, generator=chance)
        scales = torch.logspace(-0.5, 1.5, 40)[:, None, None]
        smooth = F.avg_pool2d(noise, 5, 1, 2)[:, 0] * 5
        ramp = torch.linspace(-3, 3, columns).expand(1, rows, -1)
        for logits in (noise[:, 0] * scales, smooth * scales, smooth * scales + 2, ramp):
            full = placement.upsample(logits)
            stability = (full > 1).sum((1, 2)) / (full > -1).sum((1, 2))
            bound = placement.stability_bound(logits, 1.0, -1.0)
            assert (bound >= stability.nan_to_num(0.0)).all()
        assert bound[0] < 0.9  # the ramp's is about a half: that much it can tell


class TestModels:
    def test_images_are_prepared_as_meta_prepares_them(self, folder: Path) -> None:
        for size in ((48, 64), (91, 40), (300, 200)):
            image = picture(*size)
            meta = meta_sam()
            scaled = ResizeLongestSide(SIDE).apply_image(image)
            want = meta.preprocess(torch.from_numpy(scaled).permute(2, 0, 1)[None].float())[0]
            torch.testing.assert_close(promptable(folder / "sam").pixels(image), want, atol=1e-5, rtol=0)

    def test_images_are_prepared_as_transformers_prepares_them(self, folder: Path) -> None:
        """Pillow's resizing and torchvision's round to neighbouring levels here and there."""
        processor = Sam2ImageProcessor(size={"height": SIDE, "width": SIDE})
        image = np.random.default_rng(0).integers(0, 256, (90, 200, 3)).astype(np.uint8)
        want = processor(images=image, return_tensors="pt").pixel_values[0]
        have = promptable(folder / "sam2").pixels(image)
        assert (have - want).abs().max() < 1.01 / 255 / min(sam_models.STD)

    def test_the_file_of_meta(self, folder: Path) -> None:
        """Embedding, masks and scores of Meta's own code."""
        meta, image = meta_sam(), picture()
        predictor = SamPredictor(meta)
        predictor.set_image(image)
        model = promptable(folder / "sam.pth")
        (embedded,) = model.embed([image])
        torch.testing.assert_close(embedded.embedding, predictor.features[0], atol=2e-5, rtol=0)
        points = torch.tensor([[10.0, 20.0], [60.0, 5.0]])
        masks, scores, _ = predictor.predict_torch(
            predictor.transform.apply_coords_torch(points, image.shape[:2])[:, None],
            torch.ones(2, 1, dtype=torch.int32),
            return_logits=True,
        )
        attended = model.attend(embedded, points)
        torch.testing.assert_close(attended.iou, scores, atol=1e-5, rtol=0)
        logits = model.masks(embedded, attended, torch.ones_like(scores, dtype=torch.bool))
        full = embedded.placement.upsample(logits)
        assert (full - masks.flatten(0, 1)).abs().max() < 1e-5 * masks.abs().max()

    def test_folder_and_file_are_one_model(self, folder: Path) -> None:
        a, b = promptable(folder / "sam"), promptable(folder / "sam.pth")
        state = b.model.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in a.model.state_dict().items())

    @pytest.mark.parametrize(("kind", "reference"), [("sam", SamModel), ("sam2", Sam2Model)])
    def test_embeddings_of_transformers(self, folder: Path, kind: str, reference: Any) -> None:
        model = promptable(folder / kind)
        images = [picture(), picture(64, 40, seed=1)]
        pixels = torch.stack([model.pixels(image) for image in images])
        want = reference.from_pretrained(folder / kind).eval().get_image_embeddings(pixels)
        want = want[-1] if isinstance(want, list) else want
        for index, embedded in enumerate(model.embed(images)):
            torch.testing.assert_close(embedded.embedding, want[index], atol=1e-5, rtol=0)
            (alone,) = model.embed([images[index]])
            torch.testing.assert_close(alone.embedding, embedded.embedding, atol=2e-5, rtol=0)

    def test_published_sam2_are_video_models(self, folder: Path) -> None:
        assert weights(folder / "sam2_video").model_type == "sam2_video"
        model = promptable(folder / "sam2_video")
        assert type(model) is Sam2
        published = load_file(folder / "sam2_video" / "model.safetensors")
        for name, value in model.model.state_dict().items():
            if name in published or "positional_embedding" not in name:
                assert torch.equal(value, published[name]), name


class TestFeatures:
    def test_padding_is_cut_away(self, folder: Path) -> None:
        (embedded,) = promptable(folder / "sam").embed([picture(48, 64)])  # 96 × 128 of 128 × 128
        np.testing.assert_array_equal(embedded.features(), embedded.embedding[:, :6].half())

    def test_they_cover_exactly_the_image(self, folder: Path) -> None:
        """A ramp over the input, resampled, is a ramp over the image: 0 at one edge, 1 at the other."""
        model = promptable(folder / "sam")
        (embedded,) = model.embed([picture(50, 64)])
        height = embedded.placement.input_size[0]
        assert height % 16 == 4
        ramp = (torch.arange(model.grid) + 0.5) * 16 / height
        object.__setattr__(embedded, "embedding", ramp[None, :, None].expand(256, -1, model.grid))
        features = embedded.features()
        assert features.shape == (256, 6, 8)
        np.testing.assert_allclose(features[0, :, 0], (np.arange(6) + 0.5) / 6, atol=1e-3)

    def test_sam2_stretches(self, folder: Path) -> None:
        (embedded,) = promptable(folder / "sam2").embed([picture(48, 64)])
        np.testing.assert_array_equal(embedded.features(), embedded.embedding.half())

    def test_a_strip(self, folder: Path) -> None:
        (embedded,) = promptable(folder / "sam").embed([picture(2, 900)])
        assert embedded.features().shape == (256, 1, 8)


class TestTeacher:
    def teacher(self, path: Path, **settings: Any) -> SamMaskTeacher:
        return SamMaskTeacher(OPEN.model_copy(update=settings), weights(path), "cpu")

    @pytest.mark.parametrize("overlap", ["smallest_on_top", "largest_on_top"])
    def test_ids_are_metas_masks_laid_over_each_other(self, folder: Path, overlap: Any) -> None:
        image = picture()
        settings: dict[str, Any] = {"points_per_side": 5, "pred_iou_thresh": 0.4, "box_nms_thresh": 1.0}
        generator = SamAutomaticMaskGenerator(meta_sam(), **settings, stability_score_thresh=0.8)
        masks = np.stack([record["segmentation"] for record in generator.generate(image)])
        want = flatten_masks(torch.from_numpy(masks), overlap).numpy()
        (have,) = self.teacher(folder / "sam", overlap=overlap, **settings).masks([frame(image)])
        assert have.ids.dtype == np.uint16
        assert len(np.unique(want)) > 4
        assert (have.ids == want).mean() > 0.999
        assert have.features.shape == (256, 6, 8)

    def test_each_frame_alone_and_in_any_order(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        frames = [frame(picture(seed=i), f"f{i}") for i in range(3)]
        frames.append(frame(picture(40, 30), "other"))
        teacher = self.teacher(folder / "sam")
        want = teacher.masks(frames)
        have = teacher.masks(frames[::-1])[::-1]
        monkeypatch.setattr("scenelift.teachers.sam._images_per_batch", lambda device: 3)
        together = teacher.masks(frames)
        for a, b, c in zip(want, have, together, strict=True):
            np.testing.assert_array_equal(a.ids, b.ids)
            np.testing.assert_array_equal(a.ids, c.ids)
            np.testing.assert_allclose(a.features, c.features, atol=2e-3)

    @pytest.mark.parametrize("kind", ["sam2", "sam2_video", "sam.pth"])
    def test_every_kind(self, folder: Path, kind: str) -> None:
        teacher: MaskTeacher = self.teacher(folder / kind)
        (masks,) = teacher.masks([frame(picture())])
        assert len(np.unique(masks.ids)) > 2
        assert teacher.weights == str(folder / kind)

    def test_nothing_found(self, folder: Path) -> None:
        (masks,) = self.teacher(folder / "sam", stability_score_offset=1e6).masks([frame(picture())])
        assert not masks.ids.any()

    def test_identity(self, folder: Path, tmp_path: Path) -> None:
        """All that answers depend on, and not where the weights lie or what they are called."""
        first = self.teacher(folder / "sam")
        again = SamMaskTeacher(OPEN.model_copy(update={"weights": "x/y"}), weights(folder / "sam"), "cpu")
        assert first.identity == again.identity
        others = {
            SamMaskTeacher(OPEN.model_copy(update={name: value}), weights(folder / "sam"), "cpu").identity
            for name, value in {
                "points_per_side": 6,
                "prompts": "adaptive",
                "pred_iou_thresh": 0.41,
                "overlap": "largest_on_top",
                "min_mask_region_area": 3,
                "precision": "bfloat16",
            }.items()
        }
        others.add(SamMaskTeacher(OPEN, weights(save_sam(tmp_path / "other", seed=1)), "cpu").identity)
        assert len(others | {first.identity}) == 8
        assert json.loads(first.identity.removeprefix("sam "))["weights"] == weights(folder / "sam").digest

    def test_adaptive_prompts_say_what_they_saved(self, folder: Path) -> None:
        teacher = self.teacher(folder / "sam", prompts="adaptive")
        assert teacher.summary == ""
        teacher.masks([frame(picture())])
        assert teacher.prompts == 25 > teacher.decoded
        assert teacher.summary == f"{1 - teacher.decoded / 25:.0%} of prompts skipped"
        assert self.teacher(folder / "sam").summary == ""

    def test_half_precision_is_nearly_the_same(self, folder: Path) -> None:
        full, half = (self.teacher(folder / "sam", precision=p) for p in ("float32", "bfloat16"))
        a, b = (teacher.masks([frame(picture())])[0].features for teacher in (full, half))
        similar = np.sum(a * b, 0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0)
        assert similar.min() > 0.99
        assert not np.array_equal(a, b)

    def test_overflow_is_an_error(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Sam.encode
        monkeypatch.setattr(Sam, "encode", lambda self, x: [(e / 0, f) for e, f in real(self, x)])
        with pytest.raises(DataError, match=r"scene/f: expected a finite image embedding.*precision=float32"):
            self.teacher(folder / "sam").masks([frame(picture())])

    def test_nothing_is_loaded_before_it_is_asked(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Sam, "load", lambda weights: pytest.fail("loaded"))
        teacher = self.teacher(folder / "sam")
        assert teacher.identity
        assert teacher.masks([]) == []


class TestBadFiles:
    def test_not_sam(self, tmp_path: Path) -> None:
        torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "resnet.pth")
        with pytest.raises(WeightsError, match=r"resnet.pth: expected SAM.*without image_encoder"):
            load_meta(tmp_path / "resnet.pth")

    def test_another_width(self, tmp_path: Path) -> None:
        weight = {"image_encoder.patch_embed.proj.weight": torch.zeros(384, 3, 16, 16)}
        torch.save(weight, tmp_path / "tiny.pth")
        with pytest.raises(WeightsError, match="of width 384"):
            load_meta(tmp_path / "tiny.pth")

    def test_a_parameter_is_missing(self, tmp_path: Path) -> None:
        model = meta_sam()
        state = {k: v for k, v in model.state_dict().items() if k != "mask_decoder.iou_token.weight"}
        torch.save(state, tmp_path / "sam.pth")
        with pytest.raises(WeightsError, match=r"1 parameters missing.*iou_token"):
            load_meta(tmp_path / "sam.pth")

    def test_a_parameter_of_another_shape(self, tmp_path: Path) -> None:
        state = dict(meta_sam().state_dict())
        state["mask_decoder.iou_token.weight"] = torch.zeros(1, 8)
        torch.save(state, tmp_path / "sam.pth")
        with pytest.raises(WeightsError, match="iou_token"):
            load_meta(tmp_path / "sam.pth")
