# SPDX-License-Identifier: Apache-2.0
"""The table's gradient is Paddle's own, added to what is there."""

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from r1_mllm.models import embedding, head, host

pytestmark = pytest.mark.skipif(not host.is_there(), reason="needs numba and a Paddle with MKL")
IDS = np.array([3, 0, 3, 5, 3, 0])


def parameter():
    table = paddle.to_tensor(np.random.default_rng(3).normal(size=[7, 16]).astype(np.float32))
    table.stop_gradient = False
    return table


def gradient(look_up, tied):
    """Of a look-up whose rows go on, through weights, to the table again (tied) or not."""
    table, ids = parameter(), paddle.to_tensor(IDS)
    states = look_up(ids, table) * paddle.arange(96, dtype="float32").reshape([6, 16])
    loss = head.token_logp(states, table, ids, 0.7).sum() if tied else (states * states).sum()
    loss.backward()
    loss = look_up(ids[:2], table).sum()  # a second pass adds to the first
    loss.backward()
    return table.grad.numpy()


@pytest.mark.parametrize("tied", [False, True])
def test_the_gradient_is_paddles(tied):
    got = gradient(embedding.rows, tied)
    want = gradient(F.embedding, tied)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    assert (np.abs(got[[0, 3, 5]]).max(axis=1) > 0).all()


def test_a_frozen_table_gets_none():
    table = parameter()
    table.stop_gradient = True
    assert embedding.rows(paddle.to_tensor(IDS), table).stop_gradient
    with paddle.no_grad():
        assert embedding.rows(paddle.to_tensor(IDS), parameter()).stop_gradient
