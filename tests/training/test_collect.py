# SPDX-License-Identifier: Apache-2.0
"""Dynamic sampling and mini-batches on a tiny real model; the reward knows which questions have mixed groups."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from r1_mllm import config as settings
from r1_mllm.config import RolloutConfig
from r1_mllm.records import Group
from r1_mllm.runtime import USAGE, Stop
from r1_mllm.training import collect, grpo
from r1_mllm.training.session import open_session
from r1_mllm.training.step import Stopwatch

WORKER = Path(__file__).with_name("two_ranks_collect.py")
NUM_ROWS = 12
REWARD = '''
def every(group):
    """Mixed for every n-th question only, n from the question's text."""
    number, n = (int(word) for word in group.example.question.split("+"))
    return [float(i) if number % n == 0 else 1.0 for i in range(len(group.completions))]
'''


def write_rows(folder, every):
    rows = [{"problem": f"{i} + {every}", "solution": i} for i in range(NUM_ROWS)]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "reward.py").write_text(REWARD)


def configure(folder, every=3, output="run", **changes):
    write_rows(folder, every)
    checkpoint = Path(__file__).parents[1] / "golden/cases/e2e/checkpoint"
    base = {
        "model": {"model_name_or_path": str(checkpoint)},
        "data": {"task": "counting", "dataset_name": str(folder / "rows.json")},
        "rollout": {"num_generations": 2, "max_completion_length": 4, "dynamic_sampling": True},
        "objective": {"beta": 0.0},
        "reward": {"reward_funcs": (f"{folder / 'reward.py'}:every",)},
        "optimizer": {"learning_rate": 1e-3},
        "training": {"output_dir": str(folder / output), "max_steps": 2, "report_to": ("none",)},
    }
    parts = {}
    for name, given in base.items():
        kind = getattr(settings, f"{name.capitalize()}Config")
        mine = {key: changes.pop(key) for key in list(changes) if key in kind.__dataclass_fields__}
        parts[name] = kind(**given | mine)
    assert not changes
    return settings.GrpoConfig(**parts)


def lines(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def numbers_of(groups):
    return [int(group.example.question.split("+")[0]) for group in groups]


@pytest.fixture
def opened(tmp_path):
    runs = []

    def make(**changes):
        runs.append(open_session(configure(tmp_path, **changes)))
        return runs[-1]

    yield make
    for run in runs:
        run.close()


def test_a_step_holds_mixed_groups_only_and_no_example_is_skipped_or_sampled_twice(opened):
    run = opened()
    rollout = collect.collect(run, Stopwatch())
    assert len(rollout.groups) == 2 and all(number % 3 == 0 for number in numbers_of(rollout.groups))
    assert all(number % 3 for number in numbers_of(rollout.dropped)) and rollout.dropped
    assert run.stream.state()["index"] == len(rollout.sampled)
    expected = open_order(run)[: len(rollout.sampled)]
    assert sorted(numbers_of(rollout.sampled)) == sorted(expected)
    assert all((group.advantages == 0).all() for group in rollout.dropped)
    assert all((group.advantages != 0).any() for group in rollout.groups)
    again = collect.collect(run, Stopwatch())
    both = numbers_of(rollout.sampled) + numbers_of(again.sampled)
    assert len(set(both[:NUM_ROWS])) == min(len(both), NUM_ROWS)


def open_order(run):
    from r1_mllm.data.stream import permutation

    return permutation(NUM_ROWS, run.config.data.data_seed, 0).tolist()


def test_the_number_of_rounds_is_bounded_and_what_is_missing_is_filled_and_counted(opened):
    run = opened(every=NUM_ROWS + 1, max_num_gen_batches=3)  # 0 alone is mixed
    run.examples = [example for example in run.examples if example.question != f"0 + {NUM_ROWS + 1}"] + [
        run.examples[1]
    ]
    rollout = collect.collect(run, Stopwatch())
    assert len(rollout.groups) == 2 and len(rollout.dropped) == 4
    assert list(rollout.counts.values()) == [3, 6, 0, 2]
    assert (np.stack([group.advantages for group in rollout.groups]) == 0).all()


def test_what_counts_as_mixed():
    def group(rewards, correct):
        grades = [type("G", (), {"correct": right})() for right in correct]
        return Group(None, None, [None] * len(rewards), grades=grades, rewards=np.array(rewards))

    by_reward, by_accuracy = RolloutConfig(), RolloutConfig(filter_metric="accuracy")
    short, equal = group([1.0, 0.7, 1.0], [True] * 3), group([0.3] * 3, [False, True, False])
    assert (collect.is_mixed(short, by_reward), collect.is_mixed(short, by_accuracy)) == (True, False)
    assert (collect.is_mixed(equal, by_reward), collect.is_mixed(equal, by_accuracy)) == (False, True)
    assert not collect.is_mixed(group([np.nan, 2.0], [True, False]), by_reward)


def test_a_run_counts_its_rounds_and_a_resumed_one_equals_it(tmp_path):
    changes = {"max_steps": 4, "save_steps": 2, "save_total_limit": None}
    grpo.train(configure(tmp_path, **changes))
    whole, resumed = tmp_path / "run", tmp_path / "again"
    shutil.copytree(whole, resumed, ignore=shutil.ignore_patterns("checkpoint-4", "final"))
    grpo.train(configure(tmp_path, output="again", **changes))
    for name in ("model.safetensors", "state/optimizer.safetensors", "state/trainer.json"):
        ours, theirs = ((folder / "checkpoint-4" / name).read_bytes() for folder in (resumed, whole))
        assert ours == theirs, name
    assert lines(resumed, "completions.jsonl") == lines(whole, "completions.jsonl")
    logged = [line for line in lines(whole) if "dynamic_sampling/num_rounds" in line]
    assert len(logged) == 4 and all(line["dynamic_sampling/num_mixed"] == 2 for line in logged)
    assert max(line["dynamic_sampling/num_rounds"] for line in logged) > 1
    sampled = sum(line["dynamic_sampling/num_sampled"] for line in logged)
    assert len(lines(whole, "completions.jsonl")) == 2 * sampled
    state = json.loads((whole / "checkpoint-4/state/trainer.json").read_text())["trainer"]["stream"]
    assert state["epoch"] * NUM_ROWS + state["index"] == sampled


def test_mini_batches_take_a_step_each_and_leave_the_sampler_behind(tmp_path):
    changes = {"per_device_train_batch_size": 4, "mini_batch_size": 2, "dynamic_sampling": False, "num_iterations": 2}
    grpo.train(configure(tmp_path, every=1, max_steps=7, save_steps=3, learning_rate=3e-3, **changes))
    logged = [line for line in lines(tmp_path / "run") if "loss" in line]
    assert len(logged) == 7 and logged[0]["reward"] == logged[3]["reward"]
    assert logged[0]["clip_ratio"] == 0 and logged[3]["clip_ratio"] >= 0
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-7"}


def test_epochs_count_every_mini_batch(opened):
    changes = {"per_device_train_batch_size": 4, "mini_batch_size": 2, "num_iterations": 3}
    assert opened(max_steps=-1, num_train_epochs=2, **changes).num_steps == 2 * (NUM_ROWS // 4) * 2 * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mini_batch_size": 3}, "must divide the 2 prompts"),
        ({"max_num_gen_batches": 0}, "max_num_gen_batches 0: must be at least 1"),
        ({"dual_clip": 0.9}, "dual_clip 0.9: must be above 1"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        configure(tmp_path, **changes)


def test_flags_of_verl_and_easyr1_are_known():
    from r1_mllm.config.flags import parse

    words = "--clip_ratio_low 0.2 --clip_ratio_high 0.28 --clip_ratio_c 10 --dynamic_sampling".split()
    found = parse(settings.GrpoConfig, words, "x")
    assert (found.objective.epsilon, found.objective.epsilon_high, found.objective.dual_clip) == (0.2, 0.28, 10.0)
    assert found.rollout.dynamic_sampling
    with pytest.raises(SystemExit) as stop:
        parse(settings.GrpoConfig, ["--dual_clip", "1"], "x")
    assert stop.value.code == USAGE


@pytest.mark.slow
def test_two_ranks_agree_on_the_rounds(tmp_path):
    """Rank 0 and rank 1 need different numbers of further groups; both stop after the same round."""
    configure(tmp_path, every=4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", tmp_path / "log"]
    command = [sys.executable, *launch, WORKER, tmp_path]
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["streams"] == second["streams"]
    unequal = [len(a["mixed"]) + len(a["dropped"]) != len(b["mixed"]) + len(b["dropped"]) for a, b in
               zip(first["rollouts"], second["rollouts"], strict=True)]  # fmt: skip
    assert any(unequal)
    for rank in (first, second):
        assert all(number % 4 == 0 for rollout in rank["rollouts"] for number in rollout["mixed"])
    logged = [line for line in lines(tmp_path / "run") if "dynamic_sampling/num_rounds" in line]
    assert len(logged) == 2 and all(line["dynamic_sampling/num_mixed"] == 4 for line in logged)


def test_prompts_made_ahead_on_threads_change_nothing(opened):
    runs = [opened(output=f"run-{num}", dynamic_sampling=False, dataloader_num_workers=num) for num in (0, 2)]
    for step in range(3):
        found = [[sampled(group) for group in collect.collect(run, Stopwatch()).groups] for run in runs]
        assert found[0] == found[1], step
        for run in runs:
            run.step += 1


def sampled(group):
    return group.example.question, group.prompt.ids.tolist(), [one.ids.tolist() for one in group.completions]


def test_the_step_that_needs_a_broken_picture_is_the_one_that_fails(opened):
    run = opened(dynamic_sampling=False, dataloader_num_workers=1, max_steps=3)
    bad = run.stream.peek()[1]
    run.examples[bad] = dataclasses.replace(run.examples[bad], images=("gone.png",))
    state = run.stream.state()
    run.stream.next()
    first = run.stream.peek()
    run.stream.restore(state)
    run.ahead.prepare([*first, *run.stream.peek()])
    assert len(run.ahead.take(first)) == 2
    with pytest.raises(Stop, match=r"rows\.json"):
        collect.collect(run, Stopwatch())


def test_lengths_of_earlier_completions_decide_who_begins_first_and_survive_a_checkpoint(opened, monkeypatch):
    changes = {"dynamic_sampling": False, "rollout_batch_rows": 2, "per_device_train_batch_size": 6}
    run = opened(**changes)
    expected, generate = [], type(run.engine).generate

    def spy(self, prompts, n, **options):
        expected.append(options["expected"])
        return generate(self, prompts, n, **options)

    monkeypatch.setattr(type(run.engine), "generate", spy)
    first = [collect.collect(run, Stopwatch()).groups for _ in range(2)]
    numbers = {number: group for groups in first for number, group in zip(numbers_of(groups), groups, strict=True)}
    assert run.lengths == {
        number: sum(len(one.ids) for one in group.completions) / 2 for number, group in numbers.items()
    }
    coming = run.stream.peek()
    collect.collect(run, Stopwatch())
    assert expected == [
        None,
        [None] * 6,
        [numbers[i] and sum(len(c.ids) for c in numbers[i].completions) / 2 for i in coming],
    ]
    run.step = 1
    run.save()
    kept = dict(run.lengths)
    run.close()
    assert opened(**changes).lengths == kept
