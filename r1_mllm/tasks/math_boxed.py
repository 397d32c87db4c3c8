# SPDX-License-Identifier: Apache-2.0
"""Mathematics with the result in \\boxed{}: Geometry3K, MathVision and the like, scored in one of three known ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..answers import tags
from ..answers.markup import boxed
from ..config import RewardConfig
from ..records import Example, Grade, View
from . import templates
from .geometry import gold_expression, grade_expression, math_example, wrong_expressions

Pay = Callable[[Grade, bool, RewardConfig], float]
"""(0/1 grade, whether the completion has the form asked for, settings) -> what the completion earns."""


def pay_boxed(grade: Grade, well_formed: bool, config: RewardConfig) -> float:
    """1 for a right box, 0 for anything else."""
    return float(grade.correct)


def pay_dapo(grade: Grade, well_formed: bool, config: RewardConfig) -> float:
    """-1 without a boxed answer, 0 for a wrong one, 1 for a right one: math_verify_for_dapo as its README says."""
    return -1.0 if grade.decided_by == "no_answer" else float(grade.correct)


def pay_geo3k(grade: Grade, well_formed: bool, config: RewardConfig) -> float:
    """(1 - format_weight) for a right box and format_weight (0.1) for thinking followed by a box, as verl's geo3k."""
    return (1.0 - config.format_weight) * float(grade.correct) + config.format_weight * float(well_formed)


class MathBoxed:
    """The last complete box after the thinking is the answer; without one there is none."""

    def __init__(self, name: str = "math_boxed", pay: Pay = pay_boxed):
        self.name, self.pay = name, pay

    def messages(self, example: Example, *arguments: Any, **settings: Any) -> list[dict[str, Any]]:
        """Lay the example out with the prompts of math_boxed, however it is scored."""
        return templates.messages(dataclasses.replace(example, task="math_boxed"), *arguments, **settings)

    def example(self, row: Mapping[str, Any], where: str, image_root: str | None = None) -> Example:
        """Check one row (problem/answer/images, or MathVision's columns) and make it an example."""
        return math_example(self, row, where, image_root)

    def gold(self, value: Any, where: str) -> str:
        """Read the right answer from a number or text, bare or in a box."""
        text = tags.unwrap(str(value))
        found = boxed(text)
        return gold_expression(found[-1] if found else text, where)

    def grade(
        self,
        text: str,
        example: Example,
        views: Sequence[View] = (),
        config: RewardConfig | None = None,
        method: str = "r1",
    ) -> Grade:
        """Score a completion: right when its last box equals the right answer; `no_answer` means that it has no box."""
        config = config or RewardConfig()
        answer = _answer(text, config.boxed_required)
        if answer is not None and not answer.strip():
            grade = Grade(0.0, False, "empty_box", "")
        else:
            grade = grade_expression(answer, example, config)
        paid = self.pay(grade, self.check_format(text, example)[0], config)
        return dataclasses.replace(grade, score=paid)

    def check_format(self, text: str, example: Example) -> tuple[bool, str]:
        """Check for one thinking part and a complete box after it."""
        ok, reason = tags.thinking_then_rest(text)
        if ok and not boxed(tags.split(text).rest):
            return False, "no complete box after the thinking part"
        return ok, reason

    def show(self, value: str) -> str:
        """Write an answer in its box."""
        return f"\\boxed{{{value}}}"

    def distractors(self, example: Example, rng: np.random.Generator, n: int) -> list[str]:
        """Make n wrong answers: other options, or other numbers in the same spelling."""
        return wrong_expressions(example, rng, n)


def _answer(text: str, boxed_required: bool) -> str | None:
    """The content of the last box; where none is required also that of the answer tags, or the last line."""
    parts = tags.split(text)
    found = boxed(parts.rest)
    if found or boxed_required:
        return found[-1] if found else None
    lines = [line for line in parts.rest.splitlines() if line.strip()]
    return parts.answer or (lines[-1] if lines else None)
