# SPDX-License-Identifier: Apache-2.0
"""Several runs on one page: what they reached, where their settings differ, their curves over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from .charts import number, smooth, span_of
from .comparison import paired
from .intervals import paired_difference, wilson
from .run_files import RunFiles

NOT_COMPARED = ("output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "overwrite_output_dir", "report_to")


def table(runs: Sequence[RunFiles]) -> str:
    """One line per run; held-out accuracies are compared with the first run's, question by question."""
    names = ("steps", "reward", "before", "after", "95 %", "against the first", "tokens", "tokens/s", "s a step")
    head = "<th>run</th>" + "".join(f'<th class="number">{name}</th>' for name in names)
    lines = "".join(_line(run, runs[0]) for run in runs)
    note = "Reward: averaged over the last twentieth. Differences are paired over the questions both were asked."
    return f'<div class="wide"><table><tr>{head}</tr>{lines}</table></div><p class="quiet">{note}</p>'


def _line(run: RunFiles, first: RunFiles) -> str:
    reward, seconds = run.series("reward"), run.series("step_time")
    tokens, rate = run.series("num_tokens"), run.series("tokens_per_second")
    cells = [
        number(reward[-1][0]) if reward else "",
        number(smooth(reward, span_of(len(reward)))[-1][1]) if reward else "",
        _accuracy(run.before),
        _accuracy(run.after),
        _interval(run.after),
        _difference(run, first),
        f"{tokens[-1][1]:,.0f}" if tokens else "",
        number(_median(rate)) if rate else "",
        number(_median(seconds)) if seconds else "",
    ]
    numbers = "".join(f'<td class="number">{cell or "&ndash;"}</td>' for cell in cells)
    return f"<tr><td>{escape(run.name)}</td>{numbers}</tr>"


def _median(points: Sequence[tuple[float, float]]) -> float:
    values = sorted(value for _, value in points)
    return values[len(values) // 2]


def _accuracy(content: Mapping[str, Any] | None) -> str:
    if not content:
        return ""
    rows = content["results"]
    return f"{100 * sum(row['correct'] for row in rows) / len(rows):.1f} %"


def _interval(content: Mapping[str, Any] | None) -> str:
    if not content:
        return ""
    rows = content["results"]
    low, high = wilson(sum(int(row["correct"]) for row in rows), len(rows))
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _difference(run: RunFiles, first: RunFiles) -> str:
    if run is first or not (run.after and first.after):
        return ""
    pairs = paired(first.after["results"], run.after["results"])
    if not pairs:
        return "other questions"
    mean, low, high = paired_difference([old["correct"] for old, _ in pairs], [new["correct"] for _, new in pairs])
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def differing_settings(runs: Sequence[RunFiles]) -> str:
    """The settings that are not the same in all runs."""
    read = [yaml.safe_load(run.settings) if run.settings else {} for run in runs]
    names = dict.fromkeys(name for settings in read for name in settings)
    rows = []
    for name in names:
        values = [_text(settings.get(name, "(not there)")) for settings in read]
        if name not in NOT_COMPARED and len(set(values)) > 1:
            cells = "".join(f"<td>{escape(value)}</td>" for value in values)
            rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    if not rows:
        return '<p class="quiet">All settings are the same.</p>'
    head = "".join(f"<th>{escape(run.name)}</th>" for run in runs)
    return f'<div class="wide"><table><tr><th>setting</th>{head}</tr>{"".join(rows)}</table></div>'


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Call each run by its folder, with as many of the folders above as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i})" for i, name in enumerate(names, start=1)]


def overlaid(runs: Sequence[RunFiles], panels: Sequence[tuple[str, Sequence[str]]]) -> list[tuple[str, dict]]:
    """Of each panel the first quantity, one line per run: (title, {run: points})."""
    found = []
    for title, names in panels:
        series = {run.name: run.series(names[0]) for run in runs}
        title = title if len(names) == 1 else f"{title}: {names[0].split('/')[-1]}"
        found.append((title, {name: points for name, points in series.items() if points}))
    return found
