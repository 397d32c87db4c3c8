# SPDX-License-Identifier: Apache-2.0
"""Stages in a row on a tiny real model: where each starts, what is passed over, what resumes, what is refused."""

import json
import shutil
from dataclasses import replace

import pytest

from r1_mllm.config import curriculum as curricula
from r1_mllm.config.stopping import StoppingConfig
from r1_mllm.data.synthetic import write_splits
from r1_mllm.runtime import DATA, OUTPUT, Stop
from r1_mllm.training import curriculum, grpo
from r1_mllm.training.stopping import Stopper

STAGES = """
common:
  task: counting
  num_generations: 3
  per_device_train_batch_size: 1
  max_completion_length: 4
  beta: 0.0
  learning_rate: 1e-3
  reward_funcs: [{reward}:vowels]
  save_steps: 1
  report_to: none
stages:
  - {{name: judge, form: judge, max_steps: 2}}
  - {{name: choice, form: choice, max_steps: 3, num_generations: 2}}
  - {{name: open, start_from: best, max_steps: 2}}
"""


@pytest.fixture
def make(tmp_path, request):
    """Write a curriculum of three stages and read it with further flags."""
    train, test = write_splits("counting", 12, tmp_path / "scenes", num_test=3, seed=2)
    reward = tmp_path / "reward.py"
    reward.write_text("def vowels(group):\n    return [sum(c in 'aeiou' for c in d.text) for d in group.completions]\n")
    path = tmp_path / "stages.yaml"
    path.write_text(STAGES.format(reward=reward))
    model = request.config.rootpath / "tests/golden/cases/e2e/checkpoint"

    def read(folder="run", **flags):
        flags = {"model_name_or_path": model, "dataset_name": train, "eval_dataset_name": test} | flags
        words = [f"--{name}={value}" for name, value in flags.items()]
        return curricula.read(path, [*words, "--output_dir", str(tmp_path / folder)])

    return read


def weights(folder):
    return (folder / "final" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_an_interrupted_stage_resumes_and_a_finished_one_is_passed_over(make, tmp_path, monkeypatch, capsys):
    curriculum.run(make("whole"))
    whole = tmp_path / "whole"
    taken, collect = [], grpo.collect

    def interrupted(run, watch):
        taken.append(run.config.training.output_dir)
        if len(taken) == 5:  # 2 steps of the first stage, 2 of the second
            raise KeyboardInterrupt
        return collect(run, watch)

    monkeypatch.setattr(grpo, "collect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        curriculum.run(make())
    run = tmp_path / "run"
    first = (run / "judge" / "final" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    taken[:] = [""] * 10
    curriculum.run(make())
    told = capsys.readouterr()
    assert "judge (judge): finished earlier" in told.out and "resuming from step 2" in told.err
    assert taken[10:] == [str(run / "choice")] + [str(run / "open")] * 2
    assert (run / "judge" / "final" / "model.safetensors").stat().st_mtime_ns == first
    for stage in ("judge", "choice", "open"):
        assert weights(run / stage) == weights(whole / stage)
    facts = json.loads((run / "curriculum.json").read_text())["stages"]
    assert [(fact["name"], fact["steps"], fact["form"]) for fact in facts] == [
        ("judge", 2, ["judge"]), ("choice", 3, ["choice"]), ("open", 2, ["open"]),
    ]  # fmt: skip
    assert facts[1]["model"] == str(run / "judge" / "final")
    assert facts[2]["model"] == str(curriculum.best_checkpoint(run / "choice"))
    rows = [json.loads(line) for line in (run / "judge" / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 3 and all("Proposed answer" in row["question"] for row in rows)


def write_stage(folder, evaluations, rewards, steps):
    for step in steps:
        (folder / f"checkpoint-{step}").mkdir(parents=True)
    lines = [json.dumps({"step": step, "accuracy": value}) for step, value in evaluations]
    (folder / "eval.jsonl").write_text("\n".join(lines))
    lines = [json.dumps({"step": step, "reward": value}) for step, value in rewards]
    (folder / "metrics.jsonl").write_text("\n".join(lines))


def test_the_best_checkpoint_has_the_best_accuracy_and_else_the_best_reward(tmp_path, monkeypatch):
    monkeypatch.setattr(curriculum.durable, "damage", lambda path, hashes: None)
    write_stage(tmp_path / "a", [(0, 90), (2, 40), (4, 60), (6, 60), (8, 50)], [], (2, 4, 6, 8))
    assert curriculum.best_checkpoint(tmp_path / "a").name == "checkpoint-6"
    rewards = [(1, 9.0), (2, 2.8), (3, 0.0), (4, 0.0), (5, 5.0), (6, 7.0)]
    write_stage(tmp_path / "b", [], rewards, (2, 4, 6))
    assert curriculum.best_checkpoint(tmp_path / "b").name == "checkpoint-6"
    (tmp_path / "c").mkdir()
    with pytest.raises(Stop, match="no checkpoint to start from") as refusal:
        curriculum.best_checkpoint(tmp_path / "c")
    assert refusal.value.code == OUTPUT


def test_test_rows_that_any_stage_trains_on_are_refused_by_name(make, tmp_path):
    scenes = tmp_path / "scenes"
    rows = json.loads((scenes / "test.json").read_text())
    copy = scenes / "images" / "renamed.png"
    shutil.copy(scenes / rows[1]["image"], copy)
    train = json.loads((scenes / "train.json").read_text())
    leaky = scenes / "leaky.json"
    leaky.write_text("[\n" + ",\n".join(map(json.dumps, [*train, {**rows[1], "image": "images/renamed.png"}])) + "\n]")
    config = make()
    stages = list(config.stages)
    data = replace(stages[1].grpo.data, dataset_name=str(leaky))
    stages[1] = replace(stages[1], grpo=replace(stages[1].grpo, data=data))
    with pytest.raises(Stop) as refusal:
        curriculum.run(replace(config, stages=tuple(stages)))
    assert refusal.value.code == DATA
    assert "1 of 3 test rows" in str(refusal.value) and f"{leaky}:14 is {scenes / 'test.json'}:3" in str(refusal.value)
    assert not (tmp_path / "run" / "judge").exists()


@pytest.mark.parametrize("second", ["train.json", "again.json"])
def test_a_mixture_that_lists_a_file_twice_is_refused(make, tmp_path, second):
    scenes = tmp_path / "scenes"
    shutil.copy(scenes / "train.json", scenes / "again.json")
    mixture = scenes / "mixture.yaml"
    mixture.write_text(
        f"train_datasets: [{{json_path: train.json}}, {{json_path: {second}, sampling_strategy: end:2}}]"
    )
    with pytest.raises(Stop, match=f"mixture.yaml: listed more than once: {second}"):
        curriculum.run(make(dataset_name=mixture))


def test_stages_without_optimizer_state_start_again_and_say_so(make, tmp_path, monkeypatch, capsys):
    collect = grpo.collect
    monkeypatch.setattr(grpo, "collect", lambda run, watch: 1 / 0 if run.step == 1 else collect(run, watch))
    config = make(save_only_model=True)
    stage = config.stages[0].grpo
    with pytest.raises(ZeroDivisionError):
        curriculum.run_stage(stage)
    folder = tmp_path / "run" / "judge"
    assert not (folder / "checkpoint-1" / "state" / "optimizer.safetensors").exists()
    monkeypatch.setattr(grpo, "collect", collect)
    curriculum.run_stage(stage)
    told = capsys.readouterr().err
    assert "checkpoint-1 was written with --save_only_model True: the run starts again" in told
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()][-1] == 2
    curriculum.run_stage(stage)
    assert curriculum.is_finished(stage)
    training = replace(stage.training, resume_from_checkpoint=str(folder / "checkpoint-2"))
    with pytest.raises(Stop, match="has no optimizer state; start from it with --model_name_or_path"):
        grpo.train(replace(stage, training=training))


def test_a_run_ends_at_its_token_limit_and_is_then_finished(make, tmp_path):
    stage = replace(make().stages[0].grpo, stopping=StoppingConfig(max_generated_tokens=5))
    stage = replace(stage, training=replace(stage.training, max_steps=9))
    grpo.train(stage)
    metrics = (tmp_path / "run" / "judge" / "metrics.jsonl").read_text().splitlines()
    last = next(row for row in map(json.loads, reversed(metrics)) if "reward" in row)
    assert last["step"] == 1 and 5 <= last["num_generated_tokens"] <= 12
    assert curriculum.is_finished(stage)
    grpo.train(stage)  # and nothing is left to do
    assert (tmp_path / "run" / "judge" / "metrics.jsonl").read_text().splitlines() == metrics


def test_a_plateau_is_a_window_that_gains_too_little():
    stopper = Stopper(StoppingConfig(plateau_window=2, plateau_gain=0.1))
    seen = []
    for reward in (0.0, 0.2, 0.4, float("nan"), 0.4, 0.5):
        stopper.observe(reward, 3)
        seen.append(stopper.reason is not None)
    assert seen == [False] * 5 + [False]  # 0.1 -> 0.4, then 0.3 -> 0.45
    again = Stopper(stopper.config)
    again.restore(json.loads(json.dumps(stopper.state())))
    assert again.num_generated == 18
    for one in (stopper, again):
        one.observe(0.41, 3)
        assert one.reason.startswith("reward plateau: 0.4000 and then 0.4550")
