# SPDX-License-Identifier: Apache-2.0
"""Geometry and other mathematics answered inside answer tags: 140 degrees, \\frac{\\sqrt{3}}{2}, B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..answers import latex, tags
from ..answers.worker import verifier
from ..config import RewardConfig
from ..records import Example, Grade, View
from . import layouts, rows
from .tagged import Tagged

_MAX_GOLD_CHARS = latex.MAX_CHARS


class Geometry(Tagged):
    """Answers are mathematical expressions as text; only an equal one is right."""

    name = "geometry"

    def example(self, row: Mapping[str, Any], where: str, image_root: str | None = None) -> Example:
        """Check one row (problem/solution, question/ground_truth, MathVision) and make it an example."""
        return math_example(self, row, where, image_root)

    def gold(self, value: Any, where: str) -> str:
        """Read the right answer from a number or text, with or without answer tags."""
        return gold_expression(value, where)

    def grade_answer(self, answer: str | None, example: Example, views: Sequence[View], config: RewardConfig) -> Grade:
        """Score a completion: 1 when its answer equals the right one."""
        return grade_expression(answer, example, config)

    def distractors(self, example: Example, rng: np.random.Generator, n: int) -> list[str]:
        """Make n wrong answers: other options, or other numbers in the same spelling."""
        return wrong_expressions(example, rng, n)


def math_example(task: Any, row: Mapping[str, Any], where: str, image_root: str | None) -> Example:
    """Make an example of a row whose answer is an expression; options are written under the question."""
    row = layouts.canonical(row, where)
    pictures = rows.images(row, where, image_root)
    answer = task.gold(rows.gold_value(row, where, ("ground_truth", "answer", "solution")), where)
    question = rows.with_options(rows.question_text(row, where, len(pictures)), row)
    return Example(task.name, question, answer, pictures, meta=rows.meta(row, where))


def gold_expression(value: Any, where: str) -> str:
    """Check that a gold answer is a short text with something in it."""
    text = tags.unwrap(str(value))
    if not text or len(text) > _MAX_GOLD_CHARS:
        raise ValueError(
            f"{where}: answer {text[:60]!r} has {len(text)} characters; "
            f"write the result alone, 1 to {_MAX_GOLD_CHARS} of them"
        )
    return text


def grade_expression(answer: str | None, example: Example, config: RewardConfig) -> Grade:
    """Compare an answer's text with the gold answer; the text of the right option counts as its letter."""
    if answer is None:
        return Grade(0.0, False, "no_answer")
    verify = verifier(config.verify_timeout).verify
    equal, rule = latex.equivalent(answer, example.answer, verify)
    options = example.meta.get("options") or ()
    right = "ABCDEFGH".find(example.answer) if len(example.answer) == 1 else -1
    if not equal and rule == "choice" and 0 <= right < len(options) and len(str(options[right])) > 1:
        equal, option_rule = latex.equivalent(answer, str(options[right]), verify)
        rule = "option_text" if equal else rule if option_rule != "timeout" else option_rule
    return Grade(float(equal), equal, rule, answer.strip()[: latex.MAX_CHARS])


def wrong_expressions(example: Example, rng: np.random.Generator, n: int) -> list[str]:
    """Take the row's `near_misses`, other option letters, or the answer with its first number changed."""
    near = [str(value) for value in example.meta.get("near_misses") or () if str(value) != example.answer]
    if len(set(near)) >= n:
        return [str(value) for value in rng.permutation(sorted(set(near)))[:n]]
    if len(example.answer) == 1 and example.answer.isalpha():
        num_options = max(len(example.meta.get("options") or ()), n + 1, 4)
        others = [chr(ord("A") + i) for i in range(num_options) if chr(ord("A") + i) != example.answer.upper()]
        return [str(letter) for letter in rng.permutation(others)[:n]]
    digits = next((piece for piece in _runs_of_digits(example.answer)), None)
    if digits is None:
        return [f"{example.answer} + {i}" for i in range(1, n + 1)]
    steps = rng.permutation([step for step in range(-n, n + 1) if step and int(digits) + step > 0])[:n]
    return [example.answer.replace(digits, str(int(digits) + int(step)), 1) for step in steps]


def _runs_of_digits(text: str) -> list[str]:
    return "".join(char if char.isascii() and char.isdigit() else " " for char in text).split()
