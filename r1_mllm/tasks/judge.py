# SPDX-License-Identifier: Apache-2.0
"""Judging: the answer is yes or no.  A row's own verdict, or a statement that `curriculum.judge` made of an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..answers import boxes, choices, tags
from ..config import RewardConfig
from ..records import Example, Grade, View
from . import rows, templates
from .rec import answer_text


class Judge:
    """Answers are verdicts out of closed sets of words; a contradiction or anything else is no answer."""

    name = "judge"
    messages = staticmethod(templates.messages)

    def example(self, row: Mapping[str, Any], where: str, image_root: str | None = None) -> Example:
        """Check one row (problem/solution, the solution being yes or no) and make it an example."""
        pictures = rows.images(row, where, image_root)
        answer = self.gold(rows.gold_value(row, where, ("solution", "ground_truth", "answer")), where)
        question = rows.question_text(row, where, len(pictures))
        return Example(self.name, question, answer, pictures, form="judge", meta=rows.meta(row, where))

    def gold(self, value: Any, where: str) -> bool:
        """Read the right verdict (True: yes) from a bool or text, with or without answer tags."""
        found = value if isinstance(value, bool) else choices.verdict(tags.unwrap(str(value)))
        if found is None:
            raise ValueError(f"{where}: answer {value!r} is no answer of the form 'judge'; write yes or no")
        return found

    def grade(
        self,
        text: str,
        example: Example,
        views: Sequence[View] = (),
        config: RewardConfig | None = None,
        method: str = "r1",
    ) -> Grade:
        """Score a completion: 1 when its whole answer is the right verdict."""
        found = choices.verdict(answer_text(text, method) or "")
        if found is None:
            return Grade(0.0, False, "no_answer")
        correct = found == example.answer
        return Grade(float(correct), correct, "exact", found)

    def check_format(self, text: str, example: Example) -> tuple[bool, str]:
        """Check the tags, and that no box stands in the answer; which word does is for `grade` to say."""
        parts = tags.split(text)
        if parts.ok and boxes.first_box(parts.answer):
            return False, "the answer is a box where yes or no is asked for"
        return parts.ok, parts.reason

    def show(self, value: bool) -> str:
        """Write a verdict."""
        return "yes" if value else "no"

    def distractors(self, example: Example, rng: np.random.Generator, n: int) -> list[bool]:
        """Give the one wrong verdict there is."""
        return [not example.answer][:n]
