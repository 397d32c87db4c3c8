# SPDX-License-Identifier: Apache-2.0
"""Counting: the answer is one whole number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..answers import numerals, tags
from ..config import RewardConfig
from ..records import Example, Grade, View
from . import rows, templates
from .rec import answer_text


class Counting:
    """Answers are non-negative integers; only the exact number is right."""

    name = "counting"
    messages = staticmethod(templates.messages)

    def example(self, row: Mapping[str, Any], where: str, image_root: str | None = None) -> Example:
        """Check one row (problem/solution, or question/ground_truth/image_path) and make it an example."""
        pictures = rows.images(row, where, image_root)
        answer = self.gold(rows.gold_value(row, where, ("solution", "ground_truth", "answer")), where)
        question = rows.question_text(row, where, len(pictures))
        return Example(self.name, question, answer, pictures, meta=rows.meta(row, where))

    def gold(self, value: Any, where: str) -> int:
        """Read the right number from an int or text, with or without answer tags."""
        number = numerals.single_number(tags.unwrap(str(value)))
        if number is None or number.denominator != 1 or number < 0:
            raise ValueError(f"{where}: answer {value!r} is not a count; write one whole number such as 3")
        return int(number)

    def grade(
        self,
        text: str,
        example: Example,
        views: Sequence[View] = (),
        config: RewardConfig | None = None,
        method: str = "r1",
    ) -> Grade:
        """Score a completion: 1 when its answer states exactly the right number."""
        answer = answer_text(text, method)
        if not answer or not answer.strip():
            return Grade(0.0, False, "no_answer")
        number = numerals.single_number(answer)
        if number is None:
            return Grade(0.0, False, "no_number", answer.strip()[:80])
        correct = number == example.answer
        return Grade(float(correct), correct, "numeric", _plain(number))

    def check_format(self, text: str, example: Example) -> tuple[bool, str]:
        """Check the tags."""
        parts = tags.split(text)
        return parts.ok, parts.reason

    def show(self, value: int) -> str:
        """Write a count."""
        return str(value)

    def distractors(self, example: Example, rng: np.random.Generator, n: int) -> list[int]:
        """Make n different wrong counts: the nearest ones, those that the data set has (`siblings`) first."""
        seen = set(example.meta.get("siblings", ()))
        near = [example.answer + step for step in range(-n, n + 1) if step and example.answer + step >= 0]
        if len(common := [value for value in near if value in seen]) >= n:
            near = common
        return [int(number) for number in rng.permutation(sorted(near, key=lambda x: abs(x - example.answer))[:n])]


def _plain(number) -> int | float | str:
    if number.denominator == 1:
        return int(number) if abs(number) < 10**18 else str(number)[:40]
    return float(number)
