# SPDX-License-Identifier: Apache-2.0
"""Lists of labelled boxes in text, their pairing with the right ones, and the scores made of that.

Shape letters: P boxes written, G right boxes.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..records import Box
from .boxes import gold_box, iou
from .markup import strip_edges

_FENCE = re.compile(r"```(?:json|JSON)?\s(.*?)```", re.DOTALL)
_NOTHING = frozenset({"none", "null", "no object", "no objects"})
_MAX_CHARS = 100_000
_MAX_PX = 1e9

POSITION, COMPLETENESS = 0.7, 0.3
"""Shares of `weighted_sum`."""


class Detection(NamedTuple):
    """One labelled box."""

    box: Box
    label: str
    """Case folded, blanks single."""


NO_BOX, NO_LABEL = (0.0, 0.0, 0.0, 0.0), ""
"""What stands for a part an item lacks: it equals nothing right, and the item still counts as written."""


def parse(text: str) -> tuple[Detection, ...] | None:
    """Read the last fenced JSON list of a text, or the text as one; () for "None" and []; None when it is neither."""
    if len(text) > _MAX_CHARS:
        return None
    fenced = _FENCE.findall(text)
    text = (fenced[-1] if fenced else text).strip()
    if strip_edges(text).casefold() in _NOTHING:
        return ()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return read(value)


def read(value: Any) -> tuple[Detection, ...] | None:
    """Read a list of {"bbox_2d": four numbers, "label": text}, or one of them; None when it is neither."""
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, Sequence) or isinstance(items, (str, bytes)):
        return None
    if not all(isinstance(item, Mapping) for item in items):
        return None
    return tuple(_detection(item) for item in items)


def is_whole(found: Detection) -> bool:
    """Tell whether an item has a label and a box with an area."""
    x1, y1, x2, y2 = found.box
    return found.label != NO_LABEL and x1 < x2 and y1 < y2


def as_rows(detections: Sequence[Detection]) -> list[dict[str, Any]]:
    """Write boxes in the shape `read` takes."""
    return [{"bbox_2d": list(found.box), "label": found.label} for found in detections]


def pairs(
    predicted: Sequence[Detection], gold: Sequence[Detection], threshold: float, same_label: bool
) -> list[tuple[int, int, float]]:
    """Pair boxes off, the largest overlap first, down to and including `threshold`: (index in P, index in G, IoU)."""
    overlaps = [
        (overlap, i, j)
        for i, one in enumerate(predicted)
        for j, other in enumerate(gold)
        if (one.label == other.label or not same_label) and (overlap := iou(one.box, other.box)) >= threshold > 0
    ]
    free_predicted, free_gold, found = set(range(len(predicted))), set(range(len(gold))), []
    for overlap, i, j in sorted(overlaps, key=lambda entry: (-entry[0], entry[1], entry[2])):
        if i in free_predicted and j in free_gold:
            free_predicted.remove(i)
            free_gold.remove(j)
            found.append((i, j, overlap))
    return found


def weighted_sum(predicted: Sequence[Detection], gold: Sequence[Detection], threshold: float = 0.5) -> float:
    """Score a list 0..1: 0.7 of the mean overlap per right box (0 where the label differs), 0.3 of completeness.

    Completeness is 1 less half the share of right boxes nobody found and half the share of boxes that found none.
    Where nothing is to be found, only an empty list is right.
    """
    if not gold or not predicted:
        return float(not gold and not predicted)
    found = pairs(predicted, gold, threshold, same_label=False)
    position = sum(overlap for i, j, overlap in found if predicted[i].label == gold[j].label) / len(gold)
    missed, false = 1 - len(found) / len(gold), 1 - len(found) / len(predicted)
    return POSITION * position + COMPLETENESS * (1 - (missed + false) / 2)


def length_factor(predicted: Sequence[Detection], gold: Sequence[Detection]) -> float:
    """Discount a list longer than the right one: G / P, at most 1."""
    return min(1.0, len(gold) / len(predicted)) if predicted else 1.0


def _detection(item: Mapping[str, Any]) -> Detection:
    box = gold_box(item.get("bbox_2d", item.get("bbox")))
    if box is None or not all(abs(side) < _MAX_PX for side in box):
        box = NO_BOX
    x1, y1, x2, y2 = box
    label = item.get("label")
    folded = unicodedata.normalize("NFKC", label if isinstance(label, str) else NO_LABEL)
    name = " ".join(strip_edges(folded).casefold().split())
    return Detection((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), name)
