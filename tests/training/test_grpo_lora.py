# SPDX-License-Identifier: Apache-2.0
"""GRPO with adapters: the reference is the model without them, and a run resumes to the bit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from r1_mllm.config import (
    DataConfig,
    EvalConfig,
    GrpoConfig,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    RewardConfig,
    RolloutConfig,
    TrainingConfig,
)
from r1_mllm.data.synthetic import write_splits
from r1_mllm.evaluation.load import load
from r1_mllm.models import threads
from r1_mllm.training import grpo
from r1_mllm.training.collect import collect
from r1_mllm.training.session import open_session
from r1_mllm.training.step import Stopwatch, accumulate_gradients, add_reference, pack_groups

CHECKPOINT = Path(__file__).parents[1] / "golden" / "cases" / "e2e" / "checkpoint"
REWARD = """
def capitals(group):
    return [sum(c.isupper() for c in done.text) / max(len(done.text), 1) for done in group.completions]
"""


@pytest.fixture
def configure(tmp_path):
    train, _ = write_splits("counting", 12, tmp_path / "scenes", num_test=2, seed=3)
    (tmp_path / "reward.py").write_text(REWARD)

    def make(folder, dropout=0.0, **training):
        return GrpoConfig(
            model=ModelConfig(model_name_or_path=str(CHECKPOINT)),
            data=DataConfig(task="counting", dataset_name=str(train)),
            rollout=RolloutConfig(num_generations=4, max_completion_length=6),
            reward=RewardConfig(reward_funcs=(f"{tmp_path / 'reward.py'}:capitals",)),
            lora=LoraConfig(use_peft=True, lora_r=2, lora_alpha=4, lora_dropout=dropout),
            optimizer=OptimizerConfig(learning_rate=1e-2),
            training=TrainingConfig(output_dir=str(tmp_path / folder), report_to=("none",), max_steps=4, **training),
        )

    return make


def test_a_resumed_run_equals_one_that_never_stopped_and_only_adapters_move(configure, tmp_path):
    settings = {"save_steps": 2, "save_total_limit": None}
    grpo.train(configure("run", dropout=0.2, **settings))
    whole, resumed = tmp_path / "run", tmp_path / "again"
    shutil.copytree(whole, resumed, ignore=shutil.ignore_patterns("checkpoint-4", "final"))
    grpo.train(configure("again", dropout=0.2, **settings))
    for name in ("adapter_model.safetensors", "state/optimizer.safetensors", "state/trainer.json"):
        ours, theirs = ((folder / "checkpoint-4" / name).read_bytes() for folder in (resumed, whole))
        assert ours == theirs, name
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["kl"] > 1e-4  # it left the model it is compared with
    state = load_file(whole / "checkpoint-4" / "state" / "optimizer.safetensors")
    assert all(".adapter." in name for name in state if name != "step")
    loaded = load(whole / "final", EvalConfig(model_path=str(whole / "final")))
    assert loaded.engine.model.text.layers[0].attn.qkv.adapter is None


def test_the_reference_is_the_model_without_adapters_in_the_same_memory(configure):
    run = open_session(configure("run"))
    run.close()
    memory = {name: p.data_ptr() for name, p in run.model.named_parameters()}
    assert all(p.data_ptr() == memory[name] for name, p in run.reference.named_parameters())
    packs = pack_groups(collect(run, Stopwatch()).groups, run.visual_ids, run.config)
    add_reference(packs, run.reference, 1.0)
    for batch, _ in packs:  # new adapters add nothing yet, so policy, reference and sampler agree
        np.testing.assert_allclose(run.model.token_logp(batch).numpy(), batch.ref_logp, atol=1e-5)
        np.testing.assert_allclose(batch.sampler_logp[batch.mask], batch.ref_logp[batch.mask], atol=2e-5)


def test_sampling_follows_the_adapters(configure, monkeypatch):
    run = open_session(configure("run"))
    run.close()
    rng = np.random.default_rng(1)
    for name, parameter in run.model.named_parameters():
        if name.endswith(".b"):
            parameter.set_value(rng.normal(0, 0.1, parameter.shape).astype(np.float32))
    groups = collect(run, Stopwatch()).groups
    updates = []
    for size in (1, 2):
        monkeypatch.setattr(threads, "count", lambda size=size: size)
        packs = pack_groups(groups, run.visual_ids, run.config)
        add_reference(packs, run.reference, 1.0)
        for batch, _ in packs:
            logp = run.model.token_logp(batch).numpy()
            np.testing.assert_allclose(logp[batch.mask], batch.sampler_logp[batch.mask], atol=5e-5)
            assert np.abs(logp - batch.ref_logp).max() > 0.05
        updates.append(accumulate_gradients(run.model, packs, run.optimizer, run.scale, run.config))
        run.optimizer.clear()
    assert updates[0].grad_norm == pytest.approx(updates[1].grad_norm, rel=1e-3) and updates[0].grad_norm > 0
