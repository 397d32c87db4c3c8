# SPDX-License-Identifier: Apache-2.0
"""What scenes look like, and objects laid out in them without touching each other."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from . import drawing

FIGURES = ("area", "perimeter", "angle", "sides")
RELATIONS = ("Relation", "Depth", "Distance", "Count")


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
    relations: tuple[str, ...] = RELATIONS
    """spatial: kinds of question."""

    def __post_init__(self) -> None:
        if self.side < 28:
            raise ValueError(f"side {self.side} px is too small for a scene; use at least 28")
        if self.max_objects is not None and not 1 <= self.max_objects <= 12:
            raise ValueError(f"max_objects {self.max_objects} is not in 1..12")
        unknown = [name for name in self.figures if name not in FIGURES]
        if unknown or not self.figures:
            raise ValueError(f"figures {list(self.figures)}: choose from {', '.join(FIGURES)}")
        if not self.relations or not set(self.relations) <= set(RELATIONS):
            raise ValueError(f"relations {list(self.relations)}: choose from {', '.join(RELATIONS)}")


@dataclass(frozen=True)
class Thing:
    """One object: a shape or handwritten digit of one colour at x, y (top left of its ink), px."""

    colour: str
    shape: str
    i_digit: int
    x: int
    y: int
    size: int

    def __repr__(self) -> str:
        """Text that decides which split a layout belongs to: changing it would deal scenes out anew."""
        fields = f"colour={self.colour!r}, shape={self.shape!r}, i_digit={self.i_digit}, x={self.x}, y={self.y}"
        return f"_Thing({fields}, size={self.size})"

    @property
    def mask(self) -> Image.Image:
        if self.i_digit >= 0:
            return drawing.digit_mask(self.i_digit, self.size)
        return drawing.shape_mask(self.shape, self.size)

    @property
    def box_px(self) -> tuple[int, int, int, int]:
        width, height = self.mask.size
        return self.x, self.y, self.x + width, self.y + height


def in_split(drawn: object, split: str) -> bool:
    """Tell whether a layout belongs to a split; one in five is held out."""
    held_out = zlib.crc32(repr(drawn).encode()) % 5 == 0
    return held_out == (split != "train")


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """Draw one of the choices."""
    return choices[int(rng.integers(len(choices)))]


def _place(rng: np.random.Generator, num: int, settings: SceneOptions, distinct: bool) -> list[Thing] | None:
    """Put num objects, at least 2 px apart; None when chance left no room."""
    side = settings.side
    largest = max(8, int(side * min(0.5, 0.62 / math.sqrt(num))))
    smallest = max(6, min(int(side * 0.17), int(largest * 0.6)))
    things: list[Thing] = []
    for _ in range(20 * num):
        thing = _draw_thing(rng, int(rng.integers(smallest, largest + 1)), settings)
        same_name = distinct and any((o.colour, o.shape) == (thing.colour, thing.shape) for o in things)
        if not same_name and not any(_touch(thing.box_px, other.box_px) for other in things):
            things.append(thing)
        if len(things) == num:
            return things
    return None


def _draw_thing(rng: np.random.Generator, size: int, settings: SceneOptions) -> Thing:
    colour, i_digit, shape = pick(rng, tuple(drawing.COLOURS)), -1, pick(rng, drawing.SHAPES)
    if settings.digits and rng.random() < 0.5:
        i_digit = int(rng.integers(drawing.num_digit_pictures()))
        shape = drawing.digit_name(i_digit)
    thing = Thing(colour, shape, i_digit, 0, 0, size)
    width, height = thing.mask.size
    x, y = int(rng.integers(settings.side - width + 1)), int(rng.integers(settings.side - height + 1))
    return Thing(colour, shape, i_digit, x, y, size)


def _touch(a: tuple[int, int, int, int], b: tuple[int, int, int, int], gap: int = 2) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def layout(rng: np.random.Generator, num: int, settings: SceneOptions, distinct: bool) -> list[Thing]:
    """Lay out num objects that belong to the split."""
    for _ in range(1000):
        things = _place(rng, num, settings, distinct)
        if things is not None and in_split(things, settings.split):
            return things
    raise ValueError(f"no room for {num} objects in {settings.side} px; lower max_objects or raise side")


def render(rng: np.random.Generator, things: Sequence[Thing], side: int) -> Image.Image:
    """Draw a background and the objects on it."""
    picture = drawing.background(rng, side)
    for thing in things:
        picture.paste(drawing.COLOURS[thing.colour], (thing.x, thing.y), thing.mask)
    return picture
