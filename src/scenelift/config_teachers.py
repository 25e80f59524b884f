"""The configuration of the teachers, and the base of every section; `scenelift.config` has the whole tree.

``[P]``, ``[C]`` and ``[D]`` mark where a default comes from: the paper, the code it descends from, our
decision.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of every node: immutable, and no key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""What a teacher's network computes in; ``auto`` = float16 on CUDA, else float32. Answers are float16."""


class ClipLabels(Section):
    """CLIP or SigLIP, dense (`scenelift.teachers.clip`)."""

    kind: Literal["clip"] = "clip"
    weights: str = "openai/clip-vit-base-patch16"
    """Hub id, with ``@revision`` if wanted, or a folder as `save_pretrained` writes it. [C] ViT-B/16."""
    attention: Literal["maskclip", "sclip", "naclip"] = "maskclip"
    """The last block: values alone [P]; q·qᵀ + k·kᵀ (SCLIP); k·kᵀ that favours neighbours (NACLIP)."""
    neighbour_sigma: float = Field(5.0, gt=0)
    """For ``naclip``: sd of the Gaussian around a token, in tokens."""
    key_smoothing: bool = False
    """Average features over tokens with similar keys (MaskCLIP)."""
    normalize: bool = True
    """[D] CLIP's own mean and deviation; false = raw images in [0, 1], as the code line fed them."""
    unit_length: bool = True
    """[C] Bring each token's feature to unit length before it is interpolated; false = plain dot product."""
    short_side: int | None = Field(448, ge=16, le=8192)
    """[D] Shorter image side in pixels that the network sees; None = the frame's own size."""
    window: int | None = Field(None, ge=32)
    """Edge in pixels of square windows slid over larger inputs, features averaged; None = all at once."""
    window_stride: int | None = Field(None, ge=16)
    """Pixels from window to window; None = half a window."""
    templates: tuple[str, ...] | None = None
    """Sentences with one ``{}`` for the class name; None = the method's 85."""
    precision: Precision = "auto"
    """What the network computes in; ``auto`` = float16 on CUDA, else float32."""


class SimulatedLabels(Section):
    """A CLIP-like teacher made from ground truth (`scenelift.teachers.simulated`)."""

    kind: Literal["simulated"] = "simulated"
    seed: int = Field(0, ge=0)
    """Of the errors."""
    dim: int = Field(64, ge=8)
    """Length of the embedding that words and pixels share."""
    tokens: int = Field(20, ge=2)
    """Tokens along the longer side of an image: the cells of the feature grid."""
    bleed: float = Field(0.9, ge=0)
    """How far a token mixes with its surroundings: sd of a Gaussian, in tokens."""
    instance_error: float = Field(0.2, ge=0, le=1)
    """Share of instances taken for another class, the same one in all views."""
    patch_error: float = Field(0.42, ge=0, le=1)
    """Share of surface patches, seen from 2 m, taken for another class, the same one in all views; it grows
    with the square of the distance."""
    patch_m: float = Field(0.2, gt=0)
    """Edge of a surface patch, metres."""
    view_error: float = Field(0.03, ge=0, le=1)
    """Share of (instance, view) taken for another class in this view only."""
    related: float = Field(0.2, ge=0, le=1)
    """Share of those errors that stay among related classes; the others fall on any class."""
    token_noise: float = Field(1.0, ge=0)
    """Length of the random vector added to each token, in units of the clean feature's length."""


class SamMasks(Section):
    """SAM or SAM 2 segmenting everything (`scenelift.teachers.sam`); the library's defaults [C]."""

    kind: Literal["sam"] = "sam"
    weights: str = "facebook/sam-vit-huge"
    """Hub id, with ``@revision`` if wanted, a folder as `save_pretrained` writes it, or Meta's ``.pth``."""
    points_per_side: int = Field(32, ge=1, le=256)
    """Prompts form a grid of this many points a side."""
    prompts: Literal["grid", "adaptive"] = "grid"
    """``adaptive`` skips points of the grid that lie in an accepted mask of an earlier point."""
    pred_iou_thresh: float = Field(0.88, ge=0, le=1)
    """Keep masks whose predicted IoU is above this; 0 = all."""
    stability_score_thresh: float = Field(0.95, ge=0, le=1)
    """Keep masks whose area changes little with the threshold; 0 = all."""
    stability_score_offset: float = Field(1.0, gt=0)
    """By how much the threshold is moved for that, in logits."""
    box_nms_thresh: float = Field(0.7, ge=0, le=1)
    """Boxes that overlap more (IoU) are duplicates; the one of higher predicted IoU stays."""
    crop_n_layers: int = Field(0, ge=0, le=4)
    """Look again at 4ⁱ overlapping crops of the image in layer i."""
    crop_nms_thresh: float = Field(0.7, ge=0, le=1)
    """As ``box_nms_thresh``, between crops; masks of smaller crops stay."""
    crop_overlap_ratio: float = Field(512 / 1500, ge=0, lt=1)
    """Overlap of the first layer's crops, in parts of the shorter image side."""
    crop_n_points_downscale_factor: int = Field(1, ge=1)
    """Points a side are divided by this from layer to layer."""
    min_mask_region_area: int = Field(0, ge=0)
    """Fill holes and drop islands smaller than this, in pixels of the image; 0 = leave masks as they are."""
    overlap: Literal["smallest_on_top", "largest_on_top"] = "smallest_on_top"
    """Which mask a pixel belongs to where several cover it [D]; the code line took the largest [C]."""
    precision: Precision = "auto"
    """What the network computes in; ``auto`` = float16 on CUDA, else float32."""


class SimulatedMasks(Section):
    """A SAM-like teacher made from ground truth (`scenelift.teachers.simulated`)."""

    kind: Literal["simulated"] = "simulated"
    seed: int = Field(0, ge=0)
    """Of the errors."""
    merge: float = Field(0.3, ge=0, le=1)
    """Under-segmentation: share of instances joined to a neighbour in a view."""
    split: float = Field(0.5, ge=0, le=1)
    """Over-segmentation: share of masks cut into two to four parts in a view."""
    jitter: float = Field(0.01, ge=0)
    """Boundary jitter: sd of a smooth displacement, in parts of the longer image side."""
    uncovered: float = Field(0.08, ge=0, lt=1)
    """Share of pixels without a mask: crumbs first, then blobs that favour boundaries."""
    dim: int = Field(32, ge=1)
    """Length of a feature."""
    tokens: int = Field(20, ge=2)
    """Cells of the feature grid along the longer side of an image."""
    feature_noise: float = Field(0.5, ge=0)
    """Length of a view's random part of a feature, in units of its instance part."""


class EmbeddedLabels(Section):
    """EfficientNet-Lite0 posteriors mapped to any class name by MiniLM (`scenelift.teachers.embedded`)."""

    kind: Literal["embedded"] = "embedded"
    short_sides: tuple[Annotated[int, Field(ge=64, le=4096)], ...] = Field((352, 1056), min_length=1)
    """Shorter image side, in pixels, at which the network looks; the answers of several are averaged."""
    top: int = Field(10, ge=1, le=1000)
    """ImageNet classes a cell's embedding is mixed from: T of ConSE, 10 in the paper."""


class EmbeddedMasks(Section):
    """Felzenszwalb segments and backbone features (`scenelift.teachers.embedded`)."""

    kind: Literal["embedded"] = "embedded"
    short_side: int = Field(240, ge=32, le=4096)
    """Shorter image side, in pixels, at which segments are cut; smaller frames keep their size."""
    scale: float = Field(100.0, gt=0)
    """Felzenszwalb's k: larger means larger segments."""
    sigma: float = Field(0.8, ge=0)
    """Gaussian blur before cutting, in pixels at ``short_side``."""
    min_size: int = Field(20, ge=1)
    """Smaller segments are merged into a neighbour, in pixels at ``short_side``."""
    feature_short_side: int = Field(480, ge=64, le=4096)
    """Shorter image side, in pixels, at which the backbone looks."""
    feature_stride: Literal[8, 16] = 16
    """Backbone stage the features come from: 40 channels at stride 8, 112 at stride 16."""
    feature_dim: int = Field(64, ge=1)
    """More channels than this are reduced to it by a fixed random projection."""


class PythonTeacher(Section):
    """A teacher that a Python program makes itself and gives to `Session.teachers`."""

    kind: Literal["python"] = "python"
    name: str
    """For reports; another name is another run."""


class TeachersConfig(Section):
    """The two frozen teachers."""

    labels: Annotated[
        ClipLabels | SimulatedLabels | EmbeddedLabels | PythonTeacher, Field(discriminator="kind")
    ] = ClipLabels()
    masks: Annotated[
        SamMasks | SimulatedMasks | EmbeddedMasks | PythonTeacher, Field(discriminator="kind")
    ] = SamMasks()
