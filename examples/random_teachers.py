"""Two folders of randomly initialised teachers, to try the real path without a connection.

    python examples/random_teachers.py OUT
    scenelift fit MY_ROOM --classes "wall, floor, chair" --clip OUT/clip --sam OUT/sam --out run

The networks have the sizes of CLIP ViT-B/16 and SAM ViT-B, and take their time and memory; they have learned
nothing, so the labels are nonsense. `--tiny` makes networks of a few layers that answer at once. All is drawn
from a seed and written as `save_pretrained` lays it out; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel, SamConfig, SamModel
from transformers.utils import logging

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_WORDS = 49_408
"""Size of CLIP's vocabulary; its two marks are the last ones."""
START, END = "<|startoftext|>", "<|endoftext|>"


def save_clip(folder: Path, seed: int, tiny: bool = False) -> None:
    """A random CLIP with a byte-level tokenizer of its own."""
    vocabulary = clip_vocabulary(None if tiny else CLIP_WORDS)
    start, end = vocabulary[START], vocabulary[END]
    ids = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    text: dict[str, Any] = {"vocab_size": len(vocabulary), **ids}
    vision: dict[str, Any] = {"patch_size": 16}
    dim = 512
    if tiny:
        small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        text, vision, dim = {**text, **small}, {**vision, **small, "image_size": 64}, 24
    config = CLIPConfig(
        text_config={**text, "projection_dim": dim},
        vision_config={**vision, "projection_dim": dim},
        projection_dim=dim,
    )
    _save(CLIPModel, config, folder, seed)
    write_clip_tokenizer(folder, vocabulary)
    _write(folder / "preprocessor_config.json", {"image_mean": CLIP_MEAN, "image_std": CLIP_STD})


def save_sam(folder: Path, seed: int, tiny: bool = False) -> None:
    """A random SAM whose masks survive the default thresholds."""
    config = SamConfig()
    if tiny:
        config = SamConfig(
            vision_config={
                "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64,
                "output_channels": 32, "num_pos_feats": 16, "global_attn_indexes": [1],
            },
            prompt_encoder_config={"hidden_size": 32},
            mask_decoder_config={
                "hidden_size": 32, "num_attention_heads": 2, "mlp_dim": 64, "iou_head_hidden_dim": 32,
            },
        )  # fmt: skip
    _save(SamModel, config, folder, seed)


def clip_vocabulary(size: int | None = None) -> dict[str, int]:
    """CLIP's 512 byte tokens, each alone and as the end of a word, fillers, and its two marks at the end.

    Args:
        size: of the whole; ``None`` = without fillers.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    # Bytes without a printable sign get the signs from 256 on, as GPT-2's table has it.
    others = [byte for byte in range(256) if byte not in printable]
    signs = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    tokens = [*signs, *(sign + "</w>" for sign in signs)]
    fillers = [f"<filler{i}>" for i in range(0 if size is None else size - len(tokens) - 2)]
    return {token: i for i, token in enumerate([*tokens, *fillers, START, END])}


def write_clip_tokenizer(folder: Path, vocabulary: dict[str, int]) -> None:
    """A tokenizer without merges: every byte is a token."""
    _write(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special},
    )


def _save(kind: Any, config: Any, folder: Path, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config).eval()
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # transformers' initialisation is too small for deep networks to tell two pixels apart
            if parameter.ndim > 1 and "embed" not in name:
                noise = torch.randn(parameter.shape, generator=chance)
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
        if kind is SamModel:
            decoder = model.mask_decoder
            decoder.iou_prediction_head.proj_out.weight.mul_(0.01)
            decoder.iou_prediction_head.proj_out.bias.fill_(1.0)  # SAM would find its masks good ...
            for network in decoder.output_hypernetworks_mlps:
                network.proj_out.weight.mul_(1000.0)  # ... and their outlines sharp
    model.save_pretrained(folder)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def main() -> None:
    """Write both folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="where the folders clip and sam go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a few layers instead of the full size")
    asked = parser.parse_args()
    logging.disable_progress_bar()
    for name, save in (("clip", save_clip), ("sam", save_sam)):
        folder = asked.out / name
        folder.mkdir(parents=True, exist_ok=True)
        save(folder, asked.seed, asked.tiny)
        print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 2**20:.1f} MiB")
    print(f"now: scenelift fit MY_ROOM --classes ... --clip {asked.out / 'clip'} --sam {asked.out / 'sam'}")


if __name__ == "__main__":
    main()
