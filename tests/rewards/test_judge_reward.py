# SPDX-License-Identifier: Apache-2.0
"""The reward `judge` against a small HTTP server, alone and inside a training step's scoring."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from r1_mllm import rewards
from r1_mllm.config import GrpoConfig, RewardConfig, TrainingConfig
from r1_mllm.config.flags import parse
from r1_mllm.config.judge import JudgeConfig
from r1_mllm.records import Completion, Example, Group, Prompt
from r1_mllm.rewards.judge_reward import JudgeReward, load_rewards


def group(answer, *texts):
    prompt = Prompt(np.arange(2), np.zeros((3, 2), np.int64), 2, text="p")
    completions = [Completion(np.arange(3), np.zeros(3), text, True) for text in texts]
    return Group(Example("counting", "How many?", answer), prompt, completions)


def points(number, body):
    """As many points as the graded answer is long, times ten; no score for the answer `odd`."""
    asked = body["messages"][0]["content"]
    graded = asked.split("Answer to grade:\n")[1].split("\n")[0]
    text = (
        "who knows" if graded == "odd" else json.dumps({"score": 10 * len(graded), "reference": asked.count("\n4\n")})
    )
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}}]})


def settings(service, **changes):
    return JudgeConfig(judge_url=service.url, judge_model="grader", **changes)


def test_points_become_rewards_and_equal_answers_are_asked_once(serve):
    service = serve(points)
    reward = JudgeReward(settings(service))
    groups = [group(4, "a", "bbb", "odd"), group(4, "bbb", "cccc")]
    reward.ask(groups)
    num = len(service.asked)
    np.testing.assert_array_equal(reward(groups[0], RewardConfig()), [0.1, 0.3, np.nan])
    np.testing.assert_array_equal(reward(groups[1], RewardConfig()), [0.3, 0.4])
    assert num == len(service.asked) == 4
    assert "Reference answer:\n4\n" in service.asked[0]["messages"][0]["content"]


def test_a_resumed_run_pays_for_no_verdict_twice(serve, tmp_path):
    service = serve(points)
    config = GrpoConfig(
        reward=RewardConfig(("accuracy", "judge"), (1.0, 0.5)),
        judge=settings(service),
        training=TrainingConfig(output_dir=str(tmp_path / "run")),
    )
    for _ in range(2):
        functions, one = load_rewards(config), group(4, "4", "<answer>4</answer>")
        rewards.score(one, functions, config.settled_reward)
        assert one.parts["judge"].tolist() == pytest.approx([0.1, np.nan], nan_ok=True)
        assert one.rewards.tolist() == [0.05, 1.0]
        assert sorted(one.parts) == ["accuracy", "judge"]
    assert len(service.asked) == 3  # 180 points are none: only that one is asked again
    assert (tmp_path / "run" / "judge_0.jsonl").read_text().count("\n") == 1


def test_a_step_has_all_its_answers_judged_together(serve):
    from r1_mllm.training.collect import score

    service = serve(points)
    config = GrpoConfig(reward=RewardConfig(("judge",)), judge=settings(service, judge_threads=3))
    calls = []

    class Counting(JudgeReward):
        def ask(self, groups):
            calls.append(len(groups))
            super().ask(groups)

    groups = [group(4, "a"), group(4, "bb"), group(5, "a")]
    score(SimpleNamespace(config=config, rewards={"judge": Counting(config.judge)}), groups)
    assert calls == [3] and [one.rewards[0] for one in groups] == [0.1, 0.2, 0.1]


def test_a_judge_without_an_address_is_refused_before_anything_is_loaded(capsys):
    words = ["--reward_funcs", "accuracy", "judge", "--output_dir", "x"]
    with pytest.raises((Exception, SystemExit)) as error:
        parse(GrpoConfig, words, "grpo")
    assert "judge_url" in str(error.value) + capsys.readouterr().err
    config = parse(GrpoConfig, [*words, "--judge_url", "http://h/v1", "--judge_model", "m"], "grpo")
    assert config.judge.judge_model == "m"
