# SPDX-License-Identifier: Apache-2.0
"""Backgrounds, coloured shapes, handwritten digits and geometry figures, drawn with Pillow.

A shape is a mask first: what the mask covers is the ground truth, so a box is exact whatever the drawing routine does.
Sizes and coordinates are px; a box x1, y1, x2, y2 is continuous: x2 and y2 are the outer edges of the last pixels.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (214, 30, 36),
    "green": (22, 142, 48),
    "blue": (32, 64, 208),
    "yellow": (246, 206, 10),
    "purple": (140, 36, 162),
    "black": (16, 16, 20),
}
SHAPES = ("circle", "square", "triangle", "cross", "star")
GRID_CELLS = 6
"""Cells per side of the grid under area and perimeter figures."""


def _regular(num_corners: int, turn: float = 0.0, inner: float = 1.0) -> tuple[tuple[float, float], ...]:
    """Corners of a polygon in the unit circle; `inner` scales every second corner (stars)."""
    angles = [turn - math.pi / 2 + 2 * math.pi * i / num_corners for i in range(num_corners)]
    radii = [inner if i % 2 else 1.0 for i in range(num_corners)]
    return tuple((r * math.cos(a), r * math.sin(a)) for a, r in zip(angles, radii, strict=True))


_CROSS = (
    (-0.34, -1.0),
    (0.34, -1.0),
    (0.34, -0.34),
    (1.0, -0.34),
    (1.0, 0.34),
    (0.34, 0.34),
    (0.34, 1.0),
    (-0.34, 1.0),
    (-0.34, 0.34),
    (-1.0, 0.34),
    (-1.0, -0.34),
    (-0.34, -0.34),
)
_OUTLINES = {
    "square": ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)),
    "triangle": ((0.0, -1.0), (1.0, 1.0), (-1.0, 1.0)),
    "cross": _CROSS,
    "star": _regular(10, inner=0.45),
}


@functools.lru_cache(maxsize=4096)
def shape_mask(shape: str, size: int) -> Image.Image:
    """Render a shape, cropped to what it covers: at most size x size px, mode L, values 0 or 255.  Do not modify."""
    mask = Image.new("L", (size, size), 0)
    pen = ImageDraw.Draw(mask)
    if shape == "circle":
        pen.ellipse((0, 0, size - 1, size - 1), fill=255)
    else:
        radius = (size - 1) / 2
        pen.polygon([(radius + radius * x, radius + radius * y) for x, y in _OUTLINES[shape]], fill=255)
    return mask.crop(mask.getbbox())


@functools.lru_cache(maxsize=1)
def _digit_pictures() -> tuple[np.ndarray, np.ndarray]:
    """[1797, 8, 8] float64 in 0..16 and [1797] int: the handwritten digits that scikit-learn brings along."""
    try:
        from sklearn.datasets import load_digits  # optional dependency: extra "digits"
    except ImportError as error:
        raise ValueError("handwritten digits need scikit-learn: pip install 'r1_mllm[digits]'") from error
    bunch = load_digits()
    return bunch.images, bunch.target


def num_digit_pictures() -> int:
    """Count the handwritten digits at hand; an error with the install line when scikit-learn is missing."""
    return len(_digit_pictures()[1])


def digit_name(i_digit: int) -> str:
    """Name the digit that picture i_digit shows: "digit 7"."""
    return f"digit {_digit_pictures()[1][i_digit]}"


@functools.lru_cache(maxsize=4096)
def digit_mask(i_digit: int, size: int) -> Image.Image:
    """Render a handwritten digit, cropped to its ink: at most size x size px, mode L, values 0 or 255."""
    pixels = (_digit_pictures()[0][i_digit] * (255 / 16)).astype(np.uint8)
    large = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    ink = large.point([0] * 96 + [255] * 160)
    return ink.crop(ink.getbbox())


def background(rng: np.random.Generator, side: int) -> Image.Image:
    """Draw a muted light texture, side x side px RGB: soft blotches of one tint under fine grain."""
    tint = rng.integers(150, 215, size=(1, 1, 3))
    blotches = tint + rng.integers(-24, 25, size=(7, 7, 1)) + rng.integers(-8, 9, size=(7, 7, 3))
    soft = Image.fromarray(blotches.astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR)
    grain = rng.integers(0, 17, size=(side, side, 1), dtype=np.uint8)
    return Image.fromarray(np.asarray(soft) + grain - np.uint8(8))


def draw_grid_rectangle(picture: Image.Image, cells: tuple[int, int, int, int], colour: str) -> None:
    """Shade the cells (left, top, width, height) and draw the grid over the whole picture."""
    pen = ImageDraw.Draw(picture)
    edges = [round(i * (picture.width - 1) / GRID_CELLS) for i in range(GRID_CELLS + 1)]
    left, top, width, height = cells
    pen.rectangle((edges[left], edges[top], edges[left + width], edges[top + height]), fill=COLOURS[colour])
    for edge in edges:
        pen.line((edge, 0, edge, picture.height - 1), fill=(90, 90, 90))
        pen.line((0, edge, picture.width - 1, edge), fill=(90, 90, 90))


def draw_angle(picture: Image.Image, degrees: int, turn: int, colour: str) -> None:
    """Draw two rays that leave the middle of the picture at an angle, and the arc between them."""
    pen = ImageDraw.Draw(picture)
    middle, length = picture.width / 2, 0.46 * picture.width
    for direction in (turn, turn + degrees):
        tip = [middle + length * f(math.radians(direction)) for f in (math.cos, math.sin)]
        pen.line((middle, middle, tip[0], tip[1]), fill=COLOURS[colour], width=max(2, picture.width // 28))
    arc = 0.18 * picture.width
    pen.arc((middle - arc, middle - arc, middle + arc, middle + arc), turn, turn + degrees, fill=(60, 60, 60), width=2)


def draw_polygon(picture: Image.Image, num_sides: int, turn: int, colour: str) -> None:
    """Draw a filled regular polygon in the middle of the picture, turned by `turn` degrees."""
    middle, radius = picture.width / 2, 0.42 * picture.width
    corners = [(middle + radius * x, middle + radius * y) for x, y in _regular(num_sides, math.radians(turn))]
    ImageDraw.Draw(picture).polygon(corners, fill=COLOURS[colour])
