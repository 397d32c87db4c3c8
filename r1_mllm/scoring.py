# SPDX-License-Identifier: Apache-2.0
"""Score recorded outputs with the code of reward and evaluation: what `r1-mllm score` prints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from .answers import choices, labels, tags
from .config import RewardConfig
from .data.read import rows
from .records import Example, Grade
from .report.intervals import wilson
from .tasks import get_task

FORMS = ("judge", "choice", "multi_choice", "classify", "format")
"""What can be scored besides the tasks."""


def score_file(task: str, path: str | Path, config: RewardConfig | None = None, method: str = "r1") -> dict[str, Any]:
    """Score a JSONL or JSON file whose rows hold `model_output` and `ground_truth`.

    Returns:
        task, num, accuracy (percent of rows judged right), mean_score (percent), interval (95 % Wilson, percent),
        decided_by (rule -> number of rows).
    """
    grades = [grade_line(task, line, where, config, method) for line, where in rows(str(path))]
    if not grades:
        raise ValueError(f"{path}: no rows; each one needs `model_output` and `ground_truth`")
    num, correct = len(grades), sum(grade.correct for grade in grades)
    low, high = wilson(correct, num)
    return {
        "task": task,
        "num": num,
        "accuracy": 100 * correct / num,
        "mean_score": 100 * sum(grade.score for grade in grades) / num,
        "interval": [100 * low, 100 * high],
        "decided_by": dict(Counter(grade.decided_by for grade in grades).most_common()),
    }


def grade_line(task: str, line: dict, where: str, config: RewardConfig | None = None, method: str = "r1") -> Grade:
    """Grade one recorded output of a task, or of one of `FORMS`."""
    text = line.get("model_output")
    if not isinstance(text, str):
        raise ValueError(f"{where}: model_output {text!r} is not a text")
    if task == "format":
        parts = tags.split(text)
        return Grade(float(parts.ok), parts.ok, parts.reason or "ok")
    if line.get("ground_truth") is None:
        raise ValueError(f"{where}: no ground_truth")
    if task in FORMS:
        return _grade_form(task, text, tags.unwrap(str(line["ground_truth"])), where)
    scorer = get_task(task)
    example = Example(scorer.name, str(line.get("question", "")), scorer.gold(line["ground_truth"], where), meta=line)
    return scorer.grade(text, example, config=config, method=method)


def _grade_form(form: str, text: str, gold_text: str, where: str) -> Grade:
    """Compare values from closed sets; a gold answer that is not one of them is an error of the file."""
    read = {
        "judge": choices.verdict,
        "choice": choices.letter,
        "multi_choice": choices.letters,
        "classify": labels.parse,
    }
    gold = read[form](gold_text)
    if gold is None:
        raise ValueError(f"{where}: ground_truth {gold_text!r} is no answer of the form {form!r}")
    value = read[form](tags.split(text).answer or "")
    if value is None:
        return Grade(0.0, False, "no_answer")
    score = labels.jaccard(value, gold) if form == "classify" else float(value == gold)
    shown = sorted(value) if isinstance(value, frozenset) else value
    return Grade(score, value == gold, "set" if isinstance(value, frozenset) else "exact", shown)
