# SPDX-License-Identifier: Apache-2.0
"""Read the fields of a dataset row under every name they have in the files people own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

_MARK = re.compile(r"(?:(?<![ \t])[ \t]+)?<image(\d{0,3})>[ \t]*")
_CONTENT = frozenset({"image", "images", "image_path", "problem", "question", "conversations", "image_bytes"})


def question_text(row: Mapping[str, Any], where: str, num_images: int) -> str:
    """Read the question; picture marks are taken out, numbered ones stay as words when there are several.

    Several numbered marks with one file mean that the pictures were drawn together in that file.
    """
    text = marked_question(row, where)
    named = _check_marks(_MARK.findall(text), where, num_images)
    return _MARK.sub(lambda mark: f" (picture {mark[1]}) " if named and mark[1] else " ", text).strip()


def marked_question(row: Mapping[str, Any], where: str) -> str:
    """Read the question as it stands in the row, with its picture marks."""
    text = row.get("problem") or row.get("question") or _turn(row, "human") or row.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: no question; a row needs `problem`, `question` or a human turn in `conversations`")
    return text


def _check_marks(marks: Sequence[str], where: str, num_images: int) -> bool:
    """Refuse marks that do not fit the pictures; say whether there are several numbered ones, which stay as words.

    Args:
        marks: what stands behind "image" in each mark, "" or a number.  None at all is in order.
    """
    numbers = {int(number) for number in marks if number}
    unnumbered = sum(not number for number in marks)
    if unnumbered and (numbers or unnumbered != num_images):
        also = f" and {len(numbers)} numbered ones" if numbers else ""
        raise ValueError(f"{where}: {unnumbered} <image> marks{also} but {num_images} pictures; make them agree")
    expected = max(num_images, len(numbers)) if num_images == 1 else num_images  # one file may hold all of them
    if numbers and numbers != set(range(1, expected + 1)):
        shown = " ".join(f"<image{number}>" for number in sorted(numbers))
        raise ValueError(f"{where}: marks {shown} but {num_images} pictures; number them from 1, one per picture")
    return len(numbers) > 1


def with_options(question: str, row: Mapping[str, Any]) -> str:
    """Write a row's `options` under its question as (A), (B) ...; not when they are nothing but these letters."""
    options = [str(option) for option in row.get("options") or ()]
    letters = [chr(ord("A") + i) for i in range(len(options))]
    if not options or options == letters:
        return question
    lines = (f"({letter}) {option}" for letter, option in zip(letters, options, strict=True))
    return "\n".join([question, *lines])


def images(row: Mapping[str, Any], where: str, image_root: str | None) -> tuple[str | bytes, ...]:
    """Read the pictures: paths joined with image_root, or encoded bytes; an empty tuple for a row of text only."""
    return tuple(_image(item, where, image_root) for item in stored_images(row))


def stored_images(row: Mapping[str, Any]) -> list[Any]:
    """The pictures as they stand in the row: paths, {bytes, path} or bytes."""
    for field in ("images", "image", "image_path", "image_bytes"):
        value = row.get(field)
        if value is None or (isinstance(value, (str, list)) and not value):
            continue
        return list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]
    return []


def gold_value(row: Mapping[str, Any], where: str, fields: Sequence[str]) -> Any:
    """Read the right answer from the first field that holds one, or from the reply in `conversations`."""
    for field in fields:
        value = row.get(field)
        if value is not None and value != "":
            return value
    reply = _turn(row, "gpt")
    if reply is None:
        raise ValueError(f"{where}: no answer; a row of this task needs one of {', '.join(fields)}")
    return reply


def meta(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Keep the fields that are neither question nor pictures, and where the row came from."""
    return {**{key: value for key, value in row.items() if key not in _CONTENT}, "where": where}


def _turn(row: Mapping[str, Any], speaker: str) -> str | None:
    turns = row.get("conversations") or ()
    turns = turns if isinstance(turns, Sequence) else ()
    said = [turn.get("value") for turn in turns if isinstance(turn, Mapping) and turn.get("from") == speaker]
    return said[0] if said else None


def _image(item: Any, where: str, image_root: str | None) -> str | bytes:
    if isinstance(item, Mapping):
        item = item.get("bytes") or item.get("path")
    if isinstance(item, (bytes, bytearray)):
        return bytes(item)
    if not isinstance(item, (str, os.PathLike)) or not str(item):
        raise ValueError(f"{where}: picture {item!r} is neither a path nor {{bytes, path}}")
    path = str(item).removeprefix("./")
    return os.path.join(image_root, path) if image_root else path
