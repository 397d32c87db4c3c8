# SPDX-License-Identifier: Apache-2.0
"""Products of parts of matrices are those of the parts."""

import numpy as np
import paddle
import pytest

from r1_mllm.models import mkl

pytestmark = pytest.mark.skipif(mkl.library() is None, reason="this Paddle carries no MKL")

WINDOWS = {
    # name: shapes of left and right, columns of left and right, and how paddle.matmul says it
    "plain": ((5, 7), (3, 9), (2, 3), (1, 4), {}),
    "transpose_x": ((5, 7), (5, 9), (2, 3), (1, 4), {"transpose_x": True}),
    "transpose_y": ((5, 7), (4, 9), (2, 3), (1, 3), {"transpose_y": True}),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_products_of_column_windows(name):
    left_shape, right_shape, (left_first, left_width), (right_first, right_width), how = WINDOWS[name]
    rng = np.random.default_rng(4)
    left, right = (paddle.to_tensor(rng.normal(size=s).astype(np.float32)) for s in (left_shape, right_shape))
    x, y = left[:, left_first : left_first + left_width], right[:, right_first : right_first + right_width]
    want = paddle.matmul(x, y, **how).numpy()
    out = paddle.full([len(want), 8], 2.0)
    windows = mkl.Window(left, left_first, left_width), mkl.Window(right, right_first, right_width)
    for add in (False, True):
        mkl.product(*windows, mkl.Window(out, 3, want.shape[1]), **how, add=add)
    np.testing.assert_allclose(out.numpy()[:, 3 : 3 + want.shape[1]], 2 * want, rtol=1e-5, atol=1e-5)
    assert (out.numpy()[:, :3] == 2.0).all() and (out.numpy()[:, 3 + want.shape[1] :] == 2.0).all()


@pytest.mark.parametrize("kind", [mkl.Factor, mkl.PlainFactor])
@pytest.mark.parametrize("transposed", [False, True])
def test_factors_multiply_any_number_of_rows(kind, transposed):
    rng = np.random.default_rng(8)
    weight = rng.normal(size=(37, 70)).astype(np.float32)
    tensor = paddle.to_tensor(np.ascontiguousarray(weight.T) if transposed else weight)
    factor = kind(tensor, transposed)
    for rows in (1, 3, 64, 65):
        x, out = rng.normal(size=(rows, 37)).astype(np.float32), np.full([rows, 70], 5.0, np.float32)
        once, twice = factor.prepared(x, out, add=False), factor.prepared(x, out, add=True)
        once()
        twice()
        np.testing.assert_allclose(out, 2 * x @ weight, rtol=1e-4, atol=1e-4)


def test_a_packed_weight_keeps_its_numbers_and_a_large_one_is_not_packed(monkeypatch):
    weight = paddle.ones([4, 5])
    packed = mkl.factor(weight)
    weight.fill_(7.0)
    x, out = np.ones([2, 4], np.float32), np.empty([2, 5], np.float32)
    packed.prepared(x, out, add=False)()
    assert (out == 4.0).all()
    monkeypatch.setattr(mkl, "PACK_LIMIT", 79)
    assert isinstance(mkl.factor(weight), mkl.PlainFactor)
