"""From trained networks, or from the teacher alone, to labels of points and pixels (method step 11)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scenelift.annotations import Annotations
from scenelift.config import Config, PredictConfig
from scenelift.errors import DataError, RunError
from scenelift.fusion import fused_features
from scenelift.labels import dense_scores, refine, refine_sparse, vote_points
from scenelift.network_pair import NetworkPair as NetworkPair
from scenelift.orientation import upright
from scenelift.types import F32, IGNORE, U8, Frame, Pairs, Prediction, Scene

IMAGES_PER_PASS = 8


class Predictor:
    """Answers for the scenes of a data set, as a configuration's ``predict`` section asks.

    Args:
        config: the run.
        pair: trained networks; needed unless ``predict.source`` is ``teacher`` or ``fusion``.
        annotations: needed for the teacher's answers, for Post-Refine and for the ensembles.
    """

    def __init__(self, config: Config, pair: NetworkPair | None, annotations: Annotations | None) -> None:
        self._config, self._pair, self._annotations = config, pair, annotations
        wanted = config.predict
        self._asks_networks = wanted.source in ("networks", "fusion+networks")
        if self._asks_networks and pair is None:
            raise RunError("predict: there are no trained networks; run `scenelift train` first")
        needs_annotations = wanted.source != "networks" or wanted.post_refine or wanted.ensemble
        if needs_annotations and annotations is None:
            raise RunError("predict: this recipe needs the teachers' answers; run `scenelift annotate` first")

    def can_label(self, scene: Scene) -> bool:
        """Whether there is a cloud, and anything that knows of clouds."""
        return len(scene.points_world) > 0 and not (self._asks_networks and not self._networks.knows_points)

    def frames(self, scene: Scene) -> Iterator[tuple[str, Prediction]]:
        """The prediction of each frame, in order, with its name."""
        if not self._asks_networks:
            for name in scene.frames.names:
                prediction = _certain(self.teacher_labels(scene.name, name))
                yield name, self._post_refine_frame(prediction, scene.name, name)
            return
        points = self._point_probabilities(scene) if self._config.predict.ensemble else None
        for start in range(0, len(scene.frames), IMAGES_PER_PASS):
            group = list(scene.frames[start : start + IMAGES_PER_PASS])
            if len({frame.image.shape for frame in group}) > 1:
                raise DataError(f"scene {scene.name}: frames differ in size; resize them to one size")
            images = np.stack([frame.image for frame in group])
            if self._config.predict.source == "fusion+networks":
                probability = self._surer_images(images, group)
            else:
                probability = self._networks.image_probabilities(images)
            for offset, frame in enumerate(group):
                one = probability[offset]
                if points is not None:
                    one = self._join_image(one, points, scene.name, frame.name)
                prediction = best_prediction(one.flatten(1).T, (frame.height, frame.width))
                yield frame.name, self._post_refine_frame(prediction, scene.name, frame.name)

    def points(self, scene: Scene) -> Prediction:
        """The prediction of the scene's points."""
        source = self._config.predict.source
        if source == "teacher":
            return self._post_refine_points(_certain(self._teacher_points(scene)), scene)
        if source in ("fusion", "fusion+networks"):
            return self._post_refine_points(self._fused_points(scene), scene)
        own = self._point_probabilities(scene)
        if self._config.predict.ensemble:
            own = self._join_points(own, scene)
        return self._post_refine_points(best_prediction(own, (len(own),)), scene)

    # --- embeddings of the networks, whatever else answers -------------------------------------------

    def text_embeddings(self) -> F32:
        """(C, dim) unit-length embeddings of the classes."""
        return self._networks.text.cpu().numpy()

    def frame_embeddings(self, frame: Frame) -> F32:
        """(dim, h, w), see `NetworkPair.image_embeddings`."""
        return self._networks.image_embeddings(frame.image).cpu().numpy()

    def point_embeddings(self, scene: Scene) -> F32:
        """(N, dim), see `NetworkPair.point_embeddings`."""
        points = upright(scene.points_world, scene.up_world)
        return self._networks.point_embeddings(points, scene.rgb).cpu().numpy()

    # --- the teacher alone ---------------------------------------------------------------------------

    def teacher_labels(self, scene: str, frame: str) -> U8:
        """(H, W) uint8 labels of a frame by the teacher, refined where the configuration says so."""
        labels = self._known.labels(scene, frame)
        if not self._config.refine.clip:
            return labels
        return self._refined(labels, scene, frame)

    def _teacher_points(self, scene: Scene) -> U8:
        """Eq. 2 and 3, then the vote of the views."""
        pairs = self._known.pairs(scene.name)
        row, col = pairs.rowcol()
        labels = np.full(len(pairs), IGNORE, dtype=np.uint8)
        for index, name in enumerate(scene.frames.names):
            rows = pairs.of_frame(index)
            labels[rows] = self.teacher_labels(scene.name, name)[row[rows], col[rows]]
        return self._vote(labels, pairs, len(scene.points_world))

    def _refined(self, labels: U8, scene: str, frame: str) -> U8:
        ids = self._known.mask_ids(scene, frame).astype(np.int32)
        voted = refine(torch.from_numpy(labels)[None], torch.from_numpy(ids)[None], self._num_classes)
        return _u8(voted[0])

    def _vote(self, pair_labels: U8, pairs: Pairs, num_points: int) -> U8:
        index = torch.from_numpy(pairs.point_index)
        return _u8(vote_points(torch.from_numpy(pair_labels), index, num_points, self._num_classes))

    # --- features fused over views -------------------------------------------------------------------

    def _fused_points(self, scene: Scene) -> Prediction:
        """The class nearest to each point's fused feature, or to the 3D network's where that is nearer."""
        fused = fused_features(self._known, scene.name, len(scene.points_world))
        cosines = torch.from_numpy(fused).float() @ torch.from_numpy(self._known.text).T
        seen = torch.from_numpy(np.any(fused != 0, axis=1))
        if not self._asks_networks:
            prediction = best_prediction(self._confidence(cosines), (len(cosines),))
            labels = np.where(seen, prediction.labels, np.uint8(IGNORE))
            return Prediction(labels, np.where(seen, prediction.confidence, np.float32(0)))
        points = upright(scene.points_world, scene.up_world)
        own = self._networks.point_cosines(points, scene.rgb)
        cosines[~seen] = -1.0
        return best_prediction(self._confidence(_surer(cosines.to(own.device), own, 1)), (len(own),))

    def _surer_images(self, images: U8, frames: list[Frame]) -> Tensor:
        """(B, C, H, W) probabilities, pixel by pixel from the teacher's features or the 2D network's."""
        own = self._networks.image_cosines(images)
        text = torch.from_numpy(self._known.text)
        said = []
        for frame in frames:
            grid = torch.from_numpy(self._known.features(frame.scene, frame.name))[None].float()
            said.append(dense_scores(F.normalize(grid, dim=1), text, (frame.height, frame.width)))
        return self._confidence(_surer(torch.cat(said).to(own.device), own, 1))

    def _confidence(self, cosines: Tensor) -> Tensor:
        """Cosines to probabilities, over dimension 1."""
        return (self._config.pseudo_labels.logit_scale * cosines).softmax(1)

    # --- Post-Refine ---------------------------------------------------------------------------------

    def _post_refine_frame(self, own: Prediction, scene: str, frame: str) -> Prediction:
        if not self._config.predict.post_refine:
            return own
        return Prediction(self._refined(own.labels, scene, frame), own.confidence)

    def _post_refine_points(self, own: Prediction, scene: Scene) -> Prediction:
        """The 3D prediction goes into each image, through its masks, and back by a vote of the views."""
        if not self._config.predict.post_refine:
            return own
        pairs = self._known.pairs(scene.name)
        row, col = (torch.from_numpy(axis).long() for axis in pairs.rowcol())
        known = torch.from_numpy(own.labels[pairs.point_index])
        voted = torch.full((len(pairs),), IGNORE, dtype=torch.int64)
        for index, name in enumerate(scene.frames.names):
            rows = pairs.of_frame(index)
            ids = torch.from_numpy(self._known.mask_ids(scene.name, name).astype(np.int32))[None]
            nothing = torch.full_like(ids, IGNORE, dtype=torch.int64)
            first = torch.zeros(rows.stop - rows.start, dtype=torch.int64)
            where = (known[rows], first, row[rows], col[rows])
            voted[rows] = refine_sparse(*where, ids, nothing, self._num_classes)[0, row[rows], col[rows]]
        labels = self._vote(_u8(voted), pairs, len(own.labels))
        return Prediction(np.where(labels == IGNORE, own.labels, labels), own.confidence)

    # --- the ensemble --------------------------------------------------------------------------------

    def _point_probabilities(self, scene: Scene) -> Tensor:
        points = upright(scene.points_world, scene.up_world)
        return self._networks.point_probabilities(points, scene.rgb)

    def _join_image(self, own: Tensor, points: Tensor, scene: str, frame: str) -> Tensor:
        """Average (C, H, W) pixel probabilities with the mean of the points each pixel sees."""
        pairs = self._known.pairs(scene)
        rows = pairs.of_frame(list(self._known.scenes[scene].frames).index(frame))
        row, col = (torch.from_numpy(axis[rows]).long().to(own.device) for axis in pairs.rowcol())
        seen = points[torch.from_numpy(pairs.point_index[rows]).long().to(own.device)]
        flat = own.flatten(1).T
        pixel = row * own.shape[2] + col
        mean, known = _mean_rows(seen, pixel, len(flat))
        return torch.where(known[:, None], (flat + mean) / 2, flat).T.view_as(own)

    def _join_points(self, own: Tensor, scene: Scene) -> Tensor:
        """Average (N, C) point probabilities with the mean of the pixels that see each point."""
        pairs = self._known.pairs(scene.name)
        row, col = pairs.rowcol()
        total, count = torch.zeros_like(own), own.new_zeros(len(own))
        for index, frame in enumerate(scene.frames):
            rows = pairs.of_frame(index)
            probability = self._networks.image_probabilities(frame.image[None])[0]
            at = [torch.from_numpy(axis[rows]).long().to(own.device) for axis in (row, col)]
            point = torch.from_numpy(pairs.point_index[rows]).long().to(own.device)
            total.index_add_(0, point, probability[:, at[0], at[1]].T)
            count.index_add_(0, point, own.new_ones(len(point)))
        mean = total / count.clamp(min=1)[:, None]
        return torch.where((count > 0)[:, None], (own + mean) / 2, own)

    @property
    def _networks(self) -> NetworkPair:
        assert self._pair is not None  # checked by the constructor
        return self._pair

    @property
    def _known(self) -> Annotations:
        assert self._annotations is not None  # checked by the constructor
        return self._annotations

    @property
    def _num_classes(self) -> int:
        return len(self._known.text)


def teacher_config(config: Config, refined: bool) -> Config:
    """The run's configuration, but the teacher answers: with its labels as they are, or refined by masks."""
    return config.model_copy(
        update={
            "predict": PredictConfig(source="teacher"),
            "refine": config.refine.model_copy(update={"clip": refined}),
        }
    )


def _mean_rows(values: Tensor, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    count = torch.bincount(index, minlength=size)
    total = values.new_zeros(size, values.shape[1]).index_add_(0, index, values)
    return total / count.clamp(min=1)[:, None], count > 0


def _surer(one: Tensor, other: Tensor, dim: int) -> Tensor:
    """Scores of ``one`` where its best is above the best of ``other``, elsewhere those of ``other``."""
    return torch.where(one.amax(dim, keepdim=True) > other.amax(dim, keepdim=True), one, other)


def best_prediction(probability: Tensor, shape: tuple[int, ...]) -> Prediction:
    """(n, C) probabilities to the likeliest class and how likely it is, in ``shape`` of n elements.

    `IGNORE` where every class has probability 0.
    """
    confidence, labels = probability.max(1)
    labels = torch.where(confidence > 0, labels, IGNORE)
    return Prediction(_u8(labels).reshape(shape), confidence.cpu().numpy().reshape(shape))


def _certain(labels: U8) -> Prediction:
    """Labels of a voter that gives no probability: 1 where it says something."""
    return Prediction(labels, (labels != IGNORE).astype(np.float32))


def _u8(labels: Tensor) -> U8:
    return labels.to(torch.uint8).cpu().numpy()
