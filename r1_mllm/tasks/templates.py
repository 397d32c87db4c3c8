# SPDX-License-Identifier: Apache-2.0
"""The prompts: read from YAML, checked, filled in, and laid out as chat messages."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..records import Box, BoxUnits, Example, View

Templates = Mapping[str, Mapping[str, Mapping[str, str]]]
"""task -> form -> method -> text."""

BUILT_IN = Path(__file__).with_name("prompts.yaml")
_UNITS = {
    "seen_px": "in pixels",
    "per_mille": "on a scale of 0 to 1000",
    None: "in pixels",
}


@functools.cache
def built_in() -> Templates:
    """Give the prompts that come with the package."""
    return _read(BUILT_IN)


def load_templates(path: str | Path | None = None) -> Templates:
    """Read a user's prompts over the built-in ones; entries the file does not hold keep their built-in text."""
    if path is None:
        return built_in()
    merged = {task: {form: dict(methods) for form, methods in forms.items()} for task, forms in built_in().items()}
    for task, forms in _read(Path(path)).items():
        for form, methods in forms.items():
            merged.setdefault(task, {}).setdefault(form, {}).update(methods)
    return merged


def messages(
    example: Example,
    method: str = "r1",
    templates: Templates | None = None,
    system_prompt: str | None = None,
    view_units: BoxUnits | None = None,
    views: Sequence[View] = (),
) -> list[dict[str, Any]]:
    """Lay an example out as chat messages: an optional system turn, one user turn with its pictures before the text.

    The system turn is system_prompt, else the row's own (`meta["system"]`, rows in verl's columns).

    Prompts of judge and choice are those of the task, if it has its own, or the form's.

    Args:
        views: how the pictures are shown; boxes that a question proposes (`meta["boxes_px"]`) are written accordingly.
    """
    templates = templates or built_in()
    methods = templates.get(example.task, {}).get(example.form) or templates.get(example.form, {}).get(example.form, {})
    if method not in methods:
        known = ", ".join(methods) or "none"
        raise ValueError(
            f"no prompt for task {example.task!r}, form {example.form!r}, method {method!r} (methods there: {known}); "
            "add it to the YAML file given as --prompt_template"
        )
    text = _with_boxes(_fill(methods[method], example, _UNITS[view_units]), example, views)
    content = [{"type": "image"} for _ in example.images] + [{"type": "text", "text": text}]
    system_prompt = system_prompt or example.meta.get("system")
    turns = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*turns, {"role": "user", "content": content}]


def _fill(template: str, example: Example, units: str) -> str:
    """Fill in the units first and the row's own text last, so that braces in a question are never filled in."""
    text = template.replace("{units}", units)
    field, value = "{question}", example.question
    if "{caption}" in text:
        field, value = "{caption}", example.meta.get("normal_caption") or example.question
    return text.replace(field, str(value))


def _with_boxes(text: str, example: Example, views: Sequence[View]) -> str:
    """Write proposed boxes in the model's units instead of px of the original picture."""
    boxes_px = example.meta.get("boxes_px")
    if not boxes_px or not views:
        return text
    seen = {name: box_text(views[0].from_original(box_px)) for name, box_px in boxes_px.items()}
    return re.sub("|".join(map(re.escape, seen)), lambda match: seen[match.group()], text)


def box_text(box: Box) -> str:
    """Write a box in whole units."""
    return f"[{', '.join(str(round(side)) for side in box)}]"


def _read(path: Path) -> Templates:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected task -> form -> method -> text, found {type(tree).__name__}")
    for task, forms in tree.items():
        for form, methods in _mapping(path, task, forms).items():
            for method, text in _mapping(path, f"{task}.{form}", methods).items():
                if not isinstance(text, str) or not ("{question}" in text or "{caption}" in text):
                    raise ValueError(
                        f"{path}: {task}.{form}.{method} is no text with {{question}} or {{caption}} in it"
                    )
    return tree


def _mapping(path: Path, where: str, value: Any) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {where} is {value!r}, expected a mapping")
    return value
