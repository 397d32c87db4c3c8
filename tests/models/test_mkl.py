# SPDX-License-Identifier: Apache-2.0
"""MKL's functions give the public operators' numbers, and inexact sums are never used."""

import numpy as np
import paddle
import pytest

from r1_mllm.models import mkl
from r1_mllm.models.dense_attention import DenseLayout, Rectangle, attend_dense
from r1_mllm.models.head import token_logp

pytestmark = pytest.mark.skipif(mkl.library() is None, reason="this Paddle carries no MKL")


def test_powers_are_held_between_two_limits():
    x = paddle.to_tensor([[-1e9, -87.0, -1.0], [0.0, 2.0, 1e9]])
    want = np.exp(np.array([[-87.0, -87.0, -1.0], [0.0, 2.0, 88.0]]))
    np.testing.assert_allclose(mkl.power_(x).numpy(), want, rtol=1e-6)
    assert x.numpy()[1, 1] == pytest.approx(7.389056)  # in place


def test_sigmoid_at_both_ends():
    x = paddle.to_tensor([-200.0, -2.0, 0.0, 3.0, 200.0])
    np.testing.assert_allclose(mkl.sigmoid(x).numpy(), [0.0, 0.11920292, 0.5, 0.95257413, 1.0], rtol=1e-6)
    assert x.numpy()[1] == -2.0  # x is left alone


@pytest.mark.parametrize("sums, sure", [([1e-19, 3.0], True), ([1e-21, 3.0], False), ([1.0, 1e21], False)])
def test_sums_out_of_range_are_not_sure(sums, sure):
    assert mkl.are_sure(paddle.to_tensor(sums)) is sure
    assert not mkl.are_sure(paddle.to_tensor([*sums, float("nan")]))


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


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("size", [1.0, 12.0])
def test_attention_with_scores_beyond_the_limits_is_exact(size):
    """At size 12 scores reach several hundred: plain powers would be infinite."""
    rng = np.random.default_rng(5)
    qkv = (rng.normal(size=(6, 12)) * size).astype(np.float32)  # one head of 4: [q | k | v]
    tokens = np.arange(6)[None]
    mask = np.where(np.tril(np.ones([6, 6])) > 0, 0.0, -1e9)[None].astype(np.float32)
    layout = DenseLayout([Rectangle(tokens * 3, tokens, tokens * 3 + 1, tokens * 3 + 2, mask)], 6, 1, 4, "float32")
    leaf = paddle.to_tensor(qkv, stop_gradient=False)
    out = attend_dense(leaf, layout)
    out.sum().backward()
    q, k, v = np.split(qkv.astype(np.float64), 3, axis=1)
    scores = q @ k.T + mask[0]
    assert (np.abs(scores[mask[0] == 0]).max() > 88) == (size > 1)
    weights = softmax(scores)
    np.testing.assert_allclose(out.numpy(), weights @ v, rtol=1e-4, atol=1e-5)
    grad_weights = np.ones([6, 4]) @ v.T
    grad_scores = weights * (grad_weights - (weights * grad_weights).sum(1, keepdims=True))
    want = np.concatenate([grad_scores @ k, grad_scores.T @ q, weights.T @ np.ones([6, 4])], axis=1)
    np.testing.assert_allclose(leaf.grad.numpy(), want, rtol=1e-3, atol=1e-4 * size**2)


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_logp_at_a_low_temperature_is_exact(temperature):
    """At 0.05 logits reach several hundred and the smallest log-probabilities -600."""
    rng = np.random.default_rng(6)
    hidden, weight = rng.normal(size=(7, 5)).astype(np.float32) * 3, rng.normal(size=(11, 5)).astype(np.float32) * 2
    targets = rng.integers(0, 11, 7)
    logits = (hidden.astype(np.float64) @ weight.T) / temperature
    assert (logits.max() > 88) == (temperature < 1)
    top = logits.max(1, keepdims=True)
    want = (logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True)))[np.arange(7), targets]
    assert (want.min() < -600) == (temperature < 1)
    leaves = [paddle.to_tensor(array, stop_gradient=False) for array in (hidden, weight)]
    logp = token_logp(*leaves, paddle.to_tensor(targets), temperature)
    np.testing.assert_allclose(logp.numpy(), want, rtol=1e-4, atol=1e-4)
    scale = np.arange(1.0, 8.0)
    (logp * paddle.to_tensor(scale.astype(np.float32))).sum().backward()
    slope = (np.eye(11)[targets] - softmax(logits)) * scale[:, None] / temperature
    np.testing.assert_allclose(leaves[0].grad.numpy(), slope @ weight, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(leaves[1].grad.numpy(), slope.T @ hidden, rtol=1e-3, atol=1e-3)
