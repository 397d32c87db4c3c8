# SPDX-License-Identifier: Apache-2.0
"""Every row of the golden rewards: firm rows within their tolerance, the others any allowed value."""

import json
import math

import numpy as np
import pytest

from r1_mllm import rewards
from r1_mllm.answers import boxes, tags
from r1_mllm.config import RewardConfig
from r1_mllm.evaluation import scoring
from r1_mllm.records import Completion, Example, Group, Prompt
from r1_mllm.tasks import get_task

TASKS = {"rec", "count", "math", "boxed", "judge", "choice", "multi_choice", "classify"}


def rows(case):
    file = json.loads((case / "case.json").read_text())["file"].split()[0]
    return [json.loads(line) for line in (case / file).read_text(encoding="utf-8").splitlines() if line.strip()]


def grade(row, config=None):
    line = {"model_output": row["completion"], "ground_truth": row["solution"]}
    return scoring.grade_line(row["task"], line, row["id"], config)


def fault(row, value, expected):
    """Say what is wrong with a value; "" when it is right."""
    if not (math.isfinite(value) and 0 <= value <= 1):
        return f"{row['id']} ({row['kind']}): {value} is not within 0..1"
    accepted = [expected] if row["firm"] else [expected, *row.get("allowed", ())]
    good = any(abs(value - other) <= row.get("tol", 1e-6) for other in accepted)
    return "" if good else f"{row['id']} ({row['kind']}): {value}, expected {accepted}; {row['completion'][:120]!r}"


def test_accuracy(rewards_case):
    judged = [row for row in rows(rewards_case) if row["accuracy"] is not None]
    assert judged
    assert not list(filter(None, (fault(row, grade(row).score, row["accuracy"]) for row in judged)))


def test_thresholded_accuracy(rewards_case):
    judged = [row for row in rows(rewards_case) if row.get("accuracy_hard") is not None and row["firm"]]
    hard = RewardConfig(soft_iou=False)
    assert not list(filter(None, (fault(row, grade(row, hard).score, row["accuracy_hard"]) for row in judged)))
    assert [grade(row).correct for row in judged] == [row["accuracy_hard"] == 1 for row in judged]


def test_format(rewards_case):
    judged = [row for row in rows(rewards_case) if row["format"] is not None]
    found = []
    for row in judged:
        task = get_task("rec" if row["task"] == "format" else row["task"])
        ok, reason = task.check_format(row["completion"], Example(task.name, "", ""))
        assert ok == (not reason)
        found.append(fault(row, float(ok), row["format"]))
    assert judged and not list(filter(None, found))


def test_partial_credit_for_sets_of_letters(rewards_case):
    judged = [row for row in rows(rewards_case) if row.get("set_iou") is not None]
    config = RewardConfig(jaccard=True)
    assert judged and not list(filter(None, (fault(row, grade(row, config).score, row["set_iou"]) for row in judged)))


def test_json_format(rewards_case):
    judged = [row for row in rows(rewards_case) if row.get("format_json") is not None]
    values = [float(boxes.is_json_box(tags.split(row["completion"]).answer or "")) for row in judged]
    assert judged and not list(filter(None, map(fault, judged, values, [row["format_json"] for row in judged])))


def test_ternary_reward(rewards_case):
    judged = [row for row in rows(rewards_case) if row.get("ternary") is not None and row["firm"]]
    found = {}
    for row in judged:
        example = Example("math_boxed", "", get_task("boxed").gold(row["solution"], row["id"]))
        nothing = np.zeros(0, np.int64)
        prompt = Prompt(nothing, np.zeros((3, 0), np.int64), 0)
        group = Group(example, prompt, [Completion(nothing, nothing.astype(np.float32), row["completion"], True)])
        found[row["id"]] = float(rewards.ternary(group, RewardConfig())[0])
    assert found == {row["id"]: row["ternary"] for row in judged}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_nothing_a_model_writes_raises(rewards_case, task):
    gold = {"rec": "[1, 2, 30, 40]", "count": "3", "math": "\\frac{1}{2}", "judge": "yes", "classify": "cat, dog"}
    gold = gold.get(task, "B")
    for row in rows(rewards_case):
        for text in (row["completion"], row["completion"][::-1], row["completion"][: len(row["completion"]) // 2]):
            line = {"model_output": text, "ground_truth": gold}
            score = scoring.grade_line(task, line, row["id"]).score
            assert 0 <= score <= 1
