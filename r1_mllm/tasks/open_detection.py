# SPDX-License-Identifier: Apache-2.0
"""Open-vocabulary detection: name every object asked for, answer with a JSON list of boxes and labels, or None."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..answers import average_precision, detections, tags
from ..answers.detections import Detection
from ..config import RewardConfig
from ..records import Example, Grade, View
from .rec import Rec
from .tagged import Tagged

METHODS = {
    "map": "map",
    "od_ap": "map",
    "od_ap50": "ap50",
    "odLength": "map_length",
    "weighted_sum": "weighted_sum",
}
"""What VLM-R1's rows call it in `accu_reward_method` -> our name."""
DEFAULT = "map_length"
"""Without the discount for long lists, boxes written after the right ones cost nothing."""


class OpenDetection(Tagged):
    """Answers are labelled boxes in px of the original picture; right is every object and nothing else."""

    name = "open_detection"

    def example(self, row: Mapping[str, Any], where: str, image_root: str | None = None) -> Example:
        """Check one row (problem/solution, question/ground_truth or conversations) and make it an example."""
        average_precision.require()
        return super().example(row, where, image_root)

    def gold(self, value: Any, where: str) -> list[dict[str, Any]]:
        """Read the right boxes (original px) from a list or text, with or without answer tags; [] for None."""
        found = detections.parse(tags.unwrap(value)) if isinstance(value, str) else detections.read(value)
        if found is None or not all(map(detections.is_whole, found)):
            raise ValueError(
                f'{where}: answer {str(value)[:120]!r} is no list of {{"bbox_2d": [x1, y1, x2, y2], "label": "..."}} '
                "with x1 < x2 and y1 < y2; write None where there is nothing to find"
            )
        return detections.as_rows(found)

    def grade_answer(self, answer: str | None, example: Example, views: Sequence[View], config: RewardConfig) -> Grade:
        """Score a completion; its boxes are taken back to the original picture by the first view, if there is one."""
        if not answer or not answer.strip():
            return Grade(0.0, False, "no_answer")
        written = detections.parse(answer)
        if written is None:
            return Grade(0.0, False, "no_list", answer.strip()[:80])
        predicted = [Detection(views[0].to_original(box) if views else box, label) for box, label in written]
        gold = detections.read(example.answer)
        rule = config.detection_reward or METHODS.get(example.meta.get("accu_reward_method"), DEFAULT)
        return Grade(
            _score(rule, predicted, gold, config.iou_threshold),
            _all_found(predicted, gold, config.iou_threshold),
            rule if gold else "nothing_to_find",
            detections.as_rows(predicted),
        )

    def check_format(self, text: str, example: Example) -> tuple[bool, str]:
        """Check the tags and that the answer is a list of boxes with labels, or None."""
        parts = tags.split(text)
        if not parts.ok:
            return False, parts.reason
        written = detections.parse(parts.answer or "")
        if written is None or not all(map(detections.is_whole, written)):
            return False, "the answer is neither a JSON list of boxes with labels nor None"
        return True, ""

    def show(self, value: Sequence[Mapping[str, Any]]) -> str:
        """Write boxes as the model is asked to."""
        items = [{"bbox_2d": [round(side, 1) for side in item["bbox_2d"]], "label": item["label"]} for item in value]
        return f"```json\n{json.dumps(items, ensure_ascii=False)}\n```" if items else "None"

    def distractors(self, example: Example, rng: np.random.Generator, n: int) -> list[list[dict[str, Any]]]:
        """Make n wrong lists: one box shifted, or left out."""
        found: list[list[dict[str, Any]]] = []
        while len(found) < n:
            boxes = list(example.answer) or [{"bbox_2d": [0.0, 0.0, 100.0, 100.0], "label": "object"}]
            at = int(rng.integers(len(boxes)))
            without = boxes[:at] + boxes[at + 1 :]
            if without and len(found) % 2 and without not in found:
                found.append(without)
            else:
                (box,) = Rec().distractors(Example("rec", "", tuple(boxes[at]["bbox_2d"])), rng, 1)
                found.append([*boxes[:at], {**boxes[at], "bbox_2d": list(box)}, *boxes[at + 1 :]])
        return found


def _score(rule: str, predicted: Sequence[Detection], gold: Sequence[Detection], threshold: float) -> float:
    if not gold:
        return float(not predicted)
    if rule == "weighted_sum":
        return detections.weighted_sum(predicted, gold, threshold)
    precision = average_precision.average_precision([(predicted, gold)])
    score = precision.ap50 if rule == "ap50" else precision.map
    return score * detections.length_factor(predicted, gold) if rule == "map_length" else score


def _all_found(predicted: Sequence[Detection], gold: Sequence[Detection], threshold: float) -> bool:
    found = detections.pairs(predicted, gold, threshold, same_label=True)
    return len(found) == len(gold) == len(predicted)
