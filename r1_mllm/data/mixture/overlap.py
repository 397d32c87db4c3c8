# SPDX-License-Identifier: Apache-2.0
"""Refuse mixtures that weigh rows twice in silence or train on what they are tested with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from ...config import DataConfig
from ...records import Example
from . import recipe

NUM_LISTED = 20

Key = tuple[str, tuple[str, ...]]
"""The question before it was given a form, and its pictures."""


def refuse_repeated_files(config: DataConfig) -> None:
    """Stop at a mixture that lists a file twice, by name or by content.

    Raises:
        ValueError: names the mixture and each such file.
    """
    for name, training in ((config.dataset_name, True), (config.eval_dataset_name or config.dataset_name, False)):
        path = recipe.located(name, [Path()])
        if path.suffix not in (".yaml", ".yml"):
            continue
        entries = recipe.read_mixture(path, training, own_file=training or bool(config.eval_dataset_name))
        seen: dict[tuple[str, str | None], str] = {}
        repeated = []
        for entry in entries:
            key = (_content(entry.path), entry.split)
            if key in seen:
                repeated.append(entry.name if entry.name == seen[key] else f"{entry.name} (the same as {seen[key]})")
            seen.setdefault(key, entry.name)
        if repeated:
            raise ValueError(
                f"{path}: listed more than once: {', '.join(repeated)}; keep one entry each, with a larger "
                "sampling_strategy if its rows should weigh more"
            )


def overlap(train: Sequence[Example], held_out: Sequence[Example]) -> list[tuple[str, str]]:
    """Find questions that are in both, with the same pictures: (place in training, place in the test set).

    Pictures are compared by content; only files of questions with equal words and equal sizes are read.
    """
    asked = {_question(example) for example in held_out}
    rough: dict[Key, list[Example]] = {}
    for example in train:
        if _question(example) in asked:
            rough.setdefault(_sizes(example), []).append(example)
    hashes: dict[str, str] = {}
    exact: dict[Key, str] = {}
    hashed: set[Key] = set()
    found = []
    for example in held_out:
        size_key = _sizes(example)
        if size_key not in rough:
            continue
        if size_key not in hashed:
            exact |= {_hashes(other, hashes): _where(other) for other in reversed(rough[size_key])}
            hashed.add(size_key)
        if (place := exact.get(_hashes(example, hashes))) is not None:
            found.append((place, _where(example)))
    return found


def repeated(examples: Sequence[Example]) -> list[tuple[str, str, bool]]:
    """Find questions asked again of the same pictures: (place, earlier place, whether the answers agree)."""
    rough: dict[Key, list[Example]] = {}
    for example in examples:
        rough.setdefault(_sizes(example), []).append(example)
    hashes: dict[str, str] = {}
    found = []
    for members in rough.values():
        first: dict[Key, Example] = {}
        for example in members if len(members) > 1 else ():
            earlier = first.setdefault(_hashes(example, hashes), example)
            if earlier is not example:
                found.append((_where(example), _where(earlier), example.answer == earlier.answer))
    return found


def refuse_overlap(train: Sequence[Example], held_out: Sequence[Example], what: str) -> None:
    """Stop when a test set holds questions that are trained on.

    Raises:
        ValueError: names `what` and the rows of both sides.
    """
    found = overlap(train, held_out)
    if found:
        listed = "".join(f"\n  {mine} is {other}" for mine, other in found[:NUM_LISTED])
        more = f"\n  ... and {len(found) - NUM_LISTED} more" if len(found) > NUM_LISTED else ""
        raise ValueError(
            f"{what}: {len(found)} of {len(held_out)} test rows are also trained on (same question, same pictures); "
            f"take them out of one of the two:{listed}{more}"
        )


def _question(example: Example) -> str:
    return str(example.meta.get("open_question", example.question))


def _where(example: Example) -> str:
    return str(example.meta.get("where", example.question))


def _sizes(example: Example) -> Key:
    sizes = (len(picture) if isinstance(picture, bytes) else os.path.getsize(picture) for picture in example.images)
    return _question(example), tuple(str(size) for size in sizes)


def _hashes(example: Example, known: dict[str, str]) -> Key:
    return _question(example), tuple(_hash(picture, known) for picture in example.images)


def _hash(picture: str | bytes, known: dict[str, str]) -> str:
    if isinstance(picture, bytes):
        return hashlib.sha256(picture).hexdigest()
    if picture not in known:
        known[picture] = hashlib.sha256(Path(picture).read_bytes()).hexdigest()
    return known[picture]


def _content(path: Path) -> str:
    """A file's hash; a folder's real place."""
    if path.is_dir():
        return str(path.resolve())
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
