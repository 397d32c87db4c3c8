# SPDX-License-Identifier: Apache-2.0
import math

import pytest

from r1_mllm.report.intervals import paired_difference, wilson


def test_wilson_gives_the_published_values():
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775328), abs=1e-6)  # z^2 / (n + z^2)
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(165, 200) == pytest.approx((0.7663557, 0.8713948), abs=1e-6)
    assert wilson(3, 3)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_count_above_the_total_is_refused():
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson(3, 2)


def test_paired_difference_by_hand():
    # changes 1, 0, 0, -1, 1, 1: mean 1/3, sum of squares 4 - 6/9 = 10/3, variance 2/3, standard error 1/3
    mean, low, high = paired_difference(
        [False, True, False, True, False, False], [True, True, False, False, True, True]
    )
    assert mean == pytest.approx(1 / 3)
    assert (low, high) == pytest.approx((1 / 3 - 1.959964 / 3, 1 / 3 + 1.959964 / 3), abs=1e-6)


def test_equal_outcomes_differ_by_exactly_nothing():
    assert paired_difference([True, False], [True, False]) == (0.0, 0.0, 0.0)


def test_one_pair_says_nothing_and_unequal_lengths_are_refused():
    assert paired_difference([0], [1]) == (1.0, -math.inf, math.inf)
    with pytest.raises(ValueError, match="2 outcomes before and 1 after"):
        paired_difference([1, 1], [1])
