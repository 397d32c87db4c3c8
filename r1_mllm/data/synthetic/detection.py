# SPDX-License-Identifier: Apache-2.0
"""Scenes for open-vocabulary detection and for GUI defects, in the columns of VLM-R1's rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ...tasks.gui import DEFECTS
from . import drawing
from .objects import SceneOptions, Thing, layout

MAX_ASKED = 3
"""Kinds of object one question asks for."""
STEP = 0.25
"""Share of the picture's side that an object is moved by."""
MAX_DRAWS = 200


def detection_scene(rng: np.random.Generator, settings: SceneOptions, limit: int) -> tuple[Image.Image, dict[str, Any]]:
    """Draw a scene and a question for all objects of some kinds; one answer in about ten is None."""
    things = layout(rng, int(rng.integers(1, limit + 1)), settings, distinct=False)
    kinds = sorted({thing.shape for thing in things} | set(drawing.SHAPES))
    asked = [str(kind) for kind in rng.permutation(kinds)[: int(rng.integers(1, MAX_ASKED + 1))]]
    if rng.random() < 0.8 and not any(thing.shape in asked for thing in things):
        asked[0] = things[0].shape
    found = [{"bbox_2d": list(thing.box_px), "label": thing.shape} for thing in things if thing.shape in asked]
    answer = f"```json\n{json.dumps(found)}\n```" if found else "None"
    question = f"<image>Find every object of these kinds in the picture: {', '.join(asked)}."
    row = _row(question, answer, "odLength")
    return _render(drawing.background(rng, settings.side), things), row


def gui_scene(
    rng: np.random.Generator, settings: SceneOptions, limit: int
) -> tuple[tuple[Image.Image, Image.Image], dict[str, Any]]:
    """Draw the same screen before and after an object was to move to the right, with or without a defect."""
    names = list(DEFECTS)
    defect = names[int(rng.integers(len(names)))]
    for _ in range(MAX_DRAWS):
        things = layout(rng, int(rng.integers(2, max(limit, 2) + 1)), settings, distinct=True)
        moved = _after(things, defect, round(STEP * settings.side), settings.side)
        if moved is not None:
            break
    else:
        raise ValueError(f"no room to move an object in {settings.side} px; lower max_objects or raise side")
    screen = drawing.background(rng, settings.side)
    target = things[0]
    question = (
        f"<image><image>The user moved the {target.colour} {target.shape} to the right. "
        f"Which of these is it: {', '.join(names)}?"
    )
    pictures = _render(screen.copy(), things), _render(screen, moved)
    return pictures, {**_row(question, defect, "all_match"), "options": names}


def _row(question: str, answer: str, method: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"<answer>{answer}</answer>"}]
    return {"conversations": turns, "accu_reward_method": method}


def _after(things: Sequence[Thing], defect: str, step: int, side: int) -> list[Thing] | None:
    """The objects after the action; None where one would leave the screen or cover another."""
    at, by = {DEFECTS[0]: (0, step), DEFECTS[1]: (0, 0), DEFECTS[2]: (1, step), DEFECTS[3]: (0, -step)}[defect]
    moved = list(things)
    moved[at] = dataclasses.replace(things[at], x=things[at].x + by)
    left, top, right, bottom = moved[at].box_px
    others = [thing.box_px for i, thing in enumerate(things) if i != at]
    covers = any(left < box[2] and box[0] < right and top < box[3] and box[1] < bottom for box in others)
    return None if left < 0 or right > side or covers else moved


def _render(picture: Image.Image, things: Sequence[Thing]) -> Image.Image:
    for thing in things:
        picture.paste(drawing.COLOURS[thing.colour], (thing.x, thing.y), thing.mask)
    return picture
