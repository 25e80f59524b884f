from dataclasses import replace

import numpy as np

from fixtures_capture import INTRINSICS, SHAPE, room_frames
from scenelift.scenes.agreement import (
    PAIR_OFFSETS,
    DepthView,
    agreement,
    best_agreement,
    median_depth_m,
    pairs_of,
    sample_frames,
)


def test_agreement_against_a_loop_over_pixels():
    first, second = (DepthView.of(frame) for frame in room_frames(2))
    found = agreement(first, second)
    second_from_first = second.cam_from_world.numpy() @ np.linalg.inv(first.cam_from_world.numpy())
    measured = landed = agreeing = 0
    for row in range(0, SHAPE[0], 2):
        for column in range(0, SHAPE[1], 2):
            z = float(first.depth_m[row, column])
            measured += 1
            ray = np.linalg.inv(INTRINSICS) @ [column, row, 1.0]
            point = second_from_first @ [*(z * ray), 1.0]
            if point[2] <= 0:
                continue
            u, v, _ = INTRINSICS @ (point[:3] / point[2])
            if not (-0.5 <= u < 63.5 and -0.5 <= v < 47.5):
                continue
            landed += 1
            there = float(second.depth_m[int(np.floor(v + 0.5)), int(np.floor(u + 0.5))])
            agreeing += abs(there - point[2]) <= 0.05 * point[2]
    assert (found.measured, found.landed, found.agreeing) == (measured, landed, agreeing)
    assert 0 < agreeing < landed < measured


def test_a_frame_agrees_with_itself_and_keeps_its_best_partner():
    frames = room_frames(3)
    views = {i: DepthView.of(frame) for i, frame in enumerate(frames)}
    same = agreement(views[0], views[0])
    assert same.seen_again == same.accuracy == 1.0
    pairs = pairs_of(views)
    assert [(a.key, b.key) for a, b in pairs] == [("room/0", "room/1"), ("room/1", "room/2")]
    best = best_agreement(pairs)
    assert best["room/1"].seen_again == max(
        agreement(views[1], views[0]).seen_again, agreement(views[1], views[2]).seen_again
    )


def test_sampling_keeps_groups_of_comparable_frames():
    assert sample_frames(5, 32) == [0, 1, 2, 3, 4]
    chosen = sample_frames(1000, 32)
    assert len(chosen) == 32
    starts = [index for index in chosen if all(index + offset in chosen for offset in PAIR_OFFSETS)]
    assert len(starts) >= 8
    assert max(chosen) > 800
    assert sample_frames(0, 8) == []


def test_large_views_are_thinned_and_no_depth_has_no_median():
    frame = room_frames(1)[0]
    large = replace(
        frame,
        image=np.zeros((480, 640, 3), np.uint8),
        depth_m=np.arange(480 * 640, dtype=np.float32).reshape(480, 640),
    )
    view = DepthView.of(large)
    assert view.depth_m.shape == (120, 160)
    assert view.depth_m[3, 5] == large.depth_m[12, 20]
    assert np.allclose(view.intrinsics[:2].numpy() * 4, INTRINSICS[:2])
    assert DepthView.of(replace(frame, depth_m=None)) is None
    assert np.isnan(median_depth_m([]))
