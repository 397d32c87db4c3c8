# SPDX-License-Identifier: Apache-2.0
"""Advantages worked out by hand."""

import numpy as np
import pytest

from r1_mllm.config import ObjectiveConfig
from r1_mllm.objectives import advantages
from r1_mllm.rewards import weighted_sum

NAN = float("nan")


def test_a_group_is_centred_and_divided_by_its_sample_deviation():
    ours = advantages.group_relative(np.array([[1.0, 0.0, 0.0, 2.0]]))
    std = np.sqrt((0.0625 + 2 * 0.5625 + 1.5625) / 3) + 1e-4
    assert ours[0] == pytest.approx([0.25 / std, -0.75 / std, -0.75 / std, 1.25 / std])


def test_equal_rewards_give_exact_zeros_whatever_the_float_mean_is():
    for value in (0.7, 1 / 3, 0.1, 1e-9, 123456.789):
        for size in (3, 6, 7, 8):
            assert not advantages.group_relative(np.full((1, size), value)).any()
    rounded = np.full((1, 7), 0.7)
    rounded[0, 3] += 1e-16
    assert not advantages.group_relative(rounded).any()


def test_the_batch_deviation_counts_every_group():
    rewards = np.array([[0.0, 4.0], [1.0, 1.0]])
    std = np.sqrt((2.25 + 6.25 + 0.25 + 0.25) / 3) + 1e-4
    assert advantages.group_relative(rewards, "batch") == pytest.approx(np.array([[-2 / std, 2 / std], [0, 0]]))
    wide = advantages.group_relative(rewards, "batch", population=np.array([0.0, 4.0, 1.0, 1.0, 100.0]))
    assert abs(wide).max() < 0.05


def test_no_scale_leaves_the_difference():
    assert advantages.group_relative(np.array([[0.0, 3.0, 6.0]]), "none").tolist() == [[-3.0, 0.0, 3.0]]


def test_leave_one_out_subtracts_the_mean_of_the_others():
    ours = advantages.group_relative(np.array([[0.0, 3.0, 9.0]]), "none", "leave_one_out")
    assert ours[0] == pytest.approx([0 - 6, 3 - 4.5, 9 - 1.5])


def test_an_unscored_completion_is_left_out_and_gets_zero():
    ours = advantages.group_relative(np.array([[0.0, NAN, 2.0]]), "none")
    assert ours.tolist() == [[-1.0, 0.0, 1.0]]
    alone = advantages.group_relative(np.array([[NAN, NAN, 2.0], [NAN, NAN, NAN]]), "group")
    assert not alone.any()


def test_weights_skip_the_rewards_that_do_not_apply():
    parts = np.array([[[1.0, NAN], [2.0, 4.0], [NAN, NAN]]])
    total = weighted_sum(parts, np.array([1.0, 0.5]))
    assert total[0, :2].tolist() == [1.0, 4.0] and np.isnan(total[0, 2])


def test_normalize_then_sum_gives_each_reward_its_own_scale():
    parts = np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 100.0], [1.0, 100.0]]])
    config = ObjectiveConfig(multi_objective_aggregation="normalize_then_sum")
    weights = np.ones(2)
    ours = advantages.compute(weighted_sum(parts, weights), parts, weights, config)
    assert ours[0, 1] == pytest.approx(ours[0, 2], abs=1e-3)
    assert ours[0, 0] == pytest.approx(-ours[0, 3])
    assert ours[0, 3] > 1


def test_one_completion_per_prompt_is_refused():
    with pytest.raises(ValueError, match="num_generations is 1"):
        advantages.group_relative(np.zeros((3, 1)))
