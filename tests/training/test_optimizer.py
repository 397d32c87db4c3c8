# SPDX-License-Identifier: Apache-2.0
"""The optimizer against formulas written out in numpy."""

import math

import numpy as np
import paddle
import pytest

from r1_mllm.config import OptimizerConfig
from r1_mllm.training.optimizer import AdamW, learning_rate

SHAPES = {"block.weight": (3, 4), "norm.weight": (4,), "block.bias": (4,)}


def make_weights(dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in SHAPES.items():
        weights[name] = paddle.to_tensor(rng.normal(size=shape).astype(np.float32)).astype(dtype)
        weights[name].stop_gradient = False
    return weights


def give_gradients(weights, seed, factor=1.0):
    rng = np.random.default_rng(seed)
    gradients = {}
    for name, weight in weights.items():
        gradients[name] = (rng.normal(size=weight.shape) * factor).astype(np.float32)
        loss = (weight * paddle.to_tensor(gradients[name]).astype(weight.dtype)).sum()
        loss.backward()
    return gradients


def plain_adamw(value, gradients, config, rate, decay):
    """The published update rule, in float64."""
    first = second = np.zeros_like(value)
    for step, gradient in enumerate(gradients, 1):
        value = value * (1 - rate * decay)
        first = config.adam_beta1 * first + (1 - config.adam_beta1) * gradient
        second = config.adam_beta2 * second + (1 - config.adam_beta2) * gradient**2
        mean, power = first / (1 - config.adam_beta1**step), second / (1 - config.adam_beta2**step)
        value = value - rate * mean / (np.sqrt(power) + config.adam_epsilon)
    return value


@pytest.mark.parametrize("decay_all", [False, True])
def test_steps_equal_the_published_rule_and_vectors_are_not_decayed(decay_all):
    config = OptimizerConfig(weight_decay=0.3, adam_beta1=0.8, adam_beta2=0.95, max_grad_norm=0.0)
    weights = make_weights()
    before = {name: weight.numpy().astype(np.float64) for name, weight in weights.items()}
    optimizer = AdamW(weights.items(), config, decay_all=decay_all)
    seen = []
    for seed in range(4):
        seen.append(give_gradients(weights, seed))
        optimizer.step(0.01, optimizer.grad_norm())
    for name, weight in weights.items():
        decay = 0.3 if decay_all or name == "block.weight" else 0.0
        expected = plain_adamw(before[name], [g[name] for g in seen], config, 0.01, decay)
        np.testing.assert_allclose(weight.numpy(), expected, atol=2e-6)


def test_clipping_uses_the_norm_over_all_parameters():
    config = OptimizerConfig(max_grad_norm=0.5)
    weights = make_weights()
    optimizer = AdamW(weights.items(), config)
    gradients = give_gradients(weights, 1, factor=10.0)
    norm = math.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
    assert optimizer.grad_norm() == pytest.approx(norm, rel=1e-6)
    optimizer.step(0.0, norm)
    first = optimizer.moments["norm.weight"][0].numpy()
    np.testing.assert_allclose(first, 0.1 * gradients["norm.weight"] * 0.5 / norm, rtol=1e-5)


def test_a_non_finite_gradient_shows_in_the_norm_and_is_refused():
    for poison in (float("nan"), float("inf")):
        weights = make_weights()
        optimizer = AdamW(weights.items(), OptimizerConfig())
        give_gradients(weights, 0)
        weights["block.bias"].grad.set_value(np.array([1, poison, 0, 0], np.float32))
        norm = optimizer.grad_norm()
        assert not math.isfinite(norm)
        with pytest.raises(AssertionError):
            optimizer.step(1.0, norm)


def test_frozen_parameters_and_parameters_without_gradient_stay():
    weights = make_weights()
    weights["block.weight"].stop_gradient = True
    before = {name: weight.numpy().copy() for name, weight in weights.items()}
    optimizer = AdamW(weights.items(), OptimizerConfig(weight_decay=0.5))
    weights["block.bias"].sum().backward()
    optimizer.step(0.1, optimizer.grad_norm())
    assert "block.weight/moment1" not in optimizer.state_dict()
    assert (weights["block.weight"].numpy() == before["block.weight"]).all()
    assert (weights["norm.weight"].numpy() == before["norm.weight"]).all()
    assert (weights["block.bias"].numpy() != before["block.bias"]).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_restored_optimizer_continues_bit_for_bit(dtype):
    config = OptimizerConfig(weight_decay=0.1)

    def run(weights, optimizer, seeds):
        for seed in seeds:
            give_gradients(weights, seed)
            optimizer.accumulate()
            optimizer.step(1e-2, optimizer.grad_norm())

    straight = make_weights(dtype)
    optimizer = AdamW(straight.items(), config)
    run(straight, optimizer, range(3))
    saved = {name: weight.numpy().copy() for name, weight in straight.items()}
    state = {name: array.copy() for name, array in optimizer.state_dict().items()}
    run(straight, optimizer, range(3, 6))

    resumed = make_weights(dtype, seed=9)
    for name, weight in resumed.items():
        weight.set_value(saved[name])
    other = AdamW(resumed.items(), config)
    other.load_state_dict(state)
    run(resumed, other, range(3, 6))
    for name in SHAPES:
        assert (resumed[name].numpy() == straight[name].numpy()).all()
        assert (other.state_dict()[f"{name}/moment2"] == optimizer.state_dict()[f"{name}/moment2"]).all()


def test_masters_keep_steps_that_bfloat16_would_lose():
    weight = paddle.ones([4], "bfloat16")
    weight.stop_gradient = False
    optimizer = AdamW([("w", weight)], OptimizerConfig(max_grad_norm=0.0))
    for _ in range(10):
        for _ in range(2):  # two packs, summed in float32
            weight.sum().backward()
            optimizer.accumulate()
        assert optimizer.leaves["w"].grad.numpy().tolist() == [2.0] * 4
        optimizer.step(1e-3, optimizer.grad_norm())  # half of bfloat16's spacing below 1 is 0.002
    np.testing.assert_allclose(optimizer.leaves["w"].numpy(), 0.99, atol=1e-5)
    np.testing.assert_allclose(weight.astype("float32").numpy(), 0.98828125)


def test_a_state_that_does_not_fit_is_one_error_listing_all():
    optimizer = AdamW(make_weights().items(), OptimizerConfig())
    state = optimizer.state_dict()
    state["norm.weight/moment1"] = np.zeros(5, np.float32)
    state["old.weight/moment1"] = np.zeros(5, np.float32)
    del state["block.bias/moment2"]
    with pytest.raises(ValueError) as error:
        optimizer.load_state_dict(state)
    for words in ("norm.weight/moment1: (5,) instead of (4,)", "old.weight/moment1: surplus", "block.bias/moment2: mi"):
        assert words in str(error.value)


def test_schedules_by_hand():
    def rates(kind, **extra):
        config = OptimizerConfig(learning_rate=1.0, lr_scheduler_type=kind, **extra)
        return [learning_rate(step, 8, config) for step in range(8)]

    assert rates("constant") == [1.0] * 8
    assert rates("linear") == pytest.approx([1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert rates("linear", warmup_steps=4) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25])
    assert rates("constant", warmup_ratio=0.25) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1])
    assert rates("cosine")[4] == pytest.approx(0.5)
    assert rates("cosine", warmup_steps=2, warmup_ratio=0.9)[:3] == pytest.approx([0.5, 1, 1])
