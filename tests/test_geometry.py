"""Geometry against arithmetic written out point by point, and its inverses against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from scenelift import geometry

INTRINSICS = torch.tensor([[210.0, 0.7, 79.5], [0.0, 190.0, 58.25], [0.0, 0.0, 1.0]], dtype=torch.float64)


def random_pose(rng: np.random.Generator) -> Tensor:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(random_state=rng).as_matrix()
    pose[:3, 3] = rng.uniform(-5, 5, 3)
    return torch.from_numpy(pose)


def project_one(point: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray) -> tuple[float, float, float]:
    """The textbook: homogeneous world point, camera point, K times it, divide."""
    x, y, z = (pose @ np.append(point, 1.0))[:3]
    u, v, w = intrinsics @ np.array([x, y, z])
    return u / w, v / w, z


seeds = st.integers(0, 2**32 - 1)


class TestTransform:
    @given(seeds)
    @settings(deadline=None, max_examples=25)
    def test_matches_homogeneous_product(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        points, pose = rng.normal(size=(7, 3)), random_pose(rng)
        expected = np.stack([(pose.numpy() @ np.append(p, 1.0))[:3] for p in points])
        np.testing.assert_allclose(
            geometry.transform(torch.from_numpy(points), pose), expected, rtol=0, atol=1e-12
        )

    def test_broadcasts_over_poses(self) -> None:
        rng = np.random.default_rng(0)
        points = torch.from_numpy(rng.normal(size=(5, 3)))
        poses = torch.stack([random_pose(rng) for _ in range(6)]).reshape(2, 3, 4, 4)
        both = geometry.transform(points, poses)
        assert both.shape == (2, 3, 5, 3)
        torch.testing.assert_close(both[1, 2], geometry.transform(points, poses[1, 2]), rtol=0, atol=0)

    def test_a_point_does_not_depend_on_its_neighbours(self) -> None:
        rng = np.random.default_rng(1)
        points, pose = torch.from_numpy(rng.normal(size=(1001, 3))), random_pose(rng)
        alone = torch.cat([geometry.transform(part, pose) for part in torch.split(points, 7)])
        assert torch.equal(alone, geometry.transform(points, pose))

    def test_empty(self) -> None:
        assert geometry.transform(torch.empty(0, 3), torch.eye(4)).shape == (0, 3)


@given(seeds)
@settings(deadline=None, max_examples=25)
def test_invert_rigid_undoes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pose = torch.stack([random_pose(rng), random_pose(rng)])
    inverse = geometry.invert_rigid(pose)
    np.testing.assert_allclose(inverse @ pose, np.broadcast_to(np.eye(4), (2, 4, 4)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(inverse, np.linalg.inv(pose.numpy()), rtol=0, atol=1e-12)


class TestProject:
    @given(seeds)
    @settings(deadline=None, max_examples=25)
    def test_matches_textbook(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        pose, points = random_pose(rng), rng.normal(size=(20, 3)) * 4
        pixel_uv, z_m = geometry.project(torch.from_numpy(points), INTRINSICS, pose)
        for uv, z, point in zip(pixel_uv, z_m, points, strict=True):
            u, v, depth = project_one(point, INTRINSICS.numpy(), pose.numpy())
            assert float(z) == pytest.approx(depth, abs=1e-12)
            if depth > 0:
                np.testing.assert_allclose(uv, [u, v], rtol=1e-9)
            else:
                assert torch.isnan(uv).all()

    def test_behind_and_beside_the_camera(self) -> None:
        points = torch.tensor([[0.0, 0.0, 2.0], [0.1, 0.0, 0.0], [0.0, 0.0, -2.0]], dtype=torch.float64)
        pixel_uv, z_m = geometry.project(points, INTRINSICS, torch.eye(4, dtype=torch.float64))
        np.testing.assert_array_equal(pixel_uv[0], INTRINSICS[:2, 2])
        assert torch.isnan(pixel_uv[1:]).all()
        assert z_m.tolist() == [2.0, 0.0, -2.0]

    def test_batch_of_cameras(self) -> None:
        rng = np.random.default_rng(3)
        points = torch.from_numpy(rng.normal(size=(9, 3)))
        poses = torch.stack([random_pose(rng) for _ in range(4)])
        pixel_uv, z_m = geometry.project(points, INTRINSICS.expand(4, 3, 3), poses)
        assert pixel_uv.shape == (4, 9, 2)
        uv_2, z_2 = geometry.project(points, INTRINSICS, poses[2])
        assert torch.equal(z_m[2], z_2)
        assert torch.equal(pixel_uv[2].nan_to_num(-1), uv_2.nan_to_num(-1))


class TestUnproject:
    @given(seeds)
    @settings(deadline=None, max_examples=25)
    def test_round_trip(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        pose = random_pose(rng)
        depth_m = torch.from_numpy(rng.uniform(0.1, 8, size=(12, 17)))
        points = geometry.unproject(depth_m, INTRINSICS, pose)
        pixel_uv, z_m = geometry.project(points.reshape(-1, 3), INTRINSICS, pose)
        column, row = np.meshgrid(np.arange(17), np.arange(12))
        np.testing.assert_allclose(pixel_uv, np.stack([column, row], -1).reshape(-1, 2), rtol=0, atol=1e-8)
        np.testing.assert_allclose(z_m, depth_m.reshape(-1), rtol=0, atol=1e-11)

    def test_depth_holes_are_nan_and_dtype_is_the_camera_s(self) -> None:
        depth_m = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float32)
        points = geometry.unproject(depth_m, INTRINSICS, torch.eye(4, dtype=torch.float64))
        assert points.dtype == torch.float64
        assert torch.isnan(points).all(-1).tolist() == [[False, True], [True, False]]
        assert points[1, 1, 2] == 2.0


class TestRigidError:
    def test_zero_for_rigid(self) -> None:
        assert geometry.rigid_error(random_pose(np.random.default_rng(0))) < 1e-14

    def test_measures_the_largest_deviation(self) -> None:
        scaled = torch.eye(4, dtype=torch.float64)
        scaled[0, 0] = 1.1
        assert geometry.rigid_error(scaled) == pytest.approx(0.21)
        last_row = torch.eye(4, dtype=torch.float64)
        last_row[3, 1] = 0.5
        assert geometry.rigid_error(torch.stack([scaled, last_row])) == 0.5

    @pytest.mark.parametrize("entry", [math.nan, math.inf, -math.inf])
    def test_not_finite(self, entry: float) -> None:
        pose = torch.eye(4, dtype=torch.float64)
        pose[1, 3] = entry
        assert geometry.rigid_error(pose) == math.inf

    def test_reflection_and_singular(self) -> None:
        mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
        assert geometry.rigid_error(mirror) == math.inf
        assert geometry.rigid_error(torch.zeros(4, 4, dtype=torch.float64)) == math.inf


class TestOrthonormalize:
    @given(seeds)
    @settings(deadline=None, max_examples=25)
    def test_repairs_written_digits(self, seed: int) -> None:
        exact = random_pose(np.random.default_rng(seed))
        written = torch.from_numpy(np.round(exact.numpy(), 3))
        mended = geometry.orthonormalize(written)
        assert geometry.rigid_error(mended) < 1e-14
        np.testing.assert_allclose(mended, exact, rtol=0, atol=2e-3)
        assert torch.equal(mended[:3, 3], written[:3, 3])

    @given(seeds)
    @settings(deadline=None, max_examples=25)
    def test_is_the_nearest_rotation(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        pose = torch.from_numpy(rng.normal(size=(4, 4)))  # as likely a reflection as not
        mended = geometry.orthonormalize(pose)
        assert geometry.rigid_error(mended) < 1e-12
        best = np.linalg.norm(mended[:3, :3] - pose[:3, :3])
        for rotation in Rotation.random(50, random_state=rng).as_matrix():
            assert best <= np.linalg.norm(rotation - pose[:3, :3].numpy()) + 1e-12

    def test_batch(self) -> None:
        rng = np.random.default_rng(5)
        poses = torch.from_numpy(rng.normal(size=(3, 4, 4)))
        torch.testing.assert_close(
            geometry.orthonormalize(poses)[1], geometry.orthonormalize(poses[1]), rtol=0, atol=1e-12
        )


class TestLookAt:
    def test_target_in_the_middle_and_up_is_up(self) -> None:
        eye, target, up = (
            torch.tensor(v, dtype=torch.float64) for v in ([1.0, 2.0, 1.5], [3.0, -1.0, 0.5], [0.0, 0.0, 2.0])
        )
        pose = geometry.look_at(eye, target, up)
        assert geometry.rigid_error(pose) < 1e-14
        points = torch.stack([target, target + 0.1 * up])
        pixel_uv, z_m = geometry.project(points, INTRINSICS, pose)
        np.testing.assert_allclose(pixel_uv[0], INTRINSICS[:2, 2], atol=1e-9)
        assert float(z_m[0]) == pytest.approx(float((target - eye).norm()))
        assert pixel_uv[1, 1] < pixel_uv[0, 1]  # v grows downwards
        np.testing.assert_allclose(geometry.invert_rigid(pose)[:3, 3], eye, atol=1e-12)

    def test_right_is_right(self) -> None:
        pose = geometry.look_at(
            torch.zeros(3), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
        ).double()
        seen = geometry.transform(torch.tensor([[1.0, -0.5, 0.0]], dtype=torch.float64), pose)
        np.testing.assert_allclose(seen, [[0.5, 0.0, 1.0]], atol=1e-7)  # facing +x, -y is to the right

    @pytest.mark.parametrize("target", [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    def test_undefined_directions(self, target: list[float]) -> None:
        with pytest.raises(ValueError, match="not parallel to up"):
            geometry.look_at(torch.zeros(3), torch.tensor(target), torch.tensor([0.0, 0.0, 1.0]))


def sample_one(grid: np.ndarray, u: float, v: float, height: int, width: int) -> np.ndarray:
    """Bilinear by hand: a cell's centre lies in the middle of its share of the image's area."""
    _, h, w = grid.shape
    x = min(max((u + 0.5) * w / width - 0.5, 0), w - 1)
    y = min(max((v + 0.5) * h / height - 0.5, 0), h - 1)
    x0, y0 = int(x), int(y)
    x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
    top = grid[:, y0, x0] * (1 - (x - x0)) + grid[:, y0, x1] * (x - x0)
    bottom = grid[:, y1, x0] * (1 - (x - x0)) + grid[:, y1, x1] * (x - x0)
    return top * (1 - (y - y0)) + bottom * (y - y0)


class TestSampleGrid:
    @given(seeds)
    @settings(deadline=None, max_examples=25)
    def test_matches_bilinear_by_hand(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        grid = rng.normal(size=(3, 4, 6))
        uv = rng.uniform((-3, -3), (35, 23), size=(10, 2))  # also beyond the image: the border holds
        sampled = geometry.sample_grid(torch.from_numpy(grid), torch.from_numpy(uv), (20, 32))
        expected = np.stack([sample_one(grid, u, v, 20, 32) for u, v in uv])
        np.testing.assert_allclose(sampled, expected, rtol=0, atol=1e-12)

    def test_matches_interpolate_at_pixel_centres(self) -> None:
        features = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        row, column = torch.meshgrid(torch.arange(9.0), torch.arange(13.0), indexing="ij")
        uv = torch.stack([column, row], -1).reshape(1, -1, 2).expand(2, -1, -1)
        sampled = geometry.sample_grid(features, uv, (9, 13))
        upsampled = torch.nn.functional.interpolate(features, size=(9, 13), mode="bilinear")
        np.testing.assert_allclose(sampled, upsampled.flatten(2).transpose(1, 2), rtol=0, atol=1e-6)

    def test_half_precision_and_no_pixels(self) -> None:
        features = torch.ones(5, 3, 4, dtype=torch.float16)
        sampled = geometry.sample_grid(features, torch.zeros(2, 2), (9, 13))
        assert sampled.dtype == torch.float32
        assert sampled.tolist() == [[1.0] * 5] * 2
        assert geometry.sample_grid(features, torch.zeros(0, 2), (9, 13)).shape == (0, 5)

    def test_gradient_reaches_the_grid(self) -> None:
        features = torch.zeros(1, 2, 2, requires_grad=True)
        geometry.sample_grid(features, torch.tensor([[0.0, 0.0]]), (2, 2)).sum().backward()
        assert features.grad is not None
        assert features.grad.tolist() == [[[1.0, 0.0], [0.0, 0.0]]]
