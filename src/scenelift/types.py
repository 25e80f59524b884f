"""The nouns of the library: validated structs of arrays, and nothing else.

Conventions, everywhere in this code base:

- world frame: metres, right-handed; camera frame: x right, y down, z forward (OpenCV);
- ``cam_from_world`` is the 4×4 matrix that takes world coordinates to camera coordinates;
- a pixel is ``(u, v)`` = (column, row), its centre at integer coordinates, so that pixel ``(0, 0)``
  covers [-0.5, 0.5)²; arrays are indexed ``[row, column]``;
- labels are ``uint8`` class ids, `IGNORE` (255) where there is none;
- mask ids are ``uint16``, 0 where no mask covers the pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from scenelift.errors import DataError

IGNORE = 255
"""The label of a pixel or point that has none; it never counts, neither in a loss nor in a metric."""

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


def _expect(array: npt.NDArray[Any], what: str, dtype: npt.DTypeLike, shape: tuple[int | None, ...]) -> None:
    """Raise `DataError` unless ``array`` has this dtype and shape (``None`` = any length)."""
    fits = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=False)
    )
    if not fits or array.dtype != np.dtype(dtype):
        wanted = "(" + ", ".join("n" if s is None else str(s) for s in shape) + ")"
        raise DataError(
            f"{what}: expected {np.dtype(dtype).name} of shape {wanted}, "
            f"found {array.dtype.name} of shape {array.shape}"
        )


@dataclass(frozen=True, eq=False)
class Frame:
    """One image with its camera.

    Attributes:
        scene: name of the scene it belongs to.
        name: name within the scene; safe as a file name.
        image: (H, W, 3) uint8, RGB.
        intrinsics: (3, 3) float64, pixels; for this image's size.
        cam_from_world: (4, 4) float64, rigid.
        depth_m: (H, W) float32 metres along the optical axis, registered to the image; 0 = no measurement.
            ``None`` when the sensor has no depth image.
    """

    scene: str
    name: str
    image: U8
    intrinsics: F64
    cam_from_world: F64
    depth_m: F32 | None = None

    def __post_init__(self) -> None:
        where = f"frame {self.key}"
        _expect(self.image, f"{where}: image", np.uint8, (None, None, 3))
        _expect(self.intrinsics, f"{where}: intrinsics", np.float64, (3, 3))
        _expect(self.cam_from_world, f"{where}: cam_from_world", np.float64, (4, 4))
        if self.depth_m is not None:
            _expect(self.depth_m, f"{where}: depth_m", np.float32, self.image.shape[:2])

    @property
    def key(self) -> str:
        """``scene/name``: unique within a data set."""
        return f"{self.scene}/{self.name}"

    @property
    def height(self) -> int:
        """Image height in pixels."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Image width in pixels."""
        return int(self.image.shape[1])


class Frames(Sequence[Frame]):
    """A sequence of frames that reads each one when it is asked for.

    A scan of thousands of frames costs no memory until frames are used; nothing is kept.

    Args:
        names: frame names in order.
        read: returns the frame of this name; may raise `DataError`.
        read_image: returns its image alone, for sources that can do that faster.
    """

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[str], Frame],
        read_image: Callable[[str], U8] | None = None,
    ) -> None:
        self.names = tuple(names)
        self._read = read
        self._read_image = read_image

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Frames:
        """Frames that are in memory already."""
        by_name = {frame.name: frame for frame in frames}
        return cls([frame.name for frame in frames], by_name.__getitem__)

    def only(self, names: Sequence[str]) -> Frames:
        """Just these frames, in this order."""
        return Frames(names, self._read, self._read_image)

    def evenly(self, most: int) -> list[int]:
        """Indices of at most ``most`` frames, spread evenly from the first to the last."""
        places = np.linspace(0, len(self) - 1, min(most, len(self)))
        return [int(place) for place in places.round()]

    def image(self, name: str) -> U8:
        """The image of the frame of this name, (H, W, 3) uint8, without its camera and depth.

        Raises:
            DataError: it is missing or damaged.
        """
        return self._read(name).image if self._read_image is None else self._read_image(name)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> Frames: ...
    def __getitem__(self, index: int | slice) -> Frame | Frames:
        if isinstance(index, slice):
            return self.only(self.names[index])
        return self._read(self.names[index])

    def __iter__(self) -> Iterator[Frame]:
        return (self._read(name) for name in self.names)


@dataclass(frozen=True, eq=False)
class Scene:
    """A point cloud and the frames that look at it.

    Attributes:
        name: unique within a data set; safe as a file name.
        points_world: (N, 3) float32, metres.
        rgb: (N, 3) uint8, or ``None`` for clouds without colour.
        frames: read lazily, see `Frames`.
        up_world: (3,) the direction away from the floor, unit length; z for data sets that are aligned.
    """

    name: str
    points_world: F32
    rgb: U8 | None
    frames: Frames
    up_world: F64 = field(default_factory=lambda: np.array([0.0, 0.0, 1.0]))

    def __post_init__(self) -> None:
        _expect(self.up_world, f"scene {self.name}: up_world", np.float64, (3,))
        _expect(self.points_world, f"scene {self.name}: points_world", np.float32, (None, 3))
        if self.rgb is not None:
            _expect(self.rgb, f"scene {self.name}: rgb", np.uint8, (len(self.points_world), 3))


@dataclass(frozen=True, eq=False)
class FrameTruth:
    """Ground truth of a frame. Only evaluation and simulated teachers may hold one.

    Attributes:
        labels: (H, W) uint8 class ids, `IGNORE` where unknown.
        instances: (H, W) uint16, 0 = none; the same id in all frames of a scene. ``None`` if unknown.
    """

    labels: U8
    instances: U16 | None = None

    def __post_init__(self) -> None:
        _expect(self.labels, "frame truth: labels", np.uint8, (None, None))
        if self.instances is not None:
            _expect(self.instances, "frame truth: instances", np.uint16, self.labels.shape)


@dataclass(frozen=True, eq=False)
class SceneTruth:
    """Ground truth of a scene's points. Only evaluation and simulated teachers may hold one.

    Attributes:
        labels: (N,) uint8 class ids, `IGNORE` where unknown.
        instances: (N,) uint16, 0 = none. ``None`` if unknown.
    """

    labels: U8
    instances: U16 | None = None

    def __post_init__(self) -> None:
        _expect(self.labels, "scene truth: labels", np.uint8, (None,))
        if self.instances is not None:
            _expect(self.instances, "scene truth: instances", np.uint16, self.labels.shape)


@dataclass(frozen=True, eq=False)
class Masks:
    """What a mask teacher says of one frame.

    Attributes:
        ids: (H, W) uint16, one mask id per pixel, 0 = uncovered. Ids need not be consecutive.
        features: (F, h, w) float16, a coarse grid of image features that covers exactly the image
            (padding already cut away); cell centres are spread evenly as in
            ``interpolate(..., align_corners=False)``.
    """

    ids: U16
    features: F16

    def __post_init__(self) -> None:
        _expect(self.ids, "masks: ids", np.uint16, (None, None))
        _expect(self.features, "masks: features", np.float16, (None, None, None))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which pixel sees which point: one row per (point, frame).

    Attributes:
        frame_index: (P,) int32, index into the scene's frames; sorted.
        point_index: (P,) int32, index into the scene's points.
        pixel_uv: (P, 2) float32, pixels, (column, row); the exact projection, not rounded.
    """

    frame_index: I32
    point_index: I32
    pixel_uv: F32

    def __post_init__(self) -> None:
        _expect(self.frame_index, "pairs: frame_index", np.int32, (None,))
        rows = len(self.frame_index)
        _expect(self.point_index, "pairs: point_index", np.int32, (rows,))
        _expect(self.pixel_uv, "pairs: pixel_uv", np.float32, (rows, 2))

    def __len__(self) -> int:
        return len(self.frame_index)

    def rowcol(self) -> tuple[I32, I32]:
        """The pixel each pair falls into: (row, column), each (P,) int32 (nearest pixel centre)."""
        nearest = np.floor(self.pixel_uv + np.float32(0.5)).astype(np.int32)
        return nearest[:, 1], nearest[:, 0]

    def of_frame(self, index: int) -> slice:
        """The rows of one frame (rows are sorted by frame)."""
        # of the same dtype, or numpy would convert all rows first
        lo, hi = np.searchsorted(self.frame_index, np.array([index, index + 1], dtype=np.int32))
        return slice(int(lo), int(hi))


@dataclass(frozen=True, eq=False)
class Prediction:
    """Labels with how sure the predictor is of them, for the points of a scene or the pixels of a frame.

    Attributes:
        labels: (N,) or (H, W) uint8 class ids, `IGNORE` where there is no prediction.
        confidence: same shape, float32 in [0, 1]: the probability of the chosen class.
    """

    labels: U8
    confidence: F32

    def __post_init__(self) -> None:
        if self.labels.shape != self.confidence.shape:
            raise DataError(
                "prediction: labels and confidence must have one shape, "
                f"found {self.labels.shape} and {self.confidence.shape}"
            )

    @property
    def coverage(self) -> float:
        """Share of points or pixels that have a prediction, in [0, 1]."""
        return float(np.mean(self.labels != IGNORE)) if self.labels.size else 0.0
