"""Random checkpoints of CLIP and SigLIP, saved as a hub folder is laid out; nothing is downloaded.

Every parameter is drawn anew: transformers starts biases at zero and layer norms at one, and a mistake in
where they are applied would not show.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from random_teachers import clip_vocabulary, write_clip_tokenizer
from scenelift.teachers.weights import Weights

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

TINY: dict[str, int] = {"width": 32, "heads": 4, "layers": 3, "patch": 8, "image": 40, "dim": 24}
"""Sizes of the image tower: heads of 8 channels, a grid of 5 × 5 patches at the image size trained on."""
B16 = {"width": 768, "heads": 12, "layers": 2, "patch": 16, "image": 224, "dim": 512}
"""ViT-B/16 but for the number of layers."""
L14 = {"width": 1024, "heads": 16, "layers": 2, "patch": 14, "image": 224, "dim": 768}
"""ViT-L/14 but for the number of layers."""


def save_clip(folder: Path, seed: int = 0, normalisation: bool = True, **sizes: int) -> Path:
    """A random CLIP in ``folder``: config, safetensors, byte-level tokenizer, preprocessor config."""
    size = {**TINY, **sizes}
    vocabulary = clip_vocabulary()
    bos, eos = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": eos, "vocab_size": len(vocabulary)}
    config = CLIPConfig(
        text_config={**text, **ids, "projection_dim": size["dim"]},
        vision_config={**_vision(size), "projection_dim": size["dim"]},
        projection_dim=size["dim"],
    )
    _save(CLIPModel, config, folder, seed)
    write_clip_tokenizer(folder, vocabulary)
    if normalisation:
        _write(folder / "preprocessor_config.json", {"image_mean": CLIP_MEAN, "image_std": CLIP_STD})
    return folder


def save_siglip(folder: Path, seed: int = 0, **sizes: int) -> Path:
    """A random SigLIP in ``folder``; its tokenizer makes a token of every letter."""
    size = {**TINY, **sizes}
    letters = ["<pad>", "</s>", "<unk>", *(chr(code) for code in range(32, 127))]
    text = {"hidden_size": size["width"], "intermediate_size": 64, "num_hidden_layers": 2}
    ids = {"vocab_size": len(letters), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = SiglipConfig(text_config={**text, **ids, "num_attention_heads": 4}, vision_config=_vision(size))
    _save(SiglipModel, config, folder, seed)
    tokenizer = Tokenizer(WordLevel({letter: i for i, letter in enumerate(letters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
    _write(folder / "preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    return folder


def weights_in(folder: Path) -> Weights:
    """The weights of a folder, known by the content of its files and not by its path."""
    state = hashlib.blake2b(digest_size=20)
    for path in sorted(folder.iterdir()):
        state.update(path.name.encode() + path.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Weights(folder, str(folder), state.hexdigest(), config["model_type"])


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Draw every parameter anew, such that activations stay of order one; no global generator is touched."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=chance)
            if parameter.ndim < 2:
                is_scale = "norm" in name and name.endswith("weight")
                parameter.copy_(0.2 * noise + (1.0 if is_scale else 0.0))
            elif "embedding" in name and "patch" not in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(1.2 * noise / parameter[0].numel() ** 0.5)


def _vision(size: dict[str, int]) -> dict[str, int]:
    return {
        "hidden_size": size["width"],
        "intermediate_size": size.get("mlp", 2 * size["width"]),
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "patch_size": size["patch"],
        "image_size": size["image"],
    }


def _save(kind: Any, config: Any, folder: Path, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        model = kind(config)
    randomise(model, seed)
    model.save_pretrained(folder)


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
