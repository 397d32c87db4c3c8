# SPDX-License-Identifier: Apache-2.0
"""Reward functions written for TRL, verl and EasyR1 get what they expect, whatever their form."""

import asyncio

import numpy as np
import pytest

from r1_mllm import rewards
from r1_mllm.config import RewardConfig
from r1_mllm.records import Completion, Example, Group, Prompt
from r1_mllm.rewards.reward_files import adapt, style
from r1_mllm.training import metrics
from r1_mllm.training.tracking import completion_rows


@pytest.fixture
def group():
    meta = {"where": "rows.jsonl:7", "level": 3, "data_source": "clevr", "extra_info": {"index": 12}}
    example = Example("counting", "How many cubes?", 4, ("a.png",), meta=meta)
    prompt = Prompt(np.arange(3), np.zeros((3, 3), np.int64), 3, text="<user>How many cubes?")
    texts = ("4", "<answer>4</answer>", "seven")
    return Group(example, prompt, [Completion(np.arange(n + 2), np.zeros(n + 2), t, True) for n, t in enumerate(texts)])


def run(function, group):
    scores = adapt(function)(group, "settings")
    return scores.values, scores.parts


def test_ours_gets_the_group_and_if_it_wants_the_settings(group):
    assert run(lambda group: [len(done.text) for done in group.completions], group) == ([1, 18, 5], {})
    assert run(lambda g, config: [config] * 3, group) == (["settings"] * 3, {})


def test_trl_gets_messages_and_the_rows_columns_repeated(group):
    seen = {}

    def reward(prompts, completions, completion_ids, solution, level, **kwargs):
        seen.update(kwargs, prompts=prompts, ids=completion_ids, level=level)
        return [float(str(gold) in done[0]["content"]) for gold, done in zip(solution, completions, strict=True)]

    assert run(reward, group) == ([1.0, 1.0, 0.0], {})
    assert seen["level"] == [3, 3, 3] and seen["image"] == ["a.png"] * 3 and seen["ids"][1] == [0, 1, 2]
    assert seen["prompts"][2] == [{"role": "user", "content": "How many cubes?"}]
    assert "log_metric" not in seen


def test_trl_gets_texts_when_it_says_so_and_may_log(group):
    def reward(completions, log_metric, **kwargs):
        log_metric("share", 0.25)
        return [len(text) for text in completions]

    reward.text_completions = True
    assert run(reward, group) == ([1, 18, 5], {"share": [0.25] * 3})


def test_verl_is_asked_about_each_completion(group):
    seen = []

    def compute_score(data_source, solution_str, ground_truth, extra_info=None):
        seen.append((data_source, ground_truth, extra_info["index"], extra_info["level"]))
        return {"score": float(ground_truth in solution_str), "acc": True, "pred": "text"}

    assert run(compute_score, group) == ([1.0, 1.0, 0.0], {"acc": [1.0, 1.0, 1.0]})
    assert seen == [("clevr", "4", 12, 3)] * 3


def test_verl_may_return_a_number_or_a_tuple(group):
    assert run(lambda solution_str, ground_truth: len(solution_str) / 2, group)[0] == [0.5, 9.0, 2.5]
    assert run(lambda solution_str, ground_truth: (1.5, "why"), group)[0] == [1.5] * 3


def test_easyr1_gets_inputs_together_or_one_by_one(group):
    def batch(reward_inputs, format_weight=0.25):
        return [
            {"overall": format_weight * item["response_length"], "accuracy": float(item["ground_truth"] == "4")}
            for item in reward_inputs
        ]

    def sequential(reward_input):
        return {"overall": len(reward_input["response"]), "format": 0.5}

    assert run(batch, group) == ([0.5, 0.75, 1.0], {"accuracy": [1.0] * 3})
    assert run(sequential, group) == ([1, 18, 5], {"format": [0.5] * 3})
    assert run(lambda predict_str, ground_truth: 2.0, group)[0] == [2.0] * 3
    pairs = lambda predicts, ground_truths: [len(p) + len(g) for p, g in zip(predicts, ground_truths, strict=True)]  # noqa: E731
    assert run(pairs, group)[0] == [2, 19, 6]


def test_async_functions_are_waited_for_side_by_side(group):
    running = []

    async def compute_score(solution_str, ground_truth):
        running.append(solution_str)
        await asyncio.sleep(0.05)
        return float(len(running))

    async def reward(completions, **kwargs):
        await asyncio.sleep(0)
        return [0.5] * len(completions)

    assert run(compute_score, group)[0] == [3.0, 3.0, 3.0]  # all had begun before the first one ended
    assert run(reward, group)[0] == [0.5] * 3


def test_dicts_of_some_completions_leave_holes_in_the_parts(group):
    results = iter([{"score": 1.0, "acc": 1.0}, None, {"score": 0.0}])
    assert run(lambda solution_str: next(results), group) == ([1.0, None, 0.0], {"acc": [1.0, None, None]})


def test_what_cannot_be_called_is_named(group):
    with pytest.raises(ValueError, match=r"\(a, b, c\)"):
        style(lambda a, b, c: 0)
    with pytest.raises(ValueError, match="wants gold, which the rows do not have"):
        run(lambda completions, gold: [0] * 3, group)
    with pytest.raises(ValueError, match="without overall or score or reward"):
        run(lambda solution_str: {"points": 1}, group)


def test_boxes_reach_verl_as_json_and_trl_as_a_list(group):
    boxed = Group(Example("rec", "Where?", (1.0, 2.5, 3.0, 4.0)), group.prompt, group.completions[:1])
    assert run(lambda solution_str, ground_truth: {"score": 0, "n": len(ground_truth)}, boxed)[1] == {"n": [20.0]}
    assert run(lambda completions, solution, **k: [solution[0][1]], boxed)[0] == [2.5]


@pytest.mark.parametrize("isolation", ["process", "none"])
def test_a_file_is_loaded_with_weights_and_its_parts_reach_the_logs(group, tmp_path, isolation):
    (tmp_path / "mine.py").write_text(
        "async def compute_score(data_source, solution_str, ground_truth, extra_info):\n"
        "    return {'score': len(solution_str), 'level': extra_info['level'], 'why': 'text'}\n"
    )
    name = f"{tmp_path}/mine.py:compute_score"
    config = RewardConfig(("accuracy", name), (1.0, 0.5), reward_isolation=isolation)
    functions = [rewards.load_reward(function, config) for function in config.reward_funcs]
    rewards.score(group, functions, config)
    assert group.parts[name].tolist() == [1.0, 18.0, 5.0]
    assert group.rewards.tolist() == [0.5, 1.0 + 9.0, 2.5]
    assert group.details[f"{name}/level"].tolist() == [3.0, 3.0, 3.0]
    group.advantages = group.rewards
    row = list(completion_rows(1, group))[1]
    assert row["rewards"] == {"accuracy": 1.0, name: 18.0, f"{name}/level": 3.0}
    assert metrics.of_rollout(metrics.describe([group]))[f"rewards/{name}/level/mean"] == 3.0
