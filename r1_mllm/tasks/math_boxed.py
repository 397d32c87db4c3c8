# SPDX-License-Identifier: Apache-2.0
"""Mathematics with the result in \\boxed{}: Geometry3K, MathVision and the like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..answers import tags
from ..answers.markup import boxed
from ..config import RewardConfig
from ..records import Example, Grade, View
from . import templates
from .geometry import gold_expression, grade_expression, math_example, wrong_expressions


class MathBoxed:
    """The last complete box after the thinking is the answer; without one there is none."""

    name = "math_boxed"
    messages = staticmethod(templates.messages)

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
        """Score a completion: 1 when its last box equals the right answer; `no_answer` means that it has no box."""
        found = boxed(tags.split(text).rest)
        if found and not found[-1].strip():
            return Grade(0.0, False, "empty_box", "")
        return grade_expression(found[-1] if found else None, example, config or RewardConfig())

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
