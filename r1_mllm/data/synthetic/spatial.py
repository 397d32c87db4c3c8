# SPDX-License-Identifier: Apache-2.0
"""Questions about where things are, answered by the layout itself: rows as SAT has them, held out as CV-Bench has them.

Relation: left, right, above, below, by the middles; a single object is compared with the picture's middle.  Depth: in
front or behind, by the sizes seen.  Distance: which of two is nearer to a third.  Count: how many have a colour.
Layouts too close to call are drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from . import drawing
from .objects import SceneOptions, Thing, layout, pick, render

TYPES = {"Relation": "2D", "Count": "2D", "Depth": "3D", "Distance": "3D"}
SIDEWAYS_MARGIN = 0.2
"""Share of the picture's side by which middles must differ to be left of or above each other."""
SIZE_MARGIN, DISTANCE_MARGIN = 1.4, 1.4
"""Factor between the sizes, or the distances, that are compared."""
NUM_COUNTS = 4
"""Options of a Count question."""
MAX_DRAWS = 2000


@dataclass(frozen=True)
class _Question:
    things: list[Thing]
    text: str
    options: tuple[str, ...]
    answer: str
    num_named: int
    """So many of the things, the first ones, are what the question is about."""


def spatial_scene(rng: np.random.Generator, settings: SceneOptions, limit: int) -> tuple[Image.Image, dict[str, Any]]:
    """Draw a scene and its row: SAT's columns in the training split, CV-Bench's in any other, both without pictures.

    Rows also have `thought`, what the small model learns to think: the objects asked about, each with x and y of its
    middle and its size in tenths of the side.
    """
    kinds = [kind for kind in settings.relations if _FEWEST[kind] <= limit]
    if not kinds:
        needed = ", ".join(f"{kind} {_FEWEST[kind]}" for kind in settings.relations)
        raise ValueError(f"max_objects {limit} is too few for these questions ({needed})")
    kind = pick(rng, kinds)
    asked = None
    for _ in range(MAX_DRAWS):
        num = int(rng.integers(_FEWEST[kind], limit + 1))
        things = layout(rng, num, settings, distinct=kind != "Count")
        asked = _ASK[kind](rng, things, settings.side)
        if asked is not None:
            break
    if asked is None:
        raise ValueError(f"no clear {kind} in {MAX_DRAWS} scenes of {settings.side} px; change max_objects or side")
    shown = [str(option) for option in rng.permutation(asked.options)]
    row = _sat_row(kind, asked, shown) if settings.split == "train" else _cv_bench_row(kind, asked, shown)
    thought = "; ".join(_seen(thing, settings.side) for thing in asked.things[: asked.num_named])
    return render(rng, asked.things, settings.side), {**row, "thought": thought}


def weak_option(row: Mapping[str, Any], rng: np.random.Generator, right_share: float) -> str:
    """Answer a SAT row as a careless annotator would: right in `right_share` of cases, else the next option."""
    listed = sorted(row["answers"])
    i_right = listed.index(row["correct_answer"])
    return listed[i_right if rng.random() < right_share else (i_right + 1) % len(listed)]


def _sat_row(kind: str, asked: _Question, shown: list[str]) -> dict[str, Any]:
    return {"question": asked.text, "answers": shown, "question_type": kind, "correct_answer": asked.answer}


def _cv_bench_row(kind: str, asked: _Question, shown: list[str]) -> dict[str, Any]:
    letters = [chr(ord("A") + i) for i in range(len(shown))]
    listed = "".join(f"\n({letter}) {option}" for letter, option in zip(letters, shown, strict=True))
    return {
        "type": TYPES[kind],
        "task": kind,
        "question": asked.text,
        "choices": shown,
        "answer": f"({letters[shown.index(asked.answer)]})",
        "prompt": f"{asked.text} Select one of these:{listed}",
        "source": "rendered",
    }


def _name(thing: Thing) -> str:
    return f"the {thing.colour} {thing.shape}"


def _middle(thing: Thing) -> tuple[float, float]:
    x1, y1, x2, y2 = thing.box_px
    return (x1 + x2) / 2, (y1 + y2) / 2


def _seen_size(thing: Thing) -> int:
    """Longer side of what is seen of it, px."""
    return max(thing.mask.size)


def _seen(thing: Thing, side: int) -> str:
    """Put what is seen of an object in words and three digits."""
    tenths = (str(min(int(10 * length / side), 9)) for length in (*_middle(thing), _seen_size(thing)))
    return f"{thing.colour} {thing.shape} {''.join(tenths)}"


def _relation(rng: np.random.Generator, things: list[Thing], side: int) -> _Question | None:
    one, axis = things[0], int(rng.integers(2))
    other_name, other_middle = ("the middle", (side / 2, side / 2))
    if len(things) > 1:
        other_name, other_middle = _name(things[1]), _middle(things[1])
    places = _middle(one)[axis] / side, other_middle[axis] / side
    step = places[0] - places[1]
    if abs(step) < SIDEWAYS_MARGIN:
        return None
    words = (("left", "right"), ("above", "below"))[axis]
    joined = ("left or right of", "above or below")[axis]
    return _Question(things, f"Is {_name(one)} {joined} {other_name}?", words, words[step > 0], min(len(things), 2))


def _depth(rng: np.random.Generator, things: list[Thing], side: int) -> _Question | None:
    one, other = things[0], things[1]
    sizes = _seen_size(one), _seen_size(other)
    if max(sizes) < SIZE_MARGIN * min(sizes):
        return None
    words = ("in front", "behind")
    text = f"By its size, is {_name(one)} in front of or behind {_name(other)}?"
    return _Question(things, text, words, words[sizes[0] < sizes[1]], 2)


def _distance(rng: np.random.Generator, things: list[Thing], side: int) -> _Question | None:
    place, one, other = things[:3]
    far = [math.dist(_middle(place), _middle(thing)) for thing in (one, other)]
    if max(far) < DISTANCE_MARGIN * min(far):
        return None
    names = _name(one), _name(other)
    text = f"Which is nearer to {_name(place)}: {names[0]} or {names[1]}?"
    return _Question(things, text, names, names[far[1] < far[0]], 3)


def _count(rng: np.random.Generator, things: list[Thing], side: int) -> _Question | None:
    colour = pick(rng, tuple(drawing.COLOURS))
    num = sum(thing.colour == colour for thing in things)
    lowest = int(rng.integers(max(0, num - NUM_COUNTS + 1), num + 1))
    numbers = tuple(str(number) for number in range(lowest, lowest + NUM_COUNTS))
    return _Question(things, f"How many {colour} things are in the picture?", numbers, str(num), 0)


_ASK: dict[str, Callable[[np.random.Generator, list[Thing], int], _Question | None]] = {
    "Relation": _relation,
    "Depth": _depth,
    "Distance": _distance,
    "Count": _count,
}
_FEWEST = {"Relation": 1, "Depth": 2, "Distance": 3, "Count": 1}
