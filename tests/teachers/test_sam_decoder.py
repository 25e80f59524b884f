"""The rearranged mask decoder against transformers' own forward passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Sam2Model, SamConfig, SamModel

from fixtures_sam import SIDE, save_sam, save_sam2
from fixtures_teachers import randomise
from scenelift.teachers.sam_decoder import MaskDecoder

GRID = SIDE // 16


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return SamModel.from_pretrained(save_sam(tmp_path_factory.mktemp("sam"))).eval()


@pytest.fixture(scope="module")
def sam2(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Sam2Model.from_pretrained(save_sam2(tmp_path_factory.mktemp("sam2"))).eval()


def decoder_of(model: Any) -> MaskDecoder:
    positions = model.get_image_wide_positional_embeddings()[0]
    return MaskDecoder(model.mask_decoder, positions, model.prompt_encoder.no_mask_embed.weight[0])


def points(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(1)).to(dtype) * SIDE


def prompts_of(model: Any, xy: torch.Tensor) -> torch.Tensor:
    labels = torch.ones(1, len(xy), 1, dtype=torch.int32)
    sparse, _ = model.get_prompt_embeddings(input_points=xy[None, :, None], input_labels=labels)
    return sparse[0]


def embedding(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(256, GRID, GRID, generator=torch.Generator().manual_seed(2)).to(dtype)


def all_masks(decoder: MaskDecoder, image: Any, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    attended = decoder.attend(image, prompts)
    every = torch.ones_like(attended.iou, dtype=torch.bool)
    logits = decoder.masks(image, attended, every, (GRID, GRID))
    return logits.view(len(prompts), -1, 4 * GRID, 4 * GRID), attended.iou


def close(have: torch.Tensor, want: torch.Tensor, within: float = 1e-4) -> None:
    """Within a part of the largest value; the steep attention of these decoders blows rounding up."""
    assert have.shape == want.shape
    assert (have - want).abs().max() <= within * want.abs().max()


class TestSam:
    def test_equals_transformers(self, sam: Any) -> None:
        image = embedding()
        xy = points(5)
        with torch.no_grad():
            want = sam(image_embeddings=image[None], input_points=xy[None, :, None], multimask_output=True)
        decoder = decoder_of(sam)
        logits, iou = all_masks(decoder, decoder.image(image), prompts_of(sam, xy))
        close(logits, want.pred_masks[0])
        close(iou, want.iou_scores[0])
        assert len({round(float(value), 3) for value in iou.flatten()}) > 10  # the prompts do matter

    def test_equals_transformers_in_double(self, sam: Any) -> None:
        """So what differs in single precision is rounding alone."""
        model = SamModel(sam.config).double().eval()
        model.load_state_dict({name: value.double() for name, value in sam.state_dict().items()})
        image, xy = embedding(torch.float64), points(3, torch.float64)
        with torch.no_grad():
            want = model(image_embeddings=image[None], input_points=xy[None, :, None], multimask_output=True)
        decoder = decoder_of(model)
        state = decoder.image(image)
        attended = decoder.attend(state, prompts_of(model, xy))
        close(attended.iou, want.iou_scores[0], 1e-12)
        logits = decoder.masks(state, attended, torch.ones(3, 3, dtype=torch.bool), (GRID, GRID))
        want_logits = want.pred_masks[0].flatten(0, 1)
        close(logits.double(), want_logits, 1e-7)  # the answer is float32

    @pytest.mark.parametrize("valid", [(8, 8), (7, 8), (8, 5), (1, 1)])
    def test_padding_need_not_grow(self, sam: Any, valid: tuple[int, int]) -> None:
        decoder = decoder_of(sam)
        image = decoder.image(embedding())
        attended = decoder.attend(image, prompts_of(sam, points(3)))
        every = torch.ones_like(attended.iou, dtype=torch.bool)
        whole = decoder.masks(image, attended, every, (GRID, GRID))
        part = decoder.masks(image, attended, every, valid)
        close(part, whole[:, : 4 * valid[0], : 4 * valid[1]])

    def test_only_chosen_masks_are_made(self, sam: Any) -> None:
        decoder = decoder_of(sam)
        image = decoder.image(embedding())
        attended = decoder.attend(image, prompts_of(sam, points(4)))
        whole, _ = all_masks(decoder, image, prompts_of(sam, points(4)))
        chosen = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=torch.bool)
        close(decoder.masks(image, attended, chosen, (GRID, GRID)), whole[chosen])
        none = decoder.masks(image, attended, chosen & False, (GRID, GRID))
        assert none.shape == (0, 4 * GRID, 4 * GRID)

    def test_prompts_do_not_see_each_other(self, sam: Any) -> None:
        """And the image's shared state is not written to."""
        decoder = decoder_of(sam)
        image, prompts = decoder.image(embedding()), prompts_of(sam, points(6))
        together, iou = all_masks(decoder, image, prompts)
        for index in range(6):
            alone, alone_iou = all_masks(decoder, image, prompts[index : index + 1])
            close(alone[0], together[index])
            close(alone_iou[0], iou[index])


class TestSam2:
    def test_equals_transformers(self, sam2: Any) -> None:
        chance = torch.Generator().manual_seed(3)
        image = embedding()
        four = torch.randn(32, 4 * GRID, 4 * GRID, generator=chance)
        two = torch.randn(64, 2 * GRID, 2 * GRID, generator=chance)
        xy = points(5)
        with torch.no_grad():
            want = sam2(
                image_embeddings=[four[None], two[None], image[None]],
                input_points=xy[None, :, None],
                multimask_output=True,
            )
        decoder = decoder_of(sam2)
        logits, iou = all_masks(decoder, decoder.image(image, (four, two)), prompts_of(sam2, xy))
        close(logits, want.pred_masks[0])
        close(iou, want.iou_scores[0])

    def test_fine_features_are_cropped_with_the_image(self, sam2: Any) -> None:
        chance = torch.Generator().manual_seed(3)
        four = torch.randn(32, 4 * GRID, 4 * GRID, generator=chance)
        two = torch.randn(64, 2 * GRID, 2 * GRID, generator=chance)
        decoder = decoder_of(sam2)
        image = decoder.image(embedding(), (four, two))
        attended = decoder.attend(image, prompts_of(sam2, points(2)))
        every = torch.ones_like(attended.iou, dtype=torch.bool)
        whole = decoder.masks(image, attended, every, (GRID, GRID))
        close(decoder.masks(image, attended, every, (6, 5)), whole[:, :24, :20])


def test_a_real_grid() -> None:
    """64 × 64 positions, as every published SAM has; parameters as transformers draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "mlp_dim": 16}
        model: Any = SamModel(SamConfig(vision_config=encoder)).eval()
    randomise(model, 0)
    image = torch.randn(256, 64, 64, generator=torch.Generator().manual_seed(0))
    xy = torch.tensor([[100.0, 900.0], [512.0, 3.0]])
    with torch.no_grad():
        want = model(image_embeddings=image[None], input_points=xy[None, :, None], multimask_output=True)
    decoder = decoder_of(model)
    state = decoder.image(image)
    attended = decoder.attend(state, prompts_of(model, xy))
    logits = decoder.masks(state, attended, torch.ones(2, 3, dtype=torch.bool), (49, 64))
    close(logits, want.pred_masks[0].flatten(0, 1)[:, :196], 1e-5)
    close(attended.iou, want.iou_scores[0], 1e-5)
