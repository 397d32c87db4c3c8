# SPDX-License-Identifier: Apache-2.0
"""Scenes with exact ground truth for every task of TASKS, and annotators that are often wrong.

A scene is laid out first and rendered afterwards.  Which split a layout belongs to follows from the layout itself
(a checksum), so no scene of the training split can come up in the held-out one, whatever the seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from . import drawing
from .detection import detection_scene, gui_scene
from .objects import SceneOptions, in_split, layout, pick, render
from .spatial import spatial_scene, weak_option

TASKS = ("rec", "counting", "geometry", "spatial", "open_detection", "gui")
DEFAULT_MAX_OBJECTS = {"rec": 3, "counting": 6, "geometry": 4, "spatial": 4, "open_detection": 4, "gui": 3}
Picture = Image.Image | tuple[Image.Image, Image.Image]
"""What a scene shows; gui: before and after."""
WEAK_SCALE = (0.7, 2.1)
WEAK_RIGHT_SHARE = 0.4


def scene(task: str, rng: np.random.Generator, **options: Any) -> tuple[Picture, dict[str, Any]]:
    """Draw a fresh scene: a picture (gui: a pair) and its data-set row without the `image` column.

    Args:
        task: one of TASKS.
        options: fields of SceneOptions.
    """
    if task not in _SCENES:
        raise ValueError(f"no scenes for task {task!r}; choose from {', '.join(TASKS)}")
    settings = SceneOptions(**options)
    limit = settings.max_objects or DEFAULT_MAX_OBJECTS[task]
    return _SCENES[task](rng, settings, limit)


def _rec_scene(rng: np.random.Generator, settings: SceneOptions, limit: int) -> tuple[Image.Image, dict[str, Any]]:
    """A scene in which every object has its own combination of colour and shape, and a phrase for one of them."""
    things = layout(rng, int(rng.integers(1, limit + 1)), settings, distinct=True)
    target = things[int(rng.integers(len(things)))]
    caption = f"the {target.colour} {target.shape}"
    row = {
        "problem": f"Find {caption} in the picture.",
        "solution": [float(v) for v in target.box_px],
        "normalized_solution": [round(1000 * v / settings.side) for v in target.box_px],
        "normal_caption": caption,
        "width": settings.side,
        "height": settings.side,
    }
    return render(rng, things, settings.side), row


def _counting_scene(rng: np.random.Generator, settings: SceneOptions, limit: int) -> tuple[Image.Image, dict[str, Any]]:
    num = int(rng.integers(1, limit + 1))
    things = layout(rng, num, settings, distinct=False)
    row = {"problem": "How many items are in the picture?", "solution": _tagged(num)}
    return render(rng, things, settings.side), row


def _geometry_scene(rng: np.random.Generator, settings: SceneOptions, limit: int) -> tuple[Image.Image, dict[str, Any]]:
    figure = pick(rng, settings.figures)
    longest = min(limit, drawing.GRID_CELLS)
    draw = {"angle": _angle, "sides": _sides}.get(figure) or (lambda r: _rectangle(r, longest, figure))
    for _ in range(1000):
        layout, colour = draw(rng), pick(rng, tuple(drawing.COLOURS))
        if in_split((figure, layout.parameters, colour), settings.split):
            break
    picture = drawing.background(rng, settings.side)
    layout.paint(picture, *layout.parameters, colour)
    near_misses = [str(v) for v in layout.near_misses if v > 0 and v != layout.answer]
    row = {"problem": layout.question, "solution": _tagged(layout.answer), "near_misses": near_misses}
    return picture, row


@dataclass(frozen=True)
class _Figure:
    """A geometry figure before it is painted with `paint(picture, *parameters, colour)`."""

    question: str
    answer: int
    near_misses: tuple[int, ...]
    paint: Callable[..., None]
    parameters: tuple[Any, ...]


def _rectangle(rng: np.random.Generator, longest: int, figure: str) -> _Figure:
    width, height = int(rng.integers(1, longest + 1)), int(rng.integers(1, longest + 1))
    left = int(rng.integers(drawing.GRID_CELLS - width + 1))
    top = int(rng.integers(drawing.GRID_CELLS - height + 1))
    sizes = ((width - 1, height), (width + 1, height), (width, height - 1), (width, height + 1))
    if figure == "area":
        answer, near = width * height, tuple(w * h for w, h in sizes)
    else:
        answer, near = 2 * (width + height), tuple(2 * (w + h) for w, h in sizes)
    question = f"Each grid square has side 1. What is the {figure} of the shaded rectangle?"
    return _Figure(question, answer, near, drawing.draw_grid_rectangle, ((left, top, width, height),))


def _angle(rng: np.random.Generator) -> _Figure:
    degrees, turn = 15 * int(rng.integers(2, 11)), int(rng.integers(360))
    near = (degrees - 30, degrees - 15, degrees + 15, degrees + 30)
    question = "How many degrees is the angle between the two rays?"
    return _Figure(question, degrees, near, drawing.draw_angle, (degrees, turn))


def _sides(rng: np.random.Generator) -> _Figure:
    num_sides, turn = int(rng.integers(3, 9)), int(rng.integers(360))
    question = "How many sides does the polygon have?"
    return _Figure(question, num_sides, (num_sides - 1, num_sides + 1), drawing.draw_polygon, (num_sides, turn))


def _tagged(answer: int) -> str:
    return f"<answer> {answer} </answer>"


def _untagged(solution: str) -> int:
    return int(solution.removeprefix("<answer>").removesuffix("</answer>"))


def weak_answer(task: str, row: Mapping[str, Any], rng: np.random.Generator) -> Any:
    """Answer a scene's row as a careless annotator would: always in the right form, often wrong.

    Careless on purpose in one direction, so that imitation alone ends with the wrong answer on top and the right one
    within reach of sampling.

    Returns:
        rec: [x1, y1, x2, y2] float px of the picture, the true box scaled about its centre by one factor drawn from
        0.7 to 2.1 and clipped to the picture.  counting: int, one too many in 60 of 100.  geometry: str, the next
        larger near miss in 60 of 100.  spatial: str, another option in 60 of 100.
    """
    if task == "rec":
        return _scaled_box(row["solution"], (row["width"], row["height"]), float(rng.uniform(*WEAK_SCALE)))
    if task == "spatial":
        return weak_option(row, rng, WEAK_RIGHT_SHARE)
    if task not in ("counting", "geometry"):
        raise ValueError(f"no weak annotator for task {task!r}; choose from rec, counting, geometry, spatial")
    answer = _untagged(row["solution"])
    if rng.random() >= WEAK_RIGHT_SHARE:
        answer = min((int(v) for v in row.get("near_misses", ()) if int(v) > answer), default=answer + 1)
    return answer if task == "counting" else str(answer)


def _scaled_box(box_px: list[float], wh: tuple[int, int], factor: float) -> list[float]:
    x1, y1, x2, y2 = box_px
    half_w, half_h = factor * (x2 - x1) / 2, factor * (y2 - y1) / 2
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    left, top = max(0.0, middle_x - half_w), max(0.0, middle_y - half_h)
    return [left, top, min(float(wh[0]), middle_x + half_w), min(float(wh[1]), middle_y + half_h)]


_SCENES = {
    "rec": _rec_scene,
    "counting": _counting_scene,
    "geometry": _geometry_scene,
    "spatial": spatial_scene,
    "open_detection": detection_scene,
    "gui": gui_scene,
}
