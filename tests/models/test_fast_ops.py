# SPDX-License-Identifier: Apache-2.0
"""The bare operators do what the public ones do."""

import numpy as np
import paddle
import pytest

from r1_mllm.models import fast_ops


def tensor(*shape):
    return paddle.to_tensor(np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32))


CASES = {
    "reshape": lambda ops: ops.reshape(tensor(2, 6), [3, 4]),
    "transpose": lambda ops: ops.transpose(tensor(2, 3, 4), [1, 0, 2]),
    "split": lambda ops: ops.split(tensor(2, 3, 6), [1, 3, 2], 2)[1],
    "concat": lambda ops: ops.concat([tensor(2, 3), tensor(2, 3)], 1),
    "multiply": lambda ops: ops.multiply(tensor(2, 3), tensor(2, 3)),
    "matmul": lambda ops: ops.matmul(tensor(2, 3), tensor(3, 5)),
    "bmm": lambda ops: ops.bmm(tensor(2, 3, 4), tensor(2, 4, 5)),
    "addmm": lambda ops: ops.addmm(tensor(2, 5), tensor(2, 3), tensor(3, 5)),
    "addmm row": lambda ops: ops.addmm(tensor(5), tensor(2, 3), tensor(3, 5)),
    "baddbmm": lambda ops: ops.baddbmm(tensor(2, 3, 5), tensor(2, 3, 4), tensor(2, 4, 5)),
    "softmax": lambda ops: ops.softmax(tensor(2, 3, 4)),
    "silu": lambda ops: ops.silu(tensor(2, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_bare_and_public_operators_agree(name):
    got, want = (CASES[name](ops).numpy() for ops in (fast_ops._Bare, fast_ops._Public))
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("ops", [fast_ops._Bare, fast_ops._Public])
def test_a_column_is_written_in_place(ops):
    cache = paddle.zeros([2, 3, 4])
    ops.write_column(cache, paddle.full([2, 1, 4], 2.0), 1, 1)
    ops.write_column(cache, paddle.full([2, 3, 1], 5.0), 3, 2)
    want = np.zeros((2, 3, 4))
    want[:, 1], want[:, :, 3] = 2.0, 5.0
    np.testing.assert_array_equal(cache.numpy(), want)


def test_this_paddle_takes_the_fast_way():
    assert fast_ops._ops is fast_ops._Bare
