# SPDX-License-Identifier: Apache-2.0
"""Tokens drawn and attention computed by compiled loops, alone and shared out among threads."""

import numpy as np
import pytest

from r1_mllm.models import host

if not host.is_there():
    pytest.skip("needs numba and a Paddle with MKL", allow_module_level=True)

from r1_mllm.models import crew
from r1_mllm.rollout import host_loops


def values(*shape, seed=1, size=1.0):
    return (np.random.default_rng([seed, *shape]).normal(size=shape) * size).astype(np.float32)


def draw(logits, temperature, allowed, uniforms, team=1):
    """Ids and log-probabilities."""
    ids, logprobs = np.full(len(logits), -7), np.full(len(logits), np.nan, np.float32)
    powers = np.empty([team, logits.shape[1]], np.float32)
    crew.Crew(team).run(host_loops.draw, logits, temperature, allowed, uniforms, powers, ids, logprobs)
    return ids, logprobs


def softmax(row):
    powers = np.exp(row - row.max())
    return powers / powers.sum()


@pytest.mark.parametrize("team", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_distribution_without_the_banned(temperature, team):
    logits = np.tile(values(1, 700, size=2.0), [4000, 1])
    allowed = np.ones(700, np.float32)
    allowed[np.argsort(-logits[0])[:3]] = 0  # the three most likely are banned
    probs = softmax(logits[0].astype(np.float64) / temperature)
    uniforms = ((np.arange(4000) + 0.5) / 4000).astype(np.float32)
    before = logits.copy()
    ids, logprobs = draw(logits, temperature, allowed, uniforms, team)
    np.testing.assert_array_equal(logits, before)
    kept = probs * allowed
    want = np.searchsorted(np.cumsum(kept) / kept.sum(), uniforms, side="right")
    assert (ids != want).sum() <= 2  # a uniform on a border
    np.testing.assert_allclose(logprobs, np.log(probs[ids]), rtol=1e-5, atol=1e-5)


def test_the_largest_uniform_draws_an_allowed_id():
    logits, allowed = np.zeros([3, 600], np.float32), np.zeros(600, np.float32)
    allowed[[5, 300]] = 1
    ids, logprobs = draw(logits, 1.0, allowed, np.array([0.0, 0.5, 0.99999994], np.float32))
    assert ids.tolist() == [5, 300, 300]
    np.testing.assert_allclose(logprobs, -np.log(600), rtol=1e-6)
