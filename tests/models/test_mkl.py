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
