# SPDX-License-Identifier: Apache-2.0
"""Losses, their gradients and advantages against an independent implementation, in float64."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from r1_mllm.config import ObjectiveConfig
from r1_mllm.objectives import advantages, policy
from r1_mllm.records import PackedBatch
from r1_mllm.rewards import weighted_sum

OPTIONAL = {"use_bias_correction_kl", "top_entropy_quantile", "off_policy_mask_threshold"}
OPTIONAL_LOSSES = {"sapo", "luspo", "vespo"}


def load(case):
    return json.loads((case / "case.json").read_text()), np.load(case / "data.npz"), np.load(case / "expected.npz")


def packed(arrays, tag, rows=slice(None), old=None):
    """Lay [B, C] rows behind each other, two prompt tokens before the first."""
    mask = arrays[f"{tag}_mask"][rows].astype(bool)
    b, c = mask.shape

    def flat(values):
        return np.concatenate([np.zeros(2), values.reshape(-1)])

    logps = arrays[f"{tag}_logps"][rows]
    return flat(logps), PackedBatch(
        ids=np.zeros(2 + b * c, np.int64),
        positions=np.zeros((3, 2 + b * c), np.int64),
        visible_until=np.full(2 + b * c, 2 + b * c, np.int32),
        row=np.concatenate([[-1, -1], np.repeat(np.arange(b), c)]).astype(np.int32),
        num_rows=b,
        mask=flat(mask).astype(bool),
        sampler_logp=flat(arrays[f"{tag}_old_logps"][rows] if old is None else old[rows]),
        advantages=flat(np.repeat(arrays[f"{tag}_advantages"][rows], c)),
        ref_logp=flat(arrays[f"{tag}_ref_logps"][rows]),
    )


def evaluate(logp, batch, config, counts):
    leaf = paddle.to_tensor(logp, dtype="float64", stop_gradient=False)
    value = policy.loss(leaf, batch, config, counts)
    value.backward()
    return float(value), leaf.grad.numpy()[2:].reshape(batch.num_rows, -1)


def settings(raw):
    names = {"epsilon_low": "epsilon"}
    known = {f for f in ObjectiveConfig.__dataclass_fields__}
    chosen = {names.get(key, key): value for key, value in raw.items()}
    return ObjectiveConfig(**({"beta": 0.0} | {key: value for key, value in chosen.items() if key in known}))


def check_loss(entry, arrays, expected, tolerance):
    raw, tag = entry["config"], entry["data"]
    config = settings(raw)
    num_rows, length = arrays[f"{tag}_mask"].shape
    old = None if raw.get("use_old", True) else arrays[f"{tag}_logps"]
    num_micro = raw.get("gradient_accumulation_steps", 1)
    total = arrays[f"{tag}_mask"].sum()
    values, gradients, stats = [], [], []
    for start, stop in entry.get("micro_batches", [[0, num_rows]]):
        logp, batch = packed(arrays, tag, slice(start, stop), old)
        tokens = batch.mask.sum() * num_micro if config.loss_type == "bnpo" else total
        counts = policy.Counts(tokens, num_rows, raw.get("max_completion_length", length))
        value, gradient = evaluate(logp, batch, config, counts)
        values.append(value)
        gradients.append(gradient)
        stats.append(policy.statistics(logp, batch, config))
    assert sum(values) == pytest.approx(entry["loss"], abs=tolerance), entry["name"]
    if "losses" in entry:
        assert values == pytest.approx(entry["losses"], abs=tolerance), entry["name"]
    np.testing.assert_allclose(
        np.concatenate(gradients), expected[entry["grad"]], atol=tolerance, err_msg=entry["name"]
    )
    joined = {key: np.concatenate([rows[key] for rows in stats]) for key in stats[0]}
    metrics = policy.summary(joined, config)
    for name, value in entry.get("metrics", {}).items():
        if name != "entropy":  # of the whole distribution; ours is estimated from the sampled tokens
            assert metrics[name] == pytest.approx(value, abs=1e-6), (entry["name"], name)


def pytest_generate_tests(metafunc):
    """One run per loss, so that what is not offered is skipped under its name."""
    if "loss_name" in metafunc.fixturenames:
        top = Path(metafunc.config.getoption("--golden-root")) / "grpo"
        folders = [path.parent for path in (top / "case.json", *sorted(top.glob("*/case.json"))) if path.is_file()]
        names = [(folder, entry["name"]) for folder in folders for entry in load(folder)[0]["losses"]]
        metafunc.parametrize(("loss_folder", "loss_name"), names, ids=[name for _, name in names])


def test_loss_and_gradient_equal_the_reference(loss_folder, loss_name):
    case, arrays, expected = load(loss_folder)
    entry = next(entry for entry in case["losses"] if entry["name"] == loss_name)
    unsupported = OPTIONAL & set(entry["config"]) or OPTIONAL_LOSSES & {entry["config"]["loss_type"]}
    if unsupported:
        pytest.skip(f"{', '.join(unsupported)} is not offered")
    check_loss(entry, arrays, expected, case["tolerance"]["float64"])


def test_advantages_equal_the_reference(grpo_case):
    case = load(grpo_case)[0]
    for number, entry in enumerate(case["advantages"]):
        parts = np.array(entry["rewards"], dtype=np.float64)
        parts = parts.reshape(-1, entry["group_size"], parts.shape[-1])
        weights = np.array(entry["weights"])
        config = ObjectiveConfig(scale_rewards=entry["scale"], multi_objective_aggregation=entry["aggregation"])
        rewards = weighted_sum(parts, weights)
        ours = advantages.compute(rewards, parts, weights, config)
        # The reference keeps the weights in float32: 0.64 is 1e-8 off there.
        np.testing.assert_allclose(ours.reshape(-1), entry["advantages"], rtol=1e-5, atol=1e-9, err_msg=str(number))
        if "metrics" in entry:
            assert np.nanmean(rewards) == pytest.approx(entry["metrics"]["reward"], abs=1e-9)
