# SPDX-License-Identifier: Apache-2.0
"""What graded rows of a task add up to besides their accuracy; every number is percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..answers import detections, labels, tags
from ..answers.average_precision import average_precision
from ..answers.detections import Detection

Labels = frozenset[str]
COCO_IOU = 0.5


def extra(task: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Give the further metrics of a task's rows, {} for tasks that have none.

    Args:
        rows: with `ground_truth` and `extracted_answer`, as results files hold them; the latter None where a model gave
            no answer.
    """
    if task == "open_detection":
        return detection([(_boxes(row.get("extracted_answer")), _boxes(row["ground_truth"])) for row in rows])
    if task in ("classification", "classify"):
        return label_sets([(_labels(row.get("extracted_answer")), _labels(row["ground_truth"])) for row in rows])
    return {}


def label_sets(pairs: Sequence[tuple[Labels, Labels]]) -> dict[str, float]:
    """Compare (predicted, right) sets of labels.

    Returns:
        exact_set_accuracy: rows whose set is the right one.  jaccard: mean over rows of common labels / all labels.
        micro_f1: 2 TP / (2 TP + FP + FN), labels counted over all rows.
    """
    if not pairs:
        return {}
    common = sum(len(predicted & gold) for predicted, gold in pairs)
    total = sum(len(predicted) + len(gold) for predicted, gold in pairs)
    return {
        "exact_set_accuracy": 100 * sum(predicted == gold for predicted, gold in pairs) / len(pairs),
        "micro_f1": 100 * 2 * common / total if total else 0.0,
        "jaccard": 100 * sum(labels.jaccard(predicted, gold) for predicted, gold in pairs) / len(pairs),
    }


def detection(pairs: Sequence[tuple[Sequence[Detection], Sequence[Detection]]]) -> dict[str, Any]:
    """Compare (predicted, right) boxes, one pair per image: COCO metrics, and F1 which knows no ranking.

    Returns:
        map, ap50, ap75, ap_per_label: as COCO has them; absent when no image has a right box.
        micro_f1_50: 2 TP / (2 TP + FP + FN), boxes of one label paired off at IoU >= 0.5, over all images.
    """
    found = sum(len(detections.pairs(predicted, gold, COCO_IOU, same_label=True)) for predicted, gold in pairs)
    total = sum(len(predicted) + len(gold) for predicted, gold in pairs)
    precision = average_precision(pairs)
    metrics: dict[str, Any] = {"micro_f1_50": 100 * 2 * found / total} if total else {}
    if precision is not None:
        metrics |= {"map": 100 * precision.map, "ap50": 100 * precision.ap50, "ap75": 100 * precision.ap75}
        metrics["ap_per_label"] = {label: 100 * value for label, value in precision.per_label.items()}
    return metrics


def shown(metrics: Mapping[str, Any]) -> str:
    """Write the numbers in one line."""
    return ", ".join(f"{name} {value:.2f}" for name, value in metrics.items() if isinstance(value, float))


def _boxes(value: Any) -> tuple[Detection, ...]:
    found = detections.parse(tags.unwrap(value)) if isinstance(value, str) else detections.read(value)
    return found or ()


def _labels(value: Any) -> Labels:
    if isinstance(value, str):
        return labels.parse(tags.unwrap(value)) or frozenset()
    return frozenset(str(label).casefold() for label in value or ())
