# SPDX-License-Identifier: Apache-2.0
"""What a mixture says: which data sets, which task, how many rows of each."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...curriculum import FORMS

PREPARED_FOLDERS = {
    "data/REC": "rec",
    "data/Counting": "counting",
    "data/GEO": "geometry",
    "data/SAT": "sat",
    "data/CV-Bench": "sat",
    "data/curriculum": "curriculum",
    "data/math": "math (scripts/prepare_math.sh converts it too)",
}
"""Where `r1-mllm data prepare KIND` puts the data sets that scripts train on."""
ENTRY_KEYS = ("json_path", "sampling_strategy", "task", "image_root", "split", "form")
MIXTURE_KEYS = ("datasets", "train_datasets", "val_datasets")


@dataclass(frozen=True)
class Entry:
    """One data set of a mixture."""

    path: Path
    name: str
    """The path as the user wrote it."""
    strategy: str = "all"
    task: str | None = None
    image_root: str | None = None
    split: str | None = None
    form: tuple[str, ...] = ()
    """judge, choice, open or several; (): the run's."""


def read_mixture(path: Path, training: bool = True, own_file: bool = True) -> list[Entry]:
    """Entries of a mixture file.

    Args:
        training: use train_datasets, else val_datasets; `datasets` serves both when own_file says that the file was
            named for this very purpose.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a mixture needs the key `datasets` or `train_datasets`")
    check_keys(content, MIXTURE_KEYS, str(path))
    listed = content.get("train_datasets" if training else "val_datasets")
    if listed is None and own_file:
        listed = content.get("datasets") or content.get("val_datasets" if not training else "datasets")
    if listed is None and training:
        raise ValueError(f"{path}: a mixture needs the key `datasets` or `train_datasets`")
    if not isinstance(listed or [], list):
        raise ValueError(f"{path}: data sets must be a list of entries with json_path")
    return [_entry(item, path, number) for number, item in enumerate(listed or [], start=1)]


def _entry(item: Any, path: Path, number: int) -> Entry:
    where = f"{path}: entry {number}"
    if not isinstance(item, dict) or not isinstance(item.get("json_path"), str):
        raise ValueError(f"{where} has no json_path")
    check_keys(item, ENTRY_KEYS, where)
    strategy = str(item.get("sampling_strategy", "all"))
    try:
        parse_strategy(strategy)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return Entry(
        form=_forms(item.get("form"), where),
        path=located(item["json_path"], [path.parent, Path()]),
        name=item["json_path"],
        strategy=strategy,
        task=item.get("task"),
        image_root=item.get("image_root"),
        split=item.get("split"),
    )


def _forms(given: Any, where: str) -> tuple[str, ...]:
    forms = (given,) if isinstance(given, str) else tuple(given or ())
    for form in forms:
        if form not in FORMS:
            raise ValueError(f"{where}: unknown form {form!r}; known are {', '.join(FORMS)}")
    return forms


def check_keys(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Refuse a key that is not known with ValueError, which names the nearest one."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {key!r}{hint}")


def located(name: str, folders: Sequence[Path]) -> Path:
    """The first folder's entry of that name; an error says where it was looked for and how to fetch defaults."""
    for folder in folders:
        try:
            if (folder / name).exists():
                return folder / name
        except (OSError, ValueError) as error:
            raise ValueError(f"{name[:80]!r} cannot be the path of a data set: {error.args[-1]}") from error
    tried = ", ".join(str((folder / name).absolute()) for folder in folders)
    kind = next((kind for start, kind in PREPARED_FOLDERS.items() if name.startswith(start)), None)
    cure = f"; fetch it with: r1-mllm data prepare {kind}" if kind else ""
    raise ValueError(f"{name}: no such data set (looked for {tried}){cure}")


# how much of each ----------------------------------------------------------------------------------------------------


def parse_strategy(strategy: str) -> Callable[[int, np.random.Generator], tuple[np.ndarray, int]]:
    """Turn all, first:N, end:N or random:N into (size, rng) -> ([n] int64 row numbers, how many were asked for).

    N is a count or a percentage of the size, rounded up.
    """
    kind, _, amount = strategy.partition(":")
    if kind == "all" and not amount:
        return lambda size, rng: (np.arange(size), size)
    if kind not in ("first", "end", "random"):
        raise ValueError(f"unknown sampling_strategy {strategy!r}; write all, first:N, end:N or random:N (N or P%)")
    share = amount.removesuffix("%")
    try:
        value = float(share) if amount.endswith("%") else int(share)
    except ValueError as error:
        raise ValueError(f"sampling_strategy {strategy!r}: {amount!r} is neither a count nor a percentage") from error
    if not 0 < value < math.inf or (amount.endswith("%") and value > 100):
        raise ValueError(f"sampling_strategy {strategy!r}: take at least one row and at most 100%")

    def choose(size: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        asked = math.ceil(size * value / 100) if amount.endswith("%") else int(value)
        num = min(asked, size)
        order = rng.permutation(size) if kind == "random" else np.arange(size)
        return (order[size - num :] if kind == "end" else order[:num]), asked

    return choose
