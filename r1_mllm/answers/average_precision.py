# SPDX-License-Identifier: Apache-2.0
"""COCO average precision of labelled boxes, computed by pycocotools."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .detections import Detection

INSTALL = "pip install 'pycocotools>=2.0.10'"
MAX_PER_IMAGE = 100
"""Boxes of a label that count per image, the first ones written, as in COCO."""


@dataclass(frozen=True)
class Precision:
    """Average precisions, each 0..1."""

    map: float
    """Mean over IoU thresholds 0.50, 0.55 ... 0.95 and the labels that occur among the right boxes."""
    ap50: float
    ap75: float
    per_label: Mapping[str, float]
    """Label -> its mean over the thresholds."""


def require() -> None:
    """Refuse to begin without the library."""
    if importlib.util.find_spec("pycocotools") is None:
        raise ValueError(f"average precision of detections needs pycocotools: {INSTALL}")


def average_precision(images: Sequence[tuple[Sequence[Detection], Sequence[Detection]]]) -> Precision | None:
    """Give the average precision of (written, right) boxes of several images; None when no image has a right box.

    Models write no confidences: every box has 1, so boxes rank in the order of images and, within one, of writing.
    """
    require()
    from pycocotools.coco import COCO  # loads numpy and C code; most commands need neither
    from pycocotools.cocoeval import COCOeval

    labels = sorted({right.label for _, gold in images for right in gold})
    if not labels:
        return None
    written, right = COCO(), COCO()
    written.dataset = _dataset([predicted for predicted, _ in images], labels)
    right.dataset = _dataset([gold for _, gold in images], labels)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        written.createIndex()
        right.createIndex()
        judge = COCOeval(right, written, "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = [[0, float("inf")]], ["all"]
        judge.params.maxDets = [MAX_PER_IMAGE]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][..., 0, 0]  # [threshold, recall, label]
    each = dict(zip(labels, (_mean(precision[..., i]) for i in range(len(labels))), strict=True))
    return Precision(_mean(precision), _mean(precision[0]), _mean(precision[5]), each)


def _dataset(images: Sequence[Sequence[Detection]], labels: Sequence[str]) -> dict[str, Any]:
    numbers = {label: i for i, label in enumerate(labels, start=1)}
    annotations = []
    for image, detections in enumerate(images):
        for (x1, y1, x2, y2), label in detections:
            if label not in numbers:  # a label nothing right bears: COCO leaves it out of the mean
                continue
            width, height = x2 - x1, y2 - y1
            place = {"image_id": image, "category_id": numbers[label], "id": len(annotations) + 1}
            annotations.append({**place, "bbox": [x1, y1, width, height], "area": width * height, "iscrowd": 0})
            annotations[-1]["score"] = 1.0
    return {
        "images": [{"id": image} for image in range(len(images))],
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for label, number in numbers.items()],
    }


def _mean(precision: Any) -> float:
    """Mean of [...] without the -1 that stands for "nothing to find"; rounded, as 1 comes out as 1 - 2e-16."""
    return round(float(precision[precision > -1].mean()), 12)
