# SPDX-License-Identifier: Apache-2.0
"""Sampled answers as trackers show them: the picture with true and predicted boxes, and what was said and earned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..records import Group
from ..report.pictures import READ_COLOR, TRUE_COLOR, draw_boxes, upright

SIDE, MAX_GROUPS = 224, 4
"""px of a picture's longer side; prompts shown at a time.  At most 0.6 MB of a tracker's file, uncompressed."""
MAX_TEXT = 1500
"""Characters of a prompt or completion."""


@dataclass(frozen=True)
class Shown:
    """One prompt with its answers."""

    picture: np.ndarray | None
    """[height, width, 3] uint8, the first picture with boxes; None for a prompt without one."""
    text: str
    """The question and what was answered and earned."""


def shown(groups: Sequence[Group]) -> list[Shown]:
    """Show the first few groups of a rollout."""
    return [Shown(_picture(group), _text(group)) for group in groups[:MAX_GROUPS]]


def _picture(group: Group) -> np.ndarray | None:
    found = upright(group.example.images[0], SIDE) if group.example.images else None
    if found is None:
        return None
    image, size = found
    for grade in group.grades:
        draw_boxes(image, size, grade.extracted, READ_COLOR)
    draw_boxes(image, size, group.example.answer, TRUE_COLOR)
    return np.asarray(image)


def _text(group: Group) -> str:
    """One line an answer, numbered: VisualDL shows texts without their line breaks."""
    lines = [f"{_cut(group.example.question)} [expected {group.example.answer}]"]
    for i, completion in enumerate(group.completions):
        earned = [f"{name} {values[i]:.3g}" for name, values in group.parts.items() if not np.isnan(values[i])]
        if group.rewards is not None:
            earned.insert(0, f"reward {group.rewards[i]:.3g}")
        if not completion.finished:
            earned.append("cut at the limit")
        lines.append(f"#{i + 1} ({', '.join(earned)}): {_cut(completion.text)}")
    return "\n".join(lines)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " ..."
