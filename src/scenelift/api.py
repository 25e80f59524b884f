"""A finished run as an object: segment images and clouds it has never seen, and ask it for any phrase."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scenelift import checkpoint
from scenelift.classes import ClassTable
from scenelift.config import Config
from scenelift.device import resolve_device
from scenelift.errors import ConfigError, DataError
from scenelift.models.networks import Networks
from scenelift.predict import NetworkPair, best_prediction
from scenelift.progress import Progress, silent
from scenelift.recipes import build
from scenelift.refusal import least_similarities, load_calibration
from scenelift.runfolder import RunFolder
from scenelift.similarity import Refusal
from scenelift.teachers import TextEncoder
from scenelift.teachers.registry import open_text_encoder
from scenelift.types import F32, U8, Prediction


class TrainedRun:
    """Two trained networks and their classes.

    Args:
        run: folder of the run.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.

    Attributes:
        config: the run's configuration.
        classes: what it segments, in the order of the label ids.
        pair: the networks.
        own: the run with the classes it was trained for; itself unless it comes from `with_classes`.
        folder: of the run.
        download: may weights of the text network be fetched that are not on this machine?

    Raises:
        RunError: there are no trained networks in the folder, or they are damaged.
    """

    def __init__(self, run: str | Path, device: str = "auto") -> None:
        self.own, self.folder, self.download = self, RunFolder(Path(run)), False
        state, text, about = checkpoint.read_networks(self.folder.networks)
        self.config: Config = build(about["config"])
        self.classes = ClassTable(
            tuple(about["classes"]),
            tuple(tuple(phrases) for phrases in about["prompts"]),
            np.array(about["colors"], dtype=np.uint8),
        )
        bare = self.config.networks.model_copy(
            update={"image": self.config.networks.image.model_copy(update={"weights": "none"})}
        )
        networks = Networks(bare, self.config.latent, text.shape[1], about["target_dim"])
        networks.load_state_dict(state)
        self.pair = NetworkPair(
            networks,
            text,
            self.config,
            resolve_device(device),
            about["digest"],
            about.get("knows_points", True),  # runs of earlier versions always had clouds
        )

    def segment_image(self, image: npt.ArrayLike) -> Prediction:
        """Label every pixel of an image.

        Args:
            image: (H, W, 3) uint8 RGB; arrays and PIL images.

        Returns:
            (H, W) labels and confidences.

        Raises:
            DataError: it is no such image.
        """
        array = _image(image, "segment_image")
        probability = self.pair.image_probabilities(array[None])[0]
        return best_prediction(probability.flatten(1).T, array.shape[:2])

    def segment_points(self, xyz: npt.ArrayLike, rgb: npt.ArrayLike | None = None) -> Prediction:
        """Label every point of a cloud.

        Args:
            xyz: (N, 3) coordinates in metres, z up; any real type.
            rgb: (N, 3) uint8 colours; without them the cloud is taken for grey.

        Returns:
            (N,) labels and confidences.

        Raises:
            DataError: wrong shapes or types, or points that are not finite.
            RunError: the run was trained on images alone.
        """
        centred, colors = _cloud(xyz, rgb, "segment_points")
        probability = self.pair.point_probabilities(centred, colors)
        return best_prediction(probability, (len(centred),))

    # --- any phrase ----------------------------------------------------------------------------------

    def with_classes(
        self,
        names: Sequence[str] | None,
        none_of_these: float | None = None,
        progress: Progress = silent,
    ) -> TrainedRun:
        """The same networks with another list of classes; nothing is trained again.

        Args:
            names: any names; ``"sofa / couch"`` is one class with two phrases. ``None`` = the run's own.
            none_of_these: give no label (`IGNORE`) where no class fits. A share in [0, 0.5]: a listed class
                has to be nearer than the classes of training that are none of the listed ones, and nearer
                than the nearest class is for all but this share of what was trained on. ``None`` = every
                point and pixel gets a class.
            progress: told of the scenes that are read for ``none_of_these``, once for each run.

        Raises:
            ConfigError: names that are empty or repeated, a phrase that the text side cannot embed, or a
                share out of range.
            DataError: ``none_of_these`` for the first time, and the run's data are not there.
            WeightsError: the text network's weights are not on this machine.
        """
        if names is None:
            classes, text = self.own.classes, self.own.pair.text
        else:
            classes = ClassTable.from_names(names)
            text = self.text(classes.prompts)
        refusal = None
        if none_of_these is not None:
            if not 0.0 <= none_of_these <= 0.5:
                raise ConfigError(f"none_of_these: expected a share from 0 to 0.5, found {none_of_these}")
            own = self.own
            found = load_calibration(own.pair, self.config.data, self.folder.calibration, progress)
            refusal = Refusal.of(text, own.pair.text, *least_similarities(found, none_of_these))
        other = copy.copy(self)
        other.classes, other.pair = classes, self.own.pair.with_text(text, refusal)
        return other

    def text(self, prompts: Sequence[Sequence[str]]) -> torch.Tensor:
        """Embeddings of phrases by the label teacher's text side: (Q, dim) float32, unit length.

        Args:
            prompts: for each query its phrases; their embeddings are averaged.

        Raises:
            ConfigError: a phrase that it cannot embed.
            WeightsError: its weights are not on this machine.
        """
        return torch.from_numpy(self.own.text_encoder.text_features(prompts)).to(self.pair.device)

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """The text side of the teacher that the run was labelled by; opened when it is first asked."""
        phrases = [phrase for row in self.classes.prompts for phrase in row]
        return open_text_encoder(self.config.teachers, phrases, self.pair.device, self.download)

    def similarity(self, text: Sequence[str], xyz: npt.ArrayLike, rgb: npt.ArrayLike | None = None) -> F32:
        """How near every point of a cloud is to each phrase.

        Args:
            text: the phrases.
            xyz: as for `segment_points`.
            rgb: as for `segment_points`.

        Returns:
            (N, len(text)) float32 in [-1, 1], see `scenelift.similarity.similarities`.

        Raises:
            DataError, RunError: as `segment_points`.
            ConfigError, WeightsError: as `text`.
        """
        centred, colors = _cloud(xyz, rgb, "similarity")
        found = self.pair.point_similarities(centred, colors, self.text(_phrases(text)))
        return np.asarray(found.cpu().numpy(), dtype=np.float32)

    def image_similarity(self, text: Sequence[str], image: npt.ArrayLike) -> F32:
        """How near every pixel of an image is to each phrase.

        Args:
            text: the phrases.
            image: as for `segment_image`.

        Returns:
            (H, W, len(text)) float32 in [-1, 1].

        Raises:
            DataError: as `segment_image`.
            ConfigError, WeightsError: as `text`.
        """
        array = _image(image, "image_similarity")
        found = self.pair.image_similarities(array[None], self.text(_phrases(text)))[0]
        return np.asarray(found.movedim(0, 2).cpu().numpy(), dtype=np.float32)


def _phrases(text: Sequence[str]) -> list[list[str]]:
    if isinstance(text, str) or not text or not all(phrase.strip() for phrase in text):
        raise ConfigError(f'text: expected a list of phrases such as ["a chair"], found {text!r}')
    return [[phrase] for phrase in text]


def _image(image: npt.ArrayLike, what: str) -> U8:
    array = _array(image, what)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise DataError(
            f"{what}: expected an (H, W, 3) uint8 RGB image, found {array.dtype} of shape "
            f"{array.shape}; convert it, for instance with PIL's image.convert('RGB')"
        )
    return array


def _cloud(xyz: npt.ArrayLike, rgb: npt.ArrayLike | None, what: str) -> tuple[F32, U8 | None]:
    """Checked points around their mean, and their colours."""
    points = _array(xyz, what)
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "iuf":
        raise DataError(
            f"{what}: expected (N, 3) coordinates in metres, found {points.dtype} of shape {points.shape}"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is as good as infinite
        finite = np.isfinite(points.astype(np.float32)).all(1)
    if not finite.all():
        bad = int((~finite).sum())
        raise DataError(f"{what}: {bad} of {len(points)} points are not finite; remove them")
    colors = None if rgb is None else _array(rgb, what)
    if colors is not None and (colors.shape != points.shape or colors.dtype != np.uint8):
        raise DataError(
            f"{what}: expected uint8 colours of shape {points.shape}, "
            f"found {colors.dtype} of shape {colors.shape}"
        )
    centred = (points - points.mean(0) if len(points) else points).astype(np.float32)
    return centred, colors


def _array(value: npt.ArrayLike, what: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{what}: expected an array, found something else ({error})") from None
