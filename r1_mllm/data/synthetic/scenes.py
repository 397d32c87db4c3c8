# SPDX-License-Identifier: Apache-2.0
"""Scenes with exact ground truth for rec, counting and geometry, and annotators that are often wrong.

A scene is laid out first and rendered afterwards.  Which split a layout belongs to follows from the layout itself
(a checksum), so no scene of the training split can come up in the held-out one, whatever the seeds.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from . import drawing

TASKS = ("rec", "counting", "geometry")
FIGURES = ("area", "perimeter", "angle", "sides")
DEFAULT_MAX_OBJECTS = {"rec": 3, "counting": 6, "geometry": 4}
WEAK_SCALE = (0.7, 2.1)
WEAK_RIGHT_SHARE = 0.4


@dataclass(frozen=True)
class SceneOptions:
    """What scenes look like."""

    side: int = 84
    """Width and height, px."""
    max_objects: int | None = None
    """Most objects of a scene; geometry: longest side of a rectangle in grid cells.  None: the task's default."""
    digits: bool = False
    """Also compose handwritten digits into rec and counting scenes; needs scikit-learn."""
    split: str = "train"
    """train, or any other name for held-out scenes."""
    figures: tuple[str, ...] = ("area", "angle")
    """geometry: kinds of figure."""

    def __post_init__(self) -> None:
        if self.side < 28:
            raise ValueError(f"side {self.side} px is too small for a scene; use at least 28")
        if self.max_objects is not None and not 1 <= self.max_objects <= 12:
            raise ValueError(f"max_objects {self.max_objects} is not in 1..12")
        unknown = [name for name in self.figures if name not in FIGURES]
        if unknown or not self.figures:
            raise ValueError(f"figures {list(self.figures)}: choose from {', '.join(FIGURES)}")


@dataclass(frozen=True)
class _Thing:
    """One object: a shape or handwritten digit of one colour at x, y (top left of its ink), px."""

    colour: str
    shape: str
    i_digit: int
    x: int
    y: int
    size: int

    @property
    def mask(self) -> Image.Image:
        if self.i_digit >= 0:
            return drawing.digit_mask(self.i_digit, self.size)
        return drawing.shape_mask(self.shape, self.size)

    @property
    def box_px(self) -> tuple[int, int, int, int]:
        width, height = self.mask.size
        return self.x, self.y, self.x + width, self.y + height


def scene(task: str, rng: np.random.Generator, **options: Any) -> tuple[Image.Image, dict[str, Any]]:
    """Draw a fresh scene: a picture and its data-set row without the `image` column.

    Args:
        task: rec, counting or geometry.
        options: fields of SceneOptions.
    """
    if task not in _SCENES:
        raise ValueError(f"no scenes for task {task!r}; choose from {', '.join(TASKS)}")
    settings = SceneOptions(**options)
    limit = settings.max_objects or DEFAULT_MAX_OBJECTS[task]
    return _SCENES[task](rng, settings, limit)


def _in_split(layout: object, split: str) -> bool:
    """One layout in five is held out."""
    held_out = zlib.crc32(repr(layout).encode()) % 5 == 0
    return held_out == (split != "train")


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _place(rng: np.random.Generator, num: int, settings: SceneOptions, distinct: bool) -> list[_Thing] | None:
    """Put num objects, at least 2 px apart; None when chance left no room."""
    side = settings.side
    largest = max(8, int(side * min(0.5, 0.62 / math.sqrt(num))))
    smallest = max(6, min(int(side * 0.17), int(largest * 0.6)))
    things: list[_Thing] = []
    for _ in range(20 * num):
        thing = _draw_thing(rng, int(rng.integers(smallest, largest + 1)), settings)
        same_name = distinct and any((o.colour, o.shape) == (thing.colour, thing.shape) for o in things)
        if not same_name and not any(_touch(thing.box_px, other.box_px) for other in things):
            things.append(thing)
        if len(things) == num:
            return things
    return None


def _draw_thing(rng: np.random.Generator, size: int, settings: SceneOptions) -> _Thing:
    colour, i_digit, shape = _pick(rng, tuple(drawing.COLOURS)), -1, _pick(rng, drawing.SHAPES)
    if settings.digits and rng.random() < 0.5:
        i_digit = int(rng.integers(drawing.num_digit_pictures()))
        shape = drawing.digit_name(i_digit)
    thing = _Thing(colour, shape, i_digit, 0, 0, size)
    width, height = thing.mask.size
    x, y = int(rng.integers(settings.side - width + 1)), int(rng.integers(settings.side - height + 1))
    return _Thing(colour, shape, i_digit, x, y, size)


def _touch(a: tuple[int, int, int, int], b: tuple[int, int, int, int], gap: int = 2) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def _layout(rng: np.random.Generator, num: int, settings: SceneOptions, distinct: bool) -> list[_Thing]:
    """Lay out num objects that belong to the split."""
    for _ in range(1000):
        things = _place(rng, num, settings, distinct)
        if things is not None and _in_split(things, settings.split):
            return things
    raise ValueError(f"no room for {num} objects in {settings.side} px; lower max_objects or raise side")


def _render(rng: np.random.Generator, things: list[_Thing], side: int) -> Image.Image:
    picture = drawing.background(rng, side)
    for thing in things:
        picture.paste(drawing.COLOURS[thing.colour], (thing.x, thing.y), thing.mask)
    return picture


def _rec_scene(rng: np.random.Generator, settings: SceneOptions, limit: int) -> tuple[Image.Image, dict[str, Any]]:
    """A scene in which every object has its own combination of colour and shape, and a phrase for one of them."""
    things = _layout(rng, int(rng.integers(1, limit + 1)), settings, distinct=True)
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
    return _render(rng, things, settings.side), row


def _counting_scene(rng: np.random.Generator, settings: SceneOptions, limit: int) -> tuple[Image.Image, dict[str, Any]]:
    num = int(rng.integers(1, limit + 1))
    things = _layout(rng, num, settings, distinct=False)
    row = {"problem": "How many items are in the picture?", "solution": _tagged(num)}
    return _render(rng, things, settings.side), row


def _geometry_scene(rng: np.random.Generator, settings: SceneOptions, limit: int) -> tuple[Image.Image, dict[str, Any]]:
    figure = _pick(rng, settings.figures)
    longest = min(limit, drawing.GRID_CELLS)
    draw = {"angle": _angle, "sides": _sides}.get(figure) or (lambda r: _rectangle(r, longest, figure))
    for _ in range(1000):
        layout, colour = draw(rng), _pick(rng, tuple(drawing.COLOURS))
        if _in_split((figure, layout.parameters, colour), settings.split):
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
        larger near miss in 60 of 100.
    """
    if task == "rec":
        return _scaled_box(row["solution"], (row["width"], row["height"]), float(rng.uniform(*WEAK_SCALE)))
    if task not in TASKS:
        raise ValueError(f"no weak annotator for task {task!r}; choose from {', '.join(TASKS)}")
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


_SCENES = {"rec": _rec_scene, "counting": _counting_scene, "geometry": _geometry_scene}
