# SPDX-License-Identifier: Apache-2.0
"""Referring expressions: find the object a phrase names, answer with its box."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..answers import boxes, tags
from ..config import RewardConfig
from ..records import Box, Example, Grade, View
from . import rows
from .tagged import Tagged


class Rec(Tagged):
    """Answers are boxes in px of the original picture; the score is the IoU, or whether it exceeds a threshold."""

    name = "rec"

    def example(self, row: Mapping[str, Any], where: str, image_root: str | None = None) -> Example:
        """Check one row (problem/solution, question/ground_truth or conversations) and make it an example."""
        pictures = rows.images(row, where, image_root)
        value = rows.gold_value(row, where, ("solution", "ground_truth", "answer"))
        box_px = self.gold(value, where)
        if not (box_px[0] < box_px[2] and box_px[1] < box_px[3]):
            raise ValueError(f"{where}: answer {value!r} is not a box [x1, y1, x2, y2] with x1 < x2 and y1 < y2")
        question = rows.question_text(row, where, len(pictures))
        return Example(self.name, question, box_px, pictures, meta=rows.meta(row, where))

    def gold(self, value: Any, where: str) -> Box:
        """Read the right box (original px) from a list or text, with or without answer tags."""
        box_px = boxes.gold_box(tags.unwrap(value) if isinstance(value, str) else value)
        if box_px is None:
            raise ValueError(f"{where}: answer {value!r} is not a box; write four finite numbers [x1, y1, x2, y2]")
        return box_px

    def grade_answer(self, answer: str | None, example: Example, views: Sequence[View], config: RewardConfig) -> Grade:
        """Score a completion; its box is taken back to the original picture by the first view, if there is one."""
        box = boxes.first_box(answer) if answer else None
        if box is None:
            return Grade(0.0, False, "no_answer")
        box_px = views[0].to_original(box) if views else box
        overlap = boxes.iou(box_px, example.answer)
        correct = overlap > config.iou_threshold
        return Grade(overlap if config.soft_iou else float(correct), correct, "iou", box_px)

    def check_format(self, text: str, example: Example) -> tuple[bool, str]:
        """Check the tags; whether the answer is JSON is the reward `format_json`."""
        parts = tags.split(text)
        return parts.ok, parts.reason

    def show(self, value: Box) -> str:
        """Write a box as the model is asked to."""
        return json.dumps({"bbox_2d": [round(side, 1) for side in value]})

    def distractors(self, example: Example, rng: np.random.Generator, n: int) -> list[Box]:
        """Make wrong boxes of about the right size, each with IoU below 0.4 with the right one.

        They stay inside the picture where the row tells its `width` and `height`.
        """
        x1, y1, x2, y2 = example.answer
        width, height = x2 - x1, y2 - y1
        found: list[Box] = []
        while len(found) < n:
            shift_x, shift_y = rng.uniform(-1.5, 1.5, 2) * (width, height)
            scale = rng.uniform(0.7, 1.4)
            left, top = max(0.0, x1 + shift_x), max(0.0, y1 + shift_y)
            right = min(left + width * scale, float(example.meta.get("width") or "inf"))
            bottom = min(top + height * scale, float(example.meta.get("height") or "inf"))
            box = (left, top, right, bottom)
            is_sliver = right - left < 0.2 * width or bottom - top < 0.2 * height
            if not is_sliver and boxes.iou(box, example.answer) < 0.4:
                found.append(tuple(round(float(side), 1) for side in box))
        return found
