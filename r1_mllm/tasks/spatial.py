# SPDX-License-Identifier: Apache-2.0
"""Spatial reasoning with options: SAT for training, CV-Bench for testing.

SAT rows hold `image_bytes`, `question`, `answers` and `correct_answer`; CV-Bench rows `image`, `question`, `choices`,
`answer` (a letter), `task` and `type`.  SAT's options are shuffled: the published order is not evenly distributed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..answers import options, tags
from ..config import RewardConfig
from ..records import Example, Grade, View
from . import rows
from .tagged import Tagged

SHUFFLE_SEED = 42
CATEGORIES = {"Count": "2D", "Relation": "2D", "Depth": "3D", "Distance": "3D"}
"""CV-Bench's `task` -> its `type`."""


class Spatial(Tagged):
    """The answer is one of a question's options; its text, its letter or its number is right."""

    name = "spatial"

    def example(self, row: Mapping[str, Any], where: str, image_root: str | None = None) -> Example:
        """Check one row in SAT's or CV-Bench's columns and make it an example; `meta` holds `options` and `letter`."""
        pictures = rows.images(row, where, image_root)
        question = rows.question_text(row, where, len(pictures))
        listed, right = self._options(row, where)
        names = [options.plain(option) for option in listed]
        if len(set(names)) < len(names) or not all(names):
            raise ValueError(f"{where}: options {listed!r}: each must have words, and no two the same")
        if len(listed) < 2 or len(listed) > len(options.LETTERS):
            raise ValueError(f"{where}: {len(listed)} options; a question needs 2 to {len(options.LETTERS)}")
        extra = {"options": listed, "letter": options.LETTERS[right]}
        text = (
            question
            + "\n"
            + "\n".join(f"({letter}) {option}" for letter, option in zip(options.LETTERS, listed, strict=False))
        )
        return Example(self.name, text, listed[right], pictures, meta={**rows.meta(row, where), **extra})

    def _options(self, row: Mapping[str, Any], where: str) -> tuple[list[str], int]:
        """The options in the order shown and the index of the right one."""
        if row.get("correct_answer") is not None:
            return _shuffled(row, where)
        listed = row.get("choices") or row.get("options")
        if not isinstance(listed, Sequence) or isinstance(listed, str):
            raise ValueError(
                f"{where}: no options; a row needs `answers` and `correct_answer`, or `choices` and `answer`"
            )
        listed = [str(option).strip() for option in listed]
        value = self.gold(rows.gold_value(row, where, ("answer", "ground_truth", "solution")), where)
        right = _index(value, listed)
        if right is None:
            raise ValueError(f"{where}: answer {value!r} is none of the options {listed!r}")
        return listed, right

    def gold(self, value: Any, where: str) -> str:
        """Read the right answer, an option's text or a letter, with or without answer tags."""
        text = tags.unwrap(str(value))
        if not text:
            raise ValueError(f"{where}: the answer is empty; write the right option or its letter")
        return text

    def grade_answer(self, answer: str | None, example: Example, views: Sequence[View], config: RewardConfig) -> Grade:
        """Score a completion: 1 when it chooses the right option, whichever way it says so."""
        if not answer or not answer.strip():
            return Grade(0.0, False, "no_answer")
        listed = [str(option) for option in example.meta.get("options") or example.meta.get("choices") or ()]
        if not listed:  # a recorded output without its question
            correct = _same(answer, example.answer)
            return Grade(float(correct), correct, "text", answer.strip()[:80])
        index, rule = options.chosen(answer, listed)
        if index is None:
            return Grade(0.0, False, rule, answer.strip()[:80])
        correct = index == _index(example.answer, listed)
        return Grade(float(correct), correct, rule, listed[index])

    def distractors(self, example: Example, rng: np.random.Generator, n: int) -> list[str]:
        """Take n of the other options."""
        others = [str(option) for option in example.meta.get("options") or () if option != example.answer]
        if n > len(others):
            raise ValueError(
                f"{example.meta.get('where', example.question)}: only {len(others)} wrong options, not {n}"
            )
        return [str(option) for option in rng.permutation(others)[:n]]


def _index(answer: str, listed: Sequence[str]) -> int | None:
    """Which option a gold answer means, by its text or else by its letter."""
    names = [options.plain(option) for option in listed]
    if options.plain(answer) in names:
        return names.index(options.plain(answer))
    index = options.letter_index(answer)
    return index if index is not None and index < len(listed) else None


def _same(answer: str, gold: str) -> bool:
    letter = options.letter_index(gold) if len(options.plain(gold)) == 1 else None
    return options.plain(answer) == options.plain(gold) or (
        letter is not None and options.letter_index(answer) == letter
    )


def _shuffled(row: Mapping[str, Any], where: str) -> tuple[list[str], int]:
    """SAT's options in an order that depends on the row alone: its place, its question and its options."""
    listed = row.get("answers")
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise ValueError(f"{where}: `answers` {listed!r} is not a list of options")
    listed = [str(option).strip() for option in listed]
    right = str(row["correct_answer"]).strip()
    if listed.count(right) != 1:
        raise ValueError(
            f"{where}: correct_answer {right!r} stands {listed.count(right)} times in {listed!r}, not once"
        )
    place = where.rpartition(":")[2]
    key = zlib.crc32(repr((place, row.get("question"), sorted(listed))).encode())
    order = np.argsort(np.random.Philox(key=[SHUFFLE_SEED, key]).random_raw(len(listed)), kind="stable")
    shuffled = [sorted(listed)[i] for i in order.tolist()]
    return shuffled, shuffled.index(right)
