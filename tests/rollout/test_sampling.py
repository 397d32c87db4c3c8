# SPDX-License-Identifier: Apache-2.0
"""Cuts by hand, and tokens drawn as often as they are likely."""

import numpy as np
import paddle
import pytest

from r1_mllm.config import RolloutConfig
from r1_mllm.models import kernels
from r1_mllm.rollout.sampling import Sampler, filter_probs, row_uniforms

PROBS = np.array([[0.4, 0.1, 0.3, 0.2]])


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        ({"top_k": 2}, [0, 2]),
        ({"top_p": 0.7}, [0, 2]),
        ({"top_p": 0.71}, [0, 2, 3]),
        ({"top_p": 0.01}, [0]),
        ({"min_p": 0.6}, [0, 2]),
        ({"top_k": 3, "top_p": 0.75}, [0, 2]),  # of the mass that top-k leaves, 0.9
        ({}, [0, 1, 2, 3]),
    ],
)
def test_cuts_keep_the_right_tokens(cut, kept):
    assert np.flatnonzero(filter_probs(PROBS, **cut)[0]).tolist() == kept


def test_ties_at_the_top_k_border_are_kept():
    assert np.flatnonzero(filter_probs(np.array([[0.3, 0.3, 0.3, 0.1]]), top_k=2)[0]).tolist() == [0, 1, 2]


def draws(config, logits, banned=(), num=4000):
    sampler = Sampler(config, logits.shape[1], banned)
    uniforms = row_uniforms(7, 0, 0, num)
    return sampler.choose(paddle.to_tensor(np.repeat(logits, num, 0)), uniforms, None)


@pytest.fixture(params=["host", "device"])
def drawing(request, monkeypatch):
    """The path a CPU takes, and the one of other devices."""
    if request.param == "device":
        monkeypatch.setattr(kernels, "on_cpu", lambda: False)


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("cut", [{}, {"top_p": 0.999}], ids=["plain", "filtered"])
def test_tokens_are_drawn_as_often_as_they_are_likely(cut):
    draw = draws(RolloutConfig(temperature=2.0, **cut), 2.0 * np.log(PROBS).astype(np.float32))
    share = np.bincount(draw.ids, minlength=4) / len(draw.ids)
    np.testing.assert_allclose(share, PROBS[0], atol=0.03)  # about four standard errors
    np.testing.assert_allclose(draw.logprobs, np.log(PROBS[0])[draw.ids], atol=1e-5)


@pytest.mark.usefixtures("drawing")
@pytest.mark.parametrize("cut", [{}, {"top_k": 4}, {"temperature": 0.0}], ids=["plain", "filtered", "greedy"])
def test_banned_ids_are_never_drawn(cut):
    draw = draws(RolloutConfig(**cut), np.log(PROBS).astype(np.float32), banned=[0, 3])
    assert set(draw.ids.tolist()) <= {1, 2}
    # log-probabilities are those of the model, which knows no ban
    np.testing.assert_allclose(draw.logprobs, np.log(PROBS[0])[draw.ids], atol=1e-5)


@pytest.mark.usefixtures("drawing")
def test_extreme_uniforms_stay_inside_the_vocabulary():
    logits = paddle.to_tensor(np.log(np.repeat(PROBS, 2, 0)).astype(np.float32))
    uniforms = np.array([0.0, np.nextafter(np.float32(1), np.float32(0))], np.float32)
    for cut in ({}, {"top_k": 4}):
        draw = Sampler(RolloutConfig(**cut), 4, [0, 3]).choose(logits, uniforms, None)
        assert draw.ids.tolist() == [1, 2]


@pytest.mark.usefixtures("drawing")
def test_every_draw_is_the_inverse_of_the_cumulative_distribution():
    """More ids than a block, some banned, against a float64 loop."""
    rng = np.random.default_rng(8)
    vocab, banned = 300, [0, 5, 64, 127, 128, 299]
    logits = (3 * rng.normal(size=(50, vocab))).astype(np.float32)
    uniforms = rng.random(50).astype(np.float32)
    draw = Sampler(RolloutConfig(), vocab, banned).choose(paddle.to_tensor(logits), uniforms, None)
    for row, uniform, token, logp in zip(logits.astype(np.float64), uniforms, draw.ids, draw.logprobs, strict=True):
        probs = np.exp(row - row.max())
        kept = probs.copy()
        kept[banned] = 0
        heights = np.cumsum(kept) / kept.sum()
        assert heights[token] >= uniform - 1e-5 and heights[token] - kept[token] / kept.sum() <= uniform + 1e-5
        assert token not in banned
        assert logp == pytest.approx(np.log(probs[token] / probs.sum()), abs=1e-4)


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits():
    logits, seen = paddle.to_tensor([[2.0, 1.5, -1.0]]), paddle.to_tensor([[1.0, 0.0, 1.0]])
    sampler = Sampler(RolloutConfig(repetition_penalty=2.0), 3, [], greedy=True)
    draw = sampler.choose(logits, np.array([0.5], np.float32), seen)
    assert draw.ids.tolist() == [1]  # 1.0, 1.5, -2.0
    assert draw.logprobs[0] == pytest.approx(1.5 - np.log(np.exp([1.0, 1.5, -2.0]).sum()), abs=1e-5)


def test_uniforms_depend_on_seed_prompt_and_sample():
    base = row_uniforms(1, 2, 3, 5)
    np.testing.assert_array_equal(base, row_uniforms(1, 2, 3, 9)[:5])
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert not np.array_equal(base, row_uniforms(*other, 5))
