# SPDX-License-Identifier: Apache-2.0
"""Defects of a user interface: two screenshots, before and after an action, answered with the defect's name."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..answers import tags
from ..answers.markup import strip_markup
from ..config import RewardConfig
from ..records import Example, Grade, View
from . import rows
from .tagged import Tagged

DEFECTS = ("No defect", "Operation no response", "Unexpected task result", "Navigation logic error")
"""What wrong answers are taken from when a row has no `options`."""
_MAX_CHARS = 400


class Gui(Tagged):
    """Answers are short texts; only the same text is right (`all_match`), in any case and without end punctuation."""

    name = "gui"

    def example(self, row: Mapping[str, Any], where: str, image_root: str | None = None) -> Example:
        """Check one row (problem/solution or conversations, two pictures) and make it an example."""
        pictures = rows.images(row, where, image_root)
        if len(pictures) != 2:
            raise ValueError(f"{where}: {len(pictures)} pictures; this task compares two, [before, after] in `image`")
        answer = self.gold(rows.gold_value(row, where, ("solution", "ground_truth", "answer")), where)
        question = rows.question_text(row, where, len(pictures))
        return Example(self.name, question, answer, pictures, meta=rows.meta(row, where))

    def gold(self, value: Any, where: str) -> str:
        """Read the right name, with or without answer tags."""
        text = tags.unwrap(str(value))
        if not normal(text):
            raise ValueError(f"{where}: answer {text[:60]!r} is no name of 1 to {_MAX_CHARS} characters")
        return text

    def grade_answer(self, answer: str | None, example: Example, views: Sequence[View], config: RewardConfig) -> Grade:
        """Score a completion: 1 when its answer is the right name and nothing else."""
        if not answer or not answer.strip():
            return Grade(0.0, False, "no_answer")
        correct = normal(answer) == normal(example.answer)
        return Grade(float(correct), correct, "all_match", answer.strip()[:_MAX_CHARS])

    def distractors(self, example: Example, rng: np.random.Generator, n: int) -> list[str]:
        """Make up to n wrong names, from the row's `options` or else from `DEFECTS`."""
        names = [str(name) for name in example.meta.get("options") or DEFECTS]
        wrong = [name for name in names if normal(name) != normal(example.answer)]
        return [str(name) for name in rng.permutation(wrong)[:n]]


def normal(text: str) -> str | None:
    """Fold what does not matter: case, markup, blanks, punctuation at the ends; None when nothing or a page is left."""
    if len(text) > _MAX_CHARS:
        return None
    return " ".join(strip_markup(unicodedata.normalize("NFKC", text)).casefold().split()) or None
