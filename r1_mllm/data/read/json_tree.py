# SPDX-License-Identifier: Apache-2.0
"""JSON files that are one object of rows: {"1": {...}, "2": {...}} (MathVista) or {"Math": [{...}, ...]} (SceMQA)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEY = "group"
"""Column that takes a list's key."""

Tree = dict[str, Any]


def load(path: Path) -> Tree | None:
    """Read a file that is one object of rows or of lists of rows; None for anything else, JSON lines included."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline()
            if file.readline() and _is_object(first):
                return None  # JSON lines: the first line is a row of its own
        tree = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    held = tree.values() if isinstance(tree, dict) else ()
    return tree if held and all(_is_rows(value) for value in held) else None


def rows(tree: Tree, path: Path) -> Iterator[tuple[Tree, str]]:
    """Yield each row and its place "file:key" or "file:key[number]", numbers counted from 1."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield value, f"{path}:{key}"
            continue
        for number, row in enumerate(value, start=1):
            yield {KEY: key, **row}, f"{path}:{key}[{number}]"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_rows(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value.keys() & {"question", "Question", "problem", "conversations", "messages"})
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)
