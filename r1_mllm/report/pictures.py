# SPDX-License-Identifier: Apache-2.0
"""Pictures with boxes in px of the original: inside the page as a small JPEG with lines over it, or drawn into one."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageOps

MAX_SIDE = 320
"""px of a thumbnail's longer side."""
TRUE_COLOR, READ_COLOR = (0x19, 0xC3, 0x7D), (0xFF, 0x8A, 0x3D)
"""What counts as right, and what a model wrote; style.css has the same."""


def upright(source: str | Path | bytes, side: int | None = MAX_SIDE) -> tuple[Image.Image, tuple[int, int]] | None:
    """The picture as people see it, in RGB, and the original's (width, height) in px; None if it cannot be read.

    Args:
        source: a file, or its content.
        side: px of the longer side, shrunk to it where it is longer; None: as it is.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            turned = ImageOps.exif_transpose(opened)
            size = turned.size
            if side is not None:
                turned.thumbnail((side, side))
            return turned.convert("RGB"), size
    except (OSError, ValueError, Image.DecompressionBombError):  # a report is worth having without one picture
        return None


def boxes_in(value: Any) -> list[Sequence[float]]:
    """The boxes of an answer: the box itself, those of a list of labelled ones, or none."""
    if is_box(value):
        return [value]
    found = value if isinstance(value, list | tuple) else ()
    return [item["bbox_2d"] for item in found if isinstance(item, Mapping) and is_box(item.get("bbox_2d"))]


def draw_boxes(picture: Image.Image, size: tuple[int, int], value: Any, color: tuple[int, int, int]) -> None:
    """Draw the boxes of an answer into a picture.

    Args:
        size: (width, height) px of the picture the boxes are of.
    """
    pen = ImageDraw.Draw(picture)
    scale_x, scale_y = picture.width / size[0], picture.height / size[1]
    line = max(1, round(max(picture.size) / 110))
    for x1, y1, x2, y2 in boxes_in(value):
        left, right = sorted((x1 * scale_x, x2 * scale_x))
        top, bottom = sorted((y1 * scale_y, y2 * scale_y))
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0x10, 0x15, 0x1D), width=line + 2)
        pen.rectangle((left, top, right, bottom), outline=color, width=line)


def thumbnail(path: Path, side: int = MAX_SIDE, quality: int = 85) -> tuple[str, tuple[int, int]] | None:
    """A data URI of the shrunken picture and the original's (width, height) in px; None if it cannot be read."""
    found = upright(path, side)
    if found is None:
        return None
    stream = io.BytesIO()
    found[0].save(stream, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode(), found[1]


def picture(image: Any, folder: Path, boxes: Mapping[str, Any]) -> str:
    """SVG of the first picture of `image` (path or list of paths, as in a results row) with boxes over it.

    Args:
        folder: the run's; a path that does not exist from here is looked up there.
        boxes: CSS class -> (x1, y1, x2, y2) in px of the original picture; what is not a box is left out.
    """
    if not isinstance(_first(image), str):
        return '<p class="none">no picture file</p>'
    found = located(image, folder)
    shrunk = thumbnail(found) if found else None
    if shrunk is None:
        return '<p class="none">picture not readable</p>'
    uri, (width, height) = shrunk
    # Lines of a given width on the screen, whatever the picture's size.
    line = max(width, height) / 110
    drawn = "".join(_rectangle(name, box, line) for name, box in boxes.items() if is_box(box))
    return (
        f'<svg class="picture" viewBox="0 0 {width} {height}" role="img">'
        f'<image href="{uri}" width="{width}" height="{height}"/>{drawn}</svg>'
    )


def _first(image: Any) -> Any:
    return image[0] if isinstance(image, Sequence) and not isinstance(image, str) and image else image


def located(image: Any, folder: Path) -> Path | None:
    """The file of the first picture, from here or from the run's folder; None when it is not there."""
    path = _first(image)
    if not isinstance(path, str):
        return None
    return next((place for place in (Path(path), folder / path) if place.is_file()), None)


def is_box(value: Any) -> bool:
    """Four numbers in a list."""
    return isinstance(value, list | tuple) and len(value) == 4 and all(isinstance(edge, int | float) for edge in value)


def _rectangle(name: str, box: Sequence[float], line: float) -> str:
    left, right = sorted((box[0], box[2]))
    top, bottom = sorted((box[1], box[3]))
    place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
    dashes = f' stroke-dasharray="{3 * line:.1f} {2 * line:.1f}"' if name == "before" else ""
    # A dark line under the coloured one keeps it visible on any background.
    return (
        f'<rect class="under" {place} fill="none" stroke-width="{1.7 * line:.2f}"/>'
        f'<rect class="{name}" {place} fill="none" stroke-width="{line:.2f}"{dashes}/>'
    )
