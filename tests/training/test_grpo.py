# SPDX-License-Identifier: Apache-2.0
"""The whole loop on a tiny real model (2 layers, width 64) and rendered scenes."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from r1_mllm import rewards
from r1_mllm.config import (
    DataConfig,
    GrpoConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RewardConfig,
    RolloutConfig,
    TrainingConfig,
)
from r1_mllm.data.synthetic import write_splits
from r1_mllm.models.weights import load_pretrained
from r1_mllm.objectives import policy
from r1_mllm.records import Group
from r1_mllm.runtime import DATA, NONFINITE, REWARDS, USAGE, Stop
from r1_mllm.training import grpo, loop
from r1_mllm.training.session import open_session
from r1_mllm.training.step import accumulate_gradients, assign_advantages, pack_groups, phase_seed

REWARD = '''
def capitals(group):
    """Share of capital letters and a bit for length: something a random model can learn."""
    return [sum(c.isupper() for c in done.text) / max(len(done.text), 1) for done in group.completions]
'''


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_splits("counting", 24, tmp_path_factory.mktemp("scenes"), num_test=5, seed=3)


@pytest.fixture
def configure(tmp_path, scenes, request):
    """Make settings; keyword arguments are put where they belong."""
    reward = tmp_path / "reward.py"
    reward.write_text(REWARD)
    base = {
        ModelConfig: {"model_name_or_path": str(request.config.rootpath / "tests/golden/cases/e2e/checkpoint")},
        DataConfig: {
            "task": "counting",
            "dataset_name": str(scenes[0]),
            "eval_dataset_name": str(scenes[1]),
        },
        RolloutConfig: {"num_generations": 4, "max_completion_length": 6},
        ObjectiveConfig: {},
        RewardConfig: {"reward_funcs": (f"{reward}:capitals", "format")},
        OptimizerConfig: {"learning_rate": 1e-3},
        TrainingConfig: {"output_dir": str(tmp_path / "run"), "max_steps": 4, "report_to": ("none",)},
    }

    def make(**changes):
        parts = {}
        for kind, settings in base.items():
            mine = {name: changes.pop(name) for name in list(changes) if name in kind.__dataclass_fields__}
            parts[kind.__name__.removesuffix("Config").lower()] = kind(**settings | mine)
        assert not changes
        return GrpoConfig(**parts)

    return make


@pytest.fixture
def session(configure):
    """Open a run and sample one rollout of it."""
    opened = []

    def make(**changes):
        run = open_session(configure(**changes))
        opened.append(run)
        return run, sample(run)

    yield make
    for run in opened:
        run.close()


def sample(run, seed=5):
    examples = [run.examples[i] for i in run.stream.next()]
    prompts = [run.encode(example) for example in examples]
    completions = run.engine.generate(prompts, run.config.rollout.num_generations, seed=seed)
    groups = [Group(*parts) for parts in zip(examples, prompts, completions, strict=True)]
    for group in groups:
        rewards.score(group, run.rewards, run.config.reward)
    assign_advantages(groups, run.weights, run.config)
    return groups


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(line):
    return {key: value for key, value in line.items() if not key.startswith(("time/", "perf/")) and key not in TIMES}


TIMES = ("step_time", "tokens_per_second", "memory/peak_gb")


def test_a_resumed_run_equals_one_that_never_stopped(configure, tmp_path):
    settings = {"save_steps": 3, "max_steps": 6, "save_total_limit": None, "logging_steps": 2, "eval_steps": 3}
    grpo.train(configure(**settings))
    whole, resumed = tmp_path / "run", tmp_path / "again"
    shutil.copytree(whole, resumed, ignore=shutil.ignore_patterns("checkpoint-6", "final", "eval_after.json"))
    grpo.train(configure(output_dir=str(resumed), **settings))
    for name in ("model.safetensors", "state/optimizer.safetensors", "state/trainer.json"):
        ours, theirs = ((folder / "checkpoint-6" / name).read_bytes() for folder in (resumed, whole))
        assert ours == theirs, name
    assert read_lines(resumed / "completions.jsonl") == read_lines(whole / "completions.jsonl")
    lines = [[without_times(line) for line in read_lines(folder / "metrics.jsonl")] for folder in (resumed, whole)]
    assert lines[0] == lines[1]
    assert (resumed / "eval_after.json").is_file()


def test_a_page_that_fails_costs_a_warning(configure, tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setattr(loop, "write_report", lambda folder: 1 / 0)
    grpo.train(configure(max_steps=1))
    assert "no report was written: ZeroDivisionError" in caplog.text
    assert f"what happened: r1-mllm report {tmp_path / 'run'}" in capsys.readouterr().err
    assert (tmp_path / "run" / "final").is_dir()


def test_a_run_leaves_what_people_look_for(configure, tmp_path):
    grpo.train(configure(max_steps=2, peak_tflops=0.5))
    folder = tmp_path / "run"
    line = read_lines(folder / "metrics.jsonl")[-2]
    for name in (
        "loss learning_rate grad_norm reward reward_std frac_reward_zero_std completions/mean_length kl entropy "
        "clip_ratio/low_mean clip_ratio/high_max num_tokens step_time epoch completion_length clip_ratio "
        "rewards/format rewards/format/mean rewards/format/std completions/clipped_ratio "
        "perf/tflops perf/mfu perf/mfu_actor"
    ).split():
        assert np.isfinite(line[name]), name
    assert line["perf/mfu"] == pytest.approx(line["perf/tflops"] / 0.5) and line["perf/mfu_actor"] > 0
    assert len(read_lines(folder / "completions.jsonl")) == 2 * 2 * 4
    assert read_lines(folder / "eval.jsonl")[0]["num"] == 5
    assert "<html" in (folder / "report.html").read_text()
    for exported in (folder, folder / "final", folder / "checkpoint-2"):
        load_pretrained(exported)
    before = (folder / "metrics.jsonl").read_text()
    grpo.train(configure(max_steps=2, peak_tflops=0.25))  # again: everything is done
    assert (folder / "metrics.jsonl").read_text() == before


def test_the_loop_raises_a_learnable_reward(configure, tmp_path):
    grpo.train(
        configure(
            max_steps=30, learning_rate=1e-2, num_generations=8, beta=0.0, eval_num=1, lr_scheduler_type="constant"
        )
    )
    earned = [line["reward"] for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "reward" in line]
    assert np.mean(earned[-5:]) > np.mean(earned[:5]) + 0.1


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo"])
def test_gradients_do_not_depend_on_the_token_budget(session, loss_type):
    run, groups = session(loss_type=loss_type, beta=0.0, gradient_accumulation_steps=2)
    norms, gradients = [], []
    for budget in (1, 250, 10**6):
        training = TrainingConfig(tokens_per_pack=budget)
        config = GrpoConfig(
            run.config.model, run.config.data, run.config.rollout, run.config.objective, training=training
        )
        packs = pack_groups(groups, run.visual_ids, config)
        update = accumulate_gradients(run.model, packs, run.optimizer, run.scale, config)
        norms.append(update.grad_norm)
        gradients.append(run.model.text.norm.weight.grad.numpy())
        run.optimizer.clear()
    assert norms[0] > 0
    np.testing.assert_allclose(norms, norms[0], rtol=1e-4)
    for gradient in gradients[1:]:
        np.testing.assert_allclose(gradient, gradients[0], atol=1e-4 * abs(gradients[0]).max())


def test_bnpo_averages_micro_batches_and_dapo_does_not(session):
    run, groups = session(loss_type="bnpo", gradient_accumulation_steps=2, per_device_train_batch_size=1)
    groups[0].completions = groups[0].completions[:1]  # unequal numbers of tokens
    tokens = [sum(len(done.ids) for done in group.completions) for group in groups]
    counts = sorted(counts.num_tokens for _, counts in pack_groups(groups, run.visual_ids, run.config))
    assert counts == sorted(2.0 * n for n in tokens)


def test_a_poisoned_sample_is_named_and_the_weights_stay(session):
    run, groups = session(beta=0.0)
    groups[1].completions[2].logprobs[1] = np.nan
    before = {name: p.numpy().copy() for name, p in run.model.named_parameters()}
    packs = pack_groups(groups, run.visual_ids, run.config)
    with pytest.raises(Stop) as stop:
        grpo._update(run, groups, packs)
    assert stop.value.code == NONFINITE
    assert groups[1].example.images[0] in str(stop.value) and groups[0].example.images[0] not in str(stop.value)
    samples = json.loads((run.run.output_dir / "nonfinite-step-0.json").read_text())["samples"]
    assert {row["id"] for row in samples} == {groups[1].example.meta.get("id", groups[1].example.meta["where"])}
    for name, parameter in run.model.named_parameters():
        assert (parameter.numpy() == before[name]).all()


def test_skipping_is_counted_and_limited(session):
    run, groups = session(beta=0.0, nonfinite="skip")
    weight = run.model.text.norm.weight.numpy().copy()
    groups[0].completions[0].logprobs[0] = np.inf * 0
    packs = pack_groups(groups, run.visual_ids, run.config)
    for _ in range(3):
        grpo._update(run, groups, packs)
    assert run.skipped == [0, 1, 2] and run.step == 3 and run.optimizer.num_steps == 0
    assert (run.model.text.norm.weight.numpy() == weight).all()
    with pytest.raises(Stop, match="4 steps left out"):
        grpo._update(run, groups, packs)


def test_an_old_skip_is_forgotten_after_a_hundred_steps(session):
    run, groups = session(beta=0.0, nonfinite="skip")
    run.skipped, run.step = [0, 1, 2], 150
    groups[0].completions[0].logprobs[0] = np.nan
    grpo._update(run, groups, pack_groups(groups, run.visual_ids, run.config))
    assert run.skipped == [150]


def test_without_a_kl_term_no_reference_is_loaded_and_frozen_vision_stays(configure, tmp_path):
    run = open_session(configure(beta=0.0))
    assert run.reference is None
    run.close()
    config = configure(freeze_vision=True, max_steps=2, output_dir=str(tmp_path / "frozen"), eval_num=1)
    grpo.train(config)
    old = load_file(config.model.model_name_or_path + "/model.safetensors")
    new = load_file(tmp_path / "frozen" / "model.safetensors")
    changed = {name for name in old if (old[name] != new[name]).any()}
    assert changed and not any(name.startswith("visual.") for name in changed)


def test_several_updates_per_rollout_leave_the_sampler_behind(configure, tmp_path):
    grpo.train(configure(num_iterations=2, max_steps=4, learning_rate=3e-3, eval_num=1))
    lines = [line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "reward" in line]
    assert lines[0]["reward"] == lines[1]["reward"] != lines[2]["reward"]
    assert lines[0]["clip_ratio"] == 0 < lines[1]["clip_ratio"]
    assert len(read_lines(tmp_path / "run" / "completions.jsonl")) == 2 * 2 * 4


def test_the_sampler_and_the_policy_agree_on_what_was_sampled(session):
    run, groups = session(temperature=0.8)
    for batch, _ in pack_groups(groups, run.visual_ids, run.config):
        logp = run.model.token_logp(batch, 0.8).numpy()
        np.testing.assert_allclose(logp[batch.mask], batch.sampler_logp[batch.mask], atol=2e-5)


def test_prompts_above_the_limit_are_dropped_and_none_left_is_an_error(configure):
    with pytest.raises(Stop, match="max_prompt_length 20") as stop:
        open_session(configure(max_prompt_length=20))
    assert stop.value.code == DATA


def broken_pictures(scenes, tmp_path):
    """Copy the scenes; the picture of the second row is cut, the question of the third holds a control token."""
    shutil.copytree(scenes[0].parent, tmp_path / "broken")
    path = tmp_path / "broken" / scenes[0].name
    made = json.loads(path.read_text())
    picture = path.parent / made[1]["image"]
    picture.write_bytes(picture.read_bytes()[:-30])
    made[2]["problem"] += "<|im_end|>"
    path.write_text(json.dumps(made))
    return path


def test_unreadable_pictures_and_control_tokens_are_found_before_training(configure, scenes, tmp_path):
    path = broken_pictures(scenes, tmp_path)
    with pytest.raises(Stop, match=r"2 problems") as stop:
        open_session(configure(dataset_name=str(path)))
    assert stop.value.code == DATA
    assert "(row 2): " in str(stop.value) and "truncated" in str(stop.value) and "control token" in str(stop.value)


def test_rows_set_aside_stay_listed_in_the_run_that_left_them_out(configure, scenes, tmp_path):
    path = broken_pictures(scenes, tmp_path)
    settings = {"dataset_name": str(path), "eval_dataset_name": str(path), "data_policy": "quarantine", "max_bad": "2"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old.txt").write_text("an earlier run")
    run = open_session(configure(overwrite_output_dir=True, **settings))
    run.close()
    assert len(run.examples) == len(run.eval_examples) == 22
    for name in ("quarantine.jsonl", "quarantine_eval.jsonl"):
        assert [line["field"] for line in read_lines(tmp_path / "run" / name)] == ["row", "row"]


def test_held_out_examples_seen_in_training_are_counted(configure, scenes, caplog):
    open_session(configure(eval_dataset_name=str(scenes[0]))).close()
    assert "24 held-out examples are also in the training data" in caplog.text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reward_funcs": ("acuracy",)}, "did you mean 'accuracy'"),
        ({"prompt_template": "README.md"}, "README.md: "),
    ],
)
def test_misspelt_settings_stop_without_a_traceback(configure, changes, told):
    with pytest.raises(Stop, match=told) as stop:
        open_session(configure(**changes))
    assert stop.value.code == USAGE


def test_a_failing_reward_stops_the_run_and_an_abstaining_one_is_said(configure, tmp_path, capsys):
    reward = tmp_path / "mine.py"
    reward.write_text("def fails(group):\n    return 1 / 0\ndef silent(group):\n    return [None] * 4\n")
    with pytest.raises(Stop, match=r"ZeroDivisionError.*mine\.py:2") as stop:
        grpo.train(configure(reward_funcs=(f"{reward}:fails",), output_dir=str(tmp_path / "a")))
    assert stop.value.code == REWARDS
    grpo.train(configure(reward_funcs=(f"{reward}:silent",), max_steps=1, output_dir=str(tmp_path / "b")))
    assert "no reward judged any completion" in capsys.readouterr().err
    line = read_lines(tmp_path / "b" / "metrics.jsonl")[-2]
    assert (line["completions/not_scored"], line["reward"]) == (8, None)
    assert line["grad_norm"] < 1e-6  # of the KL term between equal models, by rounding


def test_cispo_needs_its_cap(configure):
    with pytest.raises(Stop, match="epsilon_high"):
        open_session(configure(loss_type="cispo"))


def test_a_question_seen_again_is_answered_with_other_random_numbers(configure, tmp_path, scenes):
    few = scenes[0].with_name("few.json")
    few.write_text(json.dumps(json.loads(scenes[0].read_text())[:2]))
    grpo.train(configure(dataset_name=str(few), learning_rate=0.0, max_steps=2, eval_num=1))
    first, second = ([], [])
    for row in read_lines(tmp_path / "run" / "completions.jsonl"):
        (first if row["step"] == 1 else second).append((row["id"], row["completion"]))
    assert {key for key, _ in first} == {key for key, _ in second} and not set(first) & set(second)


def test_equal_rewards_change_nothing(session):
    run, groups = session(beta=0.0)
    for group in groups:
        group.parts = {name: np.full(4, 0.7) for name in group.parts}
        group.rewards = np.full(4, 1.4)
    assign_advantages(groups, run.weights, run.config)
    update = accumulate_gradients(
        run.model, pack_groups(groups, run.visual_ids, run.config), run.optimizer, run.scale, run.config
    )
    assert (update.loss, update.grad_norm) == (0.0, 0.0)


def test_seeds_depend_on_everything_that_names_a_phase():
    seeds = {
        phase_seed(*key) for key in ((1, 2, "a", 0), (2, 2, "a", 0), (1, 3, "a", 0), (1, 2, "b", 0), (1, 2, "a", 1))
    }
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds)
    assert phase_seed(1, 2, "a", 0) == phase_seed(1, 2, "a", 0)


def test_counts_cover_the_whole_step(session):
    run, groups = session(loss_type="dr_grpo", tokens_per_pack=1)
    packs = pack_groups(groups, run.visual_ids, run.config)
    tokens = sum(len(done.ids) for group in groups for done in group.completions)
    assert len(packs) == 8 and {counts for _, counts in packs} == {policy.Counts(tokens, 8, 6)}
