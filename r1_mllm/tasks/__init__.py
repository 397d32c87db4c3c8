# SPDX-License-Identifier: Apache-2.0
"""Tasks: how a row becomes an example, what is asked, and what an answer is worth.

A new task is one file here and one entry in `TASKS`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..config import RewardConfig
from ..records import Example, Grade, View
from . import open_detection
from .choice import Choice
from .classification import Classification
from .counting import Counting
from .geometry import Geometry
from .gui import Gui
from .judge import Judge
from .math_boxed import MathBoxed, pay_dapo, pay_geo3k
from .open_detection import OpenDetection
from .rec import Rec
from .spatial import Spatial
from .vqa import Vqa


class Task(Protocol):
    """What every task offers."""

    name: str

    def example(self, row: Mapping[str, Any], where: str, image_root: str | None = None) -> Example:
        """Check one dataset row; ValueError names `where`, the value and the cure."""

    def gold(self, value: Any, where: str) -> Any:
        """Read a gold answer alone, as recorded outputs have it."""

    def messages(
        self, example: Example, method: str = "r1", templates=None, system_prompt=None, view_units=None, views=()
    ) -> list:
        """Lay the example out as chat messages (tasks/templates.py)."""

    def grade(
        self,
        text: str,
        example: Example,
        views: Sequence[View] = (),
        config: RewardConfig | None = None,
        method: str = "r1",
    ) -> Grade:
        """Score a completion; never raises on what a model wrote."""

    def check_format(self, text: str, example: Example) -> tuple[bool, str]:
        """Tell whether the completion has the form asked for, and else what is wrong."""

    def show(self, value: Any) -> str:
        """Write an answer value as text."""

    def distractors(self, example: Example, rng: np.random.Generator, n: int) -> list:
        """Make n wrong answer values."""


_OPEN = (Rec(), Counting(), Geometry(), MathBoxed(), Spatial(), OpenDetection(), Gui(), Classification(), Vqa())
_FORMS = (Judge(), Choice(), Choice("multi_choice", several=True))
SCORERS = (MathBoxed("math_verify_for_dapo", pay_dapo), MathBoxed("geo3k", pay_geo3k))
"""math_boxed, scored in other ways."""
TASKS: dict[str, Task] = {task.name: task for task in (*_OPEN, *_FORMS, *SCORERS)}
ALIASES = {
    "count": "counting",
    "math": "geometry",
    "boxed": "math_boxed",
    "detection": "rec",
    "sat": "spatial",
    "classify": "classification",
    "vqa": "coco_vqa",
    "od": "open_detection",
    "gui_defect": "gui",
}
METHODS = {
    **dict.fromkeys(open_detection.METHODS, "open_detection"),
    **dict.fromkeys(("default", "math", "numeric"), "geometry"),
    "mcq": "choice",
    "yes_no": "judge",
    "all_match": "gui",
}
"""What a VLM-R1 row's `accu_reward_method` asks for -> the task that judges so."""


def asked_as(example: Example) -> Task:
    """Find what asks and grades an example: its form if that is judge or choice, else its task."""
    return get_task(example.task if example.form == "open" else example.form)


def get_task(name: str) -> Task:
    """Find a task by its name or an alias."""
    key = ALIASES.get(name, name)
    if key in TASKS:
        return TASKS[key]
    known = [*TASKS, *ALIASES]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown task {name!r}{hint} (known: {', '.join(known)})")


def named_task(row: Mapping[str, Any]) -> Any:
    """Tell which task a row names itself: `task`, or VLM-R1's `accu_reward_method`; None when neither says."""
    return row.get("task") or METHODS.get(row.get("accu_reward_method"))
