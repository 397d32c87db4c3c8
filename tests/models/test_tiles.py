# SPDX-License-Identifier: Apache-2.0
"""Products of a few rows are those of numpy, and a row's numbers do not depend on what is beside it."""

import numpy as np
import pytest

from r1_mllm.models import host

if not host.is_there():
    pytest.skip("needs numba and a Paddle with MKL", allow_module_level=True)

from r1_mllm.models import tiles


def values(*shape, seed=1):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def packed(weight, first=0, width=None, transposed=False):
    width = width or weight.shape[0 if transposed else 1]
    out = np.full([-(-width // tiles.BLOCK), weight.shape[1 if transposed else 0], tiles.BLOCK], np.nan, np.float32)
    tiles.pack(weight, first, width, transposed, out)
    return out


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 13, 16])
@pytest.mark.parametrize(("inner", "columns"), [(0, 40), (1, 32), (37, 70), (64, 5), (33, 80), (150, 96)])
def test_products_of_windows(rows, inner, columns, turned):
    left, right = values(rows, inner + 3), values(inner, columns + 2)
    out = np.full([rows, columns + 4], 2.0, np.float32)
    want = left[:, :inner].astype(np.float64) @ right[:, :columns]
    if turned:
        left = np.ascontiguousarray(left.T)
    multiply = tiles.turned_product if turned else tiles.product
    a, b, c = (array.ctypes.data for array in (left, right, out))
    for add in (0, 1):
        multiply(rows, columns, inner, a, left.shape[1], b, columns + 2, c, columns + 4, add)
    np.testing.assert_allclose(out[:, :columns], 2 * want, rtol=1e-5, atol=1e-5 * max(1, inner / 75))
    assert (out[:, columns:] == 2.0).all()  # nothing beside the window is touched


@pytest.mark.parametrize("transposed", [False, True])
def test_packed_products_shared_out_among_threads(transposed):
    weight, x = values(37, 118), values(5, 37)
    blocks = packed(np.ascontiguousarray(weight.T) if transposed else weight, 11, 100, transposed)
    assert blocks.shape == (4, 37, 32) and (blocks[3, :, 4:] == 0).all()
    out = np.full([5, 100], np.nan, np.float32)
    for thread in range(3):
        tiles.packed_product(5, 100, 37, x.ctypes.data, 37, blocks.ctypes.data, out.ctypes.data, 100, 0, thread, 3)
    np.testing.assert_allclose(out, x.astype(np.float64) @ weight[:, 11:111], rtol=1e-5, atol=1e-5)


def test_a_row_gets_the_same_bits_among_any_others():
    weight, x = values(50, 64), values(15, 50)
    blocks = packed(weight)

    def times(rows):
        out = np.empty([len(rows), 64], np.float32)
        a = rows.ctypes.data
        tiles.packed_product(len(rows), 64, 50, a, 50, blocks.ctypes.data, out.ctypes.data, 64, 0, 0, 1)
        return out

    together = times(x)
    for i in range(15):
        np.testing.assert_array_equal(times(x[i : i + 1]), together[i : i + 1])
