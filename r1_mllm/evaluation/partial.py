# SPDX-License-Identifier: Apache-2.0
"""Rows of an evaluation that has not ended, kept so that the same command goes on where a killed one stopped.

The file beside the results, `NAME.partial.jsonl`, has one line that says which arguments it belongs to and then one
line per finished row, in the order of the data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def fingerprint(settings: Mapping[str, Any], files: Sequence[Path], weights: Sequence[Path]) -> str:
    """Name everything the rows depend on: settings, the content of `files`, size and time of the large `weights`."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path in files:
        digest.update(f"{path.name}:".encode() + hashlib.sha256(path.read_bytes()).digest())
    for path in weights:
        status = path.stat()
        digest.update(f"{path.name}:{status.st_size}:{status.st_mtime_ns}".encode())
    return digest.hexdigest()


def finished_with(path: Path, key: str) -> dict[str, Any] | None:
    """Read a results file if it was written by a run of the same key, else None."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # somebody else's file or half of one: it is written anew
        return None
    return content if isinstance(content, dict) and content.get("fingerprint") == key else None


def stored_rows(path: Path, key: str) -> list[dict[str, Any]]:
    """Rows of a partial file, also of one that another process is writing; none if it is absent or of another key."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        try:
            lines.append(json.loads(line))
        except ValueError:  # the last line of a killed run may be cut; what follows a cut line is not trusted
            break
    return lines[1:] if lines and lines[0] == {"fingerprint": key} else []


class PartialResults:
    """The finished rows of one run, on disk after every batch."""

    def __init__(self, results_path: Path, key: str, *, restart: bool = False):
        """Open `results_path`'s partial file; rows of another key, or any row with `restart`, are dropped."""
        self.path = results_path.with_suffix(".partial.jsonl")
        self.rows: list[dict[str, Any]] = []
        self._header = {"fingerprint": key}
        if not restart:
            self.rows = stored_rows(self.path, key)
        self._write_all()

    def _write_all(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        staged = self.path.with_suffix(".tmp")
        staged.write_text("".join(_line(row) for row in [self._header, *self.rows]), encoding="utf-8")
        os.replace(staged, self.path)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append finished rows and flush them to disk."""
        self.rows.extend(rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(_line(row) for row in rows))
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the file: the results are complete elsewhere."""
        self.path.unlink(missing_ok=True)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
