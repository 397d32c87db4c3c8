# SPDX-License-Identifier: Apache-2.0
"""The scorers boxed, math_verify_for_dapo and geo3k on hand-made rows: reward, score command and evaluation alike."""

import json
from pathlib import Path

import numpy as np
import pytest

from r1_mllm import rewards
from r1_mllm.config import RewardConfig
from r1_mllm.evaluation import scoring
from r1_mllm.evaluation.evaluate import evaluate
from r1_mllm.records import Completion, Example, Group, Prompt
from r1_mllm.tasks import get_task

FILES = Path(__file__).parents[1] / "data_files" / "math"
SCORERS = ("boxed", "math_verify_for_dapo", "geo3k")
NOTHING = Prompt(np.zeros(0, np.int64), np.zeros((3, 0), np.int64), 0)


def rows(name):
    return [json.loads(line) for line in (FILES / name).read_text().splitlines()]


def example(row, task):
    gold = get_task(task).gold(row["ground_truth"], row["id"])
    return Example(get_task(task).name, "q", gold, meta={"options": row.get("options"), "where": row["id"]})


def completion(text, length=5):
    return Completion(np.zeros(length, np.int64), np.zeros(length, np.float32), text, True)


@pytest.mark.parametrize("name", SCORERS)
def test_rewards_pay_the_rows(name):
    """Whatever task the rows are read as, --reward_funcs NAME pays the same."""
    for task in ("math_boxed", "geometry", name):
        for row in rows("scorers.jsonl"):
            group = Group(example(row, task), NOTHING, [completion(row["model_output"])])
            assert rewards.load_reward(name)(group, RewardConfig()) == pytest.approx([row[name]]), row


@pytest.mark.parametrize("name", SCORERS)
def test_the_score_command_agrees(name):
    for row in rows("scorers.jsonl"):
        grade = scoring.grade_line(name, row, row["id"])
        assert (grade.score, grade.correct) == (pytest.approx(row[name]), row["boxed"] == 1), row
    told = scoring.score_file(name, FILES / "scorers.jsonl")
    assert told["mean_score"] == pytest.approx(100 * np.mean([row[name] for row in rows("scorers.jsonl")]))
    assert told["accuracy"] == pytest.approx(100 * np.mean([row["boxed"] for row in rows("scorers.jsonl")]))


@pytest.mark.parametrize("name", SCORERS)
def test_the_evaluation_agrees(name):
    judged = rows("scorers.jsonl")

    class Engine:
        def generate(self, prompts, n, seed, greedy=False, max_new_tokens=None):
            start = seen[0]
            seen[0] += len(prompts)
            return [[completion(row["model_output"])] for row in judged[start : start + len(prompts)]]

    class Processor:
        box_units = "seen_px"

        def encode(self, messages, images):
            assert "boxed" in messages[-1]["content"][-1]["text"]
            return NOTHING

    seen = [0]
    result = evaluate(Engine(), Processor(), [example(row, name) for row in judged], batch_size=7)
    assert [row["score"] for row in result.rows] == pytest.approx([row[name] for row in judged])
    assert result.num_correct == sum(row["boxed"] for row in judged)


def test_without_a_required_box_answers_are_found_elsewhere():
    config = RewardConfig(boxed_required=False)
    expected = {"no box, answer in words": 1, "no box, answer tags": 1, "nothing": -1, "empty box": 0}
    for row in rows("scorers.jsonl"):
        if row["kind"] in expected:
            grade = scoring.grade_line("math_verify_for_dapo", row, row["id"], config)
            assert grade.score == expected[row["kind"]], row


def test_a_heavier_form_changes_the_shares():
    row = rows("scorers.jsonl")[1]
    assert scoring.grade_line("geo3k", row, "x", RewardConfig(format_weight=0.5)).score == pytest.approx(0.5)


def test_what_was_read_is_the_answers_own_text_never_the_gold_one():
    grade = get_task("geo3k").grade("\\boxed{0.5}", Example("geo3k", "q", "\\frac{1}{2}"))
    assert (grade.extracted, grade.correct) == ("0.5", True)


def test_rewards_of_mathematics_do_not_apply_to_boxes_and_counts():
    group = Group(Example("counting", "q", 3), NOTHING, [completion("\\boxed{3}")])
    assert np.isnan(rewards.load_reward("geo3k")(group, RewardConfig())).all()


def test_overlong_pays_the_rows():
    """DAPO (arXiv:2503.14476), equation 13."""
    for row in rows("overlong.jsonl"):
        config = RewardConfig(length_limit=row["length_limit"], overlong_buffer=row["overlong_buffer"])
        group = Group(Example("counting", "q", 3), NOTHING, [completion("x", row["num_tokens"])])
        assert rewards.overlong(group, config) == pytest.approx([row["overlong"]]), row
