# SPDX-License-Identifier: Apache-2.0
"""Positions worked out by hand."""

import numpy as np
import pytest

from r1_mllm.processing.positions import rope_positions

IMAGE, VIDEO = 90, 91
MARKS = (IMAGE, VIDEO)


def test_text_moves_all_axes_together():
    positions, following = rope_positions(np.array([5, 6, 7]), None, MARKS)
    assert positions.tolist() == [[0, 1, 2]] * 3 and following == 3


def test_a_picture_spreads_and_text_resumes_after_its_longer_side():
    ids = np.array([1, 2, *[IMAGE] * 6, 3])  # 2 x 3 merged tokens
    positions, following = rope_positions(ids, np.array([[1, 4, 6]]), MARKS)
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    assert following == 6


def test_a_prompt_may_end_with_a_picture_and_pictures_may_touch():
    positions, following = rope_positions(np.array([IMAGE] * 2 + [IMAGE]), np.array([[1, 2, 4], [1, 2, 2]]), MARKS)
    assert positions.tolist() == [[0, 0, 2], [0, 0, 2], [0, 1, 2]] and following == 3


def test_a_video_takes_time_and_fractions_of_a_position_are_cut():
    ids = np.array([1, *[VIDEO] * 4, 2])  # 4 steps of one merged token, 0.75 s each at 2 positions per second
    grids = np.array([[4, 2, 2]])
    positions, following = rope_positions(
        ids, grids, MARKS, tokens_per_second=2, second_per_grid=np.array([0.75], np.float32)
    )
    assert positions.tolist() == [[0, 1, 2, 4, 5, 6], [0, 1, 1, 1, 1, 6], [0, 1, 1, 1, 1, 6]]
    assert following == 7
    plain, _ = rope_positions(ids, grids, MARKS)
    assert plain[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_merge_size_counts():
    positions, _ = rope_positions(np.array([IMAGE] * 2), np.array([[1, 3, 6]]), MARKS, merge_size=3)
    assert positions.tolist() == [[0, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("ids", "grids", "message"),
    [
        ([1, *[IMAGE] * 35], [[1, 12, 12]], "35 placeholder tokens for 36 visual tokens"),
        ([1, *[IMAGE] * 4], None, "4 placeholder tokens for 0 visual tokens"),
        ([1, 2], [[1, 4, 4]], "0 placeholder tokens for 4 visual tokens"),
        ([1, *[IMAGE] * 3], [[1, 3, 5]], "multiples of 2"),
        ([1, IMAGE, 2, IMAGE], [[1, 2, 4]], "do not stand in one run"),
    ],
)
def test_placeholders_must_match_their_grids(ids, grids, message):
    with pytest.raises(ValueError, match=message):
        rope_positions(np.array(ids), grids if grids is None else np.array(grids), MARKS)
