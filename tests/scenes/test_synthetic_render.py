"""The ray caster of generated rooms against a slow reference."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scenelift.scenes.synthetic.cameras import look_at
from scenelift.scenes.synthetic.render import cast, hit_points, pinhole
from scenelift.scenes.synthetic.shapes import BOX, CYLINDER, Item, Part, Solids, box, yaw_matrix
from scenelift.scenes.synthetic.textures import Material

GREY = Material((0.5, 0.5, 0.5), (0.4, 0.4, 0.4))
ROOM = (4.0, 3.0, 2.5)


def inside(part: Part, points):
    """Which world points lie within a solid, by its definition."""
    x, y, z = (((points - part.center) @ part.rotation) / part.half).T
    if part.shape == BOX:
        return np.maximum(np.maximum(abs(x), abs(y)), abs(z)) <= 1
    if part.shape == CYLINDER:
        return (abs(z) <= 1) & (np.hypot(x, y) <= (1 + part.taper * z) / (1 + abs(part.taper)))
    return x * x + y * y + z * z <= 1


def shell():
    """Walls, floor and ceiling in the order and number of parts that the ray caster expects."""
    slab = box((0, 0, -9), (1, 1, 1), GREY)
    return [*(Item("wall", (slab, slab)) for _ in range(4)), Item("floor", (slab,)), Item("ceiling", (slab,))]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_cast_finds_what_marching_along_the_rays_finds(seed):
    rng = np.random.default_rng(seed)
    parts = []
    for shape in range(3):
        for _ in range(2):
            rotation = yaw_matrix(rng.uniform(0, 6)) @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
            rotation[:, 0] *= np.linalg.det(rotation)
            center = rng.uniform((-1.5, -1, 0.3), (0.5, 1, 2))
            taper = rng.uniform(-1, 1) if shape == CYLINDER else 0.0
            parts.append(Part(shape, center, rng.uniform(0.1, 0.5, 3), rotation, GREY, taper))
    eye = np.array((1.8, rng.uniform(-1.2, 1.2), rng.uniform(0.5, 2)))
    pose = look_at(eye, rng.uniform((-1.5, -0.5, 0.6), (0, 0.5, 1.6)))
    steps = np.linspace(0, 6, 4001)[1:]
    parts = [part for part in parts if np.linalg.norm(part.center - eye) > np.linalg.norm(part.half) + 0.05]
    solids = Solids.pack([*shell(), *(Item("chair", (part,)) for part in parts)])
    intrinsics = pinhole(10, 7, 1.2)
    rows, depth = cast(solids, ROOM, intrinsics, pose, 10, 7)
    points = hit_points(depth, intrinsics, pose)

    forward = pose[:3, :3].T @ np.linalg.inv(intrinsics)
    half, middle = np.array(ROOM) / 2, np.array((0, 0, ROOM[2] / 2))
    wrong = 0
    for v in range(7):
        for u in range(10):
            ray = forward @ (u, v, 1.0)
            along = eye + steps[:, None] * ray
            hits = [steps[at.argmax()] if (at := inside(part, along)).any() else np.inf for part in parts]
            out = steps[(np.abs(along - middle) > half).any(1).argmax()]
            first = min([*hits, out])
            row = 10 + int(np.argmin(hits)) if min(hits, default=np.inf) < out else None
            # marching in steps of 1.5 mm may step over an edge that is grazed
            wrong += abs(first - depth[v, u]) > 0.003 or (row is not None and row != rows[v, u])
            assert np.allclose(points[v, u], eye + depth[v, u] * ray, atol=1e-5)
            if rows[v, u] < 10:
                wall = int(np.abs((points[v, u] - middle) / half).argmax())
                assert rows[v, u] == [(0, 2), (4, 6), (8, 9)][wall][int(points[v, u][wall] > middle[wall])]
    assert wrong <= 2
