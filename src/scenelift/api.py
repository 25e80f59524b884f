"""A finished run as an object: segment images and clouds it has never seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scenelift import checkpoint
from scenelift.classes import ClassTable
from scenelift.config import Config
from scenelift.device import resolve_device
from scenelift.errors import DataError
from scenelift.models.networks import Networks
from scenelift.predict import NetworkPair, best_prediction
from scenelift.recipes import build
from scenelift.runfolder import RunFolder
from scenelift.types import Prediction


class TrainedRun:
    """Two trained networks and their classes.

    Args:
        run: folder of the run.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.

    Attributes:
        config: the run's configuration.
        classes: what it segments, in the order of the label ids.
        pair: the networks.

    Raises:
        RunError: there are no trained networks in the folder, or they are damaged.
    """

    def __init__(self, run: str | Path, device: str = "auto") -> None:
        path = RunFolder(Path(run)).networks
        state, text, about = checkpoint.read_networks(path)
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
        array = _array(image, "segment_image")
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
            raise DataError(
                f"segment_image: expected an (H, W, 3) uint8 RGB image, found {array.dtype} of shape "
                f"{array.shape}; convert it, for instance with PIL's image.convert('RGB')"
            )
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
        points = _array(xyz, "segment_points")
        if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "iuf":
            raise DataError(
                "segment_points: expected (N, 3) coordinates in metres, "
                f"found {points.dtype} of shape {points.shape}"
            )
        with np.errstate(over="ignore"):  # what float32 cannot hold is as good as infinite
            finite = np.isfinite(points.astype(np.float32)).all(1)
        if not finite.all():
            bad = int((~finite).sum())
            raise DataError(f"segment_points: {bad} of {len(points)} points are not finite; remove them")
        colors = None if rgb is None else _array(rgb, "segment_points")
        if colors is not None and (colors.shape != points.shape or colors.dtype != np.uint8):
            raise DataError(
                f"segment_points: expected uint8 colours of shape {points.shape}, "
                f"found {colors.dtype} of shape {colors.shape}"
            )
        centred = (points - points.mean(0) if len(points) else points).astype(np.float32)
        probability = self.pair.point_probabilities(centred, colors)
        return best_prediction(probability, (len(points),))


def _array(value: npt.ArrayLike, what: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{what}: expected an array, found something else ({error})") from None
