# SPDX-License-Identifier: Apache-2.0
"""Boxes in text, and their overlap on real numbers (no pixel conventions)."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ..records import Box

# Every quantifier is bounded, so that no text makes the search slower than linear.
_NUMBER = r"""["']?([-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][-+]?\d{1,3})?)["']?"""
_GAP = r"(?:\s{0,40},\s{0,40}|\s{1,40})"
_PAIR = rf"[\[(]\s{{0,40}}{_NUMBER}{_GAP}{_NUMBER}\s{{0,40}}[\])]"
_QUAD = _GAP.join([_NUMBER] * 4)
_BOX = re.compile(rf"[\[(]\s{{0,40}}{_QUAD}\s{{0,40}}[\])]|{_PAIR}\s{{0,40}},?\s{{0,40}}{_PAIR}")
_BARE = re.compile(_QUAD)
_FENCE = re.compile(r"^```[A-Za-z]{0,16}\s(.*)```$", re.DOTALL)
_MAX_CHARS = 20_000


def first_box(text: str) -> Box | None:
    """Read the first box of a text, corners put in order; None when it has none.

    A box is four numbers in brackets, two pairs in brackets, or four numbers that are the whole text.
    """
    box = gold_box(text[:_MAX_CHARS])
    if box is None:
        return None
    x1, y1, x2, y2 = box
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def gold_box(value: Any) -> Box | None:
    """Read a box from a dataset field (a list of four finite numbers, or text that holds one), its corners as given."""
    if isinstance(value, str):
        match = _BOX.search(value) or _BARE.fullmatch(value.strip())
        value = [float(number) for number in match.groups() if number is not None] if match else None
    return tuple(float(number) for number in value) if _is_four_numbers(value) else None


def iou(a: Box, b: Box) -> float:
    """Ratio of the common area to the joint area, 0..1; 0 when either box is empty."""
    ax1, ax2, ay1, ay2 = min(a[0], a[2]), max(a[0], a[2]), min(a[1], a[3]), max(a[1], a[3])
    bx1, bx2, by1, by2 = min(b[0], b[2]), max(b[0], b[2]), min(b[1], b[3]), max(b[1], b[3])
    area_a, area_b = (ax2 - ax1) * (ay2 - ay1), (bx2 - bx1) * (by2 - by1)
    common = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    joint = area_a + area_b - common
    if not (area_a > 0 and area_b > 0 and joint > 0):
        return 0.0
    ratio = common / joint
    return min(1.0, max(0.0, ratio)) if math.isfinite(ratio) else 0.0


def is_json_box(answer: str) -> bool:
    """Tell whether an answer, its code fence removed, is JSON: an object, or a list of objects, that holds a box."""
    answer = answer[:_MAX_CHARS].strip()
    fence = _FENCE.match(answer)
    try:
        value = json.loads(fence.group(1) if fence else answer)
    except (ValueError, RecursionError):
        return False
    objects = value if isinstance(value, list) else [value]
    if not objects or not all(isinstance(item, dict) for item in objects):
        return False
    return any(_is_four_numbers(field) for item in objects for field in item.values())


def _is_four_numbers(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return False
    numeric = all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in value)
    return numeric and all(abs(number) < 1e300 for number in value)
