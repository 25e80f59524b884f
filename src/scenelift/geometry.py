"""Cameras and rigid motions: pure functions on tensors.

Everything takes and returns one floating dtype on one device; measurements want float64. Conventions are
those of `scenelift.types`: metres, camera frame x right, y down, z forward, pixel centres at integers.
Intrinsics are ``[[fx, skew, cx], [0, fy, cy], [0, 0, 1]]`` in pixels. ``b_from_a`` takes coordinates in
frame a to coordinates in frame b.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def transform(points: Tensor, b_from_a: Tensor) -> Tensor:
    """Apply a 4×4 transform to points.

    Args:
        points: (..., N, 3), in frame a.
        b_from_a: (..., 4, 4); leading dimensions broadcast against those of ``points``.

    Returns:
        (..., N, 3), in frame b.
    """
    # Written out rather than a matmul: a GEMM may round differently for another N, and then a point on the
    # edge of the depth test would be paired or not depending on the chunk size.
    x, y, z = points.unsqueeze(-1).unbind(-2)
    column_x, column_y, column_z, translation = b_from_a[..., None, :3, :].unbind(-1)
    return x * column_x + y * column_y + z * column_z + translation


def invert_rigid(b_from_a: Tensor) -> Tensor:
    """Invert rigid transforms, (..., 4, 4), by transposing the rotation.

    Exact only for orthonormal rotations: measured poses go through `orthonormalize` when they are read.
    """
    rotation = b_from_a[..., :3, :3].transpose(-1, -2)
    return _rigid(rotation, -(rotation @ b_from_a[..., :3, 3:]).squeeze(-1))


def project(points_world: Tensor, intrinsics: Tensor, cam_from_world: Tensor) -> tuple[Tensor, Tensor]:
    """Project points into cameras.

    Args:
        points_world: (N, 3), metres.
        intrinsics: (..., 3, 3), pixels.
        cam_from_world: (..., 4, 4).

    Returns:
        pixel_uv: (..., N, 2), pixels, (column, row), not rounded; NaN for points that are not in front of
            the camera (z <= 0). May lie outside the image.
        z_m: (..., N), depth along the optical axis, metres.
    """
    points_cam = transform(points_world, cam_from_world)
    z_m = points_cam[..., 2]
    x, y, _ = (points_cam / z_m.where(z_m > 0, math.nan).unsqueeze(-1)).unsqueeze(-1).unbind(-2)
    column_x, column_y, centre = intrinsics[..., None, :2, :].unbind(-1)
    return x * column_x + y * column_y + centre, z_m


def unproject(depth_m: Tensor, intrinsics: Tensor, cam_from_world: Tensor) -> Tensor:
    """Lift a depth image into the world; the inverse of `project` at pixel centres.

    Args:
        depth_m: (H, W), metres along the optical axis; 0 = no measurement.
        intrinsics: (3, 3), pixels.
        cam_from_world: (4, 4), rigid; its dtype is the dtype of the result.

    Returns:
        points_world: (H, W, 3), metres; NaN where there is no measurement.
    """
    height, width = depth_m.shape
    z = depth_m.to(cam_from_world.dtype)
    z = z.where(z > 0, math.nan)
    fx, skew, cx = intrinsics[0]
    _, fy, cy = intrinsics[1]
    row = torch.arange(height, dtype=z.dtype, device=z.device).unsqueeze(1)
    column = torch.arange(width, dtype=z.dtype, device=z.device)
    y = (row - cy) / fy
    x = (column - cx - skew * y) / fx
    points_cam = torch.stack((x * z, y * z, z), dim=-1)
    return transform(points_cam.reshape(-1, 3), invert_rigid(cam_from_world)).reshape(height, width, 3)


def rigid_error(pose: Tensor) -> float:
    """How far transforms, (..., 4, 4), are from rigid: 0 = exactly, infinite = not a rigid motion at all.

    The largest absolute entry of RᵀR − I and of the last row's difference from (0, 0, 0, 1), over all
    transforms. Infinite for NaN or infinite entries and for reflections (det R <= 0). Measured poses
    written with a few digits reach 4e-4.
    """
    rotation = pose[..., :3, :3]
    if not bool(torch.isfinite(pose).all()) or bool((torch.linalg.det(rotation) <= 0).any()):
        return math.inf
    identity = torch.eye(4, dtype=pose.dtype, device=pose.device)
    gram_error = (rotation.transpose(-1, -2) @ rotation - identity[:3, :3]).abs().max()
    return max(float(gram_error), float((pose[..., 3, :] - identity[3]).abs().max()))


def orthonormalize(pose: Tensor) -> Tensor:
    """The nearest rigid transforms, (..., 4, 4): rotation by SVD, translation kept, last row (0, 0, 0, 1).

    Nearest in the Frobenius norm among proper rotations (Kabsch 1976).
    """
    left, _, right = torch.linalg.svd(pose[..., :3, :3])
    # Without the sign the nearest orthogonal matrix of a noisy near-singular input could be a reflection.
    sign = torch.ones_like(left[..., 0])
    sign[..., 2] = torch.linalg.det(left @ right)
    return _rigid((left * sign.unsqueeze(-2)) @ right, pose[..., :3, 3])


def look_at(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """The camera at ``eye`` that looks at ``target`` with ``up`` towards the top of the image.

    Args:
        eye: (..., 3), world, metres.
        target: (..., 3), world, metres; must differ from ``eye``.
        up: (..., 3), world; any length, not parallel to the viewing direction.

    Returns:
        cam_from_world: (..., 4, 4).

    Raises:
        ValueError: the direction or the image's up side is undefined.
    """
    forward = F.normalize(target - eye, dim=-1)
    right = torch.linalg.cross(forward, F.normalize(up, dim=-1))
    if bool((right.norm(dim=-1) < 1e-6).any()):
        raise ValueError(
            "look_at: expected target != eye and a view direction not parallel to up, "
            f"found eye {eye.tolist()}, target {target.tolist()}, up {up.tolist()}"
        )
    right = F.normalize(right, dim=-1)
    rotation = torch.stack((right, torch.linalg.cross(forward, right), forward), dim=-2)
    return _rigid(rotation, -(rotation @ eye.unsqueeze(-1)).squeeze(-1))


def sample_grid(features: Tensor, pixel_uv: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Sample a coarse grid of features, spread evenly over an image, bilinearly at pixels.

    The grid's cells divide the area of the image, whose pixel ``(0, 0)`` covers [-0.5, 0.5)²; beyond the
    outer cell centres the border value holds. At the pixel centres this is
    ``interpolate(mode="bilinear", align_corners=False)``.

    Args:
        features: (F, h, w), or (B, F, h, w).
        pixel_uv: (N, 2), or (B, N, 2): (column, row); finite.
        image_size: (H, W) of the image the pixels belong to.

    Returns:
        (N, F), or (B, N, F); float32 for float16 features, else their dtype.
    """
    height, width = image_size
    if features.dim() == 3:
        return sample_grid(features.unsqueeze(0), pixel_uv.unsqueeze(0), image_size).squeeze(0)
    if features.dtype == torch.float16:
        features = features.float()
    size = torch.tensor((width, height), dtype=pixel_uv.dtype, device=pixel_uv.device)
    normalised = ((2 * pixel_uv + 1) / size - 1).to(features.dtype)
    sampled = F.grid_sample(
        features, normalised.unsqueeze(2), mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.squeeze(3).transpose(1, 2)


def _rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    """Assemble (..., 4, 4) from (..., 3, 3) and (..., 3)."""
    pose = rotation.new_zeros((*rotation.shape[:-2], 4, 4))
    pose[..., :3, :3] = rotation
    pose[..., :3, 3] = translation
    pose[..., 3, 3] = 1
    return pose
