# SPDX-License-Identifier: Apache-2.0
"""Classification: the answer is the set of labels of what a picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..answers import labels, tags
from ..config import RewardConfig
from ..records import Example, Grade, View
from .tagged import Tagged

FAMILIES = (
    ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    ("traffic light", "fire hydrant", "stop sign", "parking meter", "bench"),
    ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    ("backpack", "umbrella", "handbag", "tie", "suitcase"),
    ("frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "tennis racket"),
    ("skateboard", "surfboard", "skis", "snowboard"),
    ("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    ("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    ("chair", "couch", "potted plant", "bed", "dining table", "toilet"),
    ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    ("microwave", "oven", "toaster", "sink", "refrigerator"),
    ("book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
"""COCO's categories by their group: labels that are mistaken for each other."""


class Classification(Tagged):
    """The score is the Jaccard index of the label sets; correct means the very same set."""

    name = "classification"

    def gold(self, value: Any, where: str) -> frozenset[str]:
        """Read the right labels from a list, or from text with commas, semicolons or lines between them."""
        if isinstance(value, (list, tuple, set, frozenset)):
            value = ", ".join(str(label) for label in value)
        found = labels.parse(tags.unwrap(str(value)))
        if found is None:
            raise ValueError(f"{where}: answer {value!r} has no label; write labels with commas, such as cat, dog")
        return found

    def grade_answer(self, answer: str | None, example: Example, views: Sequence[View], config: RewardConfig) -> Grade:
        """Score a completion: common labels over all labels; a superset of the right set is not correct."""
        found = labels.parse(answer or "")
        if found is None:
            return Grade(0.0, False, "no_answer")
        return Grade(labels.jaccard(found, example.answer), found == example.answer, "set", sorted(found))

    def show(self, value: frozenset[str]) -> str:
        """Write labels in alphabetical order."""
        return ", ".join(sorted(value))

    def distractors(self, example: Example, rng: np.random.Generator, n: int) -> list[frozenset[str]]:
        """Make up to n wrong sets: one right label is exchanged for a sibling, or for another label of the data set."""
        right = sorted(example.answer)
        wrong: dict[frozenset[str], None] = {}
        for label in wrong_labels(example, rng, n):
            replaced = right[int(rng.integers(len(right)))]
            wrong[frozenset({label, *right} - {replaced})] = None
        return list(wrong)


def wrong_labels(example: Example, rng: np.random.Generator, n: int) -> list[str]:
    """Give up to n labels that are not right: relatives of the right ones first, then others.

    Others are those of `meta["siblings"]` (label sets of the same data set); without any, all known ones.
    """
    near = {label for family in FAMILIES if set(family) & example.answer for label in family} - example.answer
    pool = {label for answer in example.meta.get("siblings", ()) for label in answer} - example.answer
    far = pool or {label for family in FAMILIES for label in family} - example.answer
    groups = (near & pool or near, far)
    ordered = [str(label) for group in groups for label in rng.permutation(sorted(group))]
    return list(dict.fromkeys(ordered))[:n]
