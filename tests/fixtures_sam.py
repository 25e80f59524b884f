"""Random segment-anything checkpoints of a small input side, in Meta's and in transformers' form.

Everything but the side of the input and the depth of the image encoder has its real size. The decoder's
random parameters are arranged such that masks are blobs of many sizes, some of them stable.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel

from fixtures_teachers import randomise
from scenelift.teachers.sam_checkpoint import load_meta
from scenelift.types import U8

SIDE = 128
"""Of the square input: a grid of 8 × 8 positions, 32 × 32 logits."""

POINTS = 40


def meta_sam(seed: int = 0, side: int = SIDE, depth: int = 1, rough: float = 0.2) -> Any:
    """Meta's SAM ViT-B, but for the input's side and the encoder's depth; ``rough`` as for `diversify`."""
    grid = side // 16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Sam(
            ImageEncoderViT(
                img_size=side,
                depth=depth,
                embed_dim=768,
                num_heads=12,
                norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
                qkv_bias=True,
                use_rel_pos=True,
                global_attn_indexes=[i for i in (2, 5, 8, 11) if i < depth],
                window_size=14,
                out_chans=256,
            ),
            PromptEncoder(256, (grid, grid), (side, side), 16),
            MaskDecoder(
                num_multimask_outputs=3,
                transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
                transformer_dim=256,
            ),
        )
    randomise(model, seed)
    with torch.no_grad():
        model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.normal_(
            generator=torch.Generator().manual_seed(seed)
        )
    model.eval().requires_grad_(False)
    predictor = SamPredictor(model)
    predictor.set_image(picture(seed=5))
    points, labels = _points(side)[:, None], torch.ones(POINTS, 1, dtype=torch.int32)
    decoder = model.mask_decoder
    diversify(
        decoder,
        "layers.2",
        decoder.output_upscaling,
        lambda: predictor.predict_torch(points, labels),
        rough,
    )
    return model


def diversify(
    decoder: Any, last: str, grown: torch.nn.Module, run: Callable[[], object], rough: float = 0.2
) -> None:
    """Make a random decoder answer every point with blobs of its own; at random, all masks are everything.

    Tokens look where their point is and see the image more than they change it; sub-pixels resemble each
    other; what all pixels, and then all points, have in common is taken out of the logits, which are steep.

    Args:
        decoder: of either form.
        last: name of the last linear layer of its small networks.
        grown: module whose last output is the grown image, (B, C/8, h, w).
        run: shows the decoder some points on some image.
        rough: how much the sub-pixels of a position differ.
    """
    nets = list(decoder.output_hypernetworks_mlps)
    seen: dict[object, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda module, _, output: seen.__setitem__(module, output))
        for module in (grown, *nets)
    ]
    with torch.no_grad():
        for name, module in decoder.transformer.named_modules():
            if name.endswith("token_to_image"):
                module.k_proj.weight.copy_(module.q_proj.weight)
                module.q_proj.weight.mul_(8)
            if hasattr(module, "v_proj"):
                module.v_proj.weight.mul_(0.05 if name.endswith("image_to_token") else 4)
            if name.endswith("image_to_token"):
                for linear in (
                    module.v_proj,
                    module.out_proj if hasattr(module, "out_proj") else module.o_proj,
                ):
                    linear.bias.mul_(0.05)
        for conv in (module for module in decoder.modules() if isinstance(module, torch.nn.ConvTranspose2d)):
            conv.weight.copy_(2 * conv.weight.mean((2, 3), keepdim=True) + rough * conv.weight)
        run()
        common = torch.nn.functional.normalize(seen[grown].mean((0, 2, 3)), dim=0)
        for net in nets:
            linear = net.get_submodule(last)
            linear.weight.sub_(torch.outer(common, common @ linear.weight)).mul_(1500)
            linear.bias.zero_()
        run()
        for net in nets:
            net.get_submodule(last).bias.copy_(-seen[net].flatten(0, -2).mean(0))
        head = decoder.iou_prediction_head.get_submodule(last)
        head.weight.mul_(0.4)
        head.bias.fill_(0.5)
    for hook in hooks:
        hook.remove()


def save_meta(path: Path, model: Any) -> Path:
    """Meta's model as Meta saves it."""
    torch.save(model.state_dict(), path)
    return path


def save_sam(folder: Path, seed: int = 0, side: int = SIDE, depth: int = 1) -> Path:
    """The same parameters as `meta_sam`, as a transformers folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = save_meta(folder / "meta.pth", meta_sam(seed, side, depth))
    model = load_meta(file)
    file.unlink()
    model.save_pretrained(folder)
    return folder


def save_sam2(folder: Path, seed: int = 0, side: int = SIDE, video: bool = False) -> Path:
    """A random SAM 2 with a small encoder, as a transformers folder; published ones are ``video`` models."""
    grid = side // 16
    vision = {
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 16,
            "embed_dim_per_stage": [16, 32, 64, 128],
            "blocks_per_stage": [1, 1, 2, 1],
            "num_attention_heads_per_stage": [1, 2, 4, 8],
            "global_attention_blocks": [3],
            "image_size": [side, side],
        },
        "backbone_channel_list": [128, 64, 32, 16],
        "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
    }
    kind, make = (Sam2VideoModel, Sam2VideoConfig) if video else (Sam2Model, Sam2Config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = kind(make(vision_config=vision, prompt_encoder_config={"image_size": side}))
    randomise(model, seed)
    model.eval().requires_grad_(False)
    image = torch.from_numpy(np.array(Image.fromarray(picture(seed=5)).resize((side, side)))) / 64 - 2
    still = Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config={"image_size": side})).eval()
    still.load_state_dict(model.state_dict(), strict=False)
    still.requires_grad_(False)
    decoder, points = still.mask_decoder, _points(side)[None, :, None]
    pixels = image.permute(2, 0, 1)[None].float()
    diversify(
        decoder, "proj_out", decoder.activation, lambda: still(pixel_values=pixels, input_points=points)
    )
    decoder.iou_prediction_head.proj_out.bias.zero_()  # a sigmoid follows
    model.mask_decoder.load_state_dict(decoder.state_dict())
    model.save_pretrained(folder)
    return folder


def picture(height: int = 48, width: int = 64, seed: int = 0, patch: int = 20) -> U8:
    """An image of coloured patches, so many pixels wide."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (-(-height // patch), -(-width // patch), 3))
    return np.kron(patches, np.ones((patch, patch, 1)))[:height, :width].astype(np.uint8)


def _points(side: int) -> torch.Tensor:
    return torch.rand(POINTS, 2, generator=torch.Generator().manual_seed(9)) * side
