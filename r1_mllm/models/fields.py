# SPDX-License-Identifier: Apache-2.0
"""Typed look-ups in a JSON object written by somebody else; every error names file, field, value and cure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_WIDTH, MAX_VOCAB = 1 << 17, 1 << 22
"""Sizes beyond these are not a model but a broken or hostile file."""


class Section:
    """Typed look-ups in one JSON object; every error carries the file, the field and its value."""

    def __init__(self, fields: Mapping[str, Any], defaults: Mapping[str, Any], where: str):
        self.fields, self.defaults, self.where = fields, defaults, where

    def value(self, name: str) -> Any:
        """Give the field or its published default; null counts as left out."""
        found = self.fields.get(name)
        found = self.defaults.get(name) if found is None else found
        if found is None:
            raise ValueError(f"{self.where}: {name} is missing; take config.json from the model's own repository")
        return found

    def wrong(self, name: str, found: Any, wanted: str) -> ValueError:
        return ValueError(f"{self.where}: {name} is {found!r}, {wanted}; take config.json from the model's repository")

    def integer(self, name: str, least: int = 1, most: int = MAX_WIDTH) -> int:
        found = self.value(name)
        if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most:
            raise self.wrong(name, found, f"an integer from {least} to {most} is needed")
        return found

    def number(self, name: str, most: float = 1e30) -> float:
        found = self.value(name)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found <= most:
            raise self.wrong(name, found, f"a positive number up to {most:g} is needed")
        return found

    def integers(self, name: str) -> tuple[int, ...]:
        found = self.value(name)
        if not isinstance(found, list | tuple) or not all(type(x) is int and 0 <= x <= MAX_VOCAB for x in found):
            raise self.wrong(name, found, "a list of integers is needed")
        return tuple(found)

    def ids(self, name: str) -> tuple[int, ...]:
        """Read a token id, a list of them, or nothing."""
        found = self.fields.get(name)
        if found is None:
            return ()
        return self.integers(name) if isinstance(found, list) else (self.integer(name, 0, MAX_VOCAB),)

    def inner(self, name: str) -> dict[str, Any]:
        """Read an object inside this one, without its nulls; empty when left out."""
        found = self.fields.get(name)
        if found is None:
            return {}
        if not isinstance(found, Mapping):
            raise self.wrong(name, found, "a JSON object is needed")
        return {key: value for key, value in found.items() if value is not None}
