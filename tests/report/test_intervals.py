# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from r1_mllm.report import intervals
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


def test_problems_are_counted_where_answers_to_one_resemble_each_other():
    # every problem is all right or all wrong: 8 answers tell no more than one would
    alike = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    low, high = intervals.wilson_of_means(alike)
    assert (low, high) == pytest.approx(intervals._wilson_of_share(4 / 6, 5))
    # half of the answers to every problem are right: 20 problems cannot differ more than by chance
    narrow = intervals.wilson_of_means([0.5, 0.625, 0.375, 0.5] * 5)
    assert 0.45 < narrow[0] < 0.5 < narrow[1] < 0.55
    assert intervals.wilson_of_means([0.0] * 10) == intervals.wilson(0, 10)
    assert intervals.wilson_of_means([1.0]) == intervals.wilson(1, 1) and intervals.wilson_of_means([]) == (0.0, 1.0)


def test_the_interval_of_means_covers_as_often_as_it_says():
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(400):
        shares = rng.binomial(8, rng.beta(0.6, 1.4, 60)) / 8
        low, high = intervals.wilson_of_means(shares.tolist())
        hits += low <= 0.3 <= high
    assert 0.92 < hits / 400 < 0.98
