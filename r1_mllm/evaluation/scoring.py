# SPDX-License-Identifier: Apache-2.0
"""Score recorded outputs with the code of reward and evaluation: what `r1-mllm score` prints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ..answers import tags
from ..config import RewardConfig
from ..data.read import rows
from ..records import Example, Grade
from ..report.intervals import wilson
from ..tasks import get_task
from .metrics import extra


def score_file(task: str, path: str | Path, config: RewardConfig | None = None, method: str = "r1") -> dict[str, Any]:
    """Score a JSONL or JSON file whose rows hold `model_output` and `ground_truth`.

    Returns:
        task, num, accuracy (percent of rows judged right), mean_score (percent), interval (95 % Wilson, percent),
        decided_by (rule -> number of rows), and the task's further metrics (evaluation/metrics.py).
    """
    lines = list(rows(str(path)))
    grades = [grade_line(task, line, where, config, method) for line, where in lines]
    if not grades:
        raise ValueError(f"{path}: no rows; each one needs `model_output` and `ground_truth`")
    num, correct = len(grades), sum(grade.correct for grade in grades)
    low, high = wilson(correct, num)
    graded = [
        {"ground_truth": line.get("ground_truth"), "extracted_answer": _list_or_none(grade)}
        for (line, _), grade in zip(lines, grades, strict=True)
    ]
    return {
        "task": task,
        "num": num,
        "accuracy": 100 * correct / num,
        "mean_score": 100 * sum(grade.score for grade in grades) / num,
        "interval": [100 * low, 100 * high],
        "decided_by": dict(Counter(grade.decided_by for grade in grades).most_common()),
        **extra(task if task == "format" else get_task(task).name, graded),
    }


def grade_line(task: str, line: dict, where: str, config: RewardConfig | None = None, method: str = "r1") -> Grade:
    """Grade one recorded output of a task (judge, choice and multi_choice are tasks too), or its tags for `format`."""
    text = line.get("model_output")
    if not isinstance(text, str):
        raise ValueError(f"{where}: model_output {text!r} is not a text")
    if task == "format":
        parts = tags.split(text)
        return Grade(float(parts.ok), parts.ok, parts.reason or "ok")
    if line.get("ground_truth") is None:
        raise ValueError(f"{where}: no ground_truth")
    scorer = get_task(task)
    example = Example(scorer.name, str(line.get("question", "")), scorer.gold(line["ground_truth"], where), meta=line)
    return scorer.grade(text, example, config=config, method=method)


def _list_or_none(grade: Grade) -> Any:
    """What was read from an answer; text that was kept because nothing could be read is not."""
    return None if isinstance(grade.extracted, str) else grade.extracted
