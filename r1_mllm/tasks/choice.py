# SPDX-License-Identifier: Apache-2.0
"""Choosing: the answer is one option letter, or a set of them.

Rows that already ask so are read as they are; `curriculum.choice` makes others of open examples.  `meta["options"]`
holds the options' texts where they are known, and then the text of the right option counts as its letter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..answers import choices, labels, options, tags
from ..config import RewardConfig
from ..records import Example, Grade, View
from . import rows
from .tagged import Tagged, check_no_box

LETTERS = "ABCDEFGH"
"""The letters options may have."""


class Choice(Tagged):
    """Answers are sets of letters, compared as sets; a question with one right option takes one letter only."""

    def __init__(self, name: str = "choice", several: bool = False) -> None:
        """Args: several: read sets of letters even where one letter is right."""
        self.name, self._several = name, several

    def example(self, row: Mapping[str, Any], where: str, image_root: str | None = None) -> Example:
        """Check one row (problem/solution, the solution being letters; `options` if known) and make it an example."""
        pictures = rows.images(row, where, image_root)
        answer = self.gold(rows.gold_value(row, where, ("solution", "ground_truth", "answer")), where)
        question = rows.with_options(rows.question_text(row, where, len(pictures)), row)
        meta = rows.meta(row, where) | {"several": self._several}
        return Example(self.name, question, answer, pictures, form="choice", meta=meta)

    def gold(self, value: Any, where: str) -> frozenset[str]:
        """Read the right letters, with or without answer tags."""
        text = tags.unwrap(str(value))
        one = None if self._several else choices.letter(text)
        found = frozenset(one) if one else choices.letters(text, LETTERS)
        if found is None:
            raise ValueError(
                f"{where}: answer {value!r} is no answer of the form {self.name!r}; write letters such as B or A, C"
            )
        return found

    def grade_answer(self, answer: str | None, example: Example, views: Sequence[View], config: RewardConfig) -> Grade:
        """Score a completion: 1 for exactly the right letters; with config.jaccard the share of common ones."""
        answer = answer or ""
        listed = [str(option) for option in example.meta.get("options") or ()]
        if self._several or example.meta.get("several") or len(example.answer) > 1:
            found = choices.letters(answer, LETTERS) or _by_text(answer, listed)
        else:
            found = _one(answer, listed)
        if not found:
            return Grade(0.0, False, "no_answer")
        correct = found == example.answer
        partial = config.jaccard
        score = labels.jaccard(found, example.answer) if partial else float(correct)
        several = len(found | example.answer) > 1 and len(example.answer) > 1
        return Grade(score, correct, "set" if several or self._several else "exact", _shown(found))

    def check_format(self, text: str, example: Example) -> tuple[bool, str]:
        """Check the tags, and that no box stands in the answer; which letter does is for `grade` to say."""
        return check_no_box(text, "a letter")

    def show(self, value: frozenset[str]) -> str:
        """Write letters in their order."""
        return _shown(value)

    def distractors(self, example: Example, rng: np.random.Generator, n: int) -> list[frozenset[str]]:
        """Make n sets of as many other letters, each with at least one wrong letter."""
        num_options = max(len(example.meta.get("options") or ()), 4)
        wrong = [letter for letter in LETTERS[:num_options] if letter not in example.answer]
        kept = sorted(example.answer)[1:]
        return [frozenset([str(letter), *kept]) for letter in rng.permutation(wrong)[:n]]


def _one(answer: str, listed: Sequence[str]) -> frozenset[str] | None:
    """The one letter an answer gives or whose option's text it is."""
    if listed and all(len(option) > 1 or not option.isalpha() for option in listed):
        index, _ = options.chosen(answer, listed)
        return None if index is None else frozenset(options.LETTERS[index])
    found = choices.letter(answer)
    return frozenset(found) if found else None


def _by_text(answer: str, listed: Sequence[str]) -> frozenset[str] | None:
    """The letters of the options whose texts an answer lists; None when one of them is no option."""
    said = labels.parse(answer)
    names = {options.plain(option): letter for option, letter in zip(listed, LETTERS, strict=False)}
    if not said or not all(options.plain(item) in names for item in said):
        return None
    return frozenset(names[options.plain(item)] for item in said)


def _shown(letters: frozenset[str]) -> str:
    return ", ".join(sorted(letters))
