# SPDX-License-Identifier: Apache-2.0
"""Equal things get one number, unequal ones never do."""

import numpy as np

from r1_mllm.rollout.distinct import Distinct


def test_equal_pixels_under_equal_keys_are_one():
    first = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    swapped = first[::-1]  # the same sum
    known = Distinct()
    asked = [("a", first), ("a", swapped), ("b", first), ("a", first.copy()), ("a", None), ("a", None), ("b", swapped)]
    assert [known.number(*one) for one in asked] == [0, 1, 2, 0, 3, 3, 4]
    assert known.count == 5
    assert known.number("a", np.float32([[1.0, 2.0, 3.0, 4.0]])) == 5  # the same numbers, another shape
