"""Points that others hide: on plain geometry, on a street with all labels, and through the pairing."""

from __future__ import annotations

import numpy as np
import torch

from fixtures_check import YAWS, street
from scenelift.config import PairingConfig
from scenelift.occlusion import hidden
from scenelift.pairing import pair_points

SIZE = (90, 120)
NONE = PairingConfig(depth_test="none", min_depth_m=1.0)
CLOUD = PairingConfig(depth_test="cloud", min_depth_m=1.0)


def grid(step: int = 2) -> torch.Tensor:
    row, column = np.mgrid[: SIZE[0] : step, : SIZE[1] : step]
    return torch.from_numpy(np.stack([column.ravel(), row.ravel()], 1).astype(np.float32))


def test_what_lies_behind_a_box_is_hidden_and_what_lies_beside_it_is_not() -> None:
    uv = grid()
    box = ((uv > 40) & (uv < 60)).all(1)
    points = torch.cat([uv, uv[box]])
    z_m = torch.cat([torch.full((len(uv),), 20.0), torch.full((int(box.sum()),), 5.0)])
    found = hidden(points, z_m, SIZE, 0.25)
    inner = ((uv > 43) & (uv < 57)).all(1)
    assert found[: len(uv)][inner].all()
    assert not found[: len(uv)][~box].any()
    assert not found[len(uv) :].any()


def test_ground_and_walls_in_plain_view_are_not_hidden() -> None:
    uv = grid()
    below = uv[:, 1] > 45
    ground = 150.0 / (uv[:, 1] - 44).clamp(min=1)
    z_m = torch.where(below, ground, torch.full_like(ground, 150.0))
    assert not hidden(uv, z_m, SIZE, 0.25).any()


def test_few_and_no_points() -> None:
    assert hidden(torch.zeros(0, 2), torch.zeros(0), SIZE, 0.25).shape == (0,)
    assert not hidden(torch.zeros(1, 2), torch.ones(1), (1, 1), 0.25).any()


def test_on_a_street_most_wrong_pairs_go_and_the_right_ones_stay() -> None:
    source = street(6, tuple(YAWS))
    assert source.truth is not None
    counts = {}
    for config in (NONE, CLOUD):
        wrong = total = 0
        for name in source.names("train"):
            scene, truth = source.scene(name), source.truth.scene(name)
            assert truth is not None
            pairs = pair_points(scene.points_world, scene.frames, config)
            row, column = pairs.rowcol()
            for index, frame in enumerate(scene.frames):
                rows, pixels = pairs.of_frame(index), source.truth.frame(name, frame.name)
                assert pixels is not None
                seen = pixels.labels[row[rows], column[rows]]
                wrong += int((seen != truth.labels[pairs.point_index[rows]]).sum())
                total += len(seen)
        counts[config.depth_test] = (wrong, total - wrong)
    (wrong, right), (wrong_left, right_left) = counts["none"], counts["cloud"]
    print(f"wrong pairs {wrong:,} -> {wrong_left:,}, right ones {right:,} -> {right_left:,}")
    assert wrong_left < 0.5 * wrong
    assert right_left > 0.98 * right


def test_the_result_depends_neither_on_chunks_nor_on_the_order_of_points() -> None:
    scene = street(1).scene("turn_0")
    pairs = pair_points(scene.points_world, scene.frames, CLOUD)
    again = pair_points(scene.points_world, scene.frames, CLOUD, chunk=256)
    assert np.array_equal(pairs.point_index, again.point_index)
    order = np.random.default_rng(0).permutation(len(scene.points_world))
    shuffled = pair_points(scene.points_world[order], scene.frames, CLOUD)
    for index in range(len(scene.frames)):
        mine = pairs.point_index[pairs.of_frame(index)]
        theirs = np.sort(order[shuffled.point_index[shuffled.of_frame(index)]])
        assert np.array_equal(mine, theirs)
