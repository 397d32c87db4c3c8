# SPDX-License-Identifier: Apache-2.0
"""Answers that are on disk already, several to a problem, in the layouts people have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.read import rows as read_rows

Row = dict[str, Any]


def read_recorded(path: Path) -> list[tuple[Row, str]]:
    """Rows with a list `samples`, and their places.

    Read are JSON lists, JSONL, and results files ({"results": [...]}).  A row may hold `samples` (texts, or objects
    with `model_output`), a list `model_output`, or one answer; rows of one answer are put together by their `id`.
    """
    merged: dict[str, tuple[Row, str]] = {}
    for row, where in _rows(path):
        samples = row.get("samples", row.get("model_output"))
        several = isinstance(samples, list)
        if not several and "id" not in row:
            raise ValueError(f"{where}: a row with one answer needs an `id` that tells which problem it is about")
        samples = [_sample(entry, where) for entry in samples] if several else [_sample(row, where)]
        name = f"{row.get('dataset', '')}/{row['id']}" if "id" in row else where
        if name not in merged:
            merged[name] = ({**row, "samples": samples}, where)
            merged[name][0].pop("correct", None)
        elif several:
            raise ValueError(f"{where}: problem {row['id']!r} stood in {merged[name][1]} already")
        else:
            _same_question(merged[name], row, where)
            merged[name][0]["samples"].extend(samples)
    if not merged:
        raise ValueError(f"{path}: no rows")
    return list(merged.values())


def _rows(path: Path) -> list[tuple[Row, str]]:
    if path.suffix == ".json" and path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # JSON lines under another name
            content = None
        if isinstance(content, dict) and isinstance(content.get("results"), list):
            return [(row, f"{path} (result {number})") for number, row in enumerate(content["results"], start=1)]
    return list(read_rows(path))


def _sample(entry: Any, where: str) -> Row:
    if isinstance(entry, str):
        return {"model_output": entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("model_output"), str):
        raise ValueError(f"{where}: an answer is a text or an object with the text `model_output`, not {entry!r:.80}")
    return {name: entry[name] for name in ("model_output", "correct") if name in entry}


def _same_question(earlier: tuple[Row, str], row: Row, where: str) -> None:
    for name in ("question", "ground_truth"):
        if earlier[0].get(name) != row.get(name):
            raise ValueError(f"{where}: {name} differs from that of {earlier[1]}, which has the same id {row['id']!r}")
