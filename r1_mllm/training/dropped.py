# SPDX-License-Identifier: Apache-2.0
"""Rows that go bad while a run trains: a picture deleted or damaged after the start.

With data_policy quarantine such a row is dropped from the step, never replaced, counted and listed in
OUTPUT_DIR/dropped.jsonl: step, number (in the run's examples), id, where, message, identity (what `session.fingerprint`
hashes).  Every rank hears of every row, so that all go on alike, or stop alike when there are more than max_bad allows.

A run that continues finds such rows bad already; `restored` puts them back at their numbers, where they are dropped
again, so that the order of the others stays what it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..config import DataConfig, GrpoConfig, SftConfig
from ..data.mixture import LoadReport
from ..data.mixture.quarantine import allowed_bad, too_many
from ..distributed import collectives
from ..processing.ahead import Ahead
from ..records import Example
from ..runtime import DATA, Stop
from .tracking import Lines, plain

FILE = "dropped.jsonl"
Value = TypeVar("Value")


@dataclass(frozen=True)
class LostExample(Example):
    """Stands where an example was that an earlier part of the run dropped and that cannot be read any more."""

    identity: str = ""
    message: str = ""


def identity(example: Example) -> str:
    """What is asked of which pictures and counts as right, as text."""
    if isinstance(example, LostExample):
        return example.identity
    pictures = [hashlib.sha256(p).hexdigest() if isinstance(p, bytes) else p for p in example.images]
    answer = sorted(example.answer) if isinstance(example.answer, frozenset) else example.answer
    return repr((example.task, example.form, example.question, answer, pictures))


def restored(examples: Sequence[Example], config: GrpoConfig | SftConfig) -> list[Example]:
    """Put rows that an earlier part of the run dropped, and that are bad now, back at their numbers."""
    found, start = list(examples), config.training.resume_from_checkpoint
    if config.data.data_policy != "quarantine" or start == "never" or config.training.overwrite_output_dir:
        return found
    folder = Path(config.training.output_dir) if start == "auto" else Path(start).resolve().parent
    here = {example.meta["where"] for example in found}
    rows = {row["number"]: row for row in _listed(folder / FILE) if row["where"] not in here}
    for number, row in sorted(rows.items()):
        meta = {"where": row["where"], "id": row["id"]}
        found.insert(number, LostExample("", "", None, (), "open", meta, row["identity"], row["message"]))
    return found


def _listed(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # torn by a kill; the step is done again and writes it anew
            continue
    return rows


class DroppedRows:
    """What one run dropped; every rank has its own, and after `agree` they are the same."""

    def __init__(self, data: DataConfig, report: LoadReport, folder: Path | None) -> None:
        """Take over the rows that were bad at the start.

        Args:
            folder: where the list goes; None on ranks that write nothing.
        """
        self.active = data.data_policy == "quarantine"
        self.num = 0
        """Rows dropped so far, one that came twice twice."""
        self.bad = report.bad_rows
        """Places of the rows that are bad, at the start or later."""
        self._most, self._num_rows, self._folder = data.max_bad, report.num_rows, folder
        self._new: list[tuple[int, str]] = []
        self._lost: set[int] = set()

    def tried(self, make: Callable[[Hashable], Value]) -> Callable[[Hashable], Value | Stop]:
        """Let a function give the `Stop` of a bad row instead of raising it."""
        if not self.active:
            return make

        def attempt(number: Hashable) -> Value | Stop:
            try:
                return make(number)
            except Stop as stop:
                if stop.code != DATA:
                    raise
                return stop

        return attempt

    def take(self, ahead: Ahead[Value | Stop], numbers: Sequence[int]) -> tuple[list[int], list[Value]]:
        """Take what was made of examples: the numbers of those in order, and their values."""
        pairs = list(zip(numbers, ahead.take(numbers), strict=True))
        self._new += [(number, str(value)) for number, value in pairs if isinstance(value, Stop)]
        pairs = [(number, value) for number, value in pairs if not isinstance(value, Stop)]
        return [number for number, _ in pairs], [value for _, value in pairs]

    def agree(self, examples: Sequence[Example], step: int, num_left: int, tell: Callable[[str], None]) -> int:
        """Count and list what all ranks dropped since the last call; called on every rank.

        Args:
            step: the step that is being prepared.
            num_left: prompts that this rank has left for it.
            tell: prints a line.

        Returns:
            The most prompts any rank has left.  Stop (65) on all ranks when more rows are bad than max_bad allows.
        """
        if not self.active:
            return num_left
        rows = [_row(step, number, examples[number], message) for number, message in self._new]
        self._new = []
        parts = collectives.gather_objects((rows, num_left))
        rows = [row for part, _ in parts for row in part]
        self.num += len(rows)
        self.bad |= {row["where"] for row in rows}
        if rows and self._folder is not None:
            _list(rows, self._folder / FILE, tell)
        self._lost |= {row["number"] for row in rows}
        if len(self.bad) > allowed_bad(self._most, self._num_rows) or len(self._lost) == len(examples):
            last = rows[-1]["message"] if rows else "bad before"
            told = too_many(len(self.bad), self._num_rows, self._most)
            raise Stop(f"step {step}: {told}. The last one: {last}", DATA)
        return max(num for _, num in parts)

    def metrics(self) -> dict[str, float]:
        """Rows dropped so far; nothing under data_policy strict."""
        return {"dropped_rows": float(self.num)} if self.active else {}

    def state(self) -> dict[str, Any]:
        """What `restore` needs; JSON-ready."""
        return {"num": self.num, "bad": sorted(self.bad)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.num = int(state.get("num", 0))
        self.bad |= set(state.get("bad", ()))


def _row(step: int, number: int, example: Example, message: str) -> dict[str, Any]:
    where = example.meta["where"]
    shared = {"step": step, "number": number, "id": plain(example.meta.get("id", where)), "where": where}
    return shared | {"message": message, "identity": identity(example)}


def _list(rows: Sequence[dict[str, Any]], path: Path, tell: Callable[[str], None]) -> None:
    """Append the rows that a step done again has not listed before."""
    listed = {(row["step"], row["number"]) for row in _listed(path)}
    file = Lines(path, tell)
    for row in rows:
        if (row["step"], row["number"]) not in listed:
            file.append(row)
    file.close()
    tell(f"warning: step {rows[0]['step']}: {len(rows)} rows dropped: " + "; ".join(row["message"] for row in rows))
