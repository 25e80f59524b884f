"""The configuration: one frozen tree, and a digest of any part of it.

The defaults are the paper's ScanNet setting; `scenelift.recipes` changes them. ``[P]``, ``[C]`` and
``[D]`` mark where a default comes from: the paper, the code it descends from, our decision.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, JsonValue, model_validator

# the sections of data and teachers too may be imported from here, where the whole tree stands
from scenelift.config_data import CaptureData as CaptureData
from scenelift.config_data import DataConfig as DataConfig
from scenelift.config_data import ImagesData as ImagesData
from scenelift.config_data import KittiData as KittiData
from scenelift.config_data import LidarData as LidarData
from scenelift.config_data import NuImagesData as NuImagesData
from scenelift.config_data import NuScenesData as NuScenesData
from scenelift.config_data import PoseConvention as PoseConvention
from scenelift.config_data import PythonData as PythonData
from scenelift.config_data import ScanNetData as ScanNetData
from scenelift.config_data import SyntheticData as SyntheticData
from scenelift.config_teachers import ClipLabels as ClipLabels
from scenelift.config_teachers import EmbeddedLabels as EmbeddedLabels
from scenelift.config_teachers import EmbeddedMasks as EmbeddedMasks
from scenelift.config_teachers import PythonTeacher as PythonTeacher
from scenelift.config_teachers import SamMasks as SamMasks
from scenelift.config_teachers import Section as Section
from scenelift.config_teachers import SimulatedLabels as SimulatedLabels
from scenelift.config_teachers import SimulatedMasks as SimulatedMasks
from scenelift.config_teachers import TeachersConfig as TeachersConfig

NO_PART_OF_DIGESTS: dict[str, JsonValue] = {"digest": False}
"""Marks keys that cannot change what comes out, only how: a run may go on with another value."""

TAGS = ("source", "kind")
"""Keys that say which variant a node is, where it has several."""

# --- labels ----------------------------------------------------------------------------------------


class PseudoLabelConfig(Section):
    """From the label teacher's scores to labels, eq. 1."""

    threshold: float | None = Field(None, ge=0, le=1)
    """Pixels whose label is less probable than this have none; None keeps all."""
    denoise: float | None = Field(None, ge=0, le=1)
    """Prompt denoising (MaskCLIP, 0.5 there): classes that reach this probability at no token of an image do
    not stand there; None = all may."""
    logit_scale: float = Field(100.0, gt=0)
    """Probabilities are the softmax of this times the cosine; 100 is CLIP's own."""


class PairingConfig(Section):
    """Which pixel sees which point (method step 4)."""

    min_depth_m: float = Field(0.0, ge=0)
    """A point counts when z is greater than this; 1.0 for LiDAR cameras [C]."""
    depth_test: Literal["absolute", "relative", "cloud", "none"] = "absolute"
    """``cloud``, for data without depth images: see `scenelift.occlusion`. ``none`` is the published method's
    choice for LiDAR [C]."""
    depth_tolerance_m: float = Field(0.05, gt=0)
    """[C] for ``absolute``: keep a pair when |depth − z| is at most this."""
    depth_tolerance_ratio: float = Field(0.25, gt=0)
    """For ``relative`` (OpenScene): keep a pair when |depth − z| is at most this times z. For ``cloud``: how
    much farther than what is before it a point has to be, to be hidden."""


class RefineConfig(Section):
    """Which label sources are refined by mask voting, eq. 4."""

    clip: bool = True
    """The label teacher's."""
    image: bool = True
    """Predictions of the 2D network."""
    points: bool = True
    """[P]; the code line left the 3D predictions unrefined."""


# --- networks -------------------------------------------------------------------------------------


class ImageNetworkConfig(Section):
    """The 2D network."""

    name: Literal["deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "small"] = "deeplabv3_resnet50"
    """``small`` is for CPUs."""
    weights: str | None = None
    """Backbone weights: a local file; None = torchvision's ImageNet weights (its cache, or a download
    where that is allowed); "none" = random initialisation."""
    download: bool = False
    """May torchvision fetch the ImageNet weights when they are not in its cache?"""


class PointNetworkConfig(Section):
    """The 3D network."""

    name: Literal["minkunet34", "minkunet18", "minkunet14", "narrow"] = "minkunet34"
    """A MinkUNet; ``narrow`` is for CPUs."""
    voxel_m: float = Field(0.05, gt=0)
    """[C] 0.05 on ScanNet, 0.1 on nuScenes."""
    inputs: Literal["rgb", "constant"] = "rgb"
    """Features of a voxel: its mean colour, or a constant (geometry alone)."""


class HeadConfig(Section):
    """The dot with the text embeddings, ψ."""

    normalize: bool = False
    """Bring head(x) to unit length before the dot product (ψ is the plain dot product [P])."""
    logit_scale: float = Field(10.0, gt=0)
    """Scores are multiplied by this."""


class NetworksConfig(Section):
    """Both networks and their heads."""

    image: ImageNetworkConfig = ImageNetworkConfig()
    points: PointNetworkConfig = PointNetworkConfig()
    head: HeadConfig = HeadConfig()


# --- training -------------------------------------------------------------------------------------


class AugmentConfig(Section):
    """Random views of a training scene [P]; labels, masks and pairs follow the image's transform."""

    hflip: float = Field(0.5, ge=0, le=1)
    """Probability of mirroring an image."""
    scale: tuple[float, float] = (1.0, 1.4)
    """Resize factor before the crop, drawn per image."""
    crop: tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]] | None = None
    """(height, width) in pixels cut from the resized image; None = the frame's own size."""
    color_jitter: float = Field(0.2, ge=0, le=1)
    """Strength of brightness, contrast and saturation changes of the 2D network's image."""
    rotate_z: bool = True
    """Rotate the cloud about the vertical axis by any angle."""
    point_flip: float = Field(0.5, ge=0, le=1)
    """Probability of mirroring the cloud along x, and along y."""
    point_scale: tuple[float, float] = (0.95, 1.05)
    """Factor of the cloud's size, drawn per scene."""
    point_color_jitter: float = Field(0.1, ge=0, le=1)
    """Strength of changes of the points' colours."""

    @model_validator(mode="after")
    def _ordered(self) -> AugmentConfig:
        for name, (low, high) in {"scale": self.scale, "point_scale": self.point_scale}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name} needs 0 < low <= high, found [{low}, {high}]")
        if self.scale[0] < 1.0 and self.crop is None:
            raise ValueError("scale below 1 needs a crop size, or images of a batch differ in size")
        return self


class SwitchConfig(Section):
    """Eq. 6: where a network's labels come from in stage 2."""

    clip: float = Field(0.5, ge=0)
    """Share of the label teacher's refined labels."""
    image: float = Field(0.25, ge=0)
    """Share of the 2D network's refined predictions."""
    points: float = Field(0.25, ge=0)
    """Relative probabilities of the three sources [P: ½ ¼ ¼]; the ``derived`` preset is 0.2 0.4 0.4 [C]."""
    own_only: bool = False
    """Each network switches between CLIP and itself, never the other (row "w/o CT"): the other network's
    share goes to its own prediction."""
    networks: Literal["both", "image", "points"] = "both"
    """Which networks switch; the other one keeps to CLIP's labels."""
    predictions: Literal["train", "eval"] = "train"
    """Labels from predictions: those of the training step itself (dropout, the batch's own statistics), or
    of another pass with the networks as at test time."""
    balance: float = Field(0.0, ge=0, le=1)
    """How much of its usual class shares is taken out of a network's scores before they become labels
    (`scenelift.balance`); 0 = nothing [P], 1 = all."""
    granularity: Literal["step", "image", "pixel"] = "step"
    """How often the source is drawn [C: once a step; the paper is silent]."""

    @model_validator(mode="after")
    def _some(self) -> SwitchConfig:
        if self.clip + self.image + self.points <= 0:
            raise ValueError("at least one of clip, image and points must be above 0")
        return self


class LatentConfig(Section):
    """Eq. 7: latent-space consistency."""

    weight: float = Field(1.0, ge=0)
    """Of this loss beside the cross-entropies; 0 = none."""
    target: Literal["masks", "labels", "masks+labels"] = "masks"
    """Whose features: the mask teacher's (SAM) [P], the label teacher's (CLIP), or both."""
    features: Literal["full", "paired"] = "full"
    """What is kept of the mask teacher's features: the whole grid, or only cells that a pair can sample."""
    dim: int = Field(64, ge=1)
    """K_f [C]."""
    target_map: Literal["frozen", "trainable"] = "frozen"
    """[D] A trainable, undetached target admits a constant solution; ``trainable`` is the paper's."""
    group_m: float | None = Field(None, gt=0)
    """Edge in metres of cells within which pairs share one target (CLIP2Scene's spatio-temporal grouping);
    None = each pair has its own."""
    max_pairs: int | None = Field(8192, ge=1)
    """Pairs drawn for this loss per step; None = all."""


class DistillConfig(Section):
    """OpenScene's loss: 1 − cos between what a head gives and the label teacher's features."""

    weight: float = Field(0.0, ge=0)
    """0 = no such loss. The 2D network follows each pixel's feature, the 3D network each point's mean over
    all views that see it."""


class TrainConfig(Section):
    """Optimisation."""

    epochs: int = Field(30, ge=0)
    """[C] 30 on ScanNet, 20 on nuScenes. 0 = nothing is trained."""
    switch_after: int = Field(10, ge=0)
    """Stage 2 starts after this many epochs [P]."""
    steps_per_epoch: int | None = Field(None, ge=1)
    """None = one pass over the scenes."""
    scenes_per_step: int = Field(2, ge=1)
    """Scenes of a step, of all devices together."""
    frames_per_scene: int = Field(16, ge=1)
    """[P] 16 on ScanNet, 6 on nuScenes."""
    frames_factor: float = Field(1.0, gt=0)
    """Multiplies ``frames_per_scene``: 0.5 and 2 are the paper's 8 and 32 images on any data."""
    max_points: int | None = Field(None, ge=1)
    """Voxels kept per scene and step, a random contiguous crop; None = all."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """How weights are updated."""
    lr: float = Field(0.1, gt=0)
    """Learning rate at the start."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of ``sgd``."""
    weight_decay: float = Field(1e-4, ge=0)
    """Of both optimisers."""
    clip_norm: float | None = Field(None, gt=0)
    """Gradients longer than this are shortened to it; None = never."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate falls."""
    schedule_step: Literal["epoch", "step"] = "epoch"
    """[C] the cosine moves once an epoch; ``step`` moves it every step."""
    image_weight: float = Field(1.0, ge=0)
    """Weight of the 2D cross-entropy, eq. 5 and 6; 0 = the 2D network is only watched."""
    points_weight: float = Field(1.0, ge=0)
    """Weights of the two cross-entropies, eq. 5 and 6."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """What the networks compute in: float32, or bfloat16 where autocast holds it safe; weights, statistics
    and losses stay float32."""
    accumulate: int = Field(1, ge=1)
    """Parts in which each device takes the scenes of a step, one after the other, to save memory. The loss is
    that of the whole step; batch statistics are those of each part."""
    compile_image: bool = False
    """Let torch.compile make the 2D network faster; needs a C++ compiler."""
    activation_checkpointing: bool = False
    """Forget activations inside residual blocks of both networks and compute them again: less memory for
    about a third more time, the same gradients."""
    workers: int | None = Field(None, ge=0, json_schema_extra=NO_PART_OF_DIGESTS)
    """Threads that draw batches while the networks compute; batches are the same for any number. 0 = none,
    each is drawn when it is wanted; None = one on CUDA, none on a CPU, whose cores have enough to do."""
    checkpoint_every: int = Field(200, ge=1)
    """Steps between checkpoints; stage ends are always saved."""


class PredictConfig(Section):
    """What answers at test time."""

    source: Literal["networks", "teacher", "fusion", "fusion+networks"] = "networks"
    """``teacher``: nothing learned, CLIP's labels are the prediction, and reach points through the pairs.
    ``fusion``: nothing learned, CLIP's features are averaged over a point's views first (OpenScene).
    ``fusion+networks``: whichever of both is surer of its class (OpenScene's ensemble)."""
    post_refine: bool = False
    """Refine the 2D network's prediction with the masks, and the 3D network's through them."""
    ensemble: bool = False
    """Average both networks' probabilities where a pair joins them."""

    @model_validator(mode="after")
    def _averages_networks(self) -> PredictConfig:
        if self.ensemble and self.source != "networks":
            raise ValueError(
                f"ensemble averages what the two networks say; expected source networks beside it, found "
                f"{self.source}; set predict.ensemble=false"
            )
        return self


class Config(Section):
    """The whole run."""

    recipe: str = "custom"
    """For the reader of results; no code may depend on it."""
    seed: int = Field(0, ge=0)
    """Of initialisation, order, augmentation and the draw of label sources."""
    data: DataConfig = SyntheticData()
    classes: tuple[str, ...] | None = None
    """None = the data set's own classes."""
    teachers: TeachersConfig = TeachersConfig()
    pseudo_labels: PseudoLabelConfig = PseudoLabelConfig()
    pairing: PairingConfig = PairingConfig()
    refine: RefineConfig = RefineConfig()
    networks: NetworksConfig = NetworksConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    switch: SwitchConfig = SwitchConfig()
    latent: LatentConfig = LatentConfig()
    distill: DistillConfig = DistillConfig()
    predict: PredictConfig = PredictConfig()

    def digest(self, *sections: str) -> str:
        """Hex digest of these sections (dotted paths allowed); of everything but the name if none given.

        Values that are the defaults do not count: what was made before a key existed keeps its digest.
        Whoever changes a default has to change `_DIGEST_VERSION` too.
        """
        tree = _unusual(self)
        tree.pop("recipe", None)
        parts = {path: _descend(tree, path) for path in sections} if sections else tree
        text = json.dumps([_DIGEST_VERSION, parts], sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_yaml(self) -> str:
        """The resolved tree, as it is saved beside the results."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


_DIGEST_VERSION = 2


def _unusual(section: Section) -> dict[str, Any]:
    """What differs from the defaults, as a plain tree, and which variant each node is."""
    plain, tree = section.model_dump(mode="json"), {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if field.json_schema_extra == NO_PART_OF_DIGESTS:
            continue
        if isinstance(value, Section):
            tree[name] = _unusual(value)
        elif name in TAGS or field.is_required() or value != field.default:
            tree[name] = plain[name]
    return tree


def _descend(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree.get(part)
    return tree
