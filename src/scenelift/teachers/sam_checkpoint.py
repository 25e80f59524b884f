"""Meta's own SAM checkpoints (``sam_vit_b_01ec64.pth`` and the like) as a transformers model.

Only names differ, and the position embedding is stored once where transformers keeps two tied copies. Which
of ViT-B, L and H it is shows in the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenelift.errors import WeightsError
from scenelift.teachers.weights import quiet_transformers, read_state_dict

_VARIANTS: dict[int, tuple[int, tuple[int, ...]]] = {
    768: (12, (2, 5, 8, 11)),
    1024: (16, (5, 11, 17, 23)),
    1280: (16, (7, 15, 23, 31)),
}
"""By width: attention heads, and the blocks that attend to the whole image
(https://github.com/facebookresearch/segment-anything/blob/main/segment_anything/build_sam.py)."""

_NAMES = (
    (r"^image_encoder\.pos_embed$", "vision_encoder.pos_embed"),
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_encoder.layers.\1.layer_norm\2."),
    (r"^image_encoder\.blocks\.(\d+)\.", r"vision_encoder.layers.\1."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^(mask_decoder\.transformer)\.norm_final_attn\.", r"\1.layer_norm_final_attn."),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.norm(\d)\.", r"\1.layer_norm\2."),
)
"""Meta's names, and those of transformers. What none of them matches has one name in both."""

_MLP = re.compile(r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d))\.layers\.(\d+)\.")


def load_meta(path: Path) -> Any:
    """A ``transformers.SamModel`` from one of Meta's files, in eval mode, without gradients.

    Raises:
        WeightsError: the file is damaged, holds more than tensors, or is no SAM.
    """
    import transformers

    state = read_state_dict(path)
    patch = state.get("image_encoder.patch_embed.proj.weight")
    width = 0 if patch is None else len(patch)
    if width not in _VARIANTS:
        raise WeightsError(
            f"weights {path}: expected SAM as Meta publishes it (ViT-B, L or H), found a file "
            f"{'without image_encoder.patch_embed' if patch is None else f'of width {width}'}; give one of "
            "sam_vit_b, sam_vit_l, sam_vit_h, or a folder as save_pretrained writes it"
        )
    heads, whole_image = _VARIANTS[width]
    side = 16 * state["image_encoder.pos_embed"].shape[1]
    depth = 1 + max(
        int(match[1]) for name in state if (match := re.match(r"image_encoder\.blocks\.(\d+)\.", name))
    )
    vision = {
        "image_size": side,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "global_attn_indexes": [index for index in whole_image if index < depth],
        "mlp_dim": 4 * width,
    }
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        # Meta's decoder norms have PyTorch's 1e-5; transformers' default, made for its own files, is 1e-6
        config = transformers.SamConfig(
            vision_config=vision,
            prompt_encoder_config={"image_size": side, "image_embedding_size": side // 16},
            mask_decoder_config={"layer_norm_eps": 1e-5},
        )
        model: Any = transformers.SamModel(config)
    have, want = renamed(state), model.state_dict()
    wrong = sorted(
        name
        for name in {*have, *want}
        if name not in have or name not in want or have[name].shape != want[name].shape
    )
    if wrong:
        raise WeightsError(
            f"weights {path}: expected SAM as Meta publishes it, found {len(wrong)} parameters missing, "
            f"unknown or of another shape, first {wrong[0]!r}; fetch it again"
        )
    model.load_state_dict(have)
    return model.eval().requires_grad_(False)


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Meta's state dict under transformers' names."""
    depths: dict[str, int] = {}
    for name in state:
        if match := _MLP.match(name):
            depths[match[1]] = max(depths.get(match[1], 0), int(match[2]))
    found = {}
    for name, value in state.items():
        new = name
        if match := _MLP.match(name):
            layer, last = int(match[2]), depths[match[1]]
            middle = f"layers.{layer - 1}"
            place = "proj_in" if layer == 0 else "proj_out" if layer == last else middle
            new = f"{match[1]}.{place}.{name[match.end() :]}"
        for pattern, replacement in _NAMES:
            new, count = re.subn(pattern, replacement, new)
            if count:
                break
        found[new] = value
    shared = found.get("prompt_encoder.shared_embedding.positional_embedding")
    if shared is not None:
        found["shared_image_embedding.positional_embedding"] = shared
    return found
