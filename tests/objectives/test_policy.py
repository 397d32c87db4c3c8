# SPDX-License-Identifier: Apache-2.0
"""Losses worked out by hand and by the slowest obvious loop."""

import math

import numpy as np
import paddle
import pytest

from r1_mllm.config import ObjectiveConfig
from r1_mllm.objectives import policy
from r1_mllm.objectives.kl import kl
from r1_mllm.records import PackedBatch

COUNTS = policy.Counts(num_tokens=5, num_rows=3, max_completion_length=10)


def packed(row, mask, sampler_logp, advantages, ref_logp=None):
    length = len(row)
    return PackedBatch(
        ids=np.zeros(length, np.int64),
        positions=np.zeros((3, length), np.int64),
        visible_until=np.full(length, length, np.int32),
        row=np.array(row, np.int32),
        num_rows=max(row) + 1,
        mask=np.array(mask, bool),
        sampler_logp=np.array(sampler_logp, np.float32),
        advantages=np.array(advantages, np.float32),
        ref_logp=None if ref_logp is None else np.array(ref_logp, np.float32),
    )


def evaluate(logp, batch, config, counts=COUNTS):
    leaf = paddle.to_tensor(logp, dtype="float64", stop_gradient=False)
    value = policy.loss(leaf, batch, config, counts)
    value.backward()
    return float(value), leaf.grad.numpy()


def three_rows():
    row = [-1, 0, 0, -1, 1, 1, 1, 2]
    mask = [0, 1, 1, 0, 1, 1, 0, 1]
    sampler = [0, -1.0, -0.5, 0, -2.0, -0.3, -0.7, -1.1]
    ref = [0, -1.2, -0.4, 0, -1.9, -0.6, -0.7, -0.8]
    advantage = [0, 1.5, 1.5, 0, -0.5, -0.5, -0.5, 0.25]
    logp = [0, -0.6, -0.55, 0, -2.6, 0.1, -9.0, -1.0]
    return logp, packed(row, mask, sampler, advantage, ref)


def plain_loop(logp, batch, config, counts):
    """Token by token, without arrays."""
    high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    lengths = [sum(m and r == i for m, r in zip(batch.mask, batch.row, strict=True)) for i in range(batch.num_rows)]
    total = 0.0
    for t in range(len(logp)):
        if not batch.mask[t]:
            continue
        i = batch.row[t]
        ratio = math.exp(logp[t] - batch.sampler_logp[t])
        if config.importance_sampling_level == "sequence":
            gaps = [logp[s] - batch.sampler_logp[s] for s in range(len(logp)) if batch.mask[s] and batch.row[s] == i]
            ratio = math.exp(sum(gaps) / len(gaps))
        a = batch.advantages[t]
        if config.loss_type == "cispo":
            value = -min(ratio, high) * a * logp[t]
        else:
            plain = ratio if config.delta is None else min(ratio, config.delta)
            value = -min(plain * a, min(max(ratio, 1 - config.epsilon), 1 + high) * a)
            if config.dual_clip is not None and a < 0:
                value = min(value, -config.dual_clip * a)
        gap = batch.ref_logp[t] - logp[t]
        estimate = {"k1": -gap, "k2": gap * gap / 2, "k3": math.exp(gap) - gap - 1}[config.kl_estimator]
        value += config.beta * estimate
        divisor = {
            "grpo": lengths[i] * counts.num_rows,
            "dr_grpo": counts.num_rows * counts.max_completion_length,
        }.get(config.loss_type, counts.num_tokens)
        total += value / divisor
    return total


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo", "cispo"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_every_loss_equals_a_plain_loop(loss_type, estimator, level):
    logp, batch = three_rows()
    config = ObjectiveConfig(
        loss_type=loss_type,
        kl_estimator=estimator,
        importance_sampling_level=level,
        beta=0.3,
        epsilon=0.1,
        epsilon_high=0.28,
        delta=1.3,
    )
    assert evaluate(logp, batch, config)[0] == pytest.approx(plain_loop(logp, batch, config, COUNTS), rel=1e-6)


def test_clipping_is_pessimistic_on_both_sides():
    config = ObjectiveConfig(beta=0.0, epsilon=0.1, epsilon_high=0.3)
    two, half = math.log(2), math.log(0.5)
    counts = policy.Counts(1, 1, 1)

    def value(log_ratio, advantage):
        return evaluate([log_ratio], packed([0], [1], [0.0], [advantage]), config, counts)

    assert value(two, 1.0) == (pytest.approx(-1.3), 0.0)
    assert value(two, -1.0) == (pytest.approx(2.0), pytest.approx(2.0))
    assert value(half, 1.0) == (pytest.approx(-0.5), pytest.approx(-0.5))
    assert value(half, -1.0) == (pytest.approx(0.9), 0.0)


def test_dual_clip_equals_a_plain_loop_and_two_sided_clipping():
    logp, batch = three_rows()
    logp[4], logp[5] = 0.9, 0.1  # ratios exp(2.9) and exp(0.4), both with a negative advantage
    dual = ObjectiveConfig(beta=0.0, epsilon=0.1, epsilon_high=0.28, dual_clip=3.0)
    value, gradient = evaluate(logp, batch, dual)
    assert value == pytest.approx(plain_loop(logp, batch, dual, COUNTS), rel=1e-6)
    free = ObjectiveConfig(beta=0.0, epsilon=0.1, epsilon_high=0.28)
    assert gradient[4] == 0 < evaluate(logp, batch, free)[1][4]
    assert gradient[5] == evaluate(logp, batch, free)[1][5] != 0
    bounded = evaluate(logp, batch, ObjectiveConfig(beta=0.0, epsilon=0.1, epsilon_high=0.28, delta=3.0))
    assert value == pytest.approx(bounded[0], rel=1e-6) and gradient == pytest.approx(bounded[1])
    rows = policy.statistics(np.array(logp), batch, dual)
    assert rows["clip_dual"].tolist() == [0, 1, 0]
    assert policy.summary(rows, dual)["clip_ratio/dual_mean"] == pytest.approx(1 / 5)


def test_dual_clip_by_hand():
    config = ObjectiveConfig(beta=0.0, epsilon=0.2, dual_clip=3.0)
    counts = policy.Counts(1, 1, 1)

    def value(ratio, advantage):
        return evaluate([math.log(ratio)], packed([0], [1], [0.0], [advantage]), config, counts)

    assert value(5.0, -2.0) == (pytest.approx(6.0), 0.0)
    assert value(2.5, -2.0) == (pytest.approx(5.0), pytest.approx(5.0))
    assert value(0.5, -2.0) == (pytest.approx(1.6), 0.0)
    assert value(5.0, 2.0) == (pytest.approx(-2.4), 0.0)


def test_cispo_weighs_the_gradient_with_the_capped_ratio_and_takes_none_through_it():
    config = ObjectiveConfig(loss_type="cispo", beta=0.0, epsilon_high=1.5)
    batch = packed([0, 0], [1, 1], [-0.7, -0.7], [2.0, -1.0])
    value, gradient = evaluate([-0.7 + math.log(3), -0.7 + math.log(1.2)], batch, config, policy.Counts(4, 1, 1))
    assert gradient == pytest.approx([-1.5 * 2.0 / 4, 1.2 * 1.0 / 4])
    assert value == pytest.approx((-1.5 * 2.0 * (-0.7 + math.log(3)) + 1.2 * (-0.7 + math.log(1.2))) / 4)


@pytest.mark.parametrize("poison", [900.0, float("inf"), float("nan")])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "cispo"])
def test_a_masked_token_cannot_poison_the_loss(poison, level, loss_type):
    batch = packed([0, 0], [1, 0], [0.0, 0.0], [1.0, 1.0], ref_logp=[0.0, -poison])
    config = ObjectiveConfig(loss_type=loss_type, importance_sampling_level=level, beta=0.1)
    value, gradient = evaluate([0.1, poison], batch, config)
    assert np.isfinite(value) and np.isfinite(gradient).all() and gradient[1] == 0


def test_a_hopeless_ratio_stays_finite_and_is_counted():
    batch = packed([0, 0], [1, 1], [0.0, 0.0], [-1.0, 1.0], ref_logp=[0.0, 900.0])
    config = ObjectiveConfig(beta=0.1)
    value, gradient = evaluate([900.0, -900.0], batch, config)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert policy.statistics(np.array([900.0, -900.0]), batch, config)["log_ratio_clamped"].tolist() == [2.0]


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "cispo"])
def test_the_loss_does_not_depend_on_how_rows_are_split(loss_type):
    logp, batch = three_rows()
    config = ObjectiveConfig(loss_type=loss_type, beta=0.2)
    whole, gradient = evaluate(logp, batch, config)
    first = packed(*(v[:3] for v in (batch.row, batch.mask, batch.sampler_logp, batch.advantages, batch.ref_logp)))
    later = packed(
        batch.row[3:] - 1, *(v[3:] for v in (batch.mask, batch.sampler_logp, batch.advantages, batch.ref_logp))
    )
    later.row[0] = -1
    split = [evaluate(logp[:3], first, config), evaluate(logp[3:], later, config)]
    assert split[0][0] + split[1][0] == pytest.approx(whole)
    np.testing.assert_allclose(np.concatenate([split[0][1], split[1][1]]), gradient, atol=1e-12)


def test_a_fully_masked_row_adds_nothing_but_counts_as_a_row():
    config = ObjectiveConfig(loss_type="grpo", beta=0.0)
    batch = packed([0, 1], [1, 0], [0.0, 0.0], [1.0, 1.0])
    assert evaluate([0.0, 0.0], batch, config, policy.Counts(1, 2, 4))[0] == pytest.approx(-0.5)


def test_divergence_estimators_by_hand():
    logp, ref, mask = paddle.to_tensor([-1.0]), paddle.to_tensor([-1.5]), paddle.to_tensor([True])
    assert kl(logp, ref, mask, "k1").item() == pytest.approx(0.5)
    assert kl(logp, ref, mask, "k2").item() == pytest.approx(0.125)
    assert kl(logp, ref, mask, "k3").item() == pytest.approx(math.exp(-0.5) + 0.5 - 1)


def test_statistics_of_a_pack_by_hand():
    logp, batch = three_rows()
    config = ObjectiveConfig(beta=0.1, epsilon=0.2)
    rows = policy.statistics(np.array(logp), batch, config)
    assert rows["tokens"].tolist() == [2, 2, 1]
    assert rows["clip_high"].tolist() == [1, 0, 0]  # exp(0.4) with advantage 1.5
    assert rows["clip_low"].tolist() == [0, 1, 0]  # exp(-0.6) with advantage -0.5
    metrics = policy.summary(rows, config)
    assert metrics["clip_ratio/region_mean"] == pytest.approx(2 / 5)
    assert metrics["entropy"] == pytest.approx((0.6 + 0.55 + 2.6 - 0.1 + 1.0) / 5)
