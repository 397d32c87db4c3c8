# SPDX-License-Identifier: Apache-2.0
"""Judging: the answer is yes or no.  A row's own verdict, or a statement that `curriculum.judge` made of an example."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..answers import choices, tags
from ..config import RewardConfig
from ..records import Example, Grade, View
from .tagged import Tagged, check_no_box


class Judge(Tagged):
    """Answers are verdicts out of closed sets of words; a contradiction or anything else is no answer."""

    name = "judge"

    def example(self, row: Mapping[str, Any], where: str, image_root: str | None = None) -> Example:
        """Check one row (problem/solution, the solution being yes or no) and make it an example."""
        return dataclasses.replace(super().example(row, where, image_root), form="judge")

    def gold(self, value: Any, where: str) -> bool:
        """Read the right verdict (True: yes) from a bool or text, with or without answer tags."""
        found = value if isinstance(value, bool) else choices.verdict(tags.unwrap(str(value)))
        if found is None:
            raise ValueError(f"{where}: answer {value!r} is no answer of the form 'judge'; write yes or no")
        return found

    def grade_answer(self, answer: str | None, example: Example, views: Sequence[View], config: RewardConfig) -> Grade:
        """Score a completion: 1 when its whole answer is the right verdict."""
        found = choices.verdict(answer or "")
        if found is None:
            return Grade(0.0, False, "no_answer")
        correct = found == example.answer
        return Grade(float(correct), correct, "exact", found)

    def check_format(self, text: str, example: Example) -> tuple[bool, str]:
        """Check the tags, and that no box stands in the answer; which word does is for `grade` to say."""
        return check_no_box(text, "yes or no")

    def show(self, value: bool) -> str:
        """Write a verdict."""
        return "yes" if value else "no"

    def distractors(self, example: Example, rng: np.random.Generator, n: int) -> list[bool]:
        """Give the one wrong verdict there is."""
        return [not example.answer][:n]
