# SPDX-License-Identifier: Apache-2.0
"""What a run leaves in its folder, read for the report; every file may be absent.

metrics.jsonl      one object per logged step: `step` and TRL's metric names, all numbers
completions.jsonl  one object per completion: step, id, prompt, image, completion, rewards {name: value}, advantage,
                   extracted, ground_truth
eval_before.json, eval_after.json   what EvalResult.write wrote: accuracy, results [...]
args.yaml          the resolved configuration
commands.jsonl     the command line each time the run was begun or continued
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Points = list[tuple[float, float]]
"""(step, value), by step."""


@dataclass(frozen=True)
class RunFiles:
    folder: Path
    metrics: Sequence[Mapping[str, Any]]
    completions: Sequence[Mapping[str, Any]]
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    settings: str
    commands: Sequence[Mapping[str, Any]] = ()
    """The command lines that began and continued it: time, command, cwd ..."""
    name: str = ""
    """What the page calls it."""

    def series(self, name: str) -> Points:
        """The finite values of one metric; a step logged twice (a resumed run) counts the last time."""
        found = {row["step"]: row[name] for row in self.metrics if _is_number(row.get(name)) and "step" in row}
        return sorted((float(step), float(value)) for step, value in found.items())

    def names(self, prefix: str, suffix: str) -> list[str]:
        """Metric names that start and end so, in order of first appearance."""
        every = dict.fromkeys(name for row in self.metrics for name in row)
        return [name for name in every if name.startswith(prefix) and name.endswith(suffix)]


def read_run(folder: str | Path) -> RunFiles:
    """Read a run's folder; one that holds nothing to report is an error."""
    folder = Path(folder)
    run = RunFiles(
        folder=folder,
        metrics=read_jsonl(folder / "metrics.jsonl"),
        completions=read_jsonl(folder / "completions.jsonl"),
        before=_read_result(folder / "eval_before.json"),
        after=_read_result(folder / "eval_after.json"),
        settings=_read_text(folder / "args.yaml"),
        commands=read_jsonl(folder / "commands.jsonl"),
        name=folder.resolve().name,
    )
    if not (run.metrics or run.completions or run.before or run.after):
        raise ValueError(
            f"{folder} holds none of metrics.jsonl, completions.jsonl, eval_before.json, eval_after.json; "
            "give the output_dir of a run"
        )
    return run


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a file that a run may still be writing: a cut last line is left out, any other bad line is an error."""
    lines = _read_text(path).split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number}: not a JSON object ({error})") from error
    return rows


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _read_result(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a results file: {error}") from error
    return content if content.get("results") else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
