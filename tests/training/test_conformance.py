# SPDX-License-Identifier: Apache-2.0
"""What every GRPO trainer must do, one assertion per row of the list the project started from, on a tiny real model.

The rows of tasks and answers are in tests/test_conformance.py.
"""

import json

import numpy as np
import pytest
from PIL import Image

from r1_mllm import rewards
from r1_mllm.config import (
    DataConfig,
    GrpoConfig,
    ModelConfig,
    ObjectiveConfig,
    RewardConfig,
    RolloutConfig,
    TrainingConfig,
)
from r1_mllm.models import threads
from r1_mllm.records import Group
from r1_mllm.training.session import open_session
from r1_mllm.training.step import accumulate_gradients, add_reference, assign_advantages, pack_groups

QUESTIONS = ("How many dots?", "Count the dots.", "What is 1 + 1?")
SIZES_PX = ((84, 56), (140, 112), None)
"""The third question has no picture."""


def write_rows(folder):
    rows = []
    for i, (question, size) in enumerate(zip(QUESTIONS, SIZES_PX, strict=True)):
        rows.append({"problem": question, "solution": i})
        if size:
            noise = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{i}.png")
            rows[-1]["image"] = f"{i}.png"
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder / "rows.json"


@pytest.fixture
def rollout(tmp_path, request):
    """Open a run on one device and sample a step of it: (session, scored groups)."""
    opened = []

    def make(num_generations=3, prompts=3, max_prompt_length=1024, **objective):
        config = GrpoConfig(
            model=ModelConfig(str(request.config.rootpath / "tests/golden/cases/e2e/checkpoint")),
            data=DataConfig("counting", str(write_rows(tmp_path)), max_prompt_length=max_prompt_length),
            rollout=RolloutConfig(num_generations, 5),
            objective=ObjectiveConfig(**objective),
            reward=RewardConfig(("accuracy",)),
            training=TrainingConfig(
                str(tmp_path / "run"), per_device_train_batch_size=prompts, max_steps=1, report_to=("none",)
            ),
        )
        run = open_session(config)
        opened.append(run)
        examples = [run.examples[i] for i in run.stream.next()]
        texts = [run.encode(example) for example in examples]
        answers = run.engine.generate(texts, num_generations, seed=3)
        groups = [Group(*parts) for parts in zip(examples, texts, answers, strict=True)]
        for group in groups:
            rewards.score(group, run.rewards, config.settled_reward)
        return run, groups

    yield make
    for run in opened:
        run.close()


def advance(run, groups):
    """Compare, pack and take the gradients: (packs, update)."""
    assign_advantages(groups, run.weights, run.config)
    packs = pack_groups(groups, run.visual_ids, run.config)
    add_reference(packs, run.reference, run.config.rollout.temperature)
    return packs, accumulate_gradients(run.model, packs, run.optimizer, run.scale, run.config)


def test_four_completions_on_one_device_give_a_finite_loss_and_centred_advantages(rollout):
    run, groups = rollout(num_generations=4)
    for group in groups:
        group.rewards = group.parts["accuracy"] = np.array([0.25, 1.0, 0.0, 0.5])
    _, update = advance(run, groups)
    assert update.finite and update.grad_norm > 0
    for group in groups:
        assert abs(group.advantages.mean()) < 1e-12 and np.ptp(group.advantages) > 1


def test_equal_rewards_leave_the_divergence_alone(rollout):
    run, groups = rollout(beta=0.5)
    for parameter in run.reference.parameters()[:3]:
        parameter.set_value(parameter * 1.5)
    for group in groups:
        group.rewards = group.parts["accuracy"] = np.full(3, 0.1)
    _, update = advance(run, groups)
    assert all((group.advantages == 0).all() for group in groups)
    mean_kl = update.rows["kl"].sum() / update.rows["tokens"].sum()
    assert mean_kl > 1e-3 and update.loss == pytest.approx(0.5 * mean_kl, rel=1e-4)


def test_pictures_of_different_sizes_and_none_stay_with_their_own_completions(rollout, monkeypatch):
    monkeypatch.setattr(threads, "count", lambda: 1)
    run, groups = rollout(num_generations=3, beta=0.1)
    assert len({len(group.prompt.ids) for group in groups}) == 3
    packs, _ = advance(run, groups)
    assert len(packs) == 1  # the three share one row of tokens
    (batch, _) = packs[0]
    logp = run.model.token_logp(batch, 1.0).numpy()
    # What the sampler saw of each prompt alone is what the update sees of it among the others ...
    np.testing.assert_allclose(logp[batch.mask], batch.sampler_logp[batch.mask], atol=2e-5)
    # ... and so does the reference, pictures included.
    np.testing.assert_allclose(batch.ref_logp[batch.mask], batch.sampler_logp[batch.mask], atol=2e-5)
    own = [completion.logprobs for group in groups for completion in group.completions]
    for row, expected in enumerate(own):
        np.testing.assert_allclose(batch.sampler_logp[batch.row == row], expected)


def test_exchanged_pictures_would_be_noticed(rollout):
    run, groups = rollout()
    first, second = (group for group in groups if group.prompt.pixels is not None)
    first.prompt.pixels, second.prompt.pixels = first.prompt.pixels * -1, second.prompt.pixels * -1
    packs, _ = advance(run, groups)
    (batch, _) = packs[0]
    assert abs(run.model.token_logp(batch, 1.0).numpy() - batch.sampler_logp)[batch.mask].max() > 1e-3


def test_overlong_prompts_are_dropped_and_counted_and_the_rest_stays_whole(rollout, caplog):
    run, groups = rollout(prompts=2, max_prompt_length=85)
    assert [example.question for example in run.examples] == [QUESTIONS[0], QUESTIONS[2]]
    assert "1 of 3 prompts above 85 tokens dropped" in caplog.text
    for group in groups:
        num_marks = np.isin(group.prompt.ids, list(run.visual_ids)).sum()
        assert num_marks == (0 if group.prompt.grids is None else 2 * 3)  # 84 x 56 px, 28 px per token


def test_without_divergence_there_is_no_reference_model(rollout):
    run, groups = rollout(beta=0.0)
    packs, update = advance(run, groups)
    assert run.reference is None and "kl" not in update.rows
    assert all(batch.ref_logp is None for batch, _ in packs)
