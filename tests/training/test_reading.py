# SPDX-License-Identifier: Apache-2.0
"""Prompts read once: the update that goes on from the sampler's pass has the gradients of one that reads them again."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import paddle
import pytest

from r1_mllm.config import GrpoConfig, LoraConfig, OptimizerConfig, RolloutConfig, TrainingConfig
from r1_mllm.data.pack import pack
from r1_mllm.models import host, lora, threads
from r1_mllm.models.adapter_spec import AdapterSpec
from r1_mllm.models.attention import GroupLengths
from r1_mllm.models.text import TextModel
from r1_mllm.models.trace import usable
from r1_mllm.models.weights import load_pretrained
from r1_mllm.objectives.policy import Counts
from r1_mllm.processing.prompt import Processor
from r1_mllm.records import Completion, Example
from r1_mllm.rollout.decoder import Decoder
from r1_mllm.rollout.engine import Engine
from r1_mllm.training.collect import sample
from r1_mllm.training.optimizer import AdamW
from r1_mllm.training.scaling import LossScale
from r1_mllm.training.step import accumulate_gradients

pytestmark = pytest.mark.skipif(not host.is_there(), reason="needs numba and a Paddle with MKL")
FOLDER = Path(__file__).parents[1] / "golden" / "cases" / "e2e"
CONFIG = GrpoConfig(
    rollout=RolloutConfig(num_generations=3, max_completion_length=9), training=TrainingConfig(max_steps=1)
)


@pytest.fixture(scope="module")
def processor():
    return Processor.from_pretrained(FOLDER / "checkpoint")


@pytest.fixture(scope="module")
def prompts(ask):
    pictured = ask("How many?", "a.png")
    return [pictured, ask("Which one is brighter, please?", "b.jpg", "c.png"), ask("Why?"), replace(pictured)]


@pytest.fixture
def model():
    return load_pretrained(FOLDER / "checkpoint")


def sampled(model, processor, prompts, config=CONFIG):
    """Groups with rows of different lengths and made-up advantages."""
    engine = Engine(model, processor.tokenizer, config.rollout)
    groups = sample(engine, [Example("counting", "q", 1)] * len(prompts), prompts, config, seed=4)
    rng = np.random.default_rng(0)
    for group in groups:
        group.advantages = rng.normal(size=len(group.completions))
        group.completions = [cut(done, rng.integers(1, len(done.ids) + 1)) for done in group.completions]
    return groups


class Stopping:
    """The tokenizer with many stop tokens: completions end everywhere."""

    banned_ids = ()

    def __init__(self, tokenizer, every):
        self.decode, self.stop_ids = tokenizer.decode, tuple(range(0, 2000, every))


def sampled_to_the_end(model, processor, prompts, config=CONFIG, every=5, num=5, length=12):
    """Groups whose rows stop where their own tokens say, so that their traces are whole."""
    rollout = replace(config.rollout, num_generations=num, max_completion_length=length)
    engine = Engine(model, Stopping(processor.tokenizer, every), rollout)
    groups = sample(engine, [Example("counting", "q", 1)] * len(prompts), prompts, replace(config, rollout=rollout), 4)
    for i, group in enumerate(groups):
        group.advantages = np.random.default_rng(i).normal(size=num)
    return groups


def cut(done, length):
    return Completion(done.ids[:length], done.logprobs[:length], done.text, done.finished)


def gradients(model, groups, tokens_per_pack, at_least):
    """The gradients of a step, its loss, and whether its packs went on from readings."""
    optimizer = AdamW(model.named_parameters(), OptimizerConfig())
    visual = {model.arch.image_token_id, model.arch.video_token_id}
    batches = pack(groups, tokens_per_pack, visual, at_least=at_least)
    packs = [(batch, Counts(70, 12, 9)) for batch in batches]
    for batch in batches:
        batch.ref_logp = batch.sampler_logp - np.float32(0.3)
    update = accumulate_gradients(model, packs, optimizer, LossScale(active=False), CONFIG)
    found = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.clear()
    return found, update, [bool(batch.readings) for batch in batches]


def assert_read_once(model, groups, tokens_per_pack, at_least, under=nullcontext):
    """under: makes a context in which the update goes on from what the sampler left."""
    with under():
        once, update, went_on = gradients(model, groups, tokens_per_pack, at_least)
    assert all(went_on) and not any(group.reading.alive for group in groups)
    again, want, went_on = gradients(model, groups, tokens_per_pack, at_least)  # the graphs are gone
    assert not any(went_on)
    assert update.loss == pytest.approx(want.loss, rel=1e-5) and update.grad_norm == pytest.approx(want.grad_norm, 1e-5)
    for name, rows in want.rows.items():
        np.testing.assert_allclose(update.rows[name], rows, rtol=1e-4, atol=1e-6, err_msg=name)
    assert once.keys() == again.keys()
    for name, grad in again.items():
        np.testing.assert_allclose(once[name], grad, atol=1e-4 * np.abs(grad).max(), err_msg=name)
    return once


@pytest.mark.parametrize(
    ("num_threads", "rows", "tokens_per_pack", "at_least"),
    [
        pytest.param(1, 64, 4096, 1, marks=pytest.mark.slow),
        pytest.param(2, 64, 4096, 2, marks=pytest.mark.slow),
        (2, 6, 4096, 2),
        pytest.param(2, 64, 70, 1, marks=pytest.mark.slow),
        (3, 64, 110, 1),
    ],
)
def test_gradients_are_those_of_reading_again(
    model, processor, prompts, monkeypatch, num_threads, rows, tokens_per_pack, at_least
):
    monkeypatch.setattr(threads, "count", lambda: num_threads)
    config = replace(CONFIG, rollout=replace(CONFIG.rollout, rollout_batch_rows=rows))  # 6: prompts wait for others
    groups = sampled(model, processor, prompts, config)
    assert groups[0].reading is groups[3].reading  # equal prompts are one
    found = assert_read_once(model, groups, tokens_per_pack, at_least)
    assert any("visual" in name for name in found)


@pytest.mark.parametrize(
    ("num_threads", "rows", "at_least", "draws"),
    [(1, 64, 1, True), (2, 64, 2, True), (2, 11, 2, True), (1, 11, 1, False)],
)
def test_completions_are_not_computed_again(model, processor, prompts, monkeypatch, num_threads, rows, at_least, draws):
    """Many and single decode steps, groups alone and joined, rows that leave while others go on."""
    monkeypatch.setattr(threads, "count", lambda: num_threads)
    monkeypatch.setattr(Decoder, "draws", draws)
    config = replace(CONFIG, rollout=replace(CONFIG.rollout, rollout_batch_rows=rows))
    groups = sampled_to_the_end(model, processor, prompts[:3], config)
    lengths = [[len(done.ids) for done in group.completions] for group in groups]
    assert len({length for group in lengths for length in group}) > 4 and min(map(min, lengths)) == 1, lengths
    assert all(usable([group.reading.prompt.trace], [lengths_of(group)]) for group in groups)
    no_pass = partial(mock.patch.object, TextModel, "forward", None)
    assert_read_once(model, groups, 4096, at_least, no_pass)


def lengths_of(group):
    return GroupLengths(len(group.prompt.ids), [len(done.ids) for done in group.completions])


def test_what_is_frozen_stays_so(model, processor, prompts):
    model.set_freeze_vision(True)
    found = assert_read_once(model, sampled(model, processor, prompts), 4096, 1)
    assert not any("visual" in name for name in found)
    model.set_freeze_vision(False)
    model.set_freeze_language(True)
    found = assert_read_once(model, sampled(model, processor, prompts[:2]), 4096, 1)
    assert found and all("visual" in name for name in found)


def test_adapters_learn_from_prompts_too(model, processor, prompts):
    config = LoraConfig(use_peft=True, lora_r=4, lora_dropout=0.0)
    lora.attach(model, AdapterSpec(4, 8.0, ("q_proj", "v_proj", "qkv")))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.set_value(paddle.full(parameter.shape, 0.02))
    assert_read_once(model, sampled(model, processor, prompts, replace(CONFIG, lora=config)), 4096, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": replace(CONFIG.training, num_iterations=2)},
        {"training": replace(CONFIG.training, tokens_per_pack=100)},
        {"lora": LoraConfig(use_peft=True, lora_dropout=0.05)},
        {"rollout": replace(CONFIG.rollout, dynamic_sampling=True)},
    ],
)
def test_prompts_are_read_again_where_the_pass_is_another_or_too_large(model, processor, prompts, changes):
    groups = sampled(model, processor, prompts, replace(CONFIG, **changes))
    assert all(group.reading is None for group in groups)
    same = sampled(model, processor, prompts)
    assert all(group.reading.alive for group in same)
    for one, other in zip(groups, same, strict=True):
        assert [done.ids.tolist() for done in one.completions] == [done.ids.tolist() for done in other.completions]


def test_a_prompt_read_in_pieces_is_read_again(model, processor, prompts):
    config = replace(CONFIG, rollout=replace(CONFIG.rollout, prefill_tokens=30))
    groups = sampled(model, processor, prompts, config)
    assert [group.reading is None for group in groups] == [len(group.prompt.ids) > 30 for group in groups]
    _, _, went_on = gradients(model, groups, 4096, 1)
    assert went_on == [False]
