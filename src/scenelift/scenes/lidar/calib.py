"""calib.json of a folder of clouds and camera images: its model, and how it is read.

The JSON Schema of the format is shipped as ``scenelift/scenes/data/lidar_calib.schema.json`` and is that of
`Calibration`; docs/data/lidar.md shows an example.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator
from pydantic import model_validator as whole

from scenelift.errors import DataError
from scenelift.files import read_bytes
from scenelift.geometry import orthonormalize, rigid_error
from scenelift.scenes.undistort import COEFFICIENTS, DistortionModel
from scenelift.types import F64

VERSION = 1
RIGID_TOLERANCE = 1e-2
"""Matrices further than this from rigid (`geometry.rigid_error`) are refused."""

_Row3 = tuple[float, float, float]
_Row4 = tuple[float, float, float, float]
_Matrix3 = tuple[_Row3, _Row3, _Row3]
_Matrix4 = tuple[_Row4, _Row4, _Row4, _Row4]
_TAGS = ("matrix", "numbers")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Pinhole(_Model):
    """Intrinsics in pixels; the centre of the first pixel is (0, 0)."""

    fx: float = Field(gt=0)
    fy: float = Field(gt=0)
    cx: float
    cy: float


def _tag(value: Any) -> str:
    return _TAGS[isinstance(value, dict | Pinhole)]


class Distortion(_Model):
    """Lens distortion as OpenCV has it: ``opencv`` k1 k2 p1 p2 [k3 [k4 k5 k6]], ``fisheye`` k1 k2 k3 k4."""

    model: DistortionModel = "none"
    coefficients: tuple[float, ...] = ()

    @whole(mode="after")
    def _check(self) -> Distortion:
        counts = COEFFICIENTS[self.model]
        if len(self.coefficients) not in counts:
            raise ValueError(
                f"{self.model} has {' or '.join(map(str, counts))} coefficients, "
                f"found {len(self.coefficients)}"
            )
        return self


class Camera(_Model):
    """One camera; all its images have one size."""

    intrinsics: Annotated[
        Annotated[_Matrix3, Tag("matrix")] | Annotated[Pinhole, Tag("numbers")], Discriminator(_tag)
    ] = Field(description="[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] or {fx, fy, cx, cy}, pixels of the images")
    width: int = Field(gt=0, description="of the images, pixels")
    height: int = Field(gt=0, description="of the images, pixels")
    cam_from_lidar: _Matrix4 = Field(
        description="4×4, metres, takes LiDAR coordinates to the camera's: x right, y down, z forward"
    )
    distortion: Distortion = Distortion()
    time_offset_s: float = Field(
        0.0, description="added to the time stamps of this camera's images to have the LiDAR's clock"
    )

    @field_validator("intrinsics")
    @classmethod
    def _pinhole(cls, value: _Matrix3 | Pinhole) -> _Matrix3 | Pinhole:
        if isinstance(value, Pinhole):
            return value
        (fx, skew, _), (zero, fy, _), last = value
        if not (fx > 0 and fy > 0 and skew == zero == 0 and last == (0, 0, 1)):
            raise ValueError("expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx and fy above 0")
        return value

    @field_validator("cam_from_lidar")
    @classmethod
    def _rigid(cls, value: _Matrix4) -> _Matrix4:
        error = rigid_error(torch.tensor(value, dtype=torch.float64))
        if error > RIGID_TOLERANCE:
            raise ValueError(
                f"expected a rigid motion (rotation, translation, last row 0 0 0 1), off by {error:.3g}; "
                "remove scale and mirroring"
            )
        return value

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height, self.width

    @property
    def matrix(self) -> F64:
        """(3, 3) float64 intrinsics."""
        k = self.intrinsics
        rows = ((k.fx, 0, k.cx), (0, k.fy, k.cy), (0, 0, 1)) if isinstance(k, Pinhole) else k
        return np.array(rows, np.float64)

    @property
    def extrinsics(self) -> F64:
        """(4, 4) float64 cam_from_lidar with an orthonormal rotation."""
        pose: F64 = orthonormalize(torch.tensor(self.cam_from_lidar, dtype=torch.float64)).numpy()
        return pose


class Calibration(_Model):
    """calib.json."""

    version: Literal[1] = Field(description="of this format")
    cameras: dict[str, Camera] = Field(min_length=1, description="by the name of their folder in cameras/")
    point_columns: int | None = Field(
        None, ge=3, le=64, description="float32 numbers per point of .bin clouds; null = 4 or 5, found"
    )
    up: Literal["x", "-x", "y", "-y", "z", "-z"] = Field(
        "z", description="axis of the LiDAR's frame that points away from the ground"
    )
    time_unit: Literal["s", "ms", "us", "ns"] | None = Field(
        None, description="of file names that are time stamps; null = from their magnitude"
    )

    @property
    def up_lidar(self) -> F64:
        """(3,) unit vector."""
        sign = -1.0 if self.up.startswith("-") else 1.0
        up: F64 = sign * np.eye(3)["xyz".index(self.up[-1])]
        return up


def read_calibration(path: Path) -> Calibration:
    """Read and check a calib.json.

    Raises:
        DataError: missing, not JSON, an unknown or missing entry, a wrong shape, a matrix that is not rigid;
            with the place of the first fault in the file.
    """
    data = read_bytes(path, "a calibration (calib.json)").removeprefix(b"\xef\xbb\xbf")
    try:
        return Calibration.model_validate_json(data, strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
    place = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in faults[0]["loc"] if part not in _TAGS
    ).lstrip(".")
    more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
    reason = faults[0]["msg"].removeprefix("Value error, ").replace("\n", " ")
    raise DataError(
        f"expected a calibration of version {VERSION} in {path}, found at {place[:120] or 'its beginning'}: "
        f"{reason[:300]}{more}; mend this entry, docs/data/lidar.md shows the format"
    )


def schema_text() -> str:
    """The JSON Schema of calib.json, as it is shipped."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Calibration.model_json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
