# SPDX-License-Identifier: Apache-2.0
"""Free questions about a picture, answered in a few words (`coco_vqa`).

The score is the F1 of answer and gold words (SQuAD's measure), so that it needs no embedding model; correct means the
same words after the normalisation of the VQA challenge: no case, articles or punctuation, number words as digits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..answers import tags
from ..answers.markup import strip_markup
from ..config import RewardConfig
from ..records import Example, Grade, View
from .tagged import Tagged

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {word: str(n) for n, word in enumerate("zero one two three four five six seven eight nine ten".split())}
_WORD = re.compile(r"[^\W_]+(?:[.'\u2019][^\W_]+)*")
_MAX_CHARS = 1_000


class Vqa(Tagged):
    """Answers are a few words; several accepted answers count like the best of them."""

    name = "coco_vqa"

    def gold(self, value: Any, where: str) -> tuple[str, ...]:
        """Read the accepted answers, each with at least one word."""
        listed = value if isinstance(value, (list, tuple)) else [value]
        answers = tuple(tags.unwrap(str(item)) for item in listed)
        if not answers or not all(words(answer) for answer in answers):
            raise ValueError(f"{where}: answer {value!r} has no words; write a text such as red bus")
        return answers

    def grade_answer(self, answer: str | None, example: Example, views: Sequence[View], config: RewardConfig) -> Grade:
        """Score a completion: F1 of its words with the nearest accepted answer's, 1 for the same words in order."""
        found = words(answer) if answer else []
        if not found:
            return Grade(0.0, False, "no_answer")
        accepted = [words(gold) for gold in example.answer]
        if found in accepted:
            return Grade(1.0, True, "exact", answer.strip()[:200])
        return Grade(max(_f1(found, gold) for gold in accepted), False, "words", answer.strip()[:200])

    def show(self, value: tuple[str, ...]) -> str:
        """Write the first accepted answer."""
        return value[0]

    def distractors(self, example: Example, rng: np.random.Generator, n: int) -> list[tuple[str, ...]]:
        """Take up to n answers to the data set's other questions (`meta["siblings"]`), those of as many words first."""
        right = [words(answer) for answer in example.answer]
        length, texts = len(right[0]), {}
        for answer in example.meta.get("siblings", ()):
            if words(answer[0]) not in right:
                texts.setdefault(" ".join(words(answer[0])), answer[0])
        shuffled = [str(text) for text in rng.permutation(sorted(texts.values()))]
        return [(text,) for text in sorted(shuffled, key=lambda text: abs(len(words(text)) - length))[:n]]


def words(text: str) -> list[str]:
    """Read the words that count: case folded, without articles and punctuation, number words as digits."""
    found = _WORD.findall(strip_markup(text[:_MAX_CHARS]).casefold())
    return [_NUMBERS.get(word, word) for word in found if word not in _ARTICLES]


def _f1(found: Sequence[str], gold: Sequence[str]) -> float:
    """Harmonic mean of the shares of common words, multiplicity counted; below 1 for other words or another order."""
    common = sum((Counter(found) & Counter(gold)).values())
    return min(2.0 * common / (len(found) + len(gold)), 0.99)
