# SPDX-License-Identifier: Apache-2.0
"""Orders and positions of patches, by hand."""

import numpy as np

from r1_mllm.models import vision


def test_positions_walk_through_merge_blocks():
    got = vision.patch_positions(np.array([[1, 2, 4]]), merge=2)
    assert got.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]


def test_positions_repeat_with_every_temporal_step():
    got = vision.patch_positions(np.array([[2, 2, 2]]), merge=2)
    assert got.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]] * 2


def test_every_temporal_step_is_a_segment():
    assert vision.frame_lengths(np.array([[2, 4, 6], [1, 2, 2]])).tolist() == [24, 24, 4]


def test_windows_cut_off_at_the_border_come_first():
    # 3 x 5 merged tokens, windows of 2 x 2: 2x2 2x2 2x1 / 1x2 1x2 1x1
    order, lengths = vision.window_segments(np.array([[1, 6, 10]]), merge=2, window=2)
    assert lengths.tolist() == [4, 8, 8, 8, 16, 16]
    tokens = order.reshape(-1, 4)[:, 0] // 4
    assert tokens.tolist() == [14, 4, 9, 10, 11, 12, 13, 0, 1, 5, 6, 2, 3, 7, 8]
    assert sorted(order.tolist()) == list(range(60))


def test_windows_do_not_cross_pictures():
    order, lengths = vision.window_segments(np.array([[1, 4, 4], [1, 4, 4]]), merge=2, window=4)
    assert lengths.tolist() == [16, 16]
    assert order.tolist() == list(range(32))
