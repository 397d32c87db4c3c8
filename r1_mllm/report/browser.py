# SPDX-License-Identifier: Apache-2.0
"""The sampled completions of one or several runs, to leaf through: pictures with boxes, filters, pages.

The page holds a choice spread evenly over the steps, so that it stays light; browser.js shows it.  Text of models and
data reaches the page as JSON with every "<" escaped, and the script only ever sets text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from .pictures import located, thumbnail
from .run_files import RunFiles

MAX_CHARS = 1_200_000
"""Characters of prompts and completions of the whole page."""
MAX_PICTURES = 200
"""Different pictures of the whole page; prompts beyond them go without."""
MAX_TEXT = 1500
"""Characters of one prompt or completion."""
SIDE, QUALITY = 224, 70
"""px of a picture's longer side; JPEG quality."""

Group = Sequence[Mapping[str, Any]]


def section(runs: Sequence[RunFiles]) -> str:
    """The browser with its data and script; empty when no run logged completions."""
    groups = [(i, group) for i, run in enumerate(runs) for group in _groups(run)]
    if not groups:
        return ""
    chosen = _spread(groups)
    pictures = _Pictures()
    data = {
        "runs": [run.name for run in runs],
        "groups": [_described(i, group, runs[i].folder, pictures) for i, group in chosen],
        "pictures": pictures.found,
        "sizes": pictures.sizes,
    }
    total = sum(len(group) for _, group in groups)
    shown = sum(len(group) for _, group in chosen)
    note = f"{shown} of {total} logged completions, whole groups spread evenly over the steps."
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    script = Path(__file__).with_name("browser.js").read_text(encoding="utf-8")
    return (
        f'<p class="quiet">{note}</p><div id="browser"></div><noscript>This table needs JavaScript.</noscript>'
        f'<script type="application/json" id="browser-data">{text}</script><script>{script}</script>'
    )


def _groups(run: RunFiles) -> list[Group]:
    def key(row: Mapping[str, Any]) -> tuple:
        return row["step"], str(row.get("id")), row["prompt"]

    return [list(rows) for _, rows in groupby(run.completions, key=key)]


def _spread(groups: Sequence[tuple[int, Group]]) -> list[tuple[int, Group]]:
    """Take groups at even distances so that their texts stay within MAX_CHARS; first and last always."""
    sizes = [sum(min(len(row["completion"]), MAX_TEXT) + 200 for row in group) + MAX_TEXT for _, group in groups]
    total = sum(sizes)
    if total <= MAX_CHARS:
        return list(groups)
    num = max(2, int(len(groups) * MAX_CHARS / total))
    places = sorted({round(i * (len(groups) - 1) / (num - 1)) for i in range(num)})
    return [groups[place] for place in places]


class _Pictures:
    """Thumbnails, each once."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self._numbers: dict[Path, int | None] = {}

    def number(self, image: Any, folder: Path) -> int | None:
        path = located(image, folder)
        if path is None:
            return None
        if path not in self._numbers:
            made = thumbnail(path, SIDE, QUALITY) if len(self.found) < MAX_PICTURES else None
            self._numbers[path] = None if made is None else len(self.found)
            if made is not None:
                self.found.append(made[0])
                self.sizes.append(made[1])
        return self._numbers[path]


def _described(run: int, group: Group, folder: Path, pictures: _Pictures) -> dict[str, Any]:
    first = group[0]
    return {
        "run": run,
        "step": first["step"],
        "task": first.get("task") or "",
        "id": str(first.get("id", "")),
        "prompt": _cut(first["prompt"]),
        "question": _cut(first.get("question") or ""),
        "truth": first.get("ground_truth"),
        "picture": pictures.number(first.get("image"), folder),
        "rows": [_row(row) for row in group],
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    parts = row.get("rewards") or {}
    reward = row.get("reward")
    if reward is None and parts:
        reward = sum(value for value in parts.values() if value is not None)
    return {
        "text": _cut(row["completion"]),
        "reward": _short(reward),
        "parts": {name: _short(value) for name, value in parts.items()},
        "advantage": _short(row.get("advantage")),
        "read": row.get("extracted"),
        "correct": row.get("correct"),
        "cut": row.get("finished") is False,
        "tokens": row.get("num_tokens"),
    }


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " ..."
