# SPDX-License-Identifier: Apache-2.0
"""Matrices turned by squares are those that numpy turns, wherever they begin and whatever is left over."""

import numpy as np
import pytest

from r1_mllm.models import host

if not host.is_there():
    pytest.skip("needs numba and a Paddle with MKL", allow_module_level=True)

from r1_mllm.models.turning import transpose


def window(rows, columns, dtype, shift):
    """A C-contiguous array of sevens whose first number stands `shift` numbers after a multiple of 64 bytes."""
    memory = np.full(rows * columns + 128, 7, dtype)
    begin = -memory.ctypes.data % 64 // memory.itemsize + shift
    return memory, memory[begin : begin + rows * columns].reshape(rows, columns)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize(
    ("shape", "before", "after"),
    [
        ((32, 16), 0, 0),
        ((64, 48), 32, 32),  # rows of the result at multiples of 64 bytes: written past the caches
        ((64, 48), 5, 27),  # at other places
        ((37, 70), 3, 0),  # rows and columns left over
        ((31, 15), 0, 2),  # nothing but those
        ((200, 7), 16, 16),
        ((1, 300), 0, 0),
    ],
)
@pytest.mark.parametrize("shift", [0, 3])
def test_a_matrix_is_turned_into_its_columns(shape, before, after, shift, dtype):
    rows, columns = shape
    source = np.random.default_rng([rows, columns]).integers(0, np.iinfo(dtype).max, shape, dtype)
    memory, out = window(columns, before + rows + after, dtype, shift)
    transpose(source, out, before)
    np.testing.assert_array_equal(out[:, before : before + rows], source.T)
    out[:, before : before + rows] = 7
    assert (memory == 7).all()  # nothing beside them is touched
