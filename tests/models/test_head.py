# SPDX-License-Identifier: Apache-2.0
"""Blockwise log-probabilities against the plain formula."""

import numpy as np
import paddle
import pytest

from r1_mllm.models import head


def plain(hidden, weight, targets, temperature):
    """float64 log-softmax by the formula."""
    logits = hidden.astype(np.float64) @ weight.T.astype(np.float64) / temperature
    top = logits.max(1, keepdims=True)
    return (logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True)))[np.arange(len(targets)), targets]


@pytest.fixture(params=["one block", "blocks of two rows"])
def blocks(request, monkeypatch):
    if request.param != "one block":
        monkeypatch.setattr(head, "BLOCK_ELEMENTS", 2 * 11)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_match_the_formula(blocks, temperature):
    rng = np.random.default_rng(5)
    hidden, weight = rng.normal(size=(5, 4)).astype(np.float32), rng.normal(size=(11, 4)).astype(np.float32)
    targets, slope = np.array([3, 0, 10, 3, 7]), np.array([1.0, -2.0, 0.5, 3.0, -1.0], np.float32)
    leaves = [paddle.to_tensor(array, stop_gradient=False) for array in (hidden, weight)]
    logp = head.token_logp(*leaves, paddle.to_tensor(targets), temperature)
    np.testing.assert_allclose(logp.numpy(), plain(hidden, weight, targets, temperature), atol=1e-5)
    (logp * paddle.to_tensor(slope)).sum().backward()
    logits = hidden.astype(np.float64) @ weight.T / temperature
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    error = (np.eye(11)[targets] - probs) * slope[:, None] / temperature
    np.testing.assert_allclose(leaves[0].grad.numpy(), error @ weight, atol=1e-5)
    np.testing.assert_allclose(leaves[1].grad.numpy(), error.T @ hidden, atol=1e-5)


def test_very_small_probabilities_are_exact(blocks):
    hidden, weight = np.array([[100.0]], np.float32), np.array([[1.0], [-1.0], [0.0]], np.float32)
    for target, want in ((0, 0.0), (1, -200.0), (2, -100.0)):
        got = head.token_logp(paddle.to_tensor(hidden), paddle.to_tensor(weight), paddle.to_tensor([target]))
        assert got.item() == pytest.approx(want, abs=1e-4)


def test_entropy_of_a_fair_choice_is_log_n(blocks):
    hidden, weight = paddle.zeros([3, 4]), paddle.ones([11, 4])
    logp, entropy = head.token_logp_and_entropy(hidden, weight, paddle.to_tensor([1, 2, 3]))
    np.testing.assert_allclose(entropy.numpy(), np.log(11), atol=1e-5)
    np.testing.assert_allclose(logp.numpy(), -np.log(11), atol=1e-5)
