# SPDX-License-Identifier: Apache-2.0
"""Supervised steps of a tiny real model."""

import itertools

import numpy as np
import pytest

from r1_mllm.config import OptimizerConfig
from r1_mllm.data.pack import pack, supervised_pair
from r1_mllm.models.weights import load_pretrained
from r1_mllm.processing.prompt import Processor
from r1_mllm.training.optimizer import AdamW
from r1_mllm.training.sft import supervised_loss, supervised_step, supervised_steps

CASE = "golden/cases/e2e"


@pytest.fixture
def folder(request):
    return request.config.rootpath / "tests" / CASE


@pytest.fixture
def pairs(folder):
    processor = Processor.from_pretrained(folder / "checkpoint")
    found = []
    for name, answer in (("a.png", "two cats"), ("b.jpg", "nothing that I know of"), (None, "7")):
        content = [{"type": "image"}] * (name is not None) + [{"type": "text", "text": "What is it?"}]
        images = [str(folder / "images" / name)] if name else []
        prompt = processor.encode([{"role": "user", "content": content}], images)
        ids = np.append(processor.tokenizer.encode(answer), processor.tokenizer.stop_ids[0])
        found.append(supervised_pair(prompt, ids))
    return found


def test_the_loss_is_the_mean_over_completion_tokens_however_they_are_packed(folder, pairs):
    model = load_pretrained(folder / "checkpoint")
    visual = {model.arch.image_token_id}
    total = sum(len(group.completions[0].ids) for group in pairs)
    alone = []
    for group in pairs:
        (batch,) = pack([group], 10**6, visual)
        logp = model.token_logp(batch).numpy()
        alone.extend(-logp[-len(group.completions[0].ids) :])
    for budget in (1, 10**6):
        losses = [supervised_loss(model, batch, total).item() for batch in pack(pairs, budget, visual)]
        assert sum(losses) == pytest.approx(np.mean(alone), abs=1e-5)


def test_steps_learn_the_pairs(folder, pairs):
    model = load_pretrained(folder / "checkpoint")
    optimizer = AdamW(model.named_parameters(), OptimizerConfig(learning_rate=3e-3, lr_scheduler_type="constant"))
    losses = []
    taken = supervised_steps(
        model, itertools.repeat(pairs), optimizer, num_steps=15, on_step=lambda step, loss, rate: losses.append(loss)
    )
    assert taken == 15 and losses[0] > 6 and losses[-1] < 0.5 * losses[0]


def test_time_ends_the_steps_too(folder, pairs):
    model = load_pretrained(folder / "checkpoint")
    optimizer = AdamW(model.named_parameters(), OptimizerConfig())
    assert supervised_steps(model, itertools.repeat(pairs), optimizer, num_steps=10**9, seconds=0.2) < 1000
    with pytest.raises(ValueError, match="num_steps, seconds"):
        supervised_steps(model, [pairs], optimizer)


def test_packing_does_not_change_the_step(folder, pairs):
    weights = []
    for budget in (1, 10**6):
        model = load_pretrained(folder / "checkpoint")
        optimizer = AdamW(model.named_parameters(), OptimizerConfig(max_grad_norm=0.1))
        supervised_step(model, pairs, optimizer, 1e-4, tokens_per_pack=budget)
        weights.append(model.text.norm.weight.numpy())
    np.testing.assert_allclose(*weights, atol=1e-6)
