# SPDX-License-Identifier: Apache-2.0
"""What tasks share whose answer stands in answer tags: the prompts, the plain row, the tags, the text that counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..answers import boxes, tags
from ..config import RewardConfig
from ..records import Example, Grade, View
from . import rows, templates


class Tagged:
    """A task short of `name`, `gold`, `grade_answer` and `distractors`; it overrides what differs."""

    name: str
    messages = staticmethod(templates.messages)

    def example(self, row: Mapping[str, Any], where: str, image_root: str | None = None) -> Example:
        """Check one row (problem/solution, question/ground_truth or conversations) and make it an example."""
        pictures = rows.images(row, where, image_root)
        answer = self.gold(rows.gold_value(row, where, ("solution", "ground_truth", "answer")), where)
        question = rows.question_text(row, where, len(pictures))
        return Example(self.name, question, answer, pictures, meta=rows.meta(row, where))

    def gold(self, value: Any, where: str) -> Any:
        """Read a gold answer alone; ValueError names `where`, the value and the cure."""
        raise NotImplementedError

    def grade(
        self,
        text: str,
        example: Example,
        views: Sequence[View] = (),
        config: RewardConfig | None = None,
        method: str = "r1",
    ) -> Grade:
        """Score a completion by the text that counts; never raises on what a model wrote."""
        return self.grade_answer(answer_text(text, method), example, views, config or RewardConfig())

    def grade_answer(self, answer: str | None, example: Example, views: Sequence[View], config: RewardConfig) -> Grade:
        """Score the answer's text; None where there is none."""
        raise NotImplementedError

    def check_format(self, text: str, example: Example) -> tuple[bool, str]:
        """Check the tags."""
        parts = tags.split(text)
        return parts.ok, parts.reason

    def show(self, value: Any) -> str:
        """Write an answer as it is."""
        return str(value)


def answer_text(text: str, method: str) -> str | None:
    """Give the text that counts: the answer part; under the baseline prompt (no tags) all but thinking."""
    parts = tags.split(text)
    return parts.rest if parts.answer is None and method == "baseline" else parts.answer


def check_no_box(text: str, wanted: str) -> tuple[bool, str]:
    """Check the tags, and that no box stands in the answer."""
    parts = tags.split(text)
    if parts.ok and boxes.first_box(parts.answer):
        return False, f"the answer is a box where {wanted} is asked for"
    return parts.ok, parts.reason
