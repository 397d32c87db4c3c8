# SPDX-License-Identifier: Apache-2.0
"""Counting: the answer is one whole number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..answers import numerals, tags
from ..config import RewardConfig
from ..records import Example, Grade, View
from .tagged import Tagged


class Counting(Tagged):
    """Answers are non-negative integers; only the exact number is right."""

    name = "counting"

    def gold(self, value: Any, where: str) -> int:
        """Read the right number from an int or text, with or without answer tags."""
        number = numerals.single_number(tags.unwrap(str(value)))
        if number is None or number.denominator != 1 or number < 0:
            raise ValueError(f"{where}: answer {value!r} is not a count; write one whole number such as 3")
        return int(number)

    def grade_answer(self, answer: str | None, example: Example, views: Sequence[View], config: RewardConfig) -> Grade:
        """Score a completion: 1 when its answer states exactly the right number."""
        if not answer or not answer.strip():
            return Grade(0.0, False, "no_answer")
        number = numerals.single_number(answer)
        if number is None:
            return Grade(0.0, False, "no_number", answer.strip()[:80])
        correct = number == example.answer
        return Grade(float(correct), correct, "numeric", _plain(number))

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
