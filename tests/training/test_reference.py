# SPDX-License-Identifier: Apache-2.0
"""The reference model follows the policy by TRL's rule, on the steps asked for, and comes back from a checkpoint."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file

from r1_mllm.config import (
    DataConfig,
    GrpoConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RewardConfig,
    RolloutConfig,
    TrainingConfig,
)
from r1_mllm.data.synthetic import write_splits
from r1_mllm.models.weights import load_pretrained
from r1_mllm.runtime import USAGE, Stop
from r1_mllm.training import durable, grpo, reference

CHECKPOINT = Path(__file__).parents[1] / "golden" / "cases" / "e2e" / "checkpoint"
REWARD = """
def capitals(group):
    return [sum(c.isupper() for c in done.text) / max(len(done.text), 1) for done in group.completions]
"""
MODEL, STATE = "model.safetensors", "state/reference/model.safetensors"


@pytest.fixture(scope="module")
def configure(tmp_path_factory):
    base = tmp_path_factory.mktemp("reference")
    train, _ = write_splits("counting", 12, base / "scenes", num_test=2, seed=3)
    (base / "reward.py").write_text(REWARD)

    def make(folder, alpha=0.25, every=2, **training):
        settings = {"max_steps": 5, "save_steps": 1, "save_total_limit": None, "save_only_model": False} | training
        return GrpoConfig(
            model=ModelConfig(model_name_or_path=str(CHECKPOINT)),
            data=DataConfig(task="counting", dataset_name=str(train)),
            rollout=RolloutConfig(num_generations=4, max_completion_length=6),
            objective=ObjectiveConfig(sync_ref_model=True, ref_model_mixup_alpha=alpha, ref_model_sync_steps=every),
            reward=RewardConfig(reward_funcs=(f"{base / 'reward.py'}:capitals",)),
            optimizer=OptimizerConfig(learning_rate=1e-2, lr_scheduler_type="constant"),
            training=TrainingConfig(output_dir=str(base / folder), report_to=("none",), **settings),
        )

    return make


@pytest.fixture(scope="module")
def whole(configure):
    """A run of five steps that was never stopped."""
    config = configure("run")
    grpo.train(config)
    return Path(config.training.output_dir)


def filled(number, dtype="float32"):
    model = load_pretrained(CHECKPOINT, dtype=dtype)
    with paddle.no_grad():
        for weight in model.parameters():
            weight.set_value(paddle.full(weight.shape, number).astype(dtype))
    return model


@pytest.mark.parametrize("block", [1000, 1 << 22])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quarter_of_the_policy_and_three_quarters_of_itself(dtype, block, monkeypatch):
    """By hand: 0.25 * 3 + 0.75 * 1 = 1.5; frozen weights keep their bits."""
    monkeypatch.setattr(reference, "BLOCK", block)
    own, policy = filled(1.0, dtype), filled(3.0, dtype)
    policy.set_freeze_vision(True)
    reference.mix(own, policy, 0.25)
    for name, weight in own.named_parameters():
        values = weight.astype("float32").numpy()
        assert (values == (1.0 if name.startswith("visual.") else 1.5)).all(), name
    assert all((weight.astype("float32") == 3.0).all() for weight in policy.parameters())


def mixed(policy, before, alpha):
    """The slow way: numpy, float32, tensor by tensor."""
    kept = np.float32(1.0 - alpha)
    return {name: np.float32(alpha) * policy[name] + kept * before[name] for name in before}


def test_it_moves_every_so_many_steps_and_is_what_the_divergence_is_measured_from(configure, whole):
    start = want = load_file(CHECKPOINT / MODEL)
    for step in range(1, 6):
        folder = whole / f"checkpoint-{step}"
        if step % 2 == 0:
            want = mixed(load_file(folder / MODEL), want, 0.25)
        found = load_file(folder / STATE)
        assert found.keys() == want.keys()
        for name in want:
            np.testing.assert_allclose(found[name], want[name], rtol=1e-6, atol=1e-8, err_msg=f"{step} {name}")
    moved = max(np.abs(want[name] - start[name]).max() for name in want)
    assert moved > 1e-3
    load_pretrained(whole / "checkpoint-5" / "state" / "reference")
    assert not (whole / "final" / "state").exists()
    grpo.train(configure("copied", alpha=1.0, every=1, save_steps=0, max_steps=3))
    lines = [(whole.parent / run / "metrics.jsonl").read_text().splitlines() for run in ("run", "copied")]
    far, near = ([json.loads(line)["kl"] for line in run] for run in lines)
    assert min(far[1:]) > 1e-3  # step 1 starts from the reference itself
    assert max(map(abs, near)) < 1e-6


def test_a_resumed_run_equals_one_that_never_stopped(configure, whole):
    ignored = shutil.ignore_patterns("checkpoint-4", "checkpoint-5", "final")
    shutil.copytree(whole, whole.parent / "again", ignore=ignored)
    grpo.train(configure("again", async_save=True))
    for name in (MODEL, STATE, "state/optimizer.safetensors", "state/trainer.json", "state/reference/config.json"):
        for step in (4, 5):
            ours, theirs = ((whole.parent / run / f"checkpoint-{step}" / name).read_bytes() for run in ("again", "run"))
            assert ours == theirs, (step, name)


def test_several_updates_of_a_rollout_each_count(configure):
    config = configure("several", alpha=1.0, every=1, num_iterations=2, max_steps=2, save_steps=0)
    grpo.train(config)
    found, want = (load_file(Path(config.training.output_dir) / "checkpoint-2" / name) for name in (STATE, MODEL))
    assert all((found[name] == want[name]).all() for name in want)


def test_a_damaged_one_makes_the_checkpoint_invalid(whole, tmp_path):
    path = shutil.copytree(whole / "checkpoint-1", tmp_path / "checkpoint-1")
    assert durable.damage(path) is None
    content = bytearray((path / STATE).read_bytes())
    content[-5] ^= 1
    (path / STATE).write_bytes(content)
    assert durable.damage(path) == f"{path / STATE} was changed after it was written"


def test_one_that_moved_is_not_forgotten(configure, whole):
    explicit = configure("other", resume_from_checkpoint=str(whole / "checkpoint-2"))
    off = dataclasses.replace(explicit, objective=ObjectiveConfig())
    with pytest.raises(Stop, match="reference model has moved") as stopped:
        grpo.train(off)
    assert stopped.value.code == USAGE


@pytest.mark.parametrize(
    ("objective", "lora", "word"),
    [
        ({"beta": 0.0}, {}, "with beta 0 there is no reference model"),
        ({}, {"use_peft": True}, "the reference is the model without adapters"),
        ({"ref_model_mixup_alpha": 0.0}, {}, "ref_model_mixup_alpha 0.0: must be above 0"),
        ({"ref_model_mixup_alpha": 1.01}, {}, "at most 1"),
        ({"ref_model_sync_steps": 0}, {}, "ref_model_sync_steps 0: must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused(objective, lora, word):
    with pytest.raises(ValueError, match=word):
        GrpoConfig(objective=ObjectiveConfig(sync_ref_model=True, **objective), lora=LoraConfig(**lora))
