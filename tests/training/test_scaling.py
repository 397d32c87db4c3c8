# SPDX-License-Identifier: Apache-2.0
"""The loss scale of float16 runs."""

from r1_mllm.training.scaling import LossScale


def test_the_scale_halves_on_overflow_and_grows_after_good_steps():
    scale = LossScale(True, value=8.0, growth_interval=3)
    assert scale.overflow() and scale.value == 4.0
    for _ in range(3):
        scale.good()
    assert scale.value == 8.0 and scale.num_good == 0
    scale.good()
    again = LossScale(True)
    again.restore(scale.state())
    assert (again.value, again.num_good) == (8.0, 1)


def test_at_one_the_scale_is_not_to_blame():
    scale = LossScale(True, value=2.0)
    assert scale.overflow() and not scale.overflow()


def test_without_float16_nothing_is_scaled():
    scale = LossScale(False)
    scale.good()
    assert scale.value == 1.0 and not scale.overflow()
