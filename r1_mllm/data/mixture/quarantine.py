# SPDX-License-Identifier: Apache-2.0
"""Rows that are not in order: shown to whoever has to mend them, or written to a file."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

NUM_SHOWN = 20


@dataclass(frozen=True)
class Problem:
    """One complaint about one row."""

    dataset: str
    where: str
    """ "file:line"."""
    field: str
    """row or image."""
    message: str
    row: Mapping[str, Any] | None = None


def allowed_bad(most: str, num_rows: int) -> int:
    """How many of `num_rows` rows may be bad: `most` is a number, or a share P% (rounded down)."""
    share = most.removesuffix("%")
    return int(Fraction(share) * num_rows / 100) if most.endswith("%") else int(share)


def too_many(num_bad: int, num_rows: int, most: str) -> str:
    """Say that more rows are bad than max_bad allows."""
    return (
        f"{num_bad} of {num_rows} rows are bad, --max_bad {most} allows {allowed_bad(most, num_rows)}: "
        f"mend them, or pass --max_bad {num_bad}"
    )


def explain(problems: Sequence[Problem]) -> str:
    """Say how many problems each data set has, and the first 20."""
    by_dataset = Counter((problem.dataset, problem.field) for problem in problems)
    counts = ", ".join(
        f"{dataset}: {num} {'missing or refused pictures' if field == 'image' else 'bad rows'}"
        for (dataset, field), num in by_dataset.items()
    )
    shown = [f"  {line(problem)}" for problem in problems[:NUM_SHOWN]]
    rest = [f"  and {len(problems) - NUM_SHOWN} more"] if len(problems) > NUM_SHOWN else []
    cure = "Mend them, check --image_root, or pass --data_policy quarantine to leave them out."
    return "\n".join([f"{len(problems)} problems in the data ({counts}):", *shown, *rest, cure])


def line(problem: Problem) -> str:
    """Say where it is and what is wrong, the place once."""
    return problem.message if problem.message.startswith(problem.where) else f"{problem.where}: {problem.message}"


def write(problems: Sequence[Problem], path: Path) -> None:
    """Write one JSON line per problem: dataset, where, field, message, sha256 of the row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_record(problem), ensure_ascii=False) for problem in problems]
    path.write_text("".join(line + "\n" for line in lines), "utf-8")


def _record(problem: Problem) -> dict[str, Any]:
    text = json.dumps(problem.row, sort_keys=True, ensure_ascii=False, default=repr) if problem.row else ""
    return {
        "dataset": problem.dataset,
        "where": problem.where,
        "field": problem.field,
        "message": problem.message,
        "sha256": hashlib.sha256(text.encode()).hexdigest() if text else None,
    }
