# SPDX-License-Identifier: Apache-2.0
"""Sampling filters, log-probabilities and entropies of the loss cases' random logits."""

import json

import numpy as np
import paddle
import pytest

from r1_mllm.models.head import token_logp_and_entropy
from r1_mllm.rollout.sampling import filter_probs


@pytest.fixture
def setting(grpo_case):
    case = json.loads((grpo_case / "case.json").read_text())
    return case, np.load(grpo_case / "data.npz"), np.load(grpo_case / "expected.npz")


def find(name, *sources):
    return next(source[name] for source in sources if name in source.files)


def test_filters_match(setting):
    case, data, expected = setting
    logits = find(case["sampling"]["logits"].split()[0], data, expected).astype(np.float64)
    for sample in case["sampling"]["cases"]:
        cuts = dict(sample["settings"])
        scaled = logits / cuts.pop("temperature", 1.0)
        probs = np.exp(scaled - scaled.max(1, keepdims=True))
        probs = filter_probs(probs / probs.sum(1, keepdims=True), **cuts)
        want = find(sample["probs"], data, expected)
        np.testing.assert_allclose((probs / probs.sum(1, keepdims=True))[:-1], want[:-1], atol=1e-6)


def test_log_probabilities_and_entropies_match(setting):
    case, data, expected = setting
    logits, ids = (find(case["log_probs"][key].split()[0], data, expected) for key in ("logits", "ids"))
    vocab = logits.shape[-1]
    names = [name for name in (*expected.files, *data.files) if name.startswith("lp_T")]
    assert names
    for name in names:
        temperature = float(name.removeprefix("lp_T"))
        flat = paddle.to_tensor(logits.reshape(-1, vocab).astype(np.float32))
        got = token_logp_and_entropy(flat, paddle.eye(vocab), paddle.to_tensor(ids.reshape(-1)), temperature)
        want = find(name, data, expected), find(f"ent_T{name.removeprefix('lp_T')}", data, expected)
        for tensor, array in zip(got, want, strict=True):
            np.testing.assert_allclose(tensor.numpy(), array.reshape(-1), atol=1e-4)
