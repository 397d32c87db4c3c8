# SPDX-License-Identifier: Apache-2.0
"""Every hand-made row of tests/golden/own: the score under each rule, the verdict and the form."""

import json
from pathlib import Path

import pytest

from r1_mllm.config import RewardConfig
from r1_mllm.evaluation.scoring import grade_line, score_file
from r1_mllm.records import Example
from r1_mllm.tasks import get_task

OWN = Path(__file__).parent / "own"
RULES = {"open_detection": ("map", "ap50", "map_length", "weighted_sum"), "gui": ("accuracy",)}


def rows(task):
    return [json.loads(line) for line in (OWN / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]


def grade(row, config=None, text=None):
    line = {"model_output": row["completion"] if text is None else text, "ground_truth": row["solution"]}
    return grade_line(row["task"], line, row["id"], config)


def accepted(row, expected):
    return [expected] if row["firm"] else [expected, *row["allowed"]]


@pytest.mark.parametrize(("task", "rule"), [(task, rule) for task, rules in RULES.items() for rule in rules])
def test_the_score(task, rule):
    config = RewardConfig(detection_reward=rule) if task == "open_detection" else None
    wrong = []
    for row in rows(task):
        score = grade(row, config).score
        if not any(score == pytest.approx(value, abs=1e-8) for value in accepted(row, row[rule])):
            wrong.append((row["id"], row["kind"], score, row[rule]))
    assert not wrong


@pytest.mark.parametrize("task", RULES)
def test_the_verdict(task):
    judged = [row for row in rows(task) if row["firm"]]
    assert [(row["id"], int(grade(row).correct)) for row in judged] == [(r["id"], r["accuracy_hard"]) for r in judged]


@pytest.mark.parametrize("task", RULES)
def test_the_form(task):
    judged = [row for row in rows(task) if row["format"] is not None]
    form = get_task(task).check_format
    found = [(row["id"], form(row["completion"], Example(task, "", None))) for row in judged]
    assert [(name, int(ok)) for name, (ok, _) in found] == [(row["id"], row["format"]) for row in judged]
    assert all(ok == (not reason) for _, (ok, reason) in found)


@pytest.mark.parametrize("task", RULES)
def test_nothing_a_model_writes_raises(task):
    for row in rows(task):
        for text in (row["completion"][::-1], row["completion"][: len(row["completion"]) // 2]):
            assert 0 <= grade(row, text=text).score <= 1


def test_the_score_command_takes_these_tasks(tmp_path):
    for task in RULES:
        lines = [{"model_output": row["completion"], "ground_truth": row["solution"]} for row in rows(task)]
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = score_file(task, tmp_path / "x.jsonl")
        assert result["num"] == len(lines) and 0 < result["accuracy"] < 100
        assert ("map" in result) == (task == "open_detection")
