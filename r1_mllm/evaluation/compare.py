# SPDX-License-Identifier: Apache-2.0
"""`r1-mllm table`: several evaluations side by side, one row per model and one column per data set, with intervals."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..report.comparison import paired
from ..report.intervals import paired_difference, wilson

Results = Mapping[str, Any]
"""What a results file holds."""
PLACE = "{dataset}"


def main(argv: Sequence[str]) -> None:
    """Run the command as the command line says."""
    parser = argparse.ArgumentParser(prog="r1-mllm table", description=__doc__.split(": ", 1)[1], allow_abbrev=False)
    parser.add_argument(
        "--columns", nargs="+", required=True, metavar="DATASET", help="names of data sets, or NAME=TITLE"
    )
    parser.add_argument(
        "--row",
        action="append",
        required=True,
        metavar="TITLE=FILE",
        help="results file of a model, {dataset} standing for the column's name; the first row is what others are "
        "compared with",
    )
    parser.add_argument("--csv", type=Path, default=None, help="also write the numbers here")
    given = parser.parse_args(argv)
    columns = dict(_pair(word, word) for word in given.columns)
    found = {title: read_row(pattern, list(columns)) for title, pattern in map(_row, given.row)}
    print(render(found, columns))
    if given.csv is not None:
        write_csv(given.csv, found)


def _pair(word: str, default: str) -> tuple[str, str]:
    name, _, title = word.partition("=")
    return name, title or default.partition("=")[0]


def _row(word: str) -> tuple[str, str]:
    title, _, pattern = word.partition("=")
    if not title or PLACE not in pattern:
        raise ValueError(f"--row {word!r}: expected TITLE=FILE with {PLACE} in the file's name")
    return title, pattern


def read_row(pattern: str, columns: Sequence[str]) -> dict[str, Results]:
    """Results of one model, by data set; a file that is missing or of another kind is an error."""
    found = {}
    for name in columns:
        path = Path(pattern.replace(PLACE, name))
        if not path.is_file():
            raise ValueError(f"{path} is not there; evaluate {name} first (r1-mllm eval)")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not a results file: {error}") from error
        if not isinstance(content, dict) or not content.get("results"):
            raise ValueError(f"{path} is not a results file: it has no `results`")
        found[name] = content
    return found


def share(results: Results) -> tuple[int, int]:
    """Right rows and all rows."""
    rows = results["results"]
    return sum(int(row["correct"]) for row in rows), len(rows)


def render(found: Mapping[str, Mapping[str, Results]], columns: Mapping[str, str]) -> str:
    """A Markdown table: accuracies in percent with 95 % Wilson intervals, then each row's difference from the first.

    Differences are over the questions both were asked, with the paired 95 % interval; a star marks those whose
    interval leaves zero out.
    """
    titles = list(found)
    lines = [["model", *columns.values()]]
    lines += [[title, *(_accuracy(found[title][name]) for name in columns)] for title in titles]
    for title in titles[1:]:
        cells = [_difference(found[titles[0]][name], found[title][name]) for name in columns]
        lines.append([f"{title} - {titles[0]}", *cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    drawn = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([drawn[0], rule, *drawn[1:]])


def _accuracy(results: Results) -> str:
    right, num = share(results)
    low, high = wilson(right, num)
    return f"{100 * right / num:.2f} ({100 * low:.2f} to {100 * high:.2f}), n {num}"


def _difference(before: Results, after: Results) -> str:
    pairs = paired(before["results"], after["results"])
    if not pairs:
        return "no common question"
    mean, low, high = paired_difference([old["correct"] for old, _ in pairs], [new["correct"] for _, new in pairs])
    mark = "" if low <= 0 <= high else " *"
    return f"{100 * mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}), n {len(pairs)}{mark}"


def write_csv(path: Path, found: Mapping[str, Mapping[str, Results]]) -> None:
    """Write one line per model and data set; accuracies and intervals in percent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("model", "dataset", "num", "num_correct", "accuracy", "low", "high"))
        for title, row in found.items():
            for name, results in row.items():
                right, num = share(results)
                edges = [round(100 * value, 4) for value in (right / num, *wilson(right, num))]
                writer.writerow((title, name, num, right, *edges))
    print(f"{path} has the numbers", file=sys.stderr)
